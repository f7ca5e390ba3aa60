//! How weir leaves: LIVE -> DRAINING -> EXIT, with one deadline for all of it.
//!
//! Draining begins with SIGTERM or `POST /drain`: weir is not ready any more, says goodbye to whoever calls the app, and
//! still accepts for a while, because load balancers and other proxies take their time to notice. What the app itself
//! calls stays fully open until the app is gone, or, where weir has not started it, until nothing comes in any more; with
//! [`OnSigterm::Wait`] until nobody else has sockets here. Only then is that drained too. A second signal ends everything at once.
//!
//! What breaks if this is changed carelessly: every rollout, in a way that no single machine shows.

mod neighbours;

use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use crate::drain::Drained;
use crate::listen::sockets::Sockets;
use crate::state::{Message, Shared};

/// What SIGTERM tells weir, which is a matter of who sends it, and of whom else it is sent to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum OnSigterm {
    /// To leave: goodbye to callers, `shutdown.min` for those who have not noticed yet, then out.
    #[default]
    Drain,
    /// To leave, as it tells the app (classic sidecars, ECS, compose): as `drain`, and what the app calls stays open until
    /// nobody else has TCP sockets in this network namespace.
    Wait,
    /// That the app is gone (native sidecars): finish what is in flight, and out.
    Leave,
}

/// How weir leaves, as far as that is the platform's to say.
#[derive(Debug, Clone, Copy, Default)]
pub struct Leaving {
    /// What SIGTERM means.
    pub on_sigterm: OnSigterm,
    /// How long after it began to leave weir is killed; it is gone before. In place of `shutdown.deadline`.
    pub grace: Option<Duration>,
}

impl Leaving {
    /// When all must be over, for a drain that began at `began`.
    fn deadline(&self, began: Instant, now: Instant, configured: Duration) -> Instant {
        let granted = self.grace.and_then(|grace| {
            // Whoever grants it has not seen a goodbye that is longer ago: weir would not run any more.
            let counted = began.checked_add(grace)?.checked_add(MARGIN)?;
            let since = if counted < now { now } else { began };
            since.checked_add(grace.saturating_sub((grace / 5).min(MARGIN)))
        });
        match granted {
            None => now + configured,
            // What is left when somebody waited long is little, but not nothing.
            Some(granted) => granted.max(now + AT_LEAST),
        }
    }
}

/// How long an app may take to leave where nothing else is said.
const PATIENCE: Duration = Duration::from_secs(5);
/// weir is gone this long before it would be killed.
const MARGIN: Duration = Duration::from_secs(5);
const AT_LEAST: Duration = Duration::from_secs(1);

/// How a drain is gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Manner {
    /// Callers may still come until `shutdown.min` is over.
    pub patient: bool,
    /// The app, which weir has not started, is waited for.
    pub wait: bool,
}

impl Manner {
    /// The app is gone, or everybody shall be.
    pub const AT_ONCE: Self = Self { patient: false, wait: false };
}

impl From<OnSigterm> for Manner {
    fn from(means: OnSigterm) -> Self {
        match means {
            OnSigterm::Drain => Self { patient: true, wait: false },
            OnSigterm::Wait => Self { patient: true, wait: true },
            OnSigterm::Leave => Self::AT_ONCE,
        }
    }
}

/// What somebody asks of a running weir.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Read the configuration and open the logs anew.
    Reload,
    /// Say goodbye, but stay (`POST /drain`, for preStop hooks).
    Drain,
    /// The app is gone: finish and leave (`POST /shutdown`, SIGINT). Said while weir leaves: nobody need be waited for any more.
    Leave,
    /// What [`OnSigterm`] says (SIGTERM).
    Terminate,
}

/// The signals that mean something, or somebody else's word in their place.
pub struct Signals {
    from: Source,
    /// What was heard while something else was waited for.
    held: Option<Ask>,
}

/// Where signals come from.
enum Source {
    Process { terminate: Signal, interrupt: Signal, hangup: Signal, means: Ask },
    Somebody(mpsc::Receiver<Ask>),
}

impl Signals {
    /// What somebody else in this process says; signals of the process are his.
    pub fn of(somebody: mpsc::Receiver<Ask>) -> Self {
        Self { from: Source::Somebody(somebody), held: None }
    }

    /// Receives them from now on. Before anything listens: what a signal does by default is to kill, and with the process
    /// goes whatever the kernel has accepted for it.
    ///
    /// # Errors
    /// Why they cannot be received.
    pub fn new() -> std::io::Result<Self> {
        let from = Source::Process {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            means: Ask::Reload,
        };
        Ok(Self { from, held: None })
    }

    /// The same, for what belongs to a terminal and leaves with it: SIGHUP says that it is gone.
    ///
    /// # Errors
    /// Why they cannot be received.
    pub fn of_terminal() -> std::io::Result<Self> {
        let mut all = Self::new()?;
        if let Source::Process { means, .. } = &mut all.from {
            *means = Ask::Leave;
        }
        Ok(all)
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
        match &mut self.from {
            Source::Process { terminate, interrupt, hangup, means } => tokio::select! {
                _ = terminate.recv() => Ask::Terminate,
                _ = interrupt.recv() => Ask::Leave,
                _ = hangup.recv() => *means,
            },
            // Whoever is gone says nothing any more.
            Source::Somebody(asked) => match asked.recv().await {
                Some(asked) => asked,
                None => std::future::pending().await,
            },
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
        Self::start_with(command, &[])
    }

    /// Starts it with variables besides those of this process.
    ///
    /// # Errors
    /// Why it cannot be started.
    pub fn start_with(command: &[std::ffi::OsString], variables: &[(String, String)]) -> std::io::Result<Self> {
        let Some((program, arguments)) = command.split_first() else {
            return Err(std::io::Error::other("no command"));
        };
        let variables = variables.iter().map(|(name, value)| (name, value));
        Ok(Self { child: Command::new(program).args(arguments).envs(variables).kill_on_drop(true).spawn()? })
    }

    /// Has it leave, and waits for that.
    pub async fn stop(&mut self) {
        self.signal(rustix::process::Signal::TERM);
        if tokio::time::timeout(PATIENCE, self.ended()).await.is_err() {
            self.signal(rustix::process::Signal::KILL);
            self.ended().await;
        }
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
    /// When it was asked for last, which may be long after: by the hook of a platform that grants time from then on.
    asked: Instant,
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
        let now = Instant::now();
        Self { began: now, asked: now, accepted_before: accepted(shared) }
    }

    /// It is asked for once more.
    pub fn again(&mut self) {
        self.asked = Instant::now();
    }

    /// Goes through the rest of it. Gives the exit code.
    pub async fn finish(
        self,
        shared: &Arc<Shared>,
        mut sockets: Sockets,
        mut app: Option<App>,
        (mut signals, asked): (Signals, mpsc::Receiver<Ask>),
        (manner, leaving): (Manner, Leaving),
        mut exit: u8,
    ) -> u8 {
        let mut hurry = Hurry { asked: Some(asked) };
        let (min, deadline) = {
            let snapshot = &shared.store.load().snapshot;
            // The time of grace counts from the goodbye, which may be long ago; the limit from when weir is told to leave.
            (snapshot.drain_min, leaving.deadline(self.asked, Instant::now(), snapshot.drain_deadline))
        };
        let going = async {
            if manner.patient {
                let rest = (self.began + min).saturating_duration_since(Instant::now()).min(left(deadline));
                if let Some(code) = stay(rest, &mut app, &mut hurry).await {
                    exit = code;
                    app = None;
                }
            }
            // Callers first: an app that is told to leave may refuse what still comes in. It needs time of its own after that.
            let limit = if app.is_some() { left(deadline) / 2 } else { left(deadline) };
            let mut drained = inbound(shared, &mut sockets, limit).await;
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
            } else if manner.wait {
                tokio::select! {
                    () = neighbours::gone() => {}
                    () = hurry.told() => tracing::info!("told that the app has left"),
                    () = tokio::time::sleep(before(deadline)) => {
                        tracing::warn!("the app has not left; what it calls from now on is refused");
                    }
                }
            }
            // While a copy is open here, the kernel would go on accepting for workers that do not.
            drop(sockets);
            drained += outbound(shared, left(deadline)).await;
            (exit, drained)
        };
        tokio::select! {
            (exit, Drained { cut, longest }) = going => {
                let accepted = accepted(shared).saturating_sub(self.accepted_before);
                let took = self.began.elapsed();
                if cut > 0 {
                    tracing::warn!(accepted, cut, ?longest, ?took, "drained; connections were cut at the deadline");
                } else {
                    tracing::info!(accepted, cut, ?longest, ?took, "drained");
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

/// Whether weir, which leaves already, has been told that nobody need be waited for.
struct Hurry {
    /// Where that is said; `None` once it was.
    asked: Option<mpsc::Receiver<Ask>>,
}

impl Hurry {
    /// Waits for that word; at once if it was said already.
    async fn told(&mut self) {
        let Some(asked) = &mut self.asked else { return };
        loop {
            match asked.recv().await {
                Some(Ask::Leave) => break self.asked = None,
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }
}

/// Waits until callers have had their time, or nobody need be waited for; gives the app's exit code if it leaves by itself
/// meanwhile.
async fn stay(rest: Duration, app: &mut Option<App>, hurry: &mut Hurry) -> Option<u8> {
    let gone = async {
        match app {
            Some(app) => app.ended().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        code = gone => Some(code),
        () = hurry.told() => None,
        () = tokio::time::sleep(rest) => None,
    }
}

/// The app is killed this long before the deadline, so that what was in flight can still be ended in order.
const LAST_MOMENT: Duration = Duration::from_secs(2);

fn before(deadline: Instant) -> Duration {
    left(deadline).saturating_sub(LAST_MOMENT)
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Lets what calls the app finish.
async fn inbound(shared: &Arc<Shared>, sockets: &mut Sockets, limit: Duration) -> Drained {
    let names: Vec<Box<str>> = {
        let snapshot = &shared.store.load().snapshot;
        let inbound = snapshot.listeners.iter().filter(|listener| listener.is_inbound());
        inbound.map(|listener| listener.name.clone()).collect()
    };
    if names.is_empty() {
        return Drained::default();
    }
    sockets.close(&names);
    let mut drained = Drained::default();
    let mut waits = Vec::new();
    for mailbox in &shared.mailboxes {
        let (done, finished) = oneshot::channel();
        let _ = mailbox.send(Message::Finish { listeners: names.clone(), limit, done }).await;
        waits.push(finished);
    }
    for finished in waits {
        drained += finished.await.unwrap_or_default();
    }
    drained
}

/// Lets everything finish, and the workers end.
async fn outbound(shared: &Arc<Shared>, limit: Duration) -> Drained {
    let mut drained = Drained::default();
    let mut waits = Vec::new();
    for mailbox in &shared.mailboxes {
        let (done, finished) = oneshot::channel();
        let _ = mailbox.send(Message::Drain(limit, done)).await;
        waits.push(finished);
    }
    for finished in waits {
        drained += finished.await.unwrap_or_default();
    }
    drained
}

/// Connections accepted so far.
fn accepted(shared: &Shared) -> u64 {
    let mut sum = 0;
    shared.metrics.listeners.visit(|_, shards| sum += shards.iter().map(|shard| shard.accepted.get()).sum::<u64>());
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weir_is_gone_before_it_is_killed() {
        let began = Instant::now();
        let now = began + Duration::from_secs(2);
        let deadline = |grace: Option<u64>| {
            let leaving = Leaving { grace: grace.map(Duration::from_secs), ..Leaving::default() };
            leaving.deadline(began, now, Duration::from_secs(25)).duration_since(began).as_secs()
        };
        assert_eq!(deadline(None), 27);
        assert_eq!(deadline(Some(30)), 25);
        assert_eq!(deadline(Some(120)), 115);
        assert_eq!(deadline(Some(5)), 4);
        // The hook took all of it.
        assert_eq!(deadline(Some(1)), 3);
        assert_eq!(deadline(Some(0)), 3);
        // A goodbye of long ago was nobody's hook.
        let now = began + Duration::from_secs(600);
        let leaving = Leaving { grace: Some(Duration::from_secs(30)), ..Leaving::default() };
        assert_eq!(leaving.deadline(began, now, Duration::from_secs(25)).duration_since(now).as_secs(), 25);
        assert_eq!(deadline(Some(u64::MAX)), 27);
    }
}
