//! Listeners that take connections which the kernel hands over.

use std::time::Duration;

use crate::destinations::DestinationTable;
use crate::error::{Diagnostics, Path};
use crate::schema::{self, Balance, Direction, Listener, ListenerProtocol, PortProtocol, UnknownDestinations, UpstreamProtocol};
use crate::snapshot::{Cluster, ClusterId, Destination, Original};
use crate::table::HostTable;

/// Ports of protocols in which the server speaks first, or that are of nobody's business: SMTP, submission, MySQL, Galera,
/// PostgreSQL, Redis, Elasticsearch, Memcached. Linkerd's defaults.
const OPAQUE: [u16; 8] = [25, 587, 3306, 4444, 5432, 6379, 9300, 11211];

/// What the listener knows of where its connections were going; `None` if it takes none that are handed over.
pub(super) fn compile(listener: &Listener, path: &Path<'_>, found: &mut Diagnostics) -> Option<Original> {
    if !listener.original_destination {
        for (key, present) in [
            ("unknown_destinations", listener.unknown_destinations.is_some()),
            ("ports", listener.ports.is_some()),
            ("preserve_source", listener.preserve_source),
        ] {
            if present {
                found.key_error(&path.key(key), format!("without `original_destination: true`, `{key}` can have no effect"));
            }
        }
        return None;
    }
    if listener.unknown_destinations.is_some() && listener.direction == Direction::Inbound {
        found.key_error(&path.key("unknown_destinations"), "an inbound listener knows one destination, the app").hint =
            Some("for who may call it, write `authorization`".to_owned());
    }
    if listener.preserve_source && listener.direction == Direction::Outbound {
        found.key_error(&path.key("preserve_source"), "who the app calls cannot answer to another address than weir's").hint =
            Some("`preserve_source` is for inbound listeners".to_owned());
    }
    if listener.protocol == ListenerProtocol::Tls {
        found.error(&path.key("protocol"), "what comes by redirection may be TLS, but need not").hint =
            Some("leave `protocol` out: TLS is found out by its first bytes".to_owned());
    }
    let protocol = match listener.protocol {
        ListenerProtocol::Auto | ListenerProtocol::Tls => PortProtocol::Auto,
        ListenerProtocol::Http => PortProtocol::Http,
        ListenerProtocol::Tcp => PortProtocol::Tcp,
    };
    let mut ports = declared(listener, &path.key("ports"), found);
    if protocol == PortProtocol::Auto {
        ports.extend(OPAQUE.map(|port| (port, port, PortProtocol::Tcp)));
    }
    Some(Original { protocol, ports: ports.into(), names: HostTable::default(), destinations: DestinationTable::default() })
}

/// What the file says of ports, alone or as ranges.
fn declared(listener: &Listener, path: &Path<'_>, found: &mut Diagnostics) -> Vec<(u16, u16, PortProtocol)> {
    let mut ports: Vec<(u16, u16, PortProtocol)> = Vec::new();
    for (text, protocol) in listener.ports.iter().flatten() {
        let here = path.key(text);
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (Ok(first @ 1..), Ok(last @ 1..)) = (first.parse::<u16>(), last.parse::<u16>()) else {
            found.key_error(&here, format!("`{text}` is not a port")).hint =
                Some("write a number from 1 to 65535, or a range such as `9000-9100`".to_owned());
            continue;
        };
        if first > last {
            found.key_error(&here, format!("the range {first}-{last} is empty")).hint = Some(format!("write `{last}-{first}`"));
        }
        if let Some((other, to, _)) = ports.iter().find(|(other, to, _)| *other <= last && first <= *to) {
            found.key_error(&here, format!("the ports {other}-{to} are here twice"));
        }
        ports.push((first, last, *protocol));
    }
    ports
}

/// How long a connection to where it was going may take to open. The caller would have waited for minutes: the first two SYNs may
/// get lost, and a server of HTTP/2 may be slow to greet. The app beside weir has no such excuse, and over IPv6 nothing tells that
/// it does not listen at the address that was called.
const ELSEWHERE: Duration = Duration::from_secs(10);

/// How the app is called.
pub(super) fn app(listener: &Listener) -> Destination {
    if listener.preserve_source { Destination::AppAsCaller } else { Destination::App }
}

/// The cluster that stands for wherever connections were going; `None` if they may not go on by themselves.
pub(super) fn cluster(listener: &Listener, clusters: &mut Vec<Cluster>) -> Option<ClusterId> {
    let (destination, word) = match (listener.direction, listener.unknown_destinations.unwrap_or_default()) {
        (Direction::Inbound, _) => (app(listener), "app"),
        (Direction::Outbound, UnknownDestinations::Allow) => (Destination::Elsewhere, "passthrough"),
        (Direction::Outbound, UnknownDestinations::Deny) => return None,
    };
    let id = ClusterId(u32::try_from(clusters.len()).ok()?);
    clusters.push(Cluster {
        name: format!("{}:{word}", listener.name).into(),
        endpoints: Box::default(),
        protocol: UpstreamProtocol::Auto,
        balance: Balance::LeastRequest,
        connect_timeout: if destination == Destination::Elsewhere { ELSEWHERE } else { schema::Cluster::default_connect().0 },
        idle_timeout: schema::Cluster::default_idle().0,
        proxy_protocol: None,
        tls: None,
        retry_budget: schema::RetryBudget::default(),
        destination: Some(destination),
    });
    Some(id)
}
