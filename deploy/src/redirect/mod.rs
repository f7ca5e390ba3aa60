//! The rules by which the kernel hands a service's connections to weir: installed once, before the service starts.
//!
//! [`options`] is what may be said, [`mod@plan`] turns it into rules, and the rest tells the kernel: [`netlink`] by nf_tables,
//! without any other program, with [`routes`] for what comes back; [`iptables`] where that is not enough. [`nft`] writes them
//! down. Whoever changes rules waits for its turn (`turn`).

pub mod iptables;
pub mod netlink;
pub mod nft;
pub mod options;
pub mod plan;
pub mod routes;
mod turn;

use std::fmt;
use std::io;

use anyhow::{Context, bail};
use rustix::io::Errno;

use iptables::Flavour;
pub use options::{Options, Ports};
pub use plan::{Plan, plan};
use turn::Turn;

/// By what the kernel is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// nf_tables, natively.
    Nftables,
    /// The programs of iptables.
    Iptables(Flavour),
}

impl Backend {
    /// All, in the order in which they are tried.
    pub const ALL: [Self; 3] = [Self::Nftables, Self::Iptables(Flavour::Nft), Self::Iptables(Flavour::Legacy)];
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nftables => "nftables",
            Self::Iptables(Flavour::Nft) => "iptables-nft",
            Self::Iptables(Flavour::Legacy) => "iptables-legacy",
        })
    }
}

/// What became of an installation.
#[derive(Debug)]
pub struct Installed {
    /// By what the rules are there.
    pub by: Backend,
    /// Why not by those that come before it.
    pub passed: Vec<String>,
}

/// Puts the rules in place of those that are there, by the backend that is asked for or by the first that can.
///
/// # Errors
/// Somebody else is at it and does not finish, or why no backend can. The rules that were there are there still; but if the
/// kernel takes nf_tables' rules and not the routes that belong to them, none are.
pub fn install(plan: &Plan, wanted: Option<Backend>) -> anyhow::Result<Installed> {
    let _turn = Turn::wait()?;
    let mut passed = Vec::new();
    for backend in Backend::ALL.into_iter().filter(|backend| wanted.is_none_or(|wanted| wanted == *backend)) {
        match install_by(plan, backend) {
            Ok(()) => {
                // What another backend left would hand connections over twice, or by other rules.
                for other in Backend::ALL.into_iter().filter(|other| *other != backend) {
                    remove_by(other).with_context(|| format!("the rules stand, and older ones of {other} cannot be removed"))?;
                }
                return Ok(Installed { by: backend, passed });
            }
            Err(error) => passed.push(format!("{backend}: {error:#}")),
        }
    }
    bail!("no rules were installed\n  {}", passed.join("\n  "))
}

fn install_by(plan: &Plan, backend: Backend) -> anyhow::Result<()> {
    match backend {
        Backend::Nftables => {
            // Before anything is touched.
            routes::fits(plan).map_err(explain)?;
            netlink::install(plan).map_err(explain)?;
            if let Err(error) = routes::install(plan) {
                // Half of it would be worse than none.
                let _ = netlink::remove();
                let _ = routes::remove();
                return Err(explain(error));
            }
            Ok(())
        }
        Backend::Iptables(flavour) => iptables::install(plan, flavour),
    }
}

/// Takes away all rules of weir; gives by which backends there were any.
///
/// # Errors
/// Somebody else is at it and does not finish, or what cannot be taken away.
pub fn remove() -> anyhow::Result<Vec<Backend>> {
    let _turn = Turn::wait()?;
    let mut found = Vec::new();
    for backend in Backend::ALL {
        if remove_by(backend).with_context(|| format!("the rules of {backend} cannot be removed"))? {
            found.push(backend);
        }
    }
    Ok(found)
}

fn remove_by(backend: Backend) -> anyhow::Result<bool> {
    match backend {
        Backend::Nftables => {
            let routes = routes::remove().map_err(explain)?;
            match netlink::remove() {
                // A kernel without nf_tables has no rules of it.
                Err(error) if is_absent(&error) => Ok(routes),
                removed => Ok(removed.map_err(explain)? || routes),
            }
        }
        Backend::Iptables(flavour) => iptables::remove(flavour),
    }
}

/// Compares what is there with what should be. Gives the backend whose rules are there, and how they differ.
///
/// # Errors
/// The kernel does not tell.
pub fn check(plan: &Plan) -> anyhow::Result<Option<(Backend, Vec<String>)>> {
    match netlink::is_installed() {
        Ok(true) => {
            let mut found = netlink::differences(plan).map_err(explain)?;
            found.extend(routes::differences(plan).map_err(explain)?);
            let others = [Flavour::Nft, Flavour::Legacy].into_iter().filter(|flavour| iptables::is_installed(*flavour));
            found.extend(others.map(|flavour| format!("there are rules of {} besides", Backend::Iptables(flavour))));
            return Ok(Some((Backend::Nftables, found)));
        }
        Ok(false) => {}
        Err(error) if is_absent(&error) => {}
        Err(error) => return Err(explain(error)),
    }
    for flavour in [Flavour::Nft, Flavour::Legacy] {
        if iptables::is_installed(flavour) {
            return Ok(Some((Backend::Iptables(flavour), iptables::differences(plan, flavour)?)));
        }
    }
    Ok(None)
}

/// Whether the kernel has no nf_tables at all.
fn is_absent(error: &io::Error) -> bool {
    is_one_of(error, &[Errno::PROTONOSUPPORT, Errno::AFNOSUPPORT, Errno::OPNOTSUPP, Errno::INVAL])
}

fn is_one_of(error: &io::Error, known: &[Errno]) -> bool {
    known.iter().any(|one| error.raw_os_error() == Some(one.raw_os_error()))
}

fn explain(error: io::Error) -> anyhow::Error {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "this needs CAP_NET_ADMIN in the network namespace of the service: run it as root, in an init container with \
             `capabilities: { add: [NET_ADMIN] }`, or under `nsenter --net`"
        }
        io::ErrorKind::NotFound => "the kernel lacks a part of nf_tables (nat, redirect or fib); iptables may still do",
        io::ErrorKind::Other => "the settings of this network namespace",
        _ if is_one_of(&error, &[Errno::NOBUFS, Errno::MSGSIZE]) => {
            "these are more rules than the kernel takes at once: name fewer ports and networks, or wider ones"
        }
        _ if is_absent(&error) => "the kernel has no nf_tables (it came with Linux 3.13, and all of what is needed with 5.2)",
        _ => "the kernel says no",
    };
    anyhow::Error::new(error).context(hint)
}
