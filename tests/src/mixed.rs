//! A steady stream of requests of all kinds to [`App`](crate::app::App)s: HTTP/1, HTTP/2, and such as look like gRPC.
//! Callers keep their connections and send nothing twice: a request that fails has failed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::app::ANSWER;
use crate::load::Tally;
use crate::origin::{Body, full};
use crate::wire::{Answer, Caller, Version};
use crate::{Result, holds, same};

/// Callers of each kind; with [`PACE`] they make about 500 requests a second.
const CALLERS: u32 = 10;
const PACE: Duration = Duration::from_millis(60);
/// Whoever waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    One,
    Two,
    Grpc,
}

/// The stream, under way.
pub struct Mixed {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    callers: Vec<JoinHandle<Tally>>,
}

impl Mixed {
    /// Begins.
    pub fn start(address: SocketAddr) -> Self {
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut callers = Vec::new();
        for kind in [Kind::One, Kind::Two, Kind::Grpc] {
            for number in 0..CALLERS {
                let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
                callers.push(tokio::spawn(async move {
                    // Not all at the same moment.
                    tokio::time::sleep(PACE * number / CALLERS).await;
                    call(kind, address, &stop, &answered).await
                }));
            }
        }
        Self { stop, answered, callers }
    }

    /// Waits until so many more requests have been answered, well or not.
    ///
    /// # Errors
    /// They are not.
    pub async fn more(&self, requests: usize) -> Result {
        let goal = self.answered.load(Ordering::Relaxed) + requests;
        crate::until("requests go on", async || self.answered.load(Ordering::Relaxed) >= goal).await
    }

    /// Lets every caller finish its request, and gives the sum.
    pub async fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        Tally::sum(self.callers).await
    }
}

async fn call(kind: Kind, address: SocketAddr, stop: &AtomicBool, answered: &AtomicUsize) -> Tally {
    let (mut tally, mut open) = (Tally::default(), None);
    let mut pace = tokio::time::interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        match tokio::time::timeout(PATIENCE, one(kind, address, &mut open, &mut tally.opened)).await {
            Ok(Ok(())) => tally.served += 1,
            Ok(Err(error)) => {
                tally.failed.push(format!("{kind:?}: {error}"));
                open = None;
            }
            Err(_) => {
                tally.failed.push(format!("{kind:?}: no answer in {PATIENCE:?}"));
                open = None;
            }
        }
        answered.fetch_add(1, Ordering::Relaxed);
    }
    tally
}

async fn one(kind: Kind, address: SocketAddr, open: &mut Option<Caller>, opened: &mut usize) -> Result {
    let caller = match open {
        Some(caller) => caller,
        None => {
            *opened += 1;
            let version = if kind == Kind::One { Version::One } else { Version::Two };
            open.insert(Caller::open(address, version).await?)
        }
    };
    let request = request(kind, caller)?;
    right(kind, &caller.exchange(request).await?)
}

fn request(kind: Kind, caller: &Caller) -> Result<Request<Body>> {
    Ok(match kind {
        Kind::One | Kind::Two => caller.request("GET", "/").body(full(""))?,
        Kind::Grpc => {
            let request = caller.request("POST", "/shop.Cart/Get").header("content-type", "application/grpc");
            request.header("te", "trailers").body(full("\0\0\0\0\x01x"))?
        }
    })
}

fn right(kind: Kind, answer: &Answer) -> Result {
    same!(answer.status.as_u16(), 200, "{answer:?}");
    same!(answer.text(), ANSWER, "{answer:?}");
    if kind == Kind::Grpc {
        let status = answer.trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
        holds!(status.is_some_and(|status| status == "0"), "{answer:?}");
    }
    Ok(())
}
