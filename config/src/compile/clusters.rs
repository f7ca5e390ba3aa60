use std::net::SocketAddr;

use super::{ClusterNames, check_name};
use crate::error::{Diagnostics, Path};
use crate::schema::{self, Config};
use crate::snapshot::{Cluster, ClusterId, Endpoint, Target};

pub(super) fn compile(config: &Config, found: &mut Diagnostics) -> (Vec<Cluster>, ClusterNames) {
    let root = Path::ROOT;
    let all = root.key("clusters");
    let mut clusters = Vec::with_capacity(config.clusters.len());
    let mut names = ClusterNames::new();
    for ((name, cluster), id) in config.clusters.iter().zip(0_u32..) {
        let path = all.key(name);
        check_name(name, &path, found);
        clusters.push(one(config, name, cluster, &path, found));
        names.insert(name.clone(), ClusterId(id));
    }
    (clusters, names)
}

fn one(config: &Config, name: &str, cluster: &schema::Cluster, path: &Path<'_>, found: &mut Diagnostics) -> Cluster {
    if cluster.connect_timeout.0.is_zero() {
        found.error(&path.key("connect_timeout"), "a timeout of zero lets no connection open");
    }
    let endpoints = endpoints(cluster, path, found);
    let tls = super::tls::upstream(config, cluster, &endpoints, path, found);
    Cluster {
        name: name.into(),
        endpoints: endpoints.into(),
        protocol: cluster.protocol,
        balance: cluster.balance,
        connect_timeout: cluster.connect_timeout.0,
        idle_timeout: cluster.idle_timeout.0,
        proxy_protocol: cluster.proxy_protocol,
        tls,
        retry_budget: cluster.retry_budget,
        destination: None,
    }
}

fn endpoints(cluster: &schema::Cluster, path: &Path<'_>, found: &mut Diagnostics) -> Vec<Endpoint> {
    match (&cluster.endpoints, &cluster.dns) {
        (Some(list), None) => {
            let here = path.key("endpoints");
            let mut endpoints: Vec<Endpoint> = Vec::with_capacity(list.len());
            for (index, endpoint) in list.iter().enumerate() {
                let (address, weight) = match endpoint {
                    schema::Endpoint::Address(address) => (address, 1),
                    schema::Endpoint::Weighted(weighted) => (&weighted.address, weighted.weight),
                };
                let place = here.index(index);
                let Some(target) = target(address, &place, found) else { continue };
                if endpoints.iter().any(|e| e.target == target) {
                    found.error(&place, format!("the endpoint `{address}` is listed twice")).hint =
                        Some("give it once, with a `weight`".to_owned());
                }
                endpoints.push(Endpoint { target, weight });
            }
            endpoints
        }
        (None, Some(name)) => {
            target(name, &path.key("dns"), found).map(|target| Endpoint { target, weight: 1 }).into_iter().collect()
        }
        (Some(_), Some(_)) => {
            found.error(&path.key("dns"), "a cluster has either `endpoints` or `dns`, not both").hint =
                Some("a name may stand among the endpoints too".to_owned());
            Vec::new()
        }
        (None, None) => {
            found.error(path, "a cluster needs `endpoints` or `dns`").hint =
                Some("for example `endpoints: [127.0.0.1:8080]`".to_owned());
            Vec::new()
        }
    }
}

/// `address:port` or `name:port`.
fn target(text: &str, path: &Path<'_>, found: &mut Diagnostics) -> Option<Target> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        if address.port() == 0 {
            found.error(path, "port 0 cannot be called");
            return None;
        }
        return Some(Target::Address(address));
    }
    let parsed = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    match parsed {
        Some((host, port)) if port > 0 && is_name(host) => {
            let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase().into();
            Some(Target::Name { host, port })
        }
        _ => {
            let hint = match text.split_once("://") {
                Some((_, rest)) => format!("write it without a scheme: `{}`", rest.trim_end_matches('/')),
                None if !text.contains(':') => format!("add the port: `{text}:8080`"),
                None => "write `address:port`, `[ipv6]:port` or `name:port`".to_owned(),
            };
            found.error(path, format!("`{text}` is not an endpoint")).hint = Some(hint);
            None
        }
    }
}

fn is_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    // All digits and dots would be a mistyped address, never a name.
    host.len() <= 253
        && !host.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        && host.split('.').all(|label| {
            (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        })
}
