//! Bodies on their way through: streamed frame by frame, counted, never collected.
//!
//! A body is polled only when the next stage has room, so a slow reader slows the writer down and memory stays bounded:
//! HTTP/1 by what is read at once, HTTP/2 by windows that are opened only as data moves on. What of a request's body was
//! sent is kept until the response begins, up to 64 KiB, so that it can be sent again.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use tokio::time::Instant;

use super::inflow::Inflow;
use super::informational::Hold;
use crate::clock::{Alarm, Heard, Paced};
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
    /// It took too long, or was found wrong by weir.
    Cut(Fault),
}

impl std::fmt::Display for BodyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::H1(error) => error.fmt(f),
            Self::H2(error) => error.fmt(f),
            Self::Cut(fault) => f.write_str(fault.message()),
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
            Self::Cut(fault) => *fault,
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
            Self::Cut(fault) => *fault,
        }
    }
}

impl std::error::Error for BodyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::H1(error) => Some(error),
            Self::H2(error) => Some(error),
            Self::Cut(_) => None,
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
    H2(Inflow),
}

impl Source {
    /// An HTTP/1 body; `Empty` if there is none, so that nothing is kept waiting for it.
    pub fn h1(body: Option<Incoming>) -> Self {
        body.map_or(Self::Empty, Self::H1)
    }

    /// An HTTP/2 body.
    pub fn h2(body: h2::RecvStream) -> Self {
        if body.is_end_stream() { Self::Empty } else { Self::H2(Inflow::new(body)) }
    }

    /// The HTTP/2 stream, if it is one that has not ended.
    pub fn into_h2(self) -> Option<h2::RecvStream> {
        match self {
            Self::H2(body) => Some(body.into_stream()),
            Self::Empty | Self::Full(_) | Self::H1(_) => None,
        }
    }

    /// Whether there is nothing, or nothing more.
    pub fn is_end(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::H1(body) => body.is_end(),
            Self::H2(body) => body.is_end(),
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
            Self::H2(body) => body.poll_frame(cx),
        }
    }

    /// Asked while the reader is stalled: what arrives must not be in the way of others on the same connection.
    pub fn gather(&mut self, cx: &mut Context<'_>) {
        if let Self::H2(body) = self {
            body.gather(cx);
        }
    }
}

/// So much of a body is kept to be sent again; more, and it cannot be (Linkerd's number).
const MAX_KEPT: usize = 64 << 10;
/// What a frame costs beside its bytes.
const FRAME_COST: usize = 64;
/// Pieces below this size are copied when they are kept.
const SMALL: usize = 512;
/// So much is kept by one worker for all its requests.
const MAX_KEPT_IN_ALL: usize = 16 << 20;

/// A body that can be given to one attempt after the other. Each reads it from its start: first what is kept, then what
/// still comes.
pub struct RequestBody(Option<Rc<Shared>>);

/// What the attempts share.
struct Shared {
    source: RefCell<Source>,
    /// What came from the caller.
    heard: Cell<Heard>,
    /// Why it broke off on the caller's side, if it did.
    failed: Cell<Option<Fault>>,
    kept: RefCell<Kept>,
    /// Bytes kept by all requests of the worker.
    in_all: Rc<Cell<usize>>,
    /// The attempt that may read; earlier ones may still be on their way out.
    turn: Cell<u32>,
    hold: RefCell<Option<Hold>>,
    pauses: RefCell<Option<Pauses>>,
}

/// What was read, as far as it is kept.
#[derive(Debug, Default)]
struct Kept {
    data: Vec<Bytes>,
    bytes: usize,
    trailers: Option<HeaderMap>,
    /// Nothing more comes from the caller.
    ended: bool,
    /// Something was read that is not kept.
    lost: bool,
    /// The response has begun; nothing will be sent again.
    over: bool,
}

/// How long a caller may pause in a body.
struct Pauses {
    limit: Duration,
    alarm: Alarm,
    since: Option<Instant>,
}

impl RequestBody {
    /// A body from a caller, who may pause in it for `pause`. `in_all` counts what the worker keeps.
    pub fn new(source: Source, in_all: &Rc<Cell<usize>>, pause: Option<(Duration, Alarm)>) -> Self {
        if source.is_end() {
            return Self(None);
        }
        Self(Some(Rc::new(Shared {
            source: RefCell::new(source),
            heard: Cell::default(),
            failed: Cell::new(None),
            kept: RefCell::default(),
            in_all: Rc::clone(in_all),
            turn: Cell::new(0),
            hold: RefCell::new(None),
            pauses: RefCell::new(pause.map(|(limit, alarm)| Pauses { limit, alarm, since: None })),
        })))
    }

    /// No body.
    pub fn none() -> Self {
        Self(None)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Keeps the body back until the hold opens.
    pub fn hold(&self, hold: Hold) {
        if let Some(shared) = &self.0 {
            *shared.hold.borrow_mut() = Some(hold);
        }
    }

    /// Bytes that came from the caller.
    pub fn bytes(&self) -> u64 {
        self.heard().bytes
    }

    /// What came from the caller.
    pub fn heard(&self) -> Heard {
        self.0.as_ref().map_or_else(Heard::default, |shared| shared.heard.get())
    }

    /// Why it broke off on the caller's side, if it did.
    pub fn failed(&self) -> Option<Fault> {
        self.0.as_ref().and_then(|shared| shared.failed.get())
    }

    /// Whether another attempt can read all of it.
    pub fn is_replayable(&self) -> bool {
        self.0.as_ref().is_none_or(|shared| !shared.kept.borrow().lost)
    }

    /// For the next attempt. Those before read nothing more.
    pub fn attempt(&self) -> Attempt {
        let Some(shared) = &self.0 else { return Attempt { shared: None, turn: 0, at: 0, done: true } };
        shared.turn.set(shared.turn.get() + 1);
        Attempt { shared: Some(Rc::clone(shared)), turn: shared.turn.get(), at: 0, done: false }
    }

    /// The attempt under way is given up: nothing more is read, so that what is kept stays as it is until the next one.
    pub fn stop(&self) {
        if let Some(shared) = &self.0 {
            shared.turn.set(shared.turn.get() + 1);
        }
    }

    /// The response has begun: nothing will be sent again, so nothing more is kept. A stream may be silent from now on
    /// for as long as the rule's `timeout.idle` lets it.
    pub fn settle(&self) {
        if let Some(shared) = &self.0 {
            shared.kept.borrow_mut().over = true;
            shared.pauses.borrow_mut().take();
        }
    }
}

impl Shared {
    /// Takes a frame in that came from the caller.
    fn keep(&self, frame: &Frame<Bytes>) {
        let mut kept = self.kept.borrow_mut();
        if let Some(trailers) = frame.trailers_ref() {
            kept.ended = true;
            kept.trailers = Some(trailers.clone());
        }
        let Some(data) = frame.data_ref() else { return };
        if data.is_empty() {
            return;
        }
        let bytes = self.heard.get().bytes + data.len() as u64;
        self.heard.set(Heard { bytes, at: Some(Instant::now()) });
        let cost = data.len() + FRAME_COST;
        let fits = kept.bytes + cost <= MAX_KEPT + FRAME_COST && self.in_all.get() + cost <= MAX_KEPT_IN_ALL;
        if fits && !kept.over && !kept.lost {
            kept.bytes += cost;
            self.in_all.set(self.in_all.get() + cost);
            // A small piece must not keep the large buffer alive that it came in.
            kept.data.push(if data.len() < SMALL { Bytes::copy_from_slice(data) } else { data.clone() });
        } else {
            kept.lost = true;
            self.forget(&mut kept);
        }
    }

    fn forget(&self, kept: &mut Kept) {
        self.in_all.set(self.in_all.get() - kept.bytes);
        kept.bytes = 0;
        kept.data = Vec::new();
    }

    /// The next frame from the caller.
    fn poll_source(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = self.source.borrow_mut().poll_frame(cx);
        let mut pauses = self.pauses.borrow_mut();
        let frame = match (frame, &mut *pauses) {
            (Poll::Ready(frame), pauses) => {
                if let Some(pauses) = pauses {
                    pauses.since = None;
                }
                frame
            }
            (Poll::Pending, Some(Pauses { limit, alarm, since })) => {
                let since = *since.get_or_insert_with(Instant::now);
                ready!(alarm.poll(since + *limit, cx));
                Some(Err(BodyError::Cut(Fault::SlowBody)))
            }
            (Poll::Pending, None) => return Poll::Pending,
        };
        match &frame {
            Some(Ok(frame)) => self.keep(frame),
            Some(Err(error)) => self.failed.set(Some(error.callers_fault())),
            None => self.kept.borrow_mut().ended = true,
        }
        Poll::Ready(frame)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.in_all.set(self.in_all.get() - self.kept.borrow().bytes);
    }
}

/// A request body on its way upstream, in one attempt.
pub struct Attempt {
    shared: Option<Rc<Shared>>,
    turn: u32,
    /// The next of the kept frames.
    at: usize,
    /// All of it was read.
    done: bool,
}

impl Attempt {
    /// Bytes that came from the caller.
    pub fn bytes(&self) -> u64 {
        self.shared.as_ref().map_or(0, |shared| shared.heard.get().bytes)
    }

    /// What is kept, if this attempt has not read it yet.
    fn poll_kept(&mut self, shared: &Shared) -> Option<Option<Frame<Bytes>>> {
        let mut kept = shared.kept.borrow_mut();
        if let Some(data) = kept.data.get(self.at) {
            self.at += 1;
            return Some(Some(Frame::data(data.clone())));
        }
        if kept.over && kept.bytes > 0 {
            shared.forget(&mut kept);
            self.at = 0;
        }
        if !kept.ended {
            return None;
        }
        self.done = true;
        Some(kept.trailers.clone().map(Frame::trailers))
    }
}

impl Paced for Attempt {
    fn poll_stalled(&mut self, _: u64, cx: &mut Context<'_>) -> Poll<BodyError> {
        if let Some(shared) = self.shared.as_ref().filter(|shared| shared.turn.get() == self.turn) {
            shared.source.borrow_mut().gather(cx);
        }
        // The request's own clocks watch the upload.
        Poll::Pending
    }
}

impl Body for Attempt {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(shared) = self.shared.clone().filter(|_| !self.done) else { return Poll::Ready(None) };
        if shared.turn.get() != self.turn {
            // Given up. Whoever still sends it must not take this for the end of the body.
            return Poll::Ready(Some(Err(BodyError::Cut(Fault::UpstreamClosed))));
        }
        if let Some(hold) = &mut *shared.hold.borrow_mut() {
            ready!(hold.poll_open(cx));
        }
        shared.hold.borrow_mut().take();
        if let Some(frame) = self.poll_kept(&shared) {
            return Poll::Ready(frame.map(Ok));
        }
        let frame = ready!(shared.poll_source(cx));
        let is_data = matches!(&frame, Some(Ok(frame)) if frame.is_data());
        self.done = !is_data;
        self.at = shared.kept.borrow().data.len();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let Some(shared) = &self.shared else { return true };
        let kept = shared.kept.borrow();
        self.done || (self.at >= kept.data.len() && kept.trailers.is_none() && shared.source.borrow().is_end())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.shared {
            None => SizeHint::with_exact(0),
            // Of a replay, only the header tells.
            Some(shared) if self.turn == 1 => shared.source.borrow().size_hint(),
            Some(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn body(source: Bytes, in_all: &Rc<Cell<usize>>) -> RequestBody {
        RequestBody::new(Source::Full(source), in_all, None)
    }

    fn read(attempt: &mut Attempt) -> Vec<u8> {
        let mut all = Vec::new();
        while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut *attempt).poll_frame(&mut Context::from_waker(Waker::noop())) {
            all.extend_from_slice(frame.data_ref().unwrap());
        }
        all
    }

    #[test]
    fn each_attempt_reads_all_of_a_small_body() {
        let in_all = Rc::<Cell<usize>>::default();
        let body = body(Bytes::from_static(b"small"), &in_all);
        let mut first = body.attempt();
        assert_eq!(read(&mut first), b"small");
        assert!(first.is_end_stream() && body.is_replayable());
        let mut second = body.attempt();
        assert!(!second.is_end_stream());
        body.stop();
        let given_up = Pin::new(&mut second).poll_frame(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(given_up, Poll::Ready(Some(Err(_)))), "not the end of the body, but an error");
        drop(second);
        let mut second = body.attempt();
        assert_eq!(read(&mut second), b"small");
        assert_eq!((body.bytes(), in_all.get()), (5, 5 + FRAME_COST), "what is sent again does not count again");
        body.settle();
        drop((first, second, body));
        assert_eq!(in_all.get(), 0);
    }

    #[test]
    fn a_large_body_is_read_once() {
        let in_all = Rc::<Cell<usize>>::default();
        let body = body(Bytes::from(vec![b'x'; MAX_KEPT + 1]), &in_all);
        assert!(body.is_replayable(), "nothing of it was read");
        assert_eq!(read(&mut body.attempt()).len(), MAX_KEPT + 1);
        assert!(!body.is_replayable());
        assert_eq!(in_all.get(), 0);
    }

    #[test]
    fn a_worker_keeps_only_so_much() {
        let in_all = Rc::new(Cell::new(MAX_KEPT_IN_ALL - 3));
        let body = body(Bytes::from_static(b"small"), &in_all);
        assert_eq!(read(&mut body.attempt()), b"small");
        assert!(!body.is_replayable());
    }
}
