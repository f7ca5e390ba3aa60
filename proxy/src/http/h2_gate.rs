//! HTTP/2 floods: rates of the frames that cost more to answer than to send.
//!
//! Follows frame headers (RFC 9113, section 4.1) on their way to the h2 crate and counts, in windows of one second, those
//! that a peer has no reason to send in numbers. Totals over a connection's life would punish long lives; rates do not.
//! The h2 crate has limits of its own behind this one (pending resets, CONTINUATION frames of one block).

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
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    resets: u32,
    pings: u32,
    settings: u32,
    empty: u32,
    continuations: u32,
}

/// Which flood it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flood {
    /// RST_STREAM.
    Resets,
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

impl Inspector {
    /// Begins before the preface.
    pub fn new(limits: Http2, now: Instant) -> Self {
        Self { limits, skip: PREFACE.len(), header: [0; 9], filled: 0, window: now, counts: Counts::default() }
    }

    /// Looks at the next bytes of the stream.
    ///
    /// # Errors
    /// The flood, if a rate is over its limit.
    pub fn inspect(&mut self, mut input: &[u8], now: impl Fn() -> Instant) -> Result<(), Flood> {
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
        let [a, b, c, kind, flags, ..] = self.header;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        self.skip = length;
        const END_STREAM: u8 = 1;
        const ACK: u8 = 1;
        let (limit, flood) = match kind {
            0 if length == 0 && flags & END_STREAM == 0 => (self.limits.empty_frames_per_second, Flood::Empty),
            3 => (self.limits.resets_per_second, Flood::Resets),
            4 if flags & ACK == 0 => (self.limits.settings_per_second, Flood::Settings),
            6 if flags & ACK == 0 => (self.limits.pings_per_second, Flood::Pings),
            9 => (self.limits.continuations_per_second, Flood::Continuations),
            _ => return Ok(()),
        };
        // The clock is read only for frames that count.
        let now = now();
        if now.duration_since(self.window) >= WINDOW {
            self.window = now;
            self.counts = Counts::default();
        }
        let count = match flood {
            Flood::Resets => &mut self.counts.resets,
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

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        frame.resize(9 + usize::from(length), 0);
        frame
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
            let one = frame(kind, flags, length);
            // The limit in each of three seconds passes; so do frames that do not count, however many.
            for second in 0..3 {
                for _ in 0..limit {
                    inspector.inspect(&one, || start + Duration::from_secs(second)).unwrap();
                    inspector.inspect(&frame(6, 1, 8), || start).unwrap();
                    inspector.inspect(&frame(0, 1, 0), || start).unwrap();
                    inspector.inspect(&frame(1, 4, 20), || start).unwrap();
                }
            }
            // Byte by byte is the same as at once.
            let last: Vec<_> = one.iter().map(|b| inspector.inspect(&[*b], || start + Duration::from_secs(2))).collect();
            assert_eq!(last.iter().find_map(|r| r.err()), Some(flood));
        }
    }
}
