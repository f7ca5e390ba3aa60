//! `weir check`: every mistake of a file, in one run.

use std::io::{IsTerminal, Read};
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;
use weir_config::{Config, Diagnostic, Snapshot};

/// Reads a configuration file; `-` is standard input.
///
/// # Errors
/// Why it cannot be read.
pub(super) fn read(file: &Path) -> Result<String, String> {
    let text = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        weir_control::file::read(file)
    };
    text.map_err(|error| format!("{} cannot be read: {error}", file.display()))
}

/// Reports mistakes as `file:line:column: what`, with colours on a terminal.
pub(super) fn report(file: &Path, mistakes: &[Diagnostic]) {
    let colours = std::io::stderr().is_terminal();
    for mistake in mistakes {
        let line = mistake.render(&file.display().to_string());
        match line.split_once(": ") {
            Some((place, rest)) if colours => eprintln!("\x1b[1m{place}:\x1b[0m {rest}"),
            _ => eprintln!("{line}"),
        }
    }
    let count = mistakes.len();
    eprintln!("{count} mistake{} in {}", if count == 1 { "" } else { "s" }, file.display());
}

pub(super) fn main(file: &Path, json: bool) -> ExitCode {
    let text = match read(file) {
        Ok(text) => text,
        Err(why) => return super::fail(&why),
    };
    let loaded = weir_config::load(&text);
    if json {
        let mistakes = loaded.as_ref().err().into_iter().flatten().map(|mistake| {
            json!({
                "file": file.display().to_string(),
                "line": mistake.position.map(|p| p.0),
                "column": mistake.position.map(|p| p.1),
                "path": mistake.path,
                "message": mistake.message,
                "hint": mistake.hint,
            })
        });
        let report = json!({ "ok": loaded.is_ok(), "mistakes": mistakes.collect::<Vec<_>>() });
        super::print(&format!("{report:#}\n"));
    }
    match loaded {
        Ok((config, snapshot)) if !json => super::print(&summary(file, &config, &snapshot)),
        Ok(_) => ExitCode::SUCCESS,
        Err(mistakes) => {
            if !json {
                report(file, &mistakes);
            }
            ExitCode::FAILURE
        }
    }
}

fn summary(file: &Path, config: &Config, snapshot: &Snapshot) -> String {
    let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let rules: usize = config.routes.iter().map(|route| route.rules.len()).sum();
    format!(
        "{}: ok ({}, {}, {}, {})\n",
        file.display(),
        plural(snapshot.listeners.len(), "listener"),
        plural(config.routes.len(), "route"),
        plural(rules, "rule"),
        plural(config.clusters.len(), "cluster"),
    )
}
