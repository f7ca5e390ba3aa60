//! A hundred route tables a second under load: nothing fails, nothing mixes two generations, nothing is cut.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use weir_tests::load::Load;
use weir_tests::quick::{Quick, header, ok};
use weir_tests::{Origin, Result, Trial, Weir, holds, raw, same, test_alone};

use super::updates;

pub(super) fn trials() -> Vec<Trial> {
    vec![test_alone("control::swaps::a_hundred_a_second_under_load", a_hundred_a_second_under_load)]
}

/// How many different configurations take turns.
const DIFFERENT: usize = 50;
/// How long one serves at least.
const PACE: Duration = Duration::from_millis(10);
/// Every so many writes, one of a broken file.
const BROKEN: usize = 25;

/// One of the configurations: it brings a cluster of its own and moves all weight there. Its number is on the request
/// twice, by the rule and by the backend, and on the response twice, and in the origin's choice.
fn numbered(number: usize, origins: &[SocketAddr; 2], streams: SocketAddr) -> String {
    let previous = (number + DIFFERENT - 1) % DIFFERENT;
    let (here, there) = (origins[number % 2], origins[previous % 2]);
    format!(
        "admin: {{ listen: 127.0.0.1:0 }}
workers: 2
listeners: [{}]
routes:
  - name: streams
    hosts: [streams]
    rules: [{{ backends: [{{ cluster: streams }}] }}]
  - name: all
    hosts: ['*']
    rules:
      - headers: {{ request: {{ set: {{ x-gen: '{number}' }} }}, response: {{ set: {{ x-gen: '{number}' }} }} }}
        backends:
          - {{ cluster: c{previous}, weight: 0 }}
          - cluster: c{number}
            weight: 100
            headers: {{ request: {{ set: {{ x-gen-backend: '{number}' }} }}, response: {{ set: {{ x-gen-backend: '{number}' }} }} }}
clusters:
  c{previous}: {{ endpoints: ['{there}'] }}
  c{number}: {{ endpoints: ['{here}'] }}
  streams: {{ endpoints: ['{streams}'] }}
",
        super::OUT
    )
}

/// What an origin that is number `place` answers: the numbers it was told, and its own.
async fn told(place: usize) -> Result<Quick> {
    Quick::start("127.0.0.1:0", Duration::ZERO, move |head| {
        let number = |name| header(head, name).unwrap_or("none").to_owned();
        ok(&format!("{} {} {place}", number("x-gen"), number("x-gen-backend")))
    })
    .await
}

/// All four numbers and the origin must be of one configuration.
fn of_one_generation(response: &raw::Response) -> Result<(), String> {
    let body = response.text();
    let number = response.header("x-gen").unwrap_or("none");
    let place = number.parse::<usize>().map_err(|_| response.head.clone())? % 2;
    if response.header("x-gen-backend") == Some(number) && body == format!("{number} {number} {place}") {
        return Ok(());
    }
    Err(format!("two generations in one request: {body:?} in {}", response.head))
}

async fn a_hundred_a_second_under_load() -> Result {
    let time = Duration::from_secs(if weir_tests::soak() { 60 } else { 10 });
    let (even, odd) = (told(0).await?, told(1).await?);
    let origins = [even.address, odd.address];
    let streams = Origin::start(|_| async { Response::new(Ticks::body()) }).await?;
    let weir = Weir::start(&numbered(0, &origins, streams.address)).await?;
    let out = weir.address("out");

    let mut idle = raw::Connection::open(out).await?;
    idle.send("GET / HTTP/1.1\r\nhost: app\r\n\r\n").await?;
    same!(idle.response(false).await?.status, 200);
    let (h1_ticks, h2_ticks) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let h1 = tokio::spawn(stream_h1(out, Arc::clone(&h1_ticks)));
    let h2 = tokio::spawn(stream_h2(out, Arc::clone(&h2_ticks)));
    weir_tests::until("both streams run", async || h1_ticks.load(Ordering::Relaxed) > 1 && h2_ticks.load(Ordering::Relaxed) > 1)
        .await?;

    let before = weir.generation().await?;
    let load = Load::new(out, 8).start(|_, response| of_one_generation(response));
    let (mut swaps, mut broken) = (0_usize, 0_usize);
    let mut admin = raw::Connection::open(weir.admin).await?;
    let mut pace = tokio::time::interval(PACE);
    let end = tokio::time::Instant::now() + time;
    while tokio::time::Instant::now() < end {
        pace.tick().await;
        swaps += 1;
        let good = numbered(swaps % DIFFERENT, &origins, streams.address);
        if swaps.is_multiple_of(BROKEN) {
            broken += 1;
            let without = ["clusters: [unfinished", "\nnonsense: true\n"][broken % 2];
            weir.write(&format!("{good}{without}"))?;
        } else {
            weir.write(&good)?;
        }
        // The file's own events settle for a while first; whoever asks is served at once.
        admin.send("POST /reload HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n").await?;
        same!(admin.response(false).await?.status, 202);
    }
    let mut tally = load.stop().await;
    weir.write(&numbered(swaps % DIFFERENT, &origins, streams.address))?;
    super::until_rejected(&weir, false).await?;

    tally.faultless()?;
    let published = weir.generation().await? - before;
    let seconds = time.as_secs();
    holds!(published >= 30 * seconds, "{published} generations in {seconds} s from {swaps} files");
    holds!(updates(&weir, "rejected").await? >= 1, "broken files were seen");
    holds!(tally.served as u64 > 100 * seconds, "{} requests", tally.served);
    holds!(tally.quantile(0.99) < Duration::from_millis(250), "p99 {:?}", tally.quantile(0.99));
    same!(tally.opened, 8, "no connection was closed");

    // 20 ticks a second, of which a busy machine may miss most but a cut stream misses the rest.
    let seen = (h1_ticks.load(Ordering::Relaxed), h2_ticks.load(Ordering::Relaxed));
    holds!(!h1.is_finished() && !h2.is_finished(), "a stream ended: {seen:?}");
    weir_tests::until("both streams go on", async || {
        h1_ticks.load(Ordering::Relaxed) > seen.0 && h2_ticks.load(Ordering::Relaxed) > seen.1
    })
    .await?;
    idle.send("GET / HTTP/1.1\r\nhost: app\r\n\r\n").await?;
    let last = idle.response(false).await?;
    of_one_generation(&last)?;
    same!(last.header("x-gen"), Some((swaps % DIFFERENT).to_string().as_str()), "the newest configuration serves");
    Ok(())
}

/// An event every 50 ms, for ever.
struct Ticks {
    timer: tokio::time::Interval,
}

impl Ticks {
    fn body() -> weir_tests::origin::Body {
        Self { timer: tokio::time::interval(Duration::from_millis(50)) }.boxed()
    }
}

impl http_body::Body for Ticks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        ready!(self.timer.poll_tick(cx));
        Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from_static(b"data: tick\n\n")))))
    }
}

/// Counts the events of a stream over HTTP/1 until it ends.
async fn stream_h1(address: SocketAddr, ticks: Arc<AtomicUsize>) -> Result {
    let mut connection = raw::Connection::open(address).await?;
    connection.send("GET /events HTTP/1.1\r\nhost: streams\r\naccept: text/event-stream\r\n\r\n").await?;
    loop {
        if connection.line().await? == "data: tick\n" {
            ticks.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Counts the events of a stream over HTTP/2 until it ends.
async fn stream_h2(address: SocketAddr, ticks: Arc<AtomicUsize>) -> Result {
    let (mut sender, connection) = h2::client::handshake(tokio::net::TcpStream::connect(address).await?).await?;
    let driver = tokio::spawn(connection);
    let request = http::Request::get("http://streams/events").body(())?;
    let mut body = sender.send_request(request, true)?.0.await?.into_body();
    while let Some(data) = body.data().await {
        let length = data?.len();
        body.flow_control().release_capacity(length)?;
        ticks.fetch_add(1, Ordering::Relaxed);
    }
    driver.abort();
    Ok(())
}
