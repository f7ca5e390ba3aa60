//! What is said on standard output: by a thread of its own, so that whoever does not read it keeps nobody from leaving.

use std::io::Write;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

/// Lines that wait to be printed.
const WAITING: usize = 1024;
/// How long the last lines may take.
const PATIENCE: Duration = Duration::from_secs(1);

enum Said {
    Text(String),
    Asked(oneshot::Sender<()>),
}

/// Where things are said.
#[derive(Clone)]
pub(super) struct Out {
    said: mpsc::Sender<Said>,
}

impl Out {
    /// Starts its thread, which ends with the process: it may wait for a reader for ever.
    pub(super) fn start() -> std::io::Result<Self> {
        let (said, mut saying) = mpsc::channel(WAITING);
        std::thread::Builder::new().name("weir-dev-out".to_owned()).spawn(move || {
            while let Some(said) = saying.blocking_recv() {
                match said {
                    // Nobody may be reading any more.
                    Said::Text(text) => drop(writeln!(std::io::stdout(), "{text}")),
                    Said::Asked(by) => drop(by.send(())),
                }
            }
        })?;
        Ok(Self { said })
    }

    /// Says something; nothing, if so much waits already.
    pub(super) fn say(&self, text: impl Into<String>) {
        let _ = self.said.try_send(Said::Text(text.into()));
    }

    /// Says something when there is room for it.
    pub(super) async fn relay(&self, text: String) {
        let _ = self.said.send(Said::Text(text)).await;
    }

    /// Waits until all that was said is printed, but not for long.
    pub(super) async fn end(&self) {
        let (by, asked) = oneshot::channel();
        let printed = async {
            if self.said.send(Said::Asked(by)).await.is_ok() {
                let _ = asked.await;
            }
        };
        let _ = tokio::time::timeout(PATIENCE, printed).await;
    }
}
