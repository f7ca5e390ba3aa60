//! Names to addresses: every distinct name is resolved once for all workers, on the control thread.
//!
//! Answers live for their TTL, clamped. A lookup that fails (a timeout, SERVFAIL) keeps the last answer for as long as it
//! takes; an answer that says the name is gone (NXDOMAIN, no records) keeps it for [`STALE_GRACE`] only: resolvers blink.
//! Names are absolute, so search domains and `ndots` never multiply queries.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::{Resolver, TokioResolver};
use tokio::sync::Notify;
use weir_config::snapshot::{Dns, Snapshot, Target};

use crate::observe::metrics::Metrics;

/// How long the addresses of a name that is gone are still used.
pub const STALE_GRACE: Duration = Duration::from_secs(30);

/// All names that the published snapshot uses.
pub struct Discovery {
    names: Mutex<HashMap<Box<str>, Arc<Resolved>>>,
}

/// What a name resolves to.
pub struct Resolved {
    version: AtomicU64,
    known: AtomicBool,
    addresses: ArcSwap<Box<[IpAddr]>>,
    /// Why the newest lookup failed, if it did.
    error: Mutex<Option<String>>,
    /// Told when the first lookup is over, well or ill.
    first: Notify,
    looked_up: AtomicBool,
    stopped: AtomicBool,
    stop: Notify,
}

impl Resolved {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            version: AtomicU64::new(0),
            known: AtomicBool::new(false),
            addresses: ArcSwap::from_pointee(Box::default()),
            error: Mutex::new(None),
            first: Notify::new(),
            looked_up: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            stop: Notify::new(),
        })
    }

    /// Grows with every change of the addresses.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Whether any lookup ever gave an answer.
    pub fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// Whether nobody follows the name any more.
    pub fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// The addresses.
    pub fn addresses(&self) -> Arc<Box<[IpAddr]>> {
        self.addresses.load_full()
    }

    /// Why the newest lookup failed, if it did.
    pub fn error(&self) -> Option<String> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn answer(&self, mut addresses: Vec<IpAddr>) {
        addresses.sort_unstable();
        addresses.dedup();
        self.known.store(true, Ordering::Relaxed);
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if ***self.addresses.load() != *addresses {
            self.addresses.store(Arc::new(addresses.into()));
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    async fn first_lookup(&self) {
        loop {
            let told = self.first.notified();
            if self.looked_up.load(Ordering::Acquire) {
                return;
            }
            told.await;
        }
    }
}

impl Default for Discovery {
    fn default() -> Self {
        Self { names: Mutex::new(HashMap::new()) }
    }
}

impl Discovery {
    /// What a name resolves to. A name that nobody follows resolves to nothing.
    pub fn get(&self, name: &str) -> Arc<Resolved> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.get(name).cloned().unwrap_or_else(|| {
            // Marked as given up, so that whoever holds it asks again once the name is followed.
            let nothing = Resolved::new();
            nothing.stopped.store(true, Ordering::Release);
            nothing
        })
    }

    /// All names, for people.
    pub fn all(&self) -> Vec<(Box<str>, Arc<Resolved>)> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = names.iter().map(|(name, resolved)| (name.clone(), Arc::clone(resolved))).collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

/// Follows names; lives on the control thread.
pub struct Follower {
    discovery: Arc<Discovery>,
    resolver: TokioResolver,
    limits: (Duration, Duration),
    metrics: Arc<Metrics>,
}

impl Follower {
    /// Prepares the resolver. Needs a tokio runtime.
    ///
    /// # Errors
    /// Why the system's resolver configuration cannot be used.
    pub fn new(dns: &Dns, discovery: Arc<Discovery>, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        Ok(Self { discovery, resolver: resolver(dns)?, limits: (dns.min_ttl, dns.max_ttl), metrics })
    }

    /// Begins to follow the names of a snapshot and waits, at most `patience`, until each was looked up once, so that
    /// the snapshot does not serve before its endpoints are known.
    pub async fn prepare(&self, snapshot: &Snapshot, patience: Duration) {
        let wanted = names(snapshot);
        let fresh: Vec<Arc<Resolved>> = wanted.into_iter().filter_map(|name| self.follow(name)).collect();
        let all = async {
            for resolved in fresh {
                resolved.first_lookup().await;
            }
        };
        let _ = tokio::time::timeout(patience, all).await;
    }

    /// Stops following the names that a snapshot does not use.
    pub fn forget_others(&self, snapshot: &Snapshot) {
        let wanted = names(snapshot);
        let mut followed = self.discovery.names.lock().unwrap_or_else(PoisonError::into_inner);
        followed.retain(|name, resolved| {
            let keep = wanted.contains(&&**name);
            if !keep {
                resolved.stopped.store(true, Ordering::Release);
                resolved.stop.notify_one();
            }
            keep
        });
    }

    fn follow(&self, name: &str) -> Option<Arc<Resolved>> {
        let mut followed = self.discovery.names.lock().unwrap_or_else(PoisonError::into_inner);
        if followed.contains_key(name) {
            return None;
        }
        let resolved = Resolved::new();
        followed.insert(name.into(), Arc::clone(&resolved));
        let task = refresh(name.to_owned(), Arc::clone(&resolved), self.resolver.clone(), self.limits, Arc::clone(&self.metrics));
        tokio::spawn(task);
        Some(resolved)
    }
}

fn names(snapshot: &Snapshot) -> std::collections::HashSet<&str> {
    let endpoints = snapshot.clusters.iter().flat_map(|cluster| cluster.endpoints.iter());
    let name = |endpoint: &'_ weir_config::snapshot::Endpoint| matches!(endpoint.target, Target::Name { .. });
    endpoints
        .filter(|endpoint| name(endpoint))
        .filter_map(|endpoint| match &endpoint.target {
            Target::Name { host, .. } => Some(&**host),
            Target::Address(_) => None,
        })
        .collect()
}

/// Looks a name up again and again until it is told to stop.
async fn refresh(
    name: String,
    resolved: Arc<Resolved>,
    resolver: TokioResolver,
    limits: (Duration, Duration),
    metrics: Arc<Metrics>,
) {
    let absolute = format!("{name}.");
    let (min_ttl, max_ttl) = limits;
    let mut failures = 0_u32;
    let mut gone_since: Option<Instant> = None;
    while !resolved.stopped.load(Ordering::Acquire) {
        let wait = match resolver.lookup_ip(absolute.as_str()).await {
            Ok(answer) => {
                metrics.dns_lookups[0].fetch_add(1, Ordering::Relaxed);
                (failures, gone_since) = (0, None);
                resolved.answer(answer.iter().collect());
                answer.valid_until().saturating_duration_since(Instant::now()).clamp(min_ttl, max_ttl)
            }
            Err(error) => {
                metrics.dns_lookups[1].fetch_add(1, Ordering::Relaxed);
                if failures == 0 && resolved.addresses().is_empty() {
                    tracing::warn!(name, %error, "name not resolved: nobody is called by it until it is");
                } else if failures == 0 {
                    tracing::warn!(name, %error, "name not resolved; its last addresses stay in use");
                }
                failures += 1;
                if error.is_nx_domain() || error.is_no_records_found() {
                    let since = *gone_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= STALE_GRACE && !resolved.addresses().is_empty() {
                        tracing::warn!(name, "the name is gone for {STALE_GRACE:?}; its addresses are given up");
                        resolved.answer(Vec::new());
                    }
                }
                *resolved.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
                min_ttl.saturating_mul(1 << failures.min(6)).clamp(min_ttl, max_ttl)
            }
        };
        resolved.looked_up.store(true, Ordering::Release);
        resolved.first.notify_waiters();
        // Up to a tenth earlier, so that names do not fall into step.
        let early = wait.mul_f64(fastrand::f64() / 10.0);
        tokio::select! {
            () = tokio::time::sleep(wait - early) => {}
            () = resolved.stop.notified() => {}
        }
    }
}

fn resolver(dns: &Dns) -> anyhow::Result<TokioResolver> {
    let provider = TokioRuntimeProvider::default();
    let (config, mut options) = if !dns.servers.is_empty() {
        (of_servers(&dns.servers), ResolverOpts::default())
    } else if Path::new(SYSTEM).exists() {
        hickory_resolver::system_conf::read_system_conf()
            .map_err(|error| anyhow::anyhow!("{SYSTEM} cannot be used ({error}); name the servers in dns.servers"))?
    } else {
        // An empty image without a network has none, and who uses addresses needs none. As resolv.conf(5) has it then:
        let here = SocketAddr::from(([127, 0, 0, 1], 53));
        tracing::info!("there is no {SYSTEM}: names are asked of {here}, unless dns.servers says otherwise");
        (of_servers(&[here]), ResolverOpts::default())
    };
    // Freshness is decided here, not by a cache in between.
    options.cache_size = 0;
    options.ip_strategy = if has_ipv6() { LookupIpStrategy::Ipv4AndIpv6 } else { LookupIpStrategy::Ipv4Only };
    Ok(Resolver::builder_with_config(config, provider).with_options(options).build()?)
}

/// Where the system names its servers.
const SYSTEM: &str = "/etc/resolv.conf";

fn of_servers(servers: &[SocketAddr]) -> ResolverConfig {
    let servers = servers.iter().map(|server| {
        let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
        connections.iter_mut().for_each(|connection| connection.port = server.port());
        NameServerConfig::new(server.ip(), true, connections)
    });
    ResolverConfig::from_parts(None, Vec::new(), servers.collect())
}

/// Whether this host has an IPv6 address beyond loopback; without one, AAAA queries are noise.
fn has_ipv6() -> bool {
    let table = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    table.lines().any(|line| line.split_whitespace().last().is_some_and(|interface| interface != "lo"))
}
