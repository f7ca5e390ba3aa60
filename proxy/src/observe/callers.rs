//! Who still calls without mutual TLS where it is asked for: what `weir advise strict` answers from.
//!
//! One entry for each address on each listener, bounded; touched once for each connection that does not speak the mesh's
//! TLS, never for a request.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most callers that are remembered.
const MAX_CALLERS: usize = 4096;
/// A caller that has not come back for so long is forgotten when room is needed.
const KEEP: Duration = Duration::from_secs(24 * 3600);

/// What a caller speaks instead of the mesh's TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Speaks {
    /// Nothing: it is in the clear.
    Plaintext,
    /// TLS of its own, for the app.
    OwnTls,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    listener: Box<str>,
    address: IpAddr,
    speaks: Speaks,
}

#[derive(Debug)]
struct Seen {
    connections: u64,
    open: u64,
    last: Instant,
}

/// Callers without mutual TLS.
#[derive(Debug, Default)]
pub struct Callers(Mutex<All>);

#[derive(Debug, Default)]
struct All {
    callers: HashMap<Key, Seen>,
    /// Connections of callers for whom there was no room.
    overlooked: u64,
}

/// A caller without mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Caller {
    /// From where.
    pub address: IpAddr,
    /// What it speaks.
    pub speaks: Speaks,
    /// Connections it has opened.
    pub connections: u64,
    /// Those that are open.
    pub open: u64,
    /// How long ago it opened the last.
    pub ago: Duration,
}

/// A connection that is open. Ends with the value.
#[derive(Debug)]
pub struct Noted {
    callers: Arc<Callers>,
    key: Key,
}

impl Callers {
    /// Notes a connection.
    pub fn note(self: &Arc<Self>, listener: &str, address: IpAddr, speaks: Speaks) -> Noted {
        let key = Key { listener: listener.into(), address: address.to_canonical(), speaks };
        let now = Instant::now();
        let mut all = self.lock();
        if all.callers.len() >= MAX_CALLERS && !all.callers.contains_key(&key) {
            all.callers.retain(|_, seen| seen.open > 0 || now.duration_since(seen.last) < KEEP);
        }
        if all.callers.len() < MAX_CALLERS || all.callers.contains_key(&key) {
            let seen = all.callers.entry(key.clone()).or_insert(Seen { connections: 0, open: 0, last: now });
            seen.connections += 1;
            seen.open += 1;
            seen.last = now;
        } else {
            all.overlooked += 1;
        }
        Noted { callers: Arc::clone(self), key }
    }

    /// The callers of a listener that have a connection open, or opened one within this time; those of whom there is most
    /// first.
    pub fn of(&self, listener: &str, within: Duration) -> Vec<Caller> {
        let now = Instant::now();
        let all = self.lock();
        let callers = all.callers.iter().filter(|(key, _)| *key.listener == *listener).map(|(key, seen)| Caller {
            address: key.address,
            speaks: key.speaks,
            connections: seen.connections,
            open: seen.open,
            ago: now.duration_since(seen.last),
        });
        let mut callers: Vec<Caller> = callers.filter(|caller| caller.open > 0 || caller.ago <= within).collect();
        callers.sort_by(|a, b| b.connections.cmp(&a.connections).then_with(|| a.cmp(b)));
        callers
    }

    /// Connections of callers for whom there was no room.
    pub fn overlooked(&self) -> u64 {
        self.lock().overlooked
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        if let Some(seen) = self.callers.lock().callers.get_mut(&self.key) {
            seen.open = seen.open.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn open_connections_count_however_old_and_memory_is_bounded() {
        let callers = Arc::<Callers>::default();
        let one: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        let open = callers.note("in", one, Speaks::Plaintext);
        drop(callers.note("in", one, Speaks::Plaintext));
        let told = callers.of("in", Duration::ZERO);
        assert_eq!((told.len(), told[0].connections, told[0].open), (1, 2, 1));
        assert_eq!(told[0].address, "10.0.0.1".parse::<IpAddr>().unwrap());
        drop(open);
        assert!(callers.of("in", Duration::ZERO).is_empty() && callers.of("other", KEEP).is_empty());
        for number in 0..u32::try_from(MAX_CALLERS).unwrap() + 9 {
            drop(callers.note("in", IpAddr::V4(number.into()), Speaks::OwnTls));
        }
        assert_eq!(callers.lock().callers.len(), MAX_CALLERS);
        assert_eq!(callers.overlooked(), 10);
    }
}
