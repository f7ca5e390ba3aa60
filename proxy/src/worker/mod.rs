//! One worker: a thread with its own runtime, listeners, connection pools, random source and cached snapshot.
//!
//! What a worker owns is `Rc` and `Cell`, so the compiler keeps it on its thread. What crosses threads is an `Arc`, and
//! stands here, in [`Shared`]: the published snapshot, discovered addresses, metrics shards, the access log, mailboxes and
//! loads. Nothing else may be shared without a reason written beside it.

pub mod listener;
pub mod prepared;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::TcpStream;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use http::HeaderValue;
use tokio::sync::mpsc;
use weir_control::{Status, Store};

use crate::balance::cluster::ClusterState;
use crate::balance::discovery::Discovery;
use crate::http::correlation::fresh_id;
use crate::listen;
use crate::observe::access_log::{LogHandle, LogWriter};
use crate::observe::metrics::Metrics;
use listener::ListenerState;
use prepared::Prepared;

/// What all threads share.
pub struct Shared {
    /// The published snapshot.
    pub store: Arc<Store>,
    /// What became of the configurations offered.
    pub status: Arc<Mutex<Status>>,
    /// The addresses of names.
    pub discovery: Arc<Discovery>,
    /// Every number.
    pub metrics: Arc<Metrics>,
    /// The access log, if there is one.
    pub access_log: ArcSwapOption<LogWriter>,
    /// Open connections by worker.
    pub loads: Box<[AtomicUsize]>,
    /// Where each worker gets its messages.
    pub mailboxes: Box<[mpsc::Sender<Message>]>,
    /// Open connections of each listener over all workers.
    pub listener_loads: Mutex<HashMap<Box<str>, Arc<AtomicUsize>>>,
    /// How many workers there are.
    pub workers: usize,
    /// Whether every worker accepts and no shutdown has begun.
    pub ready: AtomicBool,
    /// When the process started.
    pub started: SystemTime,
}

impl Shared {
    /// What became of the configurations offered.
    pub fn config_status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a worker is told.
pub enum Message {
    /// There is a new snapshot: follow it.
    Adopt {
        /// Sockets of new listeners, by name.
        add: Vec<(Box<str>, std::net::TcpListener)>,
        /// Listeners that are gone.
        remove: Vec<Box<str>>,
    },
    /// Serve this connection, which another worker accepted.
    Connection(Box<str>, TcpStream),
    /// Finish what is in flight, then end.
    Drain(Duration),
}

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
    log: RefCell<Option<Rc<LogHandle>>>,
}

impl Worker {
    fn new(id: usize, shared: Arc<Shared>) -> Rc<Self> {
        let published = shared.store.load();
        let worker = Rc::new(Self {
            id,
            random: RefCell::new(fastrand::Rng::new()),
            generation: Cell::new(published.generation),
            prepared: RefCell::new(Rc::new(Prepared::new(published, None))),
            shared,
            clusters: RefCell::default(),
            listeners: RefCell::default(),
            log: RefCell::default(),
        });
        worker.adopt();
        worker
    }

    /// A uniform random number.
    pub fn draw(&self) -> u64 {
        self.random.borrow_mut().u64(..)
    }

    /// A fresh correlation ID.
    pub fn fresh_id(&self) -> HeaderValue {
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        fresh_id(u64::try_from(millis).unwrap_or(u64::MAX), self.random.borrow_mut().u128(..))
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

    /// The state of a cluster, made when it is first used.
    fn cluster(&self, cluster: &weir_config::snapshot::Cluster) -> Rc<ClusterState> {
        let mut clusters = self.clusters.borrow_mut();
        if let Some(state) = clusters.get(&cluster.name) {
            return Rc::clone(state);
        }
        let shard = self.shared.metrics.clusters.shard(&cluster.name, self.id);
        let state = ClusterState::new(cluster, &self.shared.discovery, shard);
        clusters.insert(cluster.name.clone(), Rc::clone(&state));
        state
    }

    fn listener(&self, name: &str) -> Option<Rc<ListenerState>> {
        self.listeners.borrow().get(name).cloned()
    }

    fn listen(self: &Rc<Self>, name: Box<str>, socket: std::net::TcpListener) {
        let prepared = Rc::clone(&self.prepared.borrow());
        let Some(id) = prepared.snapshot().listener_named(&name) else { return };
        let state = ListenerState::new(name.clone(), self, prepared, id);
        self.listeners.borrow_mut().insert(name.clone(), Rc::clone(&state));
        match tokio::net::TcpListener::from_std(socket) {
            Ok(socket) => {
                tokio::task::spawn_local(listen::accept(Rc::clone(self), state, socket));
            }
            Err(error) => tracing::error!(listener = %name, %error, "the listener cannot be served"),
        }
    }

    /// Stops accepting on a listener and lets its connections finish.
    fn unlisten(&self, name: &str) -> Option<Rc<ListenerState>> {
        let state = self.listeners.borrow_mut().remove(name)?;
        state.stop();
        Some(state)
    }

    /// Closes what has been idle too long, and follows the snapshot where no request does.
    fn tick(&self) {
        self.refresh();
        let now = Instant::now();
        for cluster in self.clusters.borrow().values() {
            cluster.sweep(now);
        }
    }
}

/// Runs a worker on this thread until it has drained.
pub fn run(id: usize, shared: Arc<Shared>, mailbox: mpsc::Receiver<Message>) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default())?;
    runtime.block_on(serve(id, shared, mailbox));
    Ok(())
}

async fn serve(id: usize, shared: Arc<Shared>, mut mailbox: mpsc::Receiver<Message>) {
    let worker = Worker::new(id, shared);
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            message = mailbox.recv() => message,
            _ = tick.tick() => {
                worker.tick();
                continue;
            }
        };
        match message {
            Some(Message::Adopt { add, remove }) => {
                worker.refresh();
                for name in remove {
                    if let Some(state) = worker.unlisten(&name) {
                        let deadline = worker.prepared.borrow().snapshot().drain_deadline;
                        tokio::task::spawn_local(async move { state.drain(deadline).await });
                    }
                }
                for (name, socket) in add {
                    worker.listen(name, socket);
                }
            }
            Some(Message::Connection(name, stream)) => match worker.listener(&name) {
                Some(state) => listen::adopt(&worker, &state, stream),
                None => drop(stream),
            },
            Some(Message::Drain(deadline)) => {
                drain(&worker, deadline).await;
                return;
            }
            None => return,
        }
    }
}

/// Stops accepting everywhere and waits for what is in flight.
async fn drain(worker: &Rc<Worker>, deadline: Duration) {
    let names: Vec<Box<str>> = worker.listeners.borrow().keys().cloned().collect();
    let states: Vec<_> = names.iter().filter_map(|name| worker.unlisten(name)).collect();
    let tasks: Vec<_> =
        states.into_iter().map(|state| tokio::task::spawn_local(async move { state.drain(deadline).await })).collect();
    for task in tasks {
        let _ = task.await;
    }
    // Aborted connections need a turn to see it and say so in the log.
    tokio::task::yield_now().await;
    if let Some(log) = &*worker.log.borrow() {
        log.close();
    }
}
