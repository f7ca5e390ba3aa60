//! A closed loop of requests over keep-alive connections: each connection sends its next request when it has the answer
//! to the one before. Every request is accounted for, served or failed, with its reason.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::Result;
use crate::raw::{Connection, Response};

/// A load that is about to start.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where the requests go.
    pub address: SocketAddr,
    /// How many connections send at a time.
    pub connections: usize,
    /// The request, byte for byte. It must not ask for the connection to be closed.
    pub request: String,
    /// How many requests are sent in all; `None` sends until it is stopped.
    pub requests: Option<usize>,
    /// How long a connection waits between an answer and the next request.
    pub pause: Duration,
}

impl Load {
    /// GET / of host `app`.
    pub fn new(address: SocketAddr, connections: usize) -> Self {
        let request = "GET / HTTP/1.1\r\nhost: app\r\n\r\n".to_owned();
        Self { address, connections, request, requests: None, pause: Duration::ZERO }
    }

    /// As many requests as this.
    #[must_use]
    pub fn of(mut self, requests: usize) -> Self {
        self.requests = Some(requests);
        self
    }

    /// With a pause between an answer and the next request.
    #[must_use]
    pub fn pausing(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Starts, and shows every answer to `seen` with the moment its request was sent. A reason that `seen` gives counts
    /// as a failure.
    pub fn start<F>(self, seen: F) -> Running
    where
        F: Fn(Instant, &Response) -> Result<(), String> + Send + Sync + 'static,
    {
        let stop = Arc::new(AtomicBool::new(false));
        let shared = Arc::new(Shared { load: self, stop: Arc::clone(&stop), sent: AtomicUsize::new(0), seen: Box::new(seen) });
        let connections = (0..shared.load.connections).map(|_| tokio::spawn(drive(Arc::clone(&shared)))).collect();
        Running { stop, shared, connections }
    }
}

type Seen = Box<dyn Fn(Instant, &Response) -> Result<(), String> + Send + Sync>;

struct Shared {
    load: Load,
    stop: Arc<AtomicBool>,
    sent: AtomicUsize,
    seen: Seen,
}

/// A load under way.
pub struct Running {
    stop: Arc<AtomicBool>,
    shared: Arc<Shared>,
    connections: Vec<tokio::task::JoinHandle<Tally>>,
}

impl Running {
    /// How many requests have been sent so far.
    pub fn sent(&self) -> usize {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Lets every connection finish its request, and gives the sum.
    pub async fn stop(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        self.finished().await
    }

    /// Waits until all requests are sent and answered, and gives the sum.
    pub async fn finished(self) -> Tally {
        Tally::sum(self.connections).await
    }
}

/// What became of the requests.
#[derive(Debug, Default)]
pub struct Tally {
    /// How many were answered with 200, to the liking of the test.
    pub served: usize,
    /// Why the others failed.
    pub failed: Vec<String>,
    /// How many connections were opened.
    pub opened: usize,
    /// How long each served request took, in microseconds.
    pub latencies: Vec<u32>,
}

impl Tally {
    /// Of all these together.
    pub(crate) async fn sum(all: Vec<tokio::task::JoinHandle<Self>>) -> Self {
        let mut sum = Self::default();
        for one in all {
            match one.await {
                Ok(tally) => sum.add(tally),
                Err(error) => sum.failed.push(error.to_string()),
            }
        }
        sum
    }

    fn add(&mut self, mut other: Self) {
        self.served += other.served;
        self.failed.append(&mut other.failed);
        self.opened += other.opened;
        self.latencies.append(&mut other.latencies);
    }

    /// The latency that this share of the requests stayed below.
    pub fn quantile(&mut self, share: f64) -> Duration {
        if self.latencies.is_empty() {
            return Duration::ZERO;
        }
        self.latencies.sort_unstable();
        let place = (share * (self.latencies.len() - 1) as f64).round() as usize;
        Duration::from_micros(self.latencies[place].into())
    }

    /// Fails with the first reasons unless every request was served.
    ///
    /// # Errors
    /// Some request was not served.
    pub fn faultless(&self) -> Result {
        match self.failed.len() {
            0 if self.served > 0 => Ok(()),
            0 => Err("nothing was served".into()),
            failed => {
                let first = &self.failed[..failed.min(5)];
                Err(format!("{failed} of {} requests failed, first of all: {first:?}", failed + self.served).into())
            }
        }
    }
}

/// More failures than this prove nothing new.
const ENOUGH: usize = 100;

async fn drive(shared: Arc<Shared>) -> Tally {
    let (mut tally, mut open) = (Tally::default(), None);
    while !shared.stop.load(Ordering::Relaxed) && tally.failed.len() < ENOUGH {
        if shared.sent.fetch_add(1, Ordering::Relaxed) >= shared.load.requests.unwrap_or(usize::MAX) {
            break;
        }
        let sent = Instant::now();
        match one(&shared.load, &mut open, &mut tally.opened).await {
            Ok(response) => {
                let wanted = if response.status == 200 { (shared.seen)(sent, &response) } else { Err(response.head.clone()) };
                match wanted {
                    Ok(()) => {
                        tally.served += 1;
                        tally.latencies.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
                    }
                    Err(why) => tally.failed.push(why),
                }
                if response.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
                    open = None;
                }
            }
            Err(error) => {
                tally.failed.push(error.to_string());
                open = None;
            }
        }
        if !shared.load.pause.is_zero() {
            tokio::time::sleep(shared.load.pause).await;
        }
    }
    tally
}

async fn one(load: &Load, open: &mut Option<Connection>, opened: &mut usize) -> Result<Response> {
    let connection = match open {
        Some(connection) => connection,
        None => {
            *opened += 1;
            open.insert(Connection::open(load.address).await?)
        }
    };
    connection.send(&load.request).await?;
    connection.response(false).await
}
