//! How many retries a cluster bears: a share of the requests of the last ten seconds, and a floor.
//!
//! Shared by all workers and all rules of a cluster, so that no route can spend what another has saved. Requests are
//! counted by each worker in its own slots, without a locked instruction; only a retry looks at all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use weir_config::schema::RetryBudget;

/// The window, in seconds.
const WINDOW: u32 = 10;
/// Slots of a ring; more than the window, so that a slot that is read is not being reused.
const SLOTS: usize = 16;

/// A count for each of the last seconds. A slot holds the second it stands for beside its count.
#[derive(Debug, Default)]
struct Ring([AtomicU64; SLOTS]);

impl Ring {
    /// Counts one in `second`. For one writer.
    fn count(&self, second: u32) {
        let slot = &self.0[second as usize % SLOTS];
        let known = slot.load(Ordering::Relaxed);
        let fresh = u64::from(second) << 32;
        let next = if known >> 32 == u64::from(second) { known + 1 } else { fresh + 1 };
        slot.store(next, Ordering::Relaxed);
    }

    /// The sum over the window that ends with `second`.
    fn sum(&self, second: u32) -> u64 {
        let counts = self.0.iter().map(|slot| slot.load(Ordering::Relaxed)).filter(|slot| {
            let age = u64::from(second).wrapping_sub(slot >> 32);
            age < u64::from(WINDOW)
        });
        counts.map(|slot| slot & u64::from(u32::MAX)).sum()
    }
}

/// The budget of one cluster.
#[derive(Debug)]
pub struct Budget {
    epoch: Instant,
    requests: Box<[Ring]>,
    /// Retries in the window. Rare, so all workers share one ring under a lock.
    retries: std::sync::Mutex<Ring>,
}

impl Budget {
    /// An unspent budget for so many workers.
    pub fn new(workers: usize) -> Arc<Self> {
        let requests = std::iter::repeat_with(Ring::default).take(workers).collect();
        Arc::new(Self { epoch: Instant::now(), requests, retries: std::sync::Mutex::default() })
    }

    /// A request of `worker`, which began at `now`.
    pub fn request(&self, worker: usize, now: Instant) {
        self.requests[worker].count(self.second(now));
    }

    /// Takes one retry out of the budget, if there is one.
    pub fn take(&self, terms: RetryBudget, now: Instant) -> bool {
        let second = self.second(now);
        let retries = self.retries.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let requests: u64 = self.requests.iter().map(|ring| ring.sum(second)).sum();
        let allowed = requests * u64::from(terms.percent) / 100 + u64::from(terms.min_per_second * WINDOW);
        let granted = retries.sum(second) < allowed;
        if granted {
            retries.count(second);
        }
        granted
    }

    /// From 1, so that an empty slot stands for no second; `WINDOW` more, so that it is out of every window.
    fn second(&self, now: Instant) -> u32 {
        let seconds = now.saturating_duration_since(self.epoch).as_secs();
        u32::try_from(seconds).unwrap_or(u32::MAX - WINDOW - 1) + WINDOW + 1
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TERMS: RetryBudget = RetryBudget { percent: 20, min_per_second: 3 };

    fn granted(budget: &Budget, at: Instant, asked: usize) -> usize {
        (0..asked).filter(|_| budget.take(TERMS, at)).count()
    }

    #[test]
    fn a_floor_and_a_share_that_pass_with_the_window() {
        let budget = Budget::new(2);
        let start = budget.epoch;
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(granted(&budget, at(0), 100), 30);
        for number in 0..1000 {
            budget.request(number % 2, at(5));
        }
        assert_eq!(granted(&budget, at(5), 1000), 200);
        assert_eq!(granted(&budget, at(9), 1000), 0);
        // The floor of the first second is old enough now; the share is not.
        assert_eq!(granted(&budget, at(10), 1000), 30);
        assert_eq!(granted(&budget, at(14), 1000), 0);
        // Requests and retries of second 5 are forgotten together.
        assert_eq!(granted(&budget, at(15), 1000), 0);
        assert_eq!(granted(&budget, at(20), 1000), 30);
    }

    #[test]
    fn the_share_holds_over_any_time() {
        let budget = Budget::new(1);
        let mut retried = 0;
        for second in 0..60 {
            for _ in 0..1000 {
                let now = budget.epoch + Duration::from_secs(second);
                budget.request(0, now);
                retried += granted(&budget, now, 1);
            }
        }
        assert!(retried <= 60 * 203, "{retried}");
        assert!(retried >= 60 * 180, "{retried}");
    }
}
