//! What it runs on.

use std::process::Command;

use crate::process::Cores;

/// The machine, for the report.
pub fn describe(cores: &Cores) -> Vec<(String, String)> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")).map(|rest| rest.trim_start_matches([' ', '\t', ':']));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    vec![
        ("CPU".to_owned(), model.unwrap_or("unknown").to_owned()),
        ("cores".to_owned(), cores.describe()),
        ("kernel".to_owned(), kernel.trim().to_owned()),
    ]
}

/// The date and time in UTC.
pub fn date() -> String {
    let output = Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"]).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

/// What makes figures worth less.
pub fn warnings() -> Vec<String> {
    let mut warnings = Vec::new();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().and_then(|load| load.parse::<f64>().ok()).unwrap_or(0.0);
    if load > 0.5 {
        warnings.push(format!("something else runs here (load {load}); latencies will say more of that than of proxies"));
    }
    if cfg!(debug_assertions) {
        warnings.push("weir-bench itself is a debug build: use `cargo run --release -p weir-benches`".to_owned());
    }
    warnings
}
