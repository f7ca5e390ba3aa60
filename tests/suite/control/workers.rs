//! Worker threads: all of them work, and none works when there is nothing to do.

use std::collections::HashMap;
use std::time::Duration;

use weir_tests::load::Load;
use weir_tests::quick::Quick;
use weir_tests::weir::binary;
use weir_tests::{Result, Trial, Weir, holds, raw, same, test_alone};

use super::{run_for, version};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        test_alone("control::workers::connections_are_spread", connections_are_spread),
        test_alone("control::workers::idle_costs_nothing", idle_costs_nothing),
    ]
}

/// CPU time by thread name, in nanoseconds.
fn cpu(pid: u32) -> Result<HashMap<String, u64>> {
    let mut threads = HashMap::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let task = task?.path();
        let name = std::fs::read_to_string(task.join("comm"))?.trim().to_owned();
        let spent = std::fs::read_to_string(task.join("schedstat"))?;
        let spent: u64 = spent.split(' ').next().ok_or("no CPU time")?.parse()?;
        *threads.entry(name).or_default() += spent;
    }
    Ok(threads)
}

async fn connections_are_spread() -> Result {
    let origin = Quick::text("here").await?;
    let weir = Weir::start(&format!("workers: 2\n{}", version(1, origin.address))).await?;
    let before = cpu(weir.pid())?;
    for name in ["weir-worker-0", "weir-worker-1"] {
        holds!(before.contains_key(name), "no thread {name} in {before:?}");
    }
    // Opened one by one, as an app's pool does: the kernel's hash alone may put nearly all on one worker.
    let mut kept = Vec::new();
    for _ in 0..40 {
        let mut connection = raw::Connection::open(weir.address("out")).await?;
        connection.send("GET / HTTP/1.1\r\nhost: app\r\n\r\n").await?;
        same!(connection.response(false).await?.status, 200);
        kept.push(connection);
    }
    for _ in 0..25 {
        for connection in &mut kept {
            connection.send("GET / HTTP/1.1\r\nhost: app\r\n\r\n").await?;
        }
        for connection in &mut kept {
            same!(connection.response(false).await?.status, 200);
        }
    }
    let after = cpu(weir.pid())?;
    let spent = ["weir-worker-0", "weir-worker-1"].map(|name| after[name] - before[name]);
    let (less, more) = (spent[0].min(spent[1]), spent[0].max(spent[1]));
    holds!(less * 3 > more, "the workers spent {spent:?} ns: uneven");
    Load::new(weir.address("out"), 40).of(2000).start(|_, _| Ok(())).finished().await.faultless()?;
    same!(weir.metric("weir_workers", "").await?, 2.0);
    Ok(())
}

async fn idle_costs_nothing() -> Result {
    let origin = Quick::text("here").await?;
    let weir = Weir::start(&format!("workers: 2\n{}", version(1, origin.address))).await?;
    // Idle, but not untouched: connections are open on both sides.
    let mut kept = Vec::new();
    for _ in 0..20 {
        let mut connection = raw::Connection::open(weir.address("out")).await?;
        connection.send("GET / HTTP/1.1\r\nhost: app\r\n\r\n").await?;
        same!(connection.response(false).await?.status, 200);
        kept.push(connection);
    }
    // 0.1 % of a core; built for debugging, it takes thrice as much.
    let most = Duration::from_millis(if binary().iter().any(|part| part == "debug") { 9 } else { 3 });
    // What idleness costs is in each of the windows; what the start left behind, or the machine adds, is in one of them.
    let mut spent = Vec::new();
    for _ in 0..3 {
        let before: u64 = cpu(weir.pid())?.values().sum();
        run_for(Duration::from_secs(3)).await;
        spent.push(Duration::from_nanos(cpu(weir.pid())?.values().sum::<u64>() - before));
        if spent.last().is_some_and(|spent| *spent < most) {
            return Ok(());
        }
    }
    Err(format!("{spent:?} of CPU in three idle seconds each").into())
}
