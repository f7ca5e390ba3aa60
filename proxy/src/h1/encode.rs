//! Messages as bytes: heads, and the framing of bodies. Pure.
//!
//! What frames a message is decided here and nowhere else: whatever the header map says of the connection or of transfer
//! codings is left out, and a body never leaves in another length than was announced.

use std::cell::RefCell;
use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderMap, HeaderName, TRANSFER_ENCODING};
use http::{Method, Response, StatusCode, Uri, request};
use http_body::SizeHint;

use super::request::{RequestHead, content_length};
use super::spelling::Spelling;

/// How a body leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// So many bytes, all told.
    Length(u64),
    /// In chunks.
    Chunked,
    /// Up to the end of the connection.
    UntilClose,
    /// Announced, but not sent: the answer to HEAD, 204, 304.
    None,
}

/// What a request says beyond its head.
#[derive(Debug, Clone, Copy, Default)]
pub struct Addition {
    /// That it asks for the protocol that its `upgrade` header names.
    pub upgrade: bool,
    /// In how many milliseconds an answer is wanted: `x-request-timeout-ms`, in place of what the caller said. Written
    /// straight, because a header map costs more than all else that a deadline does.
    pub timeout_ms: Option<u64>,
}

/// The name of [`Addition::timeout_ms`].
pub const TIMEOUT_MS: &str = "x-request-timeout-ms";

/// The head of a request whose body is so large, and how that is to follow.
pub fn request(out: &mut Vec<u8>, head: &request::Parts, spelling: &Spelling, body: &SizeHint, more: Addition) -> Coding {
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    target(out, &head.uri);
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let seen = fields(out, &head.headers, spelling, Without { length: false, timeout: more.timeout_ms.is_some() });
    if let Some(millis) = more.timeout_ms {
        field(out, TIMEOUT_MS.as_bytes(), itoa::Buffer::new().format(millis).as_bytes());
    }
    let coding = match (seen.length, body.exact()) {
        (Some(length), _) => Coding::Length(length),
        (None, Some(0)) => {
            // A request that usually has a body says that it has none (RFC 9110, section 8.6).
            if matches!(head.method, Method::POST | Method::PUT | Method::PATCH) {
                out.extend_from_slice(b"content-length: 0\r\n");
            }
            Coding::Length(0)
        }
        (None, _) => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
            Coding::Chunked
        }
    };
    if more.upgrade && head.method != Method::CONNECT {
        out.extend_from_slice(b"connection: upgrade\r\n");
    }
    out.extend_from_slice(b"\r\n");
    coding
}

/// The target. Only what is said to a proxy names the host: with its scheme, or for CONNECT alone (RFC 9112, section 3.2).
fn target(out: &mut Vec<u8>, uri: &Uri) {
    if let Some(authority) = uri.authority() {
        if let Some(scheme) = uri.scheme_str() {
            out.extend_from_slice(scheme.as_bytes());
            out.extend_from_slice(b"://");
        }
        out.extend_from_slice(authority.as_str().as_bytes());
    }
    let otherwise = if uri.authority().is_some() { "" } else { "/" };
    out.extend_from_slice(uri.path_and_query().map_or(otherwise, |target| target.as_str()).as_bytes());
}

/// Who gets a response.
#[derive(Debug, Clone, Copy)]
pub struct Recipient {
    /// Speaks HTTP/1.0, which knows neither chunks nor connections that stay unasked.
    pub old: bool,
    /// Asked with HEAD.
    pub head_only: bool,
    /// Whether the connection stays.
    pub keep_alive: bool,
    /// Whether the connection becomes a tunnel after this response.
    pub switches: bool,
}

impl Recipient {
    /// Who sent this request.
    pub fn of(head: &RequestHead) -> Self {
        Self { old: head.is_old(), head_only: head.head.method == Method::HEAD, keep_alive: head.keep_alive, switches: false }
    }
}

/// The head of a response whose body is so large, and how that is to follow.
pub fn response<B>(
    out: &mut Vec<u8>,
    response: &Response<B>,
    spelling: &Spelling,
    body: &SizeHint,
    recipient: Recipient,
) -> Coding {
    status_line(out, response.status(), spelling, recipient.old);
    let status = response.status();
    let bodiless = status == StatusCode::NO_CONTENT || status.is_informational() || recipient.switches;
    let seen = fields(out, response.headers(), spelling, Without { length: bodiless, timeout: false });
    let coding = match (seen.length, body.exact()) {
        _ if recipient.head_only || bodiless || status == StatusCode::NOT_MODIFIED => Coding::None,
        (Some(length), _) => Coding::Length(length),
        (None, Some(length)) => {
            out.extend_from_slice(b"content-length: ");
            out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
            out.extend_from_slice(b"\r\n");
            Coding::Length(length)
        }
        (None, None) if recipient.old => Coding::UntilClose,
        (None, None) => {
            out.extend_from_slice(b"transfer-encoding: chunked\r\n");
            Coding::Chunked
        }
    };
    if !seen.date {
        date(out);
    }
    if recipient.switches {
        // The answer to CONNECT says nothing of the connection, which is the caller's from now on.
        if status == StatusCode::SWITCHING_PROTOCOLS {
            out.extend_from_slice(b"connection: upgrade\r\n");
        }
        out.extend_from_slice(b"\r\n");
        return coding;
    }
    match (recipient.keep_alive && coding != Coding::UntilClose, recipient.old) {
        (true, true) => out.extend_from_slice(b"connection: keep-alive\r\n"),
        (false, false) => out.extend_from_slice(b"connection: close\r\n"),
        (true, false) | (false, true) => {}
    }
    out.extend_from_slice(b"\r\n");
    coding
}

/// An informational response, whole.
pub fn informational(out: &mut Vec<u8>, status: StatusCode, headers: &HeaderMap) {
    status_line(out, status, &Spelling::default(), false);
    fields(out, headers, &Spelling::default(), Without { length: true, timeout: false });
    out.extend_from_slice(b"\r\n");
}

fn status_line(out: &mut Vec<u8>, status: StatusCode, spelling: &Spelling, old: bool) {
    out.extend_from_slice(if old { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    match spelling.reason() {
        b"" => out.extend_from_slice(status.canonical_reason().unwrap_or("").as_bytes()),
        reason => out.extend_from_slice(reason),
    }
    out.extend_from_slice(b"\r\n");
}

/// What was among the fields.
#[derive(Default)]
struct Seen {
    length: Option<u64>,
    date: bool,
}

/// What is left out of the fields.
#[derive(Clone, Copy)]
struct Without {
    length: bool,
    timeout: bool,
}

/// Writes every field but those that frame the message or belong to the connection.
fn fields(out: &mut Vec<u8>, headers: &HeaderMap, spelling: &Spelling, without: Without) -> Seen {
    let mut seen = Seen::default();
    let mut names = spelling.reader();
    for (name, value) in headers {
        match name.as_str().len() {
            4 if name == DATE => seen.date = true,
            10 if name == CONNECTION => continue,
            14 if name == CONTENT_LENGTH => match content_length(value.as_bytes()) {
                Some(length) if !without.length && seen.length.is_none() => seen.length = Some(length),
                _ => continue,
            },
            17 if name == TRANSFER_ENCODING => continue,
            20 if without.timeout && name == TIMEOUT_MS => continue,
            _ => {}
        }
        field(out, names.spell(name.as_str()), value.as_bytes());
    }
    seen
}

fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Begins a chunk.
pub fn chunk(out: &mut Vec<u8>, length: usize) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 16];
    let (mut at, mut rest) = (text.len(), length);
    while at > 0 && (rest > 0 || at == text.len()) {
        at -= 1;
        text[at] = DIGITS[rest & 15];
        rest >>= 4;
    }
    out.extend_from_slice(&text[at..]);
    out.extend_from_slice(b"\r\n");
}

/// Ends a body in chunks. A trailer that would be framing is left out.
pub fn last_chunk(out: &mut Vec<u8>, trailers: Option<&HeaderMap>) {
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        if is_trailer(name) {
            field(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn is_trailer(name: &HeaderName) -> bool {
    !matches!(name.as_str(), "content-length" | "transfer-encoding" | "host" | "trailer" | "connection")
}

/// The time of the message (RFC 9110, section 6.6.1), made once a second.
fn date(out: &mut Vec<u8>) {
    thread_local! {
        static LAST: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
    }
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    LAST.with_borrow_mut(|(known, text)| {
        if *known != second || text.is_empty() {
            *known = second;
            *text = httpdate::fmt_http_date(now);
        }
        field(out, b"date", text.as_bytes());
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks() {
        for (length, text) in
            [(0, "0\r\n"), (1, "1\r\n"), (16, "10\r\n"), (65535, "ffff\r\n"), (usize::MAX, "ffffffffffffffff\r\n")]
        {
            let mut out = Vec::new();
            chunk(&mut out, length);
            assert_eq!(out, text.as_bytes());
        }
    }

    #[test]
    fn what_frames_a_message_is_decided_here() {
        let response = Response::builder()
            .header("transfer-encoding", "gzip")
            .header("connection", "x")
            .header("content-length", "5")
            .header("content-length", "6")
            .header("date", "now")
            .header("x", "y")
            .body(())
            .unwrap();
        let mut out = Vec::new();
        let to = Recipient { old: false, head_only: false, keep_alive: true, switches: false };
        let coding = super::response(&mut out, &response, &Spelling::default(), &SizeHint::with_exact(5), to);
        assert_eq!(coding, Coding::Length(5));
        assert_eq!(std::str::from_utf8(&out), Ok("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ndate: now\r\nx: y\r\n\r\n"));
    }
}
