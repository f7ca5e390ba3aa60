//! `weir webhook`: sidecars for pods as they are made.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::inject::Injection;
use crate::webhook::certificate::{Own, Place};
use crate::webhook::{Certificate, serve};

/// Where the webhook listens, and whose certificate it shows.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("shown").required(true).args(["cert", "own_certificate"]))]
pub(super) struct Webhook {
    /// Where the API server calls; reviews are answered at `/inject`, and `/ready` tells whether it is.
    #[arg(long, default_value = "[::]:8443", value_name = "ADDRESS", value_parser = listen)]
    listen: SocketAddr,
    /// The chain of a certificate that somebody else makes and renews, cert-manager for one.
    #[arg(long, requires = "key", value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, requires = "cert", value_name = "FILE")]
    key: Option<PathBuf>,
    /// Make a certificate, keep its authority in a Secret, and tell the API server of it.
    #[arg(long)]
    own_certificate: bool,
    /// With `--own-certificate`: the namespace of the service and the Secret.
    #[arg(long, env = "POD_NAMESPACE", default_value = "weir-system", value_name = "NAME")]
    namespace: String,
    /// With `--own-certificate`: the service by which the API server calls.
    #[arg(long, default_value = "weir-webhook", value_name = "NAME")]
    service: String,
    /// With `--own-certificate`: the Secret of the authority.
    #[arg(long, default_value = "weir-webhook-ca", value_name = "NAME")]
    secret: String,
    /// With `--own-certificate`: the MutatingWebhookConfiguration.
    #[arg(long, default_value = "weir", value_name = "NAME")]
    configuration: String,
    /// With `--own-certificate`: the API server. Default: the one of the cluster that this pod is in.
    #[arg(long, value_name = "URL")]
    api_server: Option<String>,
    /// With `--own-certificate`: the directory of the service account.
    #[arg(long, default_value = "/var/run/secrets/kubernetes.io/serviceaccount", value_name = "DIR")]
    service_account: PathBuf,
    /// The level of the webhook's own log.
    #[arg(long = "own-log", env = "WEIR_LOG", default_value = "info", value_name = "LEVEL")]
    level: String,
    /// Write weir's own log as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    injection: Injection,
}

fn listen(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "write an IP address and a port, such as `0.0.0.0:8443` or `[::]:8443`")
}

pub(super) fn main(webhook: Webhook) -> anyhow::Result<ExitCode> {
    super::start_logging(&webhook.level, webhook.json).map_err(anyhow::Error::msg)?;
    let certificate = match (webhook.cert, webhook.key) {
        (Some(cert), Some(key)) => Certificate::Files { cert, key },
        _ => Certificate::Own(Box::new(Own::new(Place {
            api: webhook.api_server.map_or_else(in_cluster, Ok)?,
            account: webhook.service_account,
            namespace: webhook.namespace,
            service: webhook.service,
            secret: webhook.secret,
            configuration: webhook.configuration,
        })?)),
    };
    let settings = webhook.injection.settings()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(webhook.listen, certificate, settings))?;
    Ok(ExitCode::SUCCESS)
}

/// The API server of the cluster that this pod is in.
fn in_cluster() -> anyhow::Result<String> {
    let variable =
        |name: &str| std::env::var(name).with_context(|| format!("`{name}` is not set, so this is no pod: say `--api-server`"));
    let (host, port) = (variable("KUBERNETES_SERVICE_HOST")?, variable("KUBERNETES_SERVICE_PORT")?);
    Ok(if host.contains(':') { format!("https://[{host}]:{port}") } else { format!("https://{host}:{port}") })
}
