//! Moves one message into a socket: its head, and its body as fast as the peer takes it and no faster.
//!
//! What is small is copied together with what stands before it, so that a small message leaves in one write; what is
//! large is written from where it lies. The body is asked for more only when there is room.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame};

use super::encode::{self, Coding};
use super::wire::Wire;

/// Frames up to this size are copied.
const COPIED: usize = 8 << 10;
/// With so much to write, it is written before more is asked for.
const FULL: usize = 32 << 10;

/// Why a message could not be sent.
#[derive(Debug)]
pub enum SendError<E> {
    /// The socket failed.
    Io(io::Error),
    /// The body broke off.
    Body(E),
    /// The body is longer or shorter than was announced.
    Length,
}

/// A message on its way out.
pub struct Sender<B> {
    body: B,
    coding: Coding,
    out: Outbox,
    ended: bool,
}

impl<B> Sender<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Sends `head`, then `body` in `coding`.
    pub fn new(head: Vec<u8>, body: B, coding: Coding) -> Self {
        let out = Outbox { small: head, sent: 0, large: Bytes::new(), tail: b"", begun: false };
        Self { body, coding, out, ended: false }
    }

    /// Whether nothing has been written yet.
    pub fn is_unsent(&self) -> bool {
        !self.out.begun
    }

    /// The body, or what is left of it.
    pub fn body_mut(&mut self) -> &mut B {
        &mut self.body
    }

    /// Ready when everything was written.
    ///
    /// # Errors
    /// The message is not complete, and never will be.
    pub fn poll(&mut self, wire: &Wire, cx: &mut Context<'_>) -> Poll<Result<(), SendError<B::Error>>> {
        loop {
            let stalled = self.collect(cx)?;
            ready!(self.out.poll_write(wire, cx)).map_err(SendError::Io)?;
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            if stalled {
                return Poll::Pending;
            }
        }
    }

    /// Asks the body for as much as there is room for. True if it has nothing at the moment.
    fn collect(&mut self, cx: &mut Context<'_>) -> Result<bool, SendError<B::Error>> {
        while !self.ended && !self.out.is_full() {
            if self.coding == Coding::None || self.body.is_end_stream() {
                self.end(None)?;
                return Ok(false);
            }
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Pending => return Ok(true),
                Poll::Ready(None) => self.end(None)?,
                Poll::Ready(Some(Err(error))) => return Err(SendError::Body(error)),
                Poll::Ready(Some(Ok(frame))) => self.frame(frame)?,
            }
        }
        Ok(false)
    }

    fn frame(&mut self, frame: Frame<Bytes>) -> Result<(), SendError<B::Error>> {
        match frame.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) => match &mut self.coding {
                Coding::Length(left) => {
                    *left = left.checked_sub(data.len() as u64).ok_or(SendError::Length)?;
                    self.out.push(data, b"");
                }
                Coding::Chunked => {
                    encode::chunk(&mut self.out.small, data.len());
                    self.out.push(data, b"\r\n");
                }
                Coding::UntilClose => self.out.push(data, b""),
                Coding::None => {}
            },
            Err(frame) => {
                let trailers = frame.into_trailers().ok();
                self.end(trailers.as_ref())?;
            }
        }
        Ok(())
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), SendError<B::Error>> {
        self.ended = true;
        match self.coding {
            Coding::Chunked => encode::last_chunk(&mut self.out.small, trailers),
            Coding::Length(left) if left > 0 => return Err(SendError::Length),
            Coding::Length(_) | Coding::UntilClose | Coding::None => {}
        }
        Ok(())
    }
}

/// Bytes to write: small ones together, then perhaps a large frame and what ends it.
struct Outbox {
    small: Vec<u8>,
    sent: usize,
    large: Bytes,
    tail: &'static [u8],
    /// Whether anything was written.
    begun: bool,
}

impl Outbox {
    fn is_full(&self) -> bool {
        !self.large.is_empty() || self.small.len() - self.sent >= FULL
    }

    fn push(&mut self, data: Bytes, tail: &'static [u8]) {
        if data.len() <= COPIED {
            self.small.extend_from_slice(&data);
            self.small.extend_from_slice(tail);
        } else {
            self.large = data;
            self.tail = tail;
        }
    }

    fn poll_write(&mut self, wire: &Wire, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let small = &self.small[self.sent..];
            let written = match (small.is_empty(), self.large.is_empty() && self.tail.is_empty()) {
                (true, true) => break,
                (false, true) => ready!(wire.poll_write(cx, &[IoSlice::new(small)]))?,
                (_, false) => {
                    ready!(wire.poll_write(cx, &[IoSlice::new(small), IoSlice::new(&self.large), IoSlice::new(self.tail)]))?
                }
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        self.small.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        self.begun = true;
        let small = written.min(self.small.len() - self.sent);
        self.sent += small;
        written -= small;
        let large = written.min(self.large.len());
        self.large.advance(large);
        self.tail = &self.tail[(written - large).min(self.tail.len())..];
    }
}
