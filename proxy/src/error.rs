//! Everything that can go wrong with a request, in one exhaustive table.
//!
//! Every variant answers: its code (`x-weir-error`), the HTTP status, the gRPC code, Envoy's flag, and a line for
//! people. Matches have no `_` arm, so a new variant does not compile until somebody has decided all of it.

use http::StatusCode;

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
    /// The listener has as many connections as it may.
    Overload,
}

/// How a request is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadRequest {
    /// Request line, names or characters that HTTP/1 does not allow.
    Syntax,
    /// A line ends without CR LF, or a CR or NUL stands where it may not.
    LineEnd,
    /// A header is folded over several lines.
    Folded,
    /// Both Content-Length and Transfer-Encoding.
    BothLengths,
    /// Several Content-Length fields, or one that is not a number.
    Length,
    /// Transfer-Encoding on HTTP/1.0, repeated, or ending other than in `chunked`.
    TransferEncoding,
    /// Transfer-Encoding other than `chunked`, which weir does not implement.
    UnknownCoding,
    /// A chunk is malformed.
    Chunk,
    /// None, several, or contradictory hosts.
    Host,
    /// The request target is not a path, or has a fragment.
    Target,
    /// The path has an encoded NUL.
    EncodedNul,
    /// An upgrade with a body.
    UpgradeBody,
    /// The header block is over the limit of bytes.
    HeaderBytes,
    /// The header block is over the limit of fields.
    HeaderCount,
    /// A version other than 1.0 and 1.1.
    Version,
    /// Pseudo-headers of HTTP/2 are missing or contradictory.
    Pseudo,
}

/// gRPC status codes that weir uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum GrpcCode {
    /// CANCELLED.
    Cancelled = 1,
    /// INVALID_ARGUMENT.
    InvalidArgument = 3,
    /// RESOURCE_EXHAUSTED.
    ResourceExhausted = 8,
    /// UNIMPLEMENTED.
    Unimplemented = 12,
    /// INTERNAL.
    Internal = 13,
    /// UNAVAILABLE.
    Unavailable = 14,
}

/// Envoy's response flags, as far as weir sets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Flag {
    /// NR: no route.
    NoRoute,
    /// UH: no healthy upstream.
    NoHealthyUpstream,
    /// DF: DNS resolution failed.
    DnsFailure,
    /// UF: upstream connection failure.
    UpstreamConnectFailure,
    /// UC: upstream connection termination.
    UpstreamConnectionTermination,
    /// UR: upstream remote reset.
    UpstreamReset,
    /// UPE: upstream protocol error.
    UpstreamProtocolError,
    /// DC: downstream connection termination.
    DownstreamTermination,
    /// DPE: downstream protocol error.
    DownstreamProtocolError,
    /// UO: overflow.
    Overflow,
}

impl Flag {
    /// All flags, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::NoRoute,
        Self::NoHealthyUpstream,
        Self::DnsFailure,
        Self::UpstreamConnectFailure,
        Self::UpstreamConnectionTermination,
        Self::UpstreamReset,
        Self::UpstreamProtocolError,
        Self::DownstreamTermination,
        Self::DownstreamProtocolError,
        Self::Overflow,
    ];

    /// Envoy's letters.
    pub fn letters(self) -> &'static str {
        match self {
            Self::NoRoute => "NR",
            Self::NoHealthyUpstream => "UH",
            Self::DnsFailure => "DF",
            Self::UpstreamConnectFailure => "UF",
            Self::UpstreamConnectionTermination => "UC",
            Self::UpstreamReset => "UR",
            Self::UpstreamProtocolError => "UPE",
            Self::DownstreamTermination => "DC",
            Self::DownstreamProtocolError => "DPE",
            Self::Overflow => "UO",
        }
    }
}

impl Fault {
    /// The value of `x-weir-error`: stable, for programs.
    pub fn code(self) -> &'static str {
        match self {
            Self::NoRoute => "no_route",
            Self::NoRule => "no_rule",
            Self::NoEndpoint => "no_endpoint",
            Self::DnsFailure => "dns_failure",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::UpstreamClosed => "upstream_closed",
            Self::UpstreamReset => "upstream_reset",
            Self::UpstreamProtocol => "upstream_protocol",
            Self::DownstreamGone => "downstream_gone",
            Self::BadBody => "bad_body",
            Self::BadRequest(bad) => bad.code(),
            Self::ConnectRefused => "connect_refused",
            Self::BadExpectation => "bad_expectation",
            Self::Overload => "overload",
        }
    }

    /// What happened and what to do, in one line for people.
    pub fn message(self) -> &'static str {
        match self {
            Self::NoRoute => "no route has this host; see `hosts` of the routes",
            Self::NoRule => "the host has a route, but none of its rules match this request",
            Self::NoEndpoint => "the cluster has no endpoint",
            Self::DnsFailure => "the name of the upstream cannot be resolved",
            Self::ConnectFailed => "no connection could be opened to the upstream",
            Self::ConnectTimeout => "no connection to the upstream opened within connect_timeout",
            Self::UpstreamClosed => "the upstream closed the connection before it answered",
            Self::UpstreamReset => "the upstream reset the request",
            Self::UpstreamProtocol => "the upstream's response is not valid HTTP, or its header is over a limit",
            Self::DownstreamGone => "the caller went away",
            Self::BadBody => "the request body is incomplete or malformed",
            Self::BadRequest(bad) => bad.message(),
            Self::ConnectRefused => "CONNECT is not allowed here",
            Self::BadExpectation => "only `Expect: 100-continue` is understood",
            Self::Overload => "the listener has as many connections as its limit allows",
        }
    }

    /// The HTTP status.
    pub fn status(self) -> StatusCode {
        match self {
            Self::NoRoute | Self::NoRule => StatusCode::NOT_FOUND,
            Self::NoEndpoint
            | Self::DnsFailure
            | Self::ConnectFailed
            | Self::UpstreamClosed
            | Self::UpstreamReset
            | Self::Overload => StatusCode::SERVICE_UNAVAILABLE,
            Self::ConnectTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::UpstreamProtocol => StatusCode::BAD_GATEWAY,
            // Nobody is there to read it; nginx's convention, for the log.
            Self::DownstreamGone => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
            Self::BadBody => StatusCode::BAD_REQUEST,
            Self::BadRequest(bad) => bad.status(),
            Self::ConnectRefused => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadExpectation => StatusCode::EXPECTATION_FAILED,
        }
    }

    /// The gRPC status, for callers that speak gRPC.
    pub fn grpc(self) -> GrpcCode {
        match self {
            Self::NoRoute | Self::NoRule | Self::ConnectRefused => GrpcCode::Unimplemented,
            Self::NoEndpoint
            | Self::DnsFailure
            | Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::UpstreamClosed
            | Self::UpstreamReset => GrpcCode::Unavailable,
            Self::UpstreamProtocol => GrpcCode::Internal,
            Self::DownstreamGone => GrpcCode::Cancelled,
            Self::BadBody | Self::BadRequest(_) | Self::BadExpectation => GrpcCode::InvalidArgument,
            Self::Overload => GrpcCode::ResourceExhausted,
        }
    }

    /// Whether an HTTP/1 connection is closed after the answer: where the next request would begin is not certain, or
    /// the caller is not to be trusted with another one.
    pub fn closes_connection(self) -> bool {
        match self {
            Self::BadBody | Self::BadRequest(_) | Self::DownstreamGone => true,
            Self::NoRoute
            | Self::NoRule
            | Self::NoEndpoint
            | Self::DnsFailure
            | Self::ConnectFailed
            | Self::ConnectTimeout
            | Self::UpstreamClosed
            | Self::UpstreamReset
            | Self::UpstreamProtocol
            | Self::ConnectRefused
            | Self::BadExpectation
            | Self::Overload => false,
        }
    }

    /// Envoy's flag.
    pub fn flag(self) -> Flag {
        match self {
            Self::NoRoute | Self::NoRule => Flag::NoRoute,
            Self::NoEndpoint => Flag::NoHealthyUpstream,
            Self::DnsFailure => Flag::DnsFailure,
            Self::ConnectFailed | Self::ConnectTimeout => Flag::UpstreamConnectFailure,
            Self::UpstreamClosed => Flag::UpstreamConnectionTermination,
            Self::UpstreamReset => Flag::UpstreamReset,
            Self::UpstreamProtocol => Flag::UpstreamProtocolError,
            Self::DownstreamGone => Flag::DownstreamTermination,
            Self::BadBody | Self::BadRequest(_) | Self::ConnectRefused | Self::BadExpectation => Flag::DownstreamProtocolError,
            Self::Overload => Flag::Overflow,
        }
    }
}

impl BadRequest {
    /// The stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Syntax => "bad_syntax",
            Self::LineEnd => "bad_line_end",
            Self::Folded => "folded_header",
            Self::BothLengths => "both_lengths",
            Self::Length => "bad_content_length",
            Self::TransferEncoding => "bad_transfer_encoding",
            Self::UnknownCoding => "unknown_transfer_coding",
            Self::Chunk => "bad_chunk",
            Self::Host => "bad_host",
            Self::Target => "bad_target",
            Self::EncodedNul => "encoded_nul",
            Self::UpgradeBody => "upgrade_with_body",
            Self::HeaderBytes => "header_bytes",
            Self::HeaderCount => "header_count",
            Self::Version => "bad_version",
            Self::Pseudo => "bad_pseudo_header",
        }
    }

    /// What is wrong, in one line.
    pub fn message(self) -> &'static str {
        match self {
            Self::Syntax => "the request line or a header field is not valid HTTP/1",
            Self::LineEnd => "lines end in CR LF, and neither CR, LF nor NUL may stand elsewhere",
            Self::Folded => "a header field may not continue on another line",
            Self::BothLengths => "Content-Length and Transfer-Encoding exclude each other",
            Self::Length => "there must be one Content-Length, a number",
            Self::TransferEncoding => "Transfer-Encoding must be one `chunked`, and not on HTTP/1.0",
            Self::UnknownCoding => "no transfer coding but `chunked` is implemented",
            Self::Chunk => "a chunk of the body is malformed",
            Self::Host => "there must be one valid Host, the same as in the request target",
            Self::Target => "the request target is not valid",
            Self::EncodedNul => "the path has an encoded NUL (%00) in it",
            Self::UpgradeBody => "a request for an upgrade may not have a body",
            Self::HeaderBytes => "the header block is over the listener's limits.header_bytes",
            Self::HeaderCount => "the header block is over the listener's limits.header_count",
            Self::Version => "only HTTP/1.0, HTTP/1.1 and HTTP/2 are spoken here",
            Self::Pseudo => "the pseudo-headers are incomplete or contradictory",
        }
    }

    /// The HTTP status.
    pub fn status(self) -> StatusCode {
        match self {
            Self::HeaderBytes | Self::HeaderCount => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::UnknownCoding => StatusCode::NOT_IMPLEMENTED,
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::Syntax
            | Self::LineEnd
            | Self::Folded
            | Self::BothLengths
            | Self::Length
            | Self::TransferEncoding
            | Self::Chunk
            | Self::Host
            | Self::Target
            | Self::EncodedNul
            | Self::UpgradeBody
            | Self::Pseudo => StatusCode::BAD_REQUEST,
        }
    }
}
