//! Which endpoint takes a request, and that a reload does not disturb it.

use std::time::Duration;

use weir_tests::load::Load;
use weir_tests::quick::Quick;
use weir_tests::{Result, Trial, Weir, holds, same, test};

use super::table;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        test("control::balance::least_request_avoids_a_slow_endpoint", least_request_avoids_a_slow_endpoint),
        test("control::balance::round_robin_is_exactly_even", round_robin_is_exactly_even),
        test("control::balance::weights_of_endpoints_hold_in_turn", || weights_of_endpoints_hold("round_robin", 1)),
        test("control::balance::weights_of_endpoints_hold_one_at_a_time", || weights_of_endpoints_hold("least_request", 1)),
        test("control::balance::weights_of_endpoints_hold_under_load", || weights_of_endpoints_hold("least_request", 16)),
        test("control::balance::a_reload_keeps_connections", a_reload_keeps_connections),
    ]
}

/// Everything to one cluster with these endpoints, by one worker.
fn to(balance: &str, endpoints: &str) -> String {
    table("workers: 1", "backends: [{ cluster: all }]", &format!("all: {{ balance: {balance}, endpoints: [{endpoints}] }}"))
}

async fn least_request_avoids_a_slow_endpoint() -> Result {
    let (quick, slow) =
        (Quick::slow("quick", Duration::from_millis(2)).await?, Quick::slow("slow", Duration::from_millis(100)).await?);
    let weir = Weir::start(&to("least_request", &format!("'{}', '{}'", quick.address, slow.address))).await?;
    Load::new(weir.address("out"), 16).of(2000).start(|_, _| Ok(())).finished().await.faultless()?;
    holds!(slow.count() * 5 < quick.count(), "{} went to the slow one, {} to the quick one", slow.count(), quick.count());
    holds!(slow.count() > 0, "the slow one is not given up");
    Ok(())
}

async fn round_robin_is_exactly_even() -> Result {
    let origins = [Quick::text("a").await?, Quick::text("b").await?, Quick::text("c").await?];
    let [a, b, c] = [0, 1, 2].map(|place: usize| origins[place].address);
    let weir = Weir::start(&to("round_robin", &format!("'{a}', '{b}', '{c}'"))).await?;
    Load::new(weir.address("out"), 1).of(300).start(|_, _| Ok(())).finished().await.faultless()?;
    same!(origins.each_ref().map(Quick::count), [100, 100, 100]);
    Ok(())
}

async fn weights_of_endpoints_hold(balance: &str, connections: usize) -> Result {
    const REQUESTS: usize = 4000;
    // Under load the endpoints must take time, or nothing is ever in flight at them.
    let takes = if connections > 1 { Duration::from_millis(5) } else { Duration::ZERO };
    let (heavy, light) = (Quick::slow("heavy", takes).await?, Quick::slow("light", takes).await?);
    let endpoints = format!("{{ address: '{}', weight: 3 }}, '{}'", heavy.address, light.address);
    let weir = Weir::start(&to(balance, &endpoints)).await?;
    Load::new(weir.address("out"), connections).of(REQUESTS).start(|_, _| Ok(())).finished().await.faultless()?;
    same!(heavy.count() + light.count(), REQUESTS);
    let percent = 100.0 * heavy.count() as f64 / REQUESTS as f64;
    // In turn the sequence itself is even; a fair draw has a standard deviation of 0.7 points.
    let bound = if balance == "round_robin" { 0.2 } else { 5.0 };
    holds!((percent - 75.0).abs() <= bound, "{percent:.1} % went to the endpoint with three quarters of the weight");
    Ok(())
}

async fn a_reload_keeps_connections() -> Result {
    let (stays, changes) = (Quick::text("stays").await?, Quick::text("changes").await?);
    let text = |number: u32| {
        table(
            "workers: 2",
            &format!(
                "backends: [{{ cluster: stays, weight: 100 }}, {{ cluster: other-{number}, weight: 0 }}], headers: {{ request: {{ \
                 set: {{ x-number: '{number}' }} }} }}"
            ),
            // A long idle limit: what is closed here is closed by a reload.
            &format!(
                "stays: {{ endpoints: ['{}'], idle_timeout: 60s }}, other-{number}: {{ endpoints: ['{}'] }}",
                stays.address, changes.address
            ),
        )
    };
    let weir = Weir::start(&text(0)).await?;
    let load = || Load::new(weir.address("out"), 8).of(400).start(|_, _| Ok(())).finished();
    load().await.faultless()?;
    // At most one connection to the origin for each of the load's; it needs no more for what comes.
    let accepted = stays.accepted();
    holds!(accepted <= 16, "{accepted} connections for 8 callers");
    let running = Load::new(weir.address("out"), 1).pausing(Duration::from_millis(1)).start(|_, _| Ok(()));
    for number in 1..=50 {
        weir.write(&text(number))?;
        super::post(&weir, "/reload").await?;
        let wanted = u64::from(number) + 1;
        weir_tests::until("the reload serves", async || weir.generation().await.is_ok_and(|now| now >= wanted)).await?;
    }
    running.stop().await.faultless()?;
    let after = stays.accepted();
    // The extra caller may have been a ninth in flight on its worker.
    holds!(after <= accepted + 1, "{accepted} connections before, {after} after 50 reloads");
    same!(changes.count(), 0);
    Ok(())
}
