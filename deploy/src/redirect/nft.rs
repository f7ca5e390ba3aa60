//! The rules as a script for `nft`, for people to read and for `nft -f` to load.

use std::fmt::Write;

use ipnet::IpNet;

use super::plan::{Chain, Hook, Match, Plan, Rule, TABLE, Verdict};
use super::routes;

/// A script that puts the rules in place of those that are there, in one transaction.
pub fn script(plan: &Plan) -> String {
    let mut out = format!("table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n");
    for chain in &plan.chains {
        write_chain(&mut out, chain);
    }
    out.push_str("}\n");
    out.push_str(&routes::script(plan));
    out
}

fn write_chain(out: &mut String, chain: &Chain) {
    let _ = writeln!(out, "\tchain {} {{", chain.name);
    if let Some(hook) = chain.hook {
        let (kind, hook, priority) = match hook {
            Hook::Prerouting => ("nat", "prerouting", "dstnat"),
            Hook::Output => ("nat", "output", "-100"),
            Hook::Incoming => ("filter", "prerouting", "mangle"),
            Hook::Outgoing => ("route", "output", "mangle"),
        };
        let _ = writeln!(out, "\t\ttype {kind} hook {hook} priority {priority}; policy accept;");
    }
    for rule in &chain.rules {
        let _ = writeln!(out, "\t\t{}", line(rule));
    }
    out.push_str("\t}\n");
}

fn line(rule: &Rule) -> String {
    let mut line = String::new();
    for condition in &rule.matches {
        match condition {
            Match::Tcp(true) => line.push_str("meta l4proto tcp"),
            Match::Tcp(false) => line.push_str("meta l4proto != tcp"),
            Match::Ipv6 => line.push_str("meta nfproto ipv6"),
            Match::From(name) => _ = write!(line, "iifname \"{name}\""),
            Match::To(name) => _ = write!(line, "oifname \"{name}\""),
            Match::Source(net) => _ = write!(line, "{} saddr {}", family(net), bare(net)),
            Match::Destination(net, is) => _ = write!(line, "{} daddr {}{}", family(net), not(*is), bare(net)),
            Match::Local(is) => _ = write!(line, "fib daddr type {}local", not(*is)),
            Match::Port(first, last) if first == last => _ = write!(line, "tcp dport {first}"),
            Match::Port(first, last) => _ = write!(line, "tcp dport {first}-{last}"),
            Match::User(id) => _ = write!(line, "meta skuid {id}"),
            Match::Group(id) => _ = write!(line, "meta skgid {id}"),
            Match::Mark(mark) => _ = write!(line, "meta mark 0x{mark:08x}"),
            Match::Remembered(mark) => _ = write!(line, "ct mark 0x{mark:08x}"),
        }
        line.push(' ');
    }
    match rule.verdict {
        Verdict::Return => line.push_str("return"),
        Verdict::Redirect(port) => _ = write!(line, "redirect to :{port}"),
        Verdict::Jump(chain) => _ = write!(line, "jump {chain}"),
        Verdict::Remember(mark) => _ = write!(line, "ct mark set 0x{mark:08x}"),
        Verdict::Mark(mark) => _ = write!(line, "meta mark set 0x{mark:08x}"),
    }
    let _ = write!(line, " comment \"{}\"", rule.why);
    line
}

fn family(net: &IpNet) -> &'static str {
    match net {
        IpNet::V4(_) => "ip",
        IpNet::V6(_) => "ip6",
    }
}

/// A network; of one address only the address.
fn bare(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

fn not(is: bool) -> &'static str {
    if is { "" } else { "!= " }
}
