//! What sends the load, and what it found.
//!
//! wrk and h2load for closed loops (each connection asks again when it was answered): they are known, and cheap beside what
//! they measure. For fixed rates, and for large bodies, our own: wrk and h2load wait for a slow answer before they ask again,
//! so they leave out the requests that would have been slow too (coordinated omission).

pub mod bulk;
pub mod h2load;
pub mod idle;
pub mod own;
pub mod probe;
pub mod wrk;

use hdrhistogram::Histogram;

/// A request that is sent again and again.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// Its path.
    pub path: &'static str,
    /// The host that it asks for.
    pub host: &'static str,
    /// The bytes of its body; a POST, if there are any.
    pub body: usize,
}

impl Ask {
    /// A GET without anything special.
    pub const PLAIN: Self = Self { path: "/", host: "service.mesh.local", body: 0 };

    /// The method that goes with it.
    pub fn method(&self) -> http::Method {
        if self.body == 0 { http::Method::GET } else { http::Method::POST }
    }
}

/// What the load found.
#[derive(Debug, Clone)]
pub struct Found {
    /// Requests that were answered with 200.
    pub answered: u64,
    /// Requests that were not.
    pub errors: u64,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Latencies in microseconds; empty where nobody measured them.
    pub latencies: Histogram<u64>,
}

impl Found {
    /// Nothing yet.
    pub fn nothing() -> Self {
        Self { answered: 0, errors: 0, seconds: 0.0, latencies: latencies() }
    }

    /// The latency that so many percent do not exceed, in milliseconds.
    pub fn percentile(&self, percent: f64) -> Option<f64> {
        let value = || u32::try_from(self.latencies.value_at_percentile(percent)).unwrap_or(u32::MAX);
        (!self.latencies.is_empty()).then(|| f64::from(value()) / 1000.0)
    }
}

/// Latencies from a microsecond to a minute, to three digits.
pub fn latencies() -> Histogram<u64> {
    let mut histogram = Histogram::new(3).unwrap_or_else(|_| unreachable!("three digits are allowed"));
    histogram.auto(true);
    histogram
}

/// A count that a program printed, or that comes of multiplying.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts far below 2^53")]
pub fn whole(number: f64) -> u64 {
    number.max(0.0) as u64
}
