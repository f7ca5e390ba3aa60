//! Requests are split by weight, and a new weight holds from the moment it is acknowledged.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use weir_tests::load::Load;
use weir_tests::quick::Quick;
use weir_tests::{Result, Trial, Weir, holds, raw, same, test_alone};

use super::{run_for, table};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        test_alone("control::split::one_worker_keeps_to_the_weights", || keeps_to_the_weights(1)),
        test_alone("control::split::two_workers_keep_to_the_weights", || keeps_to_the_weights(2)),
        test_alone("control::split::a_new_weight_holds_within_a_second", a_new_weight_holds_within_a_second),
    ]
}

fn weights(top: &str, origins: [&Quick; 2], weights: [u32; 2]) -> String {
    let [one, two] = origins.map(|origin| origin.address);
    table(
        top,
        &format!("backends: [{{ cluster: one, weight: {} }}, {{ cluster: two, weight: {} }}]", weights[0], weights[1]),
        &format!("one: {{ endpoints: ['{one}'] }}, two: {{ endpoints: ['{two}'] }}"),
    )
}

async fn keeps_to_the_weights(workers: u16) -> Result {
    // Both bounds are more than five standard deviations of a fair draw.
    let (requests, bound) = if weir_tests::soak() { (200_000, 0.3) } else { (60_000, 0.5) };
    let (one, two) = (Quick::text("one").await?, Quick::text("two").await?);
    let weir = Weir::start(&weights(&format!("workers: {workers}"), [&one, &two], [95, 5])).await?;
    let canary = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&canary);
    let load = Load::new(weir.address("out"), 32).of(requests).start(move |_, response| {
        seen.fetch_add(usize::from(response.body == b"two"), Ordering::Relaxed);
        Ok(())
    });
    let tally = load.finished().await;
    tally.faultless()?;
    same!(tally.served, requests);
    same!((one.count() + two.count(), two.count()), (requests, canary.load(Ordering::Relaxed)), "every request arrived once");
    let percent = 100.0 * two.count() as f64 / requests as f64;
    holds!((percent - 5.0).abs() <= bound, "{percent:.3} % of {requests} went to the canary");
    // The metric agrees with the origin.
    weir.counted("weir_requests_total", "cluster=\"two\",code=\"2xx\"", two.count() as f64).await
}

async fn a_new_weight_holds_within_a_second() -> Result {
    let (old, new) = (Quick::text("old").await?, Quick::text("new").await?);
    let weir = Weir::start(&weights("workers: 2", [&old, &new], [100, 0])).await?;
    let sent_to_old = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&sent_to_old);
    let load = Load::new(weir.address("out"), 16).start(move |sent, response| {
        if response.body == b"old" {
            seen.lock().unwrap().push(sent);
        }
        Ok(())
    });
    weir_tests::until("the load runs", async || load.sent() > 500).await?;
    same!(new.count(), 0, "a weight of 0 takes nothing");

    let text = weights("workers: 2", [&old, &new], [0, 100]);
    let written = Instant::now();
    weir.write(&text)?;
    let mut admin = raw::Connection::open(weir.admin).await?;
    let acknowledged = loop {
        admin.send("GET /config HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
        let page: serde_json::Value = serde_json::from_slice(&admin.response(false).await?.body)?;
        if page["generation"] == 2 {
            break Instant::now();
        }
        holds!(written.elapsed() < Duration::from_secs(10), "no new generation");
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    let before = new.count();
    run_for(Duration::from_millis(700)).await;
    let tally = load.stop().await;
    tally.faultless()?;
    holds!(new.count() > before + 100, "the load goes on at the new backend");
    let took = acknowledged - written;
    holds!(took < Duration::from_secs(1), "acknowledged after {took:?}");
    let last = *sent_to_old.lock().unwrap().iter().max().ok_or("nothing went to the old backend")?;
    holds!(last < acknowledged, "sent to the old backend {:?} after the acknowledgement", last - acknowledged);
    Ok(())
}
