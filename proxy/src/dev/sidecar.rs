//! The sidecars of one run, each on a thread of its own: the code that `weir run` runs, following a file that is written here.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::Context;
use tokio::sync::{mpsc, oneshot};
use weir_control::Applier;

use crate::admin::LogLevel;
use crate::app::App;
use crate::lifecycle::{Ask, Leaving, Signals};

/// A sidecar that runs.
pub(super) struct Sidecar {
    file: PathBuf,
    text: String,
    ask: mpsc::Sender<Ask>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Sidecar {
    /// Starts one with a configuration that was found good, which is written to `file`; comes back when it is ready.
    pub(super) async fn start(file: &Path, text: String, level: LogLevel) -> anyhow::Result<Self> {
        crate::ca::write(file, &text, false)?;
        let (ask, asked) = mpsc::channel(4);
        let (ready, is_ready) = oneshot::channel();
        let (path, source) = (file.to_owned(), text.clone());
        let run = move || -> anyhow::Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let served = runtime.block_on(async {
                let applier = Applier::new(&path.display().to_string(), source)
                    .map_err(|mistakes| anyhow::anyhow!("{}: {}", path.display(), mistakes[0]))?;
                let mut signals = Signals::of(asked);
                let app = App::start(applier, Some(path), level, &mut signals).await?;
                let _ = ready.send(());
                app.serve(&[], signals, Leaving::default()).await.map(drop)
            });
            runtime.shutdown_background();
            served
        };
        let thread = std::thread::Builder::new().name("weir-sidecar".to_owned()).spawn(run)?;
        if is_ready.await.is_err() {
            let ended = thread.join().map_err(|_| anyhow::anyhow!("a sidecar's thread failed"))?;
            ended?;
            anyhow::bail!("a sidecar ended before it was ready");
        }
        Ok(Self { file: file.to_owned(), text, ask, thread })
    }

    /// Has it follow a new configuration.
    pub(super) fn follow(&mut self, text: String) -> anyhow::Result<()> {
        if text != self.text {
            crate::ca::write(&self.file, &text, false)?;
            self.text = text;
        }
        Ok(())
    }

    /// Has it leave.
    pub(super) fn tell_to_leave(&self) {
        // A second word would have it leave at once, which is no harm.
        let _ = self.ask.try_send(Ask::Leave);
    }

    /// Waits until it has left.
    pub(super) async fn left(self) -> anyhow::Result<()> {
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await;
        joined.context("a sidecar cannot be waited for")?.map_err(|_| anyhow::anyhow!("a sidecar's thread failed"))?
    }
}
