//! What weir tells about itself: one record per request, metrics, the access log.
//!
//! A request's [`record::Record`] is finished by value or by Drop and emits metrics and the access log exactly once.
//! Series are resolved once per generation and rule; the request path only adds to numbers that its worker alone writes.

pub mod access_log;
pub mod callers;
pub mod expose;
pub mod line;
pub mod metrics;
pub mod record;

pub use record::Record;
