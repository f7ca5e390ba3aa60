//! Real containers of weir's image, in the network namespaces of pods.

use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::Result;
use crate::pod::{Pod, Program};

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

fn podman(verb: &str) -> Command {
    let mut podman = Command::new("podman");
    // crun refuses machines that have both versions of cgroups.
    podman.args(["--runtime", "runc", verb]);
    podman
}

/// A command that runs a container: with a root that nobody can write to, and without capabilities.
fn command(options: &[&str], image: &str, arguments: &[&str]) -> Command {
    let mut podman = podman("run");
    podman.args(["--rm", "--read-only", "--cap-drop", "all"]).args(limits()).args(options).arg(image).args(arguments);
    podman
}

/// A container that runs. It is killed when this is dropped.
pub struct Container {
    /// The engine's command, which says what the container says.
    pub program: Program,
    name: String,
}

impl Container {
    /// Starts it.
    ///
    /// # Errors
    /// The engine cannot be run.
    pub fn start(options: &[&str], image: &str, arguments: &[&str]) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("weir-test-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let program = Program::start(command(&[&["--name", &name], options].concat(), image, arguments))?;
        Ok(Self { program, name })
    }

    /// Tells it to leave, as engines do; gives how it ended.
    ///
    /// # Errors
    /// It does not leave within the limit.
    pub fn leave(&mut self, limit: Duration) -> Result<ExitStatus> {
        // What the container says may be here before its command is ready to pass signals on.
        let told = podman("kill").args(["--signal", "TERM", &self.name]).output()?;
        if !told.status.success() {
            return Err(String::from_utf8_lossy(&told.stderr).into_owned().into());
        }
        self.program.wait(limit)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if matches!(self.program.ended(), Ok(Some(_))) {
            return;
        }
        let _ = podman("rm").args(["--force", &self.name]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// Runs a container to its end; gives what it prints.
///
/// # Errors
/// It fails; what it says.
pub fn run(options: &[&str], image: &str, arguments: &[&str]) -> Result<String> {
    let done = command(options, image, arguments).output()?;
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
