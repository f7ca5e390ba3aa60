//! Everything that can go wrong with a request, in one exhaustive table.
//!
//! Every variant has one row: its code (`x-weir-error`), whose fault it is, the HTTP status, the gRPC code, Envoy's flag,
//! a line for people, what to do about it, and whether the caller's connection survives. The match has no `_` arm, so a
//! new variant does not compile until somebody has decided all of it. `docs/errors.md` is made from here.

mod flag;
mod request;

use http::StatusCode;

pub use flag::Flag;
pub use request::BadRequest;

use crate::tls::Refusal;

/// Why weir answers a request itself, or gives up on a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No route of the listener has the request's host.
    NoRoute,
    /// The host has a route, but none of its rules match.
    NoRule,
    /// The cluster has no endpoint: none is configured, or its names have no addresses.
    NoEndpoint,
    /// A name of the cluster has never been resolved.
    DnsFailure,
    /// No connection could be opened to the endpoint.
    ConnectFailed,
    /// No connection opened within the cluster's `connect_timeout`.
    ConnectTimeout,
    /// The upstream closed the connection before it answered.
    UpstreamClosed,
    /// The upstream reset the stream or the connection before it answered, or in the middle of its response.
    UpstreamReset,
    /// What the upstream sent is not HTTP, or over a limit.
    UpstreamProtocol,
    /// The caller went away before the response was complete.
    DownstreamGone,
    /// The caller's body ended before it was complete, or is malformed.
    BadBody,
    /// The request is malformed.
    BadRequest(BadRequest),
    /// `CONNECT` without a tunnel that allows it.
    ConnectRefused,
    /// `Expect` asks for something other than `100-continue`.
    BadExpectation,
    /// The rule's `timeout.request` passed, or the caller's deadline.
    RequestTimeout,
    /// The rule's `timeout.per_try` passed in the last attempt.
    PerTryTimeout,
    /// Nothing came either way for the rule's `timeout.idle`.
    IdleTimeout,
    /// The caller's deadline had passed before anything was done.
    DeadlineExceeded,
    /// The head of the request was not complete within the listener's `limits.header_read`.
    SlowHead,
    /// The caller paused in the body for longer than the listener's `limits.body_read`.
    SlowBody,
    /// No TLS connection with the upstream.
    UpstreamTls(Refusal),
    /// No TLS connection with the caller.
    CallerTls(Refusal),
    /// The caller speaks in the clear where mutual TLS is asked for.
    Plaintext,
    /// The listener's policies do not allow it.
    Denied,
    /// A redirected connection was going to a port of weir's own.
    OwnPort,
    /// A connection of weir's own was handed back to it.
    Loop,
}

/// gRPC status codes that weir uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum GrpcCode {
    /// CANCELLED.
    Cancelled = 1,
    /// INVALID_ARGUMENT.
    InvalidArgument = 3,
    /// DEADLINE_EXCEEDED.
    DeadlineExceeded = 4,
    /// PERMISSION_DENIED.
    PermissionDenied = 7,
    /// RESOURCE_EXHAUSTED.
    ResourceExhausted = 8,
    /// UNIMPLEMENTED.
    Unimplemented = 12,
    /// INTERNAL.
    Internal = 13,
    /// UNAVAILABLE.
    Unavailable = 14,
}

/// Who has to do something about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// weir's configuration.
    Configuration,
    /// The upstream, or the way there.
    Upstream,
    /// The caller.
    Caller,
}

/// All there is to know of a fault.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The value of `x-weir-error`: stable, for programs.
    pub code: &'static str,
    /// Who has to do something about it.
    pub whose: Whose,
    /// The HTTP status.
    pub status: StatusCode,
    /// The gRPC status, for callers that speak gRPC.
    pub grpc: GrpcCode,
    /// Envoy's flag.
    pub flag: Flag,
    /// What happened, in one line.
    pub message: &'static str,
    /// What to do about it.
    pub advice: &'static str,
    /// Whether an HTTP/1 connection is closed after the answer: where the next request would begin is not certain, or
    /// the caller is not to be trusted with another one.
    pub closes_connection: bool,
}

impl Fault {
    /// Every fault but those of malformed requests and of TLS.
    pub const ALL: [Self; 23] = [
        Self::NoRoute,
        Self::NoRule,
        Self::NoEndpoint,
        Self::DnsFailure,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::UpstreamClosed,
        Self::UpstreamReset,
        Self::UpstreamProtocol,
        Self::RequestTimeout,
        Self::PerTryTimeout,
        Self::IdleTimeout,
        Self::DeadlineExceeded,
        Self::BadBody,
        Self::SlowHead,
        Self::SlowBody,
        Self::BadExpectation,
        Self::ConnectRefused,
        Self::Plaintext,
        Self::Denied,
        Self::OwnPort,
        Self::Loop,
        Self::DownstreamGone,
    ];

    /// The value of `x-weir-error`.
    pub fn code(self) -> &'static str {
        self.row().code
    }
    /// What happened, in one line.
    pub fn message(self) -> &'static str {
        self.row().message
    }
    /// The HTTP status.
    pub fn status(self) -> StatusCode {
        self.row().status
    }
    /// The gRPC status.
    pub fn grpc(self) -> GrpcCode {
        self.row().grpc
    }
    /// Envoy's flag.
    pub fn flag(self) -> Flag {
        self.row().flag
    }
    /// Whether an HTTP/1 connection is closed after the answer.
    pub fn closes_connection(self) -> bool {
        self.row().closes_connection
    }

    /// The table.
    #[expect(clippy::too_many_lines, reason = "it is one table")]
    pub fn row(self) -> Row {
        use GrpcCode as G;
        use StatusCode as S;
        use Whose::{Caller, Configuration, Upstream};
        let row = |code, whose, status, grpc, flag, message, advice| Row {
            code,
            whose,
            status,
            grpc,
            flag,
            message,
            advice,
            closes_connection: false,
        };
        match self {
            Self::NoRoute => row(
                "no_route",
                Configuration,
                S::NOT_FOUND,
                G::Unimplemented,
                Flag::NoRoute,
                "no route has this host; see `hosts` of the routes",
                "Look at the `Host` of the request and at `hosts`; a route without `listeners` belongs to outbound listeners only. `weir explain` shows the decision.",
            ),
            Self::NoRule => row(
                "no_rule",
                Configuration,
                S::NOT_FOUND,
                G::Unimplemented,
                Flag::NoRoute,
                "the host has a route, but none of its rules match this request",
                "Add a rule without `match` at the end for everything else. `weir explain` shows why each rule did not match.",
            ),
            Self::NoEndpoint => row(
                "no_endpoint",
                Upstream,
                S::SERVICE_UNAVAILABLE,
                G::Unavailable,
                Flag::NoHealthyUpstream,
                "the cluster has no endpoint",
                "`GET /clusters` shows what its names resolve to.",
            ),
            Self::DnsFailure => row(
                "dns_failure",
                Upstream,
                S::SERVICE_UNAVAILABLE,
                G::Unavailable,
                Flag::DnsFailure,
                "the name of the upstream cannot be resolved",
                "`GET /clusters` shows the resolver's error.",
            ),
            Self::ConnectFailed => row(
                "connect_failed",
                Upstream,
                S::SERVICE_UNAVAILABLE,
                G::Unavailable,
                Flag::UpstreamConnectFailure,
                "no connection could be opened to the upstream",
                "Is the app up, and on that port? Every other endpoint was tried, up to three.",
            ),
            Self::ConnectTimeout => row(
                "connect_timeout",
                Upstream,
                S::GATEWAY_TIMEOUT,
                G::Unavailable,
                Flag::UpstreamConnectFailure,
                "no connection to the upstream opened within connect_timeout",
                "A firewall, a full backlog, or a `connect_timeout` that is too short.",
            ),
            Self::UpstreamClosed => row(
                "upstream_closed",
                Upstream,
                S::SERVICE_UNAVAILABLE,
                G::Unavailable,
                Flag::UpstreamConnectionTermination,
                "the upstream closed the connection before it answered",
                "The app ended or crashed in the middle of it: see its log. A connection that died idle is replaced without an error.",
            ),
            Self::UpstreamReset => row(
                "upstream_reset",
                Upstream,
                S::SERVICE_UNAVAILABLE,
                G::Unavailable,
                Flag::UpstreamReset,
                "the upstream reset the request",
                "See the app's log.",
            ),
            Self::UpstreamProtocol => row(
                "upstream_protocol",
                Upstream,
                S::BAD_GATEWAY,
                G::Internal,
                Flag::UpstreamProtocolError,
                "the upstream's response is not valid HTTP, or its header is over a limit",
                "Does the cluster's `protocol` fit the app? The limits are 64 KiB and 100 fields of header.",
            ),
            Self::RequestTimeout => row(
                "request_timeout",
                Upstream,
                S::GATEWAY_TIMEOUT,
                G::DeadlineExceeded,
                Flag::UpstreamTimeout,
                "the response was not complete within the rule's timeout.request or the caller's deadline",
                "The app is slow, or `timeout.request` of the rule is too short; the log has the duration.",
            ),
            Self::PerTryTimeout => row(
                "per_try_timeout",
                Upstream,
                S::GATEWAY_TIMEOUT,
                G::DeadlineExceeded,
                Flag::UpstreamTimeout,
                "no response began within the rule's timeout.per_try",
                "The app is slow, or `timeout.per_try` of the rule is too short; the log has the number of attempts.",
            ),
            Self::IdleTimeout => row(
                "idle_timeout",
                Upstream,
                S::GATEWAY_TIMEOUT,
                G::DeadlineExceeded,
                Flag::StreamIdle,
                "nothing came either way for as long as the rule's timeout.idle",
                "Send something now and then (gRPC keep-alive, SSE comments), or set `timeout.idle`.",
            ),
            Self::DeadlineExceeded => row(
                "deadline_exceeded",
                Caller,
                S::GATEWAY_TIMEOUT,
                G::DeadlineExceeded,
                Flag::DownstreamDeadline,
                "the caller's deadline had passed before anything was done",
                "The work was late when it came: somebody before this hop is slow, or the deadline too short.",
            ),
            Self::BadBody => Row {
                closes_connection: true,
                ..row(
                    "bad_body",
                    Caller,
                    S::BAD_REQUEST,
                    G::InvalidArgument,
                    Flag::DownstreamProtocolError,
                    "the request body is incomplete or malformed",
                    "See the caller.",
                )
            },
            Self::SlowHead => Row {
                closes_connection: true,
                ..row(
                    "slow_head",
                    Caller,
                    S::REQUEST_TIMEOUT,
                    G::DeadlineExceeded,
                    Flag::DownstreamProtocolError,
                    "the request header was not complete within limits.header_read",
                    "A very slow caller, or one that holds connections open on purpose.",
                )
            },
            Self::SlowBody => Row {
                closes_connection: true,
                ..row(
                    "slow_body",
                    Caller,
                    S::REQUEST_TIMEOUT,
                    G::DeadlineExceeded,
                    Flag::DownstreamProtocolError,
                    "the caller paused in the request body for longer than limits.body_read",
                    "A very slow caller, or one that holds connections open on purpose; streams that pause need a longer `limits.body_read`.",
                )
            },
            Self::BadExpectation => row(
                "bad_expectation",
                Caller,
                S::EXPECTATION_FAILED,
                G::InvalidArgument,
                Flag::DownstreamProtocolError,
                "only `Expect: 100-continue` is understood",
                "",
            ),
            Self::ConnectRefused => row(
                "connect_refused",
                Caller,
                S::METHOD_NOT_ALLOWED,
                G::Unimplemented,
                Flag::DownstreamProtocolError,
                "CONNECT is not allowed here, or not for this protocol",
                "Allow it in `upgrades` of the rule: `connect`, or the name of the protocol.",
            ),
            Self::DownstreamGone => Row {
                closes_connection: true,
                ..row(
                    // Nobody is there to read it; nginx's convention, for the log.
                    "downstream_gone",
                    Caller,
                    S::from_u16(499).unwrap_or(S::BAD_REQUEST),
                    G::Cancelled,
                    Flag::DownstreamTermination,
                    "the caller went away",
                    "Usually the caller's own timeout.",
                )
            },
            Self::UpstreamTls(refusal) => row(
                refusal.upstream_code(),
                Upstream,
                S::SERVICE_UNAVAILABLE,
                G::Unavailable,
                Flag::UpstreamConnectFailure,
                refusal.text(),
                "`GET /certs` shows this proxy's own certificate and whom it believes.",
            ),
            Self::CallerTls(refusal) => Row {
                closes_connection: true,
                ..row(
                    refusal.caller_code(),
                    Caller,
                    S::FORBIDDEN,
                    G::PermissionDenied,
                    Flag::DownstreamProtocolError,
                    refusal.text(),
                    "`GET /certs` shows this proxy's own certificate and whom it believes.",
                )
            },
            Self::Plaintext => Row {
                closes_connection: true,
                ..row(
                    "plaintext",
                    Caller,
                    S::FORBIDDEN,
                    G::PermissionDenied,
                    Flag::DownstreamProtocolError,
                    "the caller speaks in the clear, and the listener asks for TLS",
                    "Give the caller a sidecar, or set `tls: permissive` until every caller has one (`weir advise strict`). At the edge, call it by https.",
                )
            },
            // Which policy it was is no affair of the caller's.
            Self::Denied => row(
                "denied",
                Caller,
                S::FORBIDDEN,
                G::PermissionDenied,
                Flag::Unauthorized,
                "the caller may not do this",
                "The access log names the policy (`authorization`); `weir explain --from` shows what each policy says.",
            ),
            Self::OwnPort => Row {
                closes_connection: true,
                ..row(
                    "own_port",
                    Caller,
                    S::MISDIRECTED_REQUEST,
                    G::Unavailable,
                    Flag::NoRoute,
                    "the connection was going to a port of weir's own, from where it would come back for ever",
                    "Call the app's own port. Probes and scrapers from outside call the port of `probes`, which redirection must leave alone (`--exclude-inbound-ports`).",
                )
            },
            Self::Loop => Row {
                closes_connection: true,
                ..row(
                    "loop",
                    Configuration,
                    S::LOOP_DETECTED,
                    G::Unavailable,
                    Flag::NoRoute,
                    "a connection that weir opened was handed back to it by redirection",
                    "Run weir as the user that the rules leave alone, 1337 unless `weir redirect install --uid` says otherwise; `weir redirect print` shows it.",
                )
            },
            Self::BadRequest(bad) => Row {
                closes_connection: true,
                ..row(bad.code(), Caller, bad.status(), G::InvalidArgument, Flag::DownstreamProtocolError, bad.message(), "")
            },
        }
    }
}
