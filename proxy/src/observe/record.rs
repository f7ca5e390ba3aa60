//! The record of one request.
//!
//! It exists from the request's head until the last byte of the response, or until either side is gone, and then emits
//! metrics and the access log exactly once: `Drop` is the only place that emits.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::{HeaderMap, Method, Version};
use weir_config::policy::Denied;

use super::access_log::LogHandle;
use super::metrics::RuleShard;
use crate::error::{Fault, Flag};
use crate::tls::handshake::Principal;

/// What is known of one request.
pub struct Record {
    start: Instant,
    series: Option<Arc<RuleShard>>,
    /// The response's status, once there is one.
    pub status: u16,
    /// The gRPC status, from headers or trailers, for gRPC requests.
    pub grpc_status: Option<u16>,
    /// Whether the request is gRPC.
    pub grpc: bool,
    /// Why it failed, if it did.
    pub fault: Option<Fault>,
    /// Bytes of the request body that went upstream.
    pub bytes_in: u64,
    /// Bytes of the response body.
    pub bytes_out: u64,
    head_at: Option<Instant>,
    complete: bool,
    attempts: u32,
    denied: Option<Denied>,
    /// Kept only when there is an access log.
    pub log: Option<Box<LogEntry>>,
}

/// What the access log needs besides the numbers.
pub struct LogEntry {
    /// Where the line goes.
    pub handle: Rc<LogHandle>,
    /// When the request began.
    pub began: SystemTime,
    /// The listener's name.
    pub listener: Box<str>,
    /// The generation that decided.
    pub generation: u64,
    /// The method.
    pub method: Method,
    /// Path and query as received.
    pub path: String,
    /// The host as received.
    pub authority: String,
    /// The caller's protocol.
    pub version: Version,
    /// The caller's address.
    pub peer: SocketAddr,
    /// The address weir accepted on.
    pub local: SocketAddr,
    /// The request's headers as received, if the format asks for some.
    pub request_headers: Option<HeaderMap>,
    /// The response's headers as sent, if the format asks for some.
    pub response_headers: Option<HeaderMap>,
    /// The caller's `user-agent`.
    pub user_agent: Option<http::HeaderValue>,
    /// The correlation ID.
    pub request_id: http::HeaderValue,
    /// The trace ID, if the request belongs to a trace.
    pub trace_id: Option<Box<str>>,
    /// The route.
    pub route: Box<str>,
    /// The rule.
    pub rule: Box<str>,
    /// The cluster.
    pub cluster: Box<str>,
    /// The endpoint.
    pub upstream: Option<SocketAddr>,
    /// Whether it was no request but opaque bytes.
    pub opaque: bool,
    /// Who called, if mutual TLS has shown it.
    pub principal: Option<Rc<Principal>>,
    /// What the policies said, if there is something to tell.
    pub authorization: Option<Box<str>>,
}

/// The numbers of a finished request, for the access log.
#[derive(Debug, Clone, Copy)]
pub struct Finished {
    /// The status, for a caller that went away before there was one 499; 0 if there was none.
    pub status: u16,
    /// The gRPC status.
    pub grpc_status: Option<u16>,
    /// Why it failed.
    pub fault: Option<Fault>,
    /// Bytes of the request body.
    pub bytes_in: u64,
    /// Bytes of the response body.
    pub bytes_out: u64,
    /// Microseconds from the first to the last byte.
    pub duration_us: u128,
    /// Microseconds to the head of the response.
    pub head_us: Option<u128>,
    /// Attempts that reached for an endpoint.
    pub attempts: u32,
    /// Why a retry that the rule asks for was not made.
    pub denied: Option<Denied>,
}

impl Finished {
    /// Envoy's flags, joined with commas; `-` if there are none.
    pub fn flags(&self) -> &'static str {
        match (self.fault.map(Fault::flag), self.denied) {
            (None, Some(Denied::Attempts)) => Flag::RetryLimit.letters(),
            (Some(Flag::UpstreamConnectFailure), Some(Denied::Attempts)) => "UF,URX",
            (Some(Flag::UpstreamReset), Some(Denied::Attempts)) => "UR,URX",
            (Some(Flag::UpstreamConnectionTermination), Some(Denied::Attempts)) => "UC,URX",
            (Some(Flag::UpstreamTimeout), Some(Denied::Attempts)) => "UT,URX",
            (Some(flag), _) => flag.letters(),
            (None, _) => "-",
        }
    }
}

impl Record {
    /// Begins.
    pub fn start(start: Instant) -> Self {
        Self {
            start,
            series: None,
            status: 0,
            grpc_status: None,
            grpc: false,
            fault: None,
            bytes_in: 0,
            bytes_out: 0,
            head_at: None,
            complete: false,
            attempts: 0,
            denied: None,
            log: None,
        }
    }

    /// When it began.
    pub fn start_at(&self) -> Instant {
        self.start
    }

    /// How often it was tried, and why not more often.
    pub fn tried(&mut self, attempts: u32, denied: Option<Denied>, upstream: Option<SocketAddr>) {
        self.attempts = attempts;
        self.denied = denied;
        if let Some(log) = &mut self.log {
            log.upstream = upstream;
        }
    }

    /// Counts the request under this series from now on.
    pub fn belongs_to(&mut self, series: &Arc<RuleShard>) {
        debug_assert!(self.series.is_none(), "a request belongs to one series");
        series.active.add(1);
        self.series = Some(Arc::clone(series));
    }

    /// The response's head is there.
    pub fn head(&mut self, status: http::StatusCode) {
        self.status = status.as_u16();
        self.head_at = Some(Instant::now());
    }

    /// The response is complete. A record dropped before this one counts as cut off by the caller, unless a fault
    /// says otherwise.
    pub fn complete(&mut self) {
        self.complete = true;
    }

    /// A tunnel is over: so many bytes from the caller, so many to it, and who broke it off, if it did not end.
    pub fn carried(&mut self, up: u64, down: u64, fault: Option<Fault>) {
        (self.bytes_in, self.bytes_out) = (up, down);
        self.fault = self.fault.or(fault);
        self.complete = true;
    }

    /// Whether the response is complete.
    pub fn is_complete(&self) -> bool {
        self.complete
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.complete && self.fault.is_none() {
            self.fault = Some(Fault::DownstreamGone);
        }
        let end = Instant::now();
        let duration = end.duration_since(self.start);
        let head = self.head_at.map(|at| at.duration_since(self.start));
        if let Some(series) = &self.series {
            series.active.sub(1);
            series.classes[usize::from(self.status / 100).min(5)].add(1);
            series.duration.observe(duration);
            if let Some(head) = head {
                series.first_byte.observe(head);
            }
            series.bytes_in.add(self.bytes_in);
            series.bytes_out.add(self.bytes_out);
            if let Some(fault) = self.fault {
                series.flags[fault.flag() as usize].add(1);
            }
            if self.denied == Some(Denied::Attempts) {
                series.flags[Flag::RetryLimit as usize].add(1);
            }
            if self.grpc {
                let place = self.grpc_status.map_or(17, |status| usize::from(status).min(17));
                series.grpc[place].add(1);
            }
        }
        if let Some(entry) = self.log.take() {
            // A caller that went away was sent none; the log has the catalogue's.
            let gone = self.status == 0 && self.fault == Some(Fault::DownstreamGone) && !entry.opaque;
            let numbers = Finished {
                status: if gone { Fault::DownstreamGone.status().as_u16() } else { self.status },
                grpc_status: self.grpc_status,
                fault: self.fault,
                bytes_in: self.bytes_in,
                bytes_out: self.bytes_out,
                duration_us: duration.as_micros(),
                head_us: head.map(|head| head.as_micros()),
                attempts: self.attempts,
                denied: self.denied,
            };
            entry.handle.write(&entry, &numbers);
        }
    }
}
