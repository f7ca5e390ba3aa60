//! weir's own log, on standard error: what the process does, not what requests do (that is the access log).

use std::io::IsTerminal;
use std::sync::Arc;

use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, reload};

use crate::admin::LogLevel;

/// Starts the log.
///
/// # Errors
/// Why `filter` is no level or filter.
pub fn start(filter: &str, json: bool) -> Result<LogLevel, String> {
    let parse = |text: &str| {
        // A bare word that is no level would be taken for a target, and silence everything else.
        let is_odd = |part: &&str| part.is_empty() || !part.contains(['=', '[']) && part.parse::<LevelFilter>().is_err();
        match text.split(',').find(is_odd) {
            Some(odd) => Err(format!("`{odd}` is none of error, warn, info, debug, trace, off")),
            None => EnvFilter::try_new(text).map_err(|error| error.to_string()),
        }
    };
    let (layer, handle) = reload::Layer::new(parse(filter)?);
    let lines = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let registry = tracing_subscriber::registry().with(layer);
    let started = if json {
        registry.with(lines.json().flatten_event(true)).try_init()
    } else {
        registry.with(lines.with_ansi(std::io::stderr().is_terminal())).try_init()
    };
    started.map_err(|error| error.to_string())?;
    let shown = handle.clone();
    Ok(LogLevel {
        get: Arc::new(move || shown.with_current(ToString::to_string).unwrap_or_default()),
        set: Arc::new(move |text| handle.reload(parse(text)?).map_err(|error| error.to_string())),
    })
}
