//! Bodies on their way through: streamed frame by frame, counted, never collected.
//!
//! A body is polled only when the next stage has room, so a slow reader slows the writer down and memory stays bounded:
//! HTTP/1 by what is read at once, HTTP/2 by windows that are opened only as data moves on.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::informational::Hold;
use crate::error::Fault;
use crate::h1::Broken;
use crate::h1::wire::Incoming;

/// Why a body broke off.
#[derive(Debug)]
pub enum BodyError {
    /// HTTP/1.
    H1(Broken),
    /// HTTP/2.
    H2(h2::Error),
}

impl std::fmt::Display for BodyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::H1(error) => error.fmt(f),
            Self::H2(error) => error.fmt(f),
        }
    }
}

impl BodyError {
    /// What it means when a caller's body breaks off so: the caller went away, or sent something malformed.
    pub fn callers_fault(&self) -> Fault {
        match self {
            Self::H1(Broken::Ended | Broken::Io(_)) => Fault::DownstreamGone,
            Self::H1(Broken::Malformed(bad)) => Fault::BadRequest(*bad),
            Self::H2(error) if error.is_io() || error.is_reset() || error.is_go_away() => Fault::DownstreamGone,
            Self::H2(_) => Fault::BadBody,
        }
    }

    /// What it means when an upstream's body breaks off so.
    pub fn upstreams_fault(&self) -> Fault {
        match self {
            Self::H1(Broken::Ended) => Fault::UpstreamClosed,
            Self::H1(Broken::Io(_)) => Fault::UpstreamReset,
            Self::H1(Broken::Malformed(_)) => Fault::UpstreamProtocol,
            Self::H2(error) if error.is_reset() => Fault::UpstreamReset,
            Self::H2(_) => Fault::UpstreamClosed,
        }
    }
}

impl std::error::Error for BodyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::H1(error) => Some(error),
            Self::H2(error) => Some(error),
        }
    }
}

/// A body as it arrives, whatever the protocol.
#[derive(Debug)]
pub enum Source {
    /// Nothing, or nothing more.
    Empty,
    /// Bytes at hand.
    Full(Bytes),
    /// From an HTTP/1 connection.
    H1(Incoming),
    /// From an HTTP/2 stream.
    H2(h2::RecvStream),
}

impl Source {
    /// An HTTP/1 body; `Empty` if there is none, so that nothing is kept waiting for it.
    pub fn h1(body: Option<Incoming>) -> Self {
        body.map_or(Self::Empty, Self::H1)
    }

    /// An HTTP/2 body.
    pub fn h2(body: h2::RecvStream) -> Self {
        if body.is_end_stream() { Self::Empty } else { Self::H2(body) }
    }

    /// Whether there is nothing, or nothing more.
    pub fn is_end(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::H1(body) => body.is_end(),
            Self::H2(body) => body.is_end_stream(),
        }
    }

    /// How much is to come, as far as it is known.
    pub fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::H1(body) => body.size_hint(),
            Self::H2(_) => SizeHint::default(),
        }
    }

    /// The next frame.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::H1(body) => body.poll_frame(cx).map_err(BodyError::H1),
            Self::H2(body) => poll_h2(body, cx),
        }
    }
}

fn poll_h2(body: &mut h2::RecvStream, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    match ready!(body.poll_data(cx)) {
        Some(Ok(data)) => {
            // The next stage takes a frame only when it has room, so the window may open again now.
            let released = body.flow_control().release_capacity(data.len());
            Poll::Ready(Some(released.map(|()| Frame::data(data)).map_err(BodyError::H2)))
        }
        Some(Err(error)) => Poll::Ready(Some(Err(BodyError::H2(error)))),
        None => match ready!(body.poll_trailers(cx)) {
            Ok(Some(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Ok(None) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(BodyError::H2(error)))),
        },
    }
}

/// How a request body is getting on; shared by the body, which moves to the upstream connection, and the record.
#[derive(Debug, Default)]
pub struct Meter {
    /// Bytes that went through.
    pub bytes: Cell<u64>,
    /// Why it broke off on the caller's side, if it did.
    pub failed: Cell<Option<Fault>>,
}

/// A request body on its way upstream.
pub struct RequestBody {
    source: Source,
    meter: Option<Rc<Meter>>,
    hold: Option<Hold>,
}

impl RequestBody {
    /// A body from a caller. Its meter is there if it is not empty.
    pub fn new(source: Source) -> Self {
        let meter = (!source.is_end()).then(Rc::default);
        Self { source, meter, hold: None }
    }

    /// What counts it.
    pub fn meter(&self) -> Option<Rc<Meter>> {
        self.meter.clone()
    }

    /// Keeps the body back until the hold opens.
    pub fn hold(&mut self, hold: Hold) {
        self.hold = Some(hold);
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(hold) = &mut self.hold {
            ready!(hold.poll_open(cx));
            self.hold = None;
        }
        let frame = ready!(self.source.poll_frame(cx));
        if let Some(meter) = &self.meter {
            match &frame {
                Some(Ok(frame)) => meter.bytes.set(meter.bytes.get() + frame.data_ref().map_or(0, Bytes::len) as u64),
                Some(Err(error)) => meter.failed.set(Some(error.callers_fault())),
                None => {}
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.source.size_hint()
    }
}
