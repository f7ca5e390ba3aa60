//! Who is measured: weir (one or more binaries), its rivals, and no proxy at all; each configured for the same work.
//!
//! The same work, as far as each can do it: a correlation ID made for each request, sent on and returned to the caller;
//! least-request balancing; paths normalised before they are matched and the case of header names kept (weir and Envoy);
//! counters and latency histograms for each route (weir and Envoy). No access log, except in the scenario that is
//! about such things.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::certificates;
use crate::origin::Ports;
use crate::process::{Cores, Memory, Place, Process};

/// A program of the field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No proxy: the load talks to the origin.
    Direct,
    /// weir.
    Weir,
    /// HAProxy.
    Haproxy,
    /// nginx.
    Nginx,
    /// Envoy.
    Envoy,
}

/// What a proxy speaks to its caller and to the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// HTTP/1.1 on both sides.
    H1H1,
    /// HTTP/1.1 in, HTTP/2 out.
    H1H2,
    /// HTTP/2 in, HTTP/1.1 out.
    H2H1,
    /// HTTP/2 on both sides.
    H2H2,
    /// HTTP/1.1 on both sides, with rules that have matches, weights, timeouts, retries, header changes, and an access log.
    Policies,
    /// Bytes.
    Tcp,
    /// A pair: HTTP/1.1 in, HTTP/1.1 over mutual TLS to the other, HTTP/1.1 out.
    MtlsH1,
    /// The same with HTTP/2 between the two.
    MtlsH2,
    /// The other of a pair, which takes [`Shape::MtlsH1`].
    PeerH1,
    /// The other of a pair, which takes [`Shape::MtlsH2`].
    PeerH2,
}

impl Shape {
    /// What the other of a pair speaks; `None` if there is no other.
    fn peer(self) -> Option<Self> {
        match self {
            Self::MtlsH1 => Some(Self::PeerH1),
            Self::MtlsH2 => Some(Self::PeerH2),
            Self::H1H1 | Self::H1H2 | Self::H2H1 | Self::H2H2 | Self::Policies | Self::Tcp | Self::PeerH1 | Self::PeerH2 => None,
        }
    }

    /// What the two of a pair agree on (ALPN).
    fn alpn(self) -> &'static str {
        if matches!(self, Self::MtlsH2 | Self::PeerH2) { "h2" } else { "http/1.1" }
    }
}

/// One that takes part.
#[derive(Debug, Clone)]
pub struct Contestant {
    /// As the tables call it.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Its binary.
    pub program: PathBuf,
    /// What it says of its version.
    pub version: String,
}

impl Contestant {
    /// Looks for those that were asked for. Gives the names of those that are not installed, too.
    pub fn find(wanted: &[String], weirs: &[(String, PathBuf)]) -> (Vec<Self>, Vec<String>) {
        let is_wanted = |name: &str| wanted.iter().any(|wanted| wanted == name);
        let mut candidates = Vec::new();
        if is_wanted("weir") {
            candidates.extend(weirs.iter().map(|(name, path)| (name.clone(), Kind::Weir, Some(path.clone()))));
        }
        for (name, kind, program) in
            [("haproxy", Kind::Haproxy, "haproxy"), ("nginx", Kind::Nginx, "nginx"), ("envoy", Kind::Envoy, "envoy")]
        {
            if is_wanted(name) {
                candidates.push((name.to_owned(), kind, which(program)));
            }
        }
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        if is_wanted("direct") {
            let program = PathBuf::new();
            found.push(Self { name: "direct".to_owned(), kind: Kind::Direct, program, version: String::new() });
        }
        for (name, kind, program) in candidates {
            match program.filter(|program| program.exists()) {
                Some(program) => {
                    let version = version(kind, &program);
                    found.push(Self { name, kind, program, version });
                }
                None => missing.push(name),
            }
        }
        (found, missing)
    }

    /// Whether it can do it at all.
    pub fn can(&self, shape: Shape) -> bool {
        match self.kind {
            // HTTP/1 callers are a matter of their own: its HTTP/2 is for gRPC. Opaque TCP is a module that Debian packs apart.
            // nginx shows no certificate upstream over HTTP/2.
            Kind::Nginx => !matches!(shape, Shape::H1H2 | Shape::Tcp | Shape::Policies | Shape::MtlsH1 | Shape::MtlsH2),
            // What Envoy's retries and weighted clusters do has no like there.
            Kind::Haproxy => shape != Shape::Policies,
            // There is nobody to translate.
            Kind::Direct => !matches!(shape, Shape::H1H2 | Shape::MtlsH1 | Shape::MtlsH2),
            Kind::Weir | Kind::Envoy => true,
        }
    }

    /// Its configuration, with its files in `dir`; its own port, its admin's and the origin's.
    pub fn config(&self, shape: Shape, names: &Names, dir: &Path, [port, admin, origin]: [u16; 3]) -> String {
        Files { dir: dir.to_owned(), certificates: dir.to_owned(), port, admin, origin }.fill(self, shape, names, None)
    }

    fn template(&self, shape: Shape) -> &'static str {
        match (self.kind, shape) {
            (Kind::Weir, Shape::Policies) => include_str!("../configs/weir/policies.yaml"),
            (Kind::Weir, Shape::MtlsH1 | Shape::MtlsH2) => include_str!("../configs/weir/caller.yaml"),
            (Kind::Weir, Shape::PeerH1 | Shape::PeerH2) => include_str!("../configs/weir/callee.yaml"),
            (Kind::Haproxy, Shape::MtlsH1 | Shape::MtlsH2) => include_str!("../configs/haproxy/caller.cfg"),
            (Kind::Haproxy, Shape::PeerH1 | Shape::PeerH2) => include_str!("../configs/haproxy/callee.cfg"),
            (Kind::Envoy, Shape::MtlsH1) => include_str!("../configs/envoy/caller-h1.yaml"),
            (Kind::Envoy, Shape::MtlsH2) => include_str!("../configs/envoy/caller-h2.yaml"),
            (Kind::Envoy, Shape::PeerH1 | Shape::PeerH2) => include_str!("../configs/envoy/callee.yaml"),
            (Kind::Weir, Shape::Tcp) => include_str!("../configs/weir/tcp.yaml"),
            (Kind::Weir, Shape::H1H1 | Shape::H2H1) => include_str!("../configs/weir/h1-h1.yaml"),
            (Kind::Weir, Shape::H1H2 | Shape::H2H2) => include_str!("../configs/weir/h2-h2.yaml"),
            (Kind::Haproxy, Shape::Tcp) => include_str!("../configs/haproxy/tcp.cfg"),
            (Kind::Haproxy, Shape::H1H1 | Shape::H2H1 | Shape::Policies) => include_str!("../configs/haproxy/h1-h1.cfg"),
            (Kind::Haproxy, Shape::H1H2 | Shape::H2H2) => include_str!("../configs/haproxy/h2-h2.cfg"),
            (Kind::Envoy, Shape::Policies) => include_str!("../configs/envoy/policies.yaml"),
            (Kind::Envoy, Shape::Tcp) => include_str!("../configs/envoy/tcp.yaml"),
            (Kind::Envoy, Shape::H1H1 | Shape::H2H1) => include_str!("../configs/envoy/h1-h1.yaml"),
            (Kind::Envoy, Shape::H1H2 | Shape::H2H2) => include_str!("../configs/envoy/h2-h2.yaml"),
            (Kind::Nginx, Shape::H2H1) => include_str!("../configs/nginx/h2-h1.conf"),
            (Kind::Nginx, Shape::H2H2) => include_str!("../configs/nginx/h2-h2.conf"),
            (Kind::Nginx, _) => include_str!("../configs/nginx/h1-h1.conf"),
            (Kind::Direct, _) => "",
        }
    }
}

/// The hosts that a proxy knows by name, beside the route for all others.
pub type Names = Vec<String>;

/// So many of them.
pub fn names(count: usize) -> Names {
    (0..count).map(|number| format!("service-{number}.mesh.local")).collect()
}

/// One that runs, ready for requests. Ends with the value.
pub struct Running {
    /// Who.
    pub contestant: Contestant,
    /// Where it listens; the origin itself for [`Kind::Direct`].
    pub port: u16,
    /// `None` for [`Kind::Direct`].
    process: Option<Process>,
    /// The other of a pair: what goes to the origin goes through it.
    peer: Option<Box<Self>>,
    /// Its configuration.
    pub config: String,
    shape: Shape,
    reloads: bool,
    files: Files,
}

/// What a contestant is set up for.
#[derive(Debug, Clone)]
pub struct Task {
    /// What it speaks.
    pub shape: Shape,
    /// The hosts that it knows by name.
    pub names: Names,
    /// Where it sends requests.
    pub origin: Ports,
    /// Whether it will be given new routes.
    pub reloads: bool,
}

/// What goes into the templates.
struct Files {
    dir: PathBuf,
    certificates: PathBuf,
    port: u16,
    admin: u16,
    origin: u16,
}

impl Running {
    /// Starts one, with its files in `dir`, and waits until it answers, unless it is not to be waited for.
    ///
    /// # Errors
    /// It does not start or does not answer.
    pub fn start(who: &Contestant, task: &Task, cores: &Cores, dir: &Path) -> Result<Self> {
        let mut running = Self::prepare(who, task, dir)?;
        running.launch(cores)?;
        running.wait()?;
        Ok(running)
    }

    /// Writes its files.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn prepare(who: &Contestant, task: &Task, dir: &Path) -> Result<Self> {
        let certificates = dir.join("certificates");
        let peer = match task.shape.peer() {
            None => None,
            Some(shape) => {
                certificates::write(&certificates)?;
                let of_peer = Task { shape, names: Names::new(), ..task.clone() };
                Some(Box::new(Self::prepare_in(who, &of_peer, dir, &certificates, None)?))
            }
        };
        Self::prepare_in(who, task, dir, &certificates, peer)
    }

    fn prepare_in(who: &Contestant, task: &Task, dir: &Path, certificates: &Path, peer: Option<Box<Self>>) -> Result<Self> {
        let half = if matches!(task.shape, Shape::PeerH1 | Shape::PeerH2) { "-peer" } else { "" };
        let dir = dir.join(format!("{}-{}{half}", who.name, task.names.len()));
        std::fs::create_dir_all(&dir)?;
        let origin = peer.as_ref().map_or(task.origin.of(task.shape), |peer| peer.port);
        let (port, admin) =
            if who.kind == Kind::Direct { (task.origin.direct(task.shape), 0) } else { (free_port()?, free_port()?) };
        let files = Files { dir, certificates: certificates.to_owned(), port, admin, origin };
        let mut config = files.fill(who, task.shape, &Names::new(), None);
        if let Some(peer) = &peer {
            let _ = write!(config, "\n# The other of the two:\n{}", peer.config);
        }
        let (contestant, shape, reloads) = (who.clone(), task.shape, task.reloads);
        let running = Self { contestant, port, process: None, peer, config, shape, reloads, files };
        running.write(&task.names, None)?;
        Ok(running)
    }

    fn write(&self, names: &Names, version: Option<&str>) -> Result<()> {
        let files = &self.files;
        if self.contestant.kind == Kind::Haproxy {
            let lines: String = names.iter().map(|name| format!("{name} b\n")).collect();
            std::fs::write(files.dir.join("hosts.map"), lines)?;
        }
        if self.contestant.kind == Kind::Envoy {
            let text = files.fill_text(include_str!("../configs/envoy/routes.yaml"), Kind::Envoy, names, version);
            replace(&files.dir.join("envoy-routes.yaml"), &text)?;
        }
        replace(&files.config(), &files.fill(&self.contestant, self.shape, names, version))
    }

    /// Starts the program without waiting for it.
    ///
    /// # Errors
    /// It does not start.
    pub fn launch(&mut self, cores: &Cores) -> Result<()> {
        if let Some(peer) = &mut self.peer {
            peer.launch(cores)?;
        }
        let program = &self.contestant.program;
        let config = self.files.config();
        let mut command = Command::new(program);
        match self.contestant.kind {
            Kind::Direct => return Ok(()),
            Kind::Weir => command.args(["run", "--log", "warn", "-c"]).arg(config),
            // Its master process is there for reloads only.
            Kind::Haproxy => command.args([if self.reloads { "-W" } else { "-db" }, "-f"]).arg(config),
            Kind::Nginx => command.arg("-c").arg(config).arg("-e").arg(self.files.dir.join("nginx.log")),
            Kind::Envoy => command.args(["--concurrency", "1", "-l", "off", "--disable-hot-restart", "-c"]).arg(config),
        };
        self.process = Some(Process::start(&self.contestant.name, &mut command, cores, Place::Proxy, &self.files.dir)?);
        Ok(())
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// It has ended, or the other of a pair has.
    pub fn check(&mut self) -> Result<()> {
        self.process.as_mut().map_or(Ok(()), Process::check)?;
        self.peer.as_mut().map_or(Ok(()), |peer| peer.check())
    }

    /// The processes; of a pair, both.
    fn processes(&self) -> impl Iterator<Item = &Process> {
        self.process.iter().chain(self.peer.iter().filter_map(|peer| peer.process.as_ref()))
    }

    /// CPU that it took so far, of a pair both; `None` for [`Kind::Direct`].
    pub fn cpu(&self) -> Option<Duration> {
        self.process.as_ref()?;
        Some(self.processes().map(Process::cpu).sum())
    }

    /// Its memory, of a pair both; `None` for [`Kind::Direct`].
    pub fn memory(&self) -> Option<Memory> {
        self.process.as_ref()?;
        let add = |sum: Memory, one: Memory| Memory { now: sum.now + one.now, peak: sum.peak + one.peak };
        Some(self.processes().map(Process::memory).fold(Memory::default(), add))
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// It has ended, or does not answer within twenty seconds; its own words are part of it.
    pub fn wait(&mut self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(20);
        loop {
            let ended = self.check();
            if ended.is_err() || Instant::now() > until {
                let said = std::fs::read_to_string(self.files.dir.join(format!("{}.log", self.contestant.name)));
                let said = said.unwrap_or_default();
                let ended = ended.err().map_or("it does not answer".to_owned(), |error| error.to_string());
                bail!("{}: {ended}\n{}", self.contestant.name, said.lines().take(10).collect::<Vec<_>>().join("\n"));
            }
            if crate::load::probe::answers(self.port, self.shape) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Has it take other routes, the way it is done with this proxy. From then on its answers name the version.
    ///
    /// # Errors
    /// It cannot be told.
    pub fn reload(&self, version: &str) -> Result<()> {
        self.write(&vec![format!("{version}.mesh.local")], Some(version))?;
        let Some(process) = &self.process else { return Ok(()) };
        match self.contestant.kind {
            Kind::Haproxy => process.signal(Signal::USR2),
            Kind::Nginx => process.signal(Signal::HUP),
            // They watch their files.
            Kind::Weir | Kind::Envoy | Kind::Direct => Ok(()),
        }
    }
}

impl Files {
    /// Envoy tells the format by the name.
    fn config(&self) -> PathBuf {
        self.dir.join("config.yaml")
    }

    fn fill(&self, who: &Contestant, shape: Shape, names: &Names, version: Option<&str>) -> String {
        let template = who.template(shape).replace("@ALPN@", shape.alpn());
        let template = template.replace("@PROTOCOL@", if shape.alpn() == "h2" { "http2" } else { "http1" });
        self.fill_text(&template, who.kind, names, version)
    }

    /// Without a version, what would tell it is left out: it would be work.
    fn fill_text(&self, template: &str, kind: Kind, names: &Names, version: Option<&str>) -> String {
        let lines = template.split_inclusive('\n').filter(|line| version.is_some() || !line.contains("@VERSION@"));
        let template: String = lines.collect();
        template
            .replace("@VERSION@", version.unwrap_or_default())
            .replace("@DIR@", &self.dir.display().to_string())
            .replace("@CERTIFICATES@", &self.certificates.display().to_string())
            .replace("@PORT@", &self.port.to_string())
            .replace("@ADMIN@", &self.admin.to_string())
            .replace("@ORIGIN@", &self.origin.to_string())
            .replace("@NAMES@", &format!("_ {}", names.join(" ")))
            .replace("@ROUTES@", routes(kind, names, version, &self.dir).trim_end())
    }
}

/// One route for each name, and one for everything else.
fn routes(kind: Kind, names: &Names, version: Option<&str>, dir: &Path) -> String {
    let mut text = String::new();
    match kind {
        Kind::Weir => {
            for name in names {
                let _ = writeln!(text, "  - {{ name: {name}, hosts: [{name}], rules: [{{ backends: [{{ cluster: up }}] }}] }}");
            }
            let headers = version.map(|version| format!("headers: {{ response: {{ set: {{ x-version: {version} }} }} }}, "));
            let headers = headers.unwrap_or_default();
            let _ = writeln!(text, "  - {{ name: all, hosts: ['*'], rules: [{{ {headers}backends: [{{ cluster: up }}] }}] }}");
        }
        Kind::Haproxy if !names.is_empty() => {
            let _ = writeln!(text, "  use_backend %[req.hdr(host),lower,map({}/hosts.map,b)]", dir.display());
        }
        Kind::Envoy => {
            let mut host = |name: &str, domain: &str| {
                let route = "{ match: { prefix: / }, stat_prefix: all, route: { cluster: up, timeout: 0s } }";
                let _ = writeln!(text, "      - {{ name: {name}, domains: ['{domain}'], routes: [{route}] }}");
            };
            names.iter().for_each(|name| host(name, name));
            host("all", "*");
        }
        Kind::Haproxy | Kind::Nginx | Kind::Direct => {}
    }
    text
}

/// A file is there whole or not at all: who watches it must not read half.
fn replace(path: &Path, text: &str) -> Result<()> {
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, text)?;
    std::fs::rename(&temporary, path).with_context(|| format!("cannot write {}", path.display()))
}

/// A port that nobody listens on at the moment.
///
/// # Errors
/// What the kernel says.
pub fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Where pip puts Envoy's binary; the `envoy` in the path is a script that starts it.
const PIP: &str = "import envoy, os; print(os.path.join(envoy.__path__[0], '_bin'))";

/// A program in the path, or where Debian puts servers, or where pip puts Envoy. Wrappers written in a script are passed over:
/// they would be measured too.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = dirs.map(|dir| dir.join(program)).find(|candidate| is_binary(candidate));
    found.or_else(|| {
        let said = Command::new("python3").args(["-c", PIP]).output().ok()?.stdout;
        Some(Path::new(String::from_utf8_lossy(&said).trim()).join(program)).filter(|candidate| is_binary(candidate))
    })
}

fn is_binary(file: &Path) -> bool {
    let mut magic = [0; 4];
    let read = std::fs::File::open(file).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut magic));
    read.is_ok() && magic == *b"\x7fELF"
}

fn version(kind: Kind, program: &Path) -> String {
    let argument = if matches!(kind, Kind::Haproxy | Kind::Nginx) { "-v" } else { "--version" };
    let Ok(output) = Command::new(program).arg(argument).output() else { return "unknown".to_owned() };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let line = said.lines().find(|line| line.contains(|char: char| char.is_ascii_digit())).unwrap_or("unknown");
    // Envoy begins with its own path, which has digits too.
    let line = line.rsplit("version:").next().unwrap_or(line);
    let is_version = |word: &&str| word.starts_with(|char: char| char.is_ascii_digit()) && word.contains('.');
    line.split([' ', '/']).find(is_version).unwrap_or(line).trim().to_owned()
}
