//! Mistakes in a configuration: what, where, and what to write instead.
//!
//! Decides how a mistake is described; not what a mistake is (that is `structure` and `compile`). Semantic checks know
//! a [`Path`] into the configuration, not a line: [`Diagnostics::locate`] resolves paths against the parsed tree, so
//! the typed configuration carries no positions and can also be built by a program.

use std::fmt;

use crate::yaml::Node;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Where in the text, 1-based line and column, when the text is known.
    pub position: Option<(u64, u64)>,
    /// Where in the structure, for example `routes[0].rules[1].backends[0].cluster`.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// What to write instead, when there is something to say.
    pub hint: Option<String>,
    steps: Vec<Step>,
    on_key: bool,
}

impl Diagnostic {
    /// A mistake at a known place in the text.
    pub fn at(position: Option<(u64, u64)>, path: &Path<'_>, message: impl Into<String>) -> Self {
        Self { position, path: path.to_string(), message: message.into(), hint: None, steps: Vec::new(), on_key: false }
    }

    /// Adds what to write instead.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Finds the place in another text that has the same structure there.
    pub fn relocate(&mut self, tree: &Node) {
        let steps = if self.steps.is_empty() { steps_of(&self.path) } else { self.steps.clone() };
        self.position = tree.find(&steps, self.on_key);
    }

    /// `file:line:column: what, and what to write instead`.
    pub fn render(&self, file: &str) -> String {
        let place = match self.position {
            Some((line, column)) => format!("{file}:{line}:{column}"),
            None => file.to_owned(),
        };
        format!("{place}: {self}")
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        Ok(())
    }
}

/// The mistakes of one text, collected over the whole run.
#[derive(Debug, Default)]
pub struct Diagnostics {
    found: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Records a mistake whose place in the text is already known.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.found.push(diagnostic);
    }

    /// Records a mistake in the value at `path`.
    pub fn error(&mut self, path: &Path<'_>, message: impl Into<String>) -> &mut Diagnostic {
        self.record(path, message, false)
    }

    /// Records a mistake in the key at `path` (its name rather than its value).
    pub fn key_error(&mut self, path: &Path<'_>, message: impl Into<String>) -> &mut Diagnostic {
        self.record(path, message, true)
    }

    fn record(&mut self, path: &Path<'_>, message: impl Into<String>, on_key: bool) -> &mut Diagnostic {
        let mut diagnostic = Diagnostic::at(None, path, message);
        diagnostic.steps = path.steps();
        diagnostic.on_key = on_key;
        self.found.push(diagnostic);
        let last = self.found.len() - 1;
        &mut self.found[last]
    }

    /// Whether anything is wrong.
    pub fn has_errors(&self) -> bool {
        !self.found.is_empty()
    }

    /// How many mistakes there are.
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Turns paths into positions, with the tree that the text was parsed to.
    pub fn locate(&mut self, tree: &Node) {
        for diagnostic in &mut self.found {
            if diagnostic.position.is_none() {
                diagnostic.position = tree.find(&diagnostic.steps, diagnostic.on_key);
            }
        }
    }

    /// The mistakes in the order of the text.
    pub fn into_sorted(mut self) -> Vec<Diagnostic> {
        self.found.sort_by_key(|d| d.position);
        self.found
    }
}

/// The steps of a path that was written down.
fn steps_of(path: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let (key, rest) = part.split_once('[').unwrap_or((part, ""));
        if !key.is_empty() {
            steps.push(Step::Key(key.to_owned()));
        }
        steps.extend(rest.split('[').filter_map(|index| index.trim_end_matches(']').parse().ok().map(Step::Index)));
    }
    steps
}

/// One step of a [`Path`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A key of a mapping.
    Key(String),
    /// A place in a sequence.
    Index(usize),
}

/// A place in the configuration, built on the stack while walking it.
#[derive(Debug, Clone, Copy)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: PathStep<'a>,
}

#[derive(Debug, Clone, Copy)]
enum PathStep<'a> {
    Root,
    Key(&'a str),
    Index(usize),
}

impl<'a> Path<'a> {
    /// The whole configuration.
    pub const ROOT: Path<'static> = Path { parent: None, step: PathStep::Root };

    /// The value under `key`.
    pub fn key(&'a self, key: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: PathStep::Key(key) }
    }

    /// The value at `index`.
    pub fn index(&'a self, index: usize) -> Path<'a> {
        Path { parent: Some(self), step: PathStep::Index(index) }
    }

    fn steps(&self) -> Vec<Step> {
        let mut steps = self.parent.map(Path::steps).unwrap_or_default();
        match self.step {
            PathStep::Root => {}
            PathStep::Key(key) => steps.push(Step::Key(key.to_owned())),
            PathStep::Index(index) => steps.push(Step::Index(index)),
        }
        steps
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            PathStep::Root => Ok(()),
            PathStep::Index(index) => write!(f, "[{index}]"),
            PathStep::Key(key) => {
                let first = self.parent.is_none_or(|p| matches!(p.step, PathStep::Root));
                write!(f, "{}{key}", if first { "" } else { "." })
            }
        }
    }
}

/// The candidate nearest to what was written, when it is near enough to be meant.
pub fn did_you_mean<'c>(written: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let lower = written.to_ascii_lowercase();
    candidates
        .into_iter()
        .map(|c| (strsim::damerau_levenshtein(&lower, &c.to_ascii_lowercase()), c))
        .filter(|(distance, c)| *distance <= 1 + c.len().min(written.len()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}

/// `did you mean `x`?`, or the list of what exists when nothing is near.
pub fn suggest<'c>(written: &str, candidates: impl IntoIterator<Item = &'c str>) -> String {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    if let Some(near) = did_you_mean(written, candidates.iter().copied()) {
        return format!("did you mean `{near}`?");
    }
    match candidates.len() {
        0 => "there are none".to_owned(),
        1..=20 => format!("known: {}", candidates.join(", ")),
        n => format!("known: {}, ... ({n} in all)", candidates[..20].join(", ")),
    }
}
