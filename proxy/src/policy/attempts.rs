//! One attempt after the other, until there is an answer that goes to the caller.
//!
//! Acts on [`weir_config::policy::judge`]: picks an endpoint, sends, waits no longer than it may, asks for a verdict, and
//! begins again elsewhere if that is the verdict and the budget bears it.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use http::Method;
use http::header::{HeaderName, HeaderValue};
use http::request::Parts;
use tokio::time::Instant;
use weir_config::policy::MAX_MOVES;
use weir_config::policy::{Circumstances, Denied, Outcome, Verdict, judge};
use weir_config::snapshot::Rule;

use super::deadline;
use crate::balance::cluster::ClusterState;
use crate::clock::{Clock, Clocks, Heard};
use crate::error::Fault;
use crate::h1::spelling::Spelling;
use crate::proxy_protocol::Ends;
use crate::respond::{UNPROCESSED, WEIR_ERROR};
use crate::state::Worker;
use crate::tunnel::side::Side;
use crate::upstream::body::RequestBody;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::{self, Answer, Failure, Lease, Outgoing, Progress, Waiting};

/// Tells the upstream which attempt this is, from the second on.
static ATTEMPT: HeaderName = HeaderName::from_static("x-weir-attempt");
/// What is left of a response that is not the answer is read up to so much, so that its connection can be used again.
const MAX_DISCARDED: usize = 64 << 10;
const MAX_DISCARDING: Duration = Duration::from_secs(1);

/// A request, and how it may be tried.
pub struct Job<'j> {
    /// The rule that sends it.
    pub rule: &'j Rule,
    /// Where it goes.
    pub cluster: &'j Rc<ClusterState>,
    /// The endpoint of the first attempt.
    pub first: Rc<Endpoint>,
    /// Its head, in the form that the protocol wants.
    pub head: Box<Parts>,
    /// Its body.
    pub body: &'j RequestBody,
    /// How its head was spelled.
    pub spelling: &'j Spelling,
    /// HTTP/2 rather than HTTP/1.
    pub http2: bool,
    /// Whether it is gRPC.
    pub grpc: bool,
    /// Whether it asks for another protocol.
    pub upgrade: bool,
    /// Whether another weir may stand before whom it is for. The app's own weir hears nothing of that kind.
    pub beyond: bool,
    /// For whom it is.
    pub ends: &'j Ends,
    /// Who waits for informational responses.
    pub waiting: Waiting<'j>,
}

/// What became of the attempts, besides the answer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Report {
    /// Attempts that reached for an endpoint, the first included.
    pub attempts: u32,
    /// The endpoint of the last one.
    pub upstream: Option<SocketAddr>,
    /// Why there was not another one, though the rule asked for it.
    pub denied: Option<Denied>,
    /// Whether anything of the request may have been processed by whom it was for.
    pub reached: bool,
}

/// Tries until there is an answer.
///
/// # Errors
/// Why there is none.
pub async fn run(worker: &Worker, job: &mut Job<'_>, clocks: &mut Clocks, report: &mut Report) -> Result<Answer, Fault> {
    let config = job.cluster.config();
    let mut tries = Tries::default();
    let mut endpoint = Rc::clone(&job.first);
    let per_try = job.rule.timeouts.per_try;
    loop {
        let mut timeout_ms = None;
        if per_try.is_some() || clocks.deadline.is_some() {
            let now = Instant::now();
            if clocks.remaining(now).is_some_and(|left| left.is_zero()) {
                return Err(if report.attempts == 0 { Fault::DeadlineExceeded } else { Fault::RequestTimeout });
            }
            clocks.attempt = per_try.map(|limit| now + limit);
            timeout_ms = job.tell_deadline(clocks, now);
        }
        report.attempts += 1;
        report.upstream = Some(endpoint.address);
        if report.attempts > 1 {
            job.head.headers.insert(ATTEMPT.clone(), HeaderValue::from(report.attempts));
        }
        let request = Outgoing {
            head: &job.head,
            body: job.body.attempt(),
            spelling: job.spelling,
            http2: job.http2,
            reuse: !tries.needs_fresh,
            upgrade: job.upgrade,
            timeout_ms,
            ends: job.ends,
        };
        let ended = {
            let mut exchange = pin!(upstream::exchange(&endpoint, &config, request, &job.waiting));
            // Whatever it was doing when its time ran out, it may have reached whom it is for.
            poll_fn(|cx| within(exchange.as_mut(), clocks, job.body, cx)).await.inspect_err(|_| report.reached = true)?
        };
        clocks.attempt = None;
        report.reached |= has_reached(&ended, &job.head.method);
        if is_answer(job, &ended) {
            return ended.map_err(|failure| failure.fault);
        }
        tries.tried.push(endpoint.address);
        let verdict = {
            let circumstances = tries.circumstances(job, clocks);
            judge(job.rule.retry.as_ref(), outcome(&ended, job), circumstances, worker.draw(), SystemTime::now())
        };
        let verdict = match verdict {
            Verdict::Retry(_) if !job.cluster.may_retry() => Verdict::Done(Some(Denied::Budget)),
            verdict => verdict,
        };
        job.cluster.count(verdict);
        if !matches!(verdict, Verdict::Done(_)) {
            job.body.stop();
        }
        match verdict {
            Verdict::Done(denied) => {
                report.denied = denied;
                return ended.map_err(|failure| failure.fault);
            }
            Verdict::Move => {
                tries.moves += 1;
                if let Ok(answer) = ended {
                    discard(answer);
                }
            }
            Verdict::Replay => {
                tries.replays += 1;
                tries.needs_fresh = true;
            }
            Verdict::Retry(delay) => {
                tries.attempts += 1;
                if let Ok(answer) = ended {
                    discard(answer);
                }
                // Boxed, for it is rare and would make every request larger.
                Box::pin(wait(delay, clocks)).await?;
            }
        }
        endpoint = job.cluster.pick_beside(worker.draw(), &tries.tried, job.ends)?;
    }
}

impl Job<'_> {
    /// Tells the upstream what is left of the time. Gives what is to be told in a header of its own.
    fn tell_deadline(&mut self, clocks: &Clocks, now: Instant) -> Option<u64> {
        let left = clocks.remaining(now)?;
        let left = self.rule.timeouts.per_try.map_or(left, |per_try| per_try.min(left));
        deadline::tell(&mut self.head.headers, self.grpc, left)
    }
}

/// Whether what came goes to the caller without further judgement: most answers do.
fn is_answer(job: &Job<'_>, ended: &Result<Answer, Failure>) -> bool {
    match (ended, &job.rule.retry) {
        (Ok(answer), _) if is_unprocessed(answer, job) => false,
        (Ok(_), None) => true,
        (Ok(answer), Some(rule)) => !rule.minds(answer.response.status(), answer.response.headers()),
        (Err(_), _) => false,
    }
}

/// Whether the weir beside the upstream says that nothing has reached it.
fn is_unprocessed(answer: &Answer, job: &Job<'_>) -> bool {
    let headers = answer.response.headers();
    let says = || headers.get(&UNPROCESSED).is_some_and(|said| said == "true") && headers.contains_key(&WEIR_ERROR);
    job.beyond && (job.grpc || answer.response.status().is_server_error()) && says()
}

/// Whether an attempt may have been processed. What was written to a connection that died at once may have been, so only what
/// may be done twice counts as not.
fn has_reached(ended: &Result<Answer, Failure>, method: &Method) -> bool {
    match ended {
        Ok(_) => true,
        Err(failure) => match failure.progress {
            Progress::NotConnected | Progress::Unsent | Progress::Refused => false,
            Progress::Stale => !method.is_idempotent(),
            Progress::Sent | Progress::Final => true,
        },
    }
}

/// Opens a connection for a tunnel; a failed connect moves on.
///
/// # Errors
/// Why there is none.
pub async fn open(cluster: &Rc<ClusterState>, worker: &Worker, ends: &Ends, report: &mut Report) -> Result<(Lease, Side), Fault> {
    let config = cluster.config();
    let mut tried = Vec::new();
    loop {
        let endpoint = cluster.pick_beside(worker.draw(), &tried, ends)?;
        report.attempts += 1;
        report.upstream = Some(endpoint.address);
        match upstream::open(&endpoint, &config, ends).await {
            Ok(opened) => return Ok(opened),
            Err(fault) => {
                tried.push(endpoint.address);
                if !cluster.has_beside(&tried, ends) || report.attempts > MAX_MOVES {
                    return Err(fault);
                }
                cluster.count(Verdict::Move);
            }
        }
    }
}

/// What was tried so far.
#[derive(Debug)]
struct Tries {
    /// Attempts under the rule, the first included.
    attempts: u32,
    moves: u32,
    replays: u32,
    tried: Vec<SocketAddr>,
    /// A connection that was idle has failed this request.
    needs_fresh: bool,
}

impl Default for Tries {
    fn default() -> Self {
        Self { attempts: 1, moves: 0, replays: 0, tried: Vec::new(), needs_fresh: false }
    }
}

impl Tries {
    fn circumstances<'c>(&self, job: &'c Job<'_>, clocks: &Clocks) -> Circumstances<'c> {
        Circumstances {
            method: &job.head.method,
            attempts: self.attempts,
            moves: self.moves,
            replays: self.replays,
            elsewhere: job.cluster.has_beside(&self.tried, job.ends),
            replayable: job.body.is_replayable(),
            remaining: clocks.remaining(Instant::now()),
            per_try: job.rule.timeouts.per_try,
        }
    }
}

fn outcome<'e>(ended: &'e Result<Answer, Failure>, job: &Job<'_>) -> Outcome<'e> {
    match ended {
        Ok(answer) if is_unprocessed(answer, job) => Outcome::Unreached,
        Ok(answer) => Outcome::Response(answer.response.status(), answer.response.headers()),
        Err(Failure { fault: Fault::PerTryTimeout, .. }) => Outcome::TimedOut,
        Err(failure) => match failure.progress {
            Progress::NotConnected => Outcome::NotConnected,
            Progress::Unsent => Outcome::Unsent,
            Progress::Refused => Outcome::Refused,
            Progress::Stale => Outcome::Stale,
            Progress::Sent => Outcome::Reset,
            Progress::Final => Outcome::Final,
        },
    }
}

/// Ready when the attempt has ended or its time is over. The outer error ends the request.
fn within<F>(
    exchange: Pin<&mut F>,
    clocks: &mut Clocks,
    body: &RequestBody,
    cx: &mut Context<'_>,
) -> Poll<Result<Result<Answer, Failure>, Fault>>
where
    F: Future<Output = Result<Answer, Failure>>,
{
    if let Poll::Ready(ended) = exchange.poll(cx) {
        return Poll::Ready(Ok(ended));
    }
    clocks.poll(0, body.heard(), cx).map(|clock| match clock {
        Clock::Attempt => Ok(Err(Failure { fault: Fault::PerTryTimeout, progress: Progress::Sent })),
        Clock::Request | Clock::Idle => Err(expired(clock)),
    })
}

/// What is said when a clock of the request runs out.
pub fn expired(clock: Clock) -> Fault {
    match clock {
        Clock::Request => Fault::RequestTimeout,
        Clock::Attempt => Fault::PerTryTimeout,
        Clock::Idle => Fault::IdleTimeout,
    }
}

async fn wait(delay: Duration, clocks: &mut Clocks) -> Result<(), Fault> {
    if delay.is_zero() {
        return Ok(());
    }
    let mut sleep = pin!(tokio::time::sleep(delay));
    poll_fn(|cx| match sleep.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(Ok(())),
        Poll::Pending => clocks.poll(0, Heard::default(), cx).map(|clock| Err(expired(clock))),
    })
    .await
}

/// Reads a response that is not the answer to its end, if that is near, so that its connection can be used again.
fn discard(answer: Answer) {
    let Answer { response, lease, .. } = answer;
    let mut body = response.into_body();
    if body.size_hint().lower() > MAX_DISCARDED as u64 {
        return;
    }
    tokio::task::spawn_local(async move {
        let mut read = 0;
        let rest = poll_fn(|cx: &mut Context<'_>| {
            while read <= MAX_DISCARDED {
                match std::task::ready!(body.poll_frame(cx)) {
                    Some(Ok(frame)) => read += frame.data_ref().map_or(0, bytes::Bytes::len),
                    Some(Err(_)) => return Poll::Ready(false),
                    None => return Poll::Ready(true),
                }
            }
            Poll::Ready(false)
        });
        if tokio::time::timeout(MAX_DISCARDING, rest).await.is_ok_and(|whole| whole) {
            drop(body);
            lease.discarded();
        }
    });
}
