//! Text to published snapshot, or to a reason why not.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use weir_config::{Config, Diagnostic, Snapshot};

use crate::publish::Store;

/// What became of a text.
#[derive(Debug)]
pub enum Outcome {
    /// It serves now, as this generation.
    Published(u64),
    /// It means the same as what serves already.
    Unchanged,
    /// It is wrong; what served before still serves.
    Rejected(Vec<Diagnostic>),
}

/// The state of the configuration, for people and metrics.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Texts that were published, the first one included.
    pub published: u64,
    /// Texts that were rejected.
    pub rejected: u64,
    /// Texts that changed nothing.
    pub unchanged: u64,
    /// The mistakes of the newest text, if it was rejected: what is on disk is then not what serves.
    pub mistakes: Vec<String>,
    /// Bootstrap fields whose new values wait for a restart.
    pub needs_restart: Vec<&'static str>,
    /// When the newest text was looked at.
    pub checked: Option<SystemTime>,
}

/// Compiles texts and publishes what is good. Lives on the control thread.
pub struct Applier {
    store: Arc<Store>,
    status: Arc<Mutex<Status>>,
    /// For messages.
    name: String,
}

/// Whether a text that was good means this. Read again for each change, for what it means takes many times the memory of
/// the text, and would be kept for nothing but this question.
fn means(source: &str, config: &Config) -> bool {
    weir_config::read(source).is_some_and(|serving| serving == *config)
}

/// A text that was compiled and waits to be published.
pub struct Prepared {
    /// The compiled snapshot, with the bootstrap that is in force.
    pub snapshot: Snapshot,
    source: String,
    needs_restart: Vec<&'static str>,
}

impl Applier {
    /// Begins with a text, named `name` in messages, that must be good.
    ///
    /// # Errors
    /// Every mistake in the text.
    pub fn new(name: &str, source: String) -> Result<Self, Vec<Diagnostic>> {
        let (_, snapshot) = weir_config::load(&source)?;
        let status = Status { published: 1, checked: Some(SystemTime::now()), ..Status::default() };
        Ok(Self { store: Arc::new(Store::new(snapshot, source)), status: Arc::new(Mutex::new(status)), name: name.to_owned() })
    }

    /// What the source is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the published snapshot is.
    pub fn store(&self) -> Arc<Store> {
        Arc::clone(&self.store)
    }

    /// Where the status is.
    pub fn status(&self) -> Arc<Mutex<Status>> {
        Arc::clone(&self.status)
    }

    /// Compiles a text without publishing it, so that what it names can be resolved first.
    ///
    /// # Errors
    /// What became of the text, if there is nothing to publish; it is recorded already.
    pub fn prepare(&self, source: String) -> Result<Box<Prepared>, Outcome> {
        let (config, mut snapshot) = match weir_config::load(&source) {
            Ok(loaded) => loaded,
            Err(mistakes) => {
                self.record(|status| {
                    status.rejected += 1;
                    status.mistakes = mistakes.iter().map(|mistake| mistake.render(&self.name)).collect();
                });
                return Err(Outcome::Rejected(mistakes));
            }
        };
        let current = self.store.load();
        let needs_restart = current.snapshot.bootstrap.differences(&snapshot.bootstrap);
        if means(&current.source, &config) {
            self.record(|status| {
                status.unchanged += 1;
                status.mistakes.clear();
                status.needs_restart = needs_restart;
            });
            return Err(Outcome::Unchanged);
        }
        // What needs a restart stays as it is; the rest of the text is served.
        snapshot.bootstrap = current.snapshot.bootstrap.clone();
        Ok(Box::new(Prepared { snapshot, source, needs_restart }))
    }

    /// Publishes what was prepared.
    pub fn publish(&mut self, prepared: Box<Prepared>) -> Outcome {
        let Prepared { snapshot, source, needs_restart } = *prepared;
        let generation = self.store.publish(snapshot, source);
        self.record(|status| {
            status.published += 1;
            status.mistakes.clear();
            status.needs_restart = needs_restart;
        });
        Outcome::Published(generation)
    }

    /// Records that the source could not be read, which is treated like a bad text.
    pub fn unreadable(&self, reason: &str) {
        self.record(|status| {
            status.rejected += 1;
            status.mistakes = vec![format!("{}: {reason}", self.name)];
        });
    }

    fn record(&self, change: impl FnOnce(&mut Status)) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.checked = Some(SystemTime::now());
        change(&mut status);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(weight: u32, workers: u32) -> String {
        format!(
            "workers: {workers}\nlisteners: [{{ name: o, listen: 127.0.0.1:1, direction: outbound }}]\n\
             routes: [{{ name: r, hosts: [x], rules: [{{ backends: [{{ cluster: c, weight: {weight} }}] }}] }}]\n\
             clusters: {{ c: {{ endpoints: [127.0.0.1:2] }} }}\n"
        )
    }

    #[test]
    fn good_bad_and_equal_texts() {
        let mut applier = Applier::new("f", text(1, 1)).unwrap();
        let (store, status) = (applier.store(), applier.status());
        assert!(matches!(applier.prepare(text(1, 1).replace(", ", ",  ")), Err(Outcome::Unchanged)));
        assert_eq!(store.generation(), 1);

        let prepared = applier.prepare(text(2, 1)).ok().unwrap();
        assert_eq!(store.generation(), 1, "nothing is published before it is asked for");
        assert!(matches!(applier.publish(prepared), Outcome::Published(2)));
        assert_eq!((store.generation(), store.load().generation), (2, 2));

        assert!(matches!(applier.prepare(text(0, 1)), Err(Outcome::Rejected(_))));
        assert_eq!(store.generation(), 2);
        assert!(status.lock().unwrap().mistakes[0].starts_with("f:3:"), "{:?}", status.lock().unwrap());

        let prepared = applier.prepare(text(3, 2)).ok().unwrap();
        applier.publish(prepared);
        assert_eq!(status.lock().unwrap().needs_restart, ["workers"]);
        assert!(status.lock().unwrap().mistakes.is_empty());
        assert_eq!(store.load().snapshot.bootstrap.workers, Some(1), "the bootstrap in force stays");
    }
}
