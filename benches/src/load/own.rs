//! Our own load: HTTP/1.1, at a fixed rate or in a closed loop.
//!
//! At a fixed rate the moment of each request is settled beforehand, and its latency counts from that moment: a proxy that
//! stalls pays for every request that should have been sent meanwhile, though no connection was free to send it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::LocalSet;

use super::{Ask, Found};

/// How much load.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Where to.
    pub port: u16,
    /// What is asked.
    pub ask: Ask,
    /// Requests in a second; `None` for as many as are answered.
    pub rate: Option<u32>,
    /// Connections.
    pub connections: usize,
    /// For how long.
    pub time: Duration,
}

/// Requests that are due: when each should have been sent.
struct Due {
    moments: RefCell<VecDeque<Instant>>,
    there: Notify,
    /// No more will come.
    over: Cell<bool>,
}

/// Runs it on this thread.
///
/// # Errors
/// No connection opens, or the clock fails.
pub fn run(plan: Plan) -> Result<Found> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, send(plan))
}

async fn send(plan: Plan) -> Result<Found> {
    let due = Rc::new(Due { moments: RefCell::default(), there: Notify::new(), over: Cell::new(false) });
    let found = Rc::new(RefCell::new(Found::nothing()));
    let body = Bytes::from(vec![b'x'; plan.ask.body]);
    let mut tasks = Vec::new();
    for _ in 0..plan.connections {
        let sender = connect(plan.port).await?;
        tasks.push(tokio::task::spawn_local(one(plan, sender, body.clone(), Rc::clone(&due), Rc::clone(&found))));
    }
    let began = Instant::now();
    match plan.rate {
        Some(rate) => tick(rate, plan.time, &due).await?,
        None => tokio::time::sleep(plan.time).await,
    }
    due.over.set(true);
    due.there.notify_waiters();
    for task in tasks {
        // What is due still is sent, but not for ever: a proxy that hangs has shown that by now.
        let _ = tokio::time::timeout(Duration::from_secs(5), task).await;
    }
    let left = due.moments.borrow().len() as u64;
    let mut found = found.borrow().clone();
    found.errors += left;
    found.seconds = began.elapsed().as_secs_f64();
    Ok(found)
}

async fn connect(port: u16) -> Result<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).await.context("no connection")?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(async move { drop(connection.await) });
    Ok(sender)
}

/// Announces requests at their moments, which a thread watches: the runtime's clock is exact to a millisecond only.
async fn tick(rate: u32, time: Duration, due: &Due) -> Result<()> {
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let period = Duration::from_secs(1) / rate;
    std::thread::Builder::new().name("clock".to_owned()).spawn(move || {
        // Otherwise the kernel lets a sleeper lie 50 us longer.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
        let began = Instant::now();
        for number in 1.. {
            let moment = began + period * number;
            if period * number > time {
                return;
            }
            std::thread::sleep(moment.saturating_duration_since(Instant::now()));
            if tell.send(moment).is_err() {
                return;
            }
        }
    })?;
    while let Some(moment) = told.recv().await {
        due.moments.borrow_mut().push_back(moment);
        due.there.notify_one();
    }
    Ok(())
}

/// One connection: sends what is due, or one request after the other.
async fn one(plan: Plan, mut sender: SendRequest<Full<Bytes>>, body: Bytes, due: Rc<Due>, found: Rc<RefCell<Found>>) {
    loop {
        let moment = match plan.rate {
            Some(_) => match next(&due).await {
                Some(moment) => moment,
                None => return,
            },
            None if due.over.get() => return,
            None => Instant::now(),
        };
        let mut answered = exchange(&mut sender, plan, &body).await;
        if answered.as_ref().is_err_and(was_not_sent)
            && let Ok(fresh) = connect(plan.port).await
        {
            // The proxy closed the connection while nothing was under way, as it may: every client asks again.
            sender = fresh;
            answered = exchange(&mut sender, plan, &body).await;
        }
        let took = u64::try_from(moment.elapsed().as_micros()).unwrap_or(u64::MAX);
        {
            let mut found = found.borrow_mut();
            match answered {
                Ok(()) => {
                    found.answered += 1;
                    let _ = found.latencies.record(took);
                }
                Err(_) => found.errors += 1,
            }
        }
        if sender.ready().await.is_err() {
            match connect(plan.port).await {
                Ok(fresh) => sender = fresh,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }
}

/// Whether it is certain that nothing of a request has left.
fn was_not_sent(error: &anyhow::Error) -> bool {
    error.downcast_ref::<hyper::Error>().is_some_and(|error| error.is_canceled() || error.is_closed())
}

async fn next(due: &Due) -> Option<Instant> {
    loop {
        if let Some(moment) = due.moments.borrow_mut().pop_front() {
            return Some(moment);
        }
        if due.over.get() {
            return None;
        }
        let there = due.there.notified();
        if due.moments.borrow().is_empty() && !due.over.get() {
            there.await;
        }
    }
}

async fn exchange(sender: &mut SendRequest<Full<Bytes>>, plan: Plan, body: &Bytes) -> Result<()> {
    let request = Request::builder().method(plan.ask.method()).uri(plan.ask.path).header("host", plan.ask.host);
    let response = sender.send_request(request.body(Full::new(body.clone()))?).await?;
    let good = response.status() == StatusCode::OK;
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    anyhow::ensure!(good, "not 200");
    Ok(())
}
