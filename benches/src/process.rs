//! Programs under test: started on their own cores, watched through the kernel's accounts, ended by their pid.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Which cores belong to whom: the proxy gets one for itself, everything else shares the others.
#[derive(Debug, Clone)]
pub struct Cores {
    proxy: usize,
    rest: Vec<usize>,
}

impl Cores {
    /// Divides the cores that this process may use.
    ///
    /// # Errors
    /// There are fewer than two: proxy and load would take CPU from each other, and nothing would mean anything.
    pub fn divide() -> Result<Self> {
        let allowed = sched_getaffinity(None)?;
        let mut cores = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core));
        let (Some(proxy), rest) = (cores.next(), cores.collect::<Vec<_>>()) else { bail!("no core may be used") };
        if rest.is_empty() {
            bail!("two cores are needed, one for the proxy and one for the load and the origin; this machine gives one");
        }
        Ok(Self { proxy, rest })
    }

    /// Keeps the calling thread, and what it starts, off the proxy's core.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn keep_off(&self) -> Result<()> {
        pin(&self.rest)
    }

    /// As the report says it.
    pub fn describe(&self) -> String {
        let rest: Vec<String> = self.rest.iter().map(ToString::to_string).collect();
        format!("core {} for the proxy, {} for the load and the origin", self.proxy, rest.join(", "))
    }
}

fn pin(cores: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    sched_setaffinity(None, &set).context("cannot choose cores")
}

/// Where a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Alone on the proxy's core.
    Proxy,
    /// With the load.
    Rest,
}

/// A running program and what it started. Ends with the value.
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts a program; what it says goes to a file in `dir`.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(name: &str, command: &mut Command, cores: &Cores, place: Place, dir: &Path) -> Result<Self> {
        let log = File::options().create(true).append(true).open(dir.join(format!("{name}.log")))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A child has the cores of the thread that starts it.
        if place == Place::Proxy {
            pin(&[cores.proxy])?;
        }
        let child = command.spawn().with_context(|| format!("{name} does not start"));
        cores.keep_off()?;
        Ok(Self { child: child?, name: name.to_owned() })
    }

    /// Whether it has ended, and how.
    ///
    /// # Errors
    /// It has.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended: {status}", self.name),
            None => Ok(()),
        }
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?).context("no process")?;
        kill_process(pid, signal).with_context(|| format!("{} has ended", self.name))
    }

    /// CPU that its processes took so far, user and system, by the scheduler's account.
    pub fn cpu(&self) -> Duration {
        let mut nanoseconds = 0;
        for pid in tree(self.child.id()) {
            for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
                let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
                nanoseconds += text.split(' ').next().and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
            }
        }
        Duration::from_nanos(nanoseconds)
    }

    /// Resident memory of its processes in bytes: now, and the most there was.
    pub fn memory(&self) -> Memory {
        let mut memory = Memory::default();
        for pid in tree(self.child.id()) {
            let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let field = |name: &str| {
                let line = text.lines().find_map(|line| line.strip_prefix(name));
                line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
            };
            memory.now += field("VmRSS:");
            memory.peak += field("VmHWM:");
        }
        memory
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let all = tree(self.child.id());
        // Whoever drains at the first signal ends at the second, and in good order: what a program writes at its exit,
        // such as a profile, is written.
        for _ in 0..4 {
            let _ = self.signal(Signal::TERM);
            let until = Instant::now() + Duration::from_millis(500);
            while Instant::now() < until {
                if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        // Only what was started here, and is still what it was.
        for pid in all.iter().filter_map(|pid| Pid::from_raw(i32::try_from(*pid).ok()?)) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// Resident memory in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// Now.
    pub now: u64,
    /// The most there was.
    pub peak: u64,
}

/// A process and all that came from it.
fn tree(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
    }
    found
}
