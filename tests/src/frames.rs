//! HTTP/2 by hand, frame for frame (RFC 9113), for what no library would send.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::Instant;

use crate::Result;

/// DATA.
pub const DATA: u8 = 0;
/// HEADERS.
pub const HEADERS: u8 = 1;
/// RST_STREAM.
pub const RST_STREAM: u8 = 3;
/// SETTINGS.
pub const SETTINGS: u8 = 4;
/// PING.
pub const PING: u8 = 6;
/// GOAWAY.
pub const GOAWAY: u8 = 7;
/// WINDOW_UPDATE.
pub const WINDOW_UPDATE: u8 = 8;
/// CONTINUATION.
pub const CONTINUATION: u8 = 9;

/// The flag of the last frame of a stream.
pub const END_STREAM: u8 = 1;
/// The flag of the last frame of a header block.
pub const END_HEADERS: u8 = 4;
/// The error code that says that a peer makes too much work.
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// The header block of `GET /` at the host `a`: three entries of the static table and one literal.
pub const GET: &[u8] = &[0x82, 0x84, 0x86, 0x01, 1, b'a'];
/// The header block of `POST /` at the host `a`.
pub const POST: &[u8] = &[0x83, 0x84, 0x86, 0x01, 1, b'a'];

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame's length").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A field that is in no table and comes to none, its strings as they are. Both are shorter than 127 bytes.
pub fn field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let length = |text: &[u8]| u8::try_from(text.len()).ok().filter(|length| *length < 127).expect("a short string");
    [&[0, length(name)], name, &[length(value)], value].concat()
}

/// What a peer made of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A response, with the header block of its head.
    Response(Vec<u8>),
    /// The stream was reset with this code.
    Reset(u32),
    /// GOAWAY with this code, which is not zero.
    Goaway(u32),
    /// The connection was closed without a word.
    Closed,
}

/// Opens a connection, sends these frames, and waits for the first verdict.
///
/// # Errors
/// There is none within five seconds.
pub async fn ask(address: SocketAddr, frames: &[u8]) -> Result<Verdict> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, &[])[..], frames].concat()).await?;
    let (mut reader, _writer) = stream.into_split();
    let verdict = async {
        while let Some((kind, payload)) = next(&mut reader).await {
            match (kind, payload.len()) {
                (HEADERS, _) => return Verdict::Response(payload),
                (RST_STREAM, 4) => return Verdict::Reset(code(&payload)),
                (GOAWAY, 8..) if code(&payload[4..]) != 0 => return Verdict::Goaway(code(&payload[4..])),
                _ => {}
            }
        }
        Verdict::Closed
    };
    Ok(tokio::time::timeout(Duration::from_secs(5), verdict).await?)
}

/// The kind and the payload of the next frame.
async fn next(reader: &mut OwnedReadHalf) -> Option<(u8, Vec<u8>)> {
    let mut header = [0; 9];
    reader.read_exact(&mut header).await.ok()?;
    let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
    let mut payload = vec![0; usize::try_from(length).ok()?];
    reader.read_exact(&mut payload).await.ok()?;
    Some((header[3], payload))
}

fn code(payload: &[u8]) -> u32 {
    payload[..4].iter().fold(0, |code, byte| code << 8 | u32::from(*byte))
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// The error code of the last GOAWAY, if there was one.
    pub goaway: Option<u32>,
    /// Whether the connection was closed; else it outlived the limit.
    pub closed: bool,
}

/// Opens a connection, says hello, and sends what `more` gives until the peer says GOAWAY or closes, or the time is up.
///
/// # Errors
/// No connection opens.
pub async fn flood(address: SocketAddr, more: impl FnMut() -> Vec<u8> + Send, limit: Duration) -> Result<End> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (reader, mut writer) = stream.into_split();
    writer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await?;
    writer.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    let deadline = Instant::now() + limit;
    let told = tokio::spawn(async move { tokio::time::timeout_at(deadline, until_ended(reader)).await });
    write_until(writer, more, deadline, || told.is_finished()).await;
    Ok(told.await?.unwrap_or(End { goaway: None, closed: false }))
}

async fn write_until(mut writer: OwnedWriteHalf, mut more: impl FnMut() -> Vec<u8>, deadline: Instant, ended: impl Fn() -> bool) {
    while !ended() {
        match tokio::time::timeout_at(deadline, writer.write_all(&more())).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// Reads until GOAWAY or the end.
async fn until_ended(mut reader: OwnedReadHalf) -> End {
    while let Some((kind, payload)) = next(&mut reader).await {
        if kind == GOAWAY && payload.len() >= 8 {
            return End { goaway: Some(code(&payload[4..])), closed: true };
        }
    }
    End { goaway: None, closed: true }
}
