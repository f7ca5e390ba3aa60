//! Envoy with mutual TLS on one of its sides.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::mesh::Pair;
use crate::programs::Running;
use crate::wire::Version;
use crate::{Result, peers, raw, until};

/// What Envoy shows, believes and offers in a handshake.
#[derive(Debug, Clone)]
pub struct Tls<'a> {
    /// Its certificate.
    pub shows: Option<&'a Pair>,
    /// The root that it believes, in PEM.
    pub trust: &'a str,
    /// The URI that the peer's certificate must carry.
    pub expects: &'a str,
    /// The protocols (ALPN), separated by commas.
    pub alpn: &'a str,
    /// The version of TLS, as Envoy names it.
    pub version: &'a str,
    /// The group that keys are agreed in, as Envoy names it.
    pub group: &'a str,
}

impl<'a> Tls<'a> {
    /// TLS 1.3 with HTTP/2 and HTTP/1.1.
    pub fn new(shows: &'a Pair, trust: &'a str, expects: &'a str) -> Self {
        Self { shows: Some(shows), trust, expects, alpn: "h2, http/1.1", version: "TLSv1_3", group: "X25519MLKEM768" }
    }

    fn context(&self) -> String {
        let Self { trust, expects, alpn, version, group, .. } = self;
        // A quoted string is written in YAML as it is in Rust.
        let inline = |pem: &str| format!("{{ inline_string: {pem:?} }}");
        let shown =
            self.shows.map(|pair| format!("{{ certificate_chain: {}, private_key: {} }}", inline(&pair.cert), inline(&pair.key)));
        format!(
            "common_tls_context: {{
  alpn_protocols: [{alpn}],
  tls_params: {{ tls_minimum_protocol_version: {version}, tls_maximum_protocol_version: {version}, ecdh_curves: [{group}] }},
  tls_certificates: [{}],
  validation_context: {{
    trusted_ca: {},
    match_typed_subject_alt_names: [{{ san_type: URI, matcher: {{ exact: {expects:?} }} }}] }} }}",
            shown.unwrap_or_default(),
            inline(trust)
        )
    }
}

/// An Envoy with one HTTP listener and one cluster. Ends with the value.
pub struct Envoy {
    /// Where it listens.
    pub address: SocketAddr,
    admin: SocketAddr,
    _running: Running,
    _dir: tempfile::TempDir,
}

impl Envoy {
    /// One that is called with mutual TLS, and calls `origin` in the clear. The origin is told who calls.
    ///
    /// # Errors
    /// It does not start.
    pub async fn server(tls: &Tls<'_>, origin: SocketAddr) -> Result<Self> {
        let context = format!("require_client_certificate: true, {}", tls.context());
        let told = "forward_client_cert_details: SANITIZE_SET, set_current_client_cert_details: { uri: true }";
        Self::start(&listener(told, &socket("Downstream", &context)), &cluster(origin, Version::One, "")).await
    }

    /// One that is called in the clear, and calls `endpoint` with mutual TLS, with a connection for each request. It sends
    /// on what its caller says of certificates, and answers with it in `x-sent`.
    ///
    /// # Errors
    /// It does not start.
    pub async fn client(tls: &Tls<'_>, endpoint: SocketAddr, version: Version) -> Result<Self> {
        let cluster = cluster(endpoint, version, &socket("Upstream", &tls.context()));
        Self::start(&listener("forward_client_cert_details: ALWAYS_FORWARD_ONLY", ""), &cluster).await
    }

    async fn start(listener: &str, cluster: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let [config, admin, log] = ["envoy.yaml", "admin", "log"].map(|name| dir.path().join(name));
        let own = "admin: { address: { socket_address: { address: 127.0.0.1, port_value: 0 } } }";
        std::fs::write(&config, format!("{own}\nstatic_resources: {{\nlisteners: [{listener}],\nclusters: [{cluster}] }}\n"))?;
        let mut command = tokio::process::Command::new(peers::program("envoy").ok_or("no envoy")?);
        command.args(["--disable-hot-restart", "--concurrency", "1", "-l", "warn", "--admin-address-path"]).arg(&admin);
        command.arg("-c").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(&log)?);
        let running = command.kill_on_drop(true).spawn()?;
        let started = async {
            let admin = admin_address(&admin).await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>((admin, listening(admin).await?))
        };
        let (admin, address) =
            started.await.map_err(|error| format!("{error}: {}", std::fs::read_to_string(&log).unwrap_or_default()))?;
        Ok(Self { address, admin, _running: running, _dir: dir })
    }

    /// A counter by its name, 0 if there is none.
    ///
    /// # Errors
    /// The admin server does not say.
    pub async fn counter(&self, name: &str) -> Result<u64> {
        let stats = raw::get(self.admin, "localhost", "/stats").await?.text();
        let value = stats.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        Ok(value.unwrap_or("0").parse()?)
    }
}

/// Where the admin server listens, once Envoy has written it down.
async fn admin_address(file: &Path) -> Result<SocketAddr> {
    let read = || std::fs::read_to_string(file).ok()?.trim().parse().ok();
    until("Envoy says where its admin server listens", async || read().is_some()).await?;
    read().ok_or_else(|| "no address".into())
}

/// Where the listener listens, once Envoy serves.
async fn listening(admin: SocketAddr) -> Result<SocketAddr> {
    until("Envoy is ready", async || raw::get(admin, "localhost", "/ready").await.is_ok_and(|page| page.status == 200)).await?;
    let page: Value = serde_json::from_str(&raw::get(admin, "localhost", "/listeners?format=json").await?.text())?;
    let port = &page["listener_statuses"][0]["local_address"]["socket_address"]["port_value"];
    let port = port.as_u64().ok_or_else(|| format!("no port in {page}"))?;
    Ok(SocketAddr::from(([127, 0, 0, 1], u16::try_from(port)?)))
}

/// The `transport_socket` of a side, `Upstream` or `Downstream`.
fn socket(side: &str, context: &str) -> String {
    let url = format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{side}TlsContext");
    format!("transport_socket: {{ name: envoy.transport_sockets.tls, typed_config: {{ '@type': {url}, {context} }} }}")
}

fn listener(manager: &str, socket: &str) -> String {
    let filters = "type.googleapis.com/envoy.extensions.filters";
    format!(
        "{{ name: in, stat_prefix: in, address: {{ socket_address: {{ address: 127.0.0.1, port_value: 0 }} }},
filter_chains: [{{ filters: [{{ name: http, typed_config: {{
  '@type': {filters}.network.http_connection_manager.v3.HttpConnectionManager,
  stat_prefix: in, {manager},
  route_config: {{ virtual_hosts: [{{ name: all, domains: ['*'],
    response_headers_to_add: [{{ header: {{ key: x-sent, value: '%REQ(x-forwarded-client-cert)%' }} }}],
    routes: [{{ match: {{ prefix: / }}, route: {{ cluster: up }} }}] }}] }},
  http_filters: [{{ name: router, typed_config: {{ '@type': {filters}.http.router.v3.Router }} }}] }} }}],
{socket} }}] }}"
    )
}

fn cluster(endpoint: SocketAddr, version: Version, socket: &str) -> String {
    let protocol = match version {
        Version::One => "http_protocol_options",
        Version::Two => "http2_protocol_options",
    };
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let (address, port) = (endpoint.ip(), endpoint.port());
    format!(
        "{{ name: up, type: STATIC, load_assignment: {{ cluster_name: up, endpoints: [{{ lb_endpoints: [{{ endpoint: {{
  address: {{ socket_address: {{ address: {address}, port_value: {port} }} }} }} }}] }}] }},
typed_extension_protocol_options: {{ {options}: {{ '@type': type.googleapis.com/{options},
  common_http_protocol_options: {{ max_requests_per_connection: 1 }},
  explicit_http_config: {{ {protocol}: {{}} }} }} }},
{socket} }}"
    )
}
