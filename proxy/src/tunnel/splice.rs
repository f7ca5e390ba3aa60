//! Bulk between two sockets without a copy through this process: splice(2), by way of a pipe.
//!
//! It pays only for bulk: for small messages the two further system calls cost more than the copy they save. So a
//! direction borrows a pipe when it has read full buffers for a while, and gives it back when it reads little again. Pipes
//! are few: the kernel limits how many pages the pipes of one user may hold, and what is beyond them goes on copying.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// What a pipe is asked to hold; the kernel may give less.
const CAPACITY: usize = 1 << 20;
/// The most pipes of one worker: for two workers half of what the kernel grants a user by default (64 MiB), who may run
/// the app too.
const MAX_PIPES: usize = 16;

/// The pipes of a worker.
#[derive(Default)]
pub struct Pipes {
    free: RefCell<Vec<Ends>>,
    made: Cell<usize>,
    /// The kernel or its sandbox does not splice sockets.
    useless: Cell<bool>,
}

/// Both ends of a pipe.
struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

/// A pipe that a direction has borrowed.
pub struct Pipe {
    ends: Option<Ends>,
    held: usize,
    from: Rc<Pipes>,
}

impl Pipes {
    /// A pipe, if there is one.
    pub fn borrow(self: &Rc<Self>) -> Option<Pipe> {
        if self.useless.get() {
            return None;
        }
        let free = self.free.borrow_mut().pop();
        let ends = free.or_else(|| self.make())?;
        Some(Pipe { ends: Some(ends), held: 0, from: Rc::clone(self) })
    }

    fn make(&self) -> Option<Ends> {
        if self.made.get() >= MAX_PIPES {
            return None;
        }
        // Without a descriptor to spare, copying does.
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
        // What it holds by itself is less, and enough.
        let _ = fcntl_setpipe_size(&write, CAPACITY);
        self.made.set(self.made.get() + 1);
        Some(Ends { read, write })
    }
}

impl Pipe {
    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Takes what the socket has. Gives the number of bytes, 0 at the end of the stream, `None` if sockets cannot be
    /// spliced here. Only for an empty pipe: a full one and a silent socket look the same.
    ///
    /// # Errors
    /// What the socket says.
    pub fn poll_fill(&mut self, from: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<Option<usize>>> {
        let Some(ends) = &self.ends else { return Poll::Ready(Ok(None)) };
        loop {
            ready!(from.poll_read_ready(cx))?;
            match from.try_io(Interest::READABLE, || Ok(splice_all(from, &ends.write, CAPACITY)?)) {
                Ok(taken) => {
                    self.held = taken;
                    return Poll::Ready(Ok(Some(taken)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if is_refused(&error) => {
                    self.from.useless.set(true);
                    return Poll::Ready(Ok(None));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Gives the socket what the pipe holds, as much as it takes.
    ///
    /// # Errors
    /// What the socket says.
    pub fn poll_drain(&mut self, to: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<Drained>> {
        let Some(ends) = &self.ends else { return Poll::Ready(Ok(Drained::Given(0))) };
        loop {
            ready!(to.poll_write_ready(cx))?;
            match to.try_io(Interest::WRITABLE, || Ok(splice_all(&ends.read, to, self.held)?)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(given) => {
                    self.held -= given;
                    return Poll::Ready(Ok(Drained::Given(given)));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if is_refused(&error) => {
                    self.from.useless.set(true);
                    return Poll::Ready(self.take_back().map(Drained::TakenBack));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// What the pipe holds.
    fn take_back(&mut self) -> io::Result<Bytes> {
        let Some(ends) = &self.ends else { return Ok(Bytes::new()) };
        let mut bytes = vec![0; self.held];
        let mut read = 0;
        while read < bytes.len() {
            match rustix::io::read(&ends.read, &mut bytes[read..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                some => read += some,
            }
        }
        self.held = 0;
        Ok(bytes.into())
    }
}

/// What became of the bytes in a pipe.
pub enum Drained {
    /// So many are gone.
    Given(usize),
    /// The socket takes none this way: here they are.
    TakenBack(Bytes),
}

/// Whether the kernel, or a sandbox around this process, does not splice such sockets.
fn is_refused(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported)
}

/// Without `SPLICE_F_MORE`, which would hold the last packet back.
fn splice_all(from: impl AsFd, to: impl AsFd, most: usize) -> rustix::io::Result<usize> {
    splice(from, None, to, None, most, SpliceFlags::NONBLOCK | SpliceFlags::MOVE)
}

impl Drop for Pipe {
    fn drop(&mut self) {
        match self.ends.take() {
            Some(ends) if self.held == 0 && !self.from.useless.get() => self.from.free.borrow_mut().push(ends),
            // What it holds belongs to a connection that is over.
            _ => self.from.made.set(self.from.made.get() - 1),
        }
    }
}
