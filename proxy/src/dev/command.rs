//! The apps of one run: commands of a shell, whose output is told apart by their names.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::{Instant, timeout_at};

use super::guard::Guard;
use super::out::Out;

/// How long an app may take to leave, and after which of it that is said.
const PATIENCE: Duration = Duration::from_secs(5);
const UNNOTICED: Duration = Duration::from_secs(1);

const LONGEST_LINE: u64 = 16 << 10;

/// An app that runs, in a process group of its own: what it started leaves with it. Dropped, all of it is killed.
pub(super) struct Running {
    pub(super) line: Line,
    group: Option<Arc<Group>>,
    gone: mpsc::Receiver<()>,
    out: Out,
    /// Whether it was told to leave.
    told: Arc<AtomicBool>,
}

/// What starts an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) run: String,
    pub(super) dir: std::path::PathBuf,
    pub(super) env: Vec<(String, String)>,
}

impl Running {
    /// Starts one. How it ended is sent to `ended`.
    pub(super) fn start(line: Line, ended: mpsc::Sender<(String, String)>, guard: &Guard, out: &Out) -> anyhow::Result<Self> {
        let mut child = Command::new("sh")
            .args(["-c", &line.run])
            .current_dir(&line.dir)
            .envs(line.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{}: `{}` cannot be started in {}", line.name, line.run, line.dir.display()))?;
        if let Some(from) = child.stdout.take() {
            tokio::spawn(relay(line.name.clone(), from, out.clone()));
        }
        if let Some(from) = child.stderr.take() {
            tokio::spawn(relay(line.name.clone(), from, out.clone()));
        }
        let number = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let group = number.map(|number| Arc::new(Group::new(number, guard)));
        let (done, gone) = mpsc::channel(1);
        let told = Arc::new(AtomicBool::new(false));
        let ended = Ended { to: ended, unless: Arc::clone(&told) };
        tokio::spawn(wait(line.name.clone(), child, group.clone(), ended, done));
        Ok(Self { line, group, gone, out: out.clone(), told })
    }

    /// Whether it has ended by itself.
    pub(super) fn has_ended(&mut self) -> bool {
        matches!(self.gone.try_recv(), Err(TryRecvError::Disconnected))
    }

    /// Has it and all that it started leave.
    pub(super) fn tell_to_leave(&self) {
        self.told.store(true, Ordering::Relaxed);
        self.signal(Signal::TERM);
    }

    /// Waits until it has left since it was told to at a moment; whoever does not leave is killed.
    pub(super) async fn left(&mut self, told: Instant) {
        if timeout_at(told + UNNOTICED, self.gone.recv()).await.is_ok() {
            return;
        }
        self.out.say(format!("waiting for {} to leave; it is killed after {PATIENCE:?}", self.line.name));
        if timeout_at(told + PATIENCE, self.gone.recv()).await.is_err() {
            self.out.say(format!("{} does not leave; it is killed", self.line.name));
            self.signal(Signal::KILL);
            self.gone.recv().await;
        }
    }

    /// Has it leave, and waits for it.
    pub(super) async fn stop(mut self) {
        self.tell_to_leave();
        self.left(Instant::now()).await;
    }

    /// Kills it, and gives the kernel a moment to take it apart.
    pub(super) async fn kill(&mut self) {
        self.told.store(true, Ordering::Relaxed);
        self.signal(Signal::KILL);
        let _ = timeout_at(Instant::now() + UNNOTICED, self.gone.recv()).await;
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = &self.group {
            group.signal(signal);
        }
    }
}

impl Drop for Running {
    /// What it started and left behind goes too.
    fn drop(&mut self) {
        self.told.store(true, Ordering::Relaxed);
        if let Some(group) = &self.group {
            group.signal(Signal::KILL);
            group.forget();
        }
    }
}

/// The process group of an app, until nobody is in it any more: its number may then be somebody else's.
struct Group {
    number: Pid,
    guard: Guard,
    is_gone: AtomicBool,
}

impl Group {
    fn new(number: Pid, guard: &Guard) -> Self {
        guard.add(number);
        Self { number, guard: guard.clone(), is_gone: AtomicBool::new(false) }
    }

    fn signal(&self, signal: Signal) {
        if !self.is_gone.load(Ordering::Relaxed) {
            // Whoever has left already needs no telling.
            let _ = kill_process_group(self.number, signal);
        }
    }

    /// Who began it has ended: it may have left others behind.
    fn look(&self) {
        if test_kill_process_group(self.number).is_err() {
            self.forget();
        }
    }

    fn forget(&self) {
        if !self.is_gone.swap(true, Ordering::Relaxed) {
            self.guard.remove(self.number);
        }
    }
}

/// Where it is said that an app has ended by itself.
struct Ended {
    to: mpsc::Sender<(String, String)>,
    unless: Arc<AtomicBool>,
}

async fn wait(name: String, mut child: Child, group: Option<Arc<Group>>, ended: Ended, done: mpsc::Sender<()>) {
    let how = match child.wait().await {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    if let Some(group) = group {
        group.look();
    }
    drop(done);
    if !ended.unless.load(Ordering::Relaxed) {
        let _ = ended.to.send((name, how)).await;
    }
}

/// Prints what an app says, a line at a time.
async fn relay(name: String, from: impl AsyncRead + Unpin, out: Out) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    // What has no end is shown in pieces.
    while let Ok(1..) = (&mut from).take(LONGEST_LINE).read_until(b'\n', &mut line).await {
        out.relay(format!("{name} | {}", String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']))).await;
        line.clear();
    }
}

/// Where a command is started.
pub(super) fn place(file: &Path, dir: Option<&str>) -> std::path::PathBuf {
    let base = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    dir.map_or_else(|| base.to_owned(), |dir| base.join(dir))
}
