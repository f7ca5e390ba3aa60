//! Where requests end: nginx for answers, and small servers of our own for what nginx does not do: a sink that reads a body
//! to its end before it answers, gRPC with trailers, and TCP.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::contestant::{Shape, free_port, which};
use crate::load::probe;
use crate::process::{Cores, Place, Process};

/// A body of middling size.
pub const TEN_KIB: usize = 10 * 1024;
/// A large body.
pub const ONE_MIB: usize = 1024 * 1024;

/// nginx's configuration.
pub const CONFIG: &str = include_str!("../configs/origin/nginx.conf");

/// What serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// nginx: answers of all sizes, HTTP/1.1 and HTTP/2.
    Answers,
    /// Reads bodies to their end, then answers. HTTP/1.1.
    Sink,
    /// Small answers over HTTP/2, for less CPU than nginx takes: where the origin is the slower half, a proxy waits.
    Streams,
    /// gRPC: an answer with trailers. HTTP/2.
    Grpc,
    /// Reads and forgets (one port), or sends everything back.
    Bytes {
        /// Whether it sends back what it read.
        echo: bool,
    },
}

/// The ports of an origin.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    http1: u16,
    http2: u16,
}

impl Ports {
    /// The one that speaks what a caller of this shape does.
    pub fn direct(self, shape: Shape) -> u16 {
        if matches!(shape, Shape::H2H1 | Shape::H2H2) { self.http2 } else { self.http1 }
    }

    /// The one that a proxy of this shape sends to.
    pub fn of(self, shape: Shape) -> u16 {
        if matches!(shape, Shape::H1H2 | Shape::H2H2) { self.http2 } else { self.http1 }
    }
}

/// An origin that runs. Ends with the value.
pub struct Origin {
    /// Where.
    pub ports: Ports,
    _nginx: Option<Process>,
}

impl Origin {
    /// Starts one, with its files in `dir`.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(role: Role, cores: &Cores, dir: &Path) -> Result<Self> {
        if role == Role::Answers {
            return nginx(cores, dir);
        }
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        // A thread for as long as the program runs: it takes nothing when nobody asks.
        std::thread::Builder::new().name("origin".to_owned()).spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
            tokio::task::LocalSet::new().block_on(&runtime, serve(role, listener));
        })?;
        Ok(Self { ports: Ports { http1: port, http2: port }, _nginx: None })
    }
}

fn nginx(cores: &Cores, dir: &Path) -> Result<Origin> {
    let program = which("nginx").context("nginx is the origin, and is not installed; try `weir-bench install`")?;
    let files = dir.join("files");
    std::fs::create_dir_all(&files)?;
    std::fs::write(files.join("10k"), vec![b'x'; TEN_KIB])?;
    std::fs::write(files.join("1m"), vec![b'x'; ONE_MIB])?;
    let ports = Ports { http1: free_port()?, http2: free_port()? };
    let text = CONFIG
        .replace("@DIR@", &dir.display().to_string())
        .replace("@ORIGIN@", &ports.http1.to_string())
        .replace("@ORIGIN2@", &ports.http2.to_string());
    let config = dir.join("origin.conf");
    std::fs::write(&config, text)?;
    let mut command = Command::new(program);
    command.arg("-c").arg(&config).arg("-e").arg(dir.join("origin.log"));
    let mut process = Process::start("origin", &mut command, cores, Place::Rest, dir)?;
    let until = Instant::now() + Duration::from_secs(10);
    while !probe::answers(ports.http1, Shape::H1H1) {
        process.check().with_context(|| std::fs::read_to_string(dir.join("origin.log")).unwrap_or_default())?;
        if Instant::now() > until {
            bail!("the origin does not answer");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(Origin { ports, _nginx: Some(process) })
}

async fn serve(role: Role, listener: std::net::TcpListener) {
    let Ok(listener) = TcpListener::from_std(listener) else { return };
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        tokio::task::spawn_local(async move {
            // A connection that breaks is the load's to count.
            let _ = match role {
                Role::Sink => sink(stream).await,
                Role::Streams => streams(stream).await,
                Role::Grpc => grpc(stream).await,
                Role::Bytes { echo } => raw(stream, echo).await,
                Role::Answers => Ok(()),
            };
        });
    }
}

/// HTTP/1.1 requests with a length, one after the other.
async fn sink(mut stream: TcpStream) -> Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    let mut filled = 0;
    loop {
        let head = loop {
            let mut headers = [httparse::EMPTY_HEADER; 64];
            let mut request = httparse::Request::new(&mut headers);
            if let httparse::Status::Complete(end) = request.parse(&buffer[..filled])? {
                let length = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
                let length = length
                    .map_or(Ok(0), |header| std::str::from_utf8(header.value)?.parse::<usize>().map_err(anyhow::Error::from))?;
                break (end, length);
            }
            match stream.read(&mut buffer[filled..]).await? {
                0 => return Ok(()),
                read => filled += read,
            }
        };
        let (end, length) = head;
        let mut left = (end + length).saturating_sub(filled);
        // One request at a time: what follows the body is the next one's only after the answer.
        filled = 0;
        while left > 0 {
            match stream.read(&mut buffer).await? {
                0 => return Ok(()),
                read => left = left.saturating_sub(read),
            }
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
    }
}

async fn raw(mut stream: TcpStream, echo: bool) -> Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        if echo {
            stream.write_all(&buffer[..read]).await?;
        }
    }
}

/// What nginx would answer.
const SMALL: &[u8] = b"This body has a hundred bytes, which is about what one small JSON answer of one service is. Enough.\n";

fn h2_server() -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder.max_concurrent_streams(1024).initial_window_size(1 << 20).initial_connection_window_size(1 << 24);
    builder
}

/// A small answer to each request, whatever it is.
async fn streams(stream: TcpStream) -> Result<()> {
    let mut connection = h2_server().handshake(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (_, mut respond) = accepted?;
        let mut head = Response::new(());
        let headers = head.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("text/plain"));
        headers.insert("content-length", HeaderValue::from(SMALL.len()));
        if let Ok(mut body) = respond.send_response(head, false) {
            let _ = body.send_data(Bytes::from_static(SMALL), true);
        }
    }
    Ok(())
}

/// One message back for each call, and the status in the trailers.
async fn grpc(stream: TcpStream) -> Result<()> {
    let mut connection = h2_server().handshake(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (mut request, mut respond) = accepted?;
        tokio::task::spawn_local(async move {
            while let Some(Ok(data)) = request.body_mut().data().await {
                let _ = request.body_mut().flow_control().release_capacity(data.len());
            }
            let mut head = Response::new(());
            head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            let Ok(mut body) = respond.send_response(head, false) else { return };
            let _ = body.send_data(Bytes::from_static(&MESSAGE), false);
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            let _ = body.send_trailers(trailers);
        });
    }
    Ok(())
}

/// A gRPC message: not compressed, its length, 32 bytes.
pub const MESSAGE: [u8; 37] = {
    let mut message = [b'm'; 37];
    message[0] = 0;
    message[1] = 0;
    message[2] = 0;
    message[3] = 0;
    message[4] = 32;
    message
};
