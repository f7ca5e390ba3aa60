//! The one pointer that workers follow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use weir_config::Snapshot;

/// A snapshot that serves, and its number.
#[derive(Debug)]
pub struct Published {
    /// 1 for the first, then one more for each published change.
    pub generation: u64,
    /// The snapshot.
    pub snapshot: Snapshot,
    /// The text it was compiled from.
    pub source: String,
    /// When it was published.
    pub since: SystemTime,
}

/// Holds the published snapshot. Readers compare [`Store::generation`] first, one atomic load, and load the pointer
/// only when it moved.
#[derive(Debug)]
pub struct Store {
    current: ArcSwap<Published>,
    generation: AtomicU64,
}

impl Store {
    /// Begins with generation 1.
    pub fn new(snapshot: Snapshot, source: String) -> Self {
        let first = Published { generation: 1, snapshot, source, since: SystemTime::now() };
        Self { current: ArcSwap::from_pointee(first), generation: AtomicU64::new(1) }
    }

    /// The number of what is published now.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// What is published now.
    pub fn load(&self) -> Arc<Published> {
        self.current.load_full()
    }

    /// Publishes the next generation and gives its number. Only one thread may publish.
    pub(crate) fn publish(&self, snapshot: Snapshot, source: String) -> u64 {
        let generation = self.generation.load(Ordering::Relaxed) + 1;
        self.current.store(Arc::new(Published { generation, snapshot, source, since: SystemTime::now() }));
        // After the pointer: whoever sees the new number finds the new snapshot, or a newer one.
        self.generation.store(generation, Ordering::Release);
        generation
    }
}
