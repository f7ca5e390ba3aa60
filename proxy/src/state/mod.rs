//! What a request may reach: the state of its worker, and what all threads share.
//!
//! What a worker owns is `Rc` and `Cell`, so the compiler keeps it on its thread. What crosses threads is an `Arc`, and
//! stands here, in [`Shared`]: the published snapshot, discovered addresses, metrics shards, the access log, mailboxes and
//! loads. Nothing else may be shared without a reason written beside it.

pub mod listener;
pub mod prepared;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{TcpListener, TcpStream};
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use bytes::BytesMut;
use tokio::sync::{mpsc, oneshot};
use weir_control::{Status, Store};

use crate::balance::budget::Budget;
use crate::balance::cluster::ClusterState;
use crate::balance::discovery::Discovery;
use crate::clock::Alarms;
use crate::drain::Drained;
use crate::observe::access_log::{LogHandle, LogWriter};
use crate::observe::callers::Callers;
use crate::observe::metrics::Metrics;
use crate::slots::Slots;
use crate::tls::follow::Holder;
use crate::tunnel::Tools;
use crate::tunnel::splice::Pipes;
use listener::ListenerState;
use prepared::Prepared;

/// What all threads share.
pub struct Shared {
    /// The published snapshot.
    pub store: Arc<Store>,
    /// What became of the configurations offered.
    pub status: Arc<Mutex<Status>>,
    /// What the configuration is called: its file.
    pub config_name: String,
    /// The addresses of names.
    pub discovery: Arc<Discovery>,
    /// What handshakes need: who this proxy is in the mesh, and certificates for those outside of it.
    pub tls: Arc<Holder>,
    /// Every number.
    pub metrics: Arc<Metrics>,
    /// The access log, if there is one.
    pub access_log: ArcSwapOption<LogWriter>,
    /// Who calls without mutual TLS.
    pub callers: Arc<Callers>,
    /// Open connections by worker.
    pub loads: Box<[AtomicUsize]>,
    /// Where each worker gets its messages.
    pub mailboxes: Box<[mpsc::Sender<Message>]>,
    /// Open connections of each listener over all workers.
    pub listener_loads: Mutex<HashMap<Box<str>, Arc<AtomicUsize>>>,
    /// The retry budget of each cluster: what one worker's callers spend, another's cannot.
    pub budgets: Mutex<HashMap<Box<str>, Arc<Budget>>>,
    /// How many workers there are.
    pub workers: usize,
    /// Whether every worker accepts and no shutdown has begun.
    pub ready: AtomicBool,
    /// Whether weir is leaving.
    pub draining: AtomicBool,
    /// When the process started.
    pub started: SystemTime,
}

impl Shared {
    /// What became of the configurations offered.
    pub fn config_status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The retry budget of a cluster; made if need be, and those of clusters that are gone are forgotten by then.
    fn budget(&self, cluster: &str) -> Arc<Budget> {
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(budget) = budgets.get(cluster) {
            return Arc::clone(budget);
        }
        budgets.retain(|_, budget| Arc::strong_count(budget) > 1);
        let budget = Budget::new(self.workers);
        budgets.insert(cluster.into(), Arc::clone(&budget));
        budget
    }
}

/// The sockets of one worker, by listener.
pub type Share = Vec<(Box<str>, Vec<TcpListener>)>;

/// What a worker is told.
pub enum Message {
    /// There is a new snapshot: follow it, and know its listeners.
    Adopt {
        /// Listeners that are new, or are at another address now.
        add: Vec<Box<str>>,
        /// Listeners that are gone, or were at another address.
        remove: Vec<Box<str>>,
    },
    /// Accept on these sockets. Told only when every worker has been told to know the listeners, so that a connection
    /// is never handed to a worker that does not.
    Accept(Share),
    /// Serve this connection, which another worker accepted.
    Connection(Box<str>, TcpStream),
    /// Say that everything told before is done.
    Report(oneshot::Sender<()>),
    /// Say goodbye to whoever calls the app, and go on.
    Goodbye,
    /// Accept no more on these listeners, finish what is in flight within `limit`, and say what it came to.
    Finish {
        /// The listeners.
        listeners: Vec<Box<str>>,
        /// How long it may take.
        limit: Duration,
        /// Told when it is done.
        done: oneshot::Sender<Drained>,
    },
    /// Finish all that is in flight within this time, say what it came to, then end.
    Drain(Duration, oneshot::Sender<Drained>),
}

/// Removed listeners that a worker remembers; a hand-over takes microseconds, so few are ever needed.
const MAX_LEAVING: usize = 64;

/// One worker.
pub struct Worker {
    /// Its number, from 0.
    pub id: usize,
    /// What all threads share.
    pub shared: Arc<Shared>,
    random: RefCell<fastrand::Rng>,
    prepared: RefCell<Rc<Prepared>>,
    generation: Cell<u64>,
    clusters: RefCell<HashMap<Box<str>, Rc<ClusterState>>>,
    listeners: RefCell<HashMap<Box<str>, Rc<ListenerState>>>,
    /// Listeners that were removed: another worker may still hand over a connection that it accepted before.
    leaving: RefCell<HashMap<Box<str>, Rc<ListenerState>>>,
    /// Removed listeners that have not drained.
    draining: RefCell<Vec<Weak<ListenerState>>>,
    log: RefCell<Option<Rc<LogHandle>>>,
    /// Timers for the clocks of requests.
    pub alarms: Rc<Alarms>,
    /// Pipes for tunnels.
    pub pipes: Rc<Pipes>,
    /// A moment by both clocks, not long ago.
    noon: Cell<(Instant, SystemTime)>,
    /// Room for correlation IDs.
    pub ids: RefCell<BytesMut>,
    /// Room for the futures of HTTP/1 requests.
    pub slots: Slots,
    /// Room for the futures of HTTP/2 requests.
    pub streams: Slots,
    /// Bytes of request bodies that are kept to be sent again.
    pub kept: Rc<Cell<usize>>,
}

impl Worker {
    /// The state of worker `id`.
    pub fn new(id: usize, shared: Arc<Shared>) -> Rc<Self> {
        let published = shared.store.load();
        let worker = Rc::new(Self {
            id,
            random: RefCell::new(fastrand::Rng::new()),
            generation: Cell::new(published.generation),
            prepared: RefCell::new(Rc::new(Prepared::new(published, None))),
            shared,
            clusters: RefCell::default(),
            listeners: RefCell::default(),
            leaving: RefCell::default(),
            draining: RefCell::default(),
            log: RefCell::default(),
            alarms: Rc::default(),
            pipes: Rc::default(),
            noon: Cell::new((Instant::now(), SystemTime::now())),
            ids: RefCell::default(),
            slots: Slots::default(),
            streams: Slots::default(),
            kept: Rc::default(),
        });
        worker.adopt();
        worker
    }

    /// A uniform random number.
    pub fn draw(&self) -> u64 {
        self.random.borrow_mut().u64(..)
    }

    /// 128 uniform random bits.
    pub fn draw_wide(&self) -> u128 {
        self.random.borrow_mut().u128(..)
    }

    /// Milliseconds since 1970 at this moment, which is not long ago. As exact as it must be for a name, without asking the
    /// system clock for each request.
    pub fn unix_millis(&self, at: Instant) -> u64 {
        let (noon, by_the_clock) = self.noon.get();
        let by_the_clock = by_the_clock.duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = by_the_clock + at.saturating_duration_since(noon);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// Follows the published snapshot if it moved: one atomic load when it did not.
    pub fn refresh(&self) {
        if self.shared.store.generation() != self.generation.get() {
            self.adopt();
        }
    }

    /// Takes the published snapshot over: clusters and listeners keep their state.
    fn adopt(&self) {
        let published = self.shared.store.load();
        self.generation.set(published.generation);
        let log = self.log_handle();
        let prepared = Rc::new(Prepared::new(Arc::clone(&published), log));
        let snapshot = prepared.snapshot();
        self.clusters.borrow_mut().retain(|name, state| {
            let cluster = snapshot.clusters.iter().find(|cluster| cluster.name == *name);
            if let Some(cluster) = cluster {
                state.update(cluster, &self.shared.discovery);
            }
            cluster.is_some()
        });
        for listener in self.listeners.borrow().values() {
            listener.follow(&prepared);
        }
        *self.prepared.borrow_mut() = prepared;
    }

    fn log_handle(&self) -> Option<Rc<LogHandle>> {
        let writer = self.shared.access_log.load_full();
        let mut log = self.log.borrow_mut();
        let same = match (&*log, &writer) {
            (Some(handle), Some(writer)) => Arc::ptr_eq(handle.writer(), writer),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !same {
            *log = writer.map(LogHandle::new);
        }
        log.clone()
    }

    /// The state of a cluster, made when it is first used. What is left of a removed listener asks for the clusters of
    /// its own `generation`; it must not leave an old definition to those who came after.
    fn cluster(&self, cluster: &weir_config::snapshot::Cluster, generation: u64) -> Rc<ClusterState> {
        let current = generation == self.generation.get();
        let mut clusters = self.clusters.borrow_mut();
        if let Some(state) = clusters.get(&cluster.name).filter(|state| current || *state.config() == *cluster) {
            return Rc::clone(state);
        }
        let shard = self.shared.metrics.clusters.shard(&cluster.name, self.id);
        let budget = self.shared.budget(&cluster.name);
        let state = ClusterState::new(cluster, &self.shared.discovery, shard, budget, Arc::clone(&self.shared.tls), self.id);
        if !current {
            return state;
        }
        clusters.insert(cluster.name.clone(), Rc::clone(&state));
        state
    }

    /// A listener by name.
    pub fn listener(&self, name: &str) -> Option<Rc<ListenerState>> {
        self.listeners.borrow().get(name).cloned()
    }

    /// A listener by name, though it may be on its way out.
    pub fn listener_or_leaving(&self, name: &str) -> Option<Rc<ListenerState>> {
        self.listener(name).or_else(|| self.leaving.borrow().get(name).cloned())
    }

    /// Closes what has been idle too long, and follows the snapshot where no request does.
    pub fn tick(&self) {
        self.refresh();
        let now = Instant::now();
        self.noon.set((now, SystemTime::now()));
        for cluster in self.clusters.borrow().values() {
            cluster.sweep(now);
        }
        self.slots.sweep();
        self.streams.sweep();
    }

    /// What tunnels borrow.
    pub fn tools(&self) -> Tools<'_> {
        Tools { alarms: &self.alarms, pipes: &self.pipes }
    }

    /// Makes the state of a new listener. `None` if the snapshot has moved on and does not know it.
    pub fn add_listener(&self, name: &str) -> Option<Rc<ListenerState>> {
        let prepared = Rc::clone(&self.prepared.borrow());
        let id = prepared.snapshot().listener_named(name)?;
        let state = ListenerState::new(name.into(), self, prepared, id);
        self.listeners.borrow_mut().insert(name.into(), Rc::clone(&state));
        Some(state)
    }

    /// Takes a listener out; it stops accepting.
    pub fn remove_listener(&self, name: &str) -> Option<Rc<ListenerState>> {
        let state = self.listeners.borrow_mut().remove(name)?;
        state.stop();
        let mut leaving = self.leaving.borrow_mut();
        if leaving.len() >= MAX_LEAVING {
            leaving.clear();
        }
        leaving.insert(name.into(), Rc::clone(&state));
        let mut draining = self.draining.borrow_mut();
        draining.retain(|state| state.upgrade().is_some_and(|state| !state.is_drained()));
        draining.push(Rc::downgrade(&state));
        Some(state)
    }

    /// Listeners that were removed and have not drained.
    pub fn draining(&self) -> Vec<Rc<ListenerState>> {
        self.draining.borrow().iter().filter_map(Weak::upgrade).collect()
    }

    /// Has whoever calls the app finish and come back elsewhere; new connections are served and told the same.
    pub fn say_goodbye(&self) {
        for listener in self.listeners.borrow().values().filter(|listener| listener.is_inbound()) {
            listener.connections.say_goodbye();
        }
    }

    /// The names of all listeners.
    pub fn listener_names(&self) -> Vec<Box<str>> {
        self.listeners.borrow().keys().cloned().collect()
    }

    /// How long what is in flight may take when something drains.
    pub fn drain_deadline(&self) -> Duration {
        self.prepared.borrow().snapshot().drain_deadline
    }

    /// Hands over what the access log still holds.
    pub fn close_log(&self) {
        if let Some(log) = &*self.log.borrow() {
            log.close();
        }
    }
}
