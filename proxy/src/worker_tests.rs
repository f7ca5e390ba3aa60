//! A whole worker, over real sockets, under a clock that stands unless a test moves it: minutes of silence in no time.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::task::Poll;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::time::{Instant, advance};
use weir_control::Applier;

use super::*;
use crate::observe::expose;

/// So long, in real time, a test may take.
const LIMIT: Duration = Duration::from_secs(20);
const SECOND: Duration = Duration::from_secs(1);

/// Runs a test. tokio moves a paused clock by itself when nothing but timers is waited for, also while bytes are on their
/// way through a socket; but not while a blocking task runs, so there is one until the test is over or takes too long.
fn on_a_held_clock(test: impl Future<Output = ()>) {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build_local(Default::default()).unwrap();
    runtime.block_on(async {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let holding = tokio::task::spawn_blocking(move || held.recv_timeout(LIMIT));
        // Cannot pass while the clock is held.
        tokio::time::timeout(Duration::from_secs(1_000_000), test).await.expect("the test hangs");
        drop(release);
        let _ = holding.await;
    });
}

/// A worker that sends everything to an upstream played by the test, and answers `/fence` itself.
struct Bench {
    shared: Arc<Shared>,
    weir: std::net::SocketAddr,
    upstream: TcpListener,
}

impl Bench {
    /// Without a word about time in the configuration.
    async fn start(protocol: &str) -> Self {
        let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let text = format!(
            "listeners: [{{ name: out, listen: 127.0.0.1:0, direction: outbound }}]
routes:
  - name: all
    hosts: ['*']
    rules:
      - {{ name: fence, match: [{{ path: {{ exact: /fence }} }}], respond: {{ status: 204 }} }}
      - {{ name: only, backends: [{{ cluster: app }}] }}
clusters: {{ app: {{ endpoints: ['{}'], protocol: {protocol} }} }}
",
            upstream.local_addr().unwrap()
        );
        let applier = Applier::new("a test", text).unwrap();
        let (sender, mailbox) = mpsc::channel(8);
        let shared = Arc::new(Shared {
            store: applier.store(),
            status: applier.status(),
            discovery: Arc::default(),
            config_name: String::new(),
            tls: Arc::default(),
            callers: Arc::default(),
            metrics: Arc::default(),
            access_log: ArcSwapOption::empty(),
            loads: [AtomicUsize::new(0)].into(),
            mailboxes: [sender.clone()].into(),
            listener_loads: Mutex::default(),
            budgets: Mutex::default(),
            workers: 1,
            ready: AtomicBool::new(true),
            draining: AtomicBool::new(false),
            started: SystemTime::now(),
        });
        tokio::task::spawn_local(serve(0, Arc::clone(&shared), mailbox));
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let weir = socket.local_addr().unwrap();
        for told in
            [Message::Adopt { add: vec!["out".into()], remove: Vec::new() }, Message::Accept(vec![("out".into(), vec![socket])])]
        {
            assert!(sender.send(told).await.is_ok(), "the worker listens");
        }
        Self { shared, weir, upstream }
    }

    /// When this is back, the worker has looked at its clocks since it was called.
    async fn fence(&self) {
        let mut caller = TcpStream::connect(self.weir).await.unwrap();
        caller.write_all(b"GET /fence HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        caller.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    }

    /// A request over HTTP/1 that has arrived upstream: both ends.
    async fn asked(&self) -> (TcpStream, TcpStream) {
        let mut caller = TcpStream::connect(self.weir).await.unwrap();
        caller.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let (mut upstream, _) = self.upstream.accept().await.unwrap();
        until(&mut upstream, "\r\n\r\n").await;
        (caller, upstream)
    }

    /// The flags that requests were given.
    fn flags(&self) -> Vec<String> {
        let text = expose::text(&self.shared);
        text.lines().filter(|line| line.starts_with("weir_request_flags_total{")).map(str::to_owned).collect()
    }
}

/// Reads up to and with these characters.
async fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        text.push(char::from(byte[0]));
    }
    text
}

#[test]
fn events_every_ten_seconds_go_on_for_five_minutes() {
    on_a_held_clock(async {
        let bench = Bench::start("http1").await;
        let (mut caller, mut upstream) = bench.asked().await;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        upstream.write_all(head.as_bytes()).await.unwrap();
        until(&mut caller, "\r\n\r\n").await;
        let begun = Instant::now();
        for number in 1..=30 {
            advance(10 * SECOND).await;
            bench.fence().await;
            upstream.write_all(b"9\r\ndata: x\n\n\r\n").await.unwrap();
            assert_eq!(until(&mut caller, "\n\n\r\n").await, "9\r\ndata: x\n\n\r\n", "event {number}");
        }
        upstream.write_all(b"0\r\n\r\n").await.unwrap();
        assert_eq!(until(&mut caller, "\r\n\r\n").await, "0\r\n\r\n");
        assert_eq!(begun.elapsed(), 300 * SECOND);
        bench.fence().await;
        assert_eq!(bench.flags(), Vec::<String>::new());
    });
}

#[test]
fn an_answer_after_twenty_seconds_is_an_answer() {
    on_a_held_clock(async {
        let bench = Bench::start("http1").await;
        let (mut caller, mut upstream) = bench.asked().await;
        for _ in 0..20 {
            advance(SECOND).await;
            bench.fence().await;
        }
        upstream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
        let answer = until(&mut caller, "ok").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        bench.fence().await;
        assert_eq!(bench.flags(), Vec::<String>::new());
    });
}

/// A connection to weir.
async fn client(bench: &Bench) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(bench.weir).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::task::spawn_local(connection);
    sender.ready().await.unwrap()
}

#[test]
fn a_silent_stream_lives_for_299_seconds_and_not_for_301() {
    on_a_held_clock(async {
        let bench = Bench::start("http2").await;
        let request = Request::post("http://a/a.B/C").header("content-type", "application/grpc").header("te", "trailers");
        let (response, mut up) = client(&bench).await.send_request(request.body(()).unwrap(), false).unwrap();
        let (stream, _) = bench.upstream.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        tokio::task::spawn_local(async move { while connection.accept().await.is_some() {} });
        let mut heard = request.into_body();
        let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut down = respond.send_response(head, false).unwrap();
        let mut said = response.await.unwrap().into_body();

        for _ in 0..2 {
            // Each direction winds the clock; the last byte is the upstream's.
            up.send_data(Bytes::from_static(b"ping"), false).unwrap();
            assert_eq!(heard.data().await.unwrap().unwrap(), "ping");
            down.send_data(Bytes::from_static(b"pong"), false).unwrap();
            assert_eq!(said.data().await.unwrap().unwrap(), "pong");
            advance(299 * SECOND).await;
            bench.fence().await;
            let silent = poll_fn(|cx| Poll::Ready(said.poll_data(cx).is_pending())).await;
            assert!(silent, "it was ended after 299 s: {:?}", bench.flags());
            assert_eq!(bench.flags(), Vec::<String>::new());
        }

        advance(2 * SECOND).await;
        assert!(said.data().await.is_none(), "nothing more is said");
        let trailers = said.trailers().await.unwrap().unwrap();
        assert_eq!(trailers["grpc-status"], "4");
        bench.fence().await;
        let flags = bench.flags();
        assert_eq!(flags.len(), 1, "{flags:?}");
        assert!(flags[0].contains("flag=\"SI\"") && flags[0].ends_with(" 1"), "{flags:?}");
        assert!(heard.data().await.is_none_or(|data| data.is_err()), "the upstream is told as well");
    });
}

/// Many servers say nothing, not even a head, before their first message.
#[test]
fn a_stream_may_be_silent_from_the_first_moment() {
    on_a_held_clock(async {
        let bench = Bench::start("http2").await;
        let request = Request::post("http://a/a.B/C").header("content-type", "application/grpc").header("te", "trailers");
        let (mut response, mut up) = client(&bench).await.send_request(request.body(()).unwrap(), false).unwrap();
        let (stream, _) = bench.upstream.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let (request, _respond) = connection.accept().await.unwrap().unwrap();
        tokio::task::spawn_local(async move { while connection.accept().await.is_some() {} });
        let mut heard = request.into_body();
        up.send_data(Bytes::from_static(b"ping"), false).unwrap();
        assert_eq!(heard.data().await.unwrap().unwrap(), "ping");

        advance(299 * SECOND).await;
        bench.fence().await;
        let silent = poll_fn(|cx| Poll::Ready(Pin::new(&mut response).poll(cx).is_pending())).await;
        assert!(silent, "it was ended after 299 s: {:?}", bench.flags());
        advance(2 * SECOND).await;
        let answer = response.await.unwrap();
        assert_eq!(
            (&answer.headers()["grpc-status"], &answer.headers()["x-weir-error"]),
            (&"4".parse().unwrap(), &"idle_timeout".parse().unwrap())
        );
    });
}
