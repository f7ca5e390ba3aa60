//! Network namespaces, which are what pods are to the kernel: interfaces, addresses and rules of their own. They and all
//! that is in them end with the value.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

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
        // Settings come from this machine's, which forwards once somebody has run a container on it; pods do not.
        let hold = "echo 0 > /proc/sys/net/ipv4/ip_forward; ip link set lo up && echo ready && exec sleep 900";
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
        command_in(self.id(), program)
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

/// A command in the namespace that has this number.
pub(crate) fn command_in(id: u32, program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{id}/ns/net")).arg("--").arg(program.as_ref());
    command
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
    let b = there.id();
    let name = format!("w{number}");
    here.run(&format!("ip link add {name} type veth peer name {name} netns {b}"))?;
    for (pod, last) in [(here, 1), (there, 2)] {
        pod.run(&format!(
            "ip addr add 10.0.{number}.{last}/24 dev {name}; ip -6 addr add fd00:{number}::{last}/64 dev {name} nodad; \
             ip link set {name} up"
        ))?;
    }
    wait_until_up(here, &name)?;
    wait_until_up(there, &name)
}

/// Interfaces come up in their own time, and until then nothing passes.
fn wait_until_up(pod: &Pod, name: &str) -> Result {
    let up = format!("ip -o link show dev {name} | grep -c 'state UP' || true");
    for _ in 0..1000 {
        if pod.run(&up)?.trim() == "1" {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    Err(format!("{name} in {} does not come up", pod.id()).into())
}

/// Pods that reach each other, and the node that they run on: `10.1.0.N` and `fd01::N`, 1 is the node.
pub struct Network {
    /// The node.
    pub node: Pod,
}

/// A pod on a network.
pub struct Host {
    /// The pod.
    pub pod: Pod,
    /// Its address.
    pub address: std::net::Ipv4Addr,
}

impl Network {
    /// One without pods.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new() -> Result<Self> {
        let node = Pod::new()?;
        node.run(
            "ip link add br0 type bridge; ip addr add 10.1.0.1/24 dev br0; ip -6 addr add fd01::1/64 dev br0 nodad; \
             ip link set br0 up",
        )?;
        Ok(Self { node })
    }

    /// A pod more. All that it calls elsewhere goes by way of the node.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn host(&self, number: u8) -> Result<Host> {
        let pod = Pod::new()?;
        let id = pod.id();
        // The kernel takes a pod apart in its own time, and the link of the one before may still be there.
        self.node.run(&format!(
            "ip link del p{number} 2>/dev/null || true; ip link add p{number} type veth peer name eth0 netns {id}; \
             ip link set p{number} master br0; ip link set p{number} up"
        ))?;
        pod.run(&format!(
            "ip addr add 10.1.0.{number}/24 dev eth0; ip -6 addr add fd01::{number}/64 dev eth0 nodad; ip link set eth0 up; \
             ip route add default via 10.1.0.1; ip -6 route add default via fd01::1"
        ))?;
        wait_until_up(&pod, "eth0")?;
        wait_until_up(&self.node, &format!("p{number}"))?;
        Ok(Host { pod, address: std::net::Ipv4Addr::new(10, 1, 0, number) })
    }
}

/// Runs something on a thread of its own, with a runtime of its own, whose sockets are the pod's.
///
/// # Errors
/// There is no thread.
pub fn within<T, F, Fut>(pod: &Pod, body: F) -> Result<std::thread::JoinHandle<Result<T>>>
where
    T: Send + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = T>,
{
    let namespace = File::open(format!("/proc/{}/ns/net", pod.id()))?;
    let run = move || -> Result<T> {
        // SAFETY: the call takes a descriptor, which is open, and no pointers; it concerns this thread alone.
        let done = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
        if done != 0 {
            return Err(std::io::Error::last_os_error().into());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(body()))
    };
    Ok(std::thread::Builder::new().spawn(run)?)
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
        self.wait(Duration::from_secs(20)).map(drop)
    }

    /// Waits until it has ended; gives how.
    ///
    /// # Errors
    /// It does not within the limit.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let until = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > until {
                return Err(format!("it does not end: {}{}", self.output()?, self.complaints()?).into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// The system does not say.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        // SAFETY: no pointers; the process is our child and was not waited for, so that the number is still its own.
        unsafe { libc::kill(self.child.id().cast_signed(), signal) };
    }

    /// Tells it to leave, and kills it if it has not within the limit; tells whether it left by itself.
    ///
    /// # Errors
    /// The system does not say.
    pub fn leave(&mut self, limit: Duration) -> Result<bool> {
        if self.ended()?.is_some() {
            return Ok(true);
        }
        self.signal(libc::SIGTERM);
        if self.wait(limit).is_ok() {
            return Ok(true);
        }
        self.child.kill()?;
        self.child.wait()?;
        Ok(false)
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
    weir_with(pod, yaml, &[], &[])
}

/// The same, with more arguments of `weir run` and with variables.
///
/// # Errors
/// What it says instead.
pub fn weir_with(pod: &Pod, yaml: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Program> {
    // The user may look into none of the directories that only we may.
    let dir = tempfile::tempdir()?;
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755))?;
    let (file, binary) = (dir.path().join("weir.yaml"), dir.path().join("weir"));
    std::fs::write(&file, yaml)?;
    std::fs::copy(crate::weir::binary(), &binary)?;
    let mut command = pod.command("setpriv");
    command.args(["--reuid", "1337", "--regid", "1337", "--clear-groups"]).arg(&binary).args(["run", "--json", "-c"]).arg(&file);
    command.args(arguments).envs(environment.iter().copied());
    let mut weir = Program::start(command)?;
    weir.files = Some(dir);
    weir.wait_for("\"ready\"")?;
    Ok(weir)
}
