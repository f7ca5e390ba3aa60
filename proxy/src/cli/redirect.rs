//! `weir redirect`: the rules by which the kernel hands a service's connections to weir.

use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand, ValueEnum};
use ipnet::IpNet;
use weir_deploy::redirect::iptables::{self, Flavour};
use weir_deploy::redirect::options::{self, Options, Ports};
use weir_deploy::redirect::{self, Backend, Plan, nft, plan};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Put the rules in place of those that are there. Needs CAP_NET_ADMIN, and only for this.
    Install {
        #[command(flatten)]
        rules: Rules,
        /// By what the kernel is told. `auto` takes the first that works: nftables, iptables-nft, iptables-legacy.
        #[arg(long, value_enum, default_value_t)]
        backend: By,
    },
    /// Compare the rules that are there with those that these options mean. Exits with 1 if they differ.
    Check {
        #[command(flatten)]
        rules: Rules,
    },
    /// Take away all rules of weir, whoever installed them.
    Remove,
    /// Show the rules without installing them.
    Print {
        #[command(flatten)]
        rules: Rules,
        /// In whose language: `nft -f` or `iptables-restore --noflush` loads what is printed.
        #[arg(long, value_enum, default_value_t)]
        backend: By,
    },
}

/// By what the kernel is told.
#[derive(Debug, Clone, Copy, Default, ValueEnum)]
pub(super) enum By {
    #[default]
    Auto,
    Nftables,
    IptablesNft,
    IptablesLegacy,
}

/// Which connections are handed to weir. Lists are separated by commas.
#[derive(Debug, Args)]
pub(super) struct Rules {
    /// The port of the listener for what the app calls.
    #[arg(long, default_value_t = options::OUTBOUND, value_name = "PORT")]
    outbound_port: u16,
    /// Leave what the app calls alone.
    #[arg(long)]
    no_outbound: bool,
    /// The port of the listener for what calls the app.
    #[arg(long, default_value_t = options::INBOUND, value_name = "PORT")]
    inbound_port: u16,
    /// Leave what calls the app alone.
    #[arg(long)]
    no_inbound: bool,
    /// The user that weir runs as: its own connections pass. `none` if they are known otherwise.
    #[arg(long, default_value_t = Id(Some(options::UID)), value_name = "ID")]
    uid: Id,
    /// The group that weir runs as: its own connections pass. `none` if they are known otherwise.
    #[arg(long, default_value_t = Id(Some(options::UID)), value_name = "ID")]
    gid: Id,
    /// A mark (SO_MARK) of packets that pass. weir's own have none: this is for what rules or programs of yours mark.
    #[arg(long, value_name = "NUMBER", value_parser = mark)]
    mark: Option<u32>,
    /// Users whose connections pass.
    #[arg(long, value_delimiter = ',', value_name = "IDS", value_parser = id)]
    exclude_uids: Vec<u32>,
    /// Groups whose connections pass.
    #[arg(long, value_delimiter = ',', value_name = "IDS", value_parser = id)]
    exclude_gids: Vec<u32>,
    /// Ports of the app that are handed over, such as `8080,9000-9100`. Default: all.
    #[arg(long, value_delimiter = ',', value_name = "PORTS")]
    include_inbound_ports: Vec<Ports>,
    /// Ports of the app that are not. 22 and 15020 (weir's probes) are not anyway, unless included by number.
    #[arg(long, value_delimiter = ',', value_name = "PORTS")]
    exclude_inbound_ports: Vec<Ports>,
    /// Callers that reach the app without weir, such as `10.0.0.0/8,fd00::/8`.
    #[arg(long, value_delimiter = ',', value_name = "CIDRS", value_parser = options::network)]
    exclude_inbound_cidrs: Vec<IpNet>,
    /// Ports that the app calls by way of weir. Default: all.
    #[arg(long, value_delimiter = ',', value_name = "PORTS")]
    include_outbound_ports: Vec<Ports>,
    /// Ports that the app calls without.
    #[arg(long, value_delimiter = ',', value_name = "PORTS")]
    exclude_outbound_ports: Vec<Ports>,
    /// Destinations that the app calls by way of weir. Default: all.
    #[arg(long, value_delimiter = ',', value_name = "CIDRS", value_parser = options::network)]
    include_outbound_cidrs: Vec<IpNet>,
    /// Destinations that the app calls without. Metadata services (169.254.169.254, 169.254.170.2, 169.254.170.23,
    /// fd00:ec2::254, fd00:ec2::23) and link-local addresses of IPv6 (fe80::/10) are called without anyway, unless included by
    /// address.
    #[arg(long, value_delimiter = ',', value_name = "CIDRS", value_parser = options::network)]
    exclude_outbound_cidrs: Vec<IpNet>,
    /// Interfaces whose connections pass, both ways.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    exclude_interfaces: Vec<String>,
    /// Let weir call the app from the addresses of its callers, for listeners with `preserve_source`: what the app answers is led
    /// back to weir. By nftables only.
    #[arg(long)]
    preserve_source: bool,
    /// Whether IPv6 is handed over too. `auto`: if this network namespace has it.
    #[arg(long, value_enum, default_value_t)]
    ipv6: Ipv6,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Ipv6 {
    #[default]
    Auto,
    On,
    Off,
}

/// A number of a user or group, or none.
#[derive(Debug, Clone, Copy)]
struct Id(Option<u32>);

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(id) => write!(f, "{id}"),
            None => f.write_str("none"),
        }
    }
}

impl std::str::FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            number => number.parse().map(|id| Self(Some(id))).map_err(|_| "write a number, or `none`".to_owned()),
        }
    }
}

/// A user or a group by number: names are known to its container only.
fn id(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "write a number, such as 1000; `id -u NAME` and `id -g NAME` tell it".to_owned())
}

fn mark(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    match parsed {
        Ok(0) | Err(_) => Err("write a number above 0, such as 1337 or 0x539".to_owned()),
        Ok(mark) => Ok(mark),
    }
}

impl Rules {
    fn plan(self) -> anyhow::Result<Plan> {
        let has_ipv6 = match self.ipv6 {
            Ipv6::Auto => has_ipv6()?,
            Ipv6::On | Ipv6::Off => false,
        };
        Ok(plan(&self.options(has_ipv6)?))
    }

    /// What these arguments mean where there is IPv6, or is not.
    pub(super) fn options(self, has_ipv6: bool) -> anyhow::Result<Options> {
        let ipv6 = match self.ipv6 {
            Ipv6::On => true,
            Ipv6::Off => false,
            Ipv6::Auto => has_ipv6,
        };
        let defaults = Options::default();
        let named = |ports: &Ports| !self.include_inbound_ports.contains(ports);
        let asked_for = |net: &IpNet| !self.include_outbound_cidrs.contains(net);
        let options = Options {
            outbound: (!self.no_outbound).then_some(self.outbound_port),
            inbound: (!self.no_inbound).then_some(self.inbound_port),
            uid: self.uid.0,
            gid: self.gid.0,
            mark: self.mark,
            exclude_uids: self.exclude_uids,
            exclude_gids: self.exclude_gids,
            exclude_inbound_ports: with(defaults.exclude_inbound_ports, named, self.exclude_inbound_ports),
            include_inbound_ports: self.include_inbound_ports.clone(),
            exclude_inbound_cidrs: self.exclude_inbound_cidrs,
            include_outbound_ports: self.include_outbound_ports,
            exclude_outbound_ports: self.exclude_outbound_ports,
            exclude_outbound_cidrs: with(defaults.exclude_outbound_cidrs, asked_for, self.exclude_outbound_cidrs),
            include_outbound_cidrs: self.include_outbound_cidrs.clone(),
            exclude_interfaces: self.exclude_interfaces,
            ipv6,
            preserve_source: self.preserve_source,
        };
        let mistakes = options.mistakes();
        if !mistakes.is_empty() {
            bail!("{}", mistakes.join("\n  "));
        }
        Ok(options)
    }
}

/// What is excluded by default, as far as nobody asks for it by name, and what is excluded besides.
fn with<T: PartialEq>(defaults: Vec<T>, keep: impl Fn(&T) -> bool, more: Vec<T>) -> Vec<T> {
    let mut all: Vec<T> = defaults.into_iter().filter(keep).collect();
    for one in more {
        if !all.contains(&one) {
            all.push(one);
        }
    }
    all
}

/// Whether this network namespace speaks IPv6.
///
/// # Errors
/// It does, but not on loopback, where weir would take what the app calls.
fn has_ipv6() -> anyhow::Result<bool> {
    let on_loopback = std::net::TcpListener::bind((std::net::Ipv6Addr::LOCALHOST, 0)).is_ok();
    // A line for each address. Without IPv6 in the kernel there is no such file.
    let elsewhere = std::fs::read_to_string("/proc/self/net/if_inet6").is_ok_and(|addresses| !addresses.is_empty());
    if elsewhere && !on_loopback {
        bail!(
            "there is IPv6 here, but not on loopback, where weir takes what is handed to it: `sysctl -w \
             net.ipv6.conf.lo.disable_ipv6=0`, or leave IPv6 alone with `--ipv6 off`"
        );
    }
    Ok(on_loopback)
}

impl By {
    fn backend(self) -> Option<Backend> {
        match self {
            Self::Auto => None,
            Self::Nftables => Some(Backend::Nftables),
            Self::IptablesNft => Some(Backend::Iptables(Flavour::Nft)),
            Self::IptablesLegacy => Some(Backend::Iptables(Flavour::Legacy)),
        }
    }
}

pub(super) fn run(command: Command) -> anyhow::Result<ExitCode> {
    let said = match command {
        Command::Install { rules, backend } => {
            let installed = redirect::install(&rules.plan()?, backend.backend())?;
            for reason in &installed.passed {
                eprintln!("not by {reason}");
            }
            format!("redirection installed by {}; `weir redirect remove` takes it away\n", installed.by)
        }
        Command::Check { rules } => return check(&rules.plan()?),
        Command::Remove => match &redirect::remove()?[..] {
            [] => "there were no rules\n".to_owned(),
            some => format!("removed: {}\n", some.iter().map(Backend::to_string).collect::<Vec<_>>().join(", ")),
        },
        Command::Print { rules, backend } => text(&rules.plan()?, backend)?,
    };
    Ok(super::print(&said))
}

/// How many differences are told: what shifts all rules says nothing by the hundredth.
const SHOWN: usize = 20;

fn check(plan: &Plan) -> anyhow::Result<ExitCode> {
    let Some((backend, differences)) = redirect::check(plan)? else {
        eprintln!("no rules of weir are installed here; `weir redirect install` with the same options installs them");
        return Ok(ExitCode::FAILURE);
    };
    if differences.is_empty() {
        return Ok(super::print(&format!("redirection is installed by {backend}, as these options say\n")));
    }
    eprintln!("the rules of {backend} are not what these options mean:");
    for difference in differences.iter().take(SHOWN) {
        eprintln!("  {difference}");
    }
    if differences.len() > SHOWN {
        eprintln!("  and {} more", differences.len() - SHOWN);
    }
    eprintln!("`weir redirect install` with the same options puts them right");
    Ok(ExitCode::FAILURE)
}

/// The rules as text.
fn text(plan: &Plan, by: By) -> anyhow::Result<String> {
    if matches!(by, By::Auto | By::Nftables) {
        return Ok(nft::script(plan));
    }
    iptables::fits(plan)?;
    let mut text = format!("# iptables-restore --noflush\n{}", iptables::script(plan, false));
    if plan.ipv6 {
        text.push_str("# ip6tables-restore --noflush\n");
        text.push_str(&iptables::script(plan, true));
    }
    Ok(text)
}
