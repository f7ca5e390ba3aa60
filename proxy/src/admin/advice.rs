//! Whether it is safe to make listeners strict: from what callers have spoken so far.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};
use weir_config::snapshot::{CallerTls, Listener};

use crate::observe::callers::{Caller, Speaks};
use crate::state::Shared;

/// What is known of one inbound listener.
struct Advice {
    name: Box<str>,
    tls: CallerTls,
    /// Connections by mutual TLS since weir started.
    mutual: u64,
    callers: Vec<Caller>,
}

/// Whether a listener may be made strict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// It is.
    Already,
    /// It may.
    Safe,
    /// Who calls could not any more.
    NotSafe,
    /// Nobody has called.
    Unknown,
    /// Callers could not speak mutual TLS, if they would.
    NotOffered,
}

impl Advice {
    fn answer(&self) -> Answer {
        match self.tls {
            CallerTls::Strict | CallerTls::Edge => Answer::Already,
            CallerTls::Off => Answer::NotOffered,
            CallerTls::Permissive if !self.callers.is_empty() => Answer::NotSafe,
            CallerTls::Permissive if self.mutual == 0 => Answer::Unknown,
            CallerTls::Permissive => Answer::Safe,
        }
    }
}

/// The page, and whether every listener may be strict.
pub(super) fn strict(shared: &Shared, within: Duration, as_json: bool) -> (String, bool) {
    let published = shared.store.load();
    let inbound = published.snapshot.listeners.iter().filter(|listener| listener.is_inbound());
    let advice: Vec<Advice> = inbound.map(|listener| advise(shared, listener, within)).collect();
    let safe = advice.iter().all(|one| matches!(one.answer(), Answer::Already | Answer::Safe)) && !advice.is_empty();
    let up = shared.started.elapsed().unwrap_or_default();
    let overlooked = shared.callers.overlooked();
    let page = if as_json {
        let listeners: Vec<Value> = advice.iter().map(json_of).collect();
        let seen = within.min(up).as_secs();
        format!("{:#}\n", json!({ "safe": safe, "seconds": seen, "overlooked": overlooked, "listeners": listeners }))
    } else {
        text(&advice, within, up, overlooked)
    };
    (page, safe)
}

fn advise(shared: &Shared, listener: &Listener, within: Duration) -> Advice {
    let mut mutual = 0;
    shared.metrics.listeners.visit(|name, shards| {
        if *name == listener.name {
            mutual = shards.iter().map(|shard| shard.tls[0].get()).sum();
        }
    });
    Advice { name: listener.name.clone(), tls: listener.tls, mutual, callers: shared.callers.of(&listener.name, within) }
}

fn words(speaks: Speaks) -> &'static str {
    match speaks {
        Speaks::Plaintext => "in the clear",
        Speaks::OwnTls => "TLS of its own",
    }
}

fn text(advice: &[Advice], within: Duration, up: Duration, overlooked: u64) -> String {
    let mut out = String::new();
    if advice.is_empty() {
        out.push_str("there is no inbound listener\n");
    }
    for one in advice {
        let told = match one.answer() {
            Answer::Already => "it asks for TLS already".to_owned(),
            Answer::NotOffered => "not yet: callers cannot speak mutual TLS here; make it `tls: permissive` first".to_owned(),
            Answer::Unknown => "not known: nobody has called yet".to_owned(),
            Answer::Safe => format!("safe: {} by mutual TLS, and no others", connections(one.mutual)),
            Answer::NotSafe => {
                format!("not safe: {} would be refused", if one.callers.len() == 1 { "this caller" } else { "these callers" })
            }
        };
        let _ = writeln!(out, "{}: {told}", one.name);
        if one.answer() != Answer::NotSafe {
            continue;
        }
        for caller in &one.callers {
            let open = if caller.open > 0 { format!(", {} open", caller.open) } else { String::new() };
            let _ = writeln!(
                out,
                "  {:<15}  {:<14}  {}{open}, the last {} ago",
                caller.address,
                words(caller.speaks),
                connections(caller.connections),
                short(caller.ago)
            );
        }
    }
    let _ = writeln!(out, "(of the last {}: {})", short(within.min(up)), since(within, up));
    if overlooked > 0 {
        let _ = writeln!(out, "({} of more callers than are remembered)", connections(overlooked));
    }
    out
}

fn since(within: Duration, up: Duration) -> &'static str {
    if up < within { "weir started no earlier; ask again later" } else { "and whoever has a connection open" }
}

fn connections(count: u64) -> String {
    if count == 1 { "1 connection".to_owned() } else { format!("{count} connections") }
}

/// A time for people.
fn short(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds}s"),
        seconds @ 120..7200 => format!("{}m", seconds / 60),
        seconds => format!("{}h", seconds / 3600),
    }
}

fn json_of(advice: &Advice) -> Value {
    let answer = match advice.answer() {
        Answer::Already => "already",
        Answer::Safe => "safe",
        Answer::NotSafe => "not_safe",
        Answer::Unknown => "unknown",
        Answer::NotOffered => "not_offered",
    };
    let callers = advice.callers.iter().map(|caller| {
        json!({
            "address": caller.address.to_string(),
            "speaks": match caller.speaks { Speaks::Plaintext => "plain", Speaks::OwnTls => "tls" },
            "connections": caller.connections,
            "open": caller.open,
            "seconds_ago": caller.ago.as_secs(),
        })
    });
    json!({ "name": advice.name, "strict": answer, "mtls_connections": advice.mutual, "callers": callers.collect::<Vec<_>>() })
}
