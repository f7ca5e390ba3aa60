//! `weir explain` says what serving does: random tables, random requests, every one of them asked both ways.

mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::process::Command;
use weir_tests::explained::{Explained, Explainer};
use weir_tests::quick::{self, Quick};
use weir_tests::raw::{Connection, Response};
use weir_tests::weir::binary;
use weir_tests::{Result, Trial, Weir, holds, same, test};

use table::{CLUSTERS, Draw, Request};

pub(super) fn trials() -> Vec<Trial> {
    vec![test("control::explain::it_agrees_with_serving", it_agrees_with_serving)]
}

const TABLES: u64 = 25;
const REQUESTS: usize = 400;
/// So many tables at a time: each has a weir of its own.
const AT_A_TIME: usize = 4;
/// Table `n` is made from the seed `SEED + n`.
const SEED: u64 = 11_000;

async fn it_agrees_with_serving() -> Result {
    let [a, b, c] = CLUSTERS.map(origin);
    let origins = [a.await?, b.await?, c.await?];
    let addresses = origins.each_ref().map(|origin| origin.address);
    let turns = std::sync::Arc::new(tokio::sync::Semaphore::new(AT_A_TIME));
    let mut tables: tokio::task::JoinSet<Result<BTreeSet<Kind>>> = tokio::task::JoinSet::new();
    for seed in SEED..SEED + TABLES {
        let turns = std::sync::Arc::clone(&turns);
        tables.spawn(async move {
            let _turn = turns.acquire_owned().await?;
            let yaml = table(seed, &addresses).await?;
            one_table(seed, &yaml).await.map_err(|error| format!("seed {seed}: {error}\n{yaml}").into())
        });
    }
    let mut kinds = BTreeSet::new();
    while let Some(done) = tables.join_next().await {
        kinds.extend(done??);
    }
    same!(kinds.len(), 6, "every kind of decision took part: {kinds:?}");
    Ok(())
}

/// Answers with its own name, and in the next lines with the head that arrived.
async fn origin(name: &'static str) -> Result<Quick> {
    Quick::start("127.0.0.1:0", Duration::ZERO, move |head| quick::ok(&format!("{name}\n{head}"))).await
}

/// The first table from this seed that weir takes: one with a rule that can never be reached is refused.
async fn table(seed: u64, origins: &[SocketAddr; 3]) -> Result<String> {
    let (mut draw, file) = (Draw::new(seed), tempfile::NamedTempFile::new()?);
    for _ in 0..100 {
        let yaml = draw.table(origins);
        std::fs::write(file.path(), &yaml)?;
        if Command::new(binary()).arg("check").arg(file.path()).output().await?.status.success() {
            return Ok(yaml);
        }
    }
    Err(format!("seed {seed}: weir takes none of a hundred tables").into())
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    NoRoute,
    NoRule,
    Respond,
    Redirect,
    Forward,
    Rewritten,
}

async fn one_table(seed: u64, yaml: &str) -> Result<BTreeSet<Kind>> {
    let weir = Weir::start(yaml).await?;
    let mut caller = Connection::open(weir.address("out")).await?;
    let mut explainer = Explainer::open(weir.admin).await?;
    let mut draw = Draw::new(!seed);
    let (mut kinds, mut backends) = (BTreeSet::new(), BTreeMap::<String, Shares>::new());
    for number in 0..REQUESTS {
        let request = draw.request();
        caller.send(request.bytes()).await?;
        let served = caller.response(false).await?;
        let explained = explainer.ask(request.method, &request.url(), &request.lines()).await?;
        let kind = agree(&request, &served, &explained, &mut backends).map_err(|error| {
            format!("request {number}: {error}\n{request:?}\n{explained:#?}\n{}{}", served.head, served.text())
        })?;
        kinds.insert(kind);
    }
    for (rule, shares) in backends {
        // One of seven shares at least, so that this fails by chance once in 10^13.
        holds!(shares.requests < 200 || shares.seen == shares.possible, "{rule}: {shares:?}");
    }
    Ok(kinds)
}

/// What became of the requests that one rule forwarded.
#[derive(Debug, Default)]
struct Shares {
    requests: usize,
    possible: BTreeSet<String>,
    seen: BTreeSet<String>,
}

fn agree(request: &Request, served: &Response, explained: &Explained, backends: &mut BTreeMap<String, Shares>) -> Result<Kind> {
    let answer = explained.section("Answer").first().copied();
    if let Some(code) = served.header("x-weir-error") {
        same!(answer.map(|(name, _)| name), Some(&*format!("404 {code}")));
        same!(explained.rule(), None);
        return Ok(if code == "no_route" { Kind::NoRoute } else { Kind::NoRule });
    }
    let rule = explained.rule().map(|(route, rule)| format!("{route}/{rule}"));
    same!(rule.as_deref(), served.header("x-served-by"));
    let Some((status, detail)) = answer else {
        let shares = backends.entry(rule.ok_or("no rule")?).or_default();
        return forwarded(request, &served.text(), explained, shares);
    };
    same!(status.split(' ').next(), Some(&*served.status.to_string()));
    match served.header("location") {
        Some(location) => {
            same!(detail, format!("location: {location}"));
            Ok(Kind::Redirect)
        }
        None => Ok(Kind::Respond),
    }
}

fn forwarded(request: &Request, answer: &str, explained: &Explained, shares: &mut Shares) -> Result<Kind> {
    let (backend, head) = answer.split_once('\n').ok_or("no backend")?;
    let told = explained.section("Backends");
    let possible = told.iter().filter(|(_, share)| !share.starts_with("0 %"));
    shares.possible = possible.map(|(name, _)| (*name).to_owned()).collect();
    holds!(shares.possible.contains(backend), "{backend} of {told:?}");
    let drawn = told.iter().find(|(_, share)| share.ends_with("drawn this time")).or_else(|| told.first());
    let drawn = drawn.ok_or("no backend is drawn")?.0;
    shares.seen.insert(backend.to_owned());
    shares.requests += 1;

    let target = head.split(' ').nth(1).unwrap_or_default();
    same!(explained.value("Sent upstream", "target"), Some(target));
    let host = explained.value("Sent upstream", "host").unwrap_or(request.host);
    same!(Some(host), quick::header(head, "host"));
    // `x-new` may be the backend's own, and `explain` has drawn for itself.
    let names = ["x-a", "x-b", "x-new"];
    for name in names.into_iter().take(if drawn == backend { 3 } else { 2 }) {
        let came = values(&request.lines().join("\r\n"), name);
        let went = values(&format!("\r\n{head}"), name);
        let changes: Vec<&str> = explained
            .section("Sent upstream")
            .into_iter()
            .filter(|(changed, _)| *changed == name)
            .map(|(_, value)| value)
            .collect();
        match changes[..] {
            [] => same!(went, came, "{name} goes as it came"),
            ["removed"] => same!(went, Vec::<String>::new(), "{name} is removed"),
            _ => {
                holds!(went != came, "{name} is said to change");
                same!(went, changes, "{name}");
            }
        }
    }
    Ok(if target == request.target() { Kind::Forward } else { Kind::Rewritten })
}

/// Every value of a header, in order.
fn values(lines: &str, name: &str) -> Vec<String> {
    let fields = lines.lines().filter_map(|line| line.split_once(':'));
    fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).collect()
}
