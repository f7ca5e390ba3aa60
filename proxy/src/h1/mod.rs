//! The HTTP/1 codec, for both sides of weir: bytes to messages, messages to bytes, and the socket between.
//!
//! Two readers of one stream that disagree on where a message ends are how requests are smuggled, so what comes in is
//! read once, strictly (RFC 9112): [`request`] and [`response`] read heads and decide what frames the body, [`decode`]
//! follows that framing, and only what has one meaning goes on, re-framed by [`encode`]. Those four are pure; tokens are
//! httparse's affair. [`wire`] is the socket with what was read and not taken yet, [`send`] moves a message into it.
//!
//! Decides nothing about requests: no routing, no retries, no headers but those that frame a message or belong to one
//! connection. Written here, and not left to a library, for three things that proxies need and servers do not: names
//! leave spelled as they came, informational responses pass both ways, and it is known what was sent when something
//! breaks; and because it halves the cost of a request (`docs/performance.md`).

pub mod decode;
pub mod encode;
mod large;
pub mod request;
pub mod response;
pub mod send;
pub mod spare;
pub mod spelling;
pub mod wire;

use std::io;

use crate::error::BadRequest;

/// Why a message could not be read to its end.
#[derive(Debug)]
pub enum Broken {
    /// The stream ended inside the message.
    Ended,
    /// The socket failed.
    Io(io::Error),
    /// The bytes are no HTTP/1, or over a limit.
    Malformed(BadRequest),
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ended => f.write_str("the stream ended inside a message"),
            Self::Io(error) => error.fmt(f),
            Self::Malformed(bad) => f.write_str(bad.message()),
        }
    }
}

impl std::error::Error for Broken {}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<BadRequest> for Broken {
    fn from(bad: BadRequest) -> Self {
        Self::Malformed(bad)
    }
}

/// How the body of a message is delimited (RFC 9112, section 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// So many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
    /// Up to the end of the stream; responses only.
    UntilClose,
}

/// How large a head may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes, from the first line to the empty one.
    pub header_bytes: usize,
    /// Fields.
    pub header_count: usize,
}

/// Fields that fit on the stack; more are parsed on the heap.
const STACK_FIELDS: usize = 64;
