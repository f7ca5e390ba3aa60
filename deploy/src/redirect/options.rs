//! What may be said of redirection, and what holds where nothing is said.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv6Net};

/// The user and group that weir runs as beside an app (Istio's choice, so that policies for pods know it).
pub const UID: u32 = 1337;
/// The mark of weir's connections from addresses of callers, and the number of the routing table for the answers.
pub const PRESERVED: u32 = 1339;
/// Where connections of the app are handed to weir.
pub const OUTBOUND: u16 = 15001;
/// Where connections to the app are handed to weir.
pub const INBOUND: u16 = 15006;
/// Where weir's admin server and its probes server usually are. App Mesh had its inbound port at the former.
pub const ADMIN: u16 = 15000;
const PROBES: u16 = 15020;
/// Inbound ports that are not weir's business: its own probes, and the way in when it has failed.
pub const EXCLUDED_PORTS: [u16; 2] = [22, PROBES];

/// Where platforms tell a workload who it is: every SDK asks there at once, and with a short limit on hops and time.
pub const METADATA: [IpAddr; 5] = [
    // AWS, GCP, Azure and others.
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    // Credentials and metadata of ECS tasks.
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    // EKS Pod Identity.
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    // The same over IPv6.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
];

/// Destinations that are not weir's business. Beside the metadata services, addresses that mean nothing without the interface that
/// the app named with them (RFC 4007): the kernel does not hand that on.
fn left_alone() -> Vec<IpNet> {
    let link_local = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10));
    METADATA.into_iter().map(IpNet::from).chain([link_local]).collect()
}

/// Which connections are handed to weir.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The port for what the app calls; `None` leaves it alone.
    pub outbound: Option<u16>,
    /// The port for what calls the app; `None` leaves it alone.
    pub inbound: Option<u16>,
    /// The user that weir runs as; its own connections pass.
    pub uid: Option<u32>,
    /// The group that weir runs as; its own connections pass.
    pub gid: Option<u32>,
    /// A mark of packets that pass. Somebody else makes it: weir marks what it calls in callers' names only.
    pub mark: Option<u32>,
    /// Users whose connections pass.
    pub exclude_uids: Vec<u32>,
    /// Groups whose connections pass.
    pub exclude_gids: Vec<u32>,
    /// Ports of the app that are handed over; empty means all.
    pub include_inbound_ports: Vec<Ports>,
    /// Ports of the app that are not.
    pub exclude_inbound_ports: Vec<Ports>,
    /// Callers that reach the app without weir.
    pub exclude_inbound_cidrs: Vec<IpNet>,
    /// Ports that the app calls by way of weir; empty means all.
    pub include_outbound_ports: Vec<Ports>,
    /// Ports that it calls without.
    pub exclude_outbound_ports: Vec<Ports>,
    /// Destinations that the app calls by way of weir; empty means all.
    pub include_outbound_cidrs: Vec<IpNet>,
    /// Destinations that it calls without.
    pub exclude_outbound_cidrs: Vec<IpNet>,
    /// Interfaces whose connections pass, both ways.
    pub exclude_interfaces: Vec<String>,
    /// Whether IPv6 is handed over too.
    pub ipv6: bool,
    /// Whether weir may call the app from the addresses of its callers (`preserve_source` of a listener): what the app answers
    /// is then led back to weir.
    pub preserve_source: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            outbound: Some(OUTBOUND),
            inbound: Some(INBOUND),
            uid: Some(UID),
            gid: Some(UID),
            mark: None,
            exclude_uids: Vec::new(),
            exclude_gids: Vec::new(),
            include_inbound_ports: Vec::new(),
            exclude_inbound_ports: EXCLUDED_PORTS.map(Ports::from).to_vec(),
            exclude_inbound_cidrs: Vec::new(),
            include_outbound_ports: Vec::new(),
            exclude_outbound_ports: Vec::new(),
            include_outbound_cidrs: Vec::new(),
            exclude_outbound_cidrs: left_alone(),
            exclude_interfaces: Vec::new(),
            ipv6: true,
            preserve_source: false,
        }
    }
}

impl Options {
    /// A capability is in force for root only, so that weir runs as root where it calls in callers' names; then its group alone
    /// tells it from apps that do too.
    pub fn follow_user(&mut self) {
        if self.preserve_source {
            self.uid = None;
        }
    }

    /// The arguments of `weir redirect install` that say the same. IPv6 is named only where it is to be left alone: where there is
    /// none, nobody misses it.
    pub fn arguments(&self) -> Vec<String> {
        let default = Self::default();
        let mut said = Vec::new();
        for (name, none, port, usual) in [
            ("outbound-port", "no-outbound", self.outbound, default.outbound),
            ("inbound-port", "no-inbound", self.inbound, default.inbound),
        ] {
            match port {
                None => said.push(format!("--{none}")),
                Some(port) if Some(port) != usual => said.push(format!("--{name}={port}")),
                Some(_) => {}
            }
        }
        let mut say = |name: &str, value: String| said.push(format!("--{name}={value}"));
        let id = |id: Option<u32>| id.map_or_else(|| "none".to_owned(), |id| id.to_string());
        if self.uid != default.uid {
            say("uid", id(self.uid));
        }
        if self.gid != default.gid {
            say("gid", id(self.gid));
        }
        if let Some(mark) = self.mark {
            say("mark", mark.to_string());
        }
        let lists = [
            ("exclude-uids", listed(&self.exclude_uids, &[])),
            ("exclude-gids", listed(&self.exclude_gids, &[])),
            ("include-inbound-ports", listed(&self.include_inbound_ports, &[])),
            ("exclude-inbound-ports", listed(&self.exclude_inbound_ports, &default.exclude_inbound_ports)),
            ("exclude-inbound-cidrs", listed(&self.exclude_inbound_cidrs, &[])),
            ("include-outbound-ports", listed(&self.include_outbound_ports, &[])),
            ("exclude-outbound-ports", listed(&self.exclude_outbound_ports, &[])),
            ("include-outbound-cidrs", listed(&self.include_outbound_cidrs, &[])),
            ("exclude-outbound-cidrs", listed(&self.exclude_outbound_cidrs, &default.exclude_outbound_cidrs)),
            ("exclude-interfaces", listed(&self.exclude_interfaces, &[])),
        ];
        if self.preserve_source {
            said.push("--preserve-source".to_owned());
        }
        if !self.ipv6 {
            said.push("--ipv6=off".to_owned());
        }
        let mut say = |name: &str, value: String| said.push(format!("--{name}={value}"));
        for (name, list) in lists {
            if !list.is_empty() {
                say(name, list);
            }
        }
        said
    }

    /// What is wrong with them: every mistake, each with what to do instead.
    pub fn mistakes(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.outbound.is_none() && self.inbound.is_none() {
            found.push("neither direction is handed over: leave out `--no-outbound` or `--no-inbound`".to_owned());
        }
        if self.outbound.is_some() && self.outbound == self.inbound {
            found.push("outbound and inbound must be handed to different ports: weir tells them apart by the port".to_owned());
        }
        if self.outbound == Some(0) || self.inbound == Some(0) {
            found.push("connections cannot be handed to port 0".to_owned());
        }
        if self.outbound.is_some() && self.uid.is_none() && self.gid.is_none() && self.mark.is_none() {
            found.push(
                "weir's own connections must be known by --uid, --gid or --mark, or they are handed to itself for ever"
                    .to_owned(),
            );
        }
        for (what, port) in [("outbound", self.outbound), ("inbound", self.inbound)] {
            if matches!(port, Some(ADMIN | PROBES)) {
                found.push(format!(
                    "{what} connections cannot be handed to port {}, where weir's own servers are: the listener takes {} by default",
                    port.unwrap_or_default(),
                    if what == "inbound" { INBOUND } else { OUTBOUND }
                ));
            }
        }
        if self.gid == Some(0) {
            found.push("as gid 0 weir cannot be told from an app in the group of root: run it with another group".to_owned());
        }
        for net in [&self.exclude_inbound_cidrs, &self.include_outbound_cidrs, &self.exclude_outbound_cidrs].into_iter().flatten()
        {
            if let IpNet::V6(mapped) = net
                && let Some(plain) = mapped.network().to_ipv4_mapped()
            {
                let length = mapped.prefix_len().saturating_sub(96);
                found.push(format!("`{net}` means IPv4, which the rules see as such: write `{plain}/{length}`"));
            }
        }
        let ids = [self.uid, self.gid].into_iter().flatten();
        if ids.chain(self.exclude_uids.iter().chain(&self.exclude_gids).copied()).any(|id| id == u32::MAX) {
            found.push(format!("{} (-1) is nobody's id", u32::MAX));
        }
        if self.uid == Some(0) {
            found.push("as uid 0 weir cannot be told from an app that runs as root: run it as another user".to_owned());
        }
        if self.preserve_source && self.inbound.is_none() {
            found.push("addresses of callers can be preserved only where what calls the app is handed over".to_owned());
        }
        for name in &self.exclude_interfaces {
            if !is_interface(name) {
                found.push(format!("`{name}` is not the name of an interface: up to 15 letters, digits, `.`, `_`, `-`, `@`"));
            }
        }
        found
    }
}

/// What a list has besides what it has by default.
fn listed<T: fmt::Display + PartialEq>(list: &[T], usual: &[T]) -> String {
    let more: Vec<String> = list.iter().filter(|one| !usual.contains(one)).map(T::to_string).collect();
    more.join(",")
}

/// Names stand in scripts, so none may end a word there.
fn is_interface(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'@');
    (1..=15).contains(&name.len()) && name.bytes().all(fits) && !name.starts_with('-')
}

/// One port, or all from the first to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl From<u16> for Ports {
    fn from(port: u16) -> Self {
        Self { first: port, last: port }
    }
}

impl FromStr for Ports {
    type Err = String;

    /// `8080` or `8000-8999`.
    fn from_str(text: &str) -> Result<Self, String> {
        let port = |text: &str| match text.parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            _ => Err(format!("`{text}` is not a port: write 1 to 65535, or a range such as 8000-8999")),
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (port(first)?, port(last)?);
        if first > last {
            return Err(format!("the range {first}-{last} is empty: write {last}-{first}"));
        }
        Ok(Self { first, last })
    }
}

/// An address or a range, as `10.0.0.0/8` or `10.1.2.3`.
///
/// # Errors
/// It is neither.
pub fn network(text: &str) -> Result<IpNet, String> {
    let parsed = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    parsed.map_err(|_| format!("`{text}` is not an address or range: write 10.1.2.3 or 10.0.0.0/8"))
}
