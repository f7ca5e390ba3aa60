//! How a request can be malformed.

use http::StatusCode;

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
    /// Something other than TLS where TLS is passed through.
    NotTls,
    /// A PROXY header is missing where there must be one, or malformed.
    ProxyHeader,
}

impl BadRequest {
    /// Every way.
    pub const ALL: [Self; 18] = [
        Self::Syntax,
        Self::LineEnd,
        Self::Folded,
        Self::BothLengths,
        Self::Length,
        Self::TransferEncoding,
        Self::UnknownCoding,
        Self::Chunk,
        Self::Host,
        Self::Target,
        Self::EncodedNul,
        Self::UpgradeBody,
        Self::HeaderBytes,
        Self::HeaderCount,
        Self::Version,
        Self::Pseudo,
        Self::NotTls,
        Self::ProxyHeader,
    ];

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
            Self::NotTls => "not_tls",
            Self::ProxyHeader => "bad_proxy_header",
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
            Self::NotTls => "the listener passes TLS through, and this is not TLS",
            Self::ProxyHeader => "the connection must begin with a PROXY header (the listener's proxy_protocol)",
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
            | Self::Pseudo
            | Self::NotTls
            | Self::ProxyHeader => StatusCode::BAD_REQUEST,
        }
    }
}
