//! The rule and the routes by which packets with the mark of [`PRESERVED`] stay in this namespace, whatever address they are for
//! (linux/rtnetlink.h, linux/fib_rules.h). What `ip rule add fwmark 1339 lookup 1339` and `ip route add local default dev lo table
//! 1339` do, for both families.

use std::io;

use super::options::PRESERVED;
use super::plan::Plan;
use crate::netlink::{Attributes, CREATE, Kernel, Messages, parse};

const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;
const NEW_RULE: u16 = 32;
const DELETE_RULE: u16 = 33;
const GET_RULE: u16 = 34;
/// `NLM_F_EXCL`.
const EXCLUSIVE: u16 = 0x200;

const FAMILIES: [(u8, &str); 2] = [(2, "IPv4"), (10, "IPv6")];
/// `LOOPBACK_IFINDEX`.
const LOOPBACK: u32 = 1;
/// Before the main table, and behind the one of local addresses.
const PRIORITY: u32 = 1339;

/// Makes them where the plan wants them, and takes them away where it does not.
///
/// # Errors
/// What the kernel says, or what in its settings would drop such packets.
pub fn install(plan: &Plan) -> io::Result<()> {
    remove()?;
    for (family, _) in families(plan) {
        for (kind, header, attributes) in [(NEW_RULE, rule_header(family), rule()), (NEW_ROUTE, route_header(family), route())] {
            match tell(kind, CREATE | EXCLUSIVE, &header, &attributes) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made?,
            }
        }
    }
    Ok(())
}

/// Takes them away; gives whether there were any.
///
/// # Errors
/// What the kernel says.
pub fn remove() -> io::Result<bool> {
    let mut any = false;
    for (family, _) in FAMILIES {
        if !is_there(family)? && !is_routed(family)? {
            continue;
        }
        any = true;
        for (kind, header, attributes) in
            [(DELETE_RULE, rule_header(family), rule()), (DELETE_ROUTE, route_header(family), route())]
        {
            match tell(kind, 0, &header, &attributes) {
                // ESRCH: there was none.
                Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(3) => {}
                gone => gone?,
            }
        }
    }
    Ok(any)
}

/// What is missing or too much.
///
/// # Errors
/// What the kernel says.
pub fn differences(plan: &Plan) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for (family, name) in FAMILIES {
        let wanted = families(plan).any(|(known, _)| known == family);
        match (is_there(family)? && (!wanted || is_routed(family)?), wanted) {
            (false, true) => found.push(format!("{name}: answers to callers' addresses are not led back to weir")),
            (true, false) => found.push(format!("{name}: a rule leads packets to table {PRESERVED}, which nobody asked for")),
            _ => {}
        }
    }
    Ok(found)
}

/// For people.
pub fn script(plan: &Plan) -> String {
    let option = |family: u8| if family == 2 { "ip" } else { "ip -6" };
    families(plan)
        .map(|(family, _)| {
            let ip = option(family);
            format!(
                "# {ip} rule add priority {PRIORITY} fwmark {PRESERVED} lookup {PRESERVED}\n\
                 # {ip} route add local default dev lo table {PRESERVED}\n"
            )
        })
        .collect()
}

fn families(plan: &Plan) -> impl Iterator<Item = (u8, &'static str)> + use<> {
    let (routes, ipv6) = (plan.routes, plan.ipv6);
    FAMILIES.into_iter().filter(move |(family, _)| routes && (ipv6 || *family == 2))
}

/// Whether the settings of this namespace let such packets pass.
///
/// # Errors
/// Which does not.
pub fn fits(plan: &Plan) -> io::Result<()> {
    if plan.routes { strict_filter() } else { Ok(()) }
}

/// Who filters strictly by where answers would go drops what comes from elsewhere by `lo`.
fn strict_filter() -> io::Result<()> {
    let setting = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter")).unwrap_or_default();
        text.trim().parse::<u8>().unwrap_or(0)
    };
    if setting("all").max(setting("lo")) != 1 {
        return Ok(());
    }
    Err(io::Error::other(
        "net.ipv4.conf.all.rp_filter or that of lo is 1, by which the kernel drops what weir sends to the app in a caller's name: set \
         both to 0 or 2, or leave out --preserve-source",
    ))
}

fn is_there(family: u8) -> io::Result<bool> {
    let listed = match Kernel::new(None)?.list(GET_RULE, &rule_header(family), &Attributes::default()) {
        // A kernel without the family, or without rules.
        Err(error) if matches!(error.raw_os_error(), Some(95 | 97)) => return Ok(false),
        listed => listed?,
    };
    let of_ours = |told: &Vec<u8>| {
        let is = |kind: u16, value: u32| parse(told).any(|(known, bytes)| known == kind && bytes == value.to_ne_bytes());
        is(10, PRESERVED) && is(15, PRESERVED)
    };
    Ok(listed.iter().any(of_ours))
}

/// Whether the table has a route.
fn is_routed(family: u8) -> io::Result<bool> {
    let listed = match Kernel::new(None)?.list(GET_ROUTE, &route_header(family), &Attributes::default()) {
        Err(error) if matches!(error.raw_os_error(), Some(95 | 97)) => return Ok(false),
        listed => listed?,
    };
    let of_ours = |told: &Vec<u8>| parse(told).any(|(kind, bytes)| kind == 15 && bytes == PRESERVED.to_ne_bytes());
    Ok(listed.iter().any(of_ours))
}

fn tell(kind: u16, flags: u16, header: &[u8], attributes: &Attributes) -> io::Result<()> {
    let mut messages = Messages::default();
    messages.add(kind, flags, header, attributes);
    Kernel::new(None)?.tell(&messages)
}

/// `struct fib_rule_hdr`, whose action is FR_ACT_TO_TBL.
fn rule_header(family: u8) -> [u8; 12] {
    [family, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]
}

/// FRA_PRIORITY, FRA_FWMARK, FRA_TABLE.
fn rule() -> Attributes {
    Attributes::default().native(6, PRIORITY).native(10, PRESERVED).native(15, PRESERVED)
}

/// `struct rtmsg`: RTPROT_STATIC, RT_SCOPE_HOST, RTN_LOCAL, for all destinations.
fn route_header(family: u8) -> [u8; 12] {
    [family, 0, 0, 0, 0, 4, 254, 2, 0, 0, 0, 0]
}

/// RTA_OIF, RTA_TABLE.
fn route() -> Attributes {
    Attributes::default().native(4, LOOPBACK).native(15, PRESERVED)
}
