//! `weir inject` and `weir uninject`: manifests with and without sidecars.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use weir_deploy::inject::resources::quantity;
use weir_deploy::inject::settings::{log_level, object_name};
use weir_deploy::inject::{self, Done, Outcome, Settings};
use weir_deploy::manifest::{self, Document};

use super::redirect::Rules;

/// More than this is no manifest.
const MOST: u64 = 64 << 20;

/// How pods get their sidecar. Annotations of a pod (`weir.proxy/image` and so on) come before these.
#[derive(Debug, Args)]
pub(super) struct Injection {
    /// The image of weir.
    #[arg(long, value_name = "IMAGE", value_parser = clap::builder::NonEmptyStringValueParser::new(), default_value = concat!("weir:", env!("CARGO_PKG_VERSION")))]
    image: String,
    /// When the image is fetched: Always, IfNotPresent or Never. Default: as Kubernetes decides.
    #[arg(long, value_name = "POLICY", value_parser = ["Always", "IfNotPresent", "Never"])]
    pull_policy: Option<String>,
    /// A container beside the app's, for Kubernetes before 1.29, in place of a native sidecar, which starts before the app, leaves
    /// after it, and lets jobs end.
    #[arg(long)]
    classic: bool,
    /// A ConfigMap with `weir.yaml`, for pods without one of the annotations `weir.proxy/config-map` and `weir.proxy/config`.
    /// Default: a configuration that lets everything through.
    #[arg(long, value_name = "NAME", value_parser = object_name)]
    config_map: Option<String>,
    /// Hand no connections over: the configuration says where the app listens and whom it calls.
    #[arg(long)]
    no_redirect: bool,
    /// The level of the sidecars' own log.
    #[arg(long, value_name = "LEVEL", value_parser = log_level)]
    log: Option<String>,
    /// Leave the app's probes as they are: the kubelet comes through the inbound listener like everybody else.
    #[arg(long)]
    keep_probes: bool,
    /// A Secret with `tls.crt`, `tls.key` and `ca.crt`: who the pods are in the mesh.
    #[arg(long, value_name = "NAME", conflicts_with = "workload_api", value_parser = object_name)]
    identity_secret: Option<String>,
    /// Who the pods are is told by the SPIFFE Workload API, whose socket this CSI driver mounts.
    #[arg(long, value_name = "DRIVER", num_args = 0..=1, require_equals = true, default_missing_value = "csi.spiffe.io", value_parser = object_name)]
    workload_api: Option<String>,
    /// Ports on which the bytes are nobody's business, besides the usual ones.
    #[arg(long, value_delimiter = ',', value_name = "PORTS")]
    opaque_ports: Vec<weir_deploy::redirect::Ports>,
    /// With `--classic`: seconds that weir stays as it is when the pod is told to leave.
    #[arg(long, value_name = "SECONDS")]
    wait_before_exit: Option<u32>,
    /// CPU to reserve. Default: 10m.
    #[arg(long, value_name = "QUANTITY", value_parser = quantity)]
    cpu_request: Option<String>,
    /// The most CPU. Default: no limit.
    #[arg(long, value_name = "QUANTITY", value_parser = quantity)]
    cpu_limit: Option<String>,
    /// Memory to reserve. Default: 24Mi, or the limit if that is less.
    #[arg(long, value_name = "QUANTITY", value_parser = quantity)]
    memory_request: Option<String>,
    /// The most memory. Default: 256Mi, or what is reserved if that is more.
    #[arg(long, value_name = "QUANTITY", value_parser = quantity)]
    memory_limit: Option<String>,
    #[command(flatten)]
    rules: Rules,
}

impl Injection {
    pub(super) fn settings(self) -> anyhow::Result<Settings> {
        let mut rules = self.rules.options(true)?;
        rules.follow_user();
        let resources = inject::Resources {
            cpu_request: self.cpu_request,
            cpu_limit: self.cpu_limit,
            memory_request: self.memory_request,
            memory_limit: self.memory_limit,
        };
        if let [mistake, ..] = &resources.mistakes()[..] {
            bail!("{mistake}");
        }
        // An empty word is nothing said, as it is in annotations.
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        Ok(Settings {
            image: self.image,
            pull_policy: self.pull_policy,
            native: !self.classic,
            config_map: given(self.config_map),
            redirect: !self.no_redirect,
            rules,
            resources,
            log: given(self.log),
            rewrite_probes: !self.keep_probes,
            identity_secret: given(self.identity_secret),
            workload_api: given(self.workload_api),
            opaque_ports: self.opaque_ports,
            wait_before_exit: self.wait_before_exit,
        })
    }
}

/// Prints the manifests with a sidecar in every pod, and says on standard error what became of each.
pub(super) fn inject(files: &[PathBuf], injection: Injection) -> anyhow::Result<ExitCode> {
    let settings = injection.settings()?;
    let mut manifests = Manifests::read(files)?;
    let before = manifests.documents.clone();
    match inject::inject(&mut manifests.documents, &settings) {
        Ok(done) => {
            report(&done, "no pods here");
            Ok(super::print(&manifests.text(&before)))
        }
        Err(mistakes) => bail!("nothing was injected\n  {}", mistakes.join("\n  ")),
    }
}

/// Prints the manifests without sidecars.
pub(super) fn uninject(files: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let mut manifests = Manifests::read(files)?;
    let before = manifests.documents.clone();
    report(&inject::uninject(&mut manifests.documents), "no sidecars here");
    Ok(super::print(&manifests.text(&before)))
}

/// Manifests as they are, and as they were written.
struct Manifests {
    documents: Vec<Document>,
    texts: Vec<String>,
}

impl Manifests {
    /// Of all files, one after the other; of standard input if there are none.
    fn read(files: &[PathBuf]) -> anyhow::Result<Self> {
        let stdin = [PathBuf::from("-")];
        let (mut documents, mut texts) = (Vec::new(), Vec::new());
        for file in if files.is_empty() { &stdin[..] } else { files } {
            let name = if file.as_os_str() == "-" { "standard input".to_owned() } else { file.display().to_string() };
            let mut text = String::new();
            let read = match file.as_os_str() == "-" {
                true => std::io::stdin().take(MOST + 1).read_to_string(&mut text),
                false => std::fs::File::open(file).and_then(|file| file.take(MOST + 1).read_to_string(&mut text)),
            };
            read.with_context(|| format!("cannot read {name}"))?;
            if text.trim().is_empty() {
                bail!("{name} is empty; in `weir inject FILE > FILE` the shell empties FILE before weir can read it");
            }
            if text.len() as u64 > MOST {
                bail!("{name} is larger than {} MiB, which is no manifest", MOST >> 20);
            }
            let read = manifest::read(&text).or_else(|mistake| manifest::json::objects(&text).ok_or(mistake));
            documents.extend(read.map_err(|mistake| anyhow::anyhow!("{name}: {mistake}"))?);
            texts.push(text);
        }
        Ok(Self { documents, texts })
    }

    /// What is to be printed: the very bytes of one text in which nothing has changed.
    fn text(self, before: &[Document]) -> String {
        match &self.texts[..] {
            [text] if self.documents == before => text.clone(),
            _ => manifest::write(&self.documents),
        }
    }
}

fn report(done: &[Done], nothing: &str) {
    if done.is_empty() {
        eprintln!("{nothing}: everything is as it was");
    }
    for Done { what, outcome, warnings } in done {
        match outcome {
            Outcome::Injected => eprintln!("{what}: injected"),
            Outcome::LeftAlone(why) => eprintln!("{what}: left alone: {why}"),
            Outcome::Removed => eprintln!("{what}: sidecar removed"),
        }
        for warning in warnings {
            eprintln!("{what}: note: {warning}");
        }
    }
}
