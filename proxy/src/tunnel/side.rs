//! One side of a tunnel: a connection of its own, or a stream of an HTTP/2 connection (RFC 9113, section 8.5; RFC 8441).

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use socket2::SockRef;

use crate::detect::greets_by_http2;
use crate::h1::wire::Wire;

/// What a stream is asked to take at once.
const AT_ONCE: usize = 64 << 10;

/// One side of a tunnel.
pub enum Side {
    /// A connection.
    Wire(Rc<Wire>),
    /// A stream.
    Stream(Stream),
}

/// A stream of an HTTP/2 connection.
pub struct Stream {
    send: RefCell<SendStream<Bytes>>,
    /// `None` if it ended before the tunnel began.
    receive: RefCell<Option<RecvStream>>,
}

impl Stream {
    /// From its two halves.
    pub fn new(send: SendStream<Bytes>, receive: Option<RecvStream>) -> Self {
        Self { send: RefCell::new(send), receive: RefCell::new(receive) }
    }
}

impl Side {
    /// The connection, if it is one.
    pub(super) fn wire(&self) -> Option<&Wire> {
        match self {
            Self::Wire(wire) => Some(wire),
            Self::Stream(_) => None,
        }
    }

    /// Ready when it has said enough to be told by, or has no more to say: whether it is HTTP/2 that it speaks. What it said is
    /// taken later.
    ///
    /// # Errors
    /// It broke.
    pub fn poll_said(&self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        // A stream is asked for by those only who have something to say themselves.
        let Self::Wire(wire) = self else { return Poll::Pending };
        loop {
            if !wire.is_empty()
                && let Some(is_http2) = wire.with_unread(|said| greets_by_http2(said))
            {
                return Poll::Ready(Ok(is_http2));
            }
            if ready!(wire.poll_fill(cx))? == 0 {
                return Poll::Ready(Ok(false));
            }
        }
    }

    /// What came from it; `None` at its end.
    ///
    /// # Errors
    /// It broke.
    pub(super) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        match self {
            Self::Wire(wire) => {
                if wire.is_empty() && ready!(wire.poll_fill(cx))? == 0 {
                    return Poll::Ready(Ok(None));
                }
                Poll::Ready(Ok(Some(wire.with_unread(BytesMut::split).freeze())))
            }
            Self::Stream(stream) => {
                let mut receive = stream.receive.borrow_mut();
                let Some(receive) = receive.as_mut() else { return Poll::Ready(Ok(None)) };
                match ready!(receive.poll_data(cx)) {
                    Some(Ok(data)) => Poll::Ready(Ok(Some(data))),
                    Some(Err(error)) => Poll::Ready(Err(io::Error::other(error))),
                    // Trailers have no meaning in a tunnel.
                    None => Poll::Ready(Ok(None)),
                }
            }
        }
    }

    /// So many bytes that came from it have gone on: it may send more.
    pub(super) fn gone_on(&self, count: usize) {
        if let Self::Stream(stream) = self
            && let Some(receive) = stream.receive.borrow_mut().as_mut()
        {
            // Fails for a stream that is over, which sends no more anyway.
            let _ = receive.flow_control().release_capacity(count);
        }
    }

    /// Gives it bytes, as many as it takes. Gives their number.
    ///
    /// # Errors
    /// It broke.
    pub(super) fn poll_put(&self, bytes: &mut Bytes, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self {
            Self::Wire(wire) => {
                let written = ready!(wire.poll_write(cx, &[io::IoSlice::new(bytes)]))?;
                bytes.advance(written);
                if written == 0 { Poll::Ready(Err(io::ErrorKind::WriteZero.into())) } else { Poll::Ready(Ok(written)) }
            }
            Self::Stream(stream) => {
                let mut send = stream.send.borrow_mut();
                send.reserve_capacity(bytes.len().min(AT_ONCE));
                let room = match ready!(send.poll_capacity(cx)) {
                    Some(room) => room.map_err(io::Error::other)?,
                    None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                };
                let part = bytes.split_to(room.min(bytes.len()));
                let count = part.len();
                send.send_data(part, false).map_err(io::Error::other)?;
                Poll::Ready(Ok(count))
            }
        }
    }

    /// Tells it that nothing more comes.
    ///
    /// # Errors
    /// It broke.
    pub(super) fn poll_end(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Wire(wire) => wire.poll_shutdown(cx),
            Self::Stream(stream) => Poll::Ready(stream.send.borrow_mut().send_data(Bytes::new(), true).map_err(io::Error::other)),
        }
    }

    /// Whether it takes nothing any more. A connection says so when it is written to.
    pub(super) fn is_reset(&self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Wire(_) => false,
            Self::Stream(stream) => stream.send.borrow_mut().poll_reset(cx).is_ready(),
        }
    }

    /// Has it see a break rather than an end; a stream is told the reason.
    pub(super) fn cut(&self, reason: Reason) {
        match self {
            Self::Wire(wire) => drop(wire.with_tcp(|stream| SockRef::from(stream).set_linger(Some(Duration::ZERO)))),
            Self::Stream(stream) => stream.send.borrow_mut().send_reset(reason),
        }
    }
}
