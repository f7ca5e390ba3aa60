//! Random tables and requests from one small vocabulary, so that they meet.

use std::fmt::Write;
use std::net::SocketAddr;

/// Hosts of routes.
const HOSTS: [&str; 6] = ["one", "two.test", "x.one", "'*.one'", "'*.x.one'", "'*'"];
/// Hosts of requests.
const ASKED: [&str; 8] = ["one", "ONE", "two.test:8080", "x.one", "y.x.one", "a.one:80", "other", "one:8080"];
const PREFIXES: [&str; 4] = ["/", "/a", "/a/b", "/c"];
/// Paths of requests: plain, and such as come to the same after normalisation.
const PATHS: [&str; 17] = [
    "/",
    "/a",
    "/a/",
    "/a/b",
    "/a/b/c",
    "/ab",
    "/abc",
    "/c",
    "/c/",
    "/%61/b",
    "/a//b",
    "/a/./b",
    "/a/../c",
    "/a;x=1/b",
    "/a%2Fb",
    "/d",
    "/shop.Cart/Get",
];
const QUERIES: [&str; 8] = ["", "?q", "?q=one", "?q=two&q=one", "?r=1", "?q=o%6ee", "?", "?q=15"];
/// Values of headers.
const VALUES: [&str; 5] = ["one", "on", "two", "15", "xone"];
const METHODS: [&str; 4] = ["GET", "POST", "PUT", "DELETE"];
pub(super) const CLUSTERS: [&str; 3] = ["c0", "c1", "c2"];

/// A source of tables and requests; the same for the same seed.
pub(super) struct Draw(fastrand::Rng);

/// A request.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: &'static str,
    pub(super) host: &'static str,
    path: &'static str,
    query: &'static str,
    headers: Vec<(&'static str, &'static str)>,
}

impl Request {
    pub(super) fn target(&self) -> String {
        format!("{}{}", self.path, self.query)
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}{}", self.host, self.target())
    }

    /// The headers besides `host`.
    pub(super) fn lines(&self) -> Vec<String> {
        self.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect()
    }

    pub(super) fn bytes(&self) -> String {
        let lines: String = self.lines().iter().map(|line| format!("{line}\r\n")).collect();
        format!("{} {} HTTP/1.1\r\nhost: {}\r\n{lines}content-length: 0\r\n\r\n", self.method, self.target(), self.host)
    }
}

impl Draw {
    pub(super) fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.0.usize(..all.len())]
    }

    /// True once in so many times.
    fn once_in(&mut self, times: u32) -> bool {
        self.0.u32(..times) == 0
    }

    pub(super) fn request(&mut self) -> Request {
        let mut headers = Vec::new();
        for name in ["x-a", "x-b"] {
            for _ in 0..self.of(&[0, 0, 1, 1, 1, 2]) {
                headers.push((name, self.of(&VALUES)));
            }
        }
        let path = self.of(&PATHS);
        if self.once_in(if path.starts_with("/shop.") { 2 } else { 20 }) {
            headers.push(("content-type", "application/grpc"));
        }
        Request { method: self.of(&METHODS), host: self.of(&ASKED), path, query: self.of(&QUERIES), headers }
    }

    /// A configuration with a cluster for each of `origins`. Each rule says in the response that it served. It is small,
    /// because each answer of `explain` reads all of it.
    pub(super) fn table(&mut self, origins: &[SocketAddr; 3]) -> String {
        let mut yaml = "workers: 1\nlisteners: [{ name: out, listen: 127.0.0.1:0, direction: outbound }]\nroutes:\n".to_owned();
        let mut hosts = HOSTS;
        self.0.shuffle(&mut hosts);
        let mut hosts = hosts.into_iter();
        for route in 0..self.0.usize(2..=3) {
            let here: Vec<&str> = hosts.by_ref().take(if route < 2 { self.0.usize(1..=2) } else { 1 }).collect();
            if here.is_empty() {
                break;
            }
            let _ = write!(yaml, "  - name: r{route}\n    hosts: [{}]\n    rules:\n", here.join(", "));
            let last = self.0.usize(..3);
            for rule in 0..=last {
                // Only behind the last one nothing needs to be reachable.
                let line = self.rule(&format!("r{route}/{rule}"), rule == last);
                let _ = writeln!(yaml, "      - {{ name: '{rule}', {line} }}");
            }
        }
        yaml.push_str("clusters:\n");
        for (cluster, origin) in CLUSTERS.iter().zip(origins) {
            let _ = writeln!(yaml, "  {cluster}: {{ endpoints: ['{origin}'] }}");
        }
        yaml
    }

    fn rule(&mut self, name: &str, last: bool) -> String {
        let mut line = String::new();
        // A prefix may be rewritten only where each match has one.
        let prefixes = self.once_in(3);
        let matches: Vec<String> =
            (0..self.0.usize(usize::from(prefixes || !last)..=2)).map(|_| self.condition(prefixes)).collect();
        if !matches.is_empty() {
            let _ = write!(line, "match: [{}], ", matches.join(", "));
        }
        let mut request = String::new();
        match self.0.u32(..6) {
            0 => {
                let _ = write!(line, "respond: {{ status: {}, body: answer }}, ", self.of(&[200, 201, 404, 503]));
            }
            1 => {
                let _ = write!(line, "redirect: {{ {} }}, ", self.redirect(prefixes));
            }
            _ => {
                let _ = write!(line, "backends: [{}], ", self.backends());
                if self.once_in(2) {
                    let path = self.path(prefixes);
                    let host = if self.once_in(3) { ", host: rewritten.test" } else { "" };
                    let _ = write!(line, "rewrite: {{ path: {path}{host} }}, ");
                }
                let change = ["set: { x-a: set }", "add: { x-b: more }", "remove: [x-a, x-b]", "set: { x-new: fresh }"];
                if self.once_in(2) {
                    request = format!("request: {{ {} }}, ", self.of(&change));
                }
            }
        }
        let _ = write!(line, "headers: {{ {request}response: {{ set: {{ x-served-by: {name} }} }} }}");
        line
    }

    fn backends(&mut self) -> String {
        let mut clusters = CLUSTERS;
        self.0.shuffle(&mut clusters);
        let count = self.0.usize(1..=3);
        let backends = clusters.into_iter().take(count).enumerate().map(|(place, cluster)| {
            // The first one has some share, so that there is somewhere to go.
            let weight = if place == 0 { self.of(&[1, 3]) } else { self.of(&[0, 1, 3]) };
            let told = format!(", headers: {{ request: {{ set: {{ x-new: {cluster} }} }} }}");
            format!("{{ cluster: {cluster}, weight: {weight}{} }}", if self.once_in(4) { &told } else { "" })
        });
        backends.collect::<Vec<_>>().join(", ")
    }

    fn redirect(&mut self, prefixes: bool) -> String {
        let mut parts = vec![format!("status: {}", self.of(&[301, 302, 307, 308]))];
        for part in ["scheme: https", "host: moved.test", "port: 8443"] {
            if self.once_in(3) {
                parts.push(part.to_owned());
            }
        }
        if self.once_in(2) {
            parts.push(format!("path: {}", self.path(prefixes)));
        }
        parts.join(", ")
    }

    /// What a path is rewritten to.
    fn path(&mut self, prefixes: bool) -> String {
        if prefixes && !self.once_in(3) {
            return format!("{{ prefix: {} }}", self.of(&["/", "/p", "/p/q"]));
        }
        if self.once_in(2) {
            "{ full: /whole }".to_owned()
        } else {
            "{ regex: { pattern: '^/([a-c]+)', replace: '/r/$1' } }".to_owned()
        }
    }

    fn condition(&mut self, prefix: bool) -> String {
        let mut parts = Vec::new();
        if prefix {
            parts.push(format!("path: {{ prefix: {} }}", self.of(&PREFIXES)));
        } else if self.once_in(2) {
            parts.push(match self.0.u32(..4) {
                0 => format!("path: {{ prefix: {} }}", self.of(&PREFIXES)),
                1 => format!("path: {{ exact: {} }}", self.of(&["/a", "/a/b", "/c/", "/d"])),
                2 => format!("path: {{ string_prefix: {} }}", self.of(&["/a", "/ab", "/shop."])),
                _ => format!("path: {{ regex: '{}' }}", self.of(&["/[a-c]+", "/a/.*", ".*b", "/a(/b)?"])),
            });
        }
        if self.once_in(4) {
            parts.push(format!("method: {}", self.of(&["GET", "[PUT, DELETE]", "POST"])));
        }
        if self.once_in(3) {
            parts.push(format!("headers: {{ {}: {} }}", self.of(&["x-a", "x-b"]), self.value()));
        }
        if self.once_in(4) {
            parts.push(format!("query: {{ {}: {} }}", self.of(&["q", "r"]), self.value()));
        }
        if parts.is_empty() || (!prefix && self.once_in(10)) {
            // By the service alone, so that it does not meet a condition on the path that contradicts it.
            parts = vec![format!("grpc: {{ service: shop.Cart{} }}", self.of(&["", ", method: Get", ", method: Put"]))];
        }
        format!("{{ {} }}", parts.join(", "))
    }

    /// A test of a value.
    fn value(&mut self) -> String {
        let test = match self.0.u32(..7) {
            0 => return self.of(&VALUES).to_owned(),
            1 => "exact: one".to_owned(),
            2 => "prefix: on".to_owned(),
            3 => "suffix: one".to_owned(),
            4 => "contains: n".to_owned(),
            5 => "regex: '^[a-o]+$'".to_owned(),
            _ => self.of(&["present: true", "present: false", "range: { start: 10, end: 20 }"]).to_owned(),
        };
        if self.once_in(4) { format!("{{ {test}, not: true }}") } else { format!("{{ {test} }}") }
    }
}
