//! `weir demo`: weir between a caller and two tiny backends, in one process, without a file.
//!
//! Everything is real: the backends are HTTP servers on loopback, weir is the same code that `weir run` runs, and the
//! numbers on the screen are read from its own metrics and from what the backends saw.

mod backend;
mod mesh;
mod view;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use weir_control::Applier;

use crate::admin::LogLevel;
use crate::app::App;
use crate::cli::{fail, start_logging};
use crate::lifecycle::{Leaving, Signals};
use backend::Backend;

/// Runs the demo.
pub fn main(port: u16, rate: u32, json: bool, mtls: bool) -> ExitCode {
    let level = match start_logging("warn", json) {
        Ok(level) => level,
        Err(why) => return fail(&why),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("the control thread cannot start: {error}")),
    };
    let ended = runtime.block_on(async {
        if mtls { Box::pin(mesh::run(port, rate, json, level)).await } else { Box::pin(split(port, rate, json, level)).await }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&format!("{error:#}; try `weir demo --port 0`")),
    }
}

/// Two versions of a service, and a weight on each.
async fn split(port: u16, rate: u32, json: bool, level: LogLevel) -> anyhow::Result<()> {
    let backends = [Backend::start("v1").await?, Backend::start("v2").await?];
    let text = configuration(port, &backends);
    let mut signals = Signals::of_terminal()?;
    let app = App::start(begin("the demo's configuration", &text)?, None, level, &mut signals).await?;
    let address = app.address("demo").unwrap_or(SocketAddr::from(([127, 0, 0, 1], port)));
    if !json {
        view::introduce(address, &text);
    }
    if rate > 0 {
        tokio::spawn(backend::load(address, rate));
    }
    let screen = tokio::spawn(view::run(Arc::clone(app.shared()), backends, json));
    let served = app.serve(&[], signals, Leaving::default()).await.map(drop);
    screen.abort();
    let _ = screen.await;
    served
}

fn begin(name: &'static str, text: &str) -> anyhow::Result<Applier> {
    Applier::new(name, text.to_owned()).map_err(|mistakes| {
        let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("{name} is wrong: {}", lines.join("; "))
    })
}

fn configuration(port: u16, backends: &[Backend; 2]) -> String {
    let [v1, v2] = backends;
    format!(
        "admin: {{ listen: 127.0.0.1:0 }}
listeners:
  - {{ name: demo, listen: 127.0.0.1:{port}, direction: outbound }}
routes:
  - name: hello
    hosts: [\"*\"]
    rules:
      - name: canary
        backends:
          - {{ cluster: hello-v1, weight: 90 }}
          - {{ cluster: hello-v2, weight: 10 }}
clusters:
  hello-v1: {{ endpoints: [{}] }}
  hello-v2: {{ endpoints: [{}] }}
",
        v1.address, v2.address
    )
}
