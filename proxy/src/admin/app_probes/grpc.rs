//! `grpc.health.v1.Health/Check`, of an app.

use std::pin::pin;

use anyhow::{Context, bail, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{HeaderMap, HeaderValue};
use http::{Request, StatusCode};
use prost::Message;
use tokio::net::TcpStream;

use super::MAX_SAID;

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, Message)]
struct HealthResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: i32 = 1;

pub(super) async fn ask(stream: TcpStream, service: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    let (client, connection) = h2::client::handshake(stream).await.context("it does not speak HTTP/2")?;
    let mut asked = pin!(check(client, service));
    tokio::select! {
        biased;
        told = &mut asked => told,
        // The answer may have come with the end.
        _ = connection => asked.await,
    }
}

async fn check(client: h2::client::SendRequest<Bytes>, service: &str) -> anyhow::Result<(StatusCode, Bytes)> {
    let request = Request::post("http://localhost/grpc.health.v1.Health/Check")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let message = HealthRequest { service: service.to_owned() }.encode_to_vec();
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len())?);
    framed.put_slice(&message);
    let mut client = client.ready().await?;
    let (response, mut sent) = client.send_request(request, false)?;
    sent.send_data(framed.freeze(), true)?;
    let response = response.await?;
    let refused = |headers: &HeaderMap| match headers.get("grpc-status").map(HeaderValue::as_bytes) {
        None | Some(b"0") => None,
        Some(code) => Some(format!(
            "gRPC status {}: {}",
            String::from_utf8_lossy(code),
            headers.get("grpc-message").map_or_else(String::new, |said| String::from_utf8_lossy(said.as_bytes()).into_owned())
        )),
    };
    if let Some(why) = refused(response.headers()) {
        bail!("{why}");
    }
    ensure!(response.status() == StatusCode::OK, "it answers {} to a gRPC call", response.status());
    let mut body = response.into_body();
    let mut said = BytesMut::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        said.extend_from_slice(&piece);
        ensure!(said.len() <= MAX_SAID, "its answer is too long for one about health");
    }
    if let Some(why) = body.trailers().await?.and_then(|trailers| refused(&trailers)) {
        bail!("{why}");
    }
    let message = said.get(5..).context("its answer is empty")?;
    match HealthResponse::decode(message)?.status {
        SERVING => Ok((StatusCode::OK, Bytes::from_static(b"serving\n"))),
        status => Ok((StatusCode::SERVICE_UNAVAILABLE, Bytes::from(format!("the app says that it does not serve ({status})\n")))),
    }
}
