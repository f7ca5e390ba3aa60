//! The response's body on its way to the caller, and everything that must last as long as the response.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use crate::clock::{Clocks, Paced};
use crate::error::Fault;
use crate::h1::spelling::Spelling;
use crate::observe::Record;
use crate::policy::attempts::expired;
use crate::tunnel::Carried;
use crate::tunnel::side::Side;
use crate::upstream::Lease;
use crate::upstream::body::{BodyError, RequestBody, Source};

/// A response body on its way to the caller. It carries what must last as long as the response: the record and the
/// upstream connection; and how the head before it was spelled.
///
/// Boxed, for it is handed on often, and large.
pub struct ResponseBody(Box<State>);

struct State {
    source: Source,
    /// The request's body, which may still be on its way.
    request: RequestBody,
    clocks: Option<Clocks>,
    record: Record,
    lease: Option<Lease>,
    spelling: Spelling,
    /// The caller speaks gRPC over HTTP/2, so a response that breaks off can still end with a status.
    ends_in_status: bool,
    /// After the head, the connection is a tunnel.
    is_tunnel: bool,
    tunnel: Option<Box<Tunnel>>,
}

/// What a tunnel connects.
pub struct Tunnel {
    /// What a caller on HTTP/2 sends; one on HTTP/1 sends it on its connection.
    pub caller: Source,
    /// The upstream's side.
    pub upstream: Side,
}

impl ResponseBody {
    /// A body weir makes itself.
    pub fn own(bytes: Bytes, record: Record) -> Self {
        let source = if bytes.is_empty() { Source::Empty } else { Source::Full(bytes) };
        Self(Box::new(State {
            source,
            request: RequestBody::none(),
            clocks: None,
            record,
            lease: None,
            spelling: Spelling::default(),
            ends_in_status: false,
            is_tunnel: false,
            tunnel: None,
        }))
    }

    /// Without its content: the answer to HEAD, 204 and 304 have none, though a length may be told.
    pub fn without_content(&mut self) {
        if !self.0.source.is_end() {
            self.0.source = Source::Empty;
            // Whatever the upstream would still send is not wanted.
            self.0.lease = None;
        }
        self.end();
    }

    /// No body, but a tunnel after the head.
    pub fn tunnel(spelling: Spelling, record: Record, lease: Lease, tunnel: Tunnel) -> Self {
        let mut body = Self::own(Bytes::new(), record);
        body.0.lease = Some(lease);
        body.0.spelling = spelling;
        body.0.is_tunnel = true;
        body.0.tunnel = Some(Box::new(tunnel));
        body
    }

    /// What the tunnel connects, if this is one.
    pub fn take_tunnel(&mut self) -> Option<Box<Tunnel>> {
        self.0.tunnel.take()
    }

    /// The tunnel is over.
    pub fn carried(mut self, carried: Carried) {
        self.0.record.carried(carried.up, carried.down, carried.fault);
    }

    /// A body from an upstream.
    pub fn upstream(source: Source, spelling: Spelling, record: Record, request: RequestBody, lease: Lease) -> Self {
        let mut body = Self::own(Bytes::new(), record);
        (body.0.source, body.0.request, body.0.spelling, body.0.lease) = (source, request, spelling, Some(lease));
        if body.0.source.is_end() {
            // Nothing to wait for: the connection may serve somebody else at once.
            body.finish_upstream();
        }
        body
    }

    /// Ends it when these run out.
    #[must_use]
    pub fn timed(mut self, clocks: Clocks) -> Self {
        self.0.clocks = Some(clocks);
        self
    }

    /// How the response's head was spelled.
    pub fn take_spelling(&mut self) -> Spelling {
        std::mem::take(&mut self.0.spelling)
    }

    /// Ends a gRPC response that breaks off with a status instead of a reset; for callers on HTTP/2.
    #[must_use]
    pub fn ending_in_status(mut self) -> Self {
        self.0.ends_in_status = self.0.record.grpc;
        self
    }

    /// Whether weir made it.
    pub fn is_own(&self) -> bool {
        matches!(self.0.source, Source::Full(_))
    }

    /// Why the request failed, if it did.
    pub fn fault(&self) -> Option<Fault> {
        self.0.record.fault
    }

    /// Marks the record as failed, for example because the response could not be sent.
    pub fn fail(&mut self, fault: Fault) {
        self.0.record.fault.get_or_insert(fault);
    }

    fn finish_upstream(&mut self) {
        if let Some(lease) = self.0.lease.take() {
            lease.finished();
        }
    }

    fn end(&mut self) {
        self.finish_upstream();
        self.0.record.complete();
    }

    fn broken(&mut self, error: &BodyError) -> Fault {
        // Where the caller's body broke off first, the upstream only followed.
        let fault = self.0.request.failed().unwrap_or_else(|| error.upstreams_fault());
        self.fail(fault);
        // Dropped, not finished: the connection is of no more use.
        self.0.lease = None;
        fault
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(status) = grpc_status(trailers) {
            self.0.record.grpc_status = Some(status);
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
        let mut frame = match self.0.source.poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => Some(Err(ready!(self.poll_clocks(0, cx)))),
        };
        match &mut frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.0.record.bytes_out += data.len() as u64;
                    if self.0.source.is_end() {
                        // Whoever reads the response may be slow; the upstream need not wait for that.
                        self.finish_upstream();
                    }
                } else if let Some(trailers) = frame.trailers_mut() {
                    trailers.remove(&crate::respond::WEIR_ERROR);
                    self.trailers(trailers);
                    // Nothing follows trailers, and codecs do not ask.
                    self.0.source = Source::Empty;
                    self.end();
                }
            }
            Some(Err(error)) => {
                let fault = self.broken(error);
                if self.0.ends_in_status {
                    self.0.source = Source::Empty;
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
        self.0.source.is_end()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.source.size_hint()
    }
}

impl Paced for ResponseBody {
    fn poll_stalled(&mut self, sent: u64, cx: &mut Context<'_>) -> Poll<BodyError> {
        self.0.source.gather(cx);
        self.poll_clocks(sent, cx)
    }
}

impl ResponseBody {
    /// Ready with the error if one of the request's clocks has run out. `sent` grows with each byte that the caller takes.
    fn poll_clocks(&mut self, sent: u64, cx: &mut Context<'_>) -> Poll<BodyError> {
        let progress = sent + self.0.record.bytes_out;
        let Some(clocks) = &mut self.0.clocks else { return Poll::Pending };
        let fault = expired(ready!(clocks.poll(progress, self.0.request.heard(), cx)));
        self.fail(fault);
        Poll::Ready(BodyError::Cut(fault))
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // A codec that knows the length stops polling at the last byte and never sees the end.
        if !self.0.record.is_complete() && self.0.record.fault.is_none() && self.0.source.is_end() && !self.0.is_tunnel {
            self.end();
        }
        self.0.record.bytes_in += self.0.request.bytes();
    }
}
