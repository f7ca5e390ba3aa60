//! One `install` or `remove` at a time in a network namespace.
//!
//! The kernel takes each set of rules at once, but putting a set of one backend in the place of another's is several steps: two
//! that do so at the same moment take away each other's rules, and connections pass by weir without anybody's noticing.
//!
//! Who has the abstract Unix socket [`NAME`] has the turn: such names belong to one network namespace (network_namespaces(7)),
//! leave no file, and are free again when the process ends, however it does. They are anybody's, so one that is held forever is
//! an error and no reason to wait forever.

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// The name of the socket, after its NUL: `@weir-redirect` in `ss -xlp`.
const NAME: &str = "weir-redirect";
/// How long others may take: `iptables-restore` alone waits up to five seconds for its own lock.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is tried.
const PAUSE: Duration = Duration::from_millis(10);

/// The right to change rules, until it is dropped.
#[derive(Debug)]
#[must_use = "others may change rules as soon as it is dropped"]
pub(super) struct Turn(#[expect(dead_code, reason = "its name is what counts")] UnixListener);

impl Turn {
    /// Waits until nobody else changes the rules of this network namespace.
    ///
    /// # Errors
    /// Somebody has for 20 s.
    pub(super) fn wait() -> anyhow::Result<Self> {
        Self::wait_for(NAME, PATIENCE)
    }

    fn wait_for(name: &str, patience: Duration) -> anyhow::Result<Self> {
        let address = SocketAddr::from_abstract_name(name)?;
        let began = Instant::now();
        loop {
            match UnixListener::bind_addr(&address) {
                Ok(socket) => return Ok(Self(socket)),
                Err(error) if error.kind() != ErrorKind::AddrInUse => return Err(error).context("cannot wait for others' turns"),
                Err(_) if began.elapsed() >= patience => bail!(
                    "another process has been changing the rules of this network namespace for {patience:?} (it has the socket \
                     @{name}; `ss -xlp` run as root tells which it is): nothing was changed. End it and try again"
                ),
                Err(_) => std::thread::sleep(PAUSE),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_not_forever() {
        let name = format!("weir-turn-{}", std::process::id());
        let first = Turn::wait_for(&name, Duration::ZERO).expect("nobody has it");
        let error = Turn::wait_for(&name, Duration::ZERO).expect_err("the first has it").to_string();
        assert!(error.contains(&format!("@{name}")), "{error}");
        std::thread::scope(|scope| {
            let second = scope.spawn(|| Turn::wait_for(&name, Duration::from_secs(60)));
            drop(first);
            drop(second.join().expect("it does not panic").expect("the first is gone"));
        });
    }
}
