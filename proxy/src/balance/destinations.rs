//! Endpoints that nobody configured: where redirected connections were going.
//!
//! Made when they are first asked for and forgotten when nobody has for a while, so that what callers ask for cannot fill the
//! memory. The app's own address is tried first, for most apps listen on all; then the same port on loopback, for the rest.
//! Where that answered, calls go there, until somebody is back at the address that was called.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use weir_config::snapshot::Destination;

use crate::upstream;
use crate::upstream::endpoint::{ComesFrom, Endpoint};

/// Destinations that are remembered at a time. Of others no connection is kept.
const MAX: usize = 1024;

/// The endpoints for each destination; where the app sees its callers, for each of those.
#[derive(Default)]
pub struct Destinations(RefCell<HashMap<Key, Rc<Candidates>>>);

/// Where, and in whose name.
type Key = (SocketAddr, Option<IpAddr>);

/// The endpoints that may stand for one destination.
struct Candidates {
    endpoints: Box<[Rc<Endpoint>]>,
    /// The one that answered last.
    preferred: Cell<usize>,
    used: Cell<Instant>,
    /// When it was last asked whether the first is back, while another is preferred.
    asked: Cell<Instant>,
}

/// While calls go to another address than the one that was called, it is asked so often whether somebody is back there.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// It is given up after so long. Over IPv6 nothing tells that nobody listens at an own address.
const NO_ANSWER: Duration = Duration::from_secs(1);

impl Candidates {
    fn prefer(&self, place: usize, now: Instant) {
        if self.preferred.replace(place) == 0 && place != 0 {
            self.asked.set(now);
        }
    }

    /// Asks whether somebody is back at the address that was called, if it is time. Beside the requests: none waits for it.
    fn ask_again(self: &Rc<Self>, now: Instant) {
        if self.preferred.get() == 0 || now.saturating_duration_since(self.asked.get()) < ASK_AGAIN {
            return;
        }
        self.asked.set(now);
        let (candidates, first) = (Rc::clone(self), Rc::clone(&self.endpoints[0]));
        tokio::task::spawn_local(async move {
            let answers = tokio::time::timeout(NO_ANSWER, upstream::answers(&first)).await;
            if answers.unwrap_or(false) {
                candidates.preferred.set(0);
            }
        });
    }
}

impl Destinations {
    /// An endpoint for where `caller` wants to go: one that was not tried, if there is one. `make` makes an endpoint for an
    /// address that is called from another.
    pub fn pick(
        &self,
        kind: Destination,
        (caller, to): (IpAddr, SocketAddr),
        tried: &[SocketAddr],
        make: impl Fn(SocketAddr, Option<ComesFrom>) -> Endpoint,
    ) -> Rc<Endpoint> {
        let candidates = self.candidates(kind, caller, to, make);
        let now = Instant::now();
        candidates.used.set(now);
        candidates.ask_again(now);
        let count = candidates.endpoints.len();
        let preferred = candidates.preferred.get();
        let in_turn = (preferred..preferred + count).map(|place| place % count);
        let fresh = in_turn.clone().find(|place| !tried.contains(&candidates.endpoints[*place].address));
        let place = fresh.unwrap_or(preferred);
        candidates.prefer(place, now);
        Rc::clone(&candidates.endpoints[place])
    }

    fn candidates(
        &self,
        kind: Destination,
        caller: IpAddr,
        to: SocketAddr,
        make: impl Fn(SocketAddr, Option<ComesFrom>) -> Endpoint,
    ) -> Rc<Candidates> {
        let mut known = self.0.borrow_mut();
        let key = (to, (kind == Destination::AppAsCaller).then_some(caller));
        if let Some(found) = known.get(&key) {
            return Rc::clone(found);
        }
        let endpoints = addresses(kind, caller, to).map(|(address, from)| Rc::new(make(address, from)));
        let (endpoints, now) = (endpoints.collect(), Cell::new(Instant::now()));
        let made = Rc::new(Candidates { endpoints, preferred: Cell::new(0), used: now.clone(), asked: now });
        if known.len() < MAX {
            known.insert(key, Rc::clone(&made));
        }
        made
    }

    /// Whether there is an endpoint for a destination that was not tried.
    pub fn has_beside(kind: Destination, to: SocketAddr, tried: &[SocketAddr]) -> bool {
        addresses(kind, to.ip(), to).any(|(address, _)| !tried.contains(&address))
    }

    /// Closes what has been idle too long, and forgets destinations that nobody has asked for in that time.
    pub fn sweep(&self, now: Instant, limit: Duration) {
        self.0.borrow_mut().retain(|_, candidates| {
            let idle = candidates.endpoints.iter().all(|endpoint| endpoint.in_flight.get() == 0);
            let keeps = !idle || now.saturating_duration_since(candidates.used.get()) < limit;
            for endpoint in &candidates.endpoints {
                endpoint.h1.sweep(now, limit);
                endpoint.h2.sweep(now, limit);
                if !keeps {
                    endpoint.retire();
                }
            }
            keeps
        });
    }

    /// Gives all of them up.
    pub fn retire(&self) {
        for candidates in self.0.take().into_values() {
            candidates.endpoints.iter().for_each(|endpoint| endpoint.retire());
        }
    }
}

/// The addresses that may stand for a destination, and where calls to them come from. The app is called from loopback, by
/// which the rules of redirection know that the call is weir's (`weir_deploy::redirect::plan`), or in its caller's name, which
/// they know by a mark.
fn addresses(kind: Destination, caller: IpAddr, to: SocketAddr) -> impl Iterator<Item = (SocketAddr, Option<ComesFrom>)> {
    let (v4, v6) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));
    let (near, far) = if to.is_ipv4() { (v4, v6) } else { (v6, v4) };
    let is_app = kind != Destination::Elsewhere;
    let loopback = |address| (SocketAddr::new(address, to.port()), None);
    // Who is here already, or of the other family, cannot be called for.
    let foreign = kind == Destination::AppAsCaller && caller.is_ipv4() == to.is_ipv4() && !caller.is_loopback();
    let from = if foreign && caller != to.ip() { ComesFrom::Caller(caller) } else { ComesFrom::Own(near) };
    let first = (to, (is_app && !to.ip().is_loopback()).then_some(from));
    let rest = [near, far].map(loopback).into_iter().filter(move |(address, _)| is_app && *address != to);
    std::iter::once(first).chain(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(kind: Destination, to: &str) -> Vec<String> {
        let told = |(address, from): (SocketAddr, Option<ComesFrom>)| match from {
            Some(ComesFrom::Own(from)) => format!("{address} from {from}"),
            Some(ComesFrom::Caller(from)) => format!("{address} as {from}"),
            None => address.to_string(),
        };
        addresses(kind, "10.0.0.9".parse().unwrap(), to.parse().unwrap()).map(told).collect()
    }

    #[test]
    fn the_app_is_where_it_was_called_or_on_loopback() {
        assert_eq!(listed(Destination::Elsewhere, "10.0.0.1:80"), ["10.0.0.1:80"]);
        assert_eq!(listed(Destination::App, "10.0.0.1:80"), ["10.0.0.1:80 from 127.0.0.1", "127.0.0.1:80", "[::1]:80"]);
        assert_eq!(listed(Destination::App, "[fd00::1]:80"), ["[fd00::1]:80 from ::1", "[::1]:80", "127.0.0.1:80"]);
        assert_eq!(listed(Destination::AppAsCaller, "10.0.0.1:80"), ["10.0.0.1:80 as 10.0.0.9", "127.0.0.1:80", "[::1]:80"]);
        assert_eq!(listed(Destination::AppAsCaller, "10.0.0.9:80"), ["10.0.0.9:80 from 127.0.0.1", "127.0.0.1:80", "[::1]:80"]);
        assert_eq!(listed(Destination::AppAsCaller, "[fd00::1]:80"), ["[fd00::1]:80 from ::1", "[::1]:80", "127.0.0.1:80"]);
        assert_eq!(listed(Destination::App, "127.0.0.1:80"), ["127.0.0.1:80", "[::1]:80"]);
    }
}
