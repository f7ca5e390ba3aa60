//! Informational responses (1xx) from the upstream, and the `Expect: 100-continue` handshake.
//!
//! `100 Continue` opens the caller's body: until the upstream has said it, or a second has passed, the body is not asked
//! for, and so the codec does not tell the caller to send it. Any other 1xx goes to the caller as it comes.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tokio::time::Sleep;

/// Who gets informational responses.
pub trait Inform {
    /// Forwards one to the caller; dropped where the caller's protocol has no place for it.
    fn inform(&self, status: StatusCode, headers: &HeaderMap);
}

/// How long the upstream may take to say `100 Continue` before the body is sent anyway (RFC 9110, section 10.1.1:
/// a client must not wait for ever).
const PATIENCE: Duration = Duration::from_secs(1);

/// Keeps a request body back until `100 Continue`.
pub struct Hold {
    gate: Rc<HoldGate>,
    patience: Pin<Box<Sleep>>,
    /// Who must be told to send the body when patience ends; on HTTP/1 the codec says it by itself.
    tell: Option<Box<dyn Inform>>,
}

/// Opens a [`Hold`].
#[derive(Default)]
pub struct HoldGate {
    open: Cell<bool>,
    waiting: RefCell<Option<Waker>>,
}

impl HoldGate {
    /// Lets the body go.
    pub fn open(&self) {
        self.open.set(true);
        if let Some(waker) = self.waiting.borrow_mut().take() {
            waker.wake();
        }
    }
}

impl Hold {
    /// A closed hold and what opens it. `tell` is told to go on if the upstream never says so.
    pub fn new(tell: Option<Box<dyn Inform>>) -> (Self, Rc<HoldGate>) {
        let gate = Rc::<HoldGate>::default();
        (Self { gate: Rc::clone(&gate), patience: Box::pin(tokio::time::sleep(PATIENCE)), tell }, gate)
    }

    /// Ready when the body may go.
    pub fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.gate.open.get() {
            return Poll::Ready(());
        }
        if self.patience.as_mut().poll(cx).is_ready() {
            self.gate.open.set(true);
            if let Some(caller) = self.tell.take() {
                caller.inform(StatusCode::CONTINUE, &HeaderMap::new());
            }
            return Poll::Ready(());
        }
        *self.gate.waiting.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}
