//! What a run found, in a form that outlives it: JSON, and from that the table and the page.

pub mod page;
pub mod plots;
pub mod table;

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::figures::{Metric, Ratio, Round, Summary};
use crate::scenario::Scenario;

/// Everything that a run found.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// When, in UTC.
    pub date: String,
    /// On what.
    pub machine: Vec<(String, String)>,
    /// Who took part, and in which version.
    pub versions: Vec<(String, String)>,
    /// Who was asked for and is not installed.
    pub missing: Vec<String>,
    /// How thorough it was.
    pub effort: String,
    /// The origin's configuration.
    pub origin: String,
    /// The scenarios.
    pub outcomes: Vec<Outcome>,
}

/// What a scenario found.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// The scenario.
    pub name: String,
    /// In one line.
    pub about: String,
    /// What it is about above all.
    pub main: Metric,
    /// Who did what.
    pub rows: Vec<Row>,
    /// What weir promises, and whether it held.
    pub verdicts: Vec<Verdict>,
}

/// One contestant's figures.
#[derive(Debug, Serialize, Deserialize)]
pub struct Row {
    /// As the tables call it.
    pub label: String,
    /// The contestant.
    pub name: String,
    /// Whether it is a weir.
    pub is_weir: bool,
    /// Its configuration.
    pub config: String,
    /// Its figures, round by round.
    pub rounds: Vec<Round>,
    /// Why it has none, or no more.
    pub failed: Option<String>,
}

/// Whether a promise held.
#[derive(Debug, Serialize, Deserialize)]
pub struct Verdict {
    /// The promise.
    pub promise: String,
    /// What was found.
    pub found: String,
    /// Whether it held; `None` if that cannot be said.
    pub held: Option<bool>,
}

impl Row {
    /// A figure of it.
    pub fn summary(&self, metric: Metric) -> Option<Summary> {
        Summary::of(self.rounds.iter().filter_map(|round| round.get(&metric).copied()))
    }
}

impl Outcome {
    /// Judges what was found.
    pub fn new(scenario: &Scenario, rows: Vec<Row>) -> Self {
        let (name, about, main) = (scenario.name.to_owned(), scenario.about.to_owned(), scenario.work.main_metric());
        let mut outcome = Self { name, about, main, rows, verdicts: Vec::new() };
        outcome.verdicts = scenario.promises.iter().filter_map(|promise| outcome.judge(promise)).collect();
        outcome
    }

    /// The weir that others are compared with.
    pub fn weir(&self) -> Option<&Row> {
        self.rows.iter().find(|row| row.is_weir)
    }

    /// The metrics that anybody has, in the order of the columns: the main one first.
    pub fn metrics(&self) -> Vec<Metric> {
        let mut metrics: Vec<Metric> =
            self.rows.iter().flat_map(|row| row.rounds.iter()).flat_map(|round| round.keys().copied()).collect();
        metrics.sort_unstable_by_key(|metric| (*metric != self.main, *metric));
        metrics.dedup();
        metrics
    }

    /// The metric that the scenario is about, if anybody has it.
    pub fn main_metric(&self) -> Option<Metric> {
        self.metrics().contains(&self.main).then_some(self.main)
    }

    /// How the first weir compares with a row.
    pub fn ratio(&self, row: &Row, metric: Metric) -> Ratio {
        match self.weir() {
            Some(weir) if !std::ptr::eq(weir, row) => Ratio::between(&weir.rounds, &row.rounds, metric),
            _ => Ratio::Nothing,
        }
    }

    fn judge(&self, promise: &crate::scenario::Promise) -> Option<Verdict> {
        let first = self.weir()?;
        let title = promise.metric.title();
        if promise.against.is_empty() {
            let found = first.summary(promise.metric);
            let digits = promise.metric.digits().max(1);
            let broken = |round: &Round| round.get(&promise.metric).is_some_and(|value| *value > promise.limit);
            // Not one error may be; of the rest the median counts.
            let held = match promise.metric {
                Metric::Errors => found.map(|_| !first.rounds.iter().any(broken)),
                _ => found.map(|found| found.median <= promise.limit),
            };
            let found = match (promise.metric, found) {
                (Metric::Errors, Some(found)) => format!("{:.0}", found.most),
                (_, found) => found.map_or("nothing".to_owned(), |found| format!("{:.digits$}", found.median)),
            };
            return Some(Verdict { promise: format!("{title} at most {}", promise.limit), found, held });
        }
        let (subject, others): (&Row, Vec<&Row>) = match promise.against {
            ["itself"] => (self.rows.iter().rfind(|row| row.name == first.name)?, vec![first]),
            names => (first, self.rows.iter().filter(|row| names.contains(&row.name.as_str())).collect()),
        };
        let whom = if promise.against.len() > 1 {
            format!("the better of {}", promise.against.join(" and "))
        } else {
            promise.against.join("")
        };
        let found = best(subject, &others, promise.metric);
        let held = found.is_at_most(promise.limit);
        Some(Verdict { promise: format!("{title} at most {}x {whom}", promise.limit), found: found.text(), held })
    }
}

/// The ratio to the best of them.
fn best(subject: &Row, others: &[&Row], metric: Metric) -> Ratio {
    let by_median = |row: &&&Row| row.summary(metric).map_or(f64::INFINITY, |summary| summary.median);
    let best = others.iter().min_by(|one, other| by_median(one).total_cmp(&by_median(other)));
    best.map_or(Ratio::Nothing, |best| Ratio::between(&subject.rounds, &best.rounds, metric))
}

impl Report {
    /// Writes the data and the page; gives nothing back.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir)?;
        std::fs::write(dir.join("report.json"), serde_json::to_string_pretty(self)?)?;
        std::fs::write(dir.join("report.html"), page::render(self)?).context("the report cannot be written")
    }

    /// Reads one back.
    ///
    /// # Errors
    /// It is not there, or is none.
    pub fn read(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is not a report of weir-bench", file.display()))
    }
}
