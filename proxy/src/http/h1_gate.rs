//! What may pass as HTTP/1: the strict reading of a byte stream, before the codec sees it.
//!
//! Two readers of one stream that disagree on where a message ends are how requests are smuggled. The gate reads heads
//! and follows the framing of bodies (RFC 9112), accepts only what has one meaning, and stops the stream at the first
//! byte that has none. hyper, behind it, then never sees an ambiguity: it would drop Content-Length silently beside
//! Transfer-Encoding, and accept bare line feeds.
//!
//! Pure: bytes in, verdict out. Tokens are httparse's affair, as in hyper, so the two agree on them.

use std::mem::MaybeUninit;

use memchr::memmem;

use crate::error::BadRequest;

/// Follows one connection.
#[derive(Debug)]
pub struct Inspector {
    state: State,
    /// The part of a head, chunk line or trailer that has arrived, when it did not arrive at once.
    carry: Vec<u8>,
    max_bytes: usize,
    max_fields: usize,
    /// Trailer fields of the body so far.
    trailers: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before or inside a head.
    Head,
    /// In a body with this many bytes to come.
    Fixed(u64),
    /// At the line that gives a chunk's size.
    ChunkSize,
    /// In a chunk with this many bytes to come.
    ChunkData(u64),
    /// At the CR LF after a chunk; so many of the two bytes seen.
    ChunkEnd(u8),
    /// In the trailer section; so many bytes seen.
    Trailers(usize),
    /// Refused: nothing passes any more.
    Refused,
}

/// Where in a message the stream was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In a head: its request was never given to anybody.
    Head,
    /// In a body: its request is in flight and must be failed.
    Body,
}

/// A refusal: how many bytes of the input may still pass, why the next may not, and where in a message it stands.
pub type Refusal = (usize, BadRequest, Place);

/// Fields that fit on the stack; more are parsed on the heap.
const STACK_FIELDS: usize = 64;
/// The largest trailer section; hyper's own limit.
const MAX_TRAILERS: usize = 16 << 10;
/// The longest line with a chunk's size and extensions.
const MAX_CHUNK_LINE: usize = 256;

impl Inspector {
    /// Allows heads of `max_bytes` with `max_fields` fields.
    pub fn new(max_bytes: usize, max_fields: usize) -> Self {
        Self { state: State::Head, carry: Vec::new(), max_bytes, max_fields, trailers: 0 }
    }

    /// Whether the stream stands between two messages.
    pub fn is_between(&self) -> bool {
        self.state == State::Head && self.carry.is_empty()
    }

    /// How many of the bytes that were looked at belong to a head, chunk line or trailer that is not complete.
    pub fn pending(&self) -> usize {
        self.carry.len()
    }

    /// Looks at the next bytes of the stream.
    ///
    /// # Errors
    /// The first offence. After it nothing more may be passed on.
    pub fn inspect(&mut self, input: &[u8]) -> Result<(), Refusal> {
        let mut at = 0;
        while at < input.len() {
            let rest = &input[at..];
            let step = match self.state {
                State::Head => self.head(rest),
                State::Fixed(left) => {
                    let taken = take(left, rest);
                    let left = left - taken as u64;
                    self.state = if left == 0 { State::Head } else { State::Fixed(left) };
                    Ok(taken)
                }
                State::ChunkSize => self.chunk_size(rest),
                State::ChunkData(left) => {
                    let taken = take(left, rest);
                    let left = left - taken as u64;
                    self.state = if left == 0 { State::ChunkEnd(0) } else { State::ChunkData(left) };
                    Ok(taken)
                }
                State::ChunkEnd(seen) => {
                    let wanted = if seen == 0 { b'\r' } else { b'\n' };
                    self.state = if seen == 0 { State::ChunkEnd(1) } else { State::ChunkSize };
                    if rest[0] == wanted { Ok(1) } else { Err(BadRequest::Chunk) }
                }
                State::Trailers(seen) => self.trailers(rest, seen),
                State::Refused => Err(BadRequest::Syntax),
            };
            match step {
                Ok(taken) => at += taken,
                Err(why) => {
                    let place = if self.state == State::Head { Place::Head } else { Place::Body };
                    self.state = State::Refused;
                    return Err((at, why, place));
                }
            }
        }
        Ok(())
    }

    /// Takes a head, or as much of it as there is.
    fn head(&mut self, rest: &[u8]) -> Result<usize, BadRequest> {
        if self.carry.is_empty() {
            // An empty line before a request line is tolerated (RFC 9112, section 2.2).
            if rest.starts_with(b"\r\n") {
                return Ok(2);
            }
            if let Some(end) = memmem::find(rest, b"\r\n\r\n") {
                let head = &rest[..end + 4];
                self.state = self.judge(head)?;
                return Ok(head.len());
            }
        }
        // Only the part up to the end of this head may be kept and judged.
        let known = self.carry.len();
        self.carry.extend_from_slice(&rest[..rest.len().min(self.max_bytes + 4 - known.min(self.max_bytes))]);
        if self.carry.starts_with(b"\r\n") {
            let taken = 2 - known.min(2);
            self.carry.clear();
            return Ok(taken);
        }
        // What is known was looked at before; a line end may straddle the seam.
        let from = known.saturating_sub(3);
        if let Some(end) = memmem::find(&self.carry[from..], b"\r\n\r\n") {
            let length = from + end + 4;
            let head = std::mem::take(&mut self.carry);
            self.state = self.judge(&head[..length])?;
            return Ok(length - known);
        }
        // Refused as soon as it shows, not when the head is complete: a head of bare line feeds never would be.
        seam(&self.carry, known)?;
        if self.carry.len() > self.max_bytes {
            return Err(BadRequest::HeaderBytes);
        }
        Ok(rest.len())
    }

    /// Judges a complete head and says what follows it.
    fn judge(&self, head: &[u8]) -> Result<State, BadRequest> {
        if head.len() > self.max_bytes {
            return Err(BadRequest::HeaderBytes);
        }
        lines(head)?;
        let mut few = [const { MaybeUninit::uninit() }; STACK_FIELDS];
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(head, &mut few) {
            Ok(_) if request.headers.len() > self.max_fields => Err(BadRequest::HeaderCount),
            Ok(_) => facts(&request),
            Err(httparse::Error::TooManyHeaders) => {
                let mut many = vec![MaybeUninit::uninit(); self.max_fields];
                let mut request = httparse::Request::new(&mut []);
                match request.parse_with_uninit_headers(head, &mut many) {
                    Ok(_) => facts(&request),
                    Err(error) => Err(syntax(error, head)),
                }
            }
            Err(error) => Err(syntax(error, head)),
        }
    }

    fn chunk_size(&mut self, rest: &[u8]) -> Result<usize, BadRequest> {
        let end = memchr::memchr(b'\n', rest);
        let part = &rest[..end.map_or(rest.len(), |end| end + 1)];
        if self.carry.len() + part.len() > MAX_CHUNK_LINE {
            return Err(BadRequest::Chunk);
        }
        self.carry.extend_from_slice(part);
        if end.is_none() {
            return Ok(part.len());
        }
        let size = chunk_size(&self.carry)?;
        self.carry.clear();
        self.state = if size == 0 { State::Trailers(0) } else { State::ChunkData(size) };
        Ok(part.len())
    }

    fn trailers(&mut self, rest: &[u8], seen: usize) -> Result<usize, BadRequest> {
        let end = memchr::memchr(b'\n', rest);
        let part = &rest[..end.map_or(rest.len(), |end| end + 1)];
        if seen + part.len() > self.max_bytes.min(MAX_TRAILERS) {
            return Err(BadRequest::HeaderBytes);
        }
        self.carry.extend_from_slice(part);
        self.state = State::Trailers(seen + part.len());
        if end.is_none() {
            return Ok(part.len());
        }
        let line = std::mem::take(&mut self.carry);
        lines(&line)?;
        if line == b"\r\n" {
            self.state = State::Head;
            self.trailers = 0;
            return Ok(part.len());
        }
        self.trailers += 1;
        if self.trailers > self.max_fields {
            return Err(BadRequest::HeaderCount);
        }
        if line.iter().any(|b| b.is_ascii_control() && !b"\t\r\n".contains(b)) {
            return Err(BadRequest::Chunk);
        }
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            return Err(BadRequest::Folded);
        } else if forbidden_trailer(&line) {
            return Err(BadRequest::Chunk);
        }
        Ok(part.len())
    }
}

fn take(left: u64, rest: &[u8]) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(rest.len())
}

/// The rule of [`lines`] for an incomplete head of which `known` bytes were looked at already.
fn seam(bytes: &[u8], known: usize) -> Result<(), BadRequest> {
    // One byte back, in case it is the CR of an LF that is new.
    let from = match known.checked_sub(1) {
        Some(last) if bytes[last] == b'\r' => last,
        _ => known,
    };
    let dangling = bytes.last() == Some(&b'\r');
    lines(&bytes[from..bytes.len() - usize::from(dangling)])
}

/// Every LF follows a CR, every CR precedes an LF, and there is no NUL.
fn lines(bytes: &[u8]) -> Result<(), BadRequest> {
    let mut ends = 0;
    for end in memchr::memchr_iter(b'\n', bytes) {
        if end == 0 || bytes[end - 1] != b'\r' {
            return Err(BadRequest::LineEnd);
        }
        ends += 1;
    }
    let returns = memchr::memchr_iter(b'\r', bytes).count();
    if returns != ends || memchr::memchr(0, bytes).is_some() {
        return Err(BadRequest::LineEnd);
    }
    Ok(())
}

/// Names the offence when httparse refuses a head.
fn syntax(error: httparse::Error, head: &[u8]) -> BadRequest {
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

/// What a head says about framing and host.
#[derive(Default)]
struct Framing<'h> {
    length: Option<&'h [u8]>,
    coding: Option<&'h [u8]>,
    host: Option<&'h [u8]>,
    upgrade: Option<&'h [u8]>,
    repeated: Option<BadRequest>,
}

impl<'h> Framing<'h> {
    fn read(fields: &[httparse::Header<'h>]) -> Self {
        let mut found = Self::default();
        for field in fields {
            let (slot, offence) = match field.name.len() {
                4 if field.name.eq_ignore_ascii_case("host") => (&mut found.host, BadRequest::Host),
                7 if field.name.eq_ignore_ascii_case("upgrade") => {
                    // Any protocol but h2c counts, wherever it stands.
                    if !field.value.eq_ignore_ascii_case(b"h2c") {
                        found.upgrade = Some(field.value);
                    }
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

/// Judges a parsed head: what follows it on the stream.
fn facts(request: &httparse::Request<'_, '_>) -> Result<State, BadRequest> {
    let found = Framing::read(request.headers);
    if found.length.is_some() && found.coding.is_some() {
        return Err(BadRequest::BothLengths);
    }
    if let Some(offence) = found.repeated {
        return Err(offence);
    }
    let old = request.version == Some(0);
    target(request.method.unwrap_or(""), request.path.unwrap_or(""), found.host, old)?;
    let next = match (found.length, found.coding) {
        (None, None) => State::Head,
        (Some(length), _) => match content_length(length)? {
            0 => State::Head,
            length => State::Fixed(length),
        },
        (None, Some(coding)) if old || coding.is_empty() => return Err(refuse_coding(coding)),
        (None, Some(coding)) if coding.eq_ignore_ascii_case(b"chunked") => State::ChunkSize,
        (None, Some(coding)) => return Err(refuse_coding(coding)),
    };
    // Nobody accepts h2c this way any more, so it cannot be mistaken for a tunnel; curl sends it with bodies.
    if found.upgrade.is_some() && next != State::Head {
        return Err(BadRequest::UpgradeBody);
    }
    Ok(next)
}

/// 501 for a coding that exists but is not implemented, 400 for what is malformed.
fn refuse_coding(coding: &[u8]) -> BadRequest {
    let mut codings = coding.split(|b| *b == b',').map(<[u8]>::trim_ascii);
    let known = |coding: &[u8]| {
        [&b"gzip"[..], b"compress", b"deflate", b"x-gzip", b"identity"].iter().any(|k| coding.eq_ignore_ascii_case(k))
    };
    if codings.any(known) { BadRequest::UnknownCoding } else { BadRequest::TransferEncoding }
}

fn content_length(value: &[u8]) -> Result<u64, BadRequest> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return Err(BadRequest::Length);
    }
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).ok_or(BadRequest::Length)
}

/// Judges the request target and the host beside it (RFC 9112, section 3.2).
fn target(method: &str, target: &str, host: Option<&[u8]>, old: bool) -> Result<(), BadRequest> {
    match host {
        None if !old => return Err(BadRequest::Host),
        Some(host) if !is_host(host) => return Err(BadRequest::Host),
        _ => {}
    }
    if target.starts_with('/') && target.bytes().all(is_path_byte) {
        return Ok(());
    }
    if target.contains('#') {
        return Err(BadRequest::Target);
    }
    let uri: http::Uri = target.parse().map_err(|_| BadRequest::Target)?;
    match (uri.scheme_str(), uri.authority()) {
        // The asterisk form belongs to OPTIONS, the authority form to CONNECT.
        (None, None) if target == "*" => (method == "OPTIONS").then_some(()).ok_or(BadRequest::Target),
        (None, None) => target.starts_with('/').then_some(()).ok_or(BadRequest::Target),
        (None, Some(_)) => (method == "CONNECT").then_some(()).ok_or(BadRequest::Target),
        (Some("http" | "https"), Some(authority)) if !authority.as_str().contains('@') => {
            let same = host.is_none_or(|host| host.eq_ignore_ascii_case(authority.as_str().as_bytes()));
            same.then_some(()).ok_or(BadRequest::Host)
        }
        _ => Err(BadRequest::Target),
    }
}

/// Characters that every reader takes for the same path or query; others get the full parser's judgement.
fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@?%".contains(&byte)
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
    let is_name = |b: &u8| b.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=%".contains(b);
    !name.is_empty() && name.iter().all(is_name) && port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

fn chunk_size(line: &[u8]) -> Result<u64, BadRequest> {
    let line = line.strip_suffix(b"\r\n").ok_or(BadRequest::Chunk)?;
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let extension = &line[digits..];
    let clean = extension.is_empty() || (extension[0] == b';' && !extension.iter().any(|b| b.is_ascii_control() && *b != b'\t'));
    if digits == 0 || digits > 16 || !clean {
        return Err(BadRequest::Chunk);
    }
    let text = std::str::from_utf8(&line[..digits]).map_err(|_| BadRequest::Chunk)?;
    u64::from_str_radix(text, 16).map_err(|_| BadRequest::Chunk)
}

/// A trailer that is no field, or one that would change framing or routing after the fact (RFC 9110, section 6.5.1).
fn forbidden_trailer(line: &[u8]) -> bool {
    let Some(colon) = memchr::memchr(b':', line) else { return true };
    let name = &line[..colon];
    name.is_empty()
        || http::HeaderName::from_bytes(name).is_err()
        || [&b"content-length"[..], b"transfer-encoding", b"host", b"trailer"].iter().any(|n| name.eq_ignore_ascii_case(n))
}

#[cfg(test)]
#[path = "h1_gate_tests.rs"]
mod tests;
