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
}

#[derive(Default)]
struct State {
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
    joined: Instant,
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
        let state =
            State { draining: Cell::new(draining), newcomer: Cell::new(draining && !self.finishing.get()), ..State::default() };
        let state = Rc::new(state);
        self.members.borrow_mut().insert(number, Rc::clone(&state));
        Member { joined: Instant::now(), state, group: Rc::clone(self), number }
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
        self.draining.set(true);
        self.tell(|state| state.draining.set(true));
    }

    /// Has every member ask again whether it may be served.
    pub fn question(&self) {
        self.tell(|state| state.questioned.set(true));
    }

    /// Has every member finish what is in flight and leave; aborts those that have not left by the deadline. Gives the
    /// number of those.
    pub async fn drain(&self, deadline: Duration) -> usize {
        self.draining.set(true);
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
        if tokio::time::timeout(deadline, empty).await.is_ok() {
            return 0;
        }
        let cut = self.len();
        self.tell(|state| state.aborted.set(true));
        cut
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
        self.joined + FRESH
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
            self.group.left.notify_waiters();
        }
    }
}
