//! How weir leaves: LIVE -> DRAINING -> EXIT, with one deadline for all of it.
//!
//! Draining begins with SIGTERM or `POST /drain`: weir is not ready any more, says goodbye to whoever calls the app, and
//! still accepts for a while, because load balancers and other proxies take their time to notice. What the app itself
//! calls stays fully open until the app is gone, or, where weir has not started it, until nothing comes in any more. Only
//! then is that drained too. A second signal ends everything at once.
//!
//! What breaks if this is changed carelessly: every rollout, in a way that no single machine shows.

use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::listen::sockets::Sockets;
use crate::state::{Message, Shared};

/// What somebody asks of a running weir.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Read the configuration and open the logs anew.
    Reload,
    /// Say goodbye, but stay (`POST /drain`, for preStop hooks).
    Drain,
    /// The app is gone: finish and leave (`POST /shutdown`, SIGINT).
    Leave,
    /// The app is asked to leave: drain, then leave (SIGTERM).
    Terminate,
}

/// The signals that mean something.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// What was heard while something else was waited for.
    held: Option<Ask>,
}

impl Signals {
    /// Receives them from now on. Before anything listens: what a signal does by default is to kill, and with the process
    /// goes whatever the kernel has accepted for it.
    ///
    /// # Errors
    /// Why they cannot be received.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            held: None,
        })
    }

    /// What the next one asks.
    pub async fn next(&mut self) -> Ask {
        match self.held.take() {
            Some(asked) => asked,
            None => self.heard().await,
        }
    }

    /// Waits for one that ends things; another is held, though the wait be given up.
    pub async fn stop(&mut self) -> Ask {
        loop {
            match self.heard().await {
                Ask::Reload => self.held = Some(Ask::Reload),
                asked => return asked,
            }
        }
    }

    async fn heard(&mut self) -> Ask {
        tokio::select! {
            _ = self.terminate.recv() => Ask::Terminate,
            _ = self.interrupt.recv() => Ask::Leave,
            _ = self.hangup.recv() => Ask::Reload,
        }
    }

    /// Does something that takes its time, but not longer than until it is told to leave; that is heard again later.
    pub async fn unless_told(&mut self, work: impl Future<Output = ()>) {
        tokio::select! {
            () = work => {}
            asked = self.stop() => self.held = Some(asked),
        }
    }
}

/// The app, where weir has started it (`weir run -- cmd`).
pub struct App {
    child: Child,
}

impl App {
    /// Starts it.
    ///
    /// # Errors
    /// Why it cannot be started.
    pub fn start(command: &[std::ffi::OsString]) -> std::io::Result<Self> {
        let Some((program, arguments)) = command.split_first() else {
            return Err(std::io::Error::other("no command"));
        };
        Ok(Self { child: Command::new(program).args(arguments).kill_on_drop(true).spawn()? })
    }

    /// Waits until it has ended; gives the exit code to pass on, 128 and the signal's number if a signal ended it.
    pub async fn ended(&mut self) -> u8 {
        match self.child.wait().await {
            Ok(status) => code(status),
            Err(error) => {
                tracing::error!(%error, "the app cannot be waited for");
                1
            }
        }
    }

    /// Passes a signal on.
    fn signal(&self, signal: rustix::process::Signal) {
        let pid = self.child.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?));
        if let Some(pid) = pid
            && let Err(error) = rustix::process::kill_process(pid, signal)
        {
            tracing::warn!(%error, "the app does not take the signal");
        }
    }
}

fn code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let number = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(number).unwrap_or(1)
}

/// A drain under way.
pub struct Drain {
    began: Instant,
    accepted_before: u64,
}

impl Drain {
    /// Begins: not ready any more, and goodbye to whoever calls the app.
    pub async fn begin(shared: &Arc<Shared>) -> Self {
        shared.ready.store(false, Ordering::Release);
        shared.draining.store(true, Ordering::Release);
        for mailbox in &shared.mailboxes {
            let _ = mailbox.send(Message::Goodbye).await;
        }
        tracing::info!("draining: not ready any more, and saying goodbye to callers");
        Self { began: Instant::now(), accepted_before: accepted(shared) }
    }

    /// Goes through the rest of it. With `patient`, connections are accepted until `min` is over. Gives the exit code.
    pub async fn finish(
        self,
        shared: &Arc<Shared>,
        mut sockets: Sockets,
        mut app: Option<App>,
        mut signals: Signals,
        patient: bool,
        mut exit: u8,
    ) -> u8 {
        let (min, deadline) = {
            let snapshot = &shared.store.load().snapshot;
            // The time of grace counts from the goodbye, which may be long ago; the limit from when weir is told to leave.
            (snapshot.drain_min, Instant::now() + snapshot.drain_deadline)
        };
        let leaving = async {
            if patient {
                let rest = (self.began + min).saturating_duration_since(Instant::now());
                if let Some(code) = stay(rest, &mut app).await {
                    exit = code;
                    app = None;
                }
            }
            // Callers first: an app that is told to leave may refuse what still comes in. It needs time of its own after that.
            let limit = if app.is_some() { left(deadline) / 2 } else { left(deadline) };
            let cut = inbound(shared, &mut sockets, limit).await;
            if let Some(app) = &mut app {
                app.signal(rustix::process::Signal::TERM);
                exit = match tokio::time::timeout(before(deadline), app.ended()).await {
                    Ok(code) => code,
                    Err(_) => {
                        tracing::warn!("the app does not leave; it is killed");
                        app.signal(rustix::process::Signal::KILL);
                        app.ended().await
                    }
                };
            }
            // While a copy is open here, the kernel would go on accepting for workers that do not.
            drop(sockets);
            (exit, cut + outbound(shared, left(deadline)).await)
        };
        tokio::select! {
            (exit, cut) = leaving => {
                let accepted = accepted(shared) - self.accepted_before;
                let took = self.began.elapsed();
                if cut > 0 {
                    tracing::warn!(accepted, cut, ?took, "drained; connections were cut at the deadline");
                } else {
                    tracing::info!(accepted, cut, ?took, "drained");
                }
                exit
            }
            _ = signals.stop() => {
                tracing::warn!("ended at once");
                exit
            }
        }
    }
}

/// Waits; gives the app's exit code if it leaves by itself meanwhile.
async fn stay(rest: Duration, app: &mut Option<App>) -> Option<u8> {
    let gone = async {
        match app {
            Some(app) => app.ended().await,
            None => std::future::pending().await,
        }
    };
    tokio::time::timeout(rest, gone).await.ok()
}

/// The app is killed this long before the deadline, so that what was in flight can still be ended in order.
const LAST_MOMENT: Duration = Duration::from_secs(2);

fn before(deadline: Instant) -> Duration {
    left(deadline).saturating_sub(LAST_MOMENT)
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Lets what calls the app finish; gives how many connections were cut.
async fn inbound(shared: &Arc<Shared>, sockets: &mut Sockets, limit: Duration) -> usize {
    let names: Vec<Box<str>> = {
        let snapshot = &shared.store.load().snapshot;
        let inbound = snapshot.listeners.iter().filter(|listener| listener.is_inbound());
        inbound.map(|listener| listener.name.clone()).collect()
    };
    if names.is_empty() {
        return 0;
    }
    sockets.close(&names);
    let mut cut = 0;
    let mut waits = Vec::new();
    for mailbox in &shared.mailboxes {
        let (done, finished) = oneshot::channel();
        let _ = mailbox.send(Message::Finish { listeners: names.clone(), limit, done }).await;
        waits.push(finished);
    }
    for finished in waits {
        cut += finished.await.unwrap_or(0);
    }
    cut
}

/// Lets everything finish, and the workers end; gives how many connections were cut.
async fn outbound(shared: &Arc<Shared>, limit: Duration) -> usize {
    let mut cut = 0;
    let mut waits = Vec::new();
    for mailbox in &shared.mailboxes {
        let (done, finished) = oneshot::channel();
        let _ = mailbox.send(Message::Drain(limit, done)).await;
        waits.push(finished);
    }
    for finished in waits {
        cut += finished.await.unwrap_or(0);
    }
    cut
}

/// Connections accepted so far.
fn accepted(shared: &Shared) -> u64 {
    let mut sum = 0;
    shared.metrics.listeners.visit(|_, shards| sum += shards.iter().map(|shard| shard.accepted.get()).sum::<u64>());
    sum
}
