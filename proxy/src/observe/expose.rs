//! The Prometheus text of all metrics. Built at scrape, on the control thread.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{SystemTime, UNIX_EPOCH};

use super::metrics::{BOUNDS_US, CLASSES, Cell, ClusterShard, Histogram, ListenerShard, Metrics, RuleKey, RuleShard};
use weir_config::policy::Denied;

use crate::error::Flag;
use crate::state::Shared;
use crate::tls::Refusal;

/// The content type of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }
    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (place, (label, value)) in labels.iter().enumerate() {
            self.0.push(if place == 0 { '{' } else { ',' });
            let _ = write!(self.0, "{label}=\"");
            for c in value.chars() {
                match c {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }
    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, kind, help);
        self.line(name, &[], value);
    }
}

/// All metrics as text.
pub fn text(shared: &Shared) -> String {
    let mut out = Text(String::with_capacity(16 << 10));
    let metrics = &shared.metrics;
    rules(&mut out, metrics);
    clusters(&mut out, metrics);
    listeners(&mut out, metrics);
    config(&mut out, shared);
    identity(&mut out, shared);
    own(&mut out, shared);
    process(&mut out, shared);
    out.0
}

fn sum<S>(shards: &[Arc<S>], pick: impl Fn(&S) -> &Cell) -> u64 {
    shards.iter().map(|shard| pick(shard).get()).sum()
}

type Rows = Vec<(RuleKey, Vec<Arc<RuleShard>>)>;

fn labels(key: &RuleKey) -> [(&'static str, &str); 3] {
    [("route", &key.route), ("rule", &key.rule), ("cluster", &key.cluster)]
}

fn rules(out: &mut Text, metrics: &Metrics) {
    let mut rows: Rows = Vec::new();
    metrics.rules.visit(|key, shards| rows.push((key.clone(), shards.to_vec())));
    let name = "weir_requests_total";
    out.head(name, "counter", "Requests finished, by class of status (none: no status was sent).");
    for (key, shards) in &rows {
        for (place, class) in ["none", "1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().enumerate() {
            let value = sum(shards, |shard| &shard.classes[place]);
            // The two classes everybody alerts on are always there, so that rates have a first value.
            if value > 0 || class == "2xx" || class == "5xx" {
                let [route, rule, cluster] = labels(key);
                out.line(name, &[route, rule, cluster, ("code", class)], value);
            }
        }
    }
    let name = "weir_grpc_requests_total";
    out.head(name, "counter", "gRPC requests finished, by gRPC status (none: no status was seen).");
    for (key, shards) in &rows {
        for place in 0..18 {
            let value = sum(shards, |shard| &shard.grpc[place]);
            if value > 0 {
                let [route, rule, cluster] = labels(key);
                let code = if place == 17 { "none".to_owned() } else { place.to_string() };
                out.line(name, &[route, rule, cluster, ("grpc_code", &code)], value);
            }
        }
    }
    let name = "weir_request_flags_total";
    out.head(name, "counter", "Requests that failed in weir or on the way, by Envoy's response flag.");
    for (key, shards) in &rows {
        for flag in Flag::ALL {
            let value = sum(shards, |shard| &shard.flags[*flag as usize]);
            if value > 0 {
                let [route, rule, cluster] = labels(key);
                out.line(name, &[route, rule, cluster, ("flag", flag.letters())], value);
            }
        }
    }
    histogram(
        out,
        &rows,
        "weir_request_duration_seconds",
        "From the head of the request to the last byte of the response.",
        |s| &s.duration,
    );
    histogram(out, &rows, "weir_response_head_seconds", "From the head of the request to the head of the response.", |s| {
        &s.first_byte
    });
    type Pick = fn(&RuleShard) -> &Cell;
    let plain: [(&str, &str, &str, Pick); 3] = [
        ("weir_request_bytes_total", "counter", "Bytes of request bodies.", |s| &s.bytes_in),
        ("weir_response_bytes_total", "counter", "Bytes of response bodies.", |s| &s.bytes_out),
        ("weir_requests_active", "gauge", "Requests in flight.", |s| &s.active),
    ];
    for (name, kind, help, pick) in plain {
        out.head(name, kind, help);
        for (key, shards) in &rows {
            out.line(name, &labels(key), sum(shards, pick));
        }
    }
}

fn histogram(out: &mut Text, rows: &Rows, name: &str, help: &str, pick: impl Fn(&RuleShard) -> &Histogram) {
    out.head(name, "histogram", help);
    let (bucket, total, count_name) = (format!("{name}_bucket"), format!("{name}_sum"), format!("{name}_count"));
    for (key, shards) in rows {
        let [route, rule, cluster] = labels(key);
        let mut count = 0;
        for place in 0..=BOUNDS_US.len() {
            count += sum(shards, |shard| &pick(shard).buckets[place]);
            let le = BOUNDS_US.get(place).map_or("+Inf".to_owned(), |us| (*us as f64 / 1e6).to_string());
            out.line(&bucket, &[route, rule, cluster, ("le", &le)], count);
        }
        let sum_us = sum(shards, |shard| &pick(shard).sum_us);
        out.line(&total, &[route, rule, cluster], sum_us as f64 / 1e6);
        out.line(&count_name, &[route, rule, cluster], count);
    }
}

fn clusters(out: &mut Text, metrics: &Metrics) {
    let mut rows: Vec<(Box<str>, Vec<Arc<ClusterShard>>)> = Vec::new();
    metrics.clusters.visit(|key, shards| rows.push((key.clone(), shards.to_vec())));
    let name = "weir_upstream_connections_total";
    out.head(name, "counter", "Connections opened to upstreams, by protocol.");
    for (cluster, shards) in &rows {
        for (place, protocol) in ["http1", "http2"].into_iter().enumerate() {
            out.line(name, &[("cluster", cluster), ("protocol", protocol)], sum(shards, |s| &s.opened[place]));
        }
    }
    let name = "weir_upstream_connections_active";
    out.head(name, "gauge", "Connections to upstreams that are open.");
    for (cluster, shards) in &rows {
        out.line(name, &[("cluster", cluster)], sum(shards, |s| &s.open));
    }
    let name = "weir_upstream_connect_failures_total";
    out.head(name, "counter", "Connections to upstreams that did not open, by reason.");
    for (cluster, shards) in &rows {
        out.line(name, &[("cluster", cluster), ("reason", "error")], sum(shards, |s| &s.failed));
        out.line(name, &[("cluster", cluster), ("reason", "timeout")], sum(shards, |s| &s.timed_out));
    }
    upstream_tls(out, &rows);
    let name = "weir_upstream_retries_total";
    out.head(name, "counter", "Attempts after the first: asked for by a rule, or free because nothing was processed.");
    for (cluster, shards) in &rows {
        out.line(name, &[("cluster", cluster), ("kind", "retry")], sum(shards, |s| &s.retries));
        out.line(name, &[("cluster", cluster), ("kind", "replay")], sum(shards, |s| &s.replays));
        out.line(name, &[("cluster", cluster), ("kind", "move")], sum(shards, |s| &s.moves));
    }
    let name = "weir_passthrough_total";
    out.head(
        name,
        "counter",
        "Requests, and connections of what is not HTTP, that went where no route leads, by kind of address.",
    );
    for (cluster, shards) in &rows {
        let counts = CLASSES.iter().enumerate().map(|(place, class)| (class, sum(shards, |s| &s.passed_through[place])));
        for (class, count) in counts.filter(|(_, count)| *count > 0) {
            out.line(name, &[("cluster", cluster), ("class", class)], count);
        }
    }
    let name = "weir_upstream_retries_denied_total";
    out.head(name, "counter", "Retries that a rule asked for and that were not made, by reason.");
    for (cluster, shards) in &rows {
        for denied in Denied::ALL {
            out.line(name, &[("cluster", cluster), ("reason", denied.word())], sum(shards, |s| &s.denied[denied as usize]));
        }
    }
}

/// Only what there is: most clusters speak no TLS, and most reasons never come about.
fn upstream_tls(out: &mut Text, rows: &[(Box<str>, Vec<Arc<ClusterShard>>)]) {
    let name = "weir_upstream_tls_handshakes_total";
    out.head(name, "counter", "TLS handshakes with upstreams, by result.");
    for (cluster, shards) in rows {
        let made = ("ok", sum(shards, |s| &s.handshakes));
        let failed =
            Refusal::ALL.iter().map(|refusal| (refusal.code(), sum(shards, |s| &s.handshakes_failed[*refusal as usize])));
        for (result, count) in std::iter::once(made).chain(failed).filter(|(_, count)| *count > 0) {
            out.line(name, &[("cluster", cluster), ("result", result)], count);
        }
    }
}

fn listeners(out: &mut Text, metrics: &Metrics) {
    let mut rows: Vec<(Box<str>, Vec<Arc<ListenerShard>>)> = Vec::new();
    metrics.listeners.visit(|key, shards| rows.push((key.clone(), shards.to_vec())));
    type Pick = fn(&ListenerShard) -> &Cell;
    let plain: [(&str, &str, &str, Pick); 7] = [
        ("weir_downstream_connections_total", "counter", "Connections accepted.", |s| &s.accepted),
        ("weir_downstream_connections_active", "gauge", "Accepted connections that are open.", |s| &s.open),
        (
            "weir_downstream_connections_refused_total",
            "counter",
            "Connections closed because of limits.connections, or of too few descriptors.",
            |s| &s.refused,
        ),
        ("weir_malformed_requests_total", "counter", "Requests refused as malformed.", |s| &s.malformed),
        ("weir_http2_floods_total", "counter", "Connections closed because of an HTTP/2 flood.", |s| &s.floods),
        (
            "weir_request_ids_replaced_total",
            "counter",
            "Request ids replaced because they were too long or not printable.",
            |s| &s.bad_ids,
        ),
        ("weir_trace_headers_ignored_total", "counter", "Trace headers ignored because they were malformed.", |s| &s.bad_traces),
    ];
    for (name, kind, help, pick) in plain {
        out.head(name, kind, help);
        for (listener, shards) in &rows {
            out.line(name, &[("listener", listener)], sum(shards, pick));
        }
    }
    let name = "weir_tcp_bytes_total";
    out.head(name, "counter", "Bytes of opaque TCP connections, by direction as the caller sees it.");
    for (listener, shards) in &rows {
        out.line(name, &[("listener", listener), ("direction", "sent")], sum(shards, |s| &s.tcp_bytes[0]));
        out.line(name, &[("listener", listener), ("direction", "received")], sum(shards, |s| &s.tcp_bytes[1]));
    }
    let name = "weir_tcp_failed_total";
    out.head(name, "counter", "Opaque TCP connections that were reset because there was no upstream.");
    for (listener, shards) in &rows {
        out.line(name, &[("listener", listener)], sum(shards, |s| &s.tcp_failed));
    }
    let name = "weir_downstream_protocols_total";
    out.head(name, "counter", "Connections accepted, by the protocol that was detected.");
    for (listener, shards) in &rows {
        for (place, protocol) in ["http1", "http2", "tcp", "tls"].into_iter().enumerate() {
            out.line(name, &[("listener", listener), ("protocol", protocol)], sum(shards, |s| &s.protocols[place]));
        }
    }
    callers_tls(out, &rows);
    authorization(out, &rows);
}

fn callers_tls(out: &mut Text, rows: &[(Box<str>, Vec<Arc<ListenerShard>>)]) {
    let name = "weir_downstream_tls_total";
    out.head(name, "counter", "Connections served on listeners with mutual TLS, by what the caller spoke.");
    for (listener, shards) in rows {
        for (place, tls) in ["mtls", "tls", "plain"].into_iter().enumerate() {
            out.line(name, &[("listener", listener), ("tls", tls)], sum(shards, |s| &s.tls[place]));
        }
    }
    let name = "weir_downstream_tls_refused_total";
    out.head(name, "counter", "Connections refused on listeners with mutual TLS, by reason.");
    for (listener, shards) in rows {
        for refusal in Refusal::ALL {
            let count = sum(shards, |s| &s.handshakes_failed[*refusal as usize]);
            if count > 0 {
                out.line(name, &[("listener", listener), ("reason", refusal.code())], count);
            }
        }
        out.line(name, &[("listener", listener), ("reason", "plaintext")], sum(shards, |s| &s.plaintext_refused));
    }
}

fn authorization(out: &mut Text, rows: &[(Box<str>, Vec<Arc<ListenerShard>>)]) {
    let name = "weir_authorization_total";
    out.head(name, "counter", "Requests and opaque connections judged by policies, by verdict; see the reference.");
    for (listener, shards) in rows {
        for (place, verdict) in ["allowed", "denied", "would_allow", "would_deny", "audited"].into_iter().enumerate() {
            out.line(name, &[("listener", listener), ("verdict", verdict)], sum(shards, |s| &s.authorization[place]));
        }
    }
}

fn identity(out: &mut Text, shared: &Shared) {
    let current = shared.tls.current();
    let Some(identity) = &*current else { return };
    let seconds = |moment: SystemTime| moment.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let age = identity.loaded.elapsed().unwrap_or_default().as_secs();
    out.head("weir_identity_info", "gauge", "Always 1; who this proxy is, and by which certificate.");
    out.line("weir_identity_info", &[("id", identity.id.as_str()), ("serial", &identity.serial)], 1);
    let until = seconds(identity.not_after);
    out.single("weir_identity_not_after_timestamp_seconds", "gauge", "When this proxy's certificate expires.", until);
    out.single("weir_identity_age_seconds", "gauge", "How long this proxy's certificate has been in use.", age);
    let status = shared.tls.status();
    let name = "weir_identity_updates_total";
    out.head(name, "counter", "Identities offered by the files, by what became of them.");
    out.line(name, &[("result", "taken")], status.taken);
    out.line(name, &[("result", "rejected")], status.rejected);
}

fn config(out: &mut Text, shared: &Shared) {
    let published = shared.store.load();
    let status = shared.config_status();
    out.single("weir_config_generation", "gauge", "Number of the configuration that serves.", published.generation);
    let since = published.since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    out.single("weir_config_published_timestamp_seconds", "gauge", "When the configuration that serves was published.", since);
    let name = "weir_config_updates_total";
    out.head(name, "counter", "Configurations offered, by what became of them.");
    for (result, value) in [("published", status.published), ("rejected", status.rejected), ("unchanged", status.unchanged)] {
        out.line(name, &[("result", result)], value);
    }
    let rejected = u8::from(!status.mistakes.is_empty());
    out.single("weir_config_rejected", "gauge", "1 if the newest configuration offered was rejected.", rejected);
    let waits = status.needs_restart.len();
    out.single("weir_config_restart_fields", "gauge", "Bootstrap fields whose new values wait for a restart.", waits);
}

fn own(out: &mut Text, shared: &Shared) {
    let metrics = &shared.metrics;
    let name = "weir_dns_lookups_total";
    out.head(name, "counter", "Names looked up, by result.");
    for (place, result) in ["answer", "failure"].into_iter().enumerate() {
        out.line(name, &[("result", result)], metrics.dns_lookups[place].load(Ordering::Relaxed));
    }
    let counters = [
        ("weir_access_log_lines_total", "Access log lines written.", metrics.access_log_written.load(Ordering::Relaxed)),
        ("weir_access_log_dropped_total", "Access log lines dropped.", metrics.access_log_dropped.load(Ordering::Relaxed)),
        (
            "weir_connections_handed_over_total",
            "Connections handed to a less loaded worker.",
            metrics.handed_over.load(Ordering::Relaxed),
        ),
        (
            "weir_accept_errors_total",
            "Times that accepting paused, for example out of descriptors.",
            metrics.accept_errors.load(Ordering::Relaxed),
        ),
        (
            "weir_metrics_dropped_series_total",
            "Series that had no room and were counted under `other`.",
            metrics.rules.dropped() + metrics.clusters.dropped() + metrics.listeners.dropped(),
        ),
    ];
    for (name, help, value) in counters {
        out.single(name, "counter", help, value);
    }
    out.single("weir_workers", "gauge", "Worker threads.", shared.workers);
    out.head("weir_build_info", "gauge", "Always 1; the version is a label.");
    out.line("weir_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
}

/// The process metrics that every Prometheus client has, from `/proc/self`.
fn process(out: &mut Text, shared: &Shared) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields count from after the command's closing parenthesis: state is the first.
    let fields: Vec<u64> = stat.rsplit(") ").next().unwrap_or("").split(' ').map(|f| f.parse().unwrap_or(0)).collect();
    if let (Some(user), Some(system)) = (fields.get(11), fields.get(12)) {
        // Linux counts in hundredths of a second on every architecture it shows to user space.
        out.single("process_cpu_seconds_total", "counter", "CPU time.", (user + system) as f64 / 100.0);
    }
    if let Some(pages) = std::fs::read_to_string("/proc/self/statm").ok().and_then(|t| t.split(' ').nth(1)?.parse::<u64>().ok()) {
        out.single("process_resident_memory_bytes", "gauge", "Resident memory.", pages * 4096);
    }
    if let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") {
        out.single("process_open_fds", "gauge", "Open descriptors.", descriptors.count());
    }
    let started = shared.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    out.single("process_start_time_seconds", "gauge", "When the process started.", started);
}
