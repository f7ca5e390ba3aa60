//! Network namespaces, which are what pods are to the kernel: interfaces, addresses and rules of their own. They and all
//! that is in them end with the value.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::Result;

/// A network namespace with a loopback interface that is up.
pub struct Pod {
    holder: Child,
}

impl Pod {
    /// An empty one.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new() -> Result<Self> {
        // It ends by itself too, should the test be killed.
        let hold = "ip link set lo up && echo ready && exec sleep 900";
        let mut holder = Command::new("unshare").args(["--net", "sh", "-c", hold]).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(holder.stdout.take().ok_or("no stdout")?).read_line(&mut line)?;
        if line.trim() != "ready" {
            return Err("no network namespace".into());
        }
        Ok(Self { holder })
    }

    /// Whether this machine lets us make them.
    pub fn is_possible() -> bool {
        let made = Command::new("unshare").args(["--net", "ip", "link", "set", "lo", "up"]).stderr(Stdio::null()).status();
        made.is_ok_and(|status| status.success())
    }

    /// Its number, as `ip link set ... netns` wants it.
    pub fn id(&self) -> u32 {
        self.holder.id()
    }

    /// A command in it.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.id())).arg("--").arg(program.as_ref());
        command
    }

    /// What a shell script in it prints.
    ///
    /// # Errors
    /// It fails; what it says.
    pub fn run(&self, script: &str) -> Result<String> {
        let done = self.command("sh").args(["-ec", script]).output()?;
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        if done.status.success() {
            return Ok(said);
        }
        Err(format!("`{script}`: {}\n{said}{}", done.status, String::from_utf8_lossy(&done.stderr)).into())
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
