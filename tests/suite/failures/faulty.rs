//! An HTTP/1 origin that fails as the path asks it to.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;
use weir_tests::Result;
use weir_tests::script::{Peer, Script};

pub(super) struct Faulty {
    pub(super) address: SocketAddr,
    /// Heads of requests that arrived.
    heads: Arc<AtomicUsize>,
    cut: Arc<Notify>,
    task: tokio::task::JoinHandle<()>,
}

impl Faulty {
    pub(super) async fn start() -> Result<Self> {
        let script = Script::listen().await?;
        let address = script.address;
        let (heads, cut) = (Arc::<AtomicUsize>::default(), Arc::<Notify>::default());
        let (seen, told) = (Arc::clone(&heads), Arc::clone(&cut));
        let task = tokio::spawn(async move {
            loop {
                // None for a while is no reason to end.
                let Ok(peer) = script.accept().await else { continue };
                tokio::spawn(serve(peer, Arc::clone(&seen), Arc::clone(&told)));
            }
        });
        Ok(Self { address, heads, cut, task })
    }

    pub(super) fn count(&self) -> usize {
        self.heads.load(Ordering::Relaxed)
    }

    /// Lets the response that has begun fail: its caller has seen the beginning.
    pub(super) fn cut(&self) {
        self.cut.notify_one();
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut peer: Peer, seen: Arc<AtomicUsize>, cut: Arc<Notify>) -> Result {
    let head = peer.head().await?;
    seen.fetch_add(1, Ordering::Relaxed);
    let path = head.split(' ').nth(1).unwrap_or_default();
    match path {
        "/upstream_closed" => {}
        "/upstream_reset" | "/retry_limit" => peer.reset()?,
        "/upstream_protocol" => peer.send("SSH-2.0-OpenSSH_9.2\r\n\r\n").await?,
        "/large_head" => {
            let fields: String = (0..101).map(|number| format!("x-{number}: y\r\n")).collect();
            peer.send(format!("HTTP/1.1 200 OK\r\n{fields}content-length: 0\r\n\r\n")).await?;
            peer.ended().await?;
        }
        "/cut/bad_chunk" | "/cut/upstream_closed" | "/cut/upstream_reset" | "/cut/upstream_protocol" | "/cut/request_timeout" => {
            let kind = if head.contains("application/grpc") { "content-type: application/grpc\r\n" } else { "" };
            peer.send(format!("HTTP/1.1 200 OK\r\n{kind}transfer-encoding: chunked\r\n\r\n4\r\npart\r\n")).await?;
            if path == "/cut/request_timeout" || path == "/cut/bad_chunk" {
                peer.ended().await?;
                return Ok(());
            }
            cut.notified().await;
            match path {
                "/cut/upstream_reset" => peer.reset()?,
                "/cut/upstream_protocol" => peer.send("no chunk\r\n").await?,
                _ => {}
            }
        }
        // Everything else waits for what never comes.
        _ => drop(peer.ended().await?),
    }
    Ok(())
}
