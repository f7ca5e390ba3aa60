//! The socket of an HTTP/1 connection, with the gate in front of the codec.
//!
//! hyper reads and writes through [`H1Io`]; the connection's task and the requests keep [`H1Shared`]. The gate holds
//! back what [`h1_gate`](super::h1_gate) refuses, and gives the connection's task the word when everything before it is
//! answered. It also puts informational responses on the wire, which hyper's server cannot.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::h1_gate::{Inspector, Place};
use crate::error::BadRequest;

/// What hyper reads from and writes to.
pub struct H1Io {
    shared: Rc<H1Shared>,
    inspector: Inspector,
    /// Bytes that were read while the protocol was detected.
    prefix: Bytes,
    /// The part of an incomplete head that has arrived; hyper must not judge it first.
    held: Vec<u8>,
    /// Judged, but not taken by hyper yet.
    passed: Bytes,
}

/// What the connection's task and its requests share.
pub struct H1Shared {
    stream: RefCell<TcpStream>,
    refusal: Cell<Option<(BadRequest, Place)>>,
    between: Cell<bool>,
    /// Requests whose response hyper has not taken completely.
    in_flight: Cell<u32>,
    /// Requests that were given to the request path.
    served: Cell<u64>,
    reader: RefCell<Option<Waker>>,
    /// Informational responses that are not on the wire yet.
    queued: RefCell<Vec<u8>>,
    flushed: Cell<bool>,
}

/// The most bytes of informational responses that wait for a slow reader; more are dropped, as they may be.
const MAX_QUEUED: usize = 16 << 10;

impl H1Shared {
    /// Takes the socket over.
    pub fn new(stream: TcpStream) -> Rc<Self> {
        Rc::new(Self {
            stream: RefCell::new(stream),
            refusal: Cell::new(None),
            between: Cell::new(true),
            in_flight: Cell::new(0),
            served: Cell::new(0),
            reader: RefCell::new(None),
            queued: RefCell::new(Vec::new()),
            flushed: Cell::new(true),
        })
    }

    /// Why the gate closed and where, if it did.
    pub fn refusal(&self) -> Option<(BadRequest, Place)> {
        self.refusal.get()
    }

    /// Whether the caller is in the middle of a message.
    pub fn is_mid_message(&self) -> bool {
        !self.between.get()
    }

    /// How many requests were given to the request path.
    pub fn served(&self) -> u64 {
        self.served.get()
    }

    /// A request begins; it ends when the guard is dropped.
    pub fn begin(self: &Rc<Self>) -> InFlight {
        self.in_flight.set(self.in_flight.get() + 1);
        self.served.set(self.served.get() + 1);
        InFlight(Rc::clone(self))
    }

    /// Whether nothing is in flight.
    pub fn is_idle(&self) -> bool {
        self.in_flight.get() == 0
    }

    /// Puts an informational response on the wire, before the response of the request in flight. Dropped where it
    /// could mix with an earlier response that is still on its way, or would pile up.
    pub fn informational(&self, head: &[u8]) {
        let mut queued = self.queued.borrow_mut();
        if self.in_flight.get() != 1 || !self.flushed.get() || queued.len() + head.len() > MAX_QUEUED {
            return;
        }
        queued.extend_from_slice(head);
        // What the socket does not take now leaves before the next bytes of hyper's.
        if let Ok(written) = self.stream.borrow().try_write(&queued) {
            queued.drain(..written);
        }
    }

    /// Reads and throws away.
    ///
    /// # Errors
    /// What the socket says.
    pub fn poll_discard(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut scratch = [0; 4096];
        let mut buf = ReadBuf::new(&mut scratch);
        ready!(Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, &mut buf))?;
        Poll::Ready(Ok(buf.filled().len()))
    }

    /// Writes.
    ///
    /// # Errors
    /// What the socket says.
    pub fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, bytes)
    }

    /// Says that nothing more will be written.
    ///
    /// # Errors
    /// What the socket says.
    pub fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_shutdown(cx)
    }

    fn poll_queued(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut queued = self.queued.borrow_mut();
        while !queued.is_empty() {
            let written = ready!(Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, &queued))?;
            queued.drain(..written);
        }
        Poll::Ready(Ok(()))
    }
}

/// A request in flight on an HTTP/1 connection.
pub struct InFlight(Rc<H1Shared>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
        if self.0.refusal.get().is_some()
            && let Some(waker) = self.0.reader.borrow_mut().take()
        {
            waker.wake();
        }
    }
}

impl H1Io {
    /// Reads `prefix` first, then the socket.
    pub fn new(shared: Rc<H1Shared>, inspector: Inspector, prefix: Bytes) -> Self {
        Self { shared, inspector, prefix, held: Vec::new(), passed: Bytes::new() }
    }

    /// Lets the gate look at what was read after `before`; cuts off what it refuses, and holds back a head until all of
    /// it is there.
    fn inspect(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        let fresh = &buf.filled()[before..];
        let passes = match self.inspector.inspect(fresh) {
            Ok(()) => (self.held.len() + fresh.len()).saturating_sub(self.inspector.pending()),
            Err((0, why, place)) => {
                self.shared.refusal.set(Some((why, place)));
                self.held.clear();
                0
            }
            Err((passes, why, place)) => {
                self.shared.refusal.set(Some((why, place)));
                self.held.len() + passes
            }
        };
        if self.held.is_empty() {
            if self.shared.refusal.get().is_none() {
                self.held.extend_from_slice(&fresh[passes..]);
            }
            buf.set_filled(before + passes);
        } else {
            self.held.extend_from_slice(fresh);
            buf.set_filled(before);
            if passes > 0 {
                let rest = self.held.split_off(passes);
                self.passed = std::mem::replace(&mut self.held, rest).into();
            }
            if self.shared.refusal.get().is_some() {
                self.held.clear();
            }
        }
        self.shared.between.set(self.inspector.is_between());
    }

    /// Gives hyper what was judged and not taken yet.
    fn give(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let length = self.passed.len().min(buf.remaining());
        buf.put_slice(&self.passed[..length]);
        self.passed.advance(length);
        length > 0
    }
}

impl AsyncRead for H1Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        loop {
            if self.give(buf) {
                return Poll::Ready(Ok(()));
            }
            if self.shared.refusal.get().is_some() {
                break;
            }
            if self.prefix.is_empty() {
                ready!(Pin::new(&mut *self.shared.stream.borrow_mut()).poll_read(cx, buf))?;
            } else {
                let length = self.prefix.len().min(buf.remaining());
                buf.put_slice(&self.prefix[..length]);
                self.prefix.advance(length);
            }
            if buf.filled().len() == before {
                return Poll::Ready(Ok(()));
            }
            self.inspect(buf, before);
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
        // The end of the stream, as far as hyper is concerned: in a body it fails the request at once; before a head
        // it would look like a caller who went away while earlier requests are still being answered, so it waits.
        let in_body = matches!(self.shared.refusal.get(), Some((_, Place::Body)));
        if in_body || self.shared.is_idle() {
            return Poll::Ready(Ok(()));
        }
        *self.shared.reader.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for H1Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.shared.poll_queued(cx))?;
        self.shared.flushed.set(false);
        Pin::new(&mut *self.shared.stream.borrow_mut()).poll_write(cx, bytes)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        ready!(self.shared.poll_queued(cx))?;
        self.shared.flushed.set(false);
        Pin::new(&mut *self.shared.stream.borrow_mut()).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A TCP socket has no buffer of its own to flush; hyper comes here when its buffer is empty.
        self.shared.flushed.set(true);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's task shuts down: it may have a refusal to say first.
        Poll::Ready(Ok(()))
    }
}
