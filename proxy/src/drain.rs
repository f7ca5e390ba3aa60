//! Saying goodbye to connections, without a cost for those that stay.
//!
//! Each connection is a [`Member`] of its listener's [`Group`]. A group that drains marks its members and wakes them;
//! each finishes what is in flight and closes. Past the deadline the group aborts what is left. Members look at plain
//! cells when they are polled anyway, so a connection pays nothing for being able to drain.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// A caller that connected has this long to say something before its silence counts as idleness.
const FRESH: Duration = Duration::from_secs(1);

/// The connections of one listener on one worker.
#[derive(Default)]
pub struct Group {
    members: RefCell<HashMap<u64, Rc<State>>>,
    next: Cell<u64>,
    draining: Cell<bool>,
    /// The last part of a drain: nobody is a newcomer any more.
    finishing: Cell<bool>,
    left: Notify,
    /// When goodbye was said.
    began: Cell<Option<Instant>>,
    /// The longest that a member has stayed since then.
    longest: Cell<Duration>,
}

/// What a drain came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were cut off at the deadline.
    pub cut: usize,
    /// The longest that a connection stayed after goodbye was said.
    pub longest: Duration,
}

impl std::ops::AddAssign for Drained {
    fn add_assign(&mut self, other: Self) {
        self.cut += other.cut;
        self.longest = self.longest.max(other.longest);
    }
}

struct State {
    joined: Instant,
    draining: Cell<bool>,
    /// Joined after goodbye was said: it came for one answer, and may have it.
    newcomer: Cell<bool>,
    aborted: Cell<bool>,
    /// Whether it may still be served is to be asked again.
    questioned: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// One connection's place in its group, until it is dropped.
pub struct Member {
    state: Rc<State>,
    group: Rc<Group>,
    number: u64,
}

impl Group {
    /// A new member.
    pub fn join(self: &Rc<Self>) -> Member {
        let number = self.next.get();
        self.next.set(number + 1);
        let draining = self.draining.get();
        let state = Rc::new(State {
            joined: Instant::now(),
            draining: Cell::new(draining),
            newcomer: Cell::new(draining && !self.finishing.get()),
            aborted: Cell::default(),
            questioned: Cell::default(),
            waker: RefCell::default(),
        });
        self.members.borrow_mut().insert(number, Rc::clone(&state));
        Member { state, group: Rc::clone(self), number }
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.members.borrow().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.borrow().is_empty()
    }

    /// Has every member, and every one that joins later, finish what is in flight and leave.
    pub fn say_goodbye(&self) {
        self.begin();
        self.tell(|state| state.draining.set(true));
    }

    fn begin(&self) {
        self.draining.set(true);
        self.began.set(self.began.get().or_else(|| Some(Instant::now())));
    }

    /// Has every member ask again whether it may be served.
    pub fn question(&self) {
        self.tell(|state| state.questioned.set(true));
    }

    /// Has every member finish what is in flight and leave; aborts those that have not left by the deadline.
    pub async fn drain(&self, deadline: Duration) -> Drained {
        self.begin();
        self.finishing.set(true);
        self.tell(|state| {
            state.draining.set(true);
            state.newcomer.set(false);
        });
        let empty = async {
            loop {
                let left = self.left.notified();
                if self.is_empty() {
                    return;
                }
                left.await;
            }
        };
        let mut cut = 0;
        if tokio::time::timeout(deadline, empty).await.is_err() {
            cut = self.len();
            let now = Instant::now();
            self.members.borrow().values().for_each(|state| self.stayed(state, now));
            self.tell(|state| state.aborted.set(true));
        }
        Drained { cut, longest: self.longest.get() }
    }

    /// Remembers how long a member has stayed that was asked to leave.
    fn stayed(&self, state: &State, now: Instant) {
        let Some(began) = self.began.get() else { return };
        let stayed = now.saturating_duration_since(began.max(state.joined));
        self.longest.set(self.longest.get().max(stayed));
    }

    fn tell(&self, change: impl Fn(&State)) {
        for state in self.members.borrow().values() {
            change(state);
            if let Some(waker) = state.waker.borrow().as_ref() {
                waker.wake_by_ref();
            }
        }
    }
}

impl Member {
    /// Has this task woken when the group drains or aborts.
    pub fn watch(&self, cx: &Context<'_>) {
        let mut waker = self.state.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Whether to finish and leave.
    pub fn is_draining(&self) -> bool {
        self.state.draining.get()
    }

    /// Whether to leave now that nothing is in flight. Who came after goodbye was said may ask once: `served` says whether
    /// it has.
    pub fn may_leave(&self, served: bool) -> bool {
        self.state.draining.get() && (served || !self.state.newcomer.get())
    }

    /// Until when a connection that has said nothing yet may be about to: whoever has just connected is not idle.
    pub fn fresh_until(&self) -> Instant {
        self.state.joined + FRESH
    }

    /// Whether to ask again if it may be served; once for each time that it is questioned.
    pub fn take_question(&self) -> bool {
        self.state.questioned.replace(false)
    }

    /// Leaves now.
    pub fn abort(&self) {
        self.state.aborted.set(true);
    }

    /// Whether to leave now.
    pub fn is_aborted(&self) -> bool {
        self.state.aborted.get()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.group.members.borrow_mut().remove(&self.number);
        if self.group.draining.get() {
            self.group.stayed(&self.state, Instant::now());
            self.group.left.notify_waiters();
        }
    }
}
