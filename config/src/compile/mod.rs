//! Typed configuration to a compiled [`Snapshot`], reporting every semantic mistake on the way.
//!
//! Each part turns a schema type into its compiled form or records why it cannot; a part that failed leaves a harmless
//! stand-in so that the rest is still judged. The snapshot is given only if nothing was recorded.

mod authorization;
mod clusters;
mod filing;
mod identity;
mod listeners;
mod matches;
mod original;
mod policy;
mod routes;
mod shadow;
mod tls;

use std::collections::BTreeMap;

use crate::error::{Diagnostics, Path};
use crate::schema::{Auto, Config, Workers};
use crate::snapshot::{AccessLog, Bootstrap, ClusterId, Dns, LogSink, Snapshot};

/// Compiles `config`. `None`, with the reasons in `found`, if it cannot be served.
pub fn compile(config: &Config, found: &mut Diagnostics) -> Option<Snapshot> {
    let bootstrap = bootstrap(config, found);
    let access_log = access_log(config, found);
    let (mut clusters, names) = clusters::compile(config, found);
    let mut listeners = listeners::compile(config, &mut clusters, found);
    let (mut routes, mut rules) = routes::compile(config, &names, &mut listeners, found);
    listeners::add_opaque(config, &mut listeners, &names, found);
    let policies = authorization::compile(config, &mut listeners, found);
    listeners::add_app_rules(&mut listeners, &clusters, &mut routes, &mut rules);
    shadow::check(&routes, &rules, found);
    if config.shutdown.min.0 >= config.shutdown.deadline.0 {
        found.error(&Path::ROOT.key("shutdown").key("min"), "`min` must be shorter than `deadline`, which is for all of it");
    }
    if found.has_errors() {
        return None;
    }
    Some(Snapshot {
        bootstrap,
        listeners: listeners.into_iter().map(|l| l.listener).collect(),
        routes,
        rules,
        clusters,
        policies,
        access_log,
        drain_min: config.shutdown.min.0,
        drain_deadline: config.shutdown.deadline.0,
    })
}

/// The least time between two questions for one name.
const MIN_TTL: std::time::Duration = std::time::Duration::from_millis(100);

/// Clusters by name; in order, so that suggestions are the same every time.
type ClusterNames = BTreeMap<String, ClusterId>;

fn bootstrap(config: &Config, found: &mut Diagnostics) -> Bootstrap {
    let root = Path::ROOT;
    let workers = match config.workers {
        Workers::Named(Auto::Auto) => None,
        Workers::Fixed(count) => Some(count),
    };
    let dns_path = root.key("dns");
    let servers_path = dns_path.key("servers");
    let mut servers = Vec::new();
    for (index, text) in config.dns.servers.iter().enumerate() {
        let with_port = text.parse().or_else(|_| text.parse().map(|address| std::net::SocketAddr::new(address, 53)));
        match with_port {
            Ok(server) => servers.push(server),
            Err(_) => {
                let path = servers_path.index(index);
                found.error(&path, format!("`{text}` is not an address")).hint = Some("for example `10.96.0.10:53`".to_owned());
            }
        }
    }
    let (min_ttl, max_ttl) = (config.dns.min_ttl.0, config.dns.max_ttl.0);
    if min_ttl < MIN_TTL {
        found.error(&dns_path.key("min_ttl"), "answers must be used for at least `100ms`").hint =
            Some("names would be asked for without a pause".to_owned());
    }
    if min_ttl > max_ttl {
        found.error(&dns_path.key("max_ttl"), "`max_ttl` must not be below `min_ttl`");
    }
    let probes = config.probes.as_ref().map_or_else(Box::default, |probes| {
        listeners::addresses(&probes.listen, &root.key("probes").key("listen"), found).into()
    });
    let identity = identity::compile(config, found);
    let admin = listeners::admin_address(config, found);
    Bootstrap { workers, admin, probes, dns: Dns { servers, min_ttl, max_ttl }, identity }
}

fn access_log(config: &Config, found: &mut Diagnostics) -> Option<AccessLog> {
    let log = config.access_log.as_ref()?;
    let root = Path::ROOT;
    let path = root.key("access_log");
    let sink = match log.path.as_str() {
        "stdout" => LogSink::Stdout,
        "stderr" => LogSink::Stderr,
        "" => {
            found.error(&path.key("path"), "the path is empty").hint =
                Some("write `stdout`, `stderr` or a file's path".to_owned());
            LogSink::Stdout
        }
        file => LogSink::File(file.into()),
    };
    let format = match &log.format {
        None => crate::access_log::Format::Json,
        Some(text) => crate::access_log::parse(text).unwrap_or_else(|(message, hint)| {
            found.error(&path.key("format"), message).hint = hint;
            crate::access_log::Format::Json
        }),
    };
    Some(AccessLog { sink, format })
}

/// Checks a name that appears in metrics, logs and addresses.
fn check_name(name: &str, path: &Path<'_>, found: &mut Diagnostics) {
    let fits = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/'));
    if name.is_empty() || name.len() > 128 || !fits || !name.as_bytes()[0].is_ascii_alphanumeric() {
        found.error(path, format!("`{name}` is not a name")).hint =
            Some("use 1 to 128 letters, digits, `.`, `_`, `-`, `/`, and begin with a letter or digit".to_owned());
    }
}
