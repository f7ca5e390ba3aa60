//! The answer: facts, each with its source.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::error::Step;
use crate::yaml::Node;

/// Where a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// A line of the file.
    Line(u64),
    /// Nothing says otherwise.
    Default,
    /// It follows from the rest.
    Derived,
}

/// One thing worth knowing.
#[derive(Debug, Clone)]
pub(super) struct Fact {
    section: &'static str,
    name: String,
    value: String,
    source: Source,
}

/// The answer.
#[derive(Debug, Clone, Default)]
pub struct Explanation {
    facts: Vec<Fact>,
}

impl Explanation {
    pub(super) fn add(&mut self, section: &'static str, name: impl Into<String>, value: impl Into<String>, source: Source) {
        self.facts.push(Fact { section, name: name.into(), value: value.into(), source });
    }

    /// For people; `file` is what lines are of.
    pub fn text(&self, file: &str) -> String {
        let width = self.facts.iter().map(|fact| fact.name.chars().count()).max().unwrap_or(0);
        let (mut out, mut section) = (String::new(), "");
        for fact in &self.facts {
            if fact.section != section {
                section = fact.section;
                let _ = writeln!(out, "{}{section}", if out.is_empty() { "" } else { "\n" });
            }
            let source = match fact.source {
                Source::Line(line) => format!("  ({file}:{line})"),
                Source::Default => "  (default)".to_owned(),
                Source::Derived => String::new(),
            };
            let _ = writeln!(out, "  {:width$}  {}{source}", fact.name, fact.value);
        }
        out
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let facts = self.facts.iter().map(|fact| {
            let source = match fact.source {
                Source::Line(line) => json!({ "line": line }),
                Source::Default => json!("default"),
                Source::Derived => Value::Null,
            };
            json!({ "section": fact.section, "name": fact.name, "value": fact.value, "source": source })
        });
        json!({ "facts": facts.collect::<Vec<_>>() })
    }

    /// The value of a fact, for tests and programs in this process.
    pub fn value(&self, section: &str, name: &str) -> Option<&str> {
        self.facts.iter().find(|fact| fact.section == section && fact.name == name).map(|fact| fact.value.as_str())
    }
}

/// Looks lines up.
pub(super) struct Lines(pub(super) Option<Node>);

impl Lines {
    pub(super) fn at(&self, steps: &[Step]) -> Source {
        match self.0.as_ref().and_then(|tree| tree.find(steps, matches!(steps.last(), Some(Step::Key(_))))) {
            Some((line, _)) => Source::Line(line),
            None => Source::Default,
        }
    }

    /// The line of a key below `steps`, if the file has it.
    pub(super) fn below(&self, steps: &[Step], keys: &[&str]) -> Source {
        let mut path = steps.to_vec();
        path.extend(keys.iter().map(|key| Step::Key((*key).to_owned())));
        let exists = self.0.as_ref().is_some_and(|tree| tree.has(&path));
        if exists { self.at(&path) } else { Source::Default }
    }
}

pub(super) fn steps(parts: &[&dyn AsStep]) -> Vec<Step> {
    parts.iter().map(|part| part.step()).collect()
}

pub(super) trait AsStep {
    fn step(&self) -> Step;
}

impl AsStep for &str {
    fn step(&self) -> Step {
        Step::Key((*self).to_owned())
    }
}

impl AsStep for usize {
    fn step(&self) -> Step {
        Step::Index(*self)
    }
}
