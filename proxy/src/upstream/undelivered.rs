//! What the kernel knows of bytes that a closed connection did not take: whether the peer's kernel has refused them all.
//!
//! An app that leaves closes its idle connections, and a request may cross that. Whether it has come to the app decides whether
//! it may be sent to another one. A peer that closes what it has read acknowledges that with its end; what comes after its end
//! is answered by a reset and never read. A reset alone proves nothing: what waits in the peer's kernel, or was read a moment
//! ago, need not have been acknowledged yet. What breaks if this is changed carelessly: requests that are executed twice.

use tokio::net::TcpStream;

use crate::socket::{CLOSED, info};

/// Whether all of the last `written` bytes, of `total` that were written, came behind the end of the peer, on a connection that
/// was opened from here and whose end has been read: behind the end a reset has come. `false` where that is not known.
pub(super) fn is_undelivered(socket: &TcpStream, total: u64, written: u64) -> bool {
    // The SYN is acknowledged as one byte. What was written before `total` counts makes this `false` more often, not less.
    let is_short_of = |acked: u64| acked.saturating_sub(1) + written <= total;
    written > 0 && info(socket).is_some_and(|info| info.tcpi_state == CLOSED && is_short_of(info.tcpi_bytes_acked))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use socket2::SockRef;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (here, listener.accept().await.unwrap().0)
    }

    /// One exchange, as on a connection that is used again.
    async fn exchanged() -> (TcpStream, TcpStream) {
        let (mut here, mut there) = pair().await;
        here.write_all(b"first").await.unwrap();
        there.read_exact(&mut [0; 5]).await.unwrap();
        there.write_all(b"answer").await.unwrap();
        here.read_exact(&mut [0; 6]).await.unwrap();
        (here, there)
    }

    /// Reads to the end, and judges as who forwards requests does: what was reset without an end is not looked at. All that was
    /// written are the five bytes of the first exchange and `written` more.
    async fn judged(here: &mut TcpStream, written: u64) -> bool {
        if here.read_to_end(&mut Vec::new()).await.is_err() {
            return false;
        }
        // On a busy machine the reset takes its time.
        for _ in 0..1000 {
            if info(here).is_some_and(|info| info.tcpi_state == CLOSED) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        is_undelivered(here, 5 + written, written)
    }

    #[tokio::test]
    async fn what_crosses_the_end_is_not_delivered() {
        for length in [1, 300, 20_000] {
            let (mut here, there) = exchanged().await;
            drop(there);
            here.write_all(&vec![b'x'; length]).await.unwrap();
            let length = length as u64;
            assert!(judged(&mut here, length).await, "{length}");
            assert!(!is_undelivered(&here, 5 + length, length + 1), "{length}: more than was sent");
            assert!(!is_undelivered(&here, 5 + length, 0));
        }
    }

    /// What has come to a peer that then goes, in each of the ways in which it may.
    #[tokio::test]
    async fn what_may_have_been_read_is_not_called_undelivered() {
        // Read, and ended in order. The connection stays as it is until this side has closed too.
        let (mut here, mut there) = exchanged().await;
        here.write_all(b"second").await.unwrap();
        there.read_exact(&mut [0; 6]).await.unwrap();
        drop(there);
        assert_eq!(here.read_to_end(&mut Vec::new()).await.unwrap(), 0);
        assert!(!is_undelivered(&here, 11, 6));
        // In the peer's kernel, which resets: an app may have looked at it.
        let (mut here, there) = exchanged().await;
        here.write_all(b"second").await.unwrap();
        there.readable().await.unwrap();
        drop(there);
        assert!(!judged(&mut here, 6).await);
        // Read, and reset all the same.
        let (mut here, mut there) = exchanged().await;
        here.write_all(b"second").await.unwrap();
        there.read_exact(&mut [0; 6]).await.unwrap();
        SockRef::from(&there).set_linger(Some(Duration::ZERO)).unwrap();
        drop(there);
        assert!(!judged(&mut here, 6).await);
        // The first part was read, and the rest crossed the end.
        let (mut here, mut there) = exchanged().await;
        here.write_all(b"first").await.unwrap();
        there.read_exact(&mut [0; 5]).await.unwrap();
        drop(there);
        here.write_all(b"second").await.unwrap();
        assert!(!judged(&mut here, 11).await);
        assert!(is_undelivered(&here, 16, 6));
        // It goes on.
        let (mut here, _there) = exchanged().await;
        here.write_all(b"second").await.unwrap();
        assert!(!is_undelivered(&here, 11, 6));
    }
}
