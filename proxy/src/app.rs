//! Wires everything together and runs the control thread. No policy lives here.
//!
//! Order on a change of configuration: compile, resolve the names it brings, bind the listeners it brings, and only then
//! publish. Whatever fails before that last step leaves the running configuration as it is.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use arc_swap::ArcSwapOption;
use tokio::sync::{mpsc, oneshot};
use weir_config::snapshot::{Identity, Snapshot};
use weir_control::file::FileSource;
use weir_control::{Applier, Outcome};

use crate::admin;
use crate::balance::discovery::{Discovery, Follower};
use crate::lifecycle::{self, Ask, Drain, Leaving, Manner, Signals};
use crate::listen::sockets::{self, Sockets};
use crate::memory;
use crate::observe::access_log::LogWriter;
use crate::observe::metrics::Metrics;
use crate::settings;
use crate::state::{Message, Shared};
use crate::tls;
use crate::tls::outside::{Loaded, Outside};
use crate::worker;

/// How long the names of a new configuration may take to resolve before it serves without them.
const WARM_UP: Duration = Duration::from_secs(5);
/// Messages waiting for a worker.
const MAILBOX: usize = 1024;

/// A running weir, on its control thread.
pub struct App {
    shared: Arc<Shared>,
    applier: Applier,
    follower: Follower,
    sockets: Sockets,
    workers: Vec<JoinHandle<std::io::Result<()>>>,
    asked: mpsc::Receiver<Ask>,
    file: Option<PathBuf>,
}

impl App {
    /// Starts everything with a configuration that was found good. `file` is watched for changes. Needs a tokio
    /// runtime. Who is told to leave meanwhile starts without waiting for names, and leaves in order.
    ///
    /// # Errors
    /// What cannot be bound, opened or started.
    pub async fn start(
        applier: Applier,
        file: Option<PathBuf>,
        level: admin::LogLevel,
        signals: &mut Signals,
    ) -> anyhow::Result<Self> {
        let store = applier.store();
        let published = store.load();
        let snapshot = &published.snapshot;
        let workers = settings::workers(snapshot.bootstrap.workers);
        let metrics = Arc::<Metrics>::default();
        let discovery = Arc::<Discovery>::default();
        let follower = Follower::new(&snapshot.bootstrap.dns, Arc::clone(&discovery), Arc::clone(&metrics))?;
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..workers.count).map(|_| mpsc::channel(MAILBOX)).unzip();
        let shared = Arc::new(Shared {
            store,
            status: applier.status(),
            config_name: applier.name().to_owned(),
            discovery,
            tls: Arc::default(),
            callers: Arc::default(),
            metrics,
            access_log: ArcSwapOption::empty(),
            loads: (0..workers.count).map(|_| AtomicUsize::new(0)).collect(),
            mailboxes: senders.into(),
            listener_loads: std::sync::Mutex::default(),
            budgets: std::sync::Mutex::default(),
            workers: workers.count,
            ready: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            started: SystemTime::now(),
        });
        let (ask, asked) = mpsc::channel(8);
        let sockets = Sockets::new(workers.count);
        let mut app = Self { shared, applier, follower, sockets, workers: Vec::new(), asked, file };
        app.open_access_log(snapshot).context("the access log cannot be opened")?;
        match &snapshot.bootstrap.identity {
            None => {}
            Some(Identity::Files(files)) => {
                tls::follow::begin(files, &app.shared.tls).context("the identity cannot be used")?;
            }
            Some(Identity::WorkloadApi(socket)) => {
                tokio::spawn(tls::workload::follow(socket.clone(), Arc::clone(&app.shared.tls)));
            }
        }
        app.shared.tls.outside.commit(Outside::prepare(snapshot)?);
        let tls = Arc::clone(&app.shared.tls);
        tokio::spawn(async move { tls.outside.follow().await });
        signals.unless_told(app.follower.prepare(snapshot, WARM_UP)).await;
        admin::start(&app.shared, &snapshot.bootstrap, level, ask).await?;
        if snapshot.bootstrap.identity.is_some() {
            // Nobody could be spoken to without one. Who is told to leave meanwhile leaves.
            signals.unless_told(app.shared.tls.ready()).await;
        }
        let change = app.sockets.prepare(snapshot).await?;
        for (id, mailbox) in receivers.into_iter().enumerate() {
            let shared = Arc::clone(&app.shared);
            let thread = std::thread::Builder::new().name(format!("weir-worker-{id}"));
            app.workers.push(thread.spawn(move || worker::run(id, shared, mailbox)).context("no thread for a worker")?);
        }
        let told = app.sockets.commit(change);
        app.tell_workers(told).await;
        app.workers_have_begun().await?;
        tokio::spawn(memory::tend());
        app.shared.ready.store(true, Ordering::Release);
        tracing::info!(workers = workers.count, source = workers.source, "ready");
        Ok(app)
    }

    /// Where a listener is bound.
    pub fn address(&self, listener: &str) -> Option<SocketAddr> {
        self.sockets.address(listener)
    }

    /// What all threads share.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Serves until it is told to leave, or until `command`, which is started now, has ended; then leaves in order. Gives the
    /// exit code.
    ///
    /// # Errors
    /// Why the command cannot be started.
    pub async fn serve(mut self, command: &[OsString], mut signals: Signals, leaving: Leaving) -> anyhow::Result<u8> {
        let mut child = match command {
            [] => None,
            [program, ..] => Some(lifecycle::App::start(command).with_context(|| format!("cannot start {}", program.display()))?),
        };
        let source = self.shared.store.load().source.clone();
        let mut file = self.file.as_deref().map(|file| FileSource::new(file, &source));
        drop(source);
        let mut drain = None;
        let (manner, exit) = loop {
            let event = tokio::select! {
                // A signal first: one that was held is not heard by whatever is begun before it.
                biased;
                asked = signals.next() => Event::Asked(asked),
                text = changed(&mut file) => Event::Text(text),
                Some(asked) = self.asked.recv() => Event::Asked(asked),
                code = ended(&mut child) => Event::Ended(code),
            };
            let text = match event {
                Event::Asked(Ask::Terminate) => break (leaving.on_sigterm.into(), 0),
                Event::Asked(Ask::Leave) => break (Manner::AT_ONCE, 0),
                Event::Ended(code) => {
                    tracing::info!(code, "the app has ended");
                    child = None;
                    break (Manner::AT_ONCE, code);
                }
                Event::Asked(Ask::Drain) => {
                    match &mut drain {
                        None => drain = Some(Drain::begin(&self.shared).await),
                        Some(drain) => drain.again(),
                    }
                    continue;
                }
                Event::Text(text) => text,
                Event::Asked(Ask::Reload) => {
                    if let Some(log) = &*self.shared.access_log.load() {
                        log.reopen();
                    }
                    match &mut file {
                        Some(file) => file.reread(),
                        None => continue,
                    }
                }
            };
            match text {
                // Names that do not resolve must not keep weir from leaving.
                Ok(text) => signals.unless_told(self.apply(text)).await,
                Err(error) => {
                    self.applier.unreadable(&error.to_string());
                    tracing::error!(%error, "the configuration cannot be read; what served before still serves");
                }
            }
        };
        let drain = match drain {
            Some(drain) => drain,
            None => Drain::begin(&self.shared).await,
        };
        let exit = drain.finish(&self.shared, self.sockets, child, (signals, self.asked), (manner, leaving), exit).await;
        if let Some(log) = &*self.shared.access_log.load() {
            log.flush(Duration::from_secs(2));
        }
        Ok(exit)
    }

    /// Takes a new text over, or says why not.
    pub async fn apply(&mut self, text: String) {
        let prepared = match self.applier.prepare(text) {
            Ok(prepared) => prepared,
            Err(outcome) => return report(self.applier.name(), &outcome),
        };
        self.follower.prepare(&prepared.snapshot, WARM_UP).await;
        let (change, outside) = match self.ready(&prepared.snapshot).await {
            Ok(ready) => ready,
            Err(error) => {
                self.applier.unreadable(&format!("{error:#}"));
                self.follower.forget_others(&self.shared.store.load().snapshot);
                tracing::error!(error = format!("{error:#}"), "configuration rejected; what served before still serves");
                return;
            }
        };
        // Nothing can fail any more.
        self.shared.tls.outside.commit(outside);
        let told = self.sockets.commit(change);
        let outcome = self.applier.publish(prepared);
        report(self.applier.name(), &outcome);
        self.follower.forget_others(&self.shared.store.load().snapshot);
        self.tell_workers(told).await;
    }

    /// Readies what a snapshot needs of the system.
    async fn ready(&mut self, snapshot: &Snapshot) -> anyhow::Result<(sockets::Change, Loaded)> {
        let outside = Outside::prepare(snapshot)?;
        let change = self.sockets.prepare(snapshot).await?;
        self.open_access_log(snapshot).context("the access log cannot be opened")?;
        Ok((change, outside))
    }

    /// Has the workers follow the published snapshot. Every worker knows a listener before any accepts on it.
    async fn tell_workers(&self, told: sockets::Told) {
        // Only a worker that ended does not listen, and then the process is ending too.
        for mailbox in &self.shared.mailboxes {
            let _ = mailbox.send(Message::Adopt { add: told.add.clone(), remove: told.remove.clone() }).await;
        }
        for (mailbox, sockets) in self.shared.mailboxes.iter().zip(told.shares) {
            let _ = mailbox.send(Message::Accept(sockets)).await;
        }
    }

    /// Waits until every worker has done what it was told.
    async fn workers_have_begun(&self) -> anyhow::Result<()> {
        for (id, mailbox) in self.shared.mailboxes.iter().enumerate() {
            let (done, begun) = oneshot::channel();
            let _ = mailbox.send(Message::Report(done)).await;
            begun.await.with_context(|| format!("worker {id} ended before it began"))?;
        }
        Ok(())
    }

    fn open_access_log(&self, snapshot: &Snapshot) -> std::io::Result<()> {
        let current = self.shared.access_log.load();
        if current.as_ref().map(|writer| &writer.config) == snapshot.access_log.as_ref() {
            return Ok(());
        }
        let writer = snapshot.access_log.clone().map(|log| LogWriter::open(log, Arc::clone(&self.shared.metrics)));
        self.shared.access_log.store(writer.transpose()?);
        Ok(())
    }
}

async fn ended(child: &mut Option<lifecycle::App>) -> u8 {
    match child {
        Some(child) => child.ended().await,
        None => std::future::pending().await,
    }
}

async fn changed(file: &mut Option<FileSource>) -> std::io::Result<String> {
    match file {
        Some(file) => file.changed().await,
        None => std::future::pending().await,
    }
}

fn report(source: &str, outcome: &Outcome) {
    match outcome {
        Outcome::Published(generation) => tracing::info!(generation, "configuration published"),
        Outcome::Unchanged => tracing::info!("the configuration means what it meant before; nothing to do"),
        Outcome::Rejected(mistakes) => {
            for mistake in mistakes.iter().take(20) {
                tracing::error!(mistake = mistake.render(source), "configuration rejected");
            }
            tracing::error!(mistakes = mistakes.len(), "configuration rejected; what served before still serves");
        }
    }
}

/// What the control thread waits for.
enum Event {
    Asked(Ask),
    Text(std::io::Result<String>),
    /// The app has ended, with this code.
    Ended(u8),
}
