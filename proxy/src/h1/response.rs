//! The head of a response: what it says, and what frames the body after it (RFC 9112, section 6.3). Pure.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
use http::{Method, Response, StatusCode};

use super::request::{content_length, headers, names};
use super::spelling::Spelling;
use super::{Framing, Limits};

/// Fields of a response; Envoy's limit.
const MAX_FIELDS: usize = 100;

/// How large the head of a response may be: as that of a request by default.
pub const LIMITS: Limits = Limits { header_bytes: 64 << 10, header_count: MAX_FIELDS };

/// What every response begins with.
const BEGINNING: &[u8] = b"HTTP/1.";

/// A response without its body.
#[derive(Debug)]
pub struct ResponseHead {
    /// Status and headers.
    pub response: Response<()>,
    /// What follows it on the stream.
    pub framing: Framing,
    /// How it was spelled.
    pub spelling: Spelling,
    /// Whether the connection may serve another exchange after this one.
    pub keep_alive: bool,
}

/// What came is no response, or over a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotHttp;

/// Takes the head of the response to a `method` request from the front of `input`; `None` if more must come first.
///
/// # Errors
/// Not HTTP/1, not of one meaning, or too large.
pub fn next(input: &mut BytesMut, method: &Method) -> Result<Option<ResponseHead>, NotHttp> {
    let Some(length) = end(input) else {
        // Something else than HTTP may never send an empty line.
        let begins = input.trim_ascii_start();
        let known = begins.len().min(BEGINNING.len());
        let may_be = begins[..known] == BEGINNING[..known] && input.len() <= LIMITS.header_bytes;
        return if may_be { Ok(None) } else { Err(NotHttp) };
    };
    if length > LIMITS.header_bytes {
        return Err(NotHttp);
    }
    let head = input.split_to(length).freeze();
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let parser = httparse::ParserConfig::default();
    match parser.parse_response_with_uninit_headers(&mut parsed, &head, &mut fields) {
        Ok(httparse::Status::Complete(read)) if read == head.len() => {}
        Ok(_) | Err(_) => return Err(NotHttp),
    }
    judge(&head, &parsed, method).map(Some)
}

/// Where the head ends: after the first empty line. Bare line feeds are forgiven in responses.
fn end(input: &[u8]) -> Option<usize> {
    let mut line = 0;
    for end in memchr::memchr_iter(b'\n', input) {
        if matches!(&input[line..end], b"" | b"\r") && line > 0 {
            return Some(end + 1);
        }
        line = end + 1;
    }
    None
}

fn judge(head: &Bytes, parsed: &httparse::Response<'_, '_>, method: &Method) -> Result<ResponseHead, NotHttp> {
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(NotHttp)?;
    let old = parsed.version == Some(0);
    let (mut close, mut keep_alive) = (false, false);
    let (mut framed, mut length) = (0, None);
    for field in parsed.headers.iter() {
        match field.name.len() {
            10 if field.name.eq_ignore_ascii_case("connection") => {
                close |= names(field.value, b"close");
                keep_alive |= names(field.value, b"keep-alive");
            }
            14 if field.name.eq_ignore_ascii_case("content-length") => {
                framed += 1;
                length = content_length(field.value);
            }
            17 if field.name.eq_ignore_ascii_case("transfer-encoding") => framed += 1,
            _ => {}
        }
    }
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers(head, parsed.headers).ok_or(NotHttp)?;
    let stated = match (framed, length) {
        (0, _) => Stated::Nothing,
        (1, Some(length)) => Stated::Length(length),
        _ => stated(response.headers_mut())?,
    };
    let framing = framing(stated, status, method);
    let stays = if old { keep_alive && !close && framing != Framing::Chunked } else { !close };
    Ok(ResponseHead {
        response,
        framing,
        spelling: Spelling::of(head, parsed.headers, parsed.reason.unwrap_or_default()),
        keep_alive: stays && framing != Framing::UntilClose,
    })
}

/// What a response says about the length of its body.
enum Stated {
    Nothing,
    Length(u64),
    Chunked,
}

/// Transfer-Encoding overrides Content-Length, and must be `chunked` alone, because that is all that is undone here. A
/// Content-Length that is there several times must say the same each time, and is left there once.
fn stated(headers: &mut HeaderMap) -> Result<Stated, NotHttp> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(stated_length(headers)?.map_or(Stated::Nothing, Stated::Length)),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            headers.remove(CONTENT_LENGTH);
            Ok(Stated::Chunked)
        }
        (Some(_), _) => Err(NotHttp),
    }
}

fn framing(stated: Stated, status: StatusCode, method: &Method) -> Framing {
    let bodiless = status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    match stated {
        _ if bodiless || method == Method::HEAD => Framing::None,
        // What follows is the tunnel's, whatever the head says (RFC 9112, section 6.3).
        _ if method == Method::CONNECT && status.is_success() => Framing::None,
        Stated::Chunked => Framing::Chunked,
        Stated::Length(0) => Framing::None,
        Stated::Length(length) => Framing::Length(length),
        Stated::Nothing => Framing::UntilClose,
    }
}

fn stated_length(headers: &mut HeaderMap) -> Result<Option<u64>, NotHttp> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = values.next() else { return Ok(None) };
    let mut more = values.next().is_some();
    let mut stated = None;
    for value in headers.get_all(CONTENT_LENGTH) {
        for part in value.as_bytes().split(|b| *b == b',') {
            let length = content_length(part.trim_ascii()).ok_or(NotHttp)?;
            more |= part.len() != first.len();
            if stated.replace(length).is_some_and(|known| known != length) {
                return Err(NotHttp);
            }
        }
    }
    if let (true, Some(length)) = (more, stated) {
        headers.insert(CONTENT_LENGTH, length.into());
    }
    Ok(stated)
}
