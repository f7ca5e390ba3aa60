//! A listener on one worker: its connections, and the snapshot that its requests are decided by.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use weir_config::snapshot::{CallerTls, EdgeTls, Limits, Listener, ListenerId, Speaks};

use super::Worker;
use super::prepared::Prepared;
use crate::drain::{Drained, Group};
use crate::observe::metrics::ListenerShard;

/// A listener on one worker.
pub struct ListenerState {
    /// Its name.
    pub name: Box<str>,
    /// Its numbers.
    pub shard: Arc<ListenerShard>,
    /// Its connections.
    pub connections: Rc<Group>,
    /// Open connections over all workers.
    pub total: Arc<AtomicUsize>,
    /// Connections here that did not begin with the PROXY header that they must begin with.
    pub unintroduced: Cell<u64>,
    /// Connections here that weir itself had opened.
    pub loops: Cell<u64>,
    current: RefCell<Rc<Current>>,
    stop: Notify,
    stopped: Cell<bool>,
    drained: Cell<bool>,
    acceptors: RefCell<Vec<JoinHandle<()>>>,
}

/// A snapshot, and the listener's place in it.
pub struct Current {
    /// The snapshot.
    pub prepared: Rc<Prepared>,
    /// The listener in it.
    pub id: ListenerId,
}

impl ListenerState {
    pub(super) fn new(name: Box<str>, worker: &Worker, prepared: Rc<Prepared>, id: ListenerId) -> Rc<Self> {
        let total = {
            let mut loads = worker.shared.listener_loads.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(loads.entry(name.clone()).or_default())
        };
        Rc::new(Self {
            shard: worker.shared.metrics.listeners.shard(&name, worker.id),
            name,
            connections: Rc::default(),
            unintroduced: Cell::new(0),
            loops: Cell::new(0),
            total,
            current: RefCell::new(Rc::new(Current { prepared, id })),
            stop: Notify::new(),
            stopped: Cell::new(false),
            drained: Cell::new(false),
            acceptors: RefCell::default(),
        })
    }

    /// The snapshot to decide by, brought up to date first.
    pub fn current(&self, worker: &Worker) -> Rc<Current> {
        worker.refresh();
        Rc::clone(&self.current.borrow())
    }

    /// The limits in force.
    pub fn limits(&self) -> Limits {
        let current = self.current.borrow();
        current.prepared.snapshot().listener(current.id).limits.clone()
    }

    /// What its callers speak.
    pub fn speaks(&self) -> Speaks {
        let current = self.current.borrow();
        current.prepared.snapshot().listener(current.id).speaks
    }

    /// Asks the configuration in force.
    pub fn with_config<T>(&self, ask: impl FnOnce(&Listener) -> T) -> T {
        let current = self.current.borrow();
        ask(current.prepared.snapshot().listener(current.id))
    }

    /// Whether something of weir itself listens on this port.
    pub fn is_own_port(&self, port: u16) -> bool {
        self.current.borrow().prepared.snapshot().is_own_port(port)
    }

    /// The certificate for callers from outside the mesh.
    pub fn edge(&self) -> Option<EdgeTls> {
        let current = self.current.borrow();
        current.prepared.snapshot().listener(current.id).edge.clone()
    }

    /// Whether its callers speak TLS.
    pub fn tls(&self) -> CallerTls {
        let current = self.current.borrow();
        current.prepared.snapshot().listener(current.id).tls
    }

    /// Whether this peer may tell by the PROXY protocol for whom its connection is, and whether it must.
    pub fn proxy_protocol(&self, peer: std::net::IpAddr) -> Option<bool> {
        let current = self.current.borrow();
        let proxy = current.prepared.snapshot().listener(current.id).proxy_protocol.as_ref()?;
        proxy.from.believes(peer).then_some(proxy.required)
    }

    /// How long a caller may pause in a request's body.
    pub fn body_read(&self) -> Option<Duration> {
        let current = self.current.borrow();
        current.prepared.snapshot().listener(current.id).limits.body_read
    }

    /// Whether this peer is believed.
    pub fn trusts(&self, peer: std::net::IpAddr) -> bool {
        let current = self.current.borrow();
        current.prepared.snapshot().listener(current.id).trust.believes(peer)
    }

    /// Follows a new snapshot; one that has no such listener is not followed, so that what is left of a removed
    /// listener ends as it began.
    pub(super) fn follow(&self, prepared: &Rc<Prepared>) {
        if let Some(id) = prepared.snapshot().listener_named(&self.name) {
            *self.current.borrow_mut() = Rc::new(Current { prepared: Rc::clone(prepared), id });
            if !prepared.snapshot().listener(id).policies.is_empty() {
                self.connections.question();
            }
        }
    }

    /// Whether it accepts no more. Nothing is handed to other workers then: they may have ended.
    pub fn is_stopped(&self) -> bool {
        self.stopped.get()
    }

    /// Stops accepting.
    pub fn stop(&self) {
        self.stopped.set(true);
        self.stop.notify_waiters();
    }

    /// Waits to be stopped.
    pub async fn stopped(&self) {
        while !self.stopped.get() {
            self.stop.notified().await;
        }
    }

    /// Whether everything it accepted is over.
    pub fn is_drained(&self) -> bool {
        self.drained.get()
    }

    /// Remembers a task that accepts.
    pub fn accepted_by(&self, task: JoinHandle<()>) {
        self.acceptors.borrow_mut().push(task);
    }

    /// Lets the connections finish, and aborts them at the deadline. The listener is stopped.
    pub async fn drain(&self, deadline: Duration) -> Drained {
        // The acceptors still take what the kernel holds; without that there may seem to be nothing to wait for.
        let acceptors = self.acceptors.take();
        for acceptor in acceptors {
            let _ = acceptor.await;
        }
        let open = self.connections.len();
        let drained = self.connections.drain(deadline).await;
        let cut = drained.cut;
        self.drained.set(true);
        if cut > 0 {
            tracing::warn!(listener = %self.name, open, cut, "drained; connections were cut at the deadline");
        } else {
            tracing::debug!(listener = %self.name, open, "drained");
        }
        drained
    }

    /// Whether it takes what calls the app.
    pub fn is_inbound(&self) -> bool {
        let current = self.current.borrow();
        current.prepared.snapshot().listener(current.id).is_inbound()
    }

    /// Takes a place among the open connections, if there is one.
    pub fn admit(&self) -> bool {
        let limit = self.limits().connections as usize;
        let admitted = self.total.fetch_add(1, Ordering::Relaxed) < limit;
        if !admitted {
            self.total.fetch_sub(1, Ordering::Relaxed);
        }
        admitted
    }
}
