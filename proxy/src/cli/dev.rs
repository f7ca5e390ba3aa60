//! `weir dev`: several services of this machine with a sidecar each.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::dev::{self, Dev, EXAMPLE};

/// What to run.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The services and the routes between them; followed as it is saved. `--example` prints one to begin with.
    #[arg(value_name = "FILE", required_unless_present = "example", conflicts_with = "example")]
    file: Option<PathBuf>,
    /// Print a file to begin with.
    #[arg(long)]
    example: bool,
    /// Where services are called by name: `http://web.localhost:15001/`.
    #[arg(long, default_value_t = 15001, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// The admin server of the entry's sidecar.
    #[arg(long, default_value_t = 15000, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    admin_port: u16,
    /// The first port of the services' sidecars, each of which takes a hundred.
    #[arg(long, default_value_t = 16000, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..=61_000))]
    base_port: u16,
    /// A service that is elsewhere this time, for example `cart=https://cart.staging.example`; may be repeated.
    #[arg(long = "remote", value_name = "SERVICE=URL", value_parser = remote)]
    remotes: Vec<(String, String)>,
    /// The service that COMMAND is, in place of what the file starts. Default: the only one that nothing else starts, if there is
    /// one.
    #[arg(long = "as", value_name = "SERVICE", requires = "command")]
    service: Option<String>,
    /// The level of weir's own log.
    #[arg(long, env = "WEIR_LOG", default_value = "warn")]
    log: String,
    /// Started when all sidecars are ready; everything ends with it, by its exit code.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

fn remote(text: &str) -> Result<(String, String), String> {
    let example = "write SERVICE=URL, for example `cart=https://cart.staging.example`";
    let (name, url) = text.split_once('=').filter(|(_, url)| url.contains("://")).ok_or(example)?;
    Ok((name.to_owned(), url.to_owned()))
}

pub(super) fn main(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Some(file) = arguments.file else { return Ok(super::print(EXAMPLE)) };
    let level = super::start_logging(&arguments.log, false).map_err(anyhow::Error::msg)?;
    let dev = Dev {
        file: file.clone(),
        entry: arguments.port,
        admin: arguments.admin_port,
        base: arguments.base_port,
        remotes: arguments.remotes,
        service: arguments.service,
        command: arguments.command,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(Box::pin(dev::run(dev, level, |mistakes| super::check::report(&file, mistakes))));
    runtime.shutdown_background();
    Ok(ExitCode::from(code?))
}
