//! How near the process is to having no descriptors left.
//!
//! The kernel gives out the lowest number that is free, so the number of a fresh one tells. The last ones are kept for what must
//! work when nothing else does: the admin and probes servers, and files. Where the limit is not known, nothing is kept.

use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering};

/// So many are kept from callers, and half of them from upstreams too; a quarter of all there are, if that is less.
const KEPT: usize = 64;

static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Who wants a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// A caller, for whom an upstream may be called.
    Caller,
    /// An upstream that is called for somebody who is here.
    Upstream,
}

/// The process may have so many.
pub fn limit_to(limit: u64) {
    LIMIT.store(usize::try_from(limit).unwrap_or(usize::MAX), Ordering::Relaxed);
}

/// Whether this one is among the last, which are not for everybody.
pub fn is_kept(descriptor: &impl AsRawFd, wants: For) -> bool {
    is_among_the_last(descriptor.as_raw_fd(), LIMIT.load(Ordering::Relaxed), wants)
}

fn is_among_the_last(number: RawFd, limit: usize, wants: For) -> bool {
    let kept = KEPT.min(limit / 4);
    let kept = if wants == For::Caller { kept } else { kept / 2 };
    usize::try_from(number).is_ok_and(|number| number >= limit - kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_are_for_those_who_need_them() {
        for (number, limit, caller, upstream) in [
            (900, 1024, false, false),
            (959, 1024, false, false),
            (960, 1024, true, false),
            (991, 1024, true, false),
            (992, 1024, true, true),
            (149, 200, false, false),
            (150, 200, true, false),
            (175, 200, true, true),
            (1 << 20, usize::MAX, false, false),
        ] {
            let is_kept = |wants| is_among_the_last(number, limit, wants);
            assert_eq!((is_kept(For::Caller), is_kept(For::Upstream)), (caller, upstream), "{number} of {limit}");
        }
    }
}
