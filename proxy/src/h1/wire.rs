//! The socket of an HTTP/1 connection, with what was read from it and not taken yet.
//!
//! One message is read at a time; its body is followed here, because whoever reads it may give up, and what is left of
//! it must still be known for what it is. Reading and writing are independent: a body may come in while another goes out.
//! A connection with nothing to say holds no buffer.

use std::cell::{Cell, RefCell};
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body::{Frame, SizeHint};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use super::decode::{Decoder, Piece};
use super::large::Large;
use super::{Broken, encode};
use crate::socket::{CLOSED, Socket, info};

/// What one read takes at most, unless a large body is under way. Read on the stack and copied, so that the buffer that
/// stays is as large as what came.
const SMALL_READ: usize = 16 << 10;
/// The most bytes of informational responses that wait for a slow reader; more are dropped, as they may be.
const MAX_QUEUED: usize = 16 << 10;
/// The most that is read ahead of a caller who is being answered.
const MAX_AHEAD: usize = 16 << 10;
/// An end that comes within so many milliseconds of a request belongs to it: `nc -N`, and others who say all they have to say.
/// A caller that goes away so soon costs a request that nobody wants any more.
const RIGHT_BEHIND: u32 = 20;
/// Such a caller is asked by its kernel whether it is still there, which knows for a minute after it has gone; and so often the
/// answer is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
const ASKED: TcpKeepalive = TcpKeepalive::new().with_time(LOOK_AGAIN).with_interval(LOOK_AGAIN).with_retries(3);

/// The socket of one connection.
pub struct Wire {
    stream: RefCell<Socket>,
    unread: RefCell<BytesMut>,
    decoder: RefCell<Decoder>,
    /// Informational responses that are not on the wire yet.
    queued: RefCell<Vec<u8>>,
    /// Whether the peer waits for `100 Continue`.
    awaits_continue: Cell<bool>,
    /// Bytes that the socket has taken.
    written: Cell<u64>,
    /// Whether the final response is being written: nothing may come between any more.
    answering: Cell<bool>,
    /// Whether somebody reads the body.
    has_reader: Cell<bool>,
    /// Who waits for the reader to be gone.
    successor: RefCell<Option<Waker>>,
    /// Where the peer says nothing more, and waits for what it asked for: when it is looked whether it still does.
    only_reads: RefCell<Option<Pin<Box<Sleep>>>>,
}

impl Wire {
    /// Takes a socket over; `unread` was read from it already.
    pub fn new(stream: Socket, unread: BytesMut) -> Rc<Self> {
        Rc::new(Self {
            stream: RefCell::new(stream),
            unread: RefCell::new(unread),
            decoder: RefCell::new(Decoder::done()),
            queued: RefCell::new(Vec::new()),
            awaits_continue: Cell::new(false),
            written: Cell::new(0),
            answering: Cell::new(false),
            has_reader: Cell::new(false),
            successor: RefCell::new(None),
            only_reads: RefCell::new(None),
        })
    }

    /// Begins to read the body of a message; `begin` tells the decoder what frames it. `None` if there is no body.
    pub fn begin(self: &Rc<Self>, awaits_continue: bool, begin: impl FnOnce(&mut Decoder)) -> Option<Incoming> {
        let mut decoder = self.decoder.borrow_mut();
        begin(&mut decoder);
        self.awaits_continue.set(awaits_continue);
        self.answering.set(false);
        self.has_reader.set(!decoder.is_done());
        if !decoder.is_done() && self.is_empty() {
            // Many write a head and its body one after the other, and their kernels hold the second back until the first is
            // acknowledged (RFC 9293, section 3.7.4). This one would wait 40 ms for something to send with that.
            let _ = self.with_tcp(|tcp| SockRef::from(tcp).set_tcp_quickack(true));
        }
        (!decoder.is_done()).then(|| Incoming { wire: Rc::clone(self), over: false })
    }

    /// The final response begins: no informational one may follow.
    pub fn answer(&self) {
        self.answering.set(true);
    }

    /// Works on what was read and not taken.
    pub fn with_unread<T>(&self, work: impl FnOnce(&mut BytesMut) -> T) -> T {
        work(&mut self.unread.borrow_mut())
    }

    /// Whether nothing was read that was not taken.
    pub fn is_empty(&self) -> bool {
        self.unread.borrow().is_empty()
    }

    /// Whether the body that was begun is complete.
    pub fn is_done(&self) -> bool {
        self.decoder.borrow().is_done()
    }

    /// Whether nobody reads the body any more though it is not complete.
    pub fn is_abandoned(&self) -> bool {
        !self.has_reader.get() && !self.is_done()
    }

    /// Ready when nobody reads the body any more, complete or not.
    pub fn poll_released(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.has_reader.get() {
            return Poll::Ready(());
        }
        *self.successor.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }

    /// How much of the body is to come, if it is known.
    pub fn remaining(&self) -> Option<u64> {
        self.decoder.borrow().remaining()
    }

    /// Whether the body was not understood.
    pub fn is_malformed(&self) -> bool {
        self.decoder.borrow().failure().is_some()
    }

    /// Whether the peer still waits to be asked for its body.
    pub fn awaits_continue(&self) -> bool {
        self.awaits_continue.get()
    }

    fn release(&self) {
        self.has_reader.set(false);
        if let Some(successor) = self.successor.borrow_mut().take() {
            successor.wake();
        }
    }

    /// Reads what there is. Gives the number of bytes, 0 at the end of the stream.
    ///
    /// # Errors
    /// What the socket says.
    pub fn poll_fill(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut unread = self.unread.borrow_mut();
        let mut stream = self.stream.borrow_mut();
        if unread.is_empty() && unread.capacity() > SMALL_READ {
            // What much read ahead left behind is not kept while nothing comes.
            *unread = BytesMut::new();
        }
        let mut scratch = [MaybeUninit::uninit(); SMALL_READ];
        let mut buf = ReadBuf::uninit(&mut scratch);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut buf))?;
        unread.extend_from_slice(buf.filled());
        Poll::Ready(Ok(buf.filled().len()))
    }

    /// Reads past the buffer, which must be empty.
    ///
    /// # Errors
    /// What the socket says.
    pub fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        debug_assert!(self.is_empty(), "what was read before comes first");
        Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, buf)
    }

    /// Whether the peer has gone away, while nothing more is read of it than it may say ahead. Pending as long as it is
    /// there, or may be: one that says right behind its request that it will say no more still waits for the answer.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.only_reads.borrow().is_some() {
            return self.poll_dead(cx);
        }
        if self.has_reader.get() {
            // Whoever reads the body finds out; when that is over, it is looked for here again.
            *self.successor.borrow_mut() = Some(cx.waker().clone());
            return Poll::Pending;
        }
        while self.unread.borrow().len() < MAX_AHEAD {
            match ready!(self.poll_fill(cx)) {
                Ok(0) if self.ends_with_request() => {
                    // Whether it is still there, only the kernel can find out.
                    let _ = self.with_tcp(|tcp| SockRef::from(tcp).set_tcp_keepalive(&ASKED));
                    *self.only_reads.borrow_mut() = Some(Box::pin(sleep(LOOK_AGAIN)));
                    return self.poll_dead(cx);
                }
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
        Poll::Pending
    }

    /// Whether the peer's end came right behind what it said last. Who goes away does so later.
    fn ends_with_request(&self) -> bool {
        // Its end was the last that came from it. In TLS the end is said too.
        let since = |info: libc::tcp_info| info.tcpi_last_data_recv.saturating_sub(info.tcpi_last_ack_recv);
        self.is_plain() && self.with_tcp(info).is_some_and(|info| since(info) < RIGHT_BEHIND)
    }

    /// Whether a peer that only reads is found to be gone.
    fn poll_dead(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut timer = self.only_reads.borrow_mut();
        let Some(timer) = timer.as_mut() else { return Poll::Pending };
        while timer.as_mut().poll(cx).is_ready() {
            if self.with_tcp(info).is_none_or(|info| info.tcpi_state == CLOSED) {
                return Poll::Ready(());
            }
            timer.as_mut().reset(Instant::now() + LOOK_AGAIN);
        }
        Poll::Pending
    }

    /// Whether an idle connection can carry another exchange, as far as this side can know: the peer has neither closed
    /// nor said anything unasked.
    pub fn is_usable(&self) -> bool {
        self.is_done() && self.is_empty() && self.stream.borrow_mut().is_silent()
    }

    /// Reads and throws away. Gives the number of bytes, 0 at the end of the stream.
    ///
    /// # Errors
    /// What the socket says.
    pub fn poll_discard(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.unread.borrow_mut().clear();
        let mut scratch = [MaybeUninit::uninit(); SMALL_READ];
        let mut buf = ReadBuf::uninit(&mut scratch);
        ready!(Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, &mut buf))?;
        Poll::Ready(Ok(buf.filled().len()))
    }

    /// Takes a piece of a large body straight from the socket, if that is what comes next. Nothing is held while nothing
    /// comes.
    fn poll_large(&self, cx: &mut Context<'_>) -> Option<Poll<io::Result<Bytes>>> {
        let expected = self.decoder.borrow().expects();
        if expected <= SMALL_READ as u64 || !self.is_empty() {
            return None;
        }
        let mut large = Large::take()?;
        let room = large.room();
        let most = usize::try_from(expected).unwrap_or(usize::MAX).min(room.len());
        let mut buf = ReadBuf::new(&mut room[..most]);
        let read = Pin::new(&mut *self.stream.borrow_mut()).poll_read(cx, &mut buf);
        let filled = buf.filled().len();
        Some(read.map_ok(|()| {
            self.decoder.borrow_mut().passed(filled as u64);
            large.freeze(filled)
        }))
    }

    /// Takes the next piece of the body.
    fn poll_piece(&self, cx: &mut Context<'_>) -> Poll<Result<Piece, Broken>> {
        loop {
            if let Some(piece) = self.decoder.borrow_mut().next(&mut self.unread.borrow_mut())? {
                self.awaits_continue.set(false);
                return Poll::Ready(Ok(piece));
            }
            if self.awaits_continue.get() && !self.answering.get() && self.is_empty() {
                self.awaits_continue.set(false);
                self.inform(StatusCode::CONTINUE, &HeaderMap::new());
            }
            if let Some(read) = self.poll_large(cx) {
                let data = ready!(read)?;
                self.awaits_continue.set(false);
                return if data.is_empty() { Poll::Ready(Err(Broken::Ended)) } else { Poll::Ready(Ok(Piece::Data(data))) };
            }
            if ready!(self.poll_fill(cx))? == 0 {
                let whole = self.decoder.borrow_mut().may_end_here();
                return Poll::Ready(if whole { Ok(Piece::End) } else { Err(Broken::Ended) });
            }
        }
    }

    /// Reads what is left of the body and throws it away.
    ///
    /// # Errors
    /// Why there is no end of it.
    pub fn poll_skip(&self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        while !self.is_done() {
            ready!(self.poll_piece(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Puts an informational response on the wire. Dropped once the final response has begun, and where it would pile up.
    pub fn inform(&self, status: StatusCode, headers: &HeaderMap) {
        let mut queued = self.queued.borrow_mut();
        if self.answering.get() || queued.len() > MAX_QUEUED {
            return;
        }
        encode::informational(&mut queued, status, headers);
        // What the socket does not take now leaves before the next bytes.
        if let Ok(written) = self.stream.borrow_mut().try_write(&queued) {
            queued.drain(..written);
        }
    }

    /// Writes what is left of informational responses.
    ///
    /// # Errors
    /// What the socket says.
    pub fn poll_queued(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut queued = self.queued.borrow_mut();
        while !queued.is_empty() {
            let written = ready!(Pin::new(&mut *self.stream.borrow_mut()).poll_write(cx, &queued))?;
            queued.drain(..written);
        }
        Poll::Ready(Ok(()))
    }

    /// Writes.
    ///
    /// # Errors
    /// What the socket says.
    pub fn poll_write(&self, cx: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        ready!(self.poll_queued(cx))?;
        let mut stream = self.stream.borrow_mut();
        let written = ready!(match parts {
            [part] => Pin::new(&mut *stream).poll_write(cx, part),
            parts => Pin::new(&mut *stream).poll_write_vectored(cx, parts),
        })?;
        self.written.set(self.written.get() + written as u64);
        Poll::Ready(Ok(written))
    }

    /// How many bytes of messages the socket has taken so far.
    pub fn written(&self) -> u64 {
        self.written.get()
    }

    /// Ready when everything that was written is on its way.
    ///
    /// # Errors
    /// What the socket says.
    pub fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_flush(cx)
    }

    /// Says that nothing more will be written.
    ///
    /// # Errors
    /// What the socket says.
    pub fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_shutdown(cx)
    }

    /// Works on the socket.
    pub fn with_tcp<T>(&self, work: impl FnOnce(&TcpStream) -> T) -> T {
        work(self.stream.borrow().tcp())
    }

    /// Whether what is on the wire is what is read and written.
    pub fn is_plain(&self) -> bool {
        self.stream.borrow().is_plain()
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("decoder", &self.decoder).finish_non_exhaustive()
    }
}

/// The body of a message as it comes in.
#[derive(Debug)]
pub struct Incoming {
    wire: Rc<Wire>,
    /// The body is complete; what the wire reads now belongs to another message.
    over: bool,
}

impl Incoming {
    /// The next frame.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let piece = ready!(self.wire.poll_piece(cx));
        self.over = self.wire.is_done();
        if self.over {
            self.wire.release();
        }
        Poll::Ready(match piece {
            Ok(Piece::Data(data)) => Some(Ok(Frame::data(data))),
            Ok(Piece::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Ok(Piece::End) => None,
            Err(broken) => Some(Err(broken)),
        })
    }

    /// Whether the body is complete.
    pub fn is_end(&self) -> bool {
        self.over
    }

    /// How much is to come, as far as it is known.
    pub fn size_hint(&self) -> SizeHint {
        if self.over {
            return SizeHint::with_exact(0);
        }
        self.wire.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.over {
            self.wire.release();
        }
    }
}
