//! Failures that each version, with and without gRPC, meets in the same way.

use std::net::SocketAddr;

use weir_tests::dns::Dns;
use weir_tests::explained::{Explained, Explainer};
use weir_tests::nowhere::{Refusing, Silent};
use weir_tests::origin::full;
use weir_tests::wire::{self, Caller, Version};
use weir_tests::{Result, holds, same};

use super::bench::{Bench, ROUTE};
use super::faulty::Faulty;

/// A way to fail.
struct Mode {
    /// The path, and the rule for it.
    name: &'static str,
    host: &'static str,
    code: &'static str,
    /// A header that makes it fail, for gRPC another one.
    headers: [Option<(&'static str, &'static str)>; 2],
    /// What the rule has besides its backend.
    policy: &'static str,
    cluster: &'static str,
    /// Whether the caller pauses in the body.
    pauses: bool,
    explains: Explains,
}

/// What `explain` can know beforehand.
enum Explains {
    /// The error itself.
    Error,
    /// That there is no endpoint, and the error.
    NoEndpoint,
    /// That the endpoint's name has no address.
    Out,
    /// The endpoint that is tried, and a limit that it has.
    Limit(&'static str, &'static str),
    /// The rule; the request fails for a reason that only its bytes tell, before it goes anywhere.
    Rule,
}

const USUAL: Mode = Mode {
    name: "",
    host: ROUTE,
    code: "",
    headers: [None, None],
    policy: "",
    cluster: "faulty",
    pauses: false,
    explains: Explains::Limit("idle", "300s"),
};

const MODES: [Mode; 18] = [
    Mode { name: "no_route", code: "no_route", host: "nobody", explains: Explains::Error, ..USUAL },
    Mode { name: "no_rule", code: "no_rule", explains: Explains::Error, ..USUAL },
    Mode { name: "denied", code: "denied", explains: Explains::Error, ..USUAL },
    Mode { name: "no_endpoint", code: "no_endpoint", cluster: "empty", explains: Explains::NoEndpoint, ..USUAL },
    Mode { name: "dns_failure", code: "dns_failure", cluster: "unknown", explains: Explains::Out, ..USUAL },
    Mode {
        name: "connect_failed",
        code: "connect_failed",
        cluster: "refusing",
        explains: Explains::Limit("connect", "1s"),
        ..USUAL
    },
    Mode {
        name: "connect_timeout",
        code: "connect_timeout",
        cluster: "silent",
        explains: Explains::Limit("connect", "100ms"),
        ..USUAL
    },
    Mode { name: "upstream_closed", code: "upstream_closed", ..USUAL },
    Mode { name: "upstream_reset", code: "upstream_reset", ..USUAL },
    Mode {
        name: "retry_limit",
        code: "upstream_reset",
        policy: "retry: { attempts: 1, on: [reset], idempotent: true, backoff: { base: 1ms, max: 1ms } }",
        ..USUAL
    },
    Mode { name: "upstream_protocol", code: "upstream_protocol", ..USUAL },
    Mode { name: "large_head", code: "upstream_protocol", ..USUAL },
    Mode {
        name: "request_timeout",
        code: "request_timeout",
        policy: "timeout: { request: 150ms }",
        explains: Explains::Limit("request", "150ms"),
        ..USUAL
    },
    Mode {
        name: "callers_deadline",
        code: "request_timeout",
        headers: [Some(("x-request-timeout-ms", "150")), Some(("grpc-timeout", "150m"))],
        explains: Explains::Limit("request", "off"),
        ..USUAL
    },
    Mode {
        name: "per_try_timeout",
        code: "per_try_timeout",
        policy: "timeout: { per_try: 150ms }",
        explains: Explains::Limit("per_try", "150ms"),
        ..USUAL
    },
    Mode {
        name: "idle_timeout",
        code: "idle_timeout",
        policy: "timeout: { idle: 150ms }",
        explains: Explains::Limit("idle", "150ms"),
        ..USUAL
    },
    Mode {
        name: "deadline_exceeded",
        code: "deadline_exceeded",
        headers: [Some(("x-request-timeout-ms", "0")), Some(("grpc-timeout", "0m"))],
        explains: Explains::Rule,
        ..USUAL
    },
    Mode { name: "slow_body", code: "slow_body", pauses: true, ..USUAL },
];

/// Refused before a rule is looked for, though `explain` finds one.
const EXPECTATION: Mode = Mode {
    name: "bad_expectation",
    code: "bad_expectation",
    headers: [Some(("expect", "the-unexpected")), Some(("expect", "the-unexpected"))],
    explains: Explains::Rule,
    ..USUAL
};

/// Where requests go that fail on the way.
pub(super) struct Places {
    dns: Dns,
    refusing: Refusing,
    silent: Silent,
}

impl Places {
    pub(super) async fn take() -> Result<Self> {
        Ok(Self { dns: Dns::start().await?, refusing: Refusing::take()?, silent: Silent::fill().await? })
    }

    /// The configuration: a rule for each mode, and one for each that other files provoke.
    pub(super) fn yaml(&self, faulty: &Faulty) -> String {
        let rule = |name: &str, path: &str, cluster: &str, policy: &str| {
            format!(
                "      - {{ name: {name}, match: [{{ path: {{ exact: {path} }} }}], backends: [{{ cluster: {cluster} }}], {policy} }}\n"
            )
        };
        let modes = MODES.iter().chain([&EXPECTATION]).filter(|mode| mode.host == ROUTE && mode.name != "no_rule");
        let mut rules: String =
            modes.map(|mode| rule(mode.name, &format!("/{}", mode.name), mode.cluster, mode.policy)).collect();
        for (name, path) in [("connect_refused", "/"), ("bad_chunk", "/bad_chunk"), ("downstream_gone", "/downstream_gone")] {
            rules.push_str(&rule(name, path, "faulty", ""));
        }
        for (name, policy) in super::severed::RULES {
            rules.push_str(&rule(&format!("cut_{name}"), &format!("/cut/{name}"), "faulty", policy));
        }
        format!(
            "workers: 1
dns: {{ servers: ['{0}'] }}
listeners:
  - {{ name: out, listen: 127.0.0.1:0, direction: outbound, limits: {{ header_read: 150ms, body_read: 150ms }} }}
  - {{ name: narrow, listen: 127.0.0.1:0, direction: inbound, app: '{1}', limits: {{ connections: 1 }} }}
routes:
  - name: {ROUTE}
    hosts: [{ROUTE}]
    rules:
{rules}clusters:
  faulty: {{ endpoints: ['{1}'], protocol: http1 }}
  refusing: {{ endpoints: ['{2}'] }}
  silent: {{ endpoints: ['{3}'], connect_timeout: 100ms }}
  empty: {{ endpoints: [] }}
  unknown: {{ endpoints: ['gone.test:80'] }}
authorization:
  - {{ name: nobody, listeners: [out], action: deny, to: [{{ paths: [{{ exact: /denied }}] }}] }}
",
            self.dns.address, faulty.address, self.refusing.address, self.silent.address
        )
    }

    fn address(&self, cluster: &str, faulty: &Faulty) -> Option<SocketAddr> {
        match cluster {
            "faulty" => Some(faulty.address),
            "refusing" => Some(self.refusing.address),
            "silent" => Some(self.silent.address),
            _ => None,
        }
    }
}

/// Provokes every mode over both versions, with and without gRPC.
pub(super) async fn provoke(bench: &mut Bench, places: &Places) -> Result {
    let mut explainer = Explainer::open(bench.weir.admin).await?;
    for mode in MODES.iter().chain([&EXPECTATION]) {
        let upstream = places.address(mode.cluster, &bench.faulty);
        let headers: Vec<String> = mode.headers[0].iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let explained = explainer.ask("POST", &format!("http://{}/{}", mode.host, mode.name), &headers).await?;
        explains(bench, mode, upstream, &explained).map_err(|error| format!("{}: {error}\n{explained:?}", mode.name))?;
        for version in [Version::One, Version::Two] {
            // A gRPC stream may be silent from its first moment.
            for grpc in [false, true].into_iter().filter(|grpc| !(*grpc && mode.pauses)) {
                let what = format!("{} over {version:?}, gRPC {grpc}", mode.name);
                fail(bench, mode, version, grpc, upstream).await.map_err(|error| format!("{what}: {error}"))?;
            }
        }
    }
    Ok(())
}

fn explains(bench: &Bench, mode: &Mode, upstream: Option<SocketAddr>, explained: &Explained) -> Result {
    let row = bench.catalogue.row(mode.code);
    let said = format!("{} {}", row.status, mode.code);
    if let Explains::Error = mode.explains {
        same!(explained.section("Answer").first().map(|(name, _)| *name), Some(&*said));
        same!(explained.rule(), None);
        return Ok(());
    }
    same!(explained.rule(), Some((ROUTE, mode.name)));
    let endpoints = explained.section("Endpoints");
    same!(endpoints.len(), 1);
    match mode.explains {
        Explains::Error | Explains::Rule => {}
        Explains::NoEndpoint => holds!(endpoints[0].1.ends_with(&said), "{endpoints:?}"),
        Explains::Out => holds!(endpoints[0].1.starts_with("out: "), "{endpoints:?}"),
        Explains::Limit(clock, limit) => {
            same!(explained.value("Timeouts", clock), Some(limit));
            same!(Some(endpoints[0].0), upstream.map(|address| address.to_string()).as_deref());
        }
    }
    Ok(())
}

async fn fail(bench: &mut Bench, mode: &Mode, version: Version, grpc: bool, upstream: Option<SocketAddr>) -> Result {
    let id = bench.fresh_id();
    let mut caller = Caller::open(bench.weir.address("out"), version).await?;
    let mut request = caller.request("POST", &format!("/{}", mode.name)).header("x-request-id", &id);
    if let Some((name, value)) = mode.headers[usize::from(grpc)] {
        request = request.header(name, value);
    }
    if grpc {
        request = request.header("content-type", "application/grpc").header("te", "trailers");
    }
    let (feed, body) = wire::fed();
    feed.data("part of it");
    // Fed by nobody any more, it never ends; else it is whole.
    let (mut request, feed) = if mode.pauses { (request.body(body)?, Some(feed)) } else { (request.body(full(""))?, None) };
    if mode.host != ROUTE {
        match version {
            Version::One => drop(request.headers_mut().insert("host", mode.host.parse()?)),
            Version::Two => *request.uri_mut() = format!("http://{}/{}", mode.host, mode.name).parse()?,
        }
    }
    let answer = caller.exchange(request).await?;
    drop(feed);
    let row = bench.catalogue.row(mode.code).clone();
    let wanted = grpc.then_some(row.grpc);
    answer.is_weirs(mode.code, row.status, wanted).map_err(|error| format!("{error}\n{answer:?}"))?;
    same!(answer.all("x-request-id"), [&*id]);

    let failed = bench.note(format!("{} over {version:?}, gRPC {grpc}", mode.name), id, mode.code);
    if grpc {
        (failed.status, failed.grpc) = (200, Some(wanted));
    }
    let matched = !matches!(mode.explains, Explains::Error) && mode.name != EXPECTATION.name;
    failed.rule = matched.then_some((mode.name, mode.cluster));
    if let Explains::Limit(..) = mode.explains {
        failed.upstream = upstream.map(|address| address.to_string());
    }
    failed.retried = mode.name == "retry_limit";
    Ok(())
}
