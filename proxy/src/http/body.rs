//! Bodies on their way through: streamed frame by frame, counted, never collected.
//!
//! A body is polled only when the next stage has room, so a slow reader slows the writer down and memory stays bounded:
//! hyper by its buffers, HTTP/2 by windows that are opened only as data moves on.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::gate::InFlight;
use super::informational::Hold;
use crate::error::Fault;
use crate::observe::Record;
use crate::upstream::Lease;

/// Why a body broke off.
#[derive(Debug)]
pub enum BodyError {
    /// HTTP/1.
    H1(hyper::Error),
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
    pub fn h1(body: Incoming) -> Self {
        if body.is_end_stream() { Self::Empty } else { Self::H1(body) }
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
            Self::H1(body) => body.is_end_stream(),
            Self::H2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::H1(body) => body.size_hint(),
            Self::H2(_) => SizeHint::default(),
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::H1(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::H1),
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
    /// Whether the caller broke it off.
    pub failed: Cell<bool>,
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
                Some(Err(_)) => meter.failed.set(true),
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

/// A response body on its way to the caller. It carries what must last as long as the response: the record, the
/// upstream connection, the caller's place on its connection.
pub struct ResponseBody {
    source: Source,
    meter: Option<Rc<Meter>>,
    record: Record,
    lease: Option<Lease>,
    in_flight: Option<InFlight>,
    /// The caller speaks gRPC over HTTP/2, so a response that breaks off can still end with a status.
    ends_in_status: bool,
}

impl ResponseBody {
    /// A body weir makes itself.
    pub fn own(bytes: Bytes, record: Record) -> Self {
        let source = if bytes.is_empty() { Source::Empty } else { Source::Full(bytes) };
        Self { source, meter: None, record, lease: None, in_flight: None, ends_in_status: false }
    }

    /// A body from an upstream.
    pub fn upstream(source: Source, record: Record, meter: Option<Rc<Meter>>, lease: Lease) -> Self {
        let mut body = Self { source, meter, record, lease: Some(lease), in_flight: None, ends_in_status: false };
        if body.source.is_end() {
            // Nothing to wait for: the connection may serve somebody else at once.
            body.finish_upstream();
        }
        body
    }

    /// Keeps the caller's place on its HTTP/1 connection until the response is through.
    #[must_use]
    pub fn occupying(mut self, in_flight: InFlight) -> Self {
        self.in_flight = Some(in_flight);
        self
    }

    /// Ends a gRPC response that breaks off with a status instead of a reset; for callers on HTTP/2.
    #[must_use]
    pub fn ending_in_status(mut self) -> Self {
        self.ends_in_status = self.record.grpc;
        self
    }

    /// Marks the record as failed, for example because the response could not be sent.
    pub fn fail(&mut self, fault: Fault) {
        self.record.fault.get_or_insert(fault);
    }

    fn finish_upstream(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.finished();
        }
    }

    fn end(&mut self) {
        self.finish_upstream();
        self.record.complete();
    }

    fn broken(&mut self, error: &BodyError) -> Fault {
        let fault = match error {
            BodyError::H1(_) => Fault::UpstreamClosed,
            BodyError::H2(error) if error.is_reset() => Fault::UpstreamReset,
            BodyError::H2(_) => Fault::UpstreamClosed,
        };
        self.fail(fault);
        // Dropped, not finished: the connection is of no more use.
        self.lease = None;
        fault
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(status) = grpc_status(trailers) {
            self.record.grpc_status = Some(status);
        }
    }
}

/// The gRPC status in headers or trailers.
pub fn grpc_status(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(self.source.poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.record.bytes_out += data.len() as u64;
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.trailers(trailers);
                }
            }
            Some(Err(error)) => {
                let fault = self.broken(error);
                if self.ends_in_status {
                    self.source = Source::Empty;
                    let trailers = crate::respond::grpc_trailers(fault);
                    self.trailers(&trailers);
                    return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                }
            }
            None => self.end(),
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

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // A codec that knows the length stops polling at the last byte and never sees the end.
        if !self.record.is_complete() && self.record.fault.is_none() && self.source.is_end() {
            self.end();
        }
        if let Some(meter) = &self.meter {
            self.record.bytes_in = meter.bytes.get();
        }
    }
}
