//! The harness does what it says, with small runs of the real thing.

#![allow(clippy::unwrap_used, reason = "what a test cannot do fails it")]

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weir_benches::contestant::{Contestant, Kind, Shape, names, which};
use weir_benches::figures::Metric;
use weir_benches::load::{Ask, own};
use weir_benches::report::{Report, page};
use weir_benches::scenario;

/// weir as the suite has it: `WEIR_BIN`, or the one beside this test, built if need be.
fn weir() -> PathBuf {
    if let Some(path) = std::env::var_os("WEIR_BIN") {
        return path.into();
    }
    let own = std::env::current_exe().expect("this program has a path");
    let dir = own.parent().and_then(Path::parent).expect("target/<profile>/deps");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.args(["build", "--quiet", "--package", "weir", "--target-dir"]).arg(dir.parent().expect("target"));
    cargo.args(dir.file_name().is_some_and(|name| name == "release").then_some("--release"));
    assert!(cargo.status().expect("cargo runs").success(), "weir does not build");
    dir.join("weir")
}

/// Whether what a run needs is there; says so if not.
fn is_possible() -> bool {
    let missing: Vec<&str> = ["nginx", "wrk", "h2load"].into_iter().filter(|program| which(program).is_none()).collect();
    if !missing.is_empty() {
        eprintln!("not run: {} is not installed", missing.join(", "));
    }
    missing.is_empty()
}

fn run(arguments: &[&str], dir: &Path) -> Report {
    let mut bench = Command::new(env!("CARGO_BIN_EXE_weir-bench"));
    bench.arg("run").args(arguments).args(["--rounds", "1", "--seconds", "1", "--out"]).arg(dir);
    bench.arg("--weir").arg(format!("weir={}", weir().display()));
    let output = bench.output().expect("weir-bench runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Report::read(&dir.join("report.json")).expect("a report")
}

#[test]
fn each_work_gives_its_figures() {
    if !is_possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let scenarios = ["http1", "http2", "put-1m", "tcp", "rate-1k", "reload", "start", "idle-1k"];
    let report = run(&[&scenarios[..], &["--only", "weir"]].concat(), dir.path());
    assert_eq!(report.outcomes.len(), scenarios.len());
    are_good(&report);
    let text = std::fs::read_to_string(dir.path().join("report.html")).unwrap();
    assert!(text.contains("<svg") && text.contains("CPU us/request"));
    for outside in ["<script", "src=\"http", "href=\"http", "@import"] {
        assert!(!text.contains(outside), "the page needs nothing else: {outside}");
    }
    if which("haproxy").is_none() {
        eprintln!("not run beside another: haproxy is not installed");
        return;
    }
    let report = run(&["http1", "reload", "--only", "weir,haproxy"], dir.path());
    assert!(report.outcomes.iter().all(|outcome| outcome.rows.len() == 2));
    are_good(&report);
}

fn are_good(report: &Report) {
    for outcome in &report.outcomes {
        for row in &outcome.rows {
            assert_eq!(row.failed, None, "{} {}", outcome.name, row.label);
            let errors = row.rounds.iter().filter_map(|round| round.get(&Metric::Errors)).fold(0.0, |sum, errors| sum + errors);
            // What others lose when they reload is theirs.
            assert!(errors == 0.0 || !row.is_weir, "{} {}: {errors} errors", outcome.name, row.label);
        }
        let weir = outcome.weir().expect("weir took part");
        let main = weir.summary(outcome.main).expect("the main figure");
        assert!(main.median > 0.0, "{}: {main:?}", outcome.name);
    }
}

/// Answers whatever comes, and after so many answers does nothing at all for a while.
fn stalling(after: usize, pause: Duration) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answered = Rc::new(Cell::new(0));
        tokio::task::LocalSet::new().block_on(&runtime, async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((mut stream, _)) = listener.accept().await {
                let answered = Rc::clone(&answered);
                tokio::task::spawn_local(async move {
                    while stream.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {
                        answered.set(answered.get() + 1);
                        if answered.get() == after {
                            std::thread::sleep(pause);
                        }
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                    }
                });
            }
        });
    });
    port
}

#[test]
fn a_stall_counts_for_all_that_it_held_up() {
    let port = stalling(300, Duration::from_millis(500));
    // With four connections, a load that waits for answers would see four slow ones.
    let plan = own::Plan { port, ask: Ask::PLAIN, rate: Some(500), connections: 4, time: Duration::from_secs(2) };
    let found = own::run(plan).unwrap();
    assert_eq!((found.answered, found.errors), (1000, 0));
    let slow = 1000 - found.latencies.count_between(0, 50_000);
    assert!((200..=300).contains(&slow), "some 250 were due while nothing was answered, {slow} were slow");
}

#[test]
fn bad_options_are_refused() {
    for (arguments, said) in [
        (&["run", "nonsense"][..], "no scenario `nonsense`"),
        (&["run", "http1", "--only", "apache"][..], "`apache` is not one of"),
        (&["run", "http1", "--only", "weir", "--weir", "weir=/nowhere"][..], "nobody to measure"),
        (&["report", "/nowhere.json"][..], "cannot read /nowhere.json"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_weir-bench")).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(said), "{arguments:?}: {text}");
    }
}

#[test]
fn the_configurations_of_weir_are_good() {
    let dir = tempfile::tempdir().unwrap();
    let who = Contestant { name: "weir".into(), kind: Kind::Weir, program: PathBuf::new(), version: String::new() };
    for (shape, hosts) in [(Shape::H1H1, 0), (Shape::H2H2, 3), (Shape::Tcp, 0), (Shape::MtlsH2, 0), (Shape::PeerH1, 0)] {
        let text = who.config(shape, &names(hosts), dir.path(), [1001, 1002, 1003]);
        let file = dir.path().join("weir.yaml");
        std::fs::write(&file, &text).unwrap();
        let output = Command::new(weir()).arg("check").arg(&file).output().unwrap();
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn every_scenario_says_what_it_is() {
    let all = scenario::all();
    let mut known: Vec<&str> = all.iter().map(|scenario| scenario.name).collect();
    known.sort_unstable();
    known.dedup();
    assert_eq!(known.len(), all.len(), "names are unique");
    assert!(all.iter().all(|scenario| !scenario.about.is_empty() && !scenario.hosts.is_empty()));
}

#[test]
fn a_report_of_nothing_is_a_page_still() {
    let report = Report {
        date: "today".into(),
        machine: Vec::new(),
        versions: vec![("envoy".into(), "<1>".into())],
        missing: vec!["nginx".into()],
        effort: String::new(),
        origin: String::new(),
        outcomes: Vec::new(),
    };
    let text = page::render(&report).unwrap();
    assert!(text.contains("nginx") && text.contains("&lt;1&gt;"), "{text}");
}
