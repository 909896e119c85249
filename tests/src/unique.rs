//! Values that two tests must not share: loopback ports and names.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the kernel's ephemeral range (32768 and above), so that no outgoing connection and no bind to port 0 takes one
/// of these ports.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// Returns a loopback port that is currently free. This process returns each port once. Another process may still take
/// the port, so the caller tries the next one if the bind fails.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = std::process::id().wrapping_mul(97);
    (0..COUNT)
        .map(|_| {
            let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
            let offset = start.wrapping_add(step) % u32::from(COUNT);
            FIRST + u16::try_from(offset).expect("an offset is below COUNT")
        })
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("one of 12,000 loopback ports is free")
}

/// Eight random hex digits.
pub(crate) fn random_hex() -> String {
    format!("{:08x}", random() >> 32)
}

/// Two random bytes.
pub(crate) fn random_bytes() -> [u8; 2] {
    let [first, second, ..] = random().to_be_bytes();
    [first, second]
}

fn random() -> u64 {
    // Each RandomState has a new key from the system's randomness.
    RandomState::new().hash_one(())
}
