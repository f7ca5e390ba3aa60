//! The command line.

mod advise;
mod ca;
mod check;
mod dev;
mod errors;
mod explain;
mod inject;
mod logging;
mod probe;
mod redirect;
mod reference;
mod run;
mod webhook;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use weir_config::explain::Asked;

use crate::lifecycle::{Leaving, OnSigterm};

/// A sidecar proxy for service meshes: routes by weight, tags every request, and takes new route tables while it runs.
#[derive(Debug, Parser)]
#[command(name = "weir", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// See weir work: two tiny backends, a 90/10 route, and what to curl. Needs no files.
    Demo {
        /// The port to listen on; 0 takes a free one.
        #[arg(long, default_value_t = 15001)]
        port: u16,
        /// Send this many requests a second to the route, so that there is something to see. 0 sends none.
        #[arg(long, default_value_t = 0)]
        rate: u32,
        /// Two services with a sidecar each, and mutual TLS between the sidecars.
        #[arg(long)]
        mtls: bool,
        /// Print one JSON object a second instead of the live view.
        #[arg(long)]
        json: bool,
    },
    /// Run several services of this machine with a sidecar each, and the mesh between them: mutual TLS, names below `localhost`,
    /// and routes that change as the file is saved. No privileges.
    Dev(Box<dev::Arguments>),
    /// Serve a configuration file, and follow its changes.
    Run {
        /// The configuration file.
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
        /// The level of weir's own log on standard error: error, warn, info, debug, trace, or a filter.
        #[arg(long, env = "WEIR_LOG", default_value = "info")]
        log: String,
        /// Write weir's own log as JSON.
        #[arg(long)]
        json: bool,
        /// What SIGTERM means here.
        #[arg(long, value_enum, default_value_t, env = "WEIR_ON_SIGTERM")]
        on_sigterm: OnSigterm,
        /// How long after it began to leave the platform kills weir, for example `30s`: weir is gone a little before. Default:
        /// `shutdown.deadline` of the configuration says when.
        #[arg(long, value_parser = span, env = "WEIR_GRACE_PERIOD", value_name = "TIME")]
        grace_period: Option<std::time::Duration>,
        /// The app: started when weir is ready, told to leave after callers were, and its exit code is weir's.
        #[arg(last = true, value_name = "COMMAND")]
        command: Vec<std::ffi::OsString>,
    },
    /// Wait until a weir on this machine is ready; for start-up hooks, in images without a shell.
    Wait {
        /// The admin or probes server.
        #[arg(long, alias = "admin", default_value = "127.0.0.1:15000", value_name = "ADDRESS")]
        address: probe::Contact,
        /// Give up after this time; a bare number is of seconds.
        #[arg(long, value_parser = span, default_value = "60s", value_name = "TIME")]
        timeout: std::time::Duration,
    },
    /// Tell whether a weir on this machine is ready; for health checks, in images without a shell.
    Health {
        /// The admin or probes server.
        #[arg(long, alias = "admin", default_value = "127.0.0.1:15000", value_name = "ADDRESS")]
        address: probe::Contact,
    },
    /// Have the weir on this machine say goodbye to callers and accept on, for preStop hooks in images without a shell.
    Drain {
        /// The admin server.
        #[arg(long, alias = "admin", default_value = "127.0.0.1:15000", value_name = "ADDRESS")]
        address: probe::Contact,
        /// Come back only after this time, for example `10s`; until then nobody is told to leave.
        #[arg(long, value_parser = span, value_name = "TIME")]
        wait: Option<std::time::Duration>,
    },
    /// Have the weir on this machine finish what is in flight and leave, for jobs beside a classic sidecar.
    Shutdown {
        /// The admin server.
        #[arg(long, alias = "admin", default_value = "127.0.0.1:15000", value_name = "ADDRESS")]
        address: probe::Contact,
    },
    /// Check a configuration file and report every mistake in it.
    Check {
        /// The configuration file; `-` reads standard input.
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Report as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Explain where a request would go and why: listener, route, why each rule before did not match, what is sent, to whom,
    /// with which limits; and which line says so.
    Explain {
        /// The configuration file; `-` reads standard input.
        #[arg(value_name = "FILE", required_unless_present = "admin")]
        file: Option<PathBuf>,
        /// Ask the admin server of a running weir instead.
        #[arg(long, value_name = "ADDRESS", conflicts_with = "file")]
        admin: Option<probe::Contact>,
        /// The request's method.
        #[arg(short = 'X', long, default_value = "GET")]
        method: String,
        /// The request's URL, for example `http://checkout/v2/pay?debug=1`; `https:` is TLS that weir does not look into, where
        /// the listener passes TLS through.
        #[arg(long, required_unless_present = "to")]
        url: Option<String>,
        /// A header, `name: value`; may be repeated.
        #[arg(short = 'H', long = "header", value_name = "HEADER")]
        headers: Vec<String>,
        /// The listener that the request comes to.
        #[arg(long)]
        listener: Option<String>,
        /// Where the app's connection was going before it was redirected to a listener with `original_destination`; without
        /// `--url` it carries neither HTTP nor TLS.
        #[arg(long, value_name = "ADDRESS:PORT")]
        to: Option<String>,
        /// Who asks, as mutual TLS would show it, for `authorization`: `spiffe://prod/ns/shop/sa/cart`.
        #[arg(long, value_name = "SPIFFE-ID")]
        from: Option<String>,
        /// Where the request comes from, for `authorization`. Default: loopback.
        #[arg(long)]
        address: Option<String>,
        /// Explain in JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON Schema of a configuration file, for editors.
    Schema {
        /// Print the configuration reference in Markdown instead.
        #[arg(long)]
        markdown: bool,
    },
    /// Explain an error code (`x-weir-error`), or list them all.
    Errors {
        /// The code.
        code: Option<String>,
        /// Print the catalogue in Markdown.
        #[arg(long, conflicts_with = "code")]
        markdown: bool,
    },
    /// Ask a running weir what it would do.
    Advise {
        #[command(subcommand)]
        about: advise::Advise,
    },
    /// A certificate authority in a directory, for development and small fleets.
    Ca {
        #[command(subcommand)]
        action: ca::Action,
    },
    /// The rules by which the kernel hands a service's connections to weir, without the service knowing.
    Redirect {
        #[command(subcommand)]
        command: redirect::Command,
    },
    /// Put a sidecar in every pod of Kubernetes manifests, and print them. Twice is once.
    Inject {
        /// The manifests; `-`, or none, reads standard input.
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
        #[command(flatten)]
        injection: Box<inject::Injection>,
    },
    /// Take the sidecars out of manifests again, and print them.
    Uninject {
        /// The manifests; `-`, or none, reads standard input.
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Answer the API server of a Kubernetes cluster: a sidecar for every pod as it is made (a mutating admission webhook).
    Webhook(Box<webhook::Webhook>),
    /// Print completions for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// Runs the command line.
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Demo { port, rate, mtls, json } => crate::demo::main(port, rate, json, mtls),
        Command::Dev(arguments) => dev::main(*arguments).unwrap_or_else(|error| fail(&format!("{error:#}"))),
        Command::Run { config, log, json, on_sigterm, grace_period, command } => {
            run::main(&config, &log, json, Leaving { on_sigterm, grace: grace_period }, &command)
        }
        Command::Wait { address, timeout } => probe::wait(&address, timeout),
        Command::Health { address } => probe::health(&address),
        Command::Drain { address, wait } => probe::drain(&address, wait.unwrap_or_default()),
        Command::Shutdown { address } => probe::shutdown(&address),
        Command::Check { file, json } => check::main(&file, json),
        Command::Schema { markdown: false } => print(&format!("{:#}\n", weir_config::schema::json_schema())),
        Command::Schema { markdown: true } => print(&reference::markdown()),
        Command::Explain { file, admin, method, url, headers, listener, to, from, address, json } => {
            let asked = Asked { method: Some(method), url, headers, listener, to, from, address };
            match (file, admin) {
                (Some(file), _) => explain::file(&file, &asked, json),
                (None, Some(admin)) => explain::running(&admin, &asked, json),
                (None, None) => fail("a file or `--admin` is needed"),
            }
        }
        Command::Errors { markdown: true, .. } => print(&errors::markdown()),
        Command::Errors { code: Some(code), .. } => match errors::one(&code) {
            Some(text) => print(&text),
            None => fail(&format!("there is no error `{code}`; {}", weir_config::error::suggest(&code, errors::codes()))),
        },
        Command::Errors { .. } => print(&(errors::codes().join("\n") + "\n")),
        Command::Advise { about } => advise::main(&about),
        Command::Ca { action } => ca::main(&action),
        Command::Redirect { command } => redirect::run(command).unwrap_or_else(|error| fail(&format!("{error:#}"))),
        Command::Inject { files, injection } => {
            inject::inject(&files, *injection).unwrap_or_else(|error| fail(&format!("{error:#}")))
        }
        Command::Uninject { files } => inject::uninject(&files).unwrap_or_else(|error| fail(&format!("{error:#}"))),
        Command::Webhook(webhook) => webhook::main(*webhook).unwrap_or_else(|error| fail(&format!("{error:#}"))),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "weir", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
    }
}

pub use logging::start as start_logging;

/// A time; a bare number is of seconds, as other programs take them.
fn span(text: &str) -> Result<std::time::Duration, String> {
    let bare = text.parse().ok().map(std::time::Duration::from_secs);
    let span = bare.or_else(|| weir_config::units::Span::parse(text).map(|span| span.0));
    span.ok_or("write a time such as `500ms`, `10s` or `2m`; a bare number is of seconds".to_owned())
}

/// A time, in days too.
fn life(text: &str) -> Result<std::time::Duration, String> {
    let days =
        text.strip_suffix('d').and_then(|days| days.parse::<u64>().ok()).map(|days| std::time::Duration::from_secs(days * 86400));
    let life = days.or_else(|| weir_config::units::Span::parse(text).map(|span| span.0));
    life.filter(|life| *life >= std::time::Duration::from_secs(1))
        .ok_or("a time such as `90s`, `24h` or `7d`, of a second at least".to_owned())
}

/// Prints to standard output; a closed pipe (`weir schema | head`) is no error.
fn print(text: &str) -> ExitCode {
    use std::io::Write;
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&format!("cannot write: {error}")),
    }
}

/// Says why and fails.
pub fn fail(why: &str) -> ExitCode {
    if std::io::stderr().is_terminal() {
        eprintln!("\x1b[31merror:\x1b[0m {why}");
    } else {
        eprintln!("error: {why}");
    }
    ExitCode::FAILURE
}
