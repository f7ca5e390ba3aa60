//! Moves bodies into HTTP/2 streams, on both sides of weir, and says how much may be under way.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body;

use super::body::BodyError;

/// What one stream may have under way. Bounds the memory of a slow reader; 256 KiB a millisecond is 2 Gbit/s.
pub const STREAM_WINDOW: u32 = 256 << 10;
/// What one connection may have under way. Well above the stream's, and above the point where h2 mistakes small gRPC
/// messages for a flood of DATA frames.
pub const CONNECTION_WINDOW: u32 = 4 << 20;
/// The largest list of header fields of a response, as counted by HTTP/2.
pub const MAX_HEADER_LIST: u32 = 128 << 10;
/// What a stream may queue for sending.
pub const SEND_BUFFER: usize = 128 << 10;
/// Moves a body into an HTTP/2 stream, as fast as the peer's window allows and no faster: the next frame is asked for
/// only when the one before is on its way.
pub async fn pump<B>(mut body: B, mut send: SendStream<Bytes>)
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    loop {
        let frame = poll_fn(|cx| {
            if send.poll_reset(cx).is_ready() {
                return Poll::Ready(None);
            }
            Pin::new(&mut body).poll_frame(cx).map(Some)
        })
        .await;
        let done = match frame {
            // The peer wants no more of it.
            None => true,
            Some(None) => {
                let _ = send.send_data(Bytes::new(), true);
                true
            }
            Some(Some(Err(error))) => {
                send.send_reset(reason(&error));
                true
            }
            Some(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    let last = body.is_end_stream();
                    send_data(&mut send, data, last).await.is_err() || last
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        let _ = send.send_trailers(trailers);
                    }
                    true
                }
            },
        };
        if done {
            return;
        }
    }
}

async fn send_data(send: &mut SendStream<Bytes>, mut data: Bytes, last: bool) -> Result<(), ()> {
    if data.is_empty() {
        return if last { send.send_data(data, true).map_err(|_| ()) } else { Ok(()) };
    }
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        let mut room = send.capacity();
        if room == 0 {
            room = match poll_fn(|cx| send.poll_capacity(cx)).await {
                Some(Ok(room)) => room,
                Some(Err(_)) | None => return Err(()),
            };
        }
        let part = data.split_to(room.min(data.len()));
        let ends = last && data.is_empty();
        send.send_data(part, ends).map_err(|_| ())?;
    }
    Ok(())
}

/// What the other side is told when a body breaks off.
fn reason(error: &BodyError) -> Reason {
    match error {
        BodyError::H2(error) => error.reason().unwrap_or(Reason::CANCEL),
        BodyError::H1(_) => Reason::INTERNAL_ERROR,
    }
}
