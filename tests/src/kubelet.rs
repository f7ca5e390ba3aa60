//! What a kubelet does with a pod that has a sidecar in it, from the manifest that `weir inject` printed: containers in their
//! order, as the users and with the capabilities that it says, start-up and readiness probes from outside, hooks, and the order
//! in which all of them are told to leave. A pod is a network namespace; containers are processes.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use weir_deploy::manifest::{self, Node};

use crate::Result;
use crate::pod::{Host, Network, Program, command_in};

/// A pod that runs. What is left of it ends with the value.
pub struct Running {
    /// Its namespace and address.
    pub host: Host,
    /// The number of the node's namespace.
    node: u32,
    spec: Node,
    sidecars: Vec<Container>,
    containers: Vec<Container>,
    mounts: Mounts,
    grace: Duration,
}

/// A container that was started.
pub struct Container {
    /// Its name.
    pub name: String,
    /// The process.
    pub program: Program,
    node: Node,
}

/// How a pod left.
#[derive(Debug)]
pub struct Left {
    /// Containers that did not leave by themselves.
    pub killed: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// Where files of the pod lie on this machine, in place of the paths in its containers.
struct Mounts {
    _dir: tempfile::TempDir,
    replaced: Vec<(String, String)>,
}

impl Mounts {
    /// Has the volumes of a pod made.
    fn new(pod: &Node, secrets: &[(&str, &Path)]) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755))?;
        let binary = dir.path().join("weir");
        std::fs::copy(crate::weir::binary(), &binary)?;
        let mut places = Vec::new();
        for volume in pod.at(&["spec", "volumes"]).into_iter().flat_map(Node::items) {
            let name = text(volume, "name").ok_or("a volume without a name")?;
            let place = dir.path().join(&name);
            if let Some(secret) = volume.at(&["secret", "secretName"]).and_then(Node::as_text) {
                let (_, path) = secrets.iter().find(|(known, _)| *known == secret).ok_or(format!("no secret {secret}"))?;
                places.push((name, path.display().to_string()));
                continue;
            }
            std::fs::create_dir(&place)?;
            for item in volume.at(&["downwardAPI", "items"]).into_iter().flat_map(Node::items) {
                let field = item.at(&["fieldRef", "fieldPath"]).and_then(Node::as_text).unwrap_or_default();
                let key = field.strip_prefix("metadata.annotations['").and_then(|rest| rest.strip_suffix("']"));
                let annotations = pod.at(&["metadata", "annotations"]);
                let said = annotations.and_then(|all| all.get(key?)?.as_text()).ok_or(format!("nothing at {field}"))?;
                std::fs::write(place.join(text(item, "path").ok_or("no path")?), said)?;
            }
            places.push((name, place.display().to_string()));
        }
        let mut replaced = vec![("/weir".to_owned(), binary.display().to_string())];
        for container in ["initContainers", "containers"].into_iter().flat_map(|list| containers(pod, list)) {
            for mount in container.get("volumeMounts").into_iter().flat_map(Node::items) {
                let (name, path) = (text(mount, "name"), text(mount, "mountPath").ok_or("no mountPath")?);
                let place = places.iter().find(|(known, _)| Some(known) == name.as_ref()).ok_or("no such volume")?;
                replaced.push((path, place.1.clone()));
            }
        }
        let mounts = Self { _dir: dir, replaced };
        // Files of weir name others.
        for (_, place) in &places {
            let file = Path::new(place).join("weir.yaml");
            if file.exists() {
                let written = std::fs::read_to_string(&file)?;
                std::fs::write(&file, mounts.replace(&written))?;
            }
        }
        Ok(mounts)
    }

    fn replace(&self, said: &str) -> String {
        // The longest first: one path may begin another.
        let mut replaced: Vec<_> = self.replaced.iter().filter(|(path, _)| path != "/weir").collect();
        replaced.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        replaced.into_iter().fold(said.to_owned(), |said, (path, place)| said.replace(&format!("{path}/"), &format!("{place}/")))
    }

    fn binary(&self) -> PathBuf {
        PathBuf::from(&self.replaced[0].1)
    }
}

impl Running {
    /// Starts the pod of a manifest, as the host of a network. `secrets` are directories by name.
    ///
    /// # Errors
    /// What does not come up.
    pub fn start(network: &Network, number: u8, manifest: &str, secrets: &[(&str, &Path)]) -> Result<Self> {
        let documents = manifest::read(manifest).map_err(|mistake| mistake.to_string())?;
        let pod = documents.into_iter().find_map(|document| document.root).ok_or("no pod")?;
        let mounts = Mounts::new(&pod, secrets)?;
        let spec = pod.get("spec").cloned().ok_or("no spec")?;
        let grace = text(&spec, "terminationGracePeriodSeconds").and_then(|text| text.parse().ok()).unwrap_or(30);
        let (host, grace) = (network.host(number)?, Duration::from_secs(grace));
        let mut running =
            Self { host, node: network.node.id(), spec, sidecars: Vec::new(), containers: Vec::new(), mounts, grace };
        for node in containers(&pod, "initContainers") {
            if text(&node, "restartPolicy").as_deref() == Some("Always") {
                let mut container = running.begin(node)?;
                running.wait_until_started(network, &mut container)?;
                running.sidecars.push(container);
            } else {
                let mut container = running.begin(node)?;
                let ended = container.program.wait(Duration::from_secs(60))?;
                if !ended.success() {
                    let said = format!("{}{}", container.program.output()?, container.program.complaints()?);
                    return Err(format!("{}: {ended}: {said}", container.name).into());
                }
            }
        }
        for node in containers(&pod, "containers") {
            let container = running.begin(node)?;
            // The next container waits for the hook.
            running.hook(&container.node, "postStart")?;
            running.containers.push(container);
        }
        Ok(running)
    }

    fn begin(&self, node: Node) -> Result<Container> {
        let name = text(&node, "name").ok_or("a container without a name")?;
        let words = |key: &str| -> Vec<String> {
            let words = node.get(key).into_iter().flat_map(Node::items).filter_map(Node::as_text);
            words.map(|word| self.mounts.replace(word)).collect()
        };
        let is_weir = text(&node, "image").is_some_and(|image| image.starts_with("weir:"));
        let mut line = words("command");
        if is_weir && line.is_empty() {
            line.push(self.mounts.binary().display().to_string());
        }
        line.extend(words("args"));
        let mut command = self.command(&node, &line);
        for variable in node.get("env").into_iter().flat_map(Node::items) {
            command.env(text(variable, "name").unwrap_or_default(), text(variable, "value").unwrap_or_default());
        }
        Ok(Container { name, program: Program::start(command)?, node })
    }

    /// A command in the pod, as the user and with the capabilities of a container.
    fn command(&self, container: &Node, line: &[String]) -> Command {
        let mut command = self.host.pod.command("setpriv");
        let said = |keys: &[&str]| container.at(keys).and_then(Node::as_text);
        let id = |key: &str| said(&["securityContext", key]).unwrap_or("0");
        let mut capabilities = Vec::new();
        for (key, sign) in [("drop", '-'), ("add", '+')] {
            let list = container.at(&["securityContext", "capabilities", key]).into_iter().flat_map(Node::items);
            capabilities.extend(list.filter_map(Node::as_text).map(|name| format!("{sign}{}", name.to_lowercase())));
        }
        command.args(["--reuid", id("runAsUser"), "--regid", id("runAsGroup"), "--clear-groups"]);
        if !capabilities.is_empty() {
            command.args(["--inh-caps", "-all", "--bounding-set", &capabilities.join(",")]);
        }
        if said(&["securityContext", "allowPrivilegeEscalation"]) == Some("false") {
            command.arg("--no-new-privs");
        }
        command.arg("--").args(line);
        command
    }

    /// Runs a hook of a container and waits for it, if it has one.
    fn hook(&self, container: &Node, name: &str) -> Result {
        let Some(hook) = container.at(&["lifecycle", name]) else { return Ok(()) };
        if let Some(seconds) = hook.at(&["sleep", "seconds"]).and_then(Node::as_text) {
            std::thread::sleep(Duration::from_secs(seconds.parse()?));
            return Ok(());
        }
        if let Some(port) = hook.at(&["httpGet", "port"]).and_then(Node::as_text) {
            let path = hook.at(&["httpGet", "path"]).and_then(Node::as_text).unwrap_or("/");
            let url = format!("http://{}:{port}{path}", self.host.address);
            // Whether anybody answers is an event for people to read; the pod leaves all the same.
            let _ = command_in(self.node, "curl").args(["-s", "-m", "5", "-o", "/dev/null", &url]).status()?;
            return Ok(());
        }
        let line = hook.at(&["exec", "command"]).into_iter().flat_map(Node::items).filter_map(Node::as_text);
        let mut line: Vec<String> = line.map(str::to_owned).collect();
        if line.first().is_some_and(|program| program == "/weir") {
            line[0] = self.mounts.binary().display().to_string();
        }
        let done = self.command(container, &line).output()?;
        if !done.status.success() {
            return Err(format!("{name}: {}", String::from_utf8_lossy(&done.stderr)).into());
        }
        Ok(())
    }

    fn wait_until_started(&self, network: &Network, container: &mut Container) -> Result {
        let Some(probe) = container.node.get("startupProbe").cloned() else { return Ok(()) };
        let until = Instant::now() + Duration::from_secs(20);
        while self.probe(network, &probe)?.0 != 200 {
            if let Some(ended) = container.program.ended()? {
                return Err(format!("{}: {ended}: {}", container.name, container.program.complaints()?).into());
            }
            if Instant::now() > until {
                return Err(format!("{} is not ready: {}", container.name, container.program.complaints()?).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Makes an HTTP probe from the node, as a kubelet does; gives the status, 0 if there was no answer, and what was said.
    fn probe(&self, network: &Network, probe: &Node) -> Result<(u16, String)> {
        let path = probe.at(&["httpGet", "path"]).and_then(Node::as_text).unwrap_or("/");
        let port = probe.at(&["httpGet", "port"]).and_then(Node::as_text).ok_or("the probe is no httpGet with a port")?;
        let url = format!("http://{}:{port}{path}", self.host.address);
        let said = network.node.run(&format!("curl -s -m 5 -A kube-probe/1.33 -w '\\n%{{http_code}}' '{url}' || true"))?;
        let (body, status) = said.trim_end().rsplit_once('\n').unwrap_or(("", said.trim()));
        Ok((status.parse().unwrap_or(0), body.to_owned()))
    }

    /// Makes a probe of a container, by its name in the manifest: `readinessProbe`.
    ///
    /// # Errors
    /// There is none.
    pub fn probed(&self, network: &Network, container: &str, name: &str) -> Result<(u16, String)> {
        let found = self.containers.iter().chain(&self.sidecars).find(|known| known.name == container);
        let probe = found.and_then(|found| found.node.get(name)).ok_or(format!("{container} has no {name}"))?;
        self.probe(network, probe)
    }

    /// Whether all readiness probes say yes.
    ///
    /// # Errors
    /// One cannot be made.
    pub fn is_ready(&self, network: &Network) -> Result<bool> {
        for container in self.containers.iter().chain(&self.sidecars) {
            if let Some(probe) = container.node.get("readinessProbe")
                && self.probe(network, probe)?.0 != 200
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// It is not in time.
    pub fn wait_until_ready(&self, network: &Network) -> Result {
        let until = Instant::now() + Duration::from_secs(20);
        while !self.is_ready(network)? {
            if Instant::now() > until {
                return Err(format!("the pod is not ready: {}", self.said()?).into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// All that its containers complained of, weir's log above all.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn said(&self) -> Result<String> {
        let all = self.sidecars.iter().chain(&self.containers).map(|one| one.program.complaints());
        Ok(all.collect::<Result<Vec<_>>>()?.join("\n"))
    }

    /// A container by its name.
    ///
    /// # Panics
    /// There is none.
    pub fn container(&mut self, name: &str) -> &mut Program {
        let mut all = self.containers.iter_mut().chain(&mut self.sidecars);
        &mut all.find(|one| one.name == name).unwrap_or_else(|| panic!("no container {name}")).program
    }

    /// Replaces the configuration of its weir.
    ///
    /// # Errors
    /// It has none.
    pub fn configure(&self, yaml: &str) -> Result {
        let dir = self.mounts.replaced.iter().find(|(path, _)| path == "/etc/weir").ok_or("no configuration")?;
        let dir = Path::new(&dir.1);
        std::fs::write(dir.join("next"), self.mounts.replace(yaml))?;
        Ok(std::fs::rename(dir.join("next"), dir.join("weir.yaml"))?)
    }

    /// Has it leave, as a deletion does: hooks of all containers, SIGTERM to the app's, and to native sidecars when those have
    /// gone, in reverse order.
    ///
    /// # Errors
    /// A hook fails.
    pub fn terminate(&mut self) -> Result<Left> {
        let began = Instant::now();
        let deadline = began + self.grace;
        let (mut containers, mut sidecars) = (std::mem::take(&mut self.containers), std::mem::take(&mut self.sidecars));
        let this = &*self;
        let mut killed = Vec::new();
        std::thread::scope(|scope| -> Result {
            let hooks: Vec<_> = sidecars
                .iter()
                .map(|one| (one.name.clone(), one.node.clone()))
                .map(|(name, node)| (name, scope.spawn(move || this.hook(&node, "preStop").map_err(|error| error.to_string()))))
                .collect();
            let leaving: Vec<_> = containers
                .iter_mut()
                .map(|one| {
                    scope.spawn(move || -> Result<Option<String>, String> {
                        let told = |error: Box<dyn std::error::Error + Send + Sync>| error.to_string();
                        this.hook(&one.node, "preStop").map_err(told)?;
                        let left = one.program.leave(deadline.saturating_duration_since(Instant::now())).map_err(told)?;
                        Ok((!left).then(|| one.name.clone()))
                    })
                })
                .collect();
            for one in leaving {
                killed.extend(one.join().map_err(|_| "a thread failed")??);
            }
            for (name, hook) in hooks {
                hook.join().map_err(|_| "a thread failed")?.map_err(|error| format!("{name}: {error}"))?;
            }
            Ok(())
        })?;
        killed.extend(leave_in_turn(&mut sidecars, deadline)?);
        (self.containers, self.sidecars) = (containers, sidecars);
        Ok(Left { killed, took: began.elapsed() })
    }

    /// Waits until the app's containers have ended by themselves, as those of a job do, and has native sidecars leave; gives the
    /// codes, and how long the sidecars took.
    ///
    /// # Errors
    /// They do not end in time.
    pub fn finish(&mut self, limit: Duration) -> Result<(Vec<ExitStatus>, Left)> {
        let until = Instant::now() + limit;
        let codes = self.containers.iter_mut().map(|one| one.program.wait(until.saturating_duration_since(Instant::now())));
        let codes = codes.collect::<Result<Vec<_>>>()?;
        let began = Instant::now();
        for one in &self.sidecars {
            self.hook(&one.node, "preStop")?;
        }
        let killed = leave_in_turn(&mut self.sidecars, began + self.grace)?;
        Ok((codes, Left { killed, took: began.elapsed() }))
    }

    /// The configuration of the pod.
    pub fn spec(&self) -> &Node {
        &self.spec
    }
}

/// Native sidecars leave in reverse order, and have two seconds at least.
fn leave_in_turn(sidecars: &mut [Container], deadline: Instant) -> Result<Vec<String>> {
    let mut killed = Vec::new();
    for one in sidecars.iter_mut().rev() {
        let limit = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(2));
        if !one.program.leave(limit)? {
            killed.push(one.name.clone());
        }
    }
    Ok(killed)
}

fn containers(pod: &Node, list: &str) -> Vec<Node> {
    pod.at(&["spec", list]).into_iter().flat_map(Node::items).cloned().collect()
}

fn text(node: &Node, key: &str) -> Option<String> {
    node.get(key)?.as_text().map(str::to_owned)
}
