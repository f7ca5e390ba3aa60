//! The body of a message, out of the bytes that frame it.
//!
//! Pure: the caller feeds it a buffer; what was understood is taken from its front. A line that is not complete stays in
//! the buffer, and the longest line there may be bounds it.

use bytes::{Buf, Bytes, BytesMut};
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::{Framing, Limits};
use crate::error::BadRequest;

/// The largest trailer section.
const MAX_TRAILERS: usize = 16 << 10;
/// The longest line with a chunk's size and extensions.
const MAX_CHUNK_LINE: usize = 256;

/// Follows the framing of one body.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// How many trailer fields there may be.
    max_fields: usize,
    /// Whether blanks may follow the size of a chunk, as some old servers write it.
    lenient: bool,
    /// Bytes of the trailer section that may still come.
    trailer_room: usize,
    trailers: HeaderMap,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing more belongs to this message.
    Done,
    /// So many bytes to come.
    Fixed(u64),
    /// At the line that gives a chunk's size.
    ChunkSize,
    /// In a chunk with so many bytes to come.
    ChunkData(u64),
    /// At the CR LF after a chunk.
    ChunkEnd,
    /// In the trailer section.
    Trailers,
    /// All that comes.
    UntilClose,
    /// Not understood; nothing passes any more.
    Failed(BadRequest),
}

/// What came out of the buffer.
#[derive(Debug)]
pub enum Piece {
    /// Bytes of the body.
    Data(Bytes),
    /// Trailer fields; the body is complete.
    Trailers(HeaderMap),
    /// The body is complete.
    End,
}

impl Decoder {
    /// Between two messages: there is no body.
    pub fn done() -> Self {
        Self { state: State::Done, max_fields: 0, lenient: false, trailer_room: 0, trailers: HeaderMap::new() }
    }

    /// Begins the body of a request.
    pub fn begin_request(&mut self, framing: Framing, limits: Limits) {
        self.begin(framing, limits);
        self.lenient = false;
    }

    /// Begins the body of a response: a little more is forgiven than in a request, because nothing can be smuggled past
    /// anybody that way.
    pub fn begin_response(&mut self, framing: Framing, limits: Limits) {
        self.begin(framing, limits);
        self.lenient = true;
    }

    fn begin(&mut self, framing: Framing, limits: Limits) {
        self.max_fields = limits.header_count;
        self.trailer_room = MAX_TRAILERS.min(limits.header_bytes);
        self.state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Fixed(length),
            Framing::Chunked => State::ChunkSize,
            Framing::UntilClose => State::UntilClose,
        };
    }

    /// Whether the body is complete.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// What was not understood, if something was not.
    pub fn failure(&self) -> Option<BadRequest> {
        match self.state {
            State::Failed(bad) => Some(bad),
            _ => None,
        }
    }

    /// How many bytes of the body are to come in a row at least, as far as it is known: what it pays to have room for.
    pub fn expects(&self) -> u64 {
        match self.state {
            State::Fixed(left) | State::ChunkData(left) => left,
            _ => 0,
        }
    }

    /// How many bytes are to come in all, if it is known.
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Done => Some(0),
            State::Fixed(left) => Some(left),
            _ => None,
        }
    }

    /// The end of the stream: whether the body may end there.
    pub fn may_end_here(&mut self) -> bool {
        if self.state == State::UntilClose {
            self.state = State::Done;
        }
        self.is_done()
    }

    /// So many of the bytes that [`Decoder::expects`] were taken past the buffer.
    pub fn passed(&mut self, count: u64) {
        self.state = match self.state {
            State::Fixed(left) if left > count => State::Fixed(left - count),
            State::Fixed(_) => State::Done,
            State::ChunkData(left) if left > count => State::ChunkData(left - count),
            State::ChunkData(_) => State::ChunkEnd,
            state => state,
        };
    }

    /// Takes the next piece from the front of `input`; `None` if more must come first.
    ///
    /// # Errors
    /// The first offence, and again each time after it.
    pub fn next(&mut self, input: &mut BytesMut) -> Result<Option<Piece>, BadRequest> {
        let step = self.step(input);
        if let Err(bad) = step {
            self.state = State::Failed(bad);
        }
        step
    }

    fn step(&mut self, input: &mut BytesMut) -> Result<Option<Piece>, BadRequest> {
        loop {
            match self.state {
                State::Done => return Ok(Some(Piece::End)),
                State::Failed(bad) => return Err(bad),
                _ if input.is_empty() => return Ok(None),
                State::Fixed(left) => {
                    let data = take(input, left);
                    let left = left - data.len() as u64;
                    self.state = if left == 0 { State::Done } else { State::Fixed(left) };
                    return Ok(Some(Piece::Data(data)));
                }
                State::ChunkData(left) => {
                    let data = take(input, left);
                    let left = left - data.len() as u64;
                    self.state = if left == 0 { State::ChunkEnd } else { State::ChunkData(left) };
                    return Ok(Some(Piece::Data(data)));
                }
                State::UntilClose => return Ok(Some(Piece::Data(input.split().freeze()))),
                State::ChunkEnd => {
                    let known = input.len().min(2);
                    if input[..known] != b"\r\n"[..known] {
                        return Err(BadRequest::Chunk);
                    }
                    if known < 2 {
                        return Ok(None);
                    }
                    input.advance(2);
                    self.state = State::ChunkSize;
                }
                State::ChunkSize => {
                    let Some(length) = line(input, MAX_CHUNK_LINE, BadRequest::Chunk)? else { return Ok(None) };
                    let size = chunk_size(&input[..length], self.lenient)?;
                    input.advance(length);
                    self.state = if size == 0 { State::Trailers } else { State::ChunkData(size) };
                }
                State::Trailers => {
                    let Some(length) = line(input, self.trailer_room, BadRequest::HeaderBytes)? else { return Ok(None) };
                    if let Some(end) = self.trailer(&input.split_to(length).freeze())? {
                        return Ok(Some(end));
                    }
                }
            }
        }
    }

    /// Takes one line of the trailer section.
    fn trailer(&mut self, line: &Bytes) -> Result<Option<Piece>, BadRequest> {
        self.trailer_room -= line.len();
        if line == "\r\n" {
            self.state = State::Done;
            let trailers = std::mem::take(&mut self.trailers);
            return Ok(Some(if trailers.is_empty() { Piece::End } else { Piece::Trailers(trailers) }));
        }
        let text = line.strip_suffix(b"\r\n").ok_or(BadRequest::LineEnd)?;
        if text.iter().any(|b| matches!(b, b'\r' | 0)) {
            return Err(BadRequest::LineEnd);
        }
        if text.starts_with(b" ") || text.starts_with(b"\t") {
            return Err(BadRequest::Folded);
        }
        let colon = memchr::memchr(b':', text).ok_or(BadRequest::Chunk)?;
        let name = HeaderName::from_bytes(&text[..colon]).map_err(|_| BadRequest::Chunk)?;
        let value = HeaderValue::from_maybe_shared(line.slice_ref(text[colon + 1..].trim_ascii()));
        // One that would change framing or routing after the fact (RFC 9110, section 6.5.1).
        if matches!(name.as_str(), "content-length" | "transfer-encoding" | "host" | "trailer") {
            return Err(BadRequest::Chunk);
        }
        if self.trailers.len() >= self.max_fields {
            return Err(BadRequest::HeaderCount);
        }
        let appended = self.trailers.try_append(name, value.map_err(|_| BadRequest::Chunk)?);
        appended.map(|_| None).map_err(|_| BadRequest::HeaderCount)
    }
}

fn take(input: &mut BytesMut, left: u64) -> Bytes {
    let length = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
    input.split_to(length).freeze()
}

/// The length of the first line, if it is there; refused with `offence` if it is longer than `limit`.
fn line(input: &[u8], limit: usize, offence: BadRequest) -> Result<Option<usize>, BadRequest> {
    let length = memchr::memchr(b'\n', input).map(|end| end + 1);
    if length.unwrap_or(input.len()) > limit {
        return Err(offence);
    }
    Ok(length)
}

fn chunk_size(line: &[u8], lenient: bool) -> Result<u64, BadRequest> {
    let line = line.strip_suffix(b"\r\n").ok_or(BadRequest::Chunk)?;
    let line = if lenient { line.trim_ascii_end() } else { line };
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    let extension = &line[digits..];
    let clean = extension.is_empty() || (extension[0] == b';' && !extension.iter().any(|b| b.is_ascii_control() && *b != b'\t'));
    if digits == 0 || digits > 16 || !clean {
        return Err(BadRequest::Chunk);
    }
    let text = std::str::from_utf8(&line[..digits]).map_err(|_| BadRequest::Chunk)?;
    u64::from_str_radix(text, 16).map_err(|_| BadRequest::Chunk)
}
