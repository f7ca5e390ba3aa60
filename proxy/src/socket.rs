//! The transport of a connection: a TCP socket, or TLS on one.
//!
//! Decides nothing; whoever reads and writes need not know which of the two it is. TLS keeps bytes that the socket did not
//! take, so what was written is on its way only after [`Socket::poll_flush`]; every read and every write tries to send
//! them first. Careless changes here show as messages that arrive only when the next one is written.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::tls::Refusal;

/// A TCP socket, or TLS on one.
#[derive(Debug)]
pub enum Socket {
    /// Bytes as they are.
    Plain(TcpStream),
    /// TLS, after its handshake.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    /// The socket beneath.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }

    /// The protocol that TLS has agreed on (ALPN).
    pub fn protocol(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(tls) => tls.get_ref().1.alpn_protocol(),
        }
    }

    /// Whether what is on the wire is what is read and written.
    pub fn is_plain(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// Whether the peer has neither closed nor said anything. Costs no system call unless the runtime knows of something
    /// to read.
    pub fn is_silent(&mut self) -> bool {
        match self {
            Self::Plain(tcp) => matches!(tcp.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock),
            // Records that say nothing to this side, such as key updates, must be understood to know that.
            Self::Tls(tls) => {
                let mut one = [0];
                Pin::new(&mut **tls).poll_read(&mut Context::from_waker(Waker::noop()), &mut ReadBuf::new(&mut one)).is_pending()
            }
        }
    }

    /// Writes what it takes at once.
    ///
    /// # Errors
    /// What the socket says; `WouldBlock` if it takes nothing.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.try_write(bytes),
            Self::Tls(_) => match Pin::new(self).poll_write(&mut Context::from_waker(Waker::noop()), bytes) {
                Poll::Ready(written) => written,
                Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
            },
        }
    }
}

/// Has what TLS still holds leave, as far as the socket takes it.
fn push(tls: &mut TlsStream<TcpStream>, cx: &mut Context<'_>) -> io::Result<()> {
    let holds = match tls {
        TlsStream::Client(tls) => tls.get_ref().1.wants_write(),
        TlsStream::Server(tls) => tls.get_ref().1.wants_write(),
    };
    match holds.then(|| Pin::new(tls).poll_flush(cx)) {
        Some(Poll::Ready(pushed)) => pushed,
        Some(Poll::Pending) | None => Ok(()),
    }
}

/// Why a write failed. That the peer is gone is all that the socket knows; what the peer said before it went may say why:
/// in TLS 1.3 a server judges its client when the client is writing already.
fn last_words(tls: &mut TlsStream<TcpStream>, error: io::Error) -> io::Error {
    let TlsStream::Client(tls) = tls else { return error };
    let (tcp, session) = tls.get_mut();
    // The runtime need not know of them yet, so the kernel is asked.
    let tcp = SockRef::from(&*tcp);
    while let Ok(1..) = session.read_tls(&mut &*tcp) {
        if let Err(said) = session.process_new_packets() {
            return Refusal::mark(io::Error::new(io::ErrorKind::InvalidData, said));
        }
    }
    error
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => {
                // A peer that takes nothing any more may still have said something.
                let _ = push(tls, cx);
                Pin::new(&mut **tls).poll_read(cx, buf).map_err(Refusal::mark)
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(cx, bytes),
            Self::Tls(tls) => {
                let written = std::task::ready!(Pin::new(&mut **tls).poll_write(cx, bytes));
                let pushed = written.and_then(|written| push(tls, cx).map(|()| written));
                Poll::Ready(pushed.map_err(|error| last_words(tls, error)))
            }
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, parts),
            Self::Tls(tls) => {
                let written = std::task::ready!(Pin::new(&mut **tls).poll_write_vectored(cx, parts));
                let pushed = written.and_then(|written| push(tls, cx).map(|()| written));
                Poll::Ready(pushed.map_err(|error| last_words(tls, error)))
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_flush(cx).map_err(|error| last_words(tls, error)),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(&mut **tls).poll_shutdown(cx),
        }
    }
}

/// The state of a connection that both sides have ended, or that was reset: `TCP_CLOSE` of the kernel's `tcp_states.h`.
pub const CLOSED: u8 = 7;

/// What the kernel knows of a connection; `None` if it does not tell as much as is asked of it here (Linux 4.1).
pub fn info(socket: &TcpStream) -> Option<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).ok()?;
    // SAFETY: the descriptor is open as long as `socket` is, and the kernel writes at most `length` bytes, which `info` has.
    let done = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &raw mut length)
    };
    // An old kernel writes less than there is to know.
    let needed = std::mem::offset_of!(libc::tcp_info, tcpi_bytes_received) + size_of::<u64>();
    // SAFETY: all of it was zeroed, and integers may be anything.
    (done == 0 && length as usize >= needed).then(|| unsafe { info.assume_init() })
}
