//! What arrives on an HTTP/2 stream: taken by the frame while its reader keeps up, gathered while the reader is stalled.
//!
//! One connection carries the streams of many, so what one reader leaves lying must not be in the others' way. Windows see
//! to the bytes (see `pump`). The frames are seen to here: the h2 crate keeps each by itself, which for messages of ten
//! bytes costs twenty times their size, and ends the connection when there are too many. The window of the stream opens
//! only as its reader takes what is gathered, so that is never more than one window.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http_body::Frame;

use super::body::BodyError;

/// Frames below this size are put together; above it, they are kept as they came.
const SMALL: usize = 4 << 10;
/// They are put together up to this size, so that no more than this is reserved in vain.
const LARGE: usize = 16 << 10;

/// The receiving half of a stream.
#[derive(Debug)]
pub struct Inflow {
    stream: RecvStream,
    /// What was gathered, if anything was since the reader last had all of it.
    gathered: Option<Box<Gathered>>,
}

#[derive(Debug, Default)]
struct Gathered {
    pieces: VecDeque<Bytes>,
    /// The last of them, which still grows.
    last: BytesMut,
    failed: Option<h2::Error>,
}

impl Gathered {
    fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.last.is_empty()
    }

    fn put(&mut self, data: Bytes) {
        if self.last.len() + data.len() > LARGE {
            self.close();
        }
        if data.len() < SMALL {
            if self.last.is_empty() {
                self.last.reserve(LARGE);
            }
            self.last.extend_from_slice(&data);
        } else {
            self.close();
            self.pieces.push_back(data);
        }
    }

    /// What was put together is a piece. One that stayed small keeps no more than it needs.
    fn close(&mut self) {
        let last = std::mem::take(&mut self.last);
        if last.len() < last.capacity() / 2 {
            self.pieces.extend((!last.is_empty()).then(|| Bytes::copy_from_slice(&last)));
        } else if !last.is_empty() {
            self.pieces.push_back(last.freeze());
        }
    }

    fn take(&mut self) -> Option<Bytes> {
        self.pieces.pop_front().or_else(|| (!self.last.is_empty()).then(|| self.last.split().freeze()))
    }
}

impl Inflow {
    /// What arrives on this stream.
    pub fn new(stream: RecvStream) -> Self {
        Self { stream, gathered: None }
    }

    /// The stream, for a tunnel. Nothing was gathered yet: that is done for bodies only.
    pub fn into_stream(self) -> RecvStream {
        self.stream
    }

    /// Whether nothing more comes, not even trailers.
    pub fn is_end(&self) -> bool {
        self.gathered.is_none() && self.stream.is_end_stream()
    }

    /// The next frame. The next stage asks only when it has room, so the window may open again for what it gets.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(found) = self.take_gathered() {
            return Poll::Ready(Some(found.and_then(|data| self.release(data))));
        }
        match ready!(self.stream.poll_data(cx)) {
            Some(Ok(data)) => Poll::Ready(Some(self.release(data))),
            Some(Err(error)) => Poll::Ready(Some(Err(BodyError::H2(error)))),
            None => match ready!(self.stream.poll_trailers(cx)) {
                Ok(Some(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
                Ok(None) => Poll::Ready(None),
                Err(error) => Poll::Ready(Some(Err(BodyError::H2(error)))),
            },
        }
    }

    /// Gathers what has arrived, for a reader that is stalled; and wakes it when more arrives, to be called again.
    pub fn gather(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(arrived)) = self.stream.poll_data(cx) {
            let gathered = self.gathered.get_or_insert_default();
            match arrived {
                Ok(data) => gathered.put(data),
                Err(error) => {
                    gathered.failed.get_or_insert(error);
                    return;
                }
            }
        }
    }

    fn take_gathered(&mut self) -> Option<Result<Bytes, BodyError>> {
        let gathered = self.gathered.as_mut()?;
        let taken = match gathered.take() {
            Some(data) => Some(Ok(data)),
            None => gathered.failed.take().map(|error| Err(BodyError::H2(error))),
        };
        if gathered.is_empty() && gathered.failed.is_none() {
            self.gathered = None;
        }
        taken
    }

    fn release(&mut self, data: Bytes) -> Result<Frame<Bytes>, BodyError> {
        self.stream.flow_control().release_capacity(data.len()).map_err(BodyError::H2)?;
        Ok(Frame::data(data))
    }
}
