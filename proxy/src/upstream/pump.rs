//! Moves bodies into HTTP/2 streams, on both sides of weir, and says how much may be under way.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use h2::{Reason, SendStream};

use super::body::BodyError;
use crate::clock::Paced;

/// What one stream may have under way at most. Bounds the memory of a slow reader; 256 KiB a millisecond is 2 Gbit/s.
const MAX_STREAM_WINDOW: u32 = 256 << 10;
/// What one stream may have under way at least: what it may before anything is said of windows (RFC 9113, section 6.9.2).
const MIN_STREAM_WINDOW: u32 = 64 << 10;
/// What the streams of a connection share, as far as that is possible: so much may be held for callers who do not read.
const SHARED: u32 = 32 << 20;
/// What one connection may have under way at least: above the point where h2 mistakes small gRPC messages for a flood of
/// DATA frames.
const MIN_CONNECTION_WINDOW: u32 = 4 << 20;
/// The largest window there is (RFC 9113, section 6.9.1).
const MAX_WINDOW: u32 = (1 << 31) - 1;

/// What may be under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// On one stream.
    pub stream: u32,
    /// On all streams of a connection.
    pub connection: u32,
}

impl Windows {
    /// For a connection of at most so many streams: whatever the others hold of what nobody reads, each has a window of its own.
    /// Who does not read is in nobody's way but his own.
    pub fn of(streams: u32) -> Self {
        let streams = streams.max(1);
        let stream = (SHARED / streams).clamp(MIN_STREAM_WINDOW, MAX_STREAM_WINDOW).min(MAX_WINDOW / streams);
        Self { stream, connection: stream.saturating_mul(streams).max(MIN_CONNECTION_WINDOW) }
    }
}

/// The largest list of header fields of a response, as counted by HTTP/2.
pub const MAX_HEADER_LIST: u32 = 128 << 10;
/// What a stream may queue for sending.
pub const SEND_BUFFER: usize = 128 << 10;

/// Moves a body into an HTTP/2 stream, as fast as the peer's window allows and no faster: the next frame is asked for
/// only when the one before is on its way.
pub async fn pump<B>(mut body: B, mut send: SendStream<Bytes>)
where
    B: Paced<Data = Bytes, Error = BodyError> + Unpin,
{
    let mut sent = 0;
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
                    match send_data(&mut send, data, last, &mut body, &mut sent).await {
                        Ok(()) => last,
                        Err(stalled) => {
                            if let Some(error) = stalled {
                                send.send_reset(reason(&error));
                            }
                            true
                        }
                    }
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

/// Sends a frame's bytes as the peer's window allows. Fails with the reason if it took too long, without one if the
/// stream is gone.
async fn send_data<B: Paced<Error = BodyError>>(
    send: &mut SendStream<Bytes>,
    mut data: Bytes,
    last: bool,
    body: &mut B,
    sent: &mut u64,
) -> Result<(), Option<BodyError>> {
    if data.is_empty() {
        return if last { send.send_data(data, true).map_err(|_| None) } else { Ok(()) };
    }
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        let mut room = send.capacity();
        if room == 0 {
            let capacity = poll_fn(|cx| match send.poll_capacity(cx) {
                Poll::Ready(capacity) => Poll::Ready(Ok(capacity)),
                Poll::Pending => body.poll_stalled(*sent, cx).map(Err),
            });
            room = match capacity.await {
                Ok(Some(Ok(room))) => room,
                Ok(Some(Err(_)) | None) => return Err(None),
                Err(error) => return Err(Some(error)),
            };
        }
        let part = data.split_to(room.min(data.len()));
        let ends = last && data.is_empty();
        *sent += part.len() as u64;
        send.send_data(part, ends).map_err(|_| None)?;
    }
    Ok(())
}

/// What the other side is told when a body breaks off.
fn reason(error: &BodyError) -> Reason {
    match error {
        BodyError::H2(error) => error.reason().unwrap_or(Reason::CANCEL),
        BodyError::H1(_) => Reason::INTERNAL_ERROR,
        BodyError::Cut(_) => Reason::CANCEL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_that_are_full_leave_one_its_window() {
        for streams in [0, 1, 2, 16, 17, 256, 1000, 32_767, 32_768, 100_000] {
            let Windows { stream, connection } = Windows::of(streams);
            assert!(u64::from(connection) >= u64::from(stream) * u64::from(streams), "{streams}");
            assert!(connection <= MAX_WINDOW && stream >= 16 << 10, "{streams}");
        }
        assert_eq!(Windows::of(128), Windows { stream: MAX_STREAM_WINDOW, connection: SHARED });
        assert_eq!(Windows::of(256), Windows { stream: 128 << 10, connection: SHARED });
        assert_eq!(Windows::of(1000), Windows { stream: MIN_STREAM_WINDOW, connection: 1000 * MIN_STREAM_WINDOW });
        assert_eq!(Windows::of(1).connection, MIN_CONNECTION_WINDOW);
    }
}
