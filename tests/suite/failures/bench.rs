//! A running weir with a rule for each failure, and the book of what was provoked: in the end the access log and the
//! metrics must have exactly that.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;
use weir_tests::catalogue::{Catalogue, Row};
use weir_tests::{Result, Weir, holds, same, until};

use super::faulty::Faulty;

/// The route that all modes belong to, and its host.
pub(super) const ROUTE: &str = "shop";

/// One failed request.
#[derive(Debug, Clone)]
pub(super) struct Failed {
    /// What was tried, for people.
    pub(super) what: String,
    /// Its request id, by which the log has it.
    pub(super) id: String,
    /// The code that the log must have.
    pub(super) code: &'static str,
    /// The status that went out; 0 if none did. The log then has the catalogue's.
    pub(super) status: u16,
    /// For gRPC requests: the status, if one went out.
    pub(super) grpc: Option<Option<u16>>,
    /// Rule and cluster, if a rule took the request.
    pub(super) rule: Option<(&'static str, &'static str)>,
    /// The endpoint that was tried, if one was.
    pub(super) upstream: Option<String>,
    /// Whether all retries were used up too.
    pub(super) retried: bool,
}

pub(super) struct Bench {
    pub(super) weir: Weir,
    pub(super) faulty: Faulty,
    pub(super) catalogue: Catalogue,
    failed: Vec<Failed>,
    log: PathBuf,
    _dir: tempfile::TempDir,
}

impl Bench {
    /// Starts weir with what `yaml` makes of the origin, and an access log.
    pub(super) async fn start(yaml: impl FnOnce(&Faulty) -> String) -> Result<Self> {
        let (faulty, dir) = (Faulty::start().await?, tempfile::tempdir()?);
        let log = dir.path().join("access.log");
        let weir = Weir::start(&format!("access_log: {{ path: '{}' }}\n{}", log.display(), yaml(&faulty))).await?;
        Ok(Self { weir, faulty, catalogue: Catalogue::read()?, failed: Vec::new(), log, _dir: dir })
    }

    /// An id for the next request.
    pub(super) fn fresh_id(&self) -> String {
        format!("failure-{}", self.failed.len())
    }

    /// Notes a failure. What is known of it beside this comes from the catalogue.
    pub(super) fn note(&mut self, what: impl Into<String>, id: impl Into<String>, code: &'static str) -> &mut Failed {
        let status = self.catalogue.row(code).status;
        let (what, id) = (what.into(), id.into());
        self.failed.push(Failed { what, id, code, status, grpc: None, rule: None, upstream: None, retried: false });
        self.failed.last_mut().expect("it was just put there")
    }

    /// The codes that were provoked.
    pub(super) fn provoked(&self) -> std::collections::BTreeSet<&str> {
        self.failed.iter().map(|failed| failed.code).collect()
    }

    /// How many of these were provoked.
    pub(super) fn count(&self, of: impl Fn(&Row) -> bool) -> usize {
        self.failed.iter().filter(|failed| of(self.catalogue.row(failed.code))).count()
    }

    /// Checks the log and the metrics against the book.
    pub(super) async fn settle(&self) -> Result {
        self.settle_log().await?;
        let flags = self.sum("flag", |failed| {
            let flag = self.catalogue.row(failed.code).flag.clone();
            if failed.retried { vec![flag, "URX".to_owned()] } else { vec![flag] }
        });
        self.agrees("weir_request_flags_total", flags).await?;
        let classes = self.sum("code", |failed| match failed.status {
            0 => vec!["none".to_owned()],
            status => vec![format!("{}xx", status / 100)],
        });
        self.agrees("weir_requests_total", classes).await?;
        let grpc = self.sum("grpc_code", |failed| {
            failed.grpc.map(|status| status.map_or("none".to_owned(), |status| status.to_string())).into_iter().collect()
        });
        self.agrees("weir_grpc_requests_total", grpc).await
    }

    /// The series that the book asks for.
    fn sum(&self, label: &str, values: impl Fn(&Failed) -> Vec<String>) -> BTreeMap<String, f64> {
        let mut series = BTreeMap::new();
        for failed in &self.failed {
            let (route, (rule, cluster)) = failed.rule.map_or(("", ("", "")), |rule| (ROUTE, rule));
            for value in values(failed) {
                let labels = format!("route=\"{route}\",rule=\"{rule}\",cluster=\"{cluster}\",{label}=\"{value}\"");
                *series.entry(labels).or_default() += 1.0;
            }
        }
        series
    }

    async fn agrees(&self, metric: &str, wanted: BTreeMap<String, f64>) -> Result {
        // Requests are counted just after their last byte; what does not come to agree is shown below.
        let _ = until(metric, async || self.weir.series(metric).await.is_ok_and(|series| series == wanted)).await;
        let series = self.weir.series(metric).await?;
        let differ = |(labels, value): &(&String, &f64)| wanted.get(*labels) != Some(*value);
        let extra: Vec<_> = series.iter().filter(differ).collect();
        let missing: Vec<_> = wanted.iter().filter(|(labels, value)| series.get(*labels) != Some(*value)).collect();
        same!(extra, missing, "{metric}");
        Ok(())
    }

    async fn settle_log(&self) -> Result {
        let read = || std::fs::read_to_string(&self.log).unwrap_or_default();
        let _ = until("the log is written", async || read().lines().count() >= self.failed.len()).await;
        let mut lines = BTreeMap::new();
        for line in read().lines() {
            let line: Value = serde_json::from_str(line)?;
            let id = line["request_id"].as_str().unwrap_or_default().to_owned();
            let before = lines.insert(id, line);
            holds!(before.is_none(), "logged twice: {before:?}");
        }
        let mut wrong = Vec::new();
        for failed in &self.failed {
            match lines.remove(&failed.id) {
                None => wrong.push(format!("{} is not in the log", failed.what)),
                Some(line) => {
                    if let Err(error) = self.agrees_with(failed, &line) {
                        wrong.push(format!("{}: {error}\n{line}", failed.what));
                    }
                }
            }
        }
        wrong.extend(lines.values().map(|line| format!("in the log, and nobody asked: {line}")));
        holds!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    }

    fn agrees_with(&self, failed: &Failed, line: &Value) -> Result {
        let mut flags = self.catalogue.row(failed.code).flag.clone();
        if failed.retried {
            flags.push_str(",URX");
        }
        same!((&line["response_code_details"], &line["response_flags"]), (&failed.code.into(), &flags.into()));
        let status = if failed.status == 0 { self.catalogue.row(failed.code).status } else { failed.status };
        same!(line["response_code"], status);
        same!(line["grpc_status"], failed.grpc.flatten().map_or(Value::Null, Value::from));
        same!(line["rule_name"], failed.rule.map_or("", |(rule, _)| rule));
        same!(line["upstream_host"], failed.upstream.clone().map_or(Value::Null, Value::from));
        Ok(())
    }
}
