//! `weir advise`: what a running weir would do, from what it has seen.

use std::process::ExitCode;
use std::time::Duration;

use clap::Subcommand;

use super::{fail, print, probe};

/// About what.
#[derive(Debug, Subcommand)]
pub(super) enum Advise {
    /// Whether inbound listeners may be made `tls: strict`, and if not, who still calls without mutual TLS. Fails unless all may.
    Strict {
        /// The admin server of a running weir.
        #[arg(long, alias = "address", default_value = "127.0.0.1:15000", value_name = "ADDRESS")]
        admin: probe::Contact,
        /// How far back callers count that have no connection open, for example `1h` or `7d`.
        #[arg(long, default_value = "1h", value_parser = super::life)]
        within: Duration,
        /// Answer in JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) fn main(advise: &Advise) -> ExitCode {
    let Advise::Strict { admin, within, json } = advise;
    match probe::get(admin, &format!("/advise/strict?within={}&json={json}", within.as_secs())) {
        Ok((200, body)) => print(&body),
        Ok((409, body)) => {
            print(&body);
            ExitCode::FAILURE
        }
        Ok((_, body)) => fail(body.trim()),
        Err(why) => fail(&why),
    }
}
