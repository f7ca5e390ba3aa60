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
    /// Whether both sides ended it in peace.
    pub whole: bool,
}

/// Carries bytes between the two until both have ended, either breaks, or the listener's time is up.
///
/// `count` is told of bytes as they pass: up, down.
pub async fn carry(caller: &Wire, upstream: &Wire, member: &Member, alarms: &Rc<Alarms>, count: &dyn Fn(u64, u64)) -> Carried {
    let (mut up, mut down) = (Direction::default(), Direction::default());
    let mut alarm = Alarm::of(alarms);
    let mut waits: Option<(u64, tokio::time::Instant)> = None;
    let whole = poll_fn(|cx| {
        member.watch(cx);
        if member.is_aborted() {
            return Poll::Ready(false);
        }
        let before = (up.carried, down.carried);
        let ends = (up.poll(caller, upstream, cx), down.poll(upstream, caller, cx));
        count(up.carried - before.0, down.carried - before.1);
        match ends {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(true),
            (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => return Poll::Ready(false),
            (Poll::Pending, Poll::Pending) => return Poll::Pending,
            (Poll::Ready(Ok(())), Poll::Pending) | (Poll::Pending, Poll::Ready(Ok(()))) => {}
        }
        let carried = up.carried + down.carried;
        let since = match waits {
            Some((known, since)) if known == carried => since,
            _ => tokio::time::Instant::now(),
        };
        waits = Some((carried, since));
        alarm.poll(since + HALF_CLOSE, cx).map(|()| false)
    })
    .await;
    Carried { up: up.carried, down: down.carried, whole }
}

/// One direction of a tunnel.
#[derive(Default)]
struct Direction {
    pending: BytesMut,
    ended: bool,
    told: bool,
    carried: u64,
}

impl Direction {
    /// Ready when the end of this direction has been passed on.
    fn poll(&mut self, from: &Wire, to: &Wire, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.told {
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
            if self.ended {
                ready!(to.poll_shutdown(cx))?;
                self.told = true;
            } else {
                self.ended = ready!(from.poll_fill(cx))? == 0;
            }
        }
        Poll::Ready(Ok(()))
    }
}
