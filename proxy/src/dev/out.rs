//! What is said on standard output: by a thread of its own, so that whoever does not read it keeps nobody from leaving.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};

/// Lines of apps that wait to be printed, and places that are kept for what weir has to say itself.
const WAITING: usize = 1024;
const KEPT: usize = 64;
/// How long the last lines may take.
const PATIENCE: Duration = Duration::from_secs(1);

enum Said {
    Text(String),
    /// An app's, which has had one of the places.
    Line(String),
    Asked(oneshot::Sender<()>),
}

/// Where things are said.
#[derive(Clone)]
pub(super) struct Out {
    said: mpsc::Sender<Said>,
    /// Places for apps' lines.
    places: Arc<Semaphore>,
}

impl Out {
    /// Starts its thread, which ends with the process: it may wait for a reader for ever.
    pub(super) fn start() -> std::io::Result<Self> {
        let (said, mut saying) = mpsc::channel(WAITING + KEPT);
        let places = Arc::new(Semaphore::new(WAITING));
        let given_back = Arc::clone(&places);
        std::thread::Builder::new().name("weir-dev-out".to_owned()).spawn(move || {
            while let Some(said) = saying.blocking_recv() {
                match said {
                    // Nobody may be reading any more.
                    Said::Text(text) => drop(writeln!(std::io::stdout(), "{text}")),
                    Said::Line(text) => {
                        let _ = writeln!(std::io::stdout(), "{text}");
                        given_back.add_permits(1);
                    }
                    Said::Asked(by) => drop(by.send(())),
                }
            }
        })?;
        Ok(Self { said, places })
    }

    /// Says something; nothing, if so much waits already.
    pub(super) fn say(&self, text: impl Into<String>) {
        let _ = self.said.try_send(Said::Text(text.into()));
    }

    /// Prints an app's line when there is room for it.
    pub(super) async fn relay(&self, text: String) {
        if let Ok(place) = self.places.acquire().await {
            place.forget();
            let _ = self.said.send(Said::Line(text)).await;
        }
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
