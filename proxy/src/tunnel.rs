//! Opaque bytes both ways, between a caller and an upstream, once both have agreed to it.
//!
//! Each direction ends by itself: the end of one is told to the other side (half-close), which then has a limited time to
//! end the other. There is no idle limit: sockets have keep-alive, and silence is no fault in a tunnel.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use socket2::SockRef;

use crate::clock::{Alarm, Alarms};
use crate::drain::Member;
use crate::h1::wire::Wire;

/// After one direction has ended, the other may go on for so long without a byte: below the 60 s for which connection
/// tracking remembers a half-closed connection.
pub const HALF_CLOSE: Duration = Duration::from_secs(50);

/// How a tunnel went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// Bytes from the caller to the upstream.
    pub up: u64,
    /// Bytes from the upstream to the caller.
    pub down: u64,
}

/// Carries bytes between the two until both have ended, either breaks, or the listener's time is up.
///
/// `count` is told of bytes as they pass: up, down.
pub async fn carry(caller: &Wire, upstream: &Wire, member: &Member, alarms: &Rc<Alarms>, count: &dyn Fn(u64, u64)) -> Carried {
    let (mut up, mut down) = (Direction::default(), Direction::default());
    let mut alarm = Alarm::of(alarms);
    let mut waits: Option<(u64, tokio::time::Instant)> = None;
    poll_fn(|cx| {
        member.watch(cx);
        if member.is_aborted() {
            return Poll::Ready(());
        }
        let before = (up.carried, down.carried);
        let ends = (up.poll(caller, upstream, cx), down.poll(upstream, caller, cx));
        count(up.carried - before.0, down.carried - before.1);
        match ends {
            (Poll::Ready(()), Poll::Ready(())) => return Poll::Ready(()),
            (Poll::Pending, Poll::Pending) => return Poll::Pending,
            // Broken or ended, one direction says nothing about what is still on its way in the other.
            (Poll::Ready(()), Poll::Pending) | (Poll::Pending, Poll::Ready(())) => {}
        }
        let carried = up.carried + down.carried;
        let since = match waits {
            Some((known, since)) if known == carried => since,
            _ => tokio::time::Instant::now(),
        };
        waits = Some((carried, since));
        alarm.poll(since + HALF_CLOSE, cx)
    })
    .await;
    if up.state == State::Broken || down.state == State::Broken {
        // What was cut off must not look as if it had ended.
        for wire in [caller, upstream] {
            let _ = wire.with_stream(|stream| SockRef::from(stream).set_linger(Some(Duration::ZERO)));
        }
    }
    Carried { up: up.carried, down: down.carried }
}

/// One direction of a tunnel.
#[derive(Default)]
struct Direction {
    pending: BytesMut,
    state: State,
    carried: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// Its source has ended.
    Ended,
    /// Its end has been passed on.
    Told,
    /// Either socket failed.
    Broken,
}

impl Direction {
    /// Ready when nothing more goes this way.
    fn poll(&mut self, from: &Wire, to: &Wire, cx: &mut Context<'_>) -> Poll<()> {
        if !matches!(self.state, State::Told | State::Broken) && ready!(self.go_on(from, to, cx)).is_err() {
            self.state = State::Broken;
        }
        Poll::Ready(())
    }

    fn go_on(&mut self, from: &Wire, to: &Wire, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.state != State::Told {
            if self.pending.is_empty() {
                self.pending = from.with_unread(BytesMut::split);
            }
            while !self.pending.is_empty() {
                let written = ready!(to.poll_write(cx, &[IoSlice::new(&self.pending)]))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.pending.advance(written);
                self.carried += written as u64;
            }
            if self.state == State::Ended {
                ready!(to.poll_shutdown(cx))?;
                self.state = State::Told;
            } else if ready!(from.poll_fill(cx))? == 0 {
                self.state = State::Ended;
            }
        }
        Poll::Ready(Ok(()))
    }
}
