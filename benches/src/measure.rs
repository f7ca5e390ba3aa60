//! One round of one contestant: the load, and the kernel's accounts before and after it.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;

use crate::contestant::{Contestant, Running, Task};
use crate::figures::{Metric, Round};
use crate::load::{self, Found, own};
use crate::process::{Cores, Memory};
use crate::scenario::{Request, Work};

/// Connections of a load at a fixed rate: enough that none is waited for.
const CONNECTIONS: usize = 64;
/// Who has just started is not idle yet: what only the start needs may be there still.
pub const SETTLING: Duration = Duration::from_secs(1);
/// How often the routes change.
const RELOADS: Duration = Duration::from_millis(500);
/// How long a proxy has to take the last of them.
const MAX_RELOAD: Duration = Duration::from_secs(5);
/// How long memory is given to be given back.
pub const REST: Duration = Duration::from_secs(30);
/// How long a soak lasts, and when its memory is looked at first.
const SOAK: (Duration, Duration) = (Duration::from_secs(20 * 60), Duration::from_secs(2 * 60));

/// Sends the load of a round through a contestant that runs.
///
/// # Errors
/// The load cannot be sent.
pub fn round(running: &Running, work: Work, time: Duration, dir: &Path) -> Result<Round> {
    let seconds = u32::try_from(time.as_secs().max(1))?;
    let port = running.port;
    let before = running.cpu();
    let mut round = Round::new();
    match work {
        Work::Wrk { request, connections, fresh } => {
            let found = load::wrk::run(port, request.ask(), connections, seconds, fresh, dir)?;
            requests(&mut round, running, &found, before);
        }
        Work::H2load { connections, streams, grpc } => {
            let found = load::h2load::run(port, Request::Small.ask(), (connections, streams), seconds, grpc, dir)?;
            requests(&mut round, running, &found, before);
        }
        Work::Bodies { request, connections } => {
            let found = own::run(own::Plan { port, ask: request.ask(), rate: None, connections, time })?;
            let gigabytes = real(found.answered) * real(request.bytes() as u64) / 1e9;
            volume(&mut round, running, gigabytes, found.seconds, before);
            round.insert(Metric::Errors, real(found.errors));
        }
        Work::Fixed { rate } => {
            let found =
                own::run(own::Plan { port, ask: Request::Small.ask(), rate: Some(rate), connections: CONNECTIONS, time })?;
            requests(&mut round, running, &found, before);
        }
        Work::Stream => {
            let began = Instant::now();
            let bytes = load::bulk::stream(port, 1, time)?;
            volume(&mut round, running, real(bytes) / 1e9, began.elapsed().as_secs_f64(), before);
        }
        Work::Exchange => {
            let found = load::bulk::exchange(port, 16, time)?;
            requests(&mut round, running, &found, before);
        }
        Work::Reload { rate } => {
            let plan = own::Plan { port, ask: Request::Small.ask(), rate: Some(rate), connections: CONNECTIONS, time };
            let sender = std::thread::spawn(move || own::run(plan));
            let reloaded = reload_until(running, || sender.is_finished());
            // The load ends by itself; nothing else is measured meanwhile.
            let found = sender.join().unwrap_or_else(|_| anyhow::bail!("the load failed"))?;
            reloaded?;
            latencies(&mut round, &found);
        }
        Work::Idle { .. } | Work::Start | Work::Burst { .. } | Work::Soak => {}
    }
    Ok(round)
}

/// New routes twice a second, until it is over. The last ones must serve soon after.
fn reload_until(running: &Running, is_over: impl Fn() -> bool) -> Result<()> {
    // Versions of one run differ from those of the one before it.
    let run = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let mut number = 0;
    let mut version = String::new();
    while !is_over() {
        std::thread::sleep(RELOADS);
        number += 1;
        version = format!("v{run}-{number}");
        running.reload(&version)?;
    }
    let until = Instant::now() + MAX_RELOAD;
    while running.cpu().is_some() && load::probe::header(running.port, "x-version").as_deref() != Some(&*version) {
        anyhow::ensure!(Instant::now() < until, "it has not taken the routes of {version} within {MAX_RELOAD:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn latencies(round: &mut Round, found: &Found) {
    round.insert(Metric::Rate, real(found.answered) / found.seconds);
    round.insert(Metric::Errors, real(found.errors));
    for (metric, percent) in [(Metric::P50, 50.0), (Metric::P90, 90.0), (Metric::P99, 99.0), (Metric::P999, 99.9)] {
        if let Some(latency) = found.percentile(percent) {
            round.insert(metric, latency);
        }
    }
}

fn requests(round: &mut Round, running: &Running, found: &Found, before: Option<Duration>) {
    latencies(round, found);
    if let (Some(before), Some(after)) = (before, running.cpu()) {
        round.insert(Metric::CpuPerRequest, (after - before).as_secs_f64() * 1e6 / real(found.answered.max(1)));
    }
}

fn volume(round: &mut Round, running: &Running, gigabytes: f64, seconds: f64, before: Option<Duration>) {
    round.insert(Metric::Throughput, gigabytes / seconds);
    if let (Some(before), Some(after)) = (before, running.cpu()) {
        round.insert(Metric::CpuPerGb, (after - before).as_secs_f64() / gigabytes);
    }
}

/// Adds what the processes took of memory.
pub fn memory(round: &mut Round, idle: Option<Memory>, running: &Running) {
    if let (Some(idle), Some(memory)) = (idle, running.memory()) {
        round.insert(Metric::Idle, megabytes(idle.now));
        round.insert(Metric::Peak, megabytes(memory.peak));
    }
}

/// Starts a contestant again and again, and takes the time to its first answer.
///
/// # Errors
/// It does not start.
pub fn start(who: &Contestant, task: &Task, cores: &Cores, dir: &Path) -> Result<Round> {
    let mut times = Vec::new();
    for _ in 0..5 {
        let mut running = Running::prepare(who, task, dir)?;
        let began = Instant::now();
        running.launch(cores)?;
        let until = began + Duration::from_secs(10);
        while !load::probe::answers(running.port, task.shape) {
            anyhow::ensure!(Instant::now() < until, "{} does not answer", who.name);
            std::thread::sleep(Duration::from_micros(200));
        }
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    Ok(Round::from([(Metric::FirstAnswer, times[times.len() / 2])]))
}

/// Has connections wait, and takes what each costs in memory.
///
/// # Errors
/// They do not open.
pub fn idle(running: &Running, connections: usize) -> Result<Round> {
    load::idle::allow(connections as u64)?;
    std::thread::sleep(SETTLING);
    let Some(before) = running.memory() else { return Ok(Round::new()) };
    let held = load::idle::hold(running.port, connections)?;
    // A proxy may put things away when nothing has happened for a moment.
    std::thread::sleep(Duration::from_secs(3));
    let after = running.memory().unwrap_or_default();
    drop(held);
    let each = real(after.now.saturating_sub(before.now)) / 1024.0 / real(connections as u64);
    Ok(Round::from([(Metric::Idle, megabytes(before.now)), (Metric::PerConnection, each), (Metric::Peak, megabytes(after.peak))]))
}

/// Sends a burst of connections with large answers. What is left of its memory is [`rested`]'s.
///
/// # Errors
/// Connections cannot be opened.
pub fn burst(running: &Running, connections: usize) -> Result<Round> {
    load::idle::allow(connections as u64)?;
    std::thread::sleep(SETTLING);
    let Some(idle) = running.memory() else { return Ok(Round::new()) };
    let failed = load::idle::burst(running.port, Request::Get1m.ask(), connections)?;
    Ok(Round::from([
        (Metric::Idle, megabytes(idle.now)),
        (Metric::Peak, megabytes(running.memory().unwrap_or_default().peak)),
        (Metric::Errors, real(failed)),
    ]))
}

/// What memory is left.
pub fn rested(round: &mut Round, running: &Running) {
    let (Some(memory), Some(idle)) = (running.memory(), round.get(&Metric::Idle).copied()) else { return };
    let after = megabytes(memory.now);
    round.insert(Metric::After, after);
    round.insert(Metric::Kept, after / idle);
}

/// Runs for long at 70 % of what it can do.
///
/// # Errors
/// The load cannot be sent.
pub fn soak(running: &Running, dir: &Path) -> Result<Round> {
    let port = running.port;
    let ask = Request::Small.ask();
    let most = load::wrk::run(port, ask, 64, 3, false, dir)?;
    let rate = load::whole(real(most.answered) / most.seconds * 0.7);
    let (time, first) = SOAK;
    let plan = own::Plan { port, ask, rate: Some(u32::try_from(rate)?), connections: CONNECTIONS, time };
    let before = running.cpu();
    let sender = std::thread::spawn(move || own::run(plan));
    std::thread::sleep(first);
    let early = running.memory().unwrap_or_default();
    let found = sender.join().unwrap_or_else(|_| anyhow::bail!("the load failed"))?;
    let mut round = Round::new();
    requests(&mut round, running, &found, before);
    let late = running.memory().unwrap_or_default();
    round.insert(Metric::Growth, real(late.now) / real(early.now.max(1)));
    round.insert(Metric::Peak, megabytes(late.peak));
    Ok(round)
}

fn megabytes(bytes: u64) -> f64 {
    real(bytes) / 1024.0 / 1024.0
}

#[expect(clippy::cast_precision_loss, reason = "counts and sizes far below 2^53")]
fn real(number: u64) -> f64 {
    number as f64
}
