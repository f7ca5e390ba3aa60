//! Real containers of weir's image, in the network namespaces of pods.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use crate::Result;
use crate::pod::Pod;

/// The image to test: `WEIR_IMAGE`, which `tests/run` builds.
pub fn image() -> Option<String> {
    std::env::var("WEIR_IMAGE").ok()
}

/// Whether there is an image, and an engine that runs it.
pub fn is_possible() -> bool {
    static POSSIBLE: OnceLock<bool> = OnceLock::new();
    *POSSIBLE.get_or_init(|| {
        let Some(image) = image() else { return false };
        run(&["--network", "none"], &image, &["--version"]).is_ok_and(|said| said.starts_with("weir "))
    })
}

/// An engine that may not raise limits gives its own: those of this process at most.
fn limits() -> Vec<String> {
    let hard = |name: &str| {
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let line = limits.lines().find(|line| line.starts_with(name)).map(str::to_owned).unwrap_or_default();
        line[name.len().min(line.len())..].split_whitespace().nth(1).and_then(|word| word.parse().ok()).unwrap_or(1024_u64)
    };
    let (files, processes) = (hard("Max open files"), hard("Max processes").min(1000));
    ["--ulimit".to_owned(), format!("nofile={files}:{files}"), "--ulimit".to_owned(), format!("nproc={processes}:{processes}")]
        .into()
}

/// A command of the engine that makes a container: with a root that nobody can write to, and without capabilities.
pub fn command(verb: &str, options: &[&str], image: &str, arguments: &[&str]) -> Command {
    let mut podman = Command::new("podman");
    // crun refuses machines that have both versions of cgroups.
    podman.args(["--runtime", "runc", verb, "--rm", "--read-only", "--cap-drop", "all"]).args(limits());
    podman.args(options).arg(image).args(arguments);
    podman
}

/// Runs a container to its end; gives what it prints.
///
/// # Errors
/// It fails; what it says.
pub fn run(options: &[&str], image: &str, arguments: &[&str]) -> Result<String> {
    let done = command("run", options, image, arguments).output()?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    Err(format!("{options:?} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr)).into())
}

/// The option that puts a container in a pod.
pub fn in_pod(pod: &Pod) -> String {
    format!("--network=ns:/proc/{}/ns/net", pod.id())
}

/// The option that shows it a directory.
pub fn mounted(dir: &Path, at: &str) -> String {
    format!("--volume={}:{at}:ro", dir.display())
}
