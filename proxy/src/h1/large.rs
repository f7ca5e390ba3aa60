//! Buffers for large bodies: read into without a copy, handed on as they are, and used again.
//!
//! Only so many of them exist at a time in the process; whoever finds none left reads small pieces. So thousands of slow
//! transfers cost kilobytes each, while a few fast ones get what makes them cheap. What breaks if this is changed
//! carelessly: the memory of a burst.

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// What one read takes of a large body. Less costs more calls, more no longer fits the caches.
const SIZE: usize = 128 << 10;
/// How many there may be in the process: 16 MiB.
const MAX: usize = 128;
/// How many each thread keeps for the next reads.
const MAX_SPARE: usize = 2;

static COUNT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SPARE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer that nobody else has.
pub(super) struct Large {
    bytes: Box<[u8]>,
    filled: usize,
}

impl Large {
    /// One, if there may be another.
    pub(super) fn take() -> Option<Self> {
        if COUNT.fetch_add(1, Ordering::Relaxed) >= MAX {
            COUNT.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let spare = SPARE.try_with(|spare| spare.borrow_mut().pop()).ok().flatten();
        Some(Self { bytes: spare.unwrap_or_else(|| vec![0; SIZE].into_boxed_slice()), filled: 0 })
    }

    /// Where to read to; all of it was written before, if not with anything that matters.
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Hands it on with so many bytes in it.
    pub(super) fn freeze(mut self, filled: usize) -> Bytes {
        self.filled = filled;
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Large {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        COUNT.fetch_sub(1, Ordering::Relaxed);
        let bytes = std::mem::take(&mut self.bytes);
        // A thread that ends has no use for it.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < MAX_SPARE {
                spare.push(bytes);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_used_again_and_counted() {
        let mut first = Large::take().unwrap();
        first.room()[..3].copy_from_slice(b"abc");
        let bytes = first.freeze(3);
        assert_eq!(&bytes[..], b"abc");
        let part = bytes.slice(1..);
        drop(bytes);
        assert_eq!(&part[..], b"bc");
        drop(part);
        assert_eq!(SPARE.with(|spare| spare.borrow().len()), 1);
        // Other tests of this process may have some too.
        let many: Vec<Large> = std::iter::from_fn(Large::take).collect();
        assert!(many.len() > MAX / 2 && many.len() <= MAX, "{}", many.len());
        assert!(Large::take().is_none());
        drop(many);
        assert_eq!(SPARE.with(|spare| spare.borrow().len()), MAX_SPARE);
        assert!(Large::take().is_some());
    }
}
