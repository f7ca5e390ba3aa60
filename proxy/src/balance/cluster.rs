//! The endpoints of a cluster on one worker, and what must outlive a snapshot: connections and loads.
//!
//! Keyed by the cluster's name and the endpoint's address: a new snapshot updates a cluster in place, so a reload never
//! closes a connection that the new table still allows.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use weir_config::policy::Verdict;
use weir_config::snapshot::{Cluster, Destination, Target};
use weir_config::weights::Weights;

use super::budget::Budget;
use super::destinations::Destinations;
use super::discovery::{Discovery, Resolved};
use crate::error::Fault;
use crate::observe::metrics::{ClusterShard, class};
use crate::proxy_protocol::Ends;
use crate::tls::follow::Holder;
use crate::upstream::endpoint::{ComesFrom, Endpoint};

/// A cluster on one worker.
pub struct ClusterState {
    config: RefCell<Rc<Cluster>>,
    endpoints: RefCell<Rc<EndpointSet>>,
    names: RefCell<Vec<Watched>>,
    destination: Cell<Option<Destination>>,
    destinations: Destinations,
    turn: Cell<u64>,
    shard: Arc<ClusterShard>,
    budget: Arc<Budget>,
    identity: Arc<Holder>,
    worker: usize,
}

/// A name among a cluster's endpoints.
struct Watched {
    resolved: Arc<Resolved>,
    port: u16,
    weight: u32,
    seen: u64,
}

/// The endpoints of a cluster at one moment.
pub struct EndpointSet {
    list: Box<[Rc<Endpoint>]>,
    weights: Option<Weights>,
}

impl EndpointSet {
    /// The endpoints that take traffic and were not tried.
    fn beside<'s>(&'s self, tried: &'s [SocketAddr]) -> impl Iterator<Item = &'s Rc<Endpoint>> {
        let takes = |place: usize| self.weights.as_ref().is_some_and(|weights| weights.weight(place) > 0);
        let rest = move |(place, endpoint): &(usize, &Rc<Endpoint>)| takes(*place) && !tried.contains(&endpoint.address);
        self.list.iter().enumerate().filter(rest).map(|(_, endpoint)| endpoint)
    }
}

impl ClusterState {
    /// A cluster as a snapshot describes it.
    pub fn new(
        cluster: &Cluster,
        discovery: &Discovery,
        shard: Arc<ClusterShard>,
        budget: Arc<Budget>,
        identity: Arc<Holder>,
        worker: usize,
    ) -> Rc<Self> {
        let state = Self {
            config: RefCell::new(Rc::new(cluster.clone())),
            endpoints: RefCell::new(Rc::new(EndpointSet { list: Box::default(), weights: None })),
            names: RefCell::default(),
            destination: Cell::new(cluster.destination),
            destinations: Destinations::default(),
            turn: Cell::new(0),
            shard,
            budget,
            identity,
            worker,
        };
        state.watch(discovery);
        state.rebuild();
        Rc::new(state)
    }

    /// Follows a new snapshot.
    pub fn update(&self, cluster: &Cluster, discovery: &Discovery) {
        // A name that was given up and taken up again in between is followed anew.
        let stale = self.names.borrow().iter().any(|name| name.resolved.is_stopped());
        if **self.config.borrow() == *cluster && !stale {
            return;
        }
        let before = self.config.replace(Rc::new(cluster.clone()));
        self.destination.set(cluster.destination);
        if cluster.destination.is_none() {
            self.destinations.retire();
        }
        if before.tls != cluster.tls {
            // Connections in the clear, or to peers that are not expected any more, must not serve another request.
            let none = EndpointSet { list: Box::default(), weights: None };
            self.endpoints.replace(Rc::new(none)).list.iter().for_each(|endpoint| endpoint.retire());
        }
        self.watch(discovery);
        self.rebuild();
    }

    /// The cluster's configuration.
    pub fn config(&self) -> Rc<Cluster> {
        Rc::clone(&self.config.borrow())
    }

    /// Where a connection was going, if that is what this cluster stands for.
    fn destined(&self, ends: &Ends) -> Option<(Destination, SocketAddr)> {
        self.destination.get().zip(ends.destination)
    }

    fn make(&self, address: SocketAddr, from: Option<ComesFrom>) -> Endpoint {
        Endpoint::new(address, from, &self.shard, &self.identity)
    }

    /// Chooses an endpoint for a request.
    ///
    /// # Errors
    /// Why there is none.
    pub fn pick(&self, draw: u64, ends: &Ends) -> Result<Rc<Endpoint>, Fault> {
        if self.destined(ends).is_some() {
            self.count_passed_through(ends);
            return self.pick_beside(draw, &[], ends);
        }
        if self.names.borrow().iter().any(|name| name.resolved.version() != name.seen) {
            self.rebuild();
        }
        let set = self.endpoints.borrow();
        let Some(weights) = &set.weights else {
            let unresolved = self.names.borrow().iter().any(|name| !name.resolved.is_known());
            return Err(if unresolved { Fault::DnsFailure } else { Fault::NoEndpoint });
        };
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let balance = self.config.borrow().balance;
        let place = super::choose(balance, weights, draw, turn, |place| set.list[place].in_flight.get());
        Ok(Rc::clone(&set.list[place]))
    }

    /// Counts what goes where no route leads, if that is what this cluster is for.
    pub fn count_passed_through(&self, ends: &Ends) {
        if let Some((Destination::Elsewhere, to)) = self.destined(ends) {
            self.shard.passed_through[class(to.ip())].add(1);
        }
    }

    /// Chooses an endpoint for another attempt: one that was not tried, if there is one.
    ///
    /// # Errors
    /// Why there is none.
    pub fn pick_beside(&self, draw: u64, tried: &[SocketAddr], ends: &Ends) -> Result<Rc<Endpoint>, Fault> {
        if let Some((kind, to)) = self.destined(ends) {
            return Ok(self.destinations.pick(kind, (ends.peer.ip(), to), tried, |address, from| self.make(address, from)));
        }
        let set = Rc::clone(&self.endpoints.borrow());
        let rest: Vec<&Rc<Endpoint>> = set.beside(tried).collect();
        match usize::try_from(draw % (rest.len().max(1) as u64)).ok().and_then(|place| rest.get(place)) {
            Some(endpoint) => Ok(Rc::clone(endpoint)),
            None => self.pick(draw, ends),
        }
    }

    /// Whether there is an endpoint that was not tried.
    pub fn has_beside(&self, tried: &[SocketAddr], ends: &Ends) -> bool {
        if let Some((kind, to)) = self.destined(ends) {
            return Destinations::has_beside(kind, to, tried);
        }
        self.endpoints.borrow().beside(tried).next().is_some()
    }

    /// A request comes here; the retry budget grows with it.
    pub fn begin(&self, now: std::time::Instant) {
        self.budget.request(self.worker, now);
    }

    /// Takes a retry out of the budget, if there is one.
    pub fn may_retry(&self) -> bool {
        self.budget.take(self.config.borrow().retry_budget, std::time::Instant::now())
    }

    /// Counts what was done after an attempt.
    pub fn count(&self, verdict: Verdict) {
        match verdict {
            Verdict::Retry(_) => self.shard.retries.add(1),
            Verdict::Replay => self.shard.replays.add(1),
            Verdict::Move => self.shard.moves.add(1),
            Verdict::Done(Some(denied)) => self.shard.denied[denied as usize].add(1),
            Verdict::Done(None) => {}
        }
    }

    /// Closes connections that have been idle too long.
    pub fn sweep(&self, now: std::time::Instant) {
        let limit = self.config.borrow().idle_timeout;
        self.destinations.sweep(now, limit);
        for endpoint in &self.endpoints.borrow().list {
            endpoint.h1.sweep(now, limit);
            endpoint.h2.sweep(now, limit);
        }
    }

    fn watch(&self, discovery: &Discovery) {
        let config = self.config.borrow();
        let names = config.endpoints.iter().filter_map(|endpoint| match &endpoint.target {
            Target::Address(_) => None,
            Target::Name { host, port } => {
                Some(Watched { resolved: discovery.get(host), port: *port, weight: endpoint.weight, seen: 0 })
            }
        });
        *self.names.borrow_mut() = names.collect();
    }

    /// Makes the list anew from fixed addresses and the names' answers; endpoints that stay keep their state.
    fn rebuild(&self) {
        let mut wanted: Vec<(SocketAddr, u32)> = Vec::new();
        let mut add = |address: SocketAddr, weight: u32| match wanted.iter_mut().find(|(known, _)| *known == address) {
            Some((_, sum)) => *sum = sum.saturating_add(weight),
            None => wanted.push((address, weight)),
        };
        for endpoint in &self.config.borrow().endpoints {
            if let Target::Address(address) = endpoint.target {
                add(address, endpoint.weight);
            }
        }
        for name in self.names.borrow_mut().iter_mut() {
            // The version first: an answer that arrives in between is seen again, not missed.
            name.seen = name.resolved.version();
            for address in name.resolved.addresses().iter() {
                add(SocketAddr::new(*address, name.port), name.weight);
            }
        }
        let old = Rc::clone(&self.endpoints.borrow());
        let list = wanted.iter().map(|(address, _)| match old.list.iter().find(|endpoint| endpoint.address == *address) {
            Some(endpoint) => Rc::clone(endpoint),
            None => Rc::new(self.make(*address, None)),
        });
        let set = EndpointSet { list: list.collect(), weights: Weights::new(wanted.iter().map(|(_, weight)| *weight)) };
        for endpoint in &old.list {
            if !set.list.iter().any(|kept| Rc::ptr_eq(kept, endpoint)) {
                endpoint.retire();
            }
        }
        *self.endpoints.borrow_mut() = Rc::new(set);
    }
}

impl Drop for ClusterState {
    fn drop(&mut self) {
        for endpoint in &self.endpoints.borrow().list {
            endpoint.retire();
        }
        self.destinations.retire();
    }
}
