//! What the admin and probes servers show.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, ORIGIN};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use weir_config::explain::{Asked, Question, explain};
use weir_config::path::strip_port;
use weir_config::snapshot::{Action, Snapshot, Target, UpstreamTls};

use super::LogLevel;
use crate::lifecycle::Ask;
use crate::observe::expose;
use crate::state::Shared;

/// Which server a request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    /// Admin on a loopback address.
    AdminTcp,
    /// Admin on a Unix socket.
    AdminUnix,
    /// Probes.
    Probes,
}

/// Answers requests of one server.
#[derive(Clone)]
pub(super) struct Pages {
    pub(super) shared: Arc<Shared>,
    pub(super) level: LogLevel,
    pub(super) ask: mpsc::Sender<Ask>,
    pub(super) door: Door,
}

const HELP: &str = "weir admin\n\n\
    GET  /ready      200 when every listener accepts\n\
    GET  /live       200 while the process runs\n\
    GET  /metrics    Prometheus metrics\n\
    GET  /config     the configuration that serves, and what became of the newest one offered\n\
    GET  /clusters   clusters, endpoints and names\n\
    GET  /certs      who this proxy is in the mesh, until when, and whom it believes\n\
    GET  /explain?url=http://host/path&method=GET&header=name:value&listener=name&to=address:port&from=spiffe-id&address=address\n\
    \x20               where such a request goes, and why\n\
    GET  /advise/strict?within=3600   whether inbound listeners may be strict (409 if not), and who is in the way\n\
    GET  /log        the level of weir's own log\n\
    POST /log?level=debug      change it\n\
    POST /reload               read the configuration file now\n\
    POST /drain                say goodbye to callers and accept on, for preStop hooks\n\
    POST /shutdown             finish what is in flight and leave\n";

type Page = Response<Full<Bytes>>;

impl Pages {
    /// Answers one request.
    pub(super) fn answer<B>(&self, request: &Request<B>) -> Page {
        if self.door == Door::AdminTcp && !is_local(request.headers()) {
            return text(StatusCode::FORBIDDEN, "the Host header must name this machine: localhost, 127.0.0.1 or [::1]\n");
        }
        let path = request.uri().path();
        let admin = self.door != Door::Probes;
        match (path, request.method()) {
            ("/ready" | "/live" | "/metrics", &Method::GET | &Method::HEAD) => self.probe(path),
            ("/" | "/help", &Method::GET) if admin => text(StatusCode::OK, HELP),
            ("/config", &Method::GET) if admin => self.config(),
            ("/clusters", &Method::GET) if admin => self.clusters(),
            ("/certs", &Method::GET) if admin => self.certs(),
            ("/advise/strict", &Method::GET) if admin => self.advise(request.uri().query().unwrap_or("")),
            ("/explain", &Method::GET) if admin => self.explain(request.uri().query().unwrap_or("")),
            ("/log", &Method::GET) if admin => text(StatusCode::OK, &format!("{}\n", (self.level.get)())),
            ("/log", &Method::POST) if admin => self.set_level(request.uri().query().unwrap_or("")),
            ("/reload", &Method::POST) if admin => {
                self.ask(Ask::Reload, "reading the configuration file; see /config for what became of it\n")
            }
            ("/drain", &Method::POST) if admin => self.ask(Ask::Drain, "draining; SIGTERM or POST /shutdown ends it\n"),
            ("/shutdown", &Method::POST) if admin => self.ask(Ask::Leave, "leaving as soon as nothing is in flight\n"),
            ("/ready" | "/live" | "/metrics", _) => not_allowed("GET"),
            ("/" | "/help" | "/config" | "/clusters" | "/certs" | "/explain" | "/advise/strict", _) if admin => {
                not_allowed("GET")
            }
            ("/log", _) if admin => not_allowed("GET, POST"),
            ("/reload" | "/drain" | "/shutdown", _) if admin => not_allowed("POST"),
            _ => text(StatusCode::NOT_FOUND, "there is no such page; see /help on the admin server\n"),
        }
    }

    fn probe(&self, path: &str) -> Page {
        match path {
            "/metrics" => {
                let mut page = text(StatusCode::OK, &expose::text(&self.shared));
                page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(expose::CONTENT_TYPE));
                page
            }
            "/ready" if self.shared.draining.load(Ordering::Acquire) => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
            "/ready" if !self.shared.ready.load(Ordering::Acquire) => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            "/ready" => text(StatusCode::OK, "ready\n"),
            _ => text(StatusCode::OK, "live\n"),
        }
    }

    fn config(&self) -> Page {
        let published = self.shared.store.load();
        let status = self.shared.config_status();
        json_page(&json!({
            "generation": published.generation,
            "published": unix(published.since),
            "newest": {
                "rejected": !status.mistakes.is_empty(),
                "mistakes": status.mistakes,
                "needs_restart": status.needs_restart,
                "checked": status.checked.map(unix),
            },
            "updates": { "published": status.published, "rejected": status.rejected, "unchanged": status.unchanged },
            "listeners": published.snapshot.listeners.iter().map(|listener| json!({
                "name": listener.name,
                "listen": weir_config::explain::listed(&listener.addresses),
                "direction": format!("{:?}", listener.direction).to_lowercase(),
            })).collect::<Vec<_>>(),
            "routes": routes(&published.snapshot),
            "source": published.source,
        }))
    }

    fn explain(&self, query: &str) -> Page {
        let (mut asked, mut json) = (Asked::default(), false);
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            let place = match &*key {
                "method" => &mut asked.method,
                "url" => &mut asked.url,
                "listener" => &mut asked.listener,
                "to" => &mut asked.to,
                "from" => &mut asked.from,
                "address" => &mut asked.address,
                "header" => {
                    asked.headers.push(value.into_owned());
                    continue;
                }
                "json" => {
                    json = value == "true";
                    continue;
                }
                other => return text(StatusCode::BAD_REQUEST, &format!("`{other}` is not understood; see /help\n")),
            };
            *place = Some(value.into_owned());
        }
        let published = self.shared.store.load();
        let states = |cluster: &weir_config::snapshot::Cluster| Some(self.states(cluster));
        let explained = Question::parse(&asked).and_then(|mut question| {
            question.from.own_domain = self.shared.tls.current().as_ref().map(|own| own.id.trust_domain().to_owned());
            explain(&published.snapshot, &published.source, &question, fastrand::u64(..), &states)
        });
        match explained {
            Ok(explained) if json => json_page(&explained.json()),
            Ok(explained) => text(StatusCode::OK, &explained.text(&self.shared.config_name)),
            Err(why) => text(StatusCode::BAD_REQUEST, &format!("{why}\n")),
        }
    }

    /// What is known of a cluster's endpoints.
    fn states(&self, cluster: &weir_config::snapshot::Cluster) -> Vec<(String, String)> {
        let mut states = Vec::new();
        for endpoint in &cluster.endpoints {
            let weight = endpoint.weight;
            match &endpoint.target {
                Target::Address(address) => states.push((address.to_string(), format!("in, weight {weight}"))),
                Target::Name { host, port } => {
                    let resolved = self.shared.discovery.get(host);
                    let addresses = resolved.addresses();
                    for address in addresses.iter() {
                        let address = std::net::SocketAddr::new(*address, *port);
                        states.push((address.to_string(), format!("in, weight {weight}, an address of {host}")));
                    }
                    if addresses.is_empty() {
                        let why = resolved.error().unwrap_or_else(|| "it has no addresses".to_owned());
                        states.push((format!("{host}:{port}"), format!("out: {why}")));
                    }
                }
            }
        }
        states
    }

    fn advise(&self, query: &str) -> Page {
        let (mut within, mut json) = (Duration::from_secs(3600), false);
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match (&*key, value.parse()) {
                ("within", Ok(seconds)) => within = Duration::from_secs(seconds),
                ("json", _) => json = value == "true",
                _ => return text(StatusCode::BAD_REQUEST, &format!("`{key}={value}` is not understood; see /help\n")),
            }
        }
        let (said, safe) = super::advice::strict(&self.shared, within, json);
        let status = if safe { StatusCode::OK } else { StatusCode::CONFLICT };
        let content_type = if json { "application/json" } else { "text/plain; charset=utf-8" };
        page(status, content_type, Bytes::from(said))
    }

    fn clusters(&self) -> Page {
        let published = self.shared.store.load();
        let clusters: Vec<Value> = published.snapshot.clusters.iter().map(|cluster| self.cluster(cluster)).collect();
        json_page(&json!({ "generation": published.generation, "clusters": clusters }))
    }

    fn certs(&self) -> Page {
        let current = self.shared.tls.current();
        let Some(identity) = &*current else {
            return json_page(&json!({ "identity": null, "why": "the configuration has no `identity`" }));
        };
        let status = self.shared.tls.status();
        let trust: serde_json::Map<String, Value> =
            identity.trust_domains().into_iter().map(|(name, roots)| (name.to_owned(), roots.into())).collect();
        let moment = httpdate::fmt_http_date;
        json_page(&json!({
            "identity": identity.id.as_str(),
            "serial": identity.serial,
            "not_before": moment(identity.not_before),
            "not_after": moment(identity.not_after),
            "valid": identity.is_valid(SystemTime::now()),
            "in_use_since": moment(identity.loaded),
            "trust_domains": trust,
            "taken": status.taken,
            "rejected": status.rejected,
            "error": status.error,
        }))
    }

    fn cluster(&self, cluster: &weir_config::snapshot::Cluster) -> Value {
        let endpoints = cluster.endpoints.iter().map(|endpoint| match &endpoint.target {
            Target::Address(address) => json!({ "address": address.to_string(), "weight": endpoint.weight }),
            Target::Name { host, port } => {
                let resolved = self.shared.discovery.get(host);
                let addresses: Vec<String> = resolved.addresses().iter().map(ToString::to_string).collect();
                json!({
                    "name": host, "port": port, "weight": endpoint.weight,
                    "addresses": addresses, "resolved": resolved.is_known(), "error": resolved.error(),
                })
            }
        });
        json!({
            "name": cluster.name,
            "protocol": format!("{:?}", cluster.protocol).to_lowercase(),
            "tls": cluster.tls.as_ref().map(|tls| match tls {
                UpstreamTls::Mesh { peers: None } => json!({ "mesh": "own trust domain" }),
                UpstreamTls::Mesh { peers: Some(peers) } => json!({ "mesh": peers.iter().map(ToString::to_string).collect::<Vec<_>>() }),
                UpstreamTls::Server(server) => json!({ "server_name": server.name, "insecure": server.insecure }),
            }),
            "balance": format!("{:?}", cluster.balance),
            "connect_timeout_ms": u64::try_from(cluster.connect_timeout.as_millis()).unwrap_or(u64::MAX),
            "endpoints": endpoints.collect::<Vec<_>>(),
        })
    }

    fn set_level(&self, query: &str) -> Page {
        let Some(level) = query.split('&').find_map(|pair| pair.strip_prefix("level=")) else {
            return text(StatusCode::BAD_REQUEST, "write POST /log?level=debug (or error, warn, info, trace, weir=trace)\n");
        };
        match (self.level.set)(level) {
            Ok(()) => text(StatusCode::OK, &format!("{}\n", (self.level.get)())),
            Err(why) => text(StatusCode::BAD_REQUEST, &format!("`{level}` is not a level: {why}\n")),
        }
    }

    fn ask(&self, ask: Ask, said: &str) -> Page {
        // Full means that enough was asked for already.
        let _ = self.ask.try_send(ask);
        text(StatusCode::ACCEPTED, said)
    }
}

fn routes(snapshot: &Snapshot) -> Vec<Value> {
    let rules = snapshot.rules.iter().map(|rule| {
        let action = match &rule.action {
            Action::Forward(split) => {
                let share = |(place, backend): (usize, &weir_config::snapshot::Backend)| {
                    json!({ "cluster": snapshot.cluster(backend.cluster).name, "weight": split.weights.weight(place) })
                };
                json!({ "backends": split.backends.iter().enumerate().map(share).collect::<Vec<_>>() })
            }
            Action::Redirect(redirect) => json!({ "redirect": redirect.status.as_u16() }),
            Action::Respond(respond) => json!({ "respond": respond.status.as_u16() }),
        };
        json!({ "route": snapshot.route(rule.route).name, "rule": rule.name, "action": action })
    });
    rules.collect()
}

fn unix(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Whether the request was meant for this machine: a rebound name shows in `Host`, a foreign page in `Origin`.
fn is_local(headers: &HeaderMap) -> bool {
    const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];
    let local = |authority: &str| NAMES.iter().any(|name| strip_port(authority).eq_ignore_ascii_case(name));
    let mut hosts = headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().is_ok_and(local),
        _ => false,
    };
    let origin = match headers.get(ORIGIN).map(HeaderValue::to_str) {
        None => true,
        Some(origin) => origin.ok().and_then(|origin| origin.split_once("://")).is_some_and(|(_, authority)| local(authority)),
    };
    host && origin
}

fn not_allowed(allowed: &'static str) -> Page {
    let mut page = text(StatusCode::METHOD_NOT_ALLOWED, &format!("this page takes {allowed}\n"));
    page.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    page
}

fn text(status: StatusCode, body: &str) -> Page {
    page(status, "text/plain; charset=utf-8", Bytes::copy_from_slice(body.as_bytes()))
}

fn json_page(value: &Value) -> Page {
    let body = serde_json::to_vec_pretty(value).unwrap_or_default();
    page(StatusCode::OK, "application/json", Bytes::from(body))
}

pub(super) fn page(status: StatusCode, content_type: &'static str, body: Bytes) -> Page {
    let mut page = Response::new(Full::new(body));
    *page.status_mut() = status;
    page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    page
}
