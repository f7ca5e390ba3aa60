//! `weir ca`: a certificate authority in a directory.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Subcommand;
use weir_config::spiffe::SpiffeId;

use crate::ca::serve::{Grant, Issuer};
use crate::ca::{Authority, write};

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Make a trust domain: its root certificate `ca.crt`, and `ca.key`, which signs for it and must be kept secret.
    Init {
        /// The trust domain, for example `shop.example`.
        #[arg(value_name = "TRUST_DOMAIN")]
        trust_domain: String,
        /// Where the two files go.
        #[arg(long, default_value = "ca", value_name = "DIR")]
        dir: PathBuf,
    },
    /// Issue a certificate to a workload: `tls.crt`, `tls.key` and the root, `ca.crt`, as `identity.files` wants them.
    Issue {
        /// Whom it names: a SPIFFE ID, or its path alone, for example `/ns/shop/sa/cart`.
        #[arg(value_name = "ID")]
        id: String,
        /// The authority.
        #[arg(long, default_value = "ca", value_name = "DIR")]
        dir: PathBuf,
        /// Where the files go.
        #[arg(long, default_value = "tls", value_name = "DIR")]
        out: PathBuf,
        /// How long it is valid, for example `1h` or `7d`. A running weir takes a new one as soon as it is there.
        #[arg(long, default_value = "24h", value_parser = super::life)]
        ttl: Duration,
    },
    /// Issue certificates to the processes of this machine, by their users, and renew each at half of its life: the SPIFFE
    /// Workload API, for `identity.workload_api`.
    Serve {
        /// The authority.
        #[arg(long, default_value = "ca", value_name = "DIR")]
        dir: PathBuf,
        /// Where processes ask.
        #[arg(long, default_value = "ca/workload.sock", value_name = "PATH")]
        socket: PathBuf,
        /// Whom a user's processes are, for example `1000=/ns/shop/sa/cart`; `*=...` is for any user. The first that fits counts;
        /// may be repeated.
        #[arg(long = "allow", value_name = "USER=ID", required = true, value_parser = Grant::parse)]
        grants: Vec<Grant>,
        /// How long certificates are valid.
        #[arg(long, default_value = "1h", value_parser = super::life)]
        ttl: Duration,
    },
}

pub(super) fn main(action: &Action) -> ExitCode {
    let done = match action {
        Action::Init { trust_domain, dir } => init(trust_domain, dir),
        Action::Issue { id, dir, out, ttl } => issue(id, dir, out, *ttl),
        Action::Serve { dir, socket, grants, ttl } => {
            let issuer = Issuer { dir: dir.clone(), ttl: *ttl, grants: grants.clone() };
            serve(issuer, socket).map(|()| String::new())
        }
    };
    match done {
        Ok(said) => super::print(&said),
        Err(error) => super::fail(&format!("{error:#}")),
    }
}

fn init(trust_domain: &str, dir: &Path) -> anyhow::Result<String> {
    let (certificate, key) = (dir.join("ca.crt"), dir.join("ca.key"));
    if let Some(there) = [&certificate, &key].into_iter().find(|path| path.exists()) {
        bail!("{} is there already; a new root would make every certificate of the old one worthless", there.display());
    }
    let (authority, secret) = Authority::create(trust_domain)?;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    write(&key, &secret, true)?;
    write(&certificate, authority.root(), false)?;
    Ok(format!(
        "trust domain {trust_domain}: {} is what everybody believes, {} signs for it: keep it secret\nnext: weir ca issue /ns/default/sa/NAME --dir {}\n",
        certificate.display(),
        key.display(),
        dir.display()
    ))
}

fn issue(id: &str, dir: &Path, out: &Path, ttl: Duration) -> anyhow::Result<String> {
    let authority = Authority::open(dir)?;
    let full = if id.starts_with('/') { format!("spiffe://{}{id}", authority.trust_domain) } else { id.to_owned() };
    let id = SpiffeId::parse(&full).map_err(|why| anyhow::anyhow!("`{full}` is not a SPIFFE ID: {why}"))?;
    let issued = authority.issue(&id, ttl)?;
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    write(&out.join("tls.key"), &issued.key, true)?;
    write(&out.join("tls.crt"), &issued.certificate, false)?;
    write(&out.join("ca.crt"), authority.root(), false)?;
    let until = httpdate::fmt_http_date(issued.not_after);
    let out = out.display();
    Ok(format!(
        "{id}, valid until {until}\nidentity: {{ files: {{ cert: {out}/tls.crt, key: {out}/tls.key, trust: {out}/ca.crt }} }}\n"
    ))
}

fn serve(issuer: Issuer, socket: &Path) -> anyhow::Result<()> {
    super::start_logging("info", false).map_err(anyhow::Error::msg)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(crate::ca::serve::serve(issuer, socket))
}
