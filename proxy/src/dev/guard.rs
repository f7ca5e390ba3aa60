//! Who cleans up after a run that could not do so itself (SIGKILL, the stop button of an editor, no memory left): a shell that
//! hears by the end of its input that the run is gone, ends the services that are left, and removes the directory with their keys.
//!
//! Services have process groups of their own, so nothing else would end them, and the next run would find their ports taken.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use rustix::process::Pid;

/// Told what runs; ends when the last of these is gone.
#[derive(Debug, Clone)]
pub(super) struct Guard(Arc<Mutex<Child>>);

impl Guard {
    /// Starts it for a directory.
    pub(super) fn start(dir: &Path) -> anyhow::Result<Self> {
        use std::os::unix::process::CommandExt;
        let child = Command::new("sh")
            .args(["-c", include_str!("guard.sh"), "weir-dev-guard"])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // Signals of the terminal are not for it.
            .process_group(0)
            .spawn()
            .context("`sh` cannot be started")?;
        Ok(Self(Arc::new(Mutex::new(child))))
    }

    /// A process group is there.
    pub(super) fn add(&self, group: Pid) {
        self.write('+', group);
    }

    /// All of it is gone.
    pub(super) fn remove(&self, group: Pid) {
        self.write('-', group);
    }

    fn write(&self, what: char, group: Pid) {
        let mut child = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(to) = &mut child.stdin {
            // Without a guard everything goes on: it is for accidents only.
            let _ = writeln!(to, "{what} {}", group.as_raw_pid());
        }
    }

    /// Ends it when nothing is left for it.
    pub(super) fn end(&self) {
        let mut child = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(child.stdin.take());
        let _ = child.wait();
    }
}
