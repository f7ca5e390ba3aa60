use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::ValueMatch;
use crate::units::{Limit, Span};

/// How long a request may take; three clocks that are told apart in errors and logs. `off` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Timeout {
    /// From the head of the request to the last byte of the response, retries included (Envoy `timeout`, Gateway API
    /// `timeouts.request`). Once their response has begun, streams are exempt: gRPC, `text/event-stream`, upgrades. A
    /// caller's own deadline (`grpc-timeout`, `x-request-timeout-ms`) counts too. Default `off`.
    pub request: Option<Limit>,
    /// From the start of an attempt to the head of its response (Envoy `per_try_timeout`, Gateway API
    /// `timeouts.backendRequest`). Default `off`.
    pub per_try: Option<Limit>,
    /// Without a byte either way (Envoy `idle_timeout` of a route). Upgrades are exempt. Default `300s`.
    pub idle: Option<Limit>,
}

/// When a request is tried again. Without it, only what was not processed is: a failed connect moves on to another
/// endpoint, a refused stream is sent again, and so is, once, a request whose reused connection ends within a second and
/// without a byte of an answer, for such connections are closed for being idle.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Attempts after the first (Envoy `num_retries`, Gateway API `retry.attempts`). Default 1.
    #[serde(default = "Retry::default_attempts")]
    #[schemars(range(min = 1, max = 10))]
    pub attempts: u32,
    /// The conditions, by Envoy's names. Default: `[connect-failure, refused-stream, gateway-error]`.
    pub on: Option<Vec<RetryOn>>,
    /// Statuses that are retried too (Envoy `retriable_status_codes`, Gateway API `retry.codes`).
    #[serde(default)]
    pub codes: Vec<u16>,
    /// Response headers that ask for a retry; any one is enough (Envoy `retriable_headers`).
    #[serde(default)]
    pub headers: BTreeMap<String, ValueMatch>,
    /// Repeating any request of this rule is harmless, so methods other than GET, HEAD, OPTIONS, TRACE, PUT and DELETE
    /// are retried too when they may have been processed. Default `false`.
    #[serde(default)]
    pub idempotent: bool,
    /// The waits between attempts.
    #[serde(default)]
    pub backoff: Backoff,
    /// A response that asks for a longer wait (`Retry-After`) than this is passed on instead of retried. Default `1s`.
    #[serde(default = "Retry::default_retry_after")]
    pub retry_after: Span,
}

impl Retry {
    fn default_attempts() -> u32 {
        1
    }
    fn default_retry_after() -> Span {
        Span(std::time::Duration::from_secs(1))
    }
}

/// The waits between attempts: before the n-th retry, random between 0 and (2^n - 1) times `base`, at most `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Backoff {
    /// The unit. Default `25ms`.
    #[serde(default = "Backoff::default_base")]
    pub base: Span,
    /// The longest wait. Default `250ms`.
    #[serde(default = "Backoff::default_max")]
    pub max: Span,
}

impl Backoff {
    fn default_base() -> Span {
        Span(std::time::Duration::from_millis(25))
    }
    fn default_max() -> Span {
        Span(std::time::Duration::from_millis(250))
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: Self::default_base(), max: Self::default_max() }
    }
}

/// A condition under which an attempt is followed by another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[repr(u32)]
pub enum RetryOn {
    /// A 5xx status, or no response at all.
    #[serde(rename = "5xx")]
    FiveXx,
    /// 502, 503 or 504, or no response at all.
    GatewayError,
    /// No response: the connection or stream ended, or `per_try` passed.
    Reset,
    /// The connection ended before anything of the request was sent.
    ResetBeforeRequest,
    /// No connection could be opened, also when there is no other endpoint to move on to.
    ConnectFailure,
    /// The peer refused the HTTP/2 stream, or said GOAWAY before it.
    RefusedStream,
    /// 409.
    #[serde(rename = "retriable-4xx")]
    Retriable4xx,
    /// A status of `codes`.
    RetriableStatusCodes,
    /// A header of `headers`.
    RetriableHeaders,
    /// The response has the header `x-envoy-ratelimited`.
    EnvoyRatelimited,
    /// gRPC status 1, without a message before it.
    Cancelled,
    /// gRPC status 4, without a message before it.
    DeadlineExceeded,
    /// gRPC status 13, without a message before it.
    Internal,
    /// gRPC status 8, without a message before it.
    ResourceExhausted,
    /// gRPC status 14, without a message before it.
    Unavailable,
}

impl RetryOn {
    /// Every condition and its name.
    pub const ALL: [(Self, &str); 15] = [
        (Self::FiveXx, "5xx"),
        (Self::GatewayError, "gateway-error"),
        (Self::Reset, "reset"),
        (Self::ResetBeforeRequest, "reset-before-request"),
        (Self::ConnectFailure, "connect-failure"),
        (Self::RefusedStream, "refused-stream"),
        (Self::Retriable4xx, "retriable-4xx"),
        (Self::RetriableStatusCodes, "retriable-status-codes"),
        (Self::RetriableHeaders, "retriable-headers"),
        (Self::EnvoyRatelimited, "envoy-ratelimited"),
        (Self::Cancelled, "cancelled"),
        (Self::DeadlineExceeded, "deadline-exceeded"),
        (Self::Internal, "internal"),
        (Self::ResourceExhausted, "resource-exhausted"),
        (Self::Unavailable, "unavailable"),
    ];
}

/// How many retries a cluster bears, over all rules and workers. It always holds; what was provably not processed is
/// not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetryBudget {
    /// Retries as a share of the requests of the last 10 s, in percent (Envoy `budget_percent`). Default 20.
    #[serde(default = "RetryBudget::default_percent")]
    #[schemars(range(max = 100))]
    pub percent: u8,
    /// Retries a second that are allowed beside that share, so that a quiet service can retry at all. Default 3.
    #[serde(default = "RetryBudget::default_floor")]
    #[schemars(range(max = 1000))]
    pub min_per_second: u32,
}

impl RetryBudget {
    fn default_percent() -> u8 {
        20
    }
    fn default_floor() -> u32 {
        3
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { percent: Self::default_percent(), min_per_second: Self::default_floor() }
    }
}
