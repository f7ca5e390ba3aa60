//! The head of a request: where it ends, whether it has one meaning, and what that is.
//!
//! Refuses whatever two readers could understand differently (RFC 9112, sections 2, 3, 5 and 6). Pure.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Uri, Version};
use memchr::memmem;

use super::spelling::Spelling;
use super::{Framing, Limits, STACK_FIELDS, spare};
use crate::error::BadRequest;

/// A request without its body.
#[derive(Debug)]
pub struct RequestHead {
    /// Method, target, version, headers. Boxed: it is handed on often, and large.
    pub head: Box<Parts>,
    /// What follows it on the stream.
    pub framing: Framing,
    /// How it was spelled.
    pub spelling: Spelling,
    /// Whether the caller wants the connection to stay (RFC 9112, section 9.3).
    pub keep_alive: bool,
    /// Whether the caller waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
}

impl RequestHead {
    /// Whether it is HTTP/1.0.
    pub fn is_old(&self) -> bool {
        self.head.version == Version::HTTP_10
    }
}

/// Finds the end of a head in bytes that arrive in pieces.
#[derive(Debug, Default)]
pub struct Scanner {
    /// So many bytes of the input were looked at and have no end of a head in them.
    seen: usize,
}

impl Scanner {
    /// Takes a complete head from the front of `input`; `None` if more must come first.
    ///
    /// # Errors
    /// What is wrong with the lines, as soon as it shows: a head of bare line feeds would never be complete.
    pub fn next(&mut self, input: &mut BytesMut, limits: Limits) -> Result<Option<Bytes>, BadRequest> {
        // An empty line before a request line is tolerated (RFC 9112, section 2.2).
        while input.starts_with(b"\r\n") {
            input.advance(2);
            self.seen = 0;
        }
        for end in memchr::memchr_iter(b'\n', &input[self.seen..]) {
            let end = self.seen + end;
            match input[..end].last_chunk::<3>() {
                Some(b"\r\n\r") => {
                    if end >= limits.header_bytes {
                        return Err(BadRequest::HeaderBytes);
                    }
                    self.seen = 0;
                    return Ok(Some(input.split_to(end + 1).freeze()));
                }
                Some([.., b'\r']) => {}
                _ => return Err(BadRequest::LineEnd),
            }
        }
        let dangling = input.last() == Some(&b'\r');
        lines(&input[self.seen.saturating_sub(1)..input.len() - usize::from(dangling)], self.seen > 0)?;
        if input.len() > limits.header_bytes {
            return Err(BadRequest::HeaderBytes);
        }
        self.seen = input.len();
        Ok(None)
    }
}

/// Every CR precedes an LF, every LF follows a CR, and there is no NUL. `continued` says that the first byte was looked
/// at before, and is here for what follows it.
fn lines(bytes: &[u8], continued: bool) -> Result<(), BadRequest> {
    let well = |(at, byte): (usize, &u8)| match byte {
        b'\r' => bytes.get(at + 1) == Some(&b'\n'),
        b'\n' => (at == 0 && continued) || at.checked_sub(1).is_some_and(|before| bytes[before] == b'\r'),
        0 => false,
        _ => true,
    };
    bytes.iter().enumerate().all(well).then_some(()).ok_or(BadRequest::LineEnd)
}

/// Reads a complete head.
///
/// # Errors
/// The first offence.
pub fn read(head: &Bytes, limits: Limits) -> Result<RequestHead, BadRequest> {
    let mut few = [const { MaybeUninit::uninit() }; STACK_FIELDS];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(head, &mut few) {
        Ok(_) if request.headers.len() > limits.header_count => Err(BadRequest::HeaderCount),
        Ok(_) => judge(head, &request),
        Err(httparse::Error::TooManyHeaders) => {
            let mut many = vec![MaybeUninit::uninit(); limits.header_count];
            let mut request = httparse::Request::new(&mut []);
            match request.parse_with_uninit_headers(head, &mut many) {
                Ok(_) => judge(head, &request),
                Err(error) => Err(syntax(error, head)),
            }
        }
        Err(error) => Err(syntax(error, head)),
    }
}

/// Names the offence when httparse refuses a head.
fn syntax(error: httparse::Error, head: &[u8]) -> BadRequest {
    if lines(head, false).is_err() {
        return BadRequest::LineEnd;
    }
    match error {
        httparse::Error::TooManyHeaders => BadRequest::HeaderCount,
        httparse::Error::Version => BadRequest::Version,
        httparse::Error::HeaderName if memmem::find(head, b"\n ").is_some() || memmem::find(head, b"\n\t").is_some() => {
            BadRequest::Folded
        }
        httparse::Error::HeaderName
        | httparse::Error::HeaderValue
        | httparse::Error::NewLine
        | httparse::Error::Status
        | httparse::Error::Token => BadRequest::Syntax,
    }
}

/// What a head says about framing, host and connection.
#[derive(Default)]
struct Found<'h> {
    length: Option<&'h [u8]>,
    coding: Option<&'h [u8]>,
    host: Option<&'h [u8]>,
    upgrade: bool,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
    repeated: Option<BadRequest>,
}

impl<'h> Found<'h> {
    fn look(fields: &[httparse::Header<'h>]) -> Self {
        let mut found = Self::default();
        for field in fields {
            let (slot, offence) = match field.name.len() {
                4 if field.name.eq_ignore_ascii_case("host") => (&mut found.host, BadRequest::Host),
                6 if field.name.eq_ignore_ascii_case("expect") => {
                    found.expects_continue |= field.value.eq_ignore_ascii_case(b"100-continue");
                    continue;
                }
                7 if field.name.eq_ignore_ascii_case("upgrade") => {
                    // Any protocol but h2c counts, wherever it stands.
                    found.upgrade |= !field.value.eq_ignore_ascii_case(b"h2c");
                    continue;
                }
                10 if field.name.eq_ignore_ascii_case("connection") => {
                    found.close |= names(field.value, b"close");
                    found.keep_alive |= names(field.value, b"keep-alive");
                    continue;
                }
                14 if field.name.eq_ignore_ascii_case("content-length") => (&mut found.length, BadRequest::Length),
                17 if field.name.eq_ignore_ascii_case("transfer-encoding") => (&mut found.coding, BadRequest::TransferEncoding),
                _ => continue,
            };
            if slot.replace(field.value).is_some() {
                found.repeated = Some(offence);
            }
        }
        found
    }
}

/// Whether a list of tokens has this one.
pub fn names(list: &[u8], token: &[u8]) -> bool {
    list.split(|b| *b == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(token))
}

/// Judges a parsed head, and makes it a request.
fn judge(head: &Bytes, parsed: &httparse::Request<'_, '_>) -> Result<RequestHead, BadRequest> {
    let found = Found::look(parsed.headers);
    if found.length.is_some() && found.coding.is_some() {
        return Err(BadRequest::BothLengths);
    }
    if let Some(offence) = found.repeated {
        return Err(offence);
    }
    let old = parsed.version == Some(0);
    let method = parsed.method.unwrap_or_default();
    let path = parsed.path.unwrap_or_default();
    let uri = target(head, method, path, found.host, old)?;
    let framing = framing(&found, old)?;
    // Nobody accepts h2c this way any more, so it cannot be mistaken for a tunnel; curl sends it with bodies.
    if found.upgrade && framing != Framing::None {
        return Err(BadRequest::UpgradeBody);
    }
    let mut parts = spare::head();
    parts.method = Method::from_bytes(method.as_bytes()).map_err(|_| BadRequest::Syntax)?;
    parts.uri = uri;
    parts.version = if old { Version::HTTP_10 } else { Version::HTTP_11 };
    parts.headers = headers(head, parsed.headers).ok_or(BadRequest::HeaderCount)?;
    Ok(RequestHead {
        head: parts,
        framing,
        spelling: Spelling::of(head, parsed.headers, ""),
        keep_alive: if old { found.keep_alive && !found.close } else { !found.close },
        // HTTP/1.0 knows no such expectation (RFC 9110, section 10.1.1).
        expects_continue: found.expects_continue && !old && framing != Framing::None,
    })
}

fn framing(found: &Found<'_>, old: bool) -> Result<Framing, BadRequest> {
    match (found.length, found.coding) {
        (None, None) => Ok(Framing::None),
        (Some(length), _) => Ok(match content_length(length).ok_or(BadRequest::Length)? {
            0 => Framing::None,
            length => Framing::Length(length),
        }),
        (None, Some(coding)) if !old && coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        (None, Some(coding)) => Err(refuse_coding(coding)),
    }
}

/// The fields as a header map; `None` if there are more than it holds. Names and values were checked by httparse; what
/// the map's own types would refuse beyond that does not exist, and is left out. So is a `Connection` that only says
/// whether the connection stays: who reads the head has seen it, and it ends here.
pub(super) fn headers(head: &Bytes, fields: &[httparse::Header<'_>]) -> Option<HeaderMap> {
    // Most messages get a field or two on their way.
    let mut headers = spare::headers(fields.len() + 2);
    for field in fields.iter().filter(|field| !is_plain_connection(field)) {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value));
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.try_append(name, value).ok()?;
        }
    }
    Some(headers)
}

fn is_plain_connection(field: &httparse::Header<'_>) -> bool {
    let plain = || field.value.eq_ignore_ascii_case(b"keep-alive") || field.value.eq_ignore_ascii_case(b"close");
    field.name.len() == CONNECTION.as_str().len() && plain() && field.name.eq_ignore_ascii_case(CONNECTION.as_str())
}

/// 501 for a coding that exists but is not implemented, 400 for what is malformed.
fn refuse_coding(coding: &[u8]) -> BadRequest {
    let mut codings = coding.split(|b| *b == b',').map(<[u8]>::trim_ascii);
    let known = |coding: &[u8]| {
        [&b"gzip"[..], b"compress", b"deflate", b"x-gzip", b"identity"].iter().any(|k| coding.eq_ignore_ascii_case(k))
    };
    if codings.any(known) { BadRequest::UnknownCoding } else { BadRequest::TransferEncoding }
}

/// A number, and nothing else.
pub(super) fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Judges the request target and the host beside it (RFC 9112, section 3.2).
fn target(head: &Bytes, method: &str, target: &str, host: Option<&[u8]>, old: bool) -> Result<Uri, BadRequest> {
    match host {
        None if !old => return Err(BadRequest::Host),
        // Who knows no name says so with an empty one (RFC 9112, section 3.2), as health checks of balancers do.
        Some(host) if !host.is_empty() && !is_host(host) => return Err(BadRequest::Host),
        _ => {}
    }
    let uri = || Uri::from_maybe_shared(head.slice_ref(target.as_bytes())).map_err(|_| BadRequest::Target);
    if method == "CONNECT" {
        // It has no form but this one, whatever else apps may make of it.
        let fits = Uri::try_from(target).is_ok_and(|uri| uri.scheme().is_none() && uri.authority().is_some());
        return if fits && is_host(target.as_bytes()) { uri() } else { Err(BadRequest::Target) };
    }
    if target.starts_with('/') && target.bytes().all(|b| PATH_BYTES[usize::from(b)]) {
        return uri();
    }
    if target.contains('#') {
        return Err(BadRequest::Target);
    }
    let uri = uri()?;
    let fits = match (uri.scheme_str(), uri.authority()) {
        // The asterisk form belongs to OPTIONS.
        (None, None) if target == "*" => method == "OPTIONS",
        (None, None) => target.starts_with('/'),
        (Some("http" | "https"), Some(authority)) if !authority.as_str().contains('@') => {
            if host.is_some_and(|host| !host.eq_ignore_ascii_case(authority.as_str().as_bytes())) {
                return Err(BadRequest::Host);
            }
            true
        }
        _ => false,
    };
    fits.then_some(uri).ok_or(BadRequest::Target)
}

/// Characters of a host name.
const HOST_BYTES: [bool; 256] = table(b"-._~!$&'()*+,;=%");
/// Characters that every reader takes for the same path or query; others get the full parser's judgement.
const PATH_BYTES: [bool; 256] = table(b"/-._~!$&'()*+,;=:@?%");

/// Letters, digits, and these.
const fn table(further: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < further.len() {
        table[further[at] as usize] = true;
        at += 1;
    }
    table
}

/// Host names, addresses in brackets, and a port; no path, user or blank.
pub fn is_host(host: &[u8]) -> bool {
    let (name, port) = match (host.first(), memchr::memrchr(b':', host)) {
        (Some(b'['), _) => {
            let Some(end) = memchr::memchr(b']', host) else { return false };
            if end < 3 || !host[1..end].iter().all(|b| b.is_ascii_hexdigit() || b":.".contains(b)) {
                return false;
            }
            match &host[end + 1..] {
                b"" => return true,
                [b':', port @ ..] => (&b"a"[..], port),
                _ => return false,
            }
        }
        (_, Some(colon)) => (&host[..colon], &host[colon + 1..]),
        (_, None) => (host, &b""[..]),
    };
    !name.is_empty() && name.iter().all(|b| HOST_BYTES[usize::from(*b)]) && port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
