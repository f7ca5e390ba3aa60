//! Clocks that end what takes too long, at next to no cost for what does not.
//!
//! A timer of the runtime costs more to set and to cancel than most requests should pay. So timers are kept: a worker has
//! a few, armed for some moment; whoever needs one takes it and moves it only if it would ring too late. One that rings
//! too early is set to what is due by then.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::Body;
use tokio::time::{Instant, Sleep, sleep_until};

/// Timers that nobody uses at the moment; at most so many are kept.
const MAX_FREE: usize = 256;

/// The timers of a worker.
#[derive(Default)]
pub struct Alarms(RefCell<Vec<Pin<Box<Sleep>>>>);

/// A timer, taken when it is first needed and given back when it is dropped.
pub struct Alarm {
    from: Rc<Alarms>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// One of these timers.
    pub fn of(from: &Rc<Alarms>) -> Self {
        Self { from: Rc::clone(from), sleep: None }
    }

    /// Another of the same timers.
    #[must_use]
    pub fn another(&self) -> Self {
        Self::of(&self.from)
    }

    /// Ready at `due`.
    pub fn poll(&mut self, due: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let from = &self.from;
        let sleep = self.sleep.get_or_insert_with(|| {
            let kept = from.0.borrow_mut().pop();
            kept.filter(|kept| !kept.is_elapsed()).unwrap_or_else(|| Box::pin(sleep_until(due)))
        });
        loop {
            if sleep.deadline() > due {
                sleep.as_mut().reset(due);
            }
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= due {
                return Poll::Ready(());
            }
            // Armed for something earlier, which did not come to pass.
            sleep.as_mut().reset(due);
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(sleep) = self.sleep.take().filter(|sleep| !sleep.is_elapsed()) {
            let mut free = self.from.0.borrow_mut();
            if free.len() < MAX_FREE {
                free.push(sleep);
            }
        }
    }
}

/// A body that may take only so long.
pub trait Paced: Body {
    /// Ready when it took too long; asked while the peer does not take what there is. `sent` grows with each byte that it
    /// takes.
    fn poll_stalled(&mut self, sent: u64, cx: &mut Context<'_>) -> Poll<Self::Error>;
}

/// Which clock of a request ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// The rule's `timeout.request`, or the caller's deadline.
    Request,
    /// The attempt's own limit.
    Attempt,
    /// Nothing came either way for `timeout.idle`.
    Idle,
}

/// What came of a body that somebody else reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Heard {
    /// So many bytes.
    pub bytes: u64,
    /// The last of them at this moment.
    pub at: Option<Instant>,
}

/// The clocks of one request.
pub struct Clocks {
    alarm: Alarm,
    /// When the request must be done.
    pub deadline: Option<Instant>,
    /// When the attempt under way must have an answer.
    pub attempt: Option<Instant>,
    idle: Option<Duration>,
    progress: u64,
    heard: u64,
    since: Instant,
}

impl Clocks {
    /// Clocks that start now.
    pub fn start(alarms: &Rc<Alarms>, now: Instant, deadline: Option<Instant>, idle: Option<Duration>) -> Self {
        Self { alarm: Alarm::of(alarms), deadline, attempt: None, idle, progress: 0, heard: 0, since: now }
    }

    /// Ready when a clock has run out. `progress` is any number that grows with each byte that moves where this is polled;
    /// `heard` is what moves elsewhere, which may be long ago when it is looked at here.
    pub fn poll(&mut self, progress: u64, heard: Heard, cx: &mut Context<'_>) -> Poll<Clock> {
        if heard.bytes != self.heard {
            self.heard = heard.bytes;
            self.since = heard.at.map_or(self.since, |at| at.max(self.since));
        }
        if progress != self.progress {
            self.progress = progress;
            if self.idle.is_some() {
                self.since = Instant::now();
            }
        }
        let idle = self.idle.map(|idle| (self.since + idle, Clock::Idle));
        let attempt = self.attempt.map(|due| (due, Clock::Attempt));
        let deadline = self.deadline.map(|due| (due, Clock::Request));
        let first = [deadline, attempt, idle].into_iter().flatten().min_by_key(|(due, _)| *due);
        match first {
            Some((due, clock)) => self.alarm.poll(due, cx).map(|()| clock),
            None => Poll::Pending,
        }
    }

    /// Time to the deadline.
    pub fn remaining(&self, now: Instant) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_kept_timer_rings_when_it_is_due() {
        let alarms = Rc::<Alarms>::default();
        let start = Instant::now();
        for (number, seconds) in [300, 10, 600, 1, 20].into_iter().enumerate() {
            let begun = Instant::now();
            let mut alarm = Alarm::of(&alarms);
            // Used for something that is over long before, so that it is given back armed.
            assert!(poll_fn(|cx| Poll::Ready(alarm.poll(begun + 300 * SECOND, cx))).await.is_pending());
            drop(alarm);
            assert_eq!(alarms.0.borrow().len(), 1, "{number}");
            let mut alarm = Alarm::of(&alarms);
            poll_fn(|cx| alarm.poll(begun + seconds * SECOND, cx)).await;
            assert_eq!(Instant::now().duration_since(begun).as_secs(), u64::from(seconds));
        }
        assert!(Instant::now() > start);
    }

    #[tokio::test(start_paused = true)]
    async fn progress_winds_the_idle_clock_and_not_the_deadline() {
        let alarms = Rc::<Alarms>::default();
        let now = Instant::now();
        let mut clocks = Clocks::start(&alarms, now, Some(now + 1000 * SECOND), Some(300 * SECOND));
        for step in 1..=3 {
            assert!(poll_fn(|cx| Poll::Ready(clocks.poll(step, Heard::default(), cx))).await.is_pending());
            tokio::time::advance(299 * SECOND).await;
            assert!(
                poll_fn(|cx| Poll::Ready(clocks.poll(step, Heard::default(), cx))).await.is_pending(),
                "alive after 299 s of silence"
            );
        }
        assert_eq!(poll_fn(|cx| clocks.poll(4, Heard::default(), cx)).await, Clock::Request);
        assert_eq!(Instant::now().duration_since(now).as_secs(), 1000);
        let now = Instant::now();
        let mut heard = Clocks::start(&alarms, now, None, Some(300 * SECOND));
        let at = Some(now + 10 * SECOND);
        assert_eq!(poll_fn(|cx| heard.poll(0, Heard { bytes: 5, at }, cx)).await, Clock::Idle);
        assert_eq!(Instant::now().duration_since(now).as_secs(), 310, "from when it was heard, not from when it was noticed");
        let now = Instant::now();
        let mut silent = Clocks::start(&alarms, now, None, Some(300 * SECOND));
        assert_eq!(poll_fn(|cx| silent.poll(0, Heard::default(), cx)).await, Clock::Idle);
        assert_eq!(Instant::now().duration_since(now).as_secs(), 300);
    }
}
