//! Which connections are handed to weir: options to rules, purely. How the kernel is told is decided elsewhere, three times
//! ([`super::nft`], [`super::netlink`], [`super::iptables`]), and must come to the same.
//!
//! What breaks if this is changed carelessly: rules are tried in order, and each of the first five of `output` keeps
//! connections from going round in circles. weir's own connections are known by its user and group. Those to its own app
//! come from a loopback address, so that they pass although weir's other connections to this very pod, which are for a
//! service that the pod is part of, must enter it as all others do.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::options::{Options, PRESERVED, Ports};

/// The name of the table, and what chains of iptables begin with.
pub const TABLE: &str = "weir";

/// Rules in chains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The chains; one stands behind those that it is jumped to from.
    pub chains: Vec<Chain>,
    /// Whether there are rules for IPv6.
    pub ipv6: bool,
    /// Whether what carries the mark [`PRESERVED`] is routed to this namespace, whatever address it is for.
    pub routes: bool,
}

/// Rules that are tried in order. What passes all of them is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: &'static str,
    /// Where the kernel tries it; `None` if only other chains do.
    pub hook: Option<Hook>,
    /// The rules.
    pub rules: Vec<Rule>,
}

/// Where the kernel tries a chain on the first packet of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// It came in.
    Prerouting,
    /// A process of this namespace sent it.
    Output,
    /// Any packet that comes in, before anything is decided about its connection.
    Incoming,
    /// Any packet that a process of this namespace sends; it is routed again if it was marked.
    Outgoing,
}

/// What becomes of the connections that match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What all must hold.
    pub matches: Vec<Match>,
    /// What to do.
    pub verdict: Verdict,
    /// What it is for, in a few words.
    pub why: &'static str,
}

/// A condition on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// TCP or not.
    Tcp(bool),
    /// IPv6.
    Ipv6,
    /// It came in by this interface.
    From(String),
    /// It leaves by this interface.
    To(String),
    /// It is from an address of this network.
    Source(IpNet),
    /// It is for an address of this network, or for none of it.
    Destination(IpNet, bool),
    /// It is for an address of this namespace, or for none.
    Local(bool),
    /// It is for a port from the first to the second.
    Port(u16, u16),
    /// A process of this user opened it.
    User(u32),
    /// A process of this group opened it.
    Group(u32),
    /// Its packets carry this mark.
    Mark(u32),
    /// The connection is remembered with this mark.
    Remembered(u32),
}

/// What to do with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing more in this chain.
    Return,
    /// Hand it to this port of the namespace.
    Redirect(u16),
    /// Try the rules of another chain.
    Jump(&'static str),
    /// Remember the connection with this mark.
    Remember(u32),
    /// Mark the packet.
    Mark(u32),
}

const INBOUND: &str = "inbound";
const LOOPBACK: &str = "lo";

/// The rules that do what the options say.
pub fn plan(options: &Options) -> Plan {
    let mut chains = Vec::new();
    if options.inbound.is_some() {
        chains.push(Chain { name: INBOUND, hook: None, rules: inbound(options) });
        chains.push(Chain { name: "prerouting", hook: Some(Hook::Prerouting), rules: prerouting(options) });
    }
    if options.outbound.is_some() {
        chains.push(Chain { name: "output", hook: Some(Hook::Output), rules: output(options) });
    }
    if options.preserve_source {
        chains.extend(preserved());
    }
    Plan { chains, ipv6: options.ipv6, routes: options.preserve_source }
}

/// What every chain of the kernel's begins with.
fn begin(options: &Options) -> Vec<Rule> {
    let mut rules = vec![returns([Match::Tcp(false)], "only TCP is for weir")];
    if !options.ipv6 {
        rules.push(returns([Match::Ipv6], "IPv6 is left alone"));
    }
    rules
}

/// What weir sends to the app from an address of somebody else, and what the app answers: the kernel would send that to them.
fn preserved() -> [Chain; 2] {
    let (lo, marked) = (Match::From(LOOPBACK.to_owned()), Match::Mark(PRESERVED));
    let incoming = rule([lo, marked], Verdict::Remember(PRESERVED), "weir speaks to the app as its caller");
    let outgoing = rule([Match::Remembered(PRESERVED)], Verdict::Mark(PRESERVED), "the app answers that");
    [
        Chain { name: "incoming", hook: Some(Hook::Incoming), rules: vec![incoming] },
        Chain { name: "outgoing", hook: Some(Hook::Outgoing), rules: vec![outgoing] },
    ]
}

/// Ports of the app that callers ask for.
fn inbound(options: &Options) -> Vec<Rule> {
    let Some(port) = options.inbound else { return Vec::new() };
    let mut rules = Vec::new();
    for ports in &options.exclude_inbound_ports {
        rules.push(returns([at(*ports)], "excluded inbound port"));
    }
    if options.include_inbound_ports.is_empty() {
        rules.push(rule([Match::Tcp(true)], Verdict::Redirect(port), "what calls the app"));
    }
    for ports in &options.include_inbound_ports {
        rules.push(rule([at(*ports)], Verdict::Redirect(port), "what calls the app"));
    }
    rules
}

fn prerouting(options: &Options) -> Vec<Rule> {
    let mut rules = begin(options);
    rules.push(returns([Match::From(LOOPBACK.to_owned())], "judged when it was sent"));
    for name in &options.exclude_interfaces {
        rules.push(returns([Match::From(name.clone())], "excluded interface"));
    }
    for net in visible(options, &options.exclude_inbound_cidrs) {
        rules.push(returns([Match::Source(net)], "excluded caller"));
    }
    rules.push(returns([Match::Local(false)], "on its way through, not to the app"));
    rules.push(rule([], Verdict::Jump(INBOUND), "what calls the app"));
    rules
}

fn output(options: &Options) -> Vec<Rule> {
    let Some(port) = options.outbound else { return Vec::new() };
    let mut rules = begin(options);
    if options.preserve_source {
        rules.push(returns([Match::Mark(PRESERVED)], "weir speaks to the app as its caller"));
    }
    if let Some(mark) = options.mark {
        rules.push(returns([Match::Mark(mark)], "marked by weir"));
    }
    for own in owners(options) {
        own_connections(options, &own, &mut rules);
    }
    rules.push(returns([Match::To(LOOPBACK.to_owned())], "the app speaks to itself"));
    for (users, make) in
        [(&options.exclude_uids, Match::User as fn(u32) -> Match), (&options.exclude_gids, Match::Group as fn(u32) -> Match)]
    {
        for id in users {
            rules.push(returns([make(*id)], "excluded process"));
        }
    }
    for name in &options.exclude_interfaces {
        rules.push(returns([Match::To(name.clone())], "excluded interface"));
    }
    for net in visible(options, &options.exclude_outbound_cidrs) {
        rules.push(returns([Match::Destination(net, true)], "excluded destination"));
    }
    for ports in &options.exclude_outbound_ports {
        rules.push(returns([at(*ports)], "excluded outbound port"));
    }
    for matches in included(options) {
        rules.push(rule(matches, Verdict::Redirect(port), "what the app calls"));
    }
    rules
}

/// How connections of weir itself are known.
fn owners(options: &Options) -> Vec<Match> {
    let user = options.uid.map(Match::User);
    let group = options.gid.map(Match::Group);
    user.into_iter().chain(group).collect()
}

/// What weir itself opens.
fn own_connections(options: &Options, own: &Match, rules: &mut Vec<Rule>) {
    let by_loopback = Match::To(LOOPBACK.to_owned());
    for loopback in visible(options, &LOOPBACKS) {
        rules.push(returns([by_loopback.clone(), own.clone(), Match::Source(loopback)], "weir speaks to the app"));
    }
    if options.inbound.is_some() {
        // What has another source is for an address of the pod itself.
        let matches = [by_loopback, own.clone()];
        rules.push(rule(matches, Verdict::Jump(INBOUND), "the pod calls itself as a service"));
    }
    rules.push(returns([own.clone()], "weir itself"));
}

/// The addresses of a host that nobody else can reach.
const LOOPBACKS: [IpNet; 2] = [
    IpNet::V4(ipnet::Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8)),
    IpNet::V6(ipnet::Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)),
];

/// Where the app's connections must go to be handed over: every pair of a network and a range of ports.
fn included(options: &Options) -> Vec<Vec<Match>> {
    let networks: Vec<Option<Match>> = match &options.include_outbound_cidrs[..] {
        [] => vec![None],
        some => visible(options, some).map(|net| Some(Match::Destination(net, true))).collect(),
    };
    let ports: Vec<Option<Match>> = match &options.include_outbound_ports[..] {
        [] => vec![Some(Match::Tcp(true))],
        some => some.iter().map(|ports| Some(at(*ports))).collect(),
    };
    let pairs = networks.iter().flat_map(|network| ports.iter().map(move |ports| (network, ports)));
    pairs.map(|(network, ports)| network.iter().chain(ports).cloned().collect()).collect()
}

/// Networks of the families that there are rules for.
fn visible<'o>(options: &Options, networks: &'o [IpNet]) -> impl Iterator<Item = IpNet> + use<'o> {
    let ipv6 = options.ipv6;
    networks.iter().filter(move |net| ipv6 || matches!(net.addr(), IpAddr::V4(_))).map(IpNet::trunc)
}

fn at(ports: Ports) -> Match {
    Match::Port(ports.first, ports.last)
}

fn rule(matches: impl Into<Vec<Match>>, verdict: Verdict, why: &'static str) -> Rule {
    Rule { matches: matches.into(), verdict, why }
}

fn returns<const N: usize>(matches: [Match; N], why: &'static str) -> Rule {
    rule(matches, Verdict::Return, why)
}
