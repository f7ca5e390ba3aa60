//! Informational responses (1xx) on their way from the upstream to the caller, and the `Expect: 100-continue` handshake.
//!
//! A proxy must forward 1xx responses (RFC 9110, section 15.2). `100 Continue` opens the caller's body: until the
//! upstream has said it, or a second has passed, the body is not asked for, and so hyper does not tell the caller to send
//! it. Any other 1xx is put on the caller's wire as it comes.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use tokio::time::Sleep;

use super::gate::H1Shared;

/// How long the upstream may take to say `100 Continue` before the body is sent anyway (RFC 9110, section 10.1.1:
/// a client must not wait for ever).
const PATIENCE: Duration = Duration::from_secs(1);

/// The caller's side of one request, for 1xx responses.
#[derive(Clone)]
pub enum Caller {
    /// HTTP/1.1.
    H1(Rc<H1Shared>),
    /// HTTP/2.
    H2(Rc<RefCell<h2::server::SendResponse<Bytes>>>),
    /// HTTP/1.0, which knows no 1xx.
    Old,
}

impl Caller {
    /// Forwards a 1xx response that is not `100 Continue`.
    pub fn forward(&self, status: StatusCode, headers: &HeaderMap) {
        // 101 is no information but a switch; it is never forwarded this way.
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return;
        }
        match self {
            Self::H1(shared) => shared.informational(&encode(status, headers)),
            Self::H2(send) => {
                let mut response = Response::new(());
                *response.status_mut() = status;
                *response.headers_mut() = headers.clone();
                super::hop::remove(response.headers_mut());
                // Not for this peer, or too late: it may be dropped.
                let _ = send.borrow_mut().send_informational(response);
            }
            Self::Old => {}
        }
    }
}

fn encode(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or("")).into_bytes();
    for (name, value) in headers.iter().filter(|(name, _)| !super::hop::is_hop_by_hop(name)) {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// Keeps a request body back until `100 Continue`.
pub struct Hold {
    gate: Rc<HoldGate>,
    patience: Pin<Box<Sleep>>,
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
    /// A closed hold and what opens it.
    pub fn new() -> (Self, Rc<HoldGate>) {
        let gate = Rc::<HoldGate>::default();
        (Self { gate: Rc::clone(&gate), patience: Box::pin(tokio::time::sleep(PATIENCE)) }, gate)
    }

    /// Ready when the body may go.
    pub fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.gate.open.get() || self.patience.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        *self.gate.waiting.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// 1xx responses of one upstream HTTP/1 connection, from hyper's callback to the request that waits. The callback must
/// be `Send`, so here is a lock; it is taken once a request, and again when a 1xx arrives.
#[derive(Default)]
pub struct Inbox {
    full: AtomicBool,
    inner: Mutex<Letters>,
}

#[derive(Default)]
struct Letters {
    unread: Vec<(StatusCode, HeaderMap)>,
    reader: Option<Waker>,
}

/// More than this many unread 1xx responses are dropped.
const MAX_UNREAD: usize = 16;

impl Inbox {
    /// Has `request` put its 1xx responses here.
    pub fn subscribe<B>(self: &Arc<Self>, request: &mut http::Request<B>) {
        let inbox = Arc::clone(self);
        hyper::ext::on_informational(request, move |response| {
            let mut inner = inbox.inner.lock().unwrap_or_else(PoisonError::into_inner);
            if inner.unread.len() < MAX_UNREAD {
                inner.unread.push((response.status(), response.headers().clone()));
            }
            inbox.full.store(true, Ordering::Release);
            if let Some(waker) = inner.reader.take() {
                waker.wake();
            }
        });
    }

    /// Wakes this reader when a 1xx arrives.
    pub fn wake(&self, waker: &Waker) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).reader = Some(waker.clone());
    }

    /// Takes what has arrived.
    pub fn take(&self) -> Vec<(StatusCode, HeaderMap)> {
        if !self.full.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        std::mem::take(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner).unread)
    }
}
