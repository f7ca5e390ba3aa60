//! weir's configuration, from YAML to a decision.
//!
//! Data flows one way: text -> [`yaml`] (a tree with positions) -> [`structure`] (every structural mistake, found by
//! walking the JSON Schema generated from the types) -> [`schema`] (typed) -> [`compile`] (every semantic mistake, and
//! the compiled [`Snapshot`]) -> [`decide()`].
//!
//! The crate is pure: no clock, sockets, files or threads. Whoever loads a file reads it first and passes the text.
//!
//! What breaks if this is changed carelessly: [`decide()`] has several callers (serving, `explain`, replays, property
//! tests) which must agree, so a rule of matching belongs here and nowhere else.

pub mod access_log;
pub mod authorize;
pub mod compile;
pub mod decide;
pub mod destinations;
pub mod error;
pub mod explain;
pub mod headers;
pub mod matcher;
pub mod path;
pub mod policy;
pub mod rewrite;
pub mod schema;
pub mod snapshot;
pub mod spiffe;
pub mod structure;
pub mod table;
pub mod trust;
pub mod units;
pub mod upgrades;
pub mod weights;
pub mod yaml;

pub use authorize::{Call, Caller, Refused, Verdict, authorize};
pub use decide::{Bytes, Decision, Facts, NoRoute, Reason, Reasons, decide, decide_bytes};
pub use error::{Diagnostic, Diagnostics};
pub use schema::Config;
pub use snapshot::Snapshot;

/// Reads a text that [`load`] has accepted. Nothing but types is checked; `None` if those do not fit.
pub fn read(text: &str) -> Option<Config> {
    yaml::typed(text).ok()
}

/// Reads, validates and compiles one configuration text.
///
/// # Errors
/// Every mistake found in the text, in the order of its lines. Structural mistakes (unknown fields, wrong types,
/// duplicate keys) hide semantic ones, because a text that is not understood cannot be judged.
pub fn load(text: &str) -> Result<(Config, Snapshot), Vec<Diagnostic>> {
    let mut found = Diagnostics::default();
    let Some(tree) = yaml::parse(text, &mut found) else {
        return Err(found.into_sorted());
    };
    structure::check(&tree, &mut found);
    if found.has_errors() {
        return Err(found.into_sorted());
    }
    let config: Config = match yaml::typed(text) {
        Ok(config) => config,
        Err(diagnostic) => return Err(vec![*diagnostic]),
    };
    let snapshot = compile::compile(&config, &mut found);
    found.locate(&tree);
    match snapshot {
        Some(snapshot) if !found.has_errors() => Ok((config, snapshot)),
        _ => Err(found.into_sorted()),
    }
}
