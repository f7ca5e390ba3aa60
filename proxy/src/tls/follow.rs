//! The identity in force, and keeping up with the files it comes from.
//!
//! A key and its certificate are two files and never change at once. So whatever changes, all of them are read, and only
//! what fits together is taken; until then what was there before stays in use, and so it does if the new is no good.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwapOption, Guard};
use tokio::sync::Notify;
use weir_config::snapshot::Files;
use weir_control::file::Watch;

use super::identity::{self, Identity, Parts, Texts};
use super::outside::Outside;

/// Between the first of several files that change and the last, so much is waited.
const SETTLE: Duration = Duration::from_millis(100);

/// What handshakes need: the identity in force, what became of those that were offered, and what those outside the mesh are
/// met with.
#[derive(Default)]
pub struct Holder {
    /// For those outside the mesh.
    pub outside: Outside,
    current: ArcSwapOption<Identity>,
    taken: Notify,
    status: Mutex<Status>,
}

/// What became of the identities that were offered.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Taken, the first one included.
    pub taken: u64,
    /// Not taken.
    pub rejected: u64,
    /// Why the newest was not taken.
    pub error: Option<String>,
}

impl Holder {
    /// The identity in force.
    pub fn current(&self) -> Guard<Option<Arc<Identity>>> {
        self.current.load()
    }

    /// Waits until there is one.
    pub async fn ready(&self) {
        let taken = self.taken.notified();
        if self.current.load().is_none() {
            taken.await;
        }
    }

    /// What became of those that were offered.
    pub fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn record(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Takes what an identity is made of.
    ///
    /// # Errors
    /// Why it cannot be used; what was in force stays.
    pub(super) fn offer(&self, parts: anyhow::Result<Parts>) -> anyhow::Result<()> {
        match parts.and_then(Identity::new) {
            Ok(identity) => {
                tracing::info!(id = %identity.id, serial = identity.serial, "identity taken");
                self.current.store(Some(identity));
                self.taken.notify_waiters();
                self.record(|status| {
                    status.taken += 1;
                    status.error = None;
                });
                Ok(())
            }
            Err(error) => {
                self.record(|status| {
                    status.rejected += 1;
                    status.error = Some(format!("{error:#}"));
                });
                Err(error)
            }
        }
    }
}

/// Takes an identity from its files, and follows them from now on. Needs a tokio runtime.
///
/// # Errors
/// The first one cannot be used.
pub fn begin(files: &Files, holder: &Arc<Holder>) -> anyhow::Result<()> {
    // Before they are read, so that no change is missed.
    let watch = Watch::new(files.paths());
    let texts = identity::read(files)?;
    holder.offer(Parts::of_texts(&texts))?;
    tokio::spawn(follow(files.clone(), Arc::clone(holder), watch, texts));
    Ok(())
}

async fn follow(files: Files, holder: Arc<Holder>, mut watch: Watch, first: Texts) {
    let mut seen = Ok(first);
    loop {
        watch.stirred().await;
        // The others may be about to change; those that do wake this again.
        tokio::time::sleep(SETTLE).await;
        let texts = identity::read(&files);
        let read = texts.as_ref().map(Clone::clone).map_err(ToString::to_string);
        if read == seen {
            continue;
        }
        seen = read;
        if let Err(error) = holder.offer(texts.and_then(|texts| Parts::of_texts(&texts))) {
            tracing::error!(error = format!("{error:#}"), "the new identity cannot be used; what was in force stays in use");
        }
    }
}
