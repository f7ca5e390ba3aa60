//! Retries under load: they must help when one endpoint dies, and must not hurt when all are failing.

use std::time::{Duration, Instant};

use weir_tests::load::Load;
use weir_tests::quick::Quick;
use weir_tests::{Result, Trial, Weir, holds, same, test_alone};

use super::ruled;

pub fn trials() -> Vec<Trial> {
    vec![
        test_alone("policy::load::a_failing_upstream_sees_a_fifth_more", a_failing_upstream_sees_a_fifth_more),
        test_alone("policy::load::two_hops_do_not_multiply", two_hops_do_not_multiply),
        test_alone("policy::load::one_of_three_dies_unnoticed", one_of_three_dies_unnoticed),
    ]
}

const EAGER: &str = "retry: { attempts: 3, on: [5xx], backoff: { base: 1ms, max: 1ms } }";

async fn failing() -> Result<Quick> {
    let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
    Quick::start("127.0.0.1:0", Duration::ZERO, |_| answer.to_vec()).await
}

/// About a thousand requests a second for a few seconds; gives how many there were and how long it took.
async fn thousand_a_second(weir: &Weir) -> (usize, Duration) {
    let start = Instant::now();
    let load = Load::new(weir.address("out"), 50).of(5000).pausing(Duration::from_millis(48));
    let tally = load.start(|_, _| Ok(())).finished().await;
    (tally.served + tally.failed.len(), start.elapsed())
}

async fn a_failing_upstream_sees_a_fifth_more() -> Result {
    let quick = failing().await?;
    let weir = Weir::start(&ruled(&[quick.address], "http1", EAGER)).await?;
    let (requests, took) = thousand_a_second(&weir).await;
    // The floor is 3 a second over a window of ten.
    let allowed = requests as f64 * 1.2 + 3.0 * (took.as_secs_f64() + 10.0);
    let seen = quick.count();
    holds!((seen as f64) <= allowed, "{seen} attempts for {requests} requests in {took:?}; at most {allowed}");
    holds!(seen > requests, "and there were retries: {seen}");
    holds!(weir.metric("weir_upstream_retries_denied_total", "budget").await? > 0.0);
    Ok(())
}

async fn two_hops_do_not_multiply() -> Result {
    let quick = failing().await?;
    let second = Weir::start(&ruled(&[quick.address], "http1", EAGER)).await?;
    let first = Weir::start(&ruled(&[second.address("out")], "http1", EAGER)).await?;
    let (requests, took) = thousand_a_second(&first).await;
    let seen = quick.count() as f64;
    let floors = 2.0 * 3.0 * (took.as_secs_f64() + 10.0) * 1.2;
    holds!(seen <= requests as f64 * 1.44 + floors, "{seen} for {requests} in {took:?}");
    Ok(())
}

/// kill -9 of one of three, as far as sockets can tell: every connection of it ends at once, and it listens no more.
async fn one_of_three_dies_unnoticed() -> Result {
    let (a, b, c) = (Quick::text("a").await?, Quick::text("b").await?, Quick::text("c").await?);
    let weir = Weir::start(&ruled(&[a.address, b.address, c.address], "http1", "retry: { on: [5xx] }")).await?;
    let load = Load::new(weir.address("out"), 32).pausing(Duration::from_millis(1)).start(|_, _| Ok(()));
    tokio::time::sleep(Duration::from_millis(700)).await;
    let before = c.count();
    drop(c);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let tally = load.stop().await;
    holds!(before > 50, "it took its share before: {before}");
    same!(tally.failed, Vec::<String>::new());
    holds!(tally.served > 1000, "{}", tally.served);
    Ok(())
}
