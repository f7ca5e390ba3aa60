//! The rules as the kernel's nf_tables takes them (linux/netfilter/nf_tables.h), in one transaction.

use std::io;

use ipnet::IpNet;
use rustix::net::netlink::NETFILTER;

use super::plan::{Chain, Hook, Match, Plan, Rule, TABLE, Verdict};
use crate::netlink::{APPEND, Attributes, CREATE, Kernel, Messages, holds, parse};

/// What nf_tables does, with the subsystem's number (10) in the upper byte.
mod kind {
    pub(super) const BATCH_BEGIN: u16 = 0x10;
    pub(super) const BATCH_END: u16 = 0x11;
    pub(super) const NEW_TABLE: u16 = 0xa00;
    pub(super) const GET_TABLE: u16 = 0xa01;
    pub(super) const DELETE_TABLE: u16 = 0xa02;
    pub(super) const NEW_CHAIN: u16 = 0xa03;
    pub(super) const GET_CHAIN: u16 = 0xa04;
    pub(super) const NEW_RULE: u16 = 0xa06;
    pub(super) const GET_RULE: u16 = 0xa07;
}

/// `NFPROTO_INET`: IPv4 and IPv6.
const INET: u8 = 1;
/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
const FAMILIES: [u8; 2] = [2, 10];
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// The register for verdicts, and the first for values.
const VERDICT: u32 = 0;
const VALUE: u32 = 1;
/// `NFT_META_MARK` and `NFT_CT_MARK`.
const META_MARK: u32 = 3;
const CT_MARK: u32 = 3;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

/// Puts the rules in place of those that are there.
///
/// # Errors
/// What the kernel says; nothing has changed then.
pub fn install(plan: &Plan) -> io::Result<()> {
    let mut messages = Messages::default();
    messages.add_unanswered(kind::BATCH_BEGIN, 0, &batch(), &Attributes::default());
    let table = Attributes::default().text(1, TABLE);
    // Made first, for what is not there cannot be deleted.
    messages.add_unanswered(kind::NEW_TABLE, CREATE, &header(), &table);
    messages.add_unanswered(kind::DELETE_TABLE, 0, &header(), &table);
    messages.add_unanswered(kind::NEW_TABLE, CREATE, &header(), &table);
    for one in &plan.chains {
        messages.add_unanswered(kind::NEW_CHAIN, CREATE, &header(), &chain(one));
    }
    for chain in &plan.chains {
        for one in &chain.rules {
            messages.add_unanswered(kind::NEW_RULE, CREATE | APPEND, &header(), &rule(chain.name, one));
        }
    }
    // It is there, and this changes nothing: one answer, behind all complaints.
    messages.add(kind::NEW_TABLE, CREATE, &header(), &table);
    messages.add_unanswered(kind::BATCH_END, 0, &batch(), &Attributes::default());
    Kernel::new(Some(NETFILTER))?.tell(&messages)
}

/// Takes the rules away; gives whether there were any.
///
/// # Errors
/// What the kernel says.
pub fn remove() -> io::Result<bool> {
    let mut messages = Messages::default();
    messages.add_unanswered(kind::BATCH_BEGIN, 0, &batch(), &Attributes::default());
    messages.add(kind::DELETE_TABLE, 0, &header(), &Attributes::default().text(1, TABLE));
    messages.add_unanswered(kind::BATCH_END, 0, &batch(), &Attributes::default());
    match Kernel::new(Some(NETFILTER))?.tell(&messages) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// What is there in place of the rules that should be; empty if nothing is missing and nothing is too much.
///
/// # Errors
/// What the kernel says.
pub fn differences(plan: &Plan) -> io::Result<Vec<String>> {
    let listed = listed(kind::GET_RULE)?;
    let mut found = Vec::new();
    // A table that sleeps, and a chain that hangs nowhere or elsewhere, have their rules still.
    let awake = Attributes::default().text(1, TABLE).number(2, 0);
    if !self::listed(kind::GET_TABLE)?.iter().any(|told| holds(told, awake.as_bytes())) {
        found.push(format!("the table `inet {TABLE}` is dormant: none of its rules is in force"));
    }
    let chains = self::listed(kind::GET_CHAIN)?;
    for one in &plan.chains {
        if !chains.iter().any(|told| holds(told, chain(one).as_bytes())) {
            found.push(format!("{}: the chain is not there, or its hook, priority or policy is another", one.name));
        }
    }
    for chain in &plan.chains {
        let there: Vec<&Vec<u8>> = listed.iter().filter(|told| is_of(told, chain.name)).collect();
        let pairs = chain.rules.iter().zip(there.iter().copied());
        let wrong = pairs.filter(|(wanted, told)| !holds(told, rule(chain.name, wanted).as_bytes()));
        found.extend(wrong.map(|(wanted, _)| format!("{}: `{}` is not as it should be", chain.name, wanted.why)));
        for missing in chain.rules.iter().skip(there.len()) {
            found.push(format!("{}: `{}` is missing", chain.name, missing.why));
        }
        if there.len() > chain.rules.len() {
            found.push(format!("{}: {} rules too many", chain.name, there.len() - chain.rules.len()));
        }
    }
    let known = |told: &Vec<u8>| plan.chains.iter().any(|chain| is_of(told, chain.name));
    let strange = listed.iter().filter(|told| !known(told)).count();
    if strange > 0 {
        found.push(format!("{strange} rules in chains that should not be there"));
    }
    Ok(found)
}

/// Whether any rule is there.
///
/// # Errors
/// What the kernel says.
pub fn is_installed() -> io::Result<bool> {
    Ok(!listed(kind::GET_RULE)?.is_empty())
}

/// What the kernel has of a kind: of the rules and chains, those of our table.
fn listed(kind: u16) -> io::Result<Vec<Vec<u8>>> {
    match Kernel::new(Some(NETFILTER))?.list(kind, &header(), &Attributes::default().text(1, TABLE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed,
    }
}

fn is_of(told: &[u8], chain: &str) -> bool {
    let of_table = |(kind, value): (u16, &[u8])| kind == 1 && value == [TABLE.as_bytes(), &[0]].concat();
    let of_chain = |(kind, value): (u16, &[u8])| kind == 2 && value == [chain.as_bytes(), &[0]].concat();
    parse(told).any(of_table) && parse(told).any(of_chain)
}

/// `struct nfgenmsg`.
fn header() -> [u8; 4] {
    [INET, 0, 0, 0]
}

/// The same for what begins and ends a transaction of subsystem 10.
fn batch() -> [u8; 4] {
    [0, 0, 0, 10]
}

fn chain(chain: &Chain) -> Attributes {
    let named = Attributes::default().text(1, TABLE).text(3, chain.name);
    let Some(hook) = chain.hook else { return named };
    // NF_IP_PRI_NAT_DST and NF_IP_PRI_MANGLE.
    let (number, priority, kind) = match hook {
        Hook::Prerouting => (0, -100_i32, "nat"),
        Hook::Output => (3, -100, "nat"),
        Hook::Incoming => (0, -150, "filter"),
        Hook::Outgoing => (3, -150, "route"),
    };
    let hook = Attributes::default().number(1, number).number(2, priority.cast_unsigned());
    // NF_ACCEPT.
    named.nested(4, &hook).number(5, 1).text(7, kind)
}

fn rule(chain: &str, rule: &Rule) -> Attributes {
    let mut expressions = Attributes::default();
    for condition in &rule.matches {
        expressions = condition_of(expressions, condition);
    }
    expressions = verdict(expressions, rule.verdict);
    Attributes::default().text(1, TABLE).text(2, chain).nested(4, &expressions).bytes(7, &comment(rule.why))
}

/// As libnftnl keeps comments, so that `nft list` shows them: a type, a length, and text with a zero at its end.
fn comment(text: &str) -> Vec<u8> {
    let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    [&[0, length], text.as_bytes(), &[0]].concat()
}

fn condition_of(expressions: Attributes, condition: &Match) -> Attributes {
    const L4PROTO: u32 = 16;
    const NFPROTO: u32 = 15;
    const IIFNAME: u32 = 6;
    const OIFNAME: u32 = 7;
    const SKUID: u32 = 10;
    const SKGID: u32 = 11;
    match condition {
        Match::Tcp(is) => compare(meta(expressions, L4PROTO), op(*is), &[TCP]),
        Match::Ipv6 => compare(meta(expressions, NFPROTO), EQUAL, &[FAMILIES[1]]),
        Match::From(name) => compare(meta(expressions, IIFNAME), EQUAL, &interface(name)),
        Match::To(name) => compare(meta(expressions, OIFNAME), EQUAL, &interface(name)),
        Match::User(id) => compare(meta(expressions, SKUID), EQUAL, &id.to_ne_bytes()),
        Match::Group(id) => compare(meta(expressions, SKGID), EQUAL, &id.to_ne_bytes()),
        Match::Mark(mark) => compare(meta(expressions, META_MARK), EQUAL, &mark.to_ne_bytes()),
        Match::Remembered(mark) => {
            let read = Attributes::default().number(1, VALUE).number(2, CT_MARK);
            compare(expression(expressions, "ct", &read), EQUAL, &mark.to_ne_bytes())
        }
        Match::Source(net) => address(expressions, net, [12, 8], true),
        Match::Destination(net, is) => address(expressions, net, [16, 24], *is),
        Match::Local(is) => {
            // Of the destination (NFTA_FIB_F_DADDR) the type of address (NFT_FIB_RESULT_ADDRTYPE): RTN_LOCAL.
            let fib = Attributes::default().number(1, VALUE).number(2, 3).number(3, 2);
            compare(expression(expressions, "fib", &fib), op(*is), &2_u32.to_ne_bytes())
        }
        Match::Port(first, last) => {
            let expressions = compare(meta(expressions, L4PROTO), EQUAL, &[TCP]);
            let expressions = payload(expressions, 2, 2, 2);
            if first == last {
                return compare(expressions, EQUAL, &first.to_be_bytes());
            }
            let range = Attributes::default()
                .number(1, VALUE)
                .number(2, EQUAL)
                .nested(3, &value(&first.to_be_bytes()))
                .nested(4, &value(&last.to_be_bytes()));
            expression(expressions, "range", &range)
        }
    }
}

fn verdict(expressions: Attributes, verdict: Verdict) -> Attributes {
    match verdict {
        Verdict::Return => decide(expressions, &Attributes::default().number(1, (-5_i32).cast_unsigned())),
        Verdict::Jump(chain) => decide(expressions, &Attributes::default().number(1, (-3_i32).cast_unsigned()).text(2, chain)),
        Verdict::Remember(mark) => set(expressions, "ct", CT_MARK, 4, mark),
        Verdict::Mark(mark) => set(expressions, "meta", META_MARK, 3, mark),
        Verdict::Redirect(port) => {
            let port = Attributes::default().number(1, VALUE).nested(2, &value(&port.to_be_bytes()));
            // NF_NAT_RANGE_PROTO_SPECIFIED.
            let redirect = Attributes::default().number(1, VALUE).number(3, 2);
            expression(expression(expressions, "immediate", &port), "redir", &redirect)
        }
    }
}

/// Sets what an expression can (NFTA_META_SREG, NFTA_CT_SREG) to a mark.
fn set(expressions: Attributes, what: &str, key: u32, source: u16, mark: u32) -> Attributes {
    let mark = Attributes::default().number(1, VALUE).nested(2, &value(&mark.to_ne_bytes()));
    let set = Attributes::default().number(2, key).number(source, VALUE);
    expression(expression(expressions, "immediate", &mark), what, &set)
}

fn decide(expressions: Attributes, code: &Attributes) -> Attributes {
    let data = Attributes::default().nested(2, code);
    expression(expressions, "immediate", &Attributes::default().number(1, VERDICT).nested(2, &data))
}

/// An address of the network header; `offsets` are where it stands in IPv4's and in IPv6's.
fn address(expressions: Attributes, net: &IpNet, offsets: [u32; 2], is: bool) -> Attributes {
    let place = usize::from(matches!(net, IpNet::V6(_)));
    let (mut bytes, mask) = match net {
        IpNet::V4(net) => (net.network().octets().to_vec(), net.netmask().octets().to_vec()),
        IpNet::V6(net) => (net.network().octets().to_vec(), net.netmask().octets().to_vec()),
    };
    // Whole bytes are compared as such, as `nft` has it.
    let is_whole = net.prefix_len() > 0 && net.prefix_len().is_multiple_of(8);
    if is_whole {
        bytes.truncate(usize::from(net.prefix_len() / 8));
    }
    let length = u32::try_from(bytes.len()).unwrap_or_default();
    let expressions = compare(meta(expressions, 15), EQUAL, &[FAMILIES[place]]);
    let mut expressions = payload(expressions, 1, offsets[place], length);
    if !is_whole {
        let bitwise = Attributes::default()
            .number(1, VALUE)
            .number(2, VALUE)
            .number(3, length)
            .nested(4, &value(&mask))
            .nested(5, &value(&vec![0; bytes.len()]));
        expressions = expression(expressions, "bitwise", &bitwise);
    }
    compare(expressions, op(is), &bytes)
}

fn payload(expressions: Attributes, base: u32, offset: u32, length: u32) -> Attributes {
    let payload = Attributes::default().number(1, VALUE).number(2, base).number(3, offset).number(4, length);
    expression(expressions, "payload", &payload)
}

fn meta(expressions: Attributes, key: u32) -> Attributes {
    expression(expressions, "meta", &Attributes::default().number(1, VALUE).number(2, key))
}

fn compare(expressions: Attributes, op: u32, bytes: &[u8]) -> Attributes {
    expression(expressions, "cmp", &Attributes::default().number(1, VALUE).number(2, op).nested(3, &value(bytes)))
}

fn op(is: bool) -> u32 {
    if is { EQUAL } else { NOT_EQUAL }
}

fn value(bytes: &[u8]) -> Attributes {
    Attributes::default().bytes(1, bytes)
}

fn interface(name: &str) -> [u8; 16] {
    let mut padded = [0; 16];
    for (to, from) in padded.iter_mut().zip(name.bytes()) {
        *to = from;
    }
    padded
}

fn expression(expressions: Attributes, name: &str, data: &Attributes) -> Attributes {
    let expression = Attributes::default().text(1, name).nested(2, data);
    expressions.nested(1, &expression)
}
