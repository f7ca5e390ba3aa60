//! The rules for kernels without nf_tables, or without enough of it, by the programs of iptables: `iptables-nft` or
//! `iptables-legacy`, whichever is there. They must be installed, as they are not in weir's own image.
//!
//! Each family is one transaction; if the second is refused, the first goes back to what it had. Rules are written exactly as
//! `iptables-save` shows them, so that what is there can be compared with what should be, and put back.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use ipnet::IpNet;

use super::plan::{Chain, Hook, Match, Plan, Rule, Verdict};

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// Over nf_tables.
    Nft,
    /// Over its own tables.
    Legacy,
}

/// What our chains begin with.
const PREFIX: &str = "WEIR_";

/// The programs for one family.
#[derive(Debug, Clone)]
struct Tools {
    restore: String,
    save: String,
    flavour: Flavour,
    ipv6: bool,
}

impl Tools {
    /// Finds them by their own names, else by the common name if that is of this flavour.
    fn find(flavour: Flavour, ipv6: bool) -> Option<Self> {
        let (family, own, word) = match (ipv6, flavour) {
            (false, Flavour::Nft) => ("iptables", "iptables-nft", "nf_tables"),
            (false, Flavour::Legacy) => ("iptables", "iptables-legacy", "legacy"),
            (true, Flavour::Nft) => ("ip6tables", "ip6tables-nft", "nf_tables"),
            (true, Flavour::Legacy) => ("ip6tables", "ip6tables-legacy", "legacy"),
        };
        let version = |name: &str| {
            let shown = Command::new(format!("{name}-restore")).arg("-V").output().ok()?;
            Some(String::from_utf8_lossy(&shown.stdout).into_owned())
        };
        let common = || version(family).filter(|shown| shown.contains(word)).map(|_| family);
        let name = version(own).map(|_| own).or_else(common)?;
        Some(Self { restore: format!("{name}-restore"), save: format!("{name}-save"), flavour, ipv6 })
    }

    /// The lines of the table `nat`.
    fn saved(&self) -> anyhow::Result<Vec<String>> {
        if !self.has_table() {
            return Ok(Vec::new());
        }
        let shown = Command::new(&self.save).args(["-t", "nat"]).output().with_context(|| format!("cannot run {}", self.save))?;
        ensure!(shown.status.success(), "{}: {}", self.save, complaint(&shown.stderr));
        let text = String::from_utf8_lossy(&shown.stdout);
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Whether there is a table to look at: the legacy programs would make one only by looking.
    fn has_table(&self) -> bool {
        let listed = if self.ipv6 { "/proc/net/ip6_tables_names" } else { "/proc/net/ip_tables_names" };
        self.flavour == Flavour::Nft || std::fs::read_to_string(listed).is_ok_and(|names| names.lines().any(|name| name == "nat"))
    }

    /// What is there of ours.
    fn ours(&self) -> anyhow::Result<Ours> {
        Ok(Ours::of(&self.saved()?))
    }

    /// Puts these rules in place of those that are there, and gives those.
    fn lead_to(&self, wanted: &Ours) -> anyhow::Result<Ours> {
        let there = self.ours()?;
        if !(there.is_empty() && wanted.is_empty()) {
            self.restore(&transition(&there, wanted))?;
        }
        Ok(there)
    }

    fn restore(&self, script: &str) -> anyhow::Result<()> {
        let mut child = Command::new(&self.restore)
            .args(["--noflush", "--wait", "5"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", self.restore))?;
        let written = child.stdin.take().map(|mut stdin| stdin.write_all(script.as_bytes()));
        let done = child.wait_with_output()?;
        ensure!(done.status.success(), "{}: {}", self.restore, complaint(&done.stderr));
        written.transpose()?;
        Ok(())
    }
}

fn complaint(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// The programs for each family, and the rules that it is to have. A family without rules needs no programs: where there
/// are none, nobody has put rules there.
fn families(plan: &Plan, flavour: Flavour) -> anyhow::Result<Vec<(Tools, Ours)>> {
    let mut found = Vec::new();
    for ipv6 in [false, true] {
        let wanted = if plan.ipv6 || !ipv6 { Ours::planned(plan, ipv6) } else { Ours::default() };
        match Tools::find(flavour, ipv6) {
            Some(tools) => found.push((tools, wanted)),
            None if wanted.is_empty() => {}
            None => {
                let name = if ipv6 { "ip6tables" } else { "iptables" };
                bail!("`{name}-restore` ({flavour:?}) is not installed");
            }
        }
    }
    Ok(found)
}

/// Whether iptables can do all of it.
///
/// # Errors
/// What it cannot.
pub fn fits(plan: &Plan) -> anyhow::Result<()> {
    ensure!(!plan.routes, "callers' addresses are preserved by nftables only");
    Ok(())
}

/// Puts the rules in place of those that are there, those of each family at once.
///
/// # Errors
/// What the programs say; the rules that were there are there still. Or that there are none: they could not be put back.
pub fn install(plan: &Plan, flavour: Flavour) -> anyhow::Result<()> {
    fits(plan)?;
    let mut done: Vec<(Tools, Ours)> = Vec::new();
    for (tools, wanted) in families(plan, flavour)? {
        match tools.lead_to(&wanted) {
            Ok(before) => done.push((tools, before)),
            Err(error) => {
                let back = done.iter().try_for_each(|(tools, before)| tools.lead_to(before).map(drop));
                let Err(why) = back else { return Err(error) };
                // Half of the rules would be worse than none.
                return Err(error.context(match remove(flavour) {
                    Ok(_) => format!("no rules are there any more, as the older ones cannot be put back ({why:#})"),
                    Err(_) => format!("one family has the new rules and the other has not ({why:#})"),
                }));
            }
        }
    }
    Ok(())
}

/// Takes the rules away; gives whether there were any.
///
/// # Errors
/// What the programs say.
pub fn remove(flavour: Flavour) -> anyhow::Result<bool> {
    let mut any = false;
    for one in [false, true].into_iter().filter_map(|ipv6| Tools::find(flavour, ipv6)) {
        // A family that the kernel does not have has no rules.
        if one.ours().is_ok_and(|ours| !ours.is_empty()) {
            one.lead_to(&Ours::default())?;
            any = true;
        }
    }
    Ok(any)
}

/// What is there in place of the rules that should be; empty if nothing is missing and nothing is too much.
///
/// # Errors
/// The programs are not there, or say no.
pub fn differences(plan: &Plan, flavour: Flavour) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for (one, wanted) in families(plan, flavour)? {
        let there = one.ours()?;
        let (save, family) = (&one.save, if one.ipv6 { "IPv6" } else { "IPv4" });
        let missing = wanted.rules.iter().filter(|line| !there.rules.contains(line));
        found.extend(missing.map(|line| format!("{family}: missing: {line}")));
        let too_much = there.rules.iter().filter(|line| !wanted.rules.contains(line));
        found.extend(too_much.map(|line| format!("{family}: too much: {line}")));
        let ordered = |chain: &String| {
            let of = |line: &&String| line.starts_with(&format!("-A {chain} "));
            wanted.rules.iter().filter(of).eq(there.rules.iter().filter(of))
        };
        if found.is_empty() && !wanted.chains.iter().all(ordered) {
            found.push(format!("{family}: the rules are in another order; see `{save} -t nat`"));
        }
    }
    Ok(found)
}

/// Whether any rule is there.
pub fn is_installed(flavour: Flavour) -> bool {
    let families = [false, true].into_iter().filter_map(|ipv6| Tools::find(flavour, ipv6));
    families.filter_map(|one| one.ours().ok()).any(|ours| !ours.is_empty())
}

/// Our part of the table `nat` of one family.
#[derive(Debug, Default)]
struct Ours {
    /// Their names.
    chains: Vec<String>,
    /// What is in them and what leads to them, as `iptables-save` shows it.
    rules: Vec<String>,
}

impl Ours {
    /// What lines of `iptables-save` say of it.
    fn of(saved: &[String]) -> Self {
        let chain = |line: &String| Some(line.strip_prefix(':')?.split(' ').next()?.to_owned());
        let is_ours = |line: &&String| is_within(line) || line.starts_with("-A") && line.contains(&format!("-j {PREFIX}"));
        Self {
            chains: saved.iter().filter_map(chain).filter(|name| name.starts_with(PREFIX)).collect(),
            rules: saved.iter().filter(is_ours).cloned().collect(),
        }
    }

    /// What it should be.
    fn planned(plan: &Plan, ipv6: bool) -> Self {
        Self {
            chains: plan.chains.iter().map(|chain| name(chain.name)).collect(),
            rules: plan.chains.iter().flat_map(|chain| lines(chain, ipv6)).collect(),
        }
    }

    fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.rules.is_empty()
    }
}

/// Whether a rule is in one of our chains.
fn is_within(rule: &str) -> bool {
    rule.starts_with(&format!("-A {PREFIX}"))
}

/// The script that leads from what is there to what is wanted.
fn transition(there: &Ours, wanted: &Ours) -> String {
    let mut out = "*nat\n".to_owned();
    // Declaring a chain makes it or empties it.
    let new = wanted.chains.iter().filter(|name| !there.chains.contains(name));
    for name in there.chains.iter().chain(new) {
        let _ = writeln!(out, ":{name} - [0:0]");
    }
    let jumps = there.rules.iter().filter(|rule| !is_within(rule));
    for jump in jumps.filter_map(|rule| rule.strip_prefix("-A ")) {
        let _ = writeln!(out, "-D {jump}");
    }
    for rule in &wanted.rules {
        let _ = writeln!(out, "{rule}");
    }
    for gone in there.chains.iter().filter(|name| !wanted.chains.contains(name)) {
        let _ = writeln!(out, "-X {gone}");
    }
    out.push_str("COMMIT\n");
    out
}

/// A script that adds the rules of one family to tables that have none of them, for people to read.
pub fn script(plan: &Plan, ipv6: bool) -> String {
    transition(&Ours::default(), &Ours::planned(plan, ipv6))
}

fn name(chain: &str) -> String {
    format!("{PREFIX}{}", chain.to_ascii_uppercase())
}

/// The rules of a chain, and the one that leads to it.
fn lines(chain: &Chain, ipv6: bool) -> Vec<String> {
    let own = name(chain.name);
    let mut lines: Vec<String> = chain.rules.iter().filter_map(|rule| line(&own, rule, ipv6)).collect();
    if let Some(hook) = chain.hook {
        let from = match hook {
            Hook::Prerouting | Hook::Incoming => "PREROUTING",
            Hook::Output | Hook::Outgoing => "OUTPUT",
        };
        lines.push(format!("-A {from} -p tcp -j {own}"));
    }
    lines
}

/// A rule; `None` if it has no meaning for the family, or only TCP comes here anyway.
fn line(chain: &str, rule: &Rule, ipv6: bool) -> Option<String> {
    let (mut addresses, mut interfaces, mut rest) = (String::new(), String::new(), String::new());
    let mut is_tcp = matches!(rule.verdict, Verdict::Redirect(_));
    for condition in &rule.matches {
        match condition {
            Match::Tcp(false) | Match::Ipv6 => return None,
            Match::Tcp(true) => is_tcp = true,
            Match::From(name) => _ = write!(interfaces, " -i {name}"),
            Match::To(name) => _ = write!(interfaces, " -o {name}"),
            Match::Source(net) => _ = write!(addresses, " -s {}", of_family(net, ipv6)?),
            Match::Destination(net, is) => _ = write!(addresses, "{} -d {}", not(*is), of_family(net, ipv6)?),
            Match::Local(is) => _ = write!(rest, " -m addrtype{} --dst-type LOCAL", not(*is)),
            Match::Port(first, last) => {
                is_tcp = true;
                let ports = if first == last { first.to_string() } else { format!("{first}:{last}") };
                let _ = write!(rest, " -m tcp --dport {ports}");
            }
            Match::User(id) => _ = write!(rest, " -m owner --uid-owner {id}"),
            Match::Group(id) => _ = write!(rest, " -m owner --gid-owner {id}"),
            Match::Remembered(mark) => _ = write!(rest, " -m connmark --mark {mark:#x}"),
            Match::Mark(mark) => _ = write!(rest, " -m mark --mark {mark:#x}"),
        }
    }
    let protocol = if is_tcp { " -p tcp" } else { "" };
    let target = match rule.verdict {
        Verdict::Return => "RETURN".to_owned(),
        Verdict::Jump(chain) => name(chain),
        Verdict::Remember(mark) => format!("CONNMARK --set-xmark {mark:#x}/0xffffffff"),
        Verdict::Mark(mark) => format!("MARK --set-xmark {mark:#x}/0xffffffff"),
        Verdict::Redirect(port) => format!("REDIRECT --to-ports {port}"),
    };
    Some(format!("-A {chain}{addresses}{interfaces}{protocol}{rest} -m comment --comment \"{}\" -j {target}", rule.why))
}

fn of_family(net: &IpNet, ipv6: bool) -> Option<String> {
    (matches!(net, IpNet::V6(_)) == ipv6).then(|| net.to_string())
}

fn not(is: bool) -> &'static str {
    if is { "" } else { " !" }
}
