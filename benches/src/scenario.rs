//! What is measured: each scenario as data, with what weir promises in it.

use std::time::Duration;

use crate::contestant::Shape;
use crate::figures::Metric;
use crate::load::Ask;
use crate::origin::{ONE_MIB, Role, TEN_KIB};

/// One comparison.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// As the command line calls it.
    pub name: &'static str,
    /// In one line.
    pub about: &'static str,
    /// What the proxies speak.
    pub shape: Shape,
    /// Where requests end.
    pub origin: Role,
    /// What is done.
    pub work: Work,
    /// Hosts that the proxies know by name. Where there are several numbers, every contestant takes part with each.
    pub hosts: &'static [usize],
    /// What weir promises.
    pub promises: Vec<Promise>,
    /// Left out unless asked for by name: it takes long, or says little new.
    pub only_by_name: bool,
}

/// What is done in a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// wrk, closed loop. `fresh`: each request has a connection of its own.
    Wrk {
        /// What is asked.
        request: Request,
        /// Connections.
        connections: u32,
        /// A connection for each request.
        fresh: bool,
    },
    /// h2load, closed loop.
    H2load {
        /// Connections.
        connections: u32,
        /// Streams on each.
        streams: u32,
        /// Calls with a message, and trailers in the answer.
        grpc: bool,
    },
    /// Our own, closed loop, for large bodies; figures for each GB.
    Bodies {
        /// What is asked.
        request: Request,
        /// Connections.
        connections: usize,
    },
    /// Our own, at a fixed rate.
    Fixed {
        /// Requests in a second.
        rate: u32,
    },
    /// Bytes through one connection.
    Stream,
    /// Small messages there and back.
    Exchange,
    /// Connections that wait.
    Idle {
        /// How many.
        connections: usize,
    },
    /// From exec to the first answer.
    Start,
    /// New routes twice a second, at a fixed rate.
    Reload {
        /// Requests in a second.
        rate: u32,
    },
    /// Many connections with large bodies at once, and the memory after they are gone.
    Burst {
        /// How many.
        connections: usize,
    },
    /// 70 % of what it can do, for 20 minutes.
    Soak,
}

impl Work {
    /// What warms a contestant up for it: reloads would be warm-up for nothing.
    pub fn warm_up(self) -> Self {
        match self {
            Self::Reload { rate } => Self::Fixed { rate },
            work => work,
        }
    }

    /// What it is about above all.
    pub fn main_metric(self) -> Metric {
        match self {
            Self::Wrk { .. } | Self::H2load { .. } | Self::Exchange => Metric::CpuPerRequest,
            Self::Bodies { .. } | Self::Stream => Metric::CpuPerGb,
            Self::Fixed { .. } | Self::Reload { .. } => Metric::P99,
            Self::Idle { .. } => Metric::PerConnection,
            Self::Start => Metric::FirstAnswer,
            Self::Burst { .. } => Metric::Kept,
            Self::Soak => Metric::Growth,
        }
    }
}

/// Which request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// A small answer.
    Small,
    /// An answer of 10 KiB.
    Get10k,
    /// An answer of 1 MiB.
    Get1m,
    /// A body of 10 KiB.
    Put10k,
    /// A body of 1 MiB.
    Put1m,
    /// One of the hosts known by name.
    Named,
}

impl Request {
    /// The request.
    pub fn ask(self) -> Ask {
        match self {
            Self::Small => Ask::PLAIN,
            Self::Get10k => Ask { path: "/files/10k", ..Ask::PLAIN },
            Self::Get1m => Ask { path: "/files/1m", ..Ask::PLAIN },
            Self::Put10k => Ask { body: TEN_KIB, ..Ask::PLAIN },
            Self::Put1m => Ask { body: ONE_MIB, ..Ask::PLAIN },
            Self::Named => Ask { host: "service-4711.mesh.local", ..Ask::PLAIN },
        }
    }

    /// Bytes of bodies that a request moves, in either direction.
    pub fn bytes(self) -> usize {
        match self {
            Self::Get10k | Self::Put10k => TEN_KIB,
            Self::Get1m | Self::Put1m => ONE_MIB,
            Self::Small | Self::Named => 100,
        }
    }
}

/// What must hold for the first weir of a run.
#[derive(Debug, Clone, Copy)]
pub struct Promise {
    /// Of what.
    pub metric: Metric,
    /// Not more than this.
    pub limit: f64,
    /// Times that of whom; of the best of them. `itself` is weir with the first number of hosts. An absolute limit, if nobody
    /// is named.
    pub against: &'static [&'static str],
}

fn at_most(metric: Metric, limit: f64, against: &'static [&'static str]) -> Promise {
    Promise { metric, limit, against }
}

use Metric::{CpuPerGb, CpuPerRequest, Errors, FirstAnswer, Growth, Idle, Kept, P99, PerConnection};
use Shape::{H1H1, H1H2, H2H1, H2H2, MtlsH1, MtlsH2, Policies, Tcp};

impl Scenario {
    fn new(name: &'static str, about: &'static str, shape: Shape, work: Work, promises: Vec<Promise>) -> Self {
        Self { name, about, shape, origin: Role::Answers, work, hosts: &[0], promises, only_by_name: false }
    }

    fn with_origin(mut self, origin: Role) -> Self {
        self.origin = origin;
        self
    }

    fn with_hosts(mut self, hosts: &'static [usize]) -> Self {
        self.hosts = hosts;
        self
    }

    fn by_name(mut self) -> Self {
        self.only_by_name = true;
        self
    }

    /// How many rounds of it there are, if not as many as were asked for.
    pub fn rounds(&self, asked: usize) -> usize {
        match self.work {
            Work::Burst { .. } | Work::Soak => 1,
            Work::Idle { .. } => asked.min(3),
            _ => asked,
        }
    }

    /// How long a round of it lasts, if not as long as was asked for.
    pub fn time(&self, asked: Duration) -> Duration {
        match self.work {
            // The shares of a slow tail need requests to show.
            Work::Fixed { .. } | Work::Reload { .. } => asked.max(Duration::from_secs(2)),
            _ => asked,
        }
    }
}

const GRPC: Work = Work::H2load { connections: 8, streams: 32, grpc: true };
const STREAMS: Work = Work::H2load { connections: 8, streams: 32, grpc: false };

fn wrk(request: Request, fresh: bool) -> Work {
    Work::Wrk { request, connections: 64, fresh }
}

/// All of them, in the order of the report.
pub fn all() -> Vec<Scenario> {
    [small(), large(), steady(), process()].concat()
}

/// Small messages, as many as can be.
fn small() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "http1",
            "HTTP/1.1, 64 keep-alive connections, small bodies",
            H1H1,
            wrk(Request::Small, false),
            vec![
                at_most(CpuPerRequest, 1.05, &["nginx", "haproxy"]),
                at_most(CpuPerRequest, 0.35, &["envoy"]),
                at_most(P99, 1.2, &["haproxy"]),
                at_most(Idle, 8.0, &[]),
            ],
        ),
        Scenario::new(
            "connect",
            "HTTP/1.1, a new connection for each request",
            H1H1,
            wrk(Request::Small, true),
            vec![at_most(CpuPerRequest, 1.2, &["haproxy"])],
        ),
        Scenario::new(
            "http2",
            "HTTP/2 on both sides, 8 connections of 32 streams",
            H2H2,
            STREAMS,
            vec![at_most(CpuPerRequest, 1.15, &["haproxy"]), at_most(CpuPerRequest, 0.40, &["envoy"])],
        )
        .with_origin(Role::Streams),
        Scenario::new("grpc", "gRPC: calls of one message, 8 connections of 32 streams", H2H2, GRPC, vec![])
            .with_origin(Role::Grpc),
        Scenario::new(
            "http2-to-http1",
            "HTTP/2 in, HTTP/1.1 out, 8 connections of 32 streams",
            H2H1,
            STREAMS,
            vec![at_most(CpuPerRequest, 1.25, &["haproxy"])],
        ),
        Scenario::new("http1-to-http2", "HTTP/1.1 in, HTTP/2 out, 64 connections", H1H2, wrk(Request::Small, false), vec![])
            .with_origin(Role::Streams),
        Scenario::new(
            "policies",
            "HTTP/1.1 with matches, weights, timeouts, retries, header changes and an access log, 64 connections",
            Policies,
            wrk(Request::Small, false),
            vec![],
        ),
        Scenario::new(
            "mtls-h2",
            "two proxies with mutual TLS and HTTP/2 between them, HTTP/1.1 in and out, 64 connections; CPU and memory of both",
            MtlsH2,
            wrk(Request::Small, false),
            vec![at_most(CpuPerRequest, 1.15, &["haproxy"]), at_most(CpuPerRequest, 0.40, &["envoy"])],
        ),
        Scenario::new(
            "mtls-h1",
            "the same with HTTP/1.1 between them",
            MtlsH1,
            wrk(Request::Small, false),
            vec![at_most(CpuPerRequest, 0.40, &["envoy"])],
        ),
        Scenario::new("get-10k", "HTTP/1.1, answers of 10 KiB, 64 connections", H1H1, wrk(Request::Get10k, false), vec![]),
        Scenario::new("put-10k", "HTTP/1.1, requests of 10 KiB, 64 connections", H1H1, wrk(Request::Put10k, false), vec![])
            .with_origin(Role::Sink),
    ]
}

/// Bytes by the GB, and opaque ones.
fn large() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "get-1m",
            "HTTP/1.1, answers of 1 MiB, 16 connections",
            H1H1,
            Work::Bodies { request: Request::Get1m, connections: 16 },
            vec![at_most(CpuPerGb, 1.15, &["haproxy"])],
        ),
        Scenario::new(
            "put-1m",
            "HTTP/1.1, requests of 1 MiB, 16 connections",
            H1H1,
            Work::Bodies { request: Request::Put1m, connections: 16 },
            vec![at_most(CpuPerGb, 0.9, &["haproxy"])],
        )
        .with_origin(Role::Sink),
        Scenario::new(
            "tcp",
            "opaque TCP, one connection at full speed",
            Tcp,
            Work::Stream,
            vec![at_most(CpuPerGb, 0.9, &["haproxy"])],
        )
        .with_origin(Role::Bytes { echo: false }),
        Scenario::new(
            "tcp-messages",
            "opaque TCP, messages of 200 bytes there and back, 16 connections",
            Tcp,
            Work::Exchange,
            vec![],
        )
        .with_origin(Role::Bytes { echo: true }),
    ]
}

/// Fixed rates, and what must not disturb them.
fn steady() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "rate-1k",
            "HTTP/1.1 at 1,000 requests a second",
            H1H1,
            Work::Fixed { rate: 1000 },
            vec![at_most(P99, 1.1, &["nginx"])],
        ),
        Scenario::new(
            "rate-5k",
            "HTTP/1.1 at 5,000 requests a second",
            H1H1,
            Work::Fixed { rate: 5000 },
            vec![at_most(P99, 1.1, &["nginx"])],
        ),
        Scenario::new(
            "reload",
            "new routes twice a second, HTTP/1.1 at 1,000 requests a second",
            H1H1,
            Work::Reload { rate: 1000 },
            vec![at_most(Errors, 0.0, &[])],
        ),
        Scenario::new(
            "routes",
            "HTTP/1.1, one route, and one of 10,000 routes by host",
            H1H1,
            wrk(Request::Named, false),
            vec![at_most(CpuPerRequest, 1.05, &["itself"])],
        )
        .with_hosts(&[0, 10_000]),
    ]
}

/// The process: its start and its memory.
fn process() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "start",
            "from exec to the first answer through the proxy",
            H1H1,
            Work::Start,
            vec![at_most(FirstAnswer, 15.0, &[])],
        ),
        Scenario::new(
            "idle-1k",
            "1,000 connections that have been used and wait",
            H1H1,
            Work::Idle { connections: 1000 },
            vec![at_most(PerConnection, 6.0, &[])],
        ),
        Scenario::new(
            "idle-10k",
            "10,000 connections that have been used and wait",
            H1H1,
            Work::Idle { connections: 10_000 },
            vec![at_most(PerConnection, 6.0, &[])],
        ),
        Scenario::new(
            "burst",
            "5,000 connections at once with bodies of 1 MiB, and the memory 30 s after they are gone",
            H1H1,
            Work::Burst { connections: 5000 },
            vec![at_most(Kept, 1.5, &[])],
        ),
        Scenario::new(
            "soak",
            "20 minutes at 70 % load, and the memory at the end beside that after two minutes",
            H1H1,
            Work::Soak,
            vec![at_most(Growth, 1.05, &[])],
        )
        .by_name(),
    ]
}
