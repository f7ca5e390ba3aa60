//! Counters and histograms, sharded by worker.
//!
//! Each series has one shard for each worker that uses it. A shard has one writer, so adding is a load and a store
//! without a locked instruction; the scraper sums the shards. Labels come from the configuration, never from a request,
//! so no caller can make a series. Series that no snapshot uses any more are forgotten after a while.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use weir_config::policy::Denied;

use crate::error::Flag;
use crate::tls::Refusal;

/// A number with one writer and any number of readers.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Adds. Only the owning worker may call it.
    pub fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }
    /// Subtracts. Only the owning worker may call it.
    pub fn sub(&self, less: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(less), Ordering::Relaxed);
    }
    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the latency histogram in microseconds; the last bucket has none.
pub const BOUNDS_US: [u64; 16] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000, 30_000_000,
];

/// A histogram of durations.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Not cumulative; the last is over every bound.
    pub buckets: [Cell; BOUNDS_US.len() + 1],
    /// Microseconds in all.
    pub sum_us: Cell,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let place = BOUNDS_US.iter().position(|bound| us <= *bound).unwrap_or(BOUNDS_US.len());
        self.buckets[place].add(1);
        self.sum_us.add(us);
    }
}

/// The numbers of one (route, rule, cluster).
#[derive(Debug, Default)]
pub struct RuleShard {
    /// By class of status: `1xx` ... `5xx` at 1 to 5, and at 0 requests that ended without a status.
    pub classes: [Cell; 6],
    /// By gRPC status 0 to 16; at 17 every other.
    pub grpc: [Cell; 18],
    /// By flag.
    pub flags: [Cell; Flag::COUNT],
    /// First byte of the request to last byte of the response.
    pub duration: Histogram,
    /// First byte of the request to the head of the response.
    pub first_byte: Histogram,
    /// Request bodies.
    pub bytes_in: Cell,
    /// Response bodies.
    pub bytes_out: Cell,
    /// In flight.
    pub active: Cell,
}

/// The numbers of one cluster's connections.
#[derive(Debug, Default)]
pub struct ClusterShard {
    /// Opened, HTTP/1 and HTTP/2.
    pub opened: [Cell; 2],
    /// Open now.
    pub open: Cell,
    /// Failed to open.
    pub failed: Cell,
    /// Failed to open in time.
    pub timed_out: Cell,
    /// TLS handshakes that were made.
    pub handshakes: Cell,
    /// TLS handshakes that failed, by reason.
    pub handshakes_failed: [Cell; Refusal::ALL.len()],
    /// Attempts that a rule's `retry` asked for.
    pub retries: Cell,
    /// Requests sent again because they were provably not processed.
    pub replays: Cell,
    /// Requests that moved on to another endpoint after a failed connect.
    pub moves: Cell,
    /// Retries that were asked for and not made, by reason.
    pub denied: [Cell; Denied::ALL.len()],
    /// Requests, and connections of what is none, that went where no route leads, by [`CLASSES`].
    pub passed_through: [Cell; CLASSES.len()],
}

/// Kinds of addresses.
pub const CLASSES: [&str; 4] = ["loopback", "link-local", "private", "public"];

/// The place of an address among [`CLASSES`]. Private are RFC 1918, RFC 6598 and unique local ones.
pub fn class(address: std::net::IpAddr) -> usize {
    use std::net::IpAddr;
    match address.to_canonical() {
        address if address.is_loopback() => 0,
        IpAddr::V4(address) if address.is_link_local() => 1,
        IpAddr::V6(address) if address.is_unicast_link_local() => 1,
        IpAddr::V4(address) if address.is_private() || (address.octets()[0] == 100 && address.octets()[1] & 0xc0 == 64) => 2,
        IpAddr::V6(address) if address.is_unique_local() => 2,
        IpAddr::V4(_) | IpAddr::V6(_) => 3,
    }
}

/// The numbers of one listener.
#[derive(Debug, Default)]
pub struct ListenerShard {
    /// Accepted.
    pub accepted: Cell,
    /// Open now.
    pub open: Cell,
    /// Closed at once because of `limits.connections`.
    pub refused: Cell,
    /// Connections by protocol: HTTP/1, HTTP/2, opaque TCP, TLS that is passed through.
    pub protocols: [Cell; 4],
    /// Connections by TLS, where mutual TLS is asked for: the mesh's, the app's own, in the clear.
    pub tls: [Cell; 3],
    /// Handshakes of callers that failed, by reason.
    pub handshakes_failed: [Cell; Refusal::ALL.len()],
    /// Connections in the clear that were refused.
    pub plaintext_refused: Cell,
    /// Calls judged by policies: allowed, denied; those that policies on trial would have allowed, would have denied; audited.
    pub authorization: [Cell; 5],
    /// Bytes of opaque connections, from the caller and to it.
    pub tcp_bytes: [Cell; 2],
    /// Opaque connections that were reset because there was no upstream.
    pub tcp_failed: Cell,
    /// Requests and connections refused as malformed.
    pub malformed: Cell,
    /// Connections closed because of an HTTP/2 flood.
    pub floods: Cell,
    /// Request ids replaced because they were not printable or too long.
    pub bad_ids: Cell,
    /// Trace headers ignored because they were malformed.
    pub bad_traces: Cell,
}

/// Names one (route, rule, cluster).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleKey {
    /// The route; empty when none was found.
    pub route: Box<str>,
    /// The rule; empty when none was found.
    pub rule: Box<str>,
    /// The cluster; empty when the request went to none.
    pub cluster: Box<str>,
}

/// The most series of one kind. Beyond it, new ones share one named `other`.
const MAX_SERIES: usize = 50_000;
/// A series that no snapshot uses is forgotten after this long.
const KEEP: Duration = Duration::from_secs(15 * 60);

/// The series of one kind.
#[derive(Debug)]
pub struct Family<K, S> {
    series: Mutex<HashMap<K, Series<S>>>,
    other: K,
    dropped: AtomicU64,
}

#[derive(Debug)]
struct Series<S> {
    shards: Vec<Option<Arc<S>>>,
    used: Instant,
}

impl<K: Clone + Eq + std::hash::Hash + Ord, S: Default> Family<K, S> {
    fn new(other: K) -> Self {
        Self { series: Mutex::new(HashMap::new()), other, dropped: AtomicU64::new(0) }
    }

    /// The shard of `worker` for `key`, made if need be.
    pub fn shard(&self, key: &K, worker: usize) -> Arc<S> {
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let key = if all.len() >= MAX_SERIES && !all.contains_key(key) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            &self.other
        } else {
            key
        };
        if !all.contains_key(key) {
            all.insert(key.clone(), Series { shards: Vec::new(), used: Instant::now() });
        }
        let Some(series) = all.get_mut(key) else { return Arc::default() };
        series.used = Instant::now();
        if series.shards.len() <= worker {
            series.shards.resize_with(worker + 1, || None);
        }
        Arc::clone(series.shards[worker].get_or_insert_with(Arc::default))
    }

    /// Calls `each` with every series in the order of keys, and forgets those out of use.
    pub fn visit(&self, mut each: impl FnMut(&K, &[Arc<S>])) {
        let now = Instant::now();
        let mut all = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, series| {
            // A shard held elsewhere belongs to a snapshot in use.
            if series.shards.iter().flatten().any(|shard| Arc::strong_count(shard) > 1) {
                series.used = now;
            }
            now.duration_since(series.used) < KEEP
        });
        let mut sorted: Vec<(K, Vec<Arc<S>>)> =
            all.iter().map(|(key, series)| (key.clone(), series.shards.iter().flatten().cloned().collect())).collect();
        // Workers must not wait for the scraper's text.
        drop(all);
        sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (key, shards) in &sorted {
            each(key, shards);
        }
    }

    /// How many series had no room.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Every number weir keeps.
#[derive(Debug)]
pub struct Metrics {
    /// By (route, rule, cluster).
    pub rules: Family<RuleKey, RuleShard>,
    /// By cluster.
    pub clusters: Family<Box<str>, ClusterShard>,
    /// By listener.
    pub listeners: Family<Box<str>, ListenerShard>,
    /// Access log lines written and dropped.
    pub access_log_written: AtomicU64,
    /// Access log lines that found the queue full.
    pub access_log_dropped: AtomicU64,
    /// DNS lookups that gave an answer, and that failed.
    pub dns_lookups: [AtomicU64; 2],
    /// Connections handed from one worker to another.
    pub handed_over: AtomicU64,
    /// Times that accepting paused because the process was out of descriptors or memory.
    pub accept_errors: AtomicU64,
}

impl Default for Metrics {
    fn default() -> Self {
        let other = || Box::<str>::from("other");
        Self {
            rules: Family::new(RuleKey { route: other(), rule: other(), cluster: other() }),
            clusters: Family::new(other()),
            listeners: Family::new(other()),
            access_log_written: AtomicU64::new(0),
            access_log_dropped: AtomicU64::new(0),
            dns_lookups: [AtomicU64::new(0), AtomicU64::new(0)],
            handed_over: AtomicU64::new(0),
            accept_errors: AtomicU64::new(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_shared_by_key_and_bounded() {
        let family: Family<Box<str>, ClusterShard> = Family::new("other".into());
        let a = family.shard(&"a".into(), 0);
        let again = family.shard(&"a".into(), 0);
        let other_worker = family.shard(&"a".into(), 1);
        a.failed.add(2);
        again.failed.add(1);
        other_worker.failed.add(4);
        let mut sums = Vec::new();
        family.visit(|key, shards| sums.push((key.clone(), shards.iter().map(|s| s.failed.get()).sum::<u64>())));
        assert_eq!(sums, [("a".into(), 7)]);
        for n in 0..MAX_SERIES + 10 {
            family.shard(&n.to_string().into(), 0);
        }
        assert_eq!(family.dropped(), 11);
    }

    #[test]
    fn histogram_bounds_are_inclusive() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_micros(250));
        histogram.observe(Duration::from_micros(251));
        histogram.observe(Duration::from_secs(3600));
        assert_eq!(histogram.buckets[0].get(), 1);
        assert_eq!(histogram.buckets[1].get(), 1);
        assert_eq!(histogram.buckets[BOUNDS_US.len()].get(), 1);
    }
}
