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
use super::spare;
use super::wire::Wire;
use crate::clock::Paced;

/// Frames up to this size are copied.
const COPIED: usize = 8 << 10;
/// With so much to write, it is written before more is asked for.
const FULL: usize = 32 << 10;

/// Takes some of these bytes.
trait Write: FnMut(&[IoSlice<'_>], &mut Context<'_>) -> Poll<io::Result<usize>> {}
impl<F: FnMut(&[IoSlice<'_>], &mut Context<'_>) -> Poll<io::Result<usize>>> Write for F {}

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
pub struct Sender<B: Body> {
    body: B,
    coding: Coding,
    out: Outbox,
    ended: bool,
    /// The body broke off; what came before that leaves first.
    broken: Option<SendError<B::Error>>,
}

impl<B> Sender<B>
where
    B: Paced<Data = Bytes> + Unpin,
{
    /// Sends `head`, then `body` in `coding`.
    pub fn new(head: Vec<u8>, body: B, coding: Coding) -> Self {
        let out = Outbox { small: head, sent: 0, large: Bytes::new(), tail: b"", written: 0, blocked: false };
        Self { body, coding, out, ended: false, broken: None }
    }

    /// Whether nothing has been written yet.
    pub fn is_unsent(&self) -> bool {
        self.out.written == 0
    }

    /// How many bytes were written.
    pub fn written(&self) -> u64 {
        self.out.written
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
        let driven = self.drive(cx, |parts, cx| wire.poll_write(cx, parts));
        // What is waited for may come only when the peer has what was written so far.
        let flushed = wire.poll_flush(cx);
        match driven {
            Poll::Ready(Ok(())) => flushed.map_err(SendError::Io),
            driven => driven,
        }
    }

    fn drive(&mut self, cx: &mut Context<'_>, mut write: impl Write) -> Poll<Result<(), SendError<B::Error>>> {
        loop {
            // Nothing is put behind what the peer has not taken: a chunk would begin before the one before it has ended.
            let mut stalled = false;
            if !self.out.blocked && self.broken.is_none() {
                match self.collect(cx) {
                    Ok(nothing_more) => stalled = nothing_more,
                    Err(error) => self.broken = Some(error),
                }
            }
            if self.out.poll_write(cx, &mut write).map_err(SendError::Io)?.is_pending() {
                let written = self.out.written;
                return self.body.poll_stalled(written, cx).map(|error| Err(SendError::Body(error)));
            }
            if let Some(broken) = self.broken.take() {
                return Poll::Ready(Err(broken));
            }
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
    /// Bytes written in all.
    written: u64,
    /// The peer has not taken all of it.
    blocked: bool,
}

impl Drop for Outbox {
    fn drop(&mut self) {
        spare::give_bytes(std::mem::take(&mut self.small));
    }
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

    fn poll_write(&mut self, cx: &mut Context<'_>, write: &mut impl Write) -> Poll<io::Result<()>> {
        self.blocked = true;
        loop {
            let small = &self.small[self.sent..];
            let written = match (small.is_empty(), self.large.is_empty() && self.tail.is_empty()) {
                (true, true) => break,
                (false, true) => ready!(write(&[IoSlice::new(small)], cx))?,
                (_, false) => ready!(write(&[IoSlice::new(small), IoSlice::new(&self.large), IoSlice::new(self.tail)], cx))?,
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        self.small.clear();
        self.sent = 0;
        self.blocked = false;
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut written: usize) {
        self.written += written as u64;
        let small = written.min(self.small.len() - self.sent);
        self.sent += small;
        written -= small;
        let large = written.min(self.large.len());
        self.large.advance(large);
        self.tail = &self.tail[(written - large).min(self.tail.len())..];
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::task::Waker;

    use bytes::BytesMut;

    use super::*;
    use crate::h1::decode::{Decoder, Piece};
    use crate::h1::{Framing, Limits};

    /// Frames, all of them there at once.
    struct Frames(VecDeque<Bytes>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(|data| Ok(Frame::data(data))))
        }
    }

    impl Paced for Frames {
        fn poll_stalled(&mut self, _: u64, _: &mut Context<'_>) -> Poll<Infallible> {
            Poll::Pending
        }
    }

    /// A peer that takes a little at a time makes writes stop anywhere; the message must not show it, nor pile up.
    #[test]
    fn chunks_stay_whole_wherever_a_write_stops() {
        let mut random = fastrand::Rng::with_seed(7);
        for most in [1, 2, 3, 1000, COPIED, 3 * COPIED] {
            let sizes = (0..40).map(|_| if most < 10 { random.usize(1..9) } else { random.usize(1..=2 * COPIED) });
            let sizes: Vec<usize> = sizes.chain([COPIED, COPIED + 1, 2 * COPIED, COPIED + 1]).collect();
            let frames: VecDeque<Bytes> =
                sizes.iter().zip((b'a'..=b'z').cycle()).map(|(n, b)| Bytes::from(vec![b; *n])).collect();
            let expected: Vec<u8> = frames.iter().flatten().copied().collect();
            let mut sender = Sender::new(Vec::new(), Frames(frames), Coding::Chunked);
            let mut input = BytesMut::new();
            let mut turns = 0;
            loop {
                let mut room = Some(random.usize(1..=most));
                let polled =
                    sender.drive(&mut Context::from_waker(Waker::noop()), |parts: &[IoSlice<'_>], _: &mut Context<'_>| {
                        let Some(room) = room.take() else { return Poll::Pending };
                        let taken: Vec<u8> = parts.iter().flat_map(|part| part.iter()).copied().take(room).collect();
                        input.extend_from_slice(&taken);
                        Poll::Ready(Ok(taken.len()))
                    });
                assert!(sender.out.small.len() < 2 * FULL, "{} bytes wait for the peer", sender.out.small.len());
                turns += 1;
                if polled.is_ready() {
                    break;
                }
            }
            assert!(turns > 10);
            let mut decoder = Decoder::done();
            decoder.begin_request(Framing::Chunked, Limits { header_bytes: 4096, header_count: 10 });
            let mut got = Vec::new();
            while let Ok(Some(Piece::Data(data))) = decoder.next(&mut input) {
                got.extend_from_slice(&data);
            }
            assert!(decoder.is_done() && got == expected, "a peer that takes up to {most} bytes");
        }
    }
}
