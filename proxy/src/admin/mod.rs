//! The admin and probes servers, on the control thread: a scrape never takes a worker's time.
//!
//! Admin listens on loopback or a Unix socket only and checks the `Host` header, so that a web page in a browser on this
//! machine cannot reach it by rebinding a name; whatever changes something must be a POST. The probes server is for
//! kubelets and scrapers, reachable from outside, and knows `/ready`, `/live` and `/metrics` only, and what `app_probes` has.

mod advice;
mod app_probes;
mod pages;

use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceBuilder, ServiceExt};
use weir_config::snapshot::{AdminAddress, Bootstrap};

use crate::lifecycle::Ask;
use crate::listen::sockets::{bind, is_absent};
use crate::state::Shared;
use app_probes::AppProbes;
use pages::{Door, Pages};

/// Reads and changes the level of weir's own log.
#[derive(Clone)]
pub struct LogLevel {
    /// Gives the level in force.
    pub get: GetLevel,
    /// Sets a level such as `debug` or `weir=trace`; an error says why it is not one.
    pub set: SetLevel,
}

/// Gives the level in force.
pub type GetLevel = Arc<dyn Fn() -> String + Send + Sync>;
/// Sets a level, or says why it is not one.
pub type SetLevel = Arc<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// Requests served at a time on each server; more wait.
const CONCURRENCY: usize = 16;
/// A page takes no longer than this.
const LIMIT: Duration = Duration::from_secs(10);
/// A connection that sends no request for this long is closed.
const HEADER_LIMIT: Duration = Duration::from_secs(10);

/// Starts the servers that the bootstrap asks for.
///
/// # Errors
/// What cannot be bound.
pub async fn start(shared: &Arc<Shared>, bootstrap: &Bootstrap, level: LogLevel, ask: mpsc::Sender<Ask>) -> anyhow::Result<()> {
    let pages = |door| Pages { shared: Arc::clone(shared), level: level.clone(), ask: ask.clone(), door };
    match &bootstrap.admin {
        None => {}
        Some(AdminAddress::Tcp(address)) => {
            let listener = TcpListener::bind(address).await.with_context(|| {
                format!("the admin server cannot listen on {address} (another weir? `admin: {{ listen: ... }}` in the configuration says where)")
            })?;
            tracing::info!(address = %listener.local_addr()?, "admin listening");
            tokio::spawn(serve_tcp(listener, stack(pages(Door::AdminTcp))));
        }
        Some(AdminAddress::Unix(path)) => {
            // A socket file that an earlier process left behind would keep the address for ever.
            let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
            if is_socket && std::os::unix::net::UnixStream::connect(path).is_err() {
                let _ = std::fs::remove_file(path);
            }
            let listener =
                UnixListener::bind(path).with_context(|| format!("the admin server cannot listen on {}", path.display()))?;
            tracing::info!(path = %path.display(), "admin listening");
            tokio::spawn(serve_unix(listener, stack(pages(Door::AdminUnix))));
        }
    }
    probes(bootstrap, &pages(Door::Probes))
}

/// The probes server, at each address that this machine has.
fn probes(bootstrap: &Bootstrap, pages: &Pages) -> anyhow::Result<()> {
    let app = AppProbes::from_environment()?.map(Arc::new);
    if app.is_some() && bootstrap.probes.is_empty() {
        tracing::warn!(
            "the app's probes are asked of weir, and the configuration has no `probes: {{ listen: ... }}` to answer them"
        );
    }
    let several = bootstrap.probes.len() > 1;
    let mut bound = 0;
    for address in &bootstrap.probes {
        let sockets = match bind(*address, several, 1) {
            Err(error) if several && is_absent(&error) => {
                tracing::warn!(%address, %error, "no probes there: this machine does not have it");
                continue;
            }
            sockets => sockets.with_context(|| format!("the probes server cannot listen on {address}"))?,
        };
        for socket in sockets {
            let listener = TcpListener::from_std(socket)?;
            tracing::info!(address = %listener.local_addr()?, "probes listening");
            tokio::spawn(serve_probes(listener, pages.clone(), app.clone()));
            bound += 1;
        }
    }
    ensure!(bound > 0 || bootstrap.probes.is_empty(), "the probes server cannot listen: this machine has none of its addresses");
    Ok(())
}

type Stack = BoxCloneSyncService<Request<Incoming>, Response<Full<Bytes>>, std::io::Error>;

fn stack(pages: Pages) -> Stack {
    let answer = tower::service_fn(move |request| {
        let pages = pages.clone();
        async move { Ok::<_, BoxError>(pages.answer(&request)) }
    });
    let stack = ServiceBuilder::new()
        .map_err(|error: BoxError| std::io::Error::other(error))
        .timeout(LIMIT)
        .concurrency_limit(CONCURRENCY)
        .service(answer);
    BoxCloneSyncService::new(stack)
}

async fn serve_tcp(listener: TcpListener, stack: Stack) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(stream, stack.clone()))),
            Err(error) => pause(&error).await,
        }
    }
}

/// Knows which address was called: there the app may listen.
async fn serve_probes(listener: TcpListener, pages: Pages, app: Option<Arc<AppProbes>>) {
    let limit = app.as_ref().map_or(LIMIT, |app| LIMIT.max(app.longest() + LIMIT));
    // How many of the app's probes are made at a time is limited there: they keep nobody from `/ready`.
    let own = stack(pages);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                pause(&error).await;
                continue;
            }
        };
        let local = stream.local_addr().ok().map(|local| local.ip().to_canonical());
        let (own, app) = (own.clone(), app.clone());
        let answer = tower::service_fn(move |request: Request<Incoming>| {
            let (own, app) = (own.clone(), app.clone());
            async move {
                if let Some(app) = &app
                    && let Some((status, said)) = app.make(&request, local).await
                {
                    return Ok(pages::page(status, "text/plain; charset=utf-8", said));
                }
                own.oneshot(request).await.map_err(BoxError::from)
            }
        });
        let stack = ServiceBuilder::new().map_err(|error: BoxError| std::io::Error::other(error)).timeout(limit).service(answer);
        drop(tokio::spawn(connection(stream, BoxCloneSyncService::new(stack))));
    }
}

async fn serve_unix(listener: UnixListener, stack: Stack) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(stream, stack.clone()))),
            Err(error) => pause(&error).await,
        }
    }
}

async fn pause(error: &std::io::Error) {
    tracing::debug!(%error, "admin cannot accept");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, stack: Stack) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(stack));
    if let Err(error) = served.await {
        tracing::debug!(%error, "admin connection ended");
    }
}
