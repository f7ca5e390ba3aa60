//! HTTP/2 floods: rates of the frames that cost more to answer than to send.
//!
//! Follows frame headers (RFC 9113, section 4.1) on their way to the h2 crate and counts, in windows of one second, those
//! that a peer has no reason to send in numbers. Totals over a connection's life would punish long lives; rates do not.
//! Of resets, those of young streams count before all: a stream that was open for a while took one of the places that
//! `max_concurrent_streams` gives, so those who give up a slow request together, as they do behind a sidecar or a gateway
//! that puts their requests on one connection, cost no more than others who ask. Late resets have a limit far above that.
//! The h2 crate has limits of its own behind this one (pending resets, CONTINUATION frames of one block).

use std::cell::Cell;
use std::time::{Duration, Instant};

use weir_config::schema::Http2;

/// Follows one connection.
#[derive(Debug)]
pub struct Inspector {
    limits: Http2,
    /// Bytes of the preface or of a payload that are still to come.
    skip: usize,
    header: [u8; 9],
    filled: usize,
    window: Instant,
    counts: Counts,
    ages: Ages,
}

/// How old streams are, as far as the gate needs to know.
#[derive(Debug)]
struct Ages {
    /// The last stream that was opened, and when.
    last: (u32, Instant),
    /// The last one that was opened before some moment; twice, at least [`YOUNG`] apart.
    marks: [(u32, Instant); 2],
}

impl Ages {
    fn opened(&mut self, stream: u32, now: Instant) {
        // Trailers open nothing.
        if stream <= self.last.0 {
            return;
        }
        if now.duration_since(self.marks[1].1) >= YOUNG {
            self.marks = [self.marks[1], (self.last.0, now)];
        }
        self.last = (stream, now);
    }

    /// Whether the stream was opened just now.
    fn is_young(&self, stream: u32, now: Instant) -> bool {
        let is_old = |(last, at): &(u32, Instant)| stream <= *last && now.duration_since(*at) >= YOUNG;
        !is_old(&self.last) && !self.marks.iter().any(is_old)
    }
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    resets: u32,
    late_resets: u32,
    pings: u32,
    settings: u32,
    empty: u32,
    continuations: u32,
}

/// Which flood it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flood {
    /// RST_STREAM of young streams.
    Resets,
    /// RST_STREAM of others.
    LateResets,
    /// PING.
    Pings,
    /// SETTINGS.
    Settings,
    /// Empty DATA.
    Empty,
    /// CONTINUATION.
    Continuations,
}

/// The bytes every client sends first (RFC 9113, section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const WINDOW: Duration = Duration::from_secs(1);

/// So often a second may all the streams that are allowed at once be reset, when they are young no more.
const TURNS: u32 = 10;

/// A stream is young for at least so long, and for at most twice as long.
const YOUNG: Duration = Duration::from_millis(10);

impl Inspector {
    /// Begins before the preface.
    pub fn new(limits: Http2, now: Instant) -> Self {
        let ages = Ages { last: (0, now), marks: [(0, now); 2] };
        Self { limits, skip: PREFACE.len(), header: [0; 9], filled: 0, window: now, counts: Counts::default(), ages }
    }

    /// Looks at the next bytes of the stream.
    ///
    /// # Errors
    /// The flood, if a rate is over its limit.
    pub fn inspect(&mut self, mut input: &[u8], now: impl Fn() -> Instant) -> Result<(), Flood> {
        // The clock is read only for frames that need it, and once.
        let read = Cell::new(None);
        let now = || {
            let now = read.get().unwrap_or_else(&now);
            read.set(Some(now));
            now
        };
        while !input.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(input.len());
                self.skip -= skipped;
                input = &input[skipped..];
                continue;
            }
            let taken = (self.header.len() - self.filled).min(input.len());
            self.header[self.filled..self.filled + taken].copy_from_slice(&input[..taken]);
            self.filled += taken;
            input = &input[taken..];
            if self.filled == self.header.len() {
                self.filled = 0;
                self.frame(&now)?;
            }
        }
        Ok(())
    }

    fn frame(&mut self, now: &impl Fn() -> Instant) -> Result<(), Flood> {
        let [a, b, c, kind, flags, stream @ ..] = self.header;
        let stream = u32::from_be_bytes(stream) & 0x7FFF_FFFF;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.skip = length;
        const END_STREAM: u8 = 1;
        const ACK: u8 = 1;
        let (limit, flood) = match kind {
            0 if length == 0 && flags & END_STREAM == 0 => (self.limits.empty_frames_per_second, Flood::Empty),
            1 => {
                self.ages.opened(stream, now());
                return Ok(());
            }
            3 if self.ages.is_young(stream, now()) => (self.limits.resets_per_second, Flood::Resets),
            3 => (self.limits.max_concurrent_streams.saturating_mul(TURNS), Flood::LateResets),
            4 if flags & ACK == 0 => (self.limits.settings_per_second, Flood::Settings),
            6 if flags & ACK == 0 => (self.limits.pings_per_second, Flood::Pings),
            9 => (self.limits.continuations_per_second, Flood::Continuations),
            _ => return Ok(()),
        };
        let now = now();
        if now.duration_since(self.window) >= WINDOW {
            self.window = now;
            self.counts = Counts::default();
        }
        let count = match flood {
            Flood::Resets => &mut self.counts.resets,
            Flood::LateResets => &mut self.counts.late_resets,
            Flood::Pings => &mut self.counts.pings,
            Flood::Settings => &mut self.counts.settings,
            Flood::Empty => &mut self.counts.empty,
            Flood::Continuations => &mut self.counts.continuations,
        };
        *count += 1;
        if *count > limit { Err(flood) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, length: u8, stream: u32) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.resize(9 + usize::from(length), 0);
        frame
    }

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn each_flood_is_found_at_its_limit_and_not_below() {
        let limits: Http2 = Http2::default();
        let start = Instant::now();
        for (kind, flags, length, limit, flood) in [
            (3, 0, 4, limits.resets_per_second, Flood::Resets),
            (6, 0, 8, limits.pings_per_second, Flood::Pings),
            (4, 0, 6, limits.settings_per_second, Flood::Settings),
            (0, 0, 0, limits.empty_frames_per_second, Flood::Empty),
            (9, 0, 3, limits.continuations_per_second, Flood::Continuations),
        ] {
            let mut inspector = Inspector::new(limits.clone(), start);
            inspector.inspect(PREFACE, || start).unwrap();
            let mut stream = 1;
            // The limit in each of three seconds passes; so do frames that do not count, however many.
            for second in 0..3 {
                let now = || start + Duration::from_secs(second);
                for _ in 0..limit {
                    stream += 2;
                    inspector.inspect(&frame(1, 4, 20, stream), now).unwrap();
                    inspector.inspect(&frame(kind, flags, length, stream), now).unwrap();
                    inspector.inspect(&frame(6, 1, 8, 0), now).unwrap();
                    inspector.inspect(&frame(0, 1, 0, stream), now).unwrap();
                }
            }
            // Byte by byte is the same as at once.
            let one = frame(kind, flags, length, stream);
            let last: Vec<_> = one.iter().map(|b| inspector.inspect(&[*b], || start + Duration::from_secs(2))).collect();
            assert_eq!(last.iter().find_map(|r| r.err()), Some(flood));
        }
    }

    /// Streams `opened` at some millisecond and `reset` at another, in the order of time.
    fn resets(opened: impl Fn(u32) -> u64, reset: impl Fn(u32) -> u64, count: u32) -> Result<(), Flood> {
        let start = Instant::now();
        let mut inspector = Inspector::new(Http2::default(), start);
        inspector.inspect(PREFACE, || start).unwrap();
        let mut frames: Vec<_> = (0..count).flat_map(|n| [(opened(n), 1, n), (reset(n), 3, n)]).collect();
        frames.sort_by_key(|(at, kind, n)| (*at, *kind, *n));
        for (at, kind, n) in frames {
            inspector.inspect(&frame(kind, 4, 4, 2 * n + 1), || start + millis(at))?;
        }
        Ok(())
    }

    #[test]
    fn resets_count_while_the_stream_is_young() {
        let limit = Http2::default().resets_per_second;
        let ten_a_milli = |n: u32| u64::from(n / 10);
        assert_eq!(resets(ten_a_milli, ten_a_milli, limit), Ok(()));
        for age in 0..10 {
            assert_eq!(resets(ten_a_milli, |n| ten_a_milli(n) + age, 300), Err(Flood::Resets), "after {age} ms");
        }
        for age in 20..40 {
            assert_eq!(resets(ten_a_milli, |n| ten_a_milli(n) + age, 2500), Ok(()), "after {age} ms");
            assert_eq!(resets(ten_a_milli, |n| ten_a_milli(n) + age, 3000), Err(Flood::LateResets), "after {age} ms");
        }
        // All at once, after all of them waited; whoever opened before, or since.
        assert_eq!(resets(|_| 500, |_| 510, 2500), Ok(()));
        assert_eq!(resets(|n| u64::from(n) / 10, |n| 500.max(u64::from(n) / 10 + 20), 2500), Ok(()));
        assert_eq!(resets(|n| if n == 2499 { 700 } else { 3 }, |_| 1000, 2500), Ok(()));
        assert_eq!(resets(|n| if n < 200 { 3 } else { 995 }, |_| 1000, 2500), Err(Flood::Resets));
    }
}
