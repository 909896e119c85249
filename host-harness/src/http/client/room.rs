//! How much of a batch's answers may be kept together. Counts; reads nothing.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that are left, for all requests of a batch.
#[derive(Debug)]
pub(super) struct Room(AtomicUsize);

impl Room {
    pub(super) fn of(bytes: usize) -> Self {
        Self(AtomicUsize::new(bytes))
    }

    /// Takes `bytes`, or nothing where there are fewer.
    pub(super) fn take(&self, bytes: usize) -> bool {
        let less = |left: usize| left.checked_sub(bytes);
        self.0.try_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

/// The most that `text` becomes as a string of JSON: a control character is six bytes there.
pub(super) fn json_bytes(text: &str) -> usize {
    let bytes = |byte: u8| match byte {
        b'"' | b'\\' => 2,
        0..=0x1f => 6,
        _ => 1,
    };
    text.bytes().map(bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_until_it_is_used_up_and_a_text_takes_what_it_becomes() {
        let room = Room::of(10);
        assert!(room.take(7) && !room.take(4) && room.take(3) && !room.take(1));
        for text in ["", "plain ä", "\"\\\n\u{0}"] {
            let written = serde_json::to_string(text).expect("text is JSON").len() - 2;
            assert!((written..=written + 4).contains(&json_bytes(text)), "{text:?}");
        }
    }
}
