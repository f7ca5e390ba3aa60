//! The real binary.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use serde_json::Value;

use crate::{Result, raw, until};

/// The binary: `WEIR_BIN`, or the one beside this test, built if need be.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("WEIR_BIN") {
            return path.into();
        }
        let own = std::env::current_exe().expect("this program has a path");
        let dir = own.parent().and_then(Path::parent).expect("target/<profile>/deps");
        let release = dir.file_name().is_some_and(|name| name == "release");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
        cargo.args(["build", "--quiet", "--package", "weir", "--target-dir"]).arg(dir.parent().expect("target"));
        cargo.args(release.then_some("--release"));
        cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        assert!(cargo.status().expect("cargo runs").success(), "weir does not build");
        dir.join("weir")
    })
}

/// A running weir. Ends with the value.
pub struct Weir {
    child: Child,
    /// Where the admin server listens.
    pub admin: SocketAddr,
    listeners: HashMap<String, SocketAddr>,
    /// Its configuration file.
    pub file: PathBuf,
    log: Arc<Mutex<Vec<Value>>>,
    reader: Option<std::thread::JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Weir {
    /// Starts weir with a configuration and waits until it is ready. Listeners and admin should take port 0.
    ///
    /// # Errors
    /// What it said instead of becoming ready.
    pub async fn start(yaml: &str) -> Result<Self> {
        Self::start_with(yaml, &[]).await
    }

    /// As [`Weir::start`], with environment variables.
    ///
    /// # Errors
    /// What it said instead of becoming ready.
    pub async fn start_with(yaml: &str, environment: &[(&str, &str)]) -> Result<Self> {
        let mut command = Command::new(binary());
        command.envs(environment.iter().copied());
        Self::start_as(yaml, command).await
    }

    /// As [`Weir::start`], with so many descriptors and no more.
    ///
    /// # Errors
    /// What it said instead of becoming ready.
    pub async fn start_limited(yaml: &str, descriptors: usize) -> Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &descriptors.to_string()]).arg(binary());
        Self::start_as(yaml, command).await
    }

    async fn start_as(yaml: &str, mut command: Command) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("weir.yaml");
        let yaml = if yaml.contains("\nadmin:") || yaml.starts_with("admin:") {
            yaml.to_owned()
        } else {
            format!("admin: {{ listen: 127.0.0.1:0 }}\n{yaml}")
        };
        std::fs::write(&file, yaml)?;
        command.arg("run").arg("--json").arg("-c").arg(&file).env("WEIR_LOG", "info").stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let log = Arc::new(Mutex::new(Vec::new()));
        let stderr = child.stderr.take().ok_or("no stderr")?;
        let lines = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                lines.lock().expect("the log").push(value);
            }
        });
        let mut weir = Self {
            child,
            admin: SocketAddr::from(([0, 0, 0, 0], 0)),
            listeners: HashMap::new(),
            file,
            log,
            reader: Some(reader),
            _dir: dir,
        };
        for _ in 0..4000 {
            if weir.said("ready").is_some() {
                weir.read_addresses();
                return Ok(weir);
            }
            if let Some(status) = weir.child.try_wait()? {
                if let Some(reader) = weir.reader.take() {
                    tokio::task::spawn_blocking(move || reader.join()).await?.map_err(|_| "the log's reader failed")?;
                }
                return Err(format!("weir ended with {status}: {:?}", weir.log()).into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Err(format!("weir is not ready after 20 s: {:?}", weir.log()).into())
    }

    fn read_addresses(&mut self) {
        for line in self.log() {
            let Some(address) = line["address"].as_str().and_then(|text| text.parse().ok()) else { continue };
            match (line["message"].as_str(), line["listener"].as_str()) {
                (Some("listening"), Some(name)) => {
                    self.listeners.insert(name.to_owned(), address);
                }
                (Some("admin listening"), _) => self.admin = address,
                _ => {}
            }
        }
    }

    /// Where a listener accepts, by its name in the configuration.
    pub fn address(&self, listener: &str) -> SocketAddr {
        *self.listeners.get(listener).unwrap_or_else(|| panic!("no listener {listener}"))
    }

    /// As [`Weir::address`], for a listener that was added by a reload: waits until the log has it, which arrives by
    /// another way than the generation that the reload waited for.
    pub async fn fresh_address(&mut self, listener: &str) -> Option<SocketAddr> {
        for _ in 0..2000 {
            self.read_addresses();
            if let Some(address) = self.listeners.get(listener) {
                return Some(*address);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        None
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has logged.
    pub fn log(&self) -> Vec<Value> {
        self.log.lock().expect("the log").clone()
    }

    /// The newest line with this message.
    pub fn said(&self, message: &str) -> Option<Value> {
        self.log().into_iter().rev().find(|line| line["message"] == message)
    }

    /// A page of the admin server.
    ///
    /// # Errors
    /// The page is not there.
    pub async fn admin(&self, path: &str) -> Result<String> {
        let response = raw::get(self.admin, "localhost", path).await?;
        if response.status == 200 { Ok(response.text()) } else { Err(format!("{path}: {}", response.status).into()) }
    }

    /// The sum of all series of a metric whose labels have this text in them.
    ///
    /// # Errors
    /// The metrics are not there.
    pub async fn metric(&self, name: &str, labels: &str) -> Result<f64> {
        let text = self.admin("/metrics").await?;
        let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let lines = text.lines().filter(of_name).filter(|line| line.contains(labels));
        Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
    }

    /// The series of a metric that are not zero, by their labels as they are written.
    ///
    /// # Errors
    /// The metrics are not there.
    pub async fn series(&self, name: &str) -> Result<BTreeMap<String, f64>> {
        let text = self.admin("/metrics").await?;
        let of_name = |line: &str| {
            let (labels, value) = line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} ")?;
            Some((labels.to_owned(), value.parse::<f64>().ok()?))
        };
        Ok(text.lines().filter_map(of_name).filter(|(_, value)| *value != 0.0).collect())
    }

    /// Waits until a metric has this value: a request is counted just after its last byte has left, so whoever has that
    /// byte may be too early.
    ///
    /// # Errors
    /// It does not come to that.
    pub async fn counted(&self, name: &str, labels: &str, value: f64) -> Result {
        let last = std::sync::Mutex::new(f64::NAN);
        let reached = async || {
            let now = self.metric(name, labels).await.unwrap_or(f64::NAN);
            *last.lock().expect("the last value") = now;
            now == value
        };
        let result = until(name, reached).await;
        result.map_err(|error| format!("{error}: {labels} {value}, and it is {}", last.lock().expect("the last value")).into())
    }

    /// The number of the configuration that serves.
    ///
    /// # Errors
    /// The admin server does not say.
    pub async fn generation(&self) -> Result<u64> {
        let page: Value = serde_json::from_str(&self.admin("/config").await?)?;
        page["generation"].as_u64().ok_or_else(|| "no generation".into())
    }

    /// Writes the configuration file anew, as an editor does (a new file renamed over the old one), and waits until it
    /// serves.
    ///
    /// # Errors
    /// It does not come to serve.
    pub async fn reload(&self, yaml: &str) -> Result {
        let before = self.generation().await?;
        self.write(yaml)?;
        until("the new configuration serves", async || self.generation().await.is_ok_and(|now| now > before)).await
    }

    /// Writes the configuration file anew and does not wait.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, yaml: &str) -> Result {
        let yaml = if yaml.contains("admin:") { yaml.to_owned() } else { format!("admin: {{ listen: 127.0.0.1:0 }}\n{yaml}") };
        let temporary = self.file.with_extension("new");
        std::fs::write(&temporary, yaml)?;
        std::fs::rename(&temporary, &self.file)?;
        Ok(())
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: i32) {
        // SAFETY: kill has no memory effects; the pid is of a child that has not been waited for.
        let sent = unsafe { libc::kill(i32::try_from(self.child.id()).expect("a pid"), signal) };
        assert_eq!(sent, 0, "the signal is sent");
    }

    /// Waits for the process to end and gives its exit code.
    ///
    /// # Errors
    /// It does not end.
    pub async fn ended(&mut self, limit: Duration) -> Result<i32> {
        let until = tokio::time::Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                // Its last words are in the pipe still.
                if let Some(reader) = self.reader.take() {
                    tokio::task::spawn_blocking(move || reader.join()).await?.map_err(|_| "the log's reader failed")?;
                }
                return status.code().ok_or_else(|| "ended by a signal".into());
            }
            if tokio::time::Instant::now() > until {
                return Err("weir did not end".into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// The process is gone.
    pub fn rss(&self) -> Result<u64> {
        self.resident("VmRSS:")
    }

    /// Resident memory that is no file's, in bytes: how much of the binary is there too depends on the machine's mood.
    ///
    /// # Errors
    /// The process is gone.
    pub fn anonymous(&self) -> Result<u64> {
        self.resident("RssAnon:")
    }

    fn resident(&self, kind: &str) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(kind)).ok_or_else(|| format!("no {kind}"))?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }
}

impl Drop for Weir {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
