//! Which connections weir itself opened a moment ago, over all workers: one of them that comes back to an outbound listener
//! would go round until there are no descriptors left. That happens when weir does not run as the user whose connections the
//! rules of redirection leave alone.
//!
//! A fixed table of fingerprints that is written over from the start again: a loop closes within milliseconds, and no lock
//! stands in the way of a connect. A fingerprint is believed for two seconds only, for ports are used again.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

const PLACES: usize = 256;
const SECONDS: u64 = 2;

static RECENT: [AtomicU64; PLACES] = [const { AtomicU64::new(0) }; PLACES];
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// Remembers a connection from `local` to `remote`.
pub fn note(local: SocketAddr, remote: SocketAddr) {
    let place = NEXT.fetch_add(1, Ordering::Relaxed) % PLACES;
    RECENT[place].store(fingerprint(local, remote, now()), Ordering::Relaxed);
}

/// Whether a connection from `local` to `remote` is one that weir opened a moment ago.
pub fn is_own(local: SocketAddr, remote: SocketAddr) -> bool {
    let now = now();
    let wanted: Vec<u64> = (now.saturating_sub(SECONDS)..=now).map(|second| fingerprint(local, remote, second)).collect();
    RECENT.iter().any(|recent| wanted.contains(&recent.load(Ordering::Relaxed)))
}

/// Seconds since the first question, from 1: an empty place is no fingerprint of any.
fn now() -> u64 {
    static BEGAN: OnceLock<Instant> = OnceLock::new();
    BEGAN.get_or_init(Instant::now).elapsed().as_secs() + 1
}

fn fingerprint(local: SocketAddr, remote: SocketAddr, second: u64) -> u64 {
    let plain = |address: SocketAddr| -> (IpAddr, u16) { (address.ip().to_canonical(), address.port()) };
    let mut hasher = DefaultHasher::new();
    (plain(local), plain(remote), second).hash(&mut hasher);
    hasher.finish() | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_must_be_the_same() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (local, remote) = (at("192.0.2.1:40001"), at("192.0.2.2:80"));
        assert!(!is_own(local, remote));
        note(local, remote);
        assert!(is_own(local, remote));
        assert!(is_own(at("[::ffff:192.0.2.1]:40001"), remote));
        assert!(!is_own(remote, local));
        assert!(!is_own(local, at("192.0.2.2:81")));
        assert!(!is_own(at("192.0.2.1:40002"), remote));
        (0..PLACES).for_each(|port| note(at(&format!("192.0.2.9:{}", port + 1)), remote));
        assert!(!is_own(local, remote));
    }
}
