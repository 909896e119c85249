//! How much of a batch's answers may be kept together, and of a manifest's. Counts; reads nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use imagewatch_abi::{Answer, HttpResponse};

use super::failure;

/// Bytes that are left, for all requests of a batch.
#[derive(Debug)]
pub struct Room(AtomicUsize);

/// What one request takes of the room of its batch, and of a second one, which has it back when this is dropped.
#[derive(Debug)]
pub struct Share {
    batch: Arc<Room>,
    held: Option<Arc<Room>>,
    taken: AtomicUsize,
}

impl Share {
    /// Nothing yet of `batch` and `held`.
    pub fn of(batch: Arc<Room>, held: Option<Arc<Room>>) -> Self {
        Self { batch, held, taken: AtomicUsize::new(0) }
    }

    /// Takes `bytes` of both, or nothing where one has fewer.
    pub(super) fn take(&self, bytes: usize) -> bool {
        if self.held.as_ref().is_some_and(|held| !held.take(bytes)) {
            return false;
        }
        self.taken.fetch_add(bytes, Ordering::Relaxed);
        self.batch.take(bytes)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(held) = &self.held {
            held.give(*self.taken.get_mut());
        }
    }
}

/// `answer`, unless it came by a share of an earlier batch and `room`, that of this one, has not enough for it.
pub fn fit(answer: Answer<HttpResponse>, share: Option<&Share>, room: &Arc<Room>) -> Answer<HttpResponse> {
    let is_earlier = share.is_some_and(|share| !Arc::ptr_eq(&share.batch, room));
    match &answer {
        Answer::Ok(response) if is_earlier && !room.take(json_bytes(&response.body)) => {
            Answer::Err(failure::no_room("a registry"))
        }
        _ => answer,
    }
}

impl Room {
    /// Of so many bytes.
    pub fn of(bytes: usize) -> Self {
        Self(AtomicUsize::new(bytes))
    }

    /// Takes `bytes`, or nothing where there are fewer.
    pub(super) fn take(&self, bytes: usize) -> bool {
        let less = |left: usize| left.checked_sub(bytes);
        self.0.try_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn give(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
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
        let held = Arc::new(Room::of(10));
        let share = Share::of(Arc::new(Room::of(5)), Some(held.clone()));
        assert!(share.take(5) && !share.take(4) && !held.take(2));
        drop(share);
        assert!(held.take(10), "all of it is free again");
        for text in ["", "plain ä", "\"\\\n\u{0}"] {
            let written = serde_json::to_string(text).expect("text is JSON").len() - 2;
            assert!((written..=written + 4).contains(&json_bytes(text)), "{text:?}");
        }
    }
}
