//! `weir run`: serve a file.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use weir_control::Applier;

use super::{check, fail};
use crate::app::App;
use crate::lifecycle::{Leaving, Signals};

pub(super) fn main(file: &Path, filter: &str, json: bool, leaving: Leaving, command: &[OsString]) -> ExitCode {
    raise_descriptors();
    let level = match super::start_logging(filter, json) {
        Ok(level) => level,
        Err(why) => return fail(&format!("`{filter}` is not a log level: {why}")),
    };
    let text = match check::read(file) {
        Ok(text) => text,
        Err(why) => return fail(&why),
    };
    let applier = match Applier::new(&file.display().to_string(), text) {
        Ok(applier) => applier,
        Err(mistakes) => {
            check::report(file, &mistakes);
            return ExitCode::FAILURE;
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("the control thread cannot start: {error}")),
    };
    let watched = (file != Path::new("-")).then(|| file.to_owned());
    let served = runtime.block_on(async {
        let mut signals = Signals::new()?;
        App::start(applier, watched, level, &mut signals).await?.serve(command, signals, leaving).await
    });
    // A second signal leaves workers behind; nothing may wait for them.
    runtime.shutdown_background();
    match served {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&format!("{error:#}")),
    }
}

/// A proxy holds two descriptors for each connection, and the soft limit is usually for programs that do not.
fn raise_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of descriptors stays as it is");
    }
    if let Some(limit) = getrlimit(Resource::Nofile).current {
        crate::descriptors::limit_to(limit);
    }
}
