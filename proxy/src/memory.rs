//! Gives memory back that nobody uses any more.
//!
//! The C library's allocator keeps what was freed: after a burst of connections, or a large configuration, a process stays
//! as large as it ever was, and its pod is billed and killed for that. So it is asked, every few seconds, how much is in
//! use, and made to return pages if much more is resident. Measured against jemalloc and mimalloc this keeps the least
//! (`docs/performance.md`).

use std::time::Duration;

/// How often is looked.
const PERIOD: Duration = Duration::from_secs(3);
/// Less than this is not worth the work, in bytes.
const WORTH: usize = 2 << 20;
/// After work that gained little, so many looks are left out at most.
const MAX_PATIENCE: u32 = 32;

/// What was gained lately.
#[derive(Debug, Default)]
struct Record {
    /// Looks to leave out after work that gains little; doubles each time.
    patience: u32,
    /// Looks that are left out still.
    left_out: u32,
    /// What nobody used when that was decided.
    unused: usize,
}

impl Record {
    /// Whether it pays to look for pages to return, with so many bytes resident and so many of them in use. What is in use
    /// may be spread over all pages, and then nothing can be returned; so work that gained little is not repeated soon.
    fn is_worth_it(&mut self, resident: usize, used: usize) -> bool {
        let unused = resident.saturating_sub(used);
        if unused < WORTH + used / 4 {
            return false;
        }
        if self.left_out > 0 && unused < self.unused * 2 {
            self.left_out -= 1;
            return false;
        }
        true
    }

    /// So much was resident and not in use before, and after.
    fn gained(&mut self, before: usize, after: usize) {
        let little = before.saturating_sub(after) < before / 8;
        self.patience = if little { (self.patience * 2).clamp(1, MAX_PATIENCE) } else { 0 };
        self.left_out = self.patience;
        self.unused = after;
    }
}

/// Gives memory back from now on.
pub async fn tend() {
    let mut record = Record::default();
    // What only the start needed.
    allocator::give_back();
    forget_constants();
    loop {
        tokio::time::sleep(PERIOD).await;
        let Some((used, before)) = allocator::used().zip(resident()) else { return };
        if record.is_worth_it(before, used) {
            allocator::give_back();
            let after = resident().unwrap_or(before);
            record.gained(before.saturating_sub(used), after.saturating_sub(used));
            tracing::debug!(used, before, after, "gave memory back");
        }
    }
}

/// Gives back the constants of the program's own file that only the start has read: relocations, messages, tables. They are
/// pages of the file: what is needed again is read again.
fn forget_constants() {
    let Some((start, end)) = constants() else { return };
    // SAFETY: the range is a mapping of a file that this process has only ever read: nothing in it can be lost, and whoever
    // reads from it finds the same bytes. (Relocated tables are in another mapping, which is not at the file's beginning.)
    unsafe { libc::madvise(std::ptr::with_exposed_provenance_mut(start), end - start, libc::MADV_DONTNEED) };
}

/// Where the file of the program is mapped from its beginning, to be read only.
fn constants() -> Option<(usize, usize)> {
    let own = std::env::current_exe().ok()?;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (range, rights, offset) = (fields.next()?, fields.next()?, fields.next()?);
        let path = fields.nth(2)?;
        if rights != "r--p" || !offset.bytes().all(|digit| digit == b'0') || own.as_os_str() != path {
            return None;
        }
        let (start, end) = range.split_once('-')?;
        Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
    })
}

/// Resident bytes of this process that are not parts of files.
fn resident() -> Option<usize> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = text.split(' ').skip(1).map_while(|field| field.parse::<usize>().ok());
    let (resident, of_files) = (pages.next()?, pages.next()?);
    Some(resident.saturating_sub(of_files) * rustix::param::page_size())
}

#[cfg(target_env = "gnu")]
mod allocator {
    /// Bytes that were asked for and not freed.
    pub(super) fn used() -> Option<usize> {
        // SAFETY: mallinfo2 takes nothing, and locks what it reads.
        let info = unsafe { libc::mallinfo2() };
        Some(info.uordblks + info.hblkhd)
    }

    /// Returns whole pages of it to the kernel.
    pub(super) fn give_back() {
        // SAFETY: malloc_trim touches only what is free, under the allocator's own locks.
        unsafe { libc::malloc_trim(0) };
    }
}

/// Other C libraries have no such calls.
#[cfg(not(target_env = "gnu"))]
mod allocator {
    pub(super) fn used() -> Option<usize> {
        None
    }

    pub(super) fn give_back() {}
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: usize = 1 << 20;

    #[test]
    fn constants_are_the_same_when_they_were_given_back() {
        let text = include_str!("memory.rs");
        let before: Vec<u8> = text.bytes().rev().collect();
        assert!(constants().is_some_and(|(start, end)| start < end));
        forget_constants();
        assert!(text.bytes().rev().eq(before));
    }

    #[test]
    fn what_gains_little_is_not_repeated_soon() {
        let mut record = Record::default();
        assert!(!record.is_worth_it(10 * MB, 9 * MB), "too little");
        assert!(!record.is_worth_it(120 * MB, 100 * MB), "too little beside what is used");
        assert!(record.is_worth_it(200 * MB, 2 * MB), "a burst is over");
        record.gained(198 * MB, 20 * MB);
        assert!(record.is_worth_it(22 * MB, 2 * MB), "there was something to gain, and is more");
        record.gained(20 * MB, 19 * MB);
        assert!(!record.is_worth_it(21 * MB, 2 * MB), "there was little to gain");
        assert!(record.is_worth_it(21 * MB, 2 * MB), "but it is tried again");
        record.gained(19 * MB, 19 * MB);
        let left_out = std::iter::repeat_with(|| record.is_worth_it(21 * MB, 2 * MB)).take_while(|worth| !worth).count();
        assert_eq!(left_out, 2, "and again later");
        record.gained(19 * MB, 19 * MB);
        assert!(record.is_worth_it(100 * MB, 2 * MB), "another burst is over");
    }
}
