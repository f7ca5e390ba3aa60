//! `weir webhook`: the mutating admission webhook, which gives pods their sidecar as they are made. What a pod gets is decided
//! by `weir_deploy::inject::review`; here it is asked over HTTPS, and answered.
//!
//! It holds no state and asks nobody: any number of replicas answer alike. Its certificate is that of files, which somebody else
//! renews, or its own ([`certificate`]).

mod api;
pub mod certificate;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use weir_config::schema::TlsVersion;
use weir_config::snapshot::EdgeTls;
use weir_deploy::inject::Settings;
use weir_deploy::inject::review;

use crate::lifecycle::{Ask, Signals};
use crate::listen::sockets::bind;
use crate::tls::outside::{Loaded, Outside};

/// The largest question: etcd takes no larger object, and it comes with an old one and a little more.
const MAX_BODY: usize = 8 << 20;
/// Connections at a time; more wait in the kernel.
const CONNECTIONS: usize = 256;
/// A handshake, a head, and a body take no longer than this each.
const LIMIT: Duration = Duration::from_secs(10);
/// Connections begin anew after this long: who holds on to places does so for no longer.
const LONGEST: Duration = Duration::from_secs(120);
/// A caller that has just connected is not idle.
const FRESH: Duration = Duration::from_secs(1);
/// How long it serves after SIGTERM: the API server calls it by a service, of which it hears late.
const STAY: Duration = Duration::from_secs(5);
/// How long what is in flight then may take.
const FINISH: Duration = Duration::from_secs(10);

/// Whose certificate it shows.
pub enum Certificate {
    /// That of files.
    Files {
        /// The chain.
        cert: PathBuf,
        /// Its key.
        key: PathBuf,
    },
    /// Its own.
    Own(Box<certificate::Own>),
}

/// The certificate in force.
enum InForce {
    Files(Arc<Outside>, EdgeTls),
    Own(Arc<ArcSwapOption<ServerConfig>>),
}

impl InForce {
    fn config(&self) -> Option<Arc<ServerConfig>> {
        match self {
            Self::Files(outside, edge) => outside.edge(edge),
            Self::Own(config) => config.load_full(),
        }
    }
}

/// Serves until it is told to leave.
///
/// # Errors
/// The certificate or the address cannot be used.
pub async fn serve(listen: SocketAddr, certificate: Certificate, settings: Settings) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let in_force = match certificate {
        Certificate::Files { cert, key } => {
            let edge = EdgeTls { cert, key, min_version: TlsVersion::Tls12 };
            let outside = Arc::<Outside>::default();
            outside.commit(Loaded::of_edge(&edge)?);
            let followed = Arc::clone(&outside);
            tokio::spawn(async move { followed.follow().await });
            InForce::Files(outside, edge)
        }
        Certificate::Own(own) => {
            let config = Arc::<ArcSwapOption<ServerConfig>>::default();
            tokio::spawn(own.keep(Arc::clone(&config)));
            InForce::Own(config)
        }
    };
    let socket = bind(listen, false, 1).with_context(|| format!("cannot listen on {listen}"))?.remove(0);
    let listener = TcpListener::from_std(socket)?;
    tracing::info!(address = %listener.local_addr()?, "webhook listening");
    let webhook = Arc::new(Webhook { settings, leaving: AtomicBool::new(false) });
    let (free, mut connections) = (Arc::new(Semaphore::new(CONNECTIONS)), JoinSet::new());
    let mut leave_at = None;
    loop {
        let accept = async {
            let place = Arc::clone(&free).acquire_owned().await.map_err(std::io::Error::other)?;
            listener.accept().await.map(|(stream, _)| (stream, place))
        };
        let over = async {
            match leave_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let accepted = tokio::select! {
            asked = signals.next() => match (asked, leave_at) {
                (Ask::Terminate, None) => {
                    webhook.leaving.store(true, Ordering::Release);
                    leave_at = Some(tokio::time::Instant::now() + STAY);
                    tracing::info!("leaving: not ready any more, and answering for a while");
                    continue;
                }
                (Ask::Reload, _) => continue,
                _ => break,
            },
            () = over => break,
            accepted = accept => accepted,
        };
        while connections.try_join_next().is_some() {}
        let (stream, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::error!(%error, "cannot accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Without a certificate there is nothing to say yet.
        let Some(config) = in_force.config() else { continue };
        let webhook = Arc::clone(&webhook);
        connections.spawn(async move {
            if let Err(error) = Box::pin(converse(stream, config, webhook)).await {
                tracing::debug!(error = format!("{error:#}"), "a connection broke");
            }
            drop(place);
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(FINISH, async { while connections.join_next().await.is_some() {} }).await;
    Ok(())
}

struct Webhook {
    settings: Settings,
    leaving: AtomicBool,
}

async fn converse(stream: TcpStream, config: Arc<ServerConfig>, webhook: Arc<Webhook>) -> anyhow::Result<()> {
    let stream = tokio::time::timeout(LIMIT, TlsAcceptor::from(config).accept(stream)).await.context("a slow handshake")??;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let leaving = Arc::clone(&webhook);
    let service = service_fn(move |request| {
        let webhook = Arc::clone(&webhook);
        async move { Ok::<_, std::convert::Infallible>(webhook.answer(request).await) }
    });
    let io = TokioIo::new(stream);
    // A connection that is kept alive would keep the webhook from leaving.
    let left = async {
        let now = tokio::time::Instant::now;
        // Whoever has just come may ask once.
        let (fresh, until) = (now() + FRESH, now() + LONGEST);
        while now() < until && (now() < fresh || !leaving.leaving.load(Ordering::Acquire)) {
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    if is_http2 {
        let mut connection = std::pin::pin!(
            http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(64)
                .keep_alive_interval(LIMIT)
                .keep_alive_timeout(LIMIT)
                .serve_connection(io, service)
        );
        tokio::select! {
            served = connection.as_mut() => return Ok(served?),
            () = left => connection.as_mut().graceful_shutdown(),
        }
        return Ok(tokio::time::timeout(FINISH, connection).await??);
    }
    let mut connection =
        std::pin::pin!(http1::Builder::new().timer(TokioTimer::new()).header_read_timeout(LIMIT).serve_connection(io, service));
    tokio::select! {
        served = connection.as_mut() => return Ok(served?),
        () = left => connection.as_mut().graceful_shutdown(),
    }
    Ok(tokio::time::timeout(FINISH, connection).await??)
}

type Page = Response<Full<Bytes>>;

impl Webhook {
    async fn answer(&self, request: Request<Incoming>) -> Page {
        match (request.uri().path(), request.method()) {
            ("/ready", &Method::GET) if self.leaving.load(Ordering::Acquire) => text(StatusCode::SERVICE_UNAVAILABLE, "leaving"),
            ("/ready", &Method::GET) => text(StatusCode::OK, "ready"),
            ("/inject", &Method::POST) => self.review(request.into_body()).await,
            ("/inject", _) => {
                let mut page = text(StatusCode::METHOD_NOT_ALLOWED, "the API server posts an AdmissionReview here");
                page.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
                page
            }
            _ => text(StatusCode::NOT_FOUND, "reviews are answered at /inject"),
        }
    }

    async fn review(&self, body: Incoming) -> Page {
        let too_large =
            || text(StatusCode::PAYLOAD_TOO_LARGE, &format!("more than {} MiB is no review of a pod", MAX_BODY >> 20));
        // Before any of it is sent, where the caller asks first.
        if body.size_hint().lower() > MAX_BODY as u64 {
            return too_large();
        }
        let read = tokio::time::timeout(LIMIT, Limited::new(body, MAX_BODY).collect());
        let body = match read.await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => return too_large(),
            Ok(Err(error)) => return text(StatusCode::BAD_REQUEST, &format!("the body broke off: {error}")),
            Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the body does not come"),
        };
        match review::answer(&body, &self.settings) {
            Ok(answer) => {
                match answer.refused {
                    true => tracing::warn!("{}", answer.told),
                    false => tracing::info!("{}", answer.told),
                }
                let mut page = Response::new(Full::new(Bytes::from(answer.review.to_string())));
                page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                page
            }
            Err(why) => {
                tracing::warn!(%why, "no question");
                text(StatusCode::BAD_REQUEST, &why.to_string())
            }
        }
    }
}

fn text(status: StatusCode, said: &str) -> Page {
    let mut page = Response::new(Full::new(Bytes::from(format!("{said}\n"))));
    *page.status_mut() = status;
    page.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    page
}
