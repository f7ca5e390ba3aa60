//! When a request is tried again: one pure judgement over the outcome of an attempt.
//!
//! Decides whether another attempt may be made and when; not where it goes (the balancer) nor whether the cluster can
//! bear it (the retry budget, which is asked last, by whoever acts). Three things are tried again without a rule, because
//! the request was not processed: a failed connect moves on to another endpoint, what the peer says it refused is sent
//! again, and so is what was written to a reused connection that died without a byte of a response. Loosen these and a
//! payment is made twice.

use std::time::{Duration, SystemTime};

use http::header::{HeaderMap, HeaderName, RETRY_AFTER};
use http::{Method, StatusCode};

use crate::matcher::{ValueTest, header_value};
use crate::schema::RetryOn;

/// Connects that may fail, each at another endpoint, before a request is given up.
pub const MAX_MOVES: u32 = 3;
/// Times that a request which the peer refused is sent again without a rule; one that met a dying connection is once.
pub const MAX_REPLAYS: u32 = 2;

/// How long a request may take. `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// From the head of the request to the last byte of the response, all attempts included.
    pub request: Option<Duration>,
    /// From the start of an attempt to the head of its response.
    pub per_try: Option<Duration>,
    /// Without a byte either way.
    pub idle: Option<Duration>,
}

/// A rule's `retry`.
#[derive(Debug, Clone)]
pub struct RetryRule {
    /// Attempts after the first.
    pub attempts: u32,
    /// On what.
    pub on: Conditions,
    /// Statuses beside those of the conditions.
    pub codes: Box<[StatusCode]>,
    /// Response headers that ask for it; any one.
    pub headers: Box<[(HeaderName, ValueTest)]>,
    /// Every method may be repeated.
    pub idempotent: bool,
    /// The unit of backoff.
    pub base: Duration,
    /// The longest backoff.
    pub max: Duration,
    /// The longest `Retry-After` that is waited for.
    pub retry_after: Duration,
}

/// A set of conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Conditions(u32);

impl Conditions {
    /// Adds one.
    pub fn insert(&mut self, condition: RetryOn) {
        self.0 |= 1 << condition as u32;
    }
    /// Whether this one is in it.
    pub fn has(self, condition: RetryOn) -> bool {
        self.0 & (1 << condition as u32) != 0
    }
    fn any(self, conditions: &[RetryOn]) -> bool {
        conditions.iter().any(|condition| self.has(*condition))
    }
}

impl std::fmt::Display for Conditions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = RetryOn::ALL.iter().filter(|(on, _)| self.has(*on)).map(|(_, name)| *name).collect();
        f.write_str(&names.join(", "))
    }
}

/// What became of one attempt.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'a> {
    /// No connection could be opened, or not in time.
    NotConnected,
    /// The connection died before anything of the request was written.
    Unsent,
    /// The peer says that it has not processed the request (REFUSED_STREAM, or a GOAWAY before its stream), or its kernel
    /// has refused all of it behind the end of an idle connection.
    Refused,
    /// The weir beside whom it is for says that nothing has reached it (`x-weir-unprocessed`): a connect that failed one step
    /// further on.
    Unreached,
    /// A reused connection died right after the request was written and before a byte of a response.
    Stale,
    /// The connection or stream ended after the request was written and before the head of a response.
    Reset,
    /// No head of a response within `per_try`.
    TimedOut,
    /// The head of a response.
    Response(StatusCode, &'a HeaderMap),
    /// What another attempt cannot mend: the caller's body broke off, or the peer does not speak HTTP.
    Final,
}

/// What else bears on the judgement.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// The request's method.
    pub method: &'a Method,
    /// Attempts under the rule so far, the first included.
    pub attempts: u32,
    /// Connects that failed so far.
    pub moves: u32,
    /// Replays without a rule so far.
    pub replays: u32,
    /// Whether there is an endpoint that this request has not tried.
    pub elsewhere: bool,
    /// Whether the body, if any, can be sent again from its start.
    pub replayable: bool,
    /// Time to the deadline, if there is one.
    pub remaining: Option<Duration>,
    /// What an attempt may take, if that is limited.
    pub per_try: Option<Duration>,
}

/// What to do after an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// What came is the answer.
    Done(Option<Denied>),
    /// At once and without asking the budget: nothing was processed.
    Replay,
    /// At another endpoint, at once and without asking the budget.
    Move,
    /// After this long, if the budget allows it.
    Retry(Duration),
}

/// Why a retry that the rule asks for is not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// As many attempts as the rule allows were made.
    Attempts,
    /// The method is not idempotent, and the rule does not say that it may be repeated.
    Method,
    /// The body was longer than what is kept of it.
    Body,
    /// The deadline would pass first.
    Deadline,
    /// The upstream asked for more patience than the rule has.
    RetryAfter,
    /// The cluster's retry budget is spent.
    Budget,
}

impl Denied {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 6] = [Self::Attempts, Self::Method, Self::Body, Self::Deadline, Self::RetryAfter, Self::Budget];

    /// A word for logs and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Attempts => "attempts",
            Self::Method => "method",
            Self::Body => "body",
            Self::Deadline => "deadline",
            Self::RetryAfter => "retry_after",
            Self::Budget => "budget",
        }
    }
}

/// Judges an attempt. `draw` is uniform; `wall` is the time by the calendar, for a `Retry-After` that is a date.
pub fn judge(rule: Option<&RetryRule>, outcome: Outcome<'_>, now: Circumstances<'_>, draw: u64, wall: SystemTime) -> Verdict {
    match outcome {
        Outcome::NotConnected if now.elsewhere && now.moves < MAX_MOVES => return Verdict::Move,
        Outcome::Unreached if now.elsewhere && now.moves < MAX_MOVES => {
            return if now.replayable { Verdict::Move } else { Verdict::Done(Some(Denied::Body)) };
        }
        Outcome::Stale if now.replays > 0 => {}
        Outcome::Unsent | Outcome::Refused | Outcome::Stale if now.replays < MAX_REPLAYS => {
            return if now.replayable { Verdict::Replay } else { Verdict::Done(Some(Denied::Body)) };
        }
        _ => {}
    }
    let Some(rule) = rule else { return Verdict::Done(None) };
    let Some(wanted) = wanted(rule, outcome) else { return Verdict::Done(None) };
    let denied = if now.attempts > rule.attempts {
        Denied::Attempts
    } else if wanted == Wanted::IfIdempotent && !rule.idempotent && !now.method.is_idempotent() {
        Denied::Method
    } else if !now.replayable {
        Denied::Body
    } else {
        return when(rule, outcome, now, draw, wall);
    };
    Verdict::Done(Some(denied))
}

/// Whether the rule asks for another attempt, and for which methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Whatever the method: it was not processed, or the rule names exactly this answer.
    Always,
    /// It may have been processed.
    IfIdempotent,
}

fn wanted(rule: &RetryRule, outcome: Outcome<'_>) -> Option<Wanted> {
    use RetryOn::{ConnectFailure, FiveXx, GatewayError, RefusedStream, Reset, ResetBeforeRequest};
    let (conditions, wanted): (&[RetryOn], _) = match outcome {
        Outcome::NotConnected | Outcome::Unreached => (&[ConnectFailure, FiveXx, GatewayError], Wanted::Always),
        Outcome::Refused => (&[RefusedStream, FiveXx, GatewayError, Reset], Wanted::Always),
        Outcome::Unsent => (&[ResetBeforeRequest, Reset, FiveXx, GatewayError], Wanted::Always),
        // A reset becomes a 503 and a try that takes too long a 504, so they count as such.
        Outcome::Stale | Outcome::Reset | Outcome::TimedOut => (&[Reset, FiveXx, GatewayError], Wanted::IfIdempotent),
        Outcome::Response(status, headers) => return wanted_answer(rule, status, headers),
        Outcome::Final => return None,
    };
    rule.on.any(conditions).then_some(wanted)
}

impl RetryRule {
    /// Whether the rule may ask for another attempt after this answer; a glance, for the many answers that are well.
    pub fn minds(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let looks_at_headers = !self.headers.is_empty() || self.on.any(&[RetryOn::EnvoyRatelimited]) || self.on.any(&GRPC);
        (looks_at_headers || status.as_u16() >= 400) && wanted_answer(self, status, headers).is_some()
    }
}

/// The conditions that look at a gRPC status.
const GRPC: [RetryOn; 5] =
    [RetryOn::Cancelled, RetryOn::DeadlineExceeded, RetryOn::Internal, RetryOn::ResourceExhausted, RetryOn::Unavailable];

fn wanted_answer(rule: &RetryRule, status: StatusCode, headers: &HeaderMap) -> Option<Wanted> {
    // Only what is in the head counts; for gRPC that is a trailers-only answer: nothing of a response was sent yet.
    let status_header = if rule.on.any(&GRPC) { headers.get("grpc-status") } else { None };
    let grpc = status_header.and_then(|value| value.to_str().ok()?.parse().ok()).and_then(|code: u16| match code {
        1 => Some(RetryOn::Cancelled),
        4 => Some(RetryOn::DeadlineExceeded),
        8 => Some(RetryOn::ResourceExhausted),
        13 => Some(RetryOn::Internal),
        14 => Some(RetryOn::Unavailable),
        _ => None,
    });
    let asked = |(name, test): &(HeaderName, ValueTest)| test.holds(header_value(headers, name).as_deref());
    if grpc.is_some_and(|code| rule.on.has(code))
        || (rule.on.has(RetryOn::EnvoyRatelimited) && headers.contains_key("x-envoy-ratelimited"))
        || rule.headers.iter().any(asked)
    {
        return Some(Wanted::Always);
    }
    let by_status = (status.is_server_error() && rule.on.has(RetryOn::FiveXx))
        || (matches!(status.as_u16(), 502..=504) && rule.on.has(RetryOn::GatewayError))
        || (status == StatusCode::CONFLICT && rule.on.has(RetryOn::Retriable4xx))
        || rule.codes.contains(&status);
    by_status.then_some(Wanted::IfIdempotent)
}

/// The wait: jitter over the whole interval, which grows with each attempt, or what the upstream asks for.
fn when(rule: &RetryRule, outcome: Outcome<'_>, now: Circumstances<'_>, draw: u64, wall: SystemTime) -> Verdict {
    // Envoy's interval: (2^n - 1) times the base, at most the maximum.
    let steps = 2_u32.saturating_pow(now.attempts.min(20)).saturating_sub(1);
    let interval = rule.base.saturating_mul(steps).min(rule.max);
    #[expect(clippy::cast_precision_loss, reason = "a random share")]
    let mut delay = interval.mul_f64(draw as f64 / u64::MAX as f64);
    if let Outcome::Response(_, headers) = outcome
        && let Some(told) = retry_after(headers, wall)
    {
        if told > rule.retry_after {
            return Verdict::Done(Some(Denied::RetryAfter));
        }
        delay = delay.max(told);
    }
    let needed = delay + now.per_try.unwrap_or_default();
    if now.remaining.is_some_and(|remaining| remaining <= needed) {
        return Verdict::Done(Some(Denied::Deadline));
    }
    Verdict::Retry(delay)
}

/// `Retry-After` as seconds or as a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, wall: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(httpdate::parse_http_date(text).ok()?.duration_since(wall).unwrap_or_default()),
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
