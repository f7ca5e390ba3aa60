//! Network namespaces, which are what pods are to the kernel: interfaces, addresses and rules of their own. They and all
//! that is in them end with the value.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

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

/// Joins two namespaces by a wire: `10.0.N.1` and `fd00:N::1` here, `.2` and `::2` there.
///
/// # Errors
/// It cannot be made.
pub fn join(here: &Pod, there: &Pod, number: u8) -> Result {
    let (a, b) = (here.id(), there.id());
    let name = format!("w{number}");
    here.run(&format!("ip link add {name} type veth peer name {name} netns {b}"))?;
    for (pod, last) in [(here, 1), (there, 2)] {
        pod.run(&format!(
            "ip addr add 10.0.{number}.{last}/24 dev {name}; ip -6 addr add fd00:{number}::{last}/64 dev {name} nodad; \
             ip link set {name} up"
        ))?;
    }
    // Interfaces come up in their own time, and until then nothing passes.
    let up = format!("ip -o link show dev {name} | grep -c 'state UP' || true");
    for _ in 0..1000 {
        if here.run(&up)?.trim() == "1" && there.run(&up)?.trim() == "1" {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    Err(format!("the wire between {a} and {b} does not come up").into())
}

/// A program that runs in a pod until this is dropped.
pub struct Program {
    child: Child,
    dir: tempfile::TempDir,
    files: Option<tempfile::TempDir>,
}

impl Program {
    /// Starts a program whose output goes to files.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(mut command: Command) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let (out, err) = (File::create(dir.path().join("out"))?, File::create(dir.path().join("err"))?);
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn()?;
        Ok(Self { child, dir, files: None })
    }

    /// What it printed so far.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn output(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.dir.path().join("out"))?)
    }

    /// What it complained of so far.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn complaints(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.dir.path().join("err"))?)
    }

    /// Waits until it printed or complained of something.
    ///
    /// # Errors
    /// It ends, or does not say so in time.
    pub fn wait_for(&mut self, text: &str) -> Result {
        for _ in 0..4000 {
            let ended = self.child.try_wait()?;
            if self.output()?.contains(text) || self.complaints()?.contains(text) {
                return Ok(());
            }
            if let Some(status) = ended {
                return Err(format!("it ended with {status}: {}{}", self.output()?, self.complaints()?).into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(format!("it does not say `{text}`: {}{}", self.output()?, self.complaints()?).into())
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// It does not in time.
    pub fn wait_for_end(&mut self) -> Result {
        for _ in 0..4000 {
            if self.child.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err("it does not end".into())
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Replaces the configuration of a weir, which follows it in its own time.
    ///
    /// # Errors
    /// It has none.
    pub fn configure(&self, yaml: &str) -> Result {
        let dir = self.files.as_ref().ok_or("this is no weir")?.path();
        std::fs::write(dir.join("next"), yaml)?;
        Ok(std::fs::rename(dir.join("next"), dir.join("weir.yaml"))?)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts weir in a pod as the user that redirection knows it by, and waits until it is ready.
///
/// # Errors
/// What it says instead.
pub fn weir(pod: &Pod, yaml: &str) -> Result<Program> {
    // The user may look into none of the directories that only we may.
    let dir = tempfile::tempdir()?;
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755))?;
    let (file, binary) = (dir.path().join("weir.yaml"), dir.path().join("weir"));
    std::fs::write(&file, yaml)?;
    std::fs::copy(crate::weir::binary(), &binary)?;
    let mut command = pod.command("setpriv");
    command.args(["--reuid", "1337", "--regid", "1337", "--clear-groups"]).arg(&binary).args(["run", "--json", "-c"]).arg(&file);
    let mut weir = Program::start(command)?;
    weir.files = Some(dir);
    weir.wait_for("\"ready\"")?;
    Ok(weir)
}
