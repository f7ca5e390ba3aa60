//! A run: every scenario, round by round, everybody in each round.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};

use crate::contestant::{Contestant, Kind, Running, Task, names};
use crate::figures::{Metric, Round};
use crate::measure;
use crate::origin::Origin;
use crate::process::{Cores, Memory};
use crate::report::{Outcome, Row};
use crate::scenario::{Scenario, Work};

/// How thorough a run is.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Rounds of each scenario.
    pub rounds: usize,
    /// How long a round of one contestant lasts.
    pub time: Duration,
    /// How long each is warmed up.
    pub warm_up: Duration,
}

/// One that takes part in a scenario.
struct Entry {
    who: Contestant,
    task: Task,
    label: String,
    running: Option<Running>,
    idle: Option<Memory>,
    config: String,
    rounds: Vec<Round>,
    /// Why it has no figures.
    failed: Option<String>,
}

/// Runs scenarios one after the other.
pub struct Run<'a> {
    /// Who takes part.
    pub contestants: &'a [Contestant],
    /// How thorough it is.
    pub effort: Effort,
    /// Who has which core.
    pub cores: &'a Cores,
    /// Where files go.
    pub dir: &'a Path,
    /// How far it is.
    pub bar: &'a ProgressBar,
}

/// A bar for so many steps; nothing where there is no terminal.
pub fn bar(steps: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{elapsed_precise} [{wide_bar}] {pos}/{len}, {eta} left  {msg}");
    ProgressBar::new(steps as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

impl Run<'_> {
    /// How many steps of the bar a scenario takes.
    pub fn steps(&self, scenario: &Scenario) -> usize {
        self.takes_part(scenario).count() * scenario.hosts.len() * (scenario.rounds(self.effort.rounds) + 1)
    }

    fn takes_part(&self, scenario: &Scenario) -> impl Iterator<Item = &Contestant> {
        let by_itself = matches!(scenario.work, Work::Idle { .. } | Work::Start | Work::Burst { .. } | Work::Soak);
        let shape = scenario.shape;
        self.contestants.iter().filter(move |who| who.can(shape) && !(by_itself && who.kind == Kind::Direct))
    }

    /// Runs one scenario.
    ///
    /// # Errors
    /// The origin or the load fails. A contestant that fails is left out, and the outcome says why.
    pub fn scenario(&self, scenario: &Scenario) -> Result<Outcome> {
        let dir = self.dir.join(scenario.name);
        std::fs::create_dir_all(&dir)?;
        let origin = Origin::start(scenario.origin, self.cores, &dir)?;
        let reloads = matches!(scenario.work, Work::Reload { .. });
        let mut entries = Vec::new();
        for who in self.takes_part(scenario) {
            for hosts in scenario.hosts {
                let label = match scenario.hosts {
                    [_] => who.name.clone(),
                    _ if *hosts == 0 => format!("{}, 1 route", who.name),
                    _ => format!("{}, {hosts} routes", who.name),
                };
                let task = Task { shape: scenario.shape, names: names(*hosts), origin: origin.ports, reloads };
                let (running, idle, config, rounds, failed) = (None, None, String::new(), Vec::new(), None);
                entries.push(Entry { who: who.clone(), task, label, running, idle, config, rounds, failed });
            }
        }
        let lasting = !matches!(scenario.work, Work::Start | Work::Idle { .. } | Work::Burst { .. } | Work::Soak);
        for entry in entries.iter_mut().filter(|_| lasting) {
            self.bar.set_message(format!("{}: {} starts", scenario.name, entry.label));
            entry.failed = self.start(entry, &dir).err().map(|error| format!("{error:#}"));
        }
        if lasting {
            std::thread::sleep(measure::SETTLING);
        }
        for entry in &mut entries {
            self.bar.set_message(format!("{}: {} warms up", scenario.name, entry.label));
            if let Err(error) = self.warm_up(entry, scenario, &dir) {
                entry.failed = Some(format!("{error:#}"));
                entry.running = None;
            }
            self.bar.inc(1);
        }
        for number in 0..scenario.rounds(self.effort.rounds) {
            // Nobody is always first, or always behind the same neighbour's mess.
            let count = entries.len().max(1);
            for place in 0..entries.len() {
                let entry = &mut entries[(place + number) % count];
                self.bar.set_message(format!("{}: round {}, {}", scenario.name, number + 1, entry.label));
                if entry.failed.is_none() {
                    match self.round(entry, scenario, &dir) {
                        Ok(round) => entry.rounds.push(round),
                        Err(error) => entry.failed = Some(format!("{error:#}")),
                    }
                }
                self.bar.inc(1);
            }
            if matches!(scenario.work, Work::Burst { .. }) {
                self.bar.set_message("burst: waiting for memory to be given back");
                std::thread::sleep(measure::REST);
                for entry in &mut entries {
                    if let (Some(round), Some(running)) = (entry.rounds.last_mut(), &entry.running) {
                        measure::rested(round, running);
                    }
                }
            }
            add_to_direct(&mut entries);
        }
        Ok(Outcome::new(scenario, entries.into_iter().map(Row::from).collect()))
    }

    fn start(&self, entry: &mut Entry, dir: &Path) -> Result<()> {
        let running = Running::start(&entry.who, &entry.task, self.cores, dir)?;
        entry.config.clone_from(&running.config);
        entry.running = Some(running);
        Ok(())
    }

    /// Looks at the memory of one that runs and has nothing to do, then gives it something to do.
    fn warm_up(&self, entry: &mut Entry, scenario: &Scenario, dir: &Path) -> Result<()> {
        let Some(running) = &entry.running else { return Ok(()) };
        entry.idle = running.memory();
        measure::round(running, scenario.work.warm_up(), self.effort.warm_up, dir).context("while warming up")?;
        Ok(())
    }

    fn round(&self, entry: &mut Entry, scenario: &Scenario, dir: &Path) -> Result<Round> {
        let time = scenario.time(self.effort.time);
        match scenario.work {
            Work::Start => measure::start(&entry.who, &entry.task, self.cores, dir),
            Work::Idle { .. } | Work::Burst { .. } | Work::Soak => {
                entry.running = None;
                let running = Running::start(&entry.who, &entry.task, self.cores, dir)?;
                entry.config.clone_from(&running.config);
                let round = match scenario.work {
                    Work::Idle { connections } => measure::idle(&running, connections)?,
                    Work::Burst { connections } => measure::burst(&running, connections)?,
                    _ => measure::soak(&running, dir)?,
                };
                // The memory of one that had a burst is looked at later.
                entry.running = matches!(scenario.work, Work::Burst { .. }).then_some(running);
                Ok(round)
            }
            work => {
                let Some(running) = &mut entry.running else { anyhow::bail!("not started") };
                running.check()?;
                let mut round = measure::round(running, work, time, dir)?;
                measure::memory(&mut round, entry.idle, running);
                Ok(round)
            }
        }
    }
}

/// What each adds to the latency of the origin alone, in the same round.
fn add_to_direct(entries: &mut [Entry]) {
    let Some(direct) = entries.iter().find(|entry| entry.who.kind == Kind::Direct).and_then(|entry| entry.rounds.last()) else {
        return;
    };
    let (p50, p99) = (direct.get(&Metric::P50).copied(), direct.get(&Metric::P99).copied());
    for entry in entries.iter_mut().filter(|entry| entry.who.kind != Kind::Direct) {
        let Some(round) = entry.rounds.last_mut() else { continue };
        for (added, of, direct) in [(Metric::Added50, Metric::P50, p50), (Metric::Added99, Metric::P99, p99)] {
            if let (Some(own), Some(direct)) = (round.get(&of).copied(), direct) {
                round.insert(added, own - direct);
            }
        }
    }
}

impl From<Entry> for Row {
    fn from(entry: Entry) -> Self {
        Self {
            label: entry.label,
            name: entry.who.name,
            is_weir: entry.who.kind == Kind::Weir,
            config: entry.config,
            rounds: entry.rounds,
            failed: entry.failed,
        }
    }
}
