//! Opaque bytes both ways, between a caller and an upstream, once both have agreed to it.
//!
//! Each direction ends by itself: the end of one is told to the other side (half-close), which then has a limited time to
//! end the other. There is no idle limit: sockets have keep-alive, and silence is no fault in a tunnel.

pub mod side;
pub mod splice;

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

use crate::clock::{Alarm, Alarms};
use crate::drain::Member;
use crate::error::Fault;
use crate::h1::wire::Wire;
use crate::socket::info;
use side::Side;
use splice::{Drained, Pipe, Pipes};

/// After one direction has ended, the other may go on for so long without a byte: below the 60 s for which connection
/// tracking remembers a half-closed connection.
pub const HALF_CLOSE: Duration = Duration::from_secs(50);

/// What one read takes.
const READ: usize = 16 << 10;
/// After so many reads that took all there was room for, one after the other, a direction is bulk; after so many that
/// took less, it is no more.
const SETTLED: u8 = 4;
/// So often one direction goes on before it lets others have a turn.
const TURNS: usize = 32;

/// How a tunnel went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// Bytes from the caller to the upstream.
    pub up: u64,
    /// Bytes from the upstream to the caller.
    pub down: u64,
    /// Who broke off, if it did not end.
    pub fault: Option<Fault>,
}

/// What a worker lends to its tunnels.
pub struct Tools<'t> {
    /// Timers.
    pub alarms: &'t Rc<Alarms>,
    /// Pipes.
    pub pipes: &'t Rc<Pipes>,
}

/// Carries bytes between the two until both have ended, either breaks, or the listener's time is up.
///
/// `member` is the caller's connection if the tunnel is all of it; `count` is told of bytes as they pass: up, down.
pub async fn carry(
    caller: &Side,
    upstream: &Side,
    member: Option<&Member>,
    tools: Tools<'_>,
    count: &dyn Fn(u64, u64),
) -> Carried {
    let (mut up, mut down) = (Direction::new(tools.pipes), Direction::new(tools.pipes));
    let mut alarm = Alarm::of(tools.alarms);
    let mut waits: Option<(u64, tokio::time::Instant)> = None;
    let mut up_first = false;
    let fault = poll_fn(|cx| {
        if let Some(member) = member {
            member.watch(cx);
            if member.is_aborted() {
                return Poll::Ready(Some(Fault::DownstreamGone));
            }
        }
        let before = (up.carried, down.carried);
        // What one poll may do is limited over both directions, so they take turns in being first.
        up_first = !up_first;
        let ends = if up_first {
            let gone = up.poll(caller, upstream, down.broken(), cx);
            (gone, down.poll(upstream, caller, up.broken(), cx))
        } else {
            let come = down.poll(upstream, caller, up.broken(), cx);
            (up.poll(caller, upstream, down.broken(), cx), come)
        };
        count(up.carried - before.0, down.carried - before.1);
        // Who cannot be read from any more (a reset) takes nothing any more either: the other side is told now.
        if [up.state, down.state].contains(&State::Broken(Broken::Source)) {
            return Poll::Ready(fault(up.state, down.state));
        }
        match ends {
            (Poll::Ready(()), Poll::Ready(())) => return Poll::Ready(fault(up.state, down.state)),
            (Poll::Pending, Poll::Pending) => return Poll::Pending,
            // Ended or not taken, one direction says nothing about what is still on its way in the other.
            (Poll::Ready(()), Poll::Pending) | (Poll::Pending, Poll::Ready(())) => {}
        }
        let carried = up.carried + down.carried;
        let since = match waits {
            Some((known, since)) if known == carried => since,
            _ => tokio::time::Instant::now(),
        };
        waits = Some((carried, since));
        alarm.poll(since + HALF_CLOSE, cx).map(|()| fault(up.state, down.state).or(Some(Fault::IdleTimeout)))
    })
    .await;
    // What was cut off must not look as if it had ended; what has ended stays so.
    if down.state != State::Told {
        caller.cut(Reason::CONNECT_ERROR);
    }
    if up.state != State::Told {
        upstream.cut(Reason::CANCEL);
    }
    Carried { up: up.carried, down: down.carried, fault }
}

/// Who broke a tunnel off, if anybody did.
fn fault(up: State, down: State) -> Option<Fault> {
    match (up, down) {
        (State::Broken(Broken::Source), _) | (_, State::Broken(Broken::Sink | Broken::Reset)) => Some(Fault::DownstreamGone),
        (State::Broken(Broken::Sink | Broken::Reset), _) | (_, State::Broken(Broken::Source)) => Some(Fault::UpstreamReset),
        _ => None,
    }
}

/// Whether so many bytes are all that came from a socket, without an end behind them. Only one of which nothing else was read
/// can tell; TLS has an end of its own.
fn has_not_ended(from: &Wire, bytes: u64) -> bool {
    // The end counts as one byte.
    let none = |socket: &TcpStream| info(socket).is_some_and(|info| info.tcpi_bytes_received == bytes);
    from.is_plain() && from.with_tcp(none)
}

/// One direction of a tunnel.
struct Direction {
    pending: Bytes,
    state: State,
    /// How the way back broke, if it did. The kernel tells of a reset once: where a write was told, a read finds an end.
    back: Option<Broken>,
    carried: u64,
    /// Whether much goes this way, so that it is spliced.
    is_bulk: bool,
    /// Reads in a row that speak for the other way.
    streak: u8,
    /// What is being spliced.
    pipe: Option<Pipe>,
    pipes: Rc<Pipes>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Its source has ended.
    Ended,
    /// Its end has been passed on.
    Told,
    /// Either side failed.
    Broken(Broken),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    Source,
    /// It takes nothing more. What it still says is said.
    Sink,
    /// It takes nothing more, and has not ended: it was reset, or nothing is heard of it.
    Reset,
}

/// Why a direction stops.
type Stopped = Result<(), Broken>;

fn source<T>(result: io::Result<T>) -> Result<T, Broken> {
    result.map_err(|_| Broken::Source)
}

fn sink<T>(result: io::Result<T>) -> Result<T, Broken> {
    // Whoever has taken a part before it was told says only that the pipe is broken.
    result.map_err(|error| match error.kind() {
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::TimedOut
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable => Broken::Reset,
        _ => Broken::Sink,
    })
}

impl Direction {
    fn new(pipes: &Rc<Pipes>) -> Self {
        let pipes = Rc::clone(pipes);
        Self { pending: Bytes::new(), state: State::Open, back: None, carried: 0, is_bulk: false, streak: 0, pipe: None, pipes }
    }

    /// Ready when nothing more goes this way. `back` is how the way back broke, if it did.
    fn poll(&mut self, from: &Side, to: &Side, back: Option<Broken>, cx: &mut Context<'_>) -> Poll<()> {
        self.back = back;
        if !matches!(self.state, State::Told | State::Broken(_))
            && let Err(broken) = ready!(self.go_on(from, to, cx))
        {
            self.state = State::Broken(broken);
        }
        Poll::Ready(())
    }

    /// How it broke, if it did.
    fn broken(&self) -> Option<Broken> {
        match self.state {
            State::Broken(broken) => Some(broken),
            State::Open | State::Ended | State::Told => None,
        }
    }

    /// Its source says no more. That is an end unless it was reset.
    fn source_ended(&mut self, from: Option<&Wire>) -> Stopped {
        let was_reset = match self.back {
            Some(Broken::Reset) => true,
            Some(Broken::Sink) => from.is_some_and(|from| has_not_ended(from, self.carried)),
            Some(Broken::Source) | None => false,
        };
        if was_reset {
            return Err(Broken::Source);
        }
        self.state = State::Ended;
        Ok(())
    }

    fn go_on(&mut self, from: &Side, to: &Side, cx: &mut Context<'_>) -> Poll<Stopped> {
        if to.is_reset(cx) {
            return Poll::Ready(Err(Broken::Sink));
        }
        for _ in 0..TURNS {
            while !self.pending.is_empty() {
                let gone = sink(ready!(to.poll_put(&mut self.pending, cx)))?;
                from.gone_on(gone);
                self.carried += gone as u64;
            }
            if self.state == State::Ended {
                sink(ready!(to.poll_end(cx)))?;
                self.state = State::Told;
                return Poll::Ready(Ok(()));
            }
            match (from.wire(), to.wire()) {
                (Some(from), Some(to)) if self.pipe.is_some() || from.is_empty() => ready!(self.pass(from, to, cx))?,
                _ => match source(ready!(from.poll_take(cx)))? {
                    Some(bytes) => self.pending = bytes,
                    None => self.source_ended(from.wire())?,
                },
            }
        }
        // The other direction, and other tasks, have a turn too.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Passes on what one socket has for the other.
    fn pass(&mut self, from: &Wire, to: &Wire, cx: &mut Context<'_>) -> Poll<Stopped> {
        // What is in the pipe goes first, whatever way the next bytes take.
        if self.pipe.is_some() || self.is_bulk && from.is_plain() && to.is_plain() {
            self.splice(from, to, cx)
        } else {
            self.copy(from, to, cx)
        }
    }

    fn copy(&mut self, from: &Wire, to: &Wire, cx: &mut Context<'_>) -> Poll<Stopped> {
        let mut scratch = [MaybeUninit::uninit(); READ];
        let mut buf = ReadBuf::uninit(&mut scratch);
        source(ready!(from.poll_read(cx, &mut buf)))?;
        let read = buf.filled();
        if read.is_empty() {
            return Poll::Ready(self.source_ended(Some(from)));
        }
        self.weigh(read.len() == READ);
        let written = match to.poll_write(cx, &[io::IoSlice::new(read)]) {
            Poll::Ready(written) => sink(written)?,
            Poll::Pending => 0,
        };
        self.carried += written as u64;
        if written < read.len() {
            self.pending = Bytes::copy_from_slice(&read[written..]);
        }
        Poll::Ready(Ok(()))
    }

    fn splice(&mut self, from: &Wire, to: &Wire, cx: &mut Context<'_>) -> Poll<Stopped> {
        if let Some(pipe) = &mut self.pipe {
            match sink(ready!(to.with_tcp(|to| pipe.poll_drain(to, cx))))? {
                Drained::Given(count) => self.carried += count as u64,
                Drained::TakenBack(bytes) => (self.pending, self.is_bulk) = (bytes, false),
            }
            if pipe.is_empty() {
                self.pipe = None;
            }
            return Poll::Ready(Ok(()));
        }
        // Borrowed only while there is something in it: who is silent needs none.
        let Some(mut pipe) = self.pipes.borrow() else {
            self.is_bulk = false;
            return Poll::Ready(Ok(()));
        };
        match source(ready!(from.with_tcp(|from| pipe.poll_fill(from, cx))))? {
            None => self.is_bulk = false,
            Some(0) => self.source_ended(Some(from))?,
            Some(taken) => {
                self.weigh(taken < READ);
                self.pipe = Some(pipe);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Notes a read that speaks for the other way to pass bytes on, or against it.
    fn weigh(&mut self, for_a_change: bool) {
        self.streak = if for_a_change { self.streak + 1 } else { 0 };
        if self.streak == SETTLED {
            self.streak = 0;
            self.is_bulk = !self.is_bulk;
        }
    }
}
