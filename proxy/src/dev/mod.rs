//! `weir dev`: several services of one machine with a sidecar each, and the mesh between them, in one command: mutual TLS by an
//! authority made for the occasion, names below `localhost`, and a file that is followed as it is saved. No privileges.
//!
//! `mesh` reads the file, `plan` turns it into configurations, `sidecar` and `command` are what runs, `guard` what is there if
//! this process is killed, `out` is what is said.
//! Here it is decided what is started, changed and stopped.

mod command;
mod guard;
mod mesh;
mod out;
mod plan;
mod sidecar;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::mpsc;
use weir_config::error::Diagnostic;
use weir_config::spiffe::SpiffeId;
use weir_control::file::FileSource;

use crate::admin::LogLevel;
use crate::ca::{Authority, write};
use crate::lifecycle::{self, Signals};
use command::{Line, Running};
use guard::Guard;
use mesh::{Mesh, Service};
use out::Out;
use plan::{Ports, YOU};
use sidecar::Sidecar;

/// What is asked for.
pub struct Dev {
    /// The file.
    pub file: PathBuf,
    /// Where people call services by name.
    pub entry: u16,
    /// The admin server of the entry.
    pub admin: u16,
    /// The first port of the sidecars.
    pub base: u16,
    /// Services of the mesh that are elsewhere this time, by name and URL.
    pub remotes: Vec<(String, String)>,
    /// The service that the command is.
    pub service: Option<String>,
    /// A command to run with all the others; everything ends with it.
    pub command: Vec<OsString>,
}

/// Certificates last as long as anybody leaves this running.
const LIFE: Duration = Duration::from_secs(90 * 24 * 3600);

/// How long the apps may take to listen before the command is started, and between two looks.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);

/// Mistakes in the file, which are reported by their lines.
pub struct Mistakes(pub Vec<Diagnostic>);

/// Runs it all until it is told to leave, or the command ends; gives the exit code.
///
/// # Errors
/// What cannot be started.
pub async fn run(dev: Dev, level: LogLevel, report: impl Fn(&[Diagnostic])) -> anyhow::Result<u8> {
    let mut signals = Signals::of_terminal()?;
    let text = weir_control::file::read(&dev.file)
        .with_context(|| format!("cannot read {}; `weir dev --example` prints one to begin with", dev.file.display()))?;
    let mut source = FileSource::new(&dev.file, &text);
    let (ended, mut ends) = mpsc::channel(64);
    let out = Out::start()?;
    let mut running = Fleet::new(&dev, level, ended, out.clone())?;
    if let Err(mistakes) = running.plan(&text) {
        report(&mistakes.0);
        return Ok(1);
    }
    let mut own = None;
    let code = match running.begin(&text, &mut signals).await {
        Err(error) => Err(error),
        Ok(begun) => {
            own = begun;
            loop {
                tokio::select! {
                    biased;
                    _ = signals.next() => break Ok(0),
                    code = ending(&mut own) => {
                        own = None;
                        break Ok(code);
                    }
                    Some((name, how)) = ends.recv() => {
                        out.say(format!("{name} has ended: {how}; it is started again when {} changes", dev.file.display()));
                    }
                    changed = source.changed() => match changed {
                        Err(error) => out.say(format!("{} cannot be read: {error}", dev.file.display())),
                        Ok(text) => match running.plan(&text) {
                            Err(mistakes) => {
                                report(&mistakes.0);
                                out.say("everything goes on as it was");
                            }
                            Ok(()) => match running.take(&text).await {
                                Ok(()) => out.say(format!("{} is in force", dev.file.display())),
                                Err(error) => out.say(format!("{error:#}")),
                            },
                        },
                    },
                }
            }
        }
    };
    let leaving = async {
        if let Some(own) = &mut own {
            own.stop().await;
        }
        running.stop().await;
    };
    let all_left = tokio::select! {
        biased;
        () = leaving => true,
        _ = signals.next() => false,
    };
    if !all_left {
        out.say("told twice: everything ends at once");
        drop(own);
        running.kill().await;
    }
    running.guard.end();
    out.end().await;
    code
}

async fn ending(own: &mut Option<lifecycle::App>) -> u8 {
    match own {
        Some(own) => own.ended().await,
        None => std::future::pending().await,
    }
}

/// All that runs.
struct Fleet<'d> {
    dev: &'d Dev,
    ports: Ports,
    level: LogLevel,
    dir: tempfile::TempDir,
    authority: Authority,
    mesh: Option<Mesh>,
    /// By the names of their services; the entry's by [`YOU`].
    sidecars: BTreeMap<String, Sidecar>,
    commands: BTreeMap<String, Running>,
    guard: Guard,
    ended: mpsc::Sender<(String, String)>,
    out: Out,
}

/// A mesh and the configurations of its sidecars.
type Plan = (Mesh, BTreeMap<String, String>);

impl<'d> Fleet<'d> {
    fn new(dev: &'d Dev, level: LogLevel, ended: mpsc::Sender<(String, String)>, out: Out) -> anyhow::Result<Self> {
        let (authority, _) = Authority::create(plan::TRUST_DOMAIN)?;
        let ports = Ports { entry: dev.entry, admin: dev.admin, base: dev.base };
        let dir = tempfile::Builder::new().prefix("weir-dev-").tempdir()?;
        let guard = Guard::start(dir.path())?;
        let (sidecars, commands) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { dev, ports, level, dir, authority, mesh: None, sidecars, commands, guard, ended, out })
    }

    /// Starts all that a text has, and the command.
    async fn begin(&mut self, text: &str, signals: &mut Signals) -> anyhow::Result<Option<lifecycle::App>> {
        let (mesh, _) = self.planned(text).map_err(|_| anyhow::anyhow!("{} has mistakes", self.dev.file.display()))?;
        self.commanded(&mesh)?;
        self.take(text).await?;
        self.introduce();
        if !self.dev.command.is_empty() {
            signals.unless_told(self.apps_listen()).await;
        }
        self.command()
    }

    /// What a text means; nothing is changed.
    fn planned(&self, text: &str) -> Result<Plan, Mistakes> {
        let mut mesh = mesh::read(text, &self.dev.remotes).map_err(Mistakes)?;
        if let Some(name) = &self.dev.service {
            mesh.leave_to_others(name);
        }
        mesh.assign(self.mesh.as_ref());
        plan::ports_are_free(text, &mesh, self.ports).map_err(Mistakes)?;
        let mut texts = BTreeMap::new();
        for service in members(&mesh) {
            let name = service.map_or(YOU, |service| &*service.name);
            let made = plan::configuration(text, &mesh, service, self.ports, self.dir.path()).map_err(Mistakes)?;
            texts.insert(name.to_owned(), made);
        }
        Ok((mesh, texts))
    }

    /// Whether a text can be taken.
    fn plan(&self, text: &str) -> Result<(), Mistakes> {
        self.planned(text).map(drop)
    }

    /// Takes a text that was found good: starts, changes and stops what it has new, other and no more.
    async fn take(&mut self, text: &str) -> anyhow::Result<()> {
        let Ok((mesh, texts)) = self.planned(text) else { bail!("{} has mistakes", self.dev.file.display()) };
        // Ports that are given are given, whatever fails after that.
        self.mesh = Some(mesh.clone());
        let gone: Vec<String> = self.sidecars.keys().filter(|name| !texts.contains_key(*name)).cloned().collect();
        for name in gone {
            if let Some(command) = self.commands.remove(&name) {
                command.stop().await;
            }
            if let Some(sidecar) = self.sidecars.remove(&name) {
                sidecar.tell_to_leave();
                sidecar.left().await?;
            }
        }
        for (name, text) in texts {
            match self.sidecars.get_mut(&name) {
                Some(sidecar) => sidecar.follow(text)?,
                None => {
                    let dir = self.dir.path().join(&name);
                    certify(&self.authority, &dir, &name)?;
                    let sidecar = Sidecar::start(&dir.join("weir.yaml"), text, self.level.clone()).await;
                    let sidecar = sidecar.with_context(|| {
                        format!(
                            "the sidecar of `{name}` (another `weir dev`? ports are told by `--base-port`, `--admin-port` and `--port`)"
                        )
                    });
                    self.sidecars.insert(name.clone(), sidecar?);
                }
            }
        }
        let lines: Vec<Line> = mesh.services.iter().filter_map(|service| self.line(&mesh, service)).collect();
        let stopped: Vec<String> = self
            .commands
            .values_mut()
            .filter_map(|running| (running.has_ended() || !lines.contains(&running.line)).then(|| running.line.name.clone()))
            .collect();
        for name in stopped {
            if let Some(mut command) = self.commands.remove(&name) {
                if !command.has_ended() && lines.iter().any(|line| line.name == name) {
                    self.out.say(format!("{name} is started anew: its command or its variables have changed"));
                }
                command.stop().await;
            }
        }
        for line in lines {
            if !self.commands.contains_key(&line.name) {
                self.tell_if_taken(&mesh, &line.name);
                self.commands.insert(line.name.clone(), Running::start(line, self.ended.clone(), &self.guard, &self.out)?);
            }
        }
        Ok(())
    }

    /// Says it if somebody else is where a service is to be.
    fn tell_if_taken(&self, mesh: &Mesh, name: &str) {
        let Some(port) = mesh.get(name).and_then(Service::port) else { return };
        let listening = std::net::TcpListener::bind(("127.0.0.1", port));
        if listening.is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse) {
            self.out.say(format!(
                "{name}: somebody else listens on 127.0.0.1:{port} already (`ss -ltnp` tells who), and is called in its place"
            ));
        }
    }

    /// What starts a service.
    fn line(&self, mesh: &Mesh, service: &Service) -> Option<Line> {
        let (run, mesh::Place::Here { dir, env, .. }) = (service.run()?, &service.place) else { return None };
        let mut all = plan::environment(mesh, Some(service), self.ports);
        all.extend(env.iter().cloned());
        Some(Line {
            name: service.name.clone(),
            run: run.to_owned(),
            dir: command::place(&self.dev.file, dir.as_deref()),
            env: all,
        })
    }

    /// Waits until the apps that were started listen, but not for ever.
    async fn apps_listen(&self) {
        let ports =
            |mesh: &Mesh| mesh.services.iter().filter(|one| one.run().is_some()).filter_map(Service::port).collect::<Vec<_>>();
        let waited = async {
            for port in self.mesh.as_ref().map(ports).unwrap_or_default() {
                while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        if tokio::time::timeout(PATIENCE, waited).await.is_err() {
            self.out.say("not all apps listen yet; the command is started all the same");
        }
    }

    /// Starts the command, as a service, or as somebody outside of all.
    fn command(&self) -> anyhow::Result<Option<lifecycle::App>> {
        let (Some(mesh), [program, ..]) = (&self.mesh, &self.dev.command[..]) else { return Ok(None) };
        let service = self.commanded(mesh)?;
        if service.is_none() {
            self.out.say("the command is none of the services; `--as SERVICE` makes it one");
        }
        let mut variables = plan::environment(mesh, service, self.ports);
        if let Some(mesh::Place::Here { env, .. }) = service.map(|service| &service.place) {
            variables.extend(env.iter().cloned());
        }
        let started = lifecycle::App::start_with(&self.dev.command, &variables);
        Ok(Some(started.with_context(|| format!("cannot start {}", program.display()))?))
    }

    /// The service that the command is: the one that is named, else the only one that nothing else starts.
    fn commanded<'m>(&self, mesh: &'m Mesh) -> anyhow::Result<Option<&'m Service>> {
        if let Some(name) = &self.dev.service {
            return mesh.get(name).map(Some).with_context(|| {
                let known: Vec<&str> = mesh.services.iter().map(|service| &*service.name).collect();
                format!("there is no service `{name}` in {}; known: {}", self.dev.file.display(), known.join(", "))
            });
        }
        let mut idle = mesh.services.iter().filter(|service| service.port().is_some() && service.run().is_none());
        let first = idle.next();
        Ok(if idle.next().is_none() { first } else { None })
    }

    /// Says what is where.
    fn introduce(&self) {
        let Some(mesh) = &self.mesh else { return };
        let entry = self.ports.entry;
        let mut said = format!("{:<16}{:<28}{:<44}sidecar\n", "service", "app", "from here");
        for service in &mesh.services {
            let app = match &service.place {
                mesh::Place::Here { port, .. } => format!("127.0.0.1:{port}"),
                mesh::Place::Remote { host, port, .. } => format!("{host}:{port}"),
            };
            let here = match service.tcp {
                true => plan::environment(mesh, None, self.ports)
                    .into_iter()
                    .find(|(name, _)| *name == format!("{}_ADDRESS", service.name.to_uppercase().replace('-', "_")))
                    .map_or_else(String::new, |(_, address)| address),
                false => format!("http://{}.localhost:{entry}/", service.name),
            };
            said.push_str(&format!(
                "{:<16}{app:<28}{here:<44}http://127.0.0.1:{}\n",
                service.name,
                self.ports.admin(Some(service))
            ));
        }
        said.push_str(&format!(
            "\nThe same without names: curl -H 'host: {}' http://127.0.0.1:{entry}/\n\
             The entry's own admin server: http://127.0.0.1:{}; configurations and certificates: {}\n\
             {} is followed: save it, and the mesh changes. Ctrl-C ends.\n",
            mesh.services.first().map_or("web", |service| &service.name),
            self.ports.admin,
            self.dir.path().display(),
            self.dev.file.display()
        ));
        self.out.say(said);
    }

    /// Ends all apps at once.
    async fn kill(&mut self) {
        for command in self.commands.values_mut() {
            command.kill().await;
        }
        self.commands.clear();
    }

    /// Has everybody leave, apps first.
    async fn stop(&mut self) {
        self.commands.values().for_each(Running::tell_to_leave);
        let told = tokio::time::Instant::now();
        for command in self.commands.values_mut() {
            command.left(told).await;
        }
        self.commands.clear();
        let sidecars: Vec<Sidecar> = std::mem::take(&mut self.sidecars).into_values().collect();
        sidecars.iter().for_each(Sidecar::tell_to_leave);
        for sidecar in sidecars {
            if let Err(error) = sidecar.left().await {
                self.out.say(format!("{error:#}"));
            }
        }
    }
}

/// Everybody who has a sidecar.
fn members(mesh: &Mesh) -> impl Iterator<Item = Option<&Service>> {
    std::iter::once(None).chain(mesh.services.iter().filter(|service| service.port().is_some()).map(Some))
}

/// Makes who a sidecar is.
fn certify(authority: &Authority, dir: &Path, name: &str) -> anyhow::Result<()> {
    let id = SpiffeId::parse(&plan::id(name)).map_err(anyhow::Error::msg)?;
    let issued = authority.issue(&id, LIFE)?;
    std::fs::create_dir_all(dir)?;
    write(&dir.join("tls.key"), &issued.key, true)?;
    write(&dir.join("tls.crt"), &issued.certificate, false)?;
    write(&dir.join("ca.crt"), authority.root(), false)
}

/// A file to begin with.
pub const EXAMPLE: &str = include_str!("example.yaml");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_right() {
        let ports = Ports { entry: 15001, admin: 15000, base: 16000 };
        let mut mesh = mesh::read(EXAMPLE, &[]).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
        mesh.assign(None);
        for service in members(&mesh) {
            let made = plan::configuration(EXAMPLE, &mesh, service, ports, Path::new("/tmp"));
            assert!(made.is_ok(), "{made:?}");
        }
    }
}
