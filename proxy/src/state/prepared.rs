//! A snapshot as one worker uses it: with handles to its clusters and series, resolved when they are first used.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;

use weir_config::Snapshot;
use weir_config::snapshot::{Action, ClusterId, RuleId};
use weir_control::Published;

use super::Worker;
use crate::balance::cluster::ClusterState;
use crate::observe::access_log::LogHandle;
use crate::observe::metrics::{RuleKey, RuleShard};

/// A snapshot and the handles that its requests need.
pub struct Prepared {
    published: Arc<Published>,
    /// The access log, if there is one.
    pub log: Option<Rc<LogHandle>>,
    clusters: Box<[OnceCell<Rc<ClusterState>>]>,
    /// Where the series of a rule's backends begin.
    first: Box<[u32]>,
    series: Box<[OnceCell<Arc<RuleShard>>]>,
    unmatched: OnceCell<Arc<RuleShard>>,
}

impl Prepared {
    /// Prepares; nothing is resolved yet.
    pub fn new(published: Arc<Published>, log: Option<Rc<LogHandle>>) -> Self {
        let snapshot = &published.snapshot;
        let mut total = 0;
        let first = snapshot.rules.iter().map(|rule| {
            let begins = total;
            total += match &rule.action {
                Action::Forward(split) => u32::try_from(split.backends.len()).unwrap_or(u32::MAX),
                Action::Redirect(_) | Action::Respond(_) => 1,
            };
            begins
        });
        let first: Box<[u32]> = first.collect();
        let clusters = std::iter::repeat_with(OnceCell::new).take(snapshot.clusters.len()).collect();
        let series = std::iter::repeat_with(OnceCell::new).take(total as usize).collect();
        Self { log, clusters, first, series, unmatched: OnceCell::new(), published }
    }

    /// The snapshot.
    pub fn snapshot(&self) -> &Snapshot {
        &self.published.snapshot
    }

    /// Its number.
    pub fn generation(&self) -> u64 {
        self.published.generation
    }

    /// A cluster's state.
    pub fn cluster(&self, worker: &Worker, id: ClusterId) -> Rc<ClusterState> {
        Rc::clone(self.clusters[id.index()].get_or_init(|| worker.cluster(self.snapshot().cluster(id), self.generation())))
    }

    /// The series of a rule and one of its backends; place 0 if it has none.
    pub fn series(&self, worker: &Worker, rule: RuleId, backend: usize) -> Arc<RuleShard> {
        let place = self.first[rule.index()] as usize + backend;
        let series = self.series[place].get_or_init(|| {
            let snapshot = self.snapshot();
            let found = snapshot.rule(rule);
            let cluster = match &found.action {
                Action::Forward(split) => snapshot.cluster(split.backends[backend].cluster).name.clone(),
                Action::Redirect(_) | Action::Respond(_) => Box::default(),
            };
            let route = snapshot.route(found.route).name.clone();
            worker.shared.metrics.rules.shard(&RuleKey { route, rule: found.name.clone(), cluster }, worker.id)
        });
        Arc::clone(series)
    }

    /// The series of requests that no rule took.
    pub fn unmatched(&self, worker: &Worker) -> Arc<RuleShard> {
        let none = || RuleKey { route: Box::default(), rule: Box::default(), cluster: Box::default() };
        Arc::clone(self.unmatched.get_or_init(|| worker.shared.metrics.rules.shard(&none(), worker.id)))
    }
}
