//! A thousand tunnels through one weir, and a thousand configurations while they are open.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use weir_tests::echo::{self, Echo};
use weir_tests::raw::Connection;
use weir_tests::{Result, Trial, Weir, allow_files, holds, same, soak, test_alone, until};

use super::post;

pub(super) fn trials() -> Vec<Trial> {
    vec![test_alone("control::tunnels::a_thousand_survive_the_swaps", a_thousand_survive_the_swaps)]
}

/// Half of them upgrades, half opaque TCP.
const TUNNELS: usize = 1000;
/// So many have a line half sent when a configuration changes. They take turns.
const CAUGHT: usize = 50;
/// So many of each kind never pause.
const BUSY: usize = 2;

/// One of the configurations. The clusters of one are unknown to the next, so tunnels outlive what they were opened to.
fn numbered(number: usize, web: SocketAddr, db: SocketAddr) -> String {
    let turn = number % 2;
    format!(
        "admin: {{ listen: 127.0.0.1:0 }}
workers: 2
listeners:
  - {{ name: out, listen: 127.0.0.1:0, direction: outbound }}
  - {{ name: db, listen: 127.0.0.1:0, direction: outbound, protocol: tcp, cluster: db{turn} }}
routes:
  - name: all
    hosts: ['*']
    rules: [{{ name: r{number}, backends: [{{ cluster: web{turn} }}] }}]
clusters:
  web{turn}: {{ endpoints: ['{web}'] }}
  db{turn}: {{ endpoints: ['{db}'] }}
"
    )
}

/// A line comes back as it was sent, and soon.
async fn returned(tunnel: &mut Connection, line: &str) -> Result {
    let read = tokio::time::timeout(Duration::from_secs(10), tunnel.line()).await.map_err(|_| format!("no {line:?}"))?;
    same!(read?, line);
    Ok(())
}

/// Sends and awaits lines until it is told to stop; how many.
async fn chatter(mut tunnel: Connection, stop: Arc<AtomicBool>) -> Result<usize> {
    let mut lines = 0;
    while !stop.load(Ordering::Relaxed) {
        let line = format!("line {lines}\n");
        tunnel.send(&line).await?;
        returned(&mut tunnel, &line).await?;
        lines += 1;
    }
    Ok(lines)
}

async fn a_thousand_survive_the_swaps() -> Result {
    // Both ends of every tunnel are in this process.
    allow_files(2 * TUNNELS + 200)?;
    let swaps = if soak() { 1000 } else { 100 };
    let (web, db) = (Echo::upgraded().await?, Echo::opaque().await?);
    let weir = Weir::start(&numbered(0, web.address, db.address)).await?;
    let mut tunnels = Vec::new();
    for _ in 0..TUNNELS / 2 {
        tunnels.push(echo::upgrade(weir.address("out")).await?);
        tunnels.push(Connection::open(weir.address("db")).await?);
    }
    for (place, tunnel) in tunnels.iter_mut().enumerate() {
        let line = format!("first of {place}\n");
        tunnel.send(&line).await?;
        returned(tunnel, &line).await?;
    }
    same!(weir.metric("weir_requests_active", "").await?, TUNNELS as f64 / 2.0);
    let stop = Arc::<AtomicBool>::default();
    let busy: Vec<_> = tunnels.drain(..2 * BUSY).map(|tunnel| tokio::spawn(chatter(tunnel, Arc::clone(&stop)))).collect();

    let first = weir.generation().await?;
    for swap in 1..=swaps {
        let caught: Vec<usize> = (0..CAUGHT).map(|next| (swap * CAUGHT + next) % tunnels.len()).collect();
        for place in &caught {
            tunnels[*place].send(format!("{place} begun before {swap}")).await?;
        }
        weir.write(&numbered(swap, web.address, db.address))?;
        // The file's own events settle for a while first; whoever asks is served at once.
        same!(post(&weir, "/reload").await?.status, 202);
        let wanted = first + swap as u64;
        until("the new configuration serves", async || weir.generation().await.is_ok_and(|now| now >= wanted)).await?;
        for place in &caught {
            tunnels[*place].send(", ended after\n").await?;
            returned(&mut tunnels[*place], &format!("{place} begun before {swap}, ended after\n")).await?;
        }
    }
    same!(weir.generation().await? - first, swaps as u64, "each was a configuration of its own");

    for (place, tunnel) in tunnels.iter_mut().enumerate() {
        let line = format!("last of {place}\n");
        tunnel.send(&line).await?;
        returned(tunnel, &line).await?;
    }
    stop.store(true, Ordering::Relaxed);
    for tunnel in busy {
        let lines = tunnel.await??;
        holds!(lines > swaps, "{lines} lines");
    }
    // Those that are new get what serves now.
    let mut late = [echo::upgrade(weir.address("out")).await?, Connection::open(weir.address("db")).await?];
    for tunnel in &mut late {
        tunnel.send("late\n").await?;
        returned(tunnel, "late\n").await?;
    }
    drop((tunnels, late));
    weir.counted("weir_requests_active", "", 0.0).await?;
    weir.counted("weir_downstream_protocols_total", "protocol=\"tcp\"", TUNNELS as f64 / 2.0 + 1.0).await?;
    weir.counted("weir_downstream_connections_active", "db", 0.0).await
}
