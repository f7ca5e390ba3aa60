//! Names become endpoints: all answers, for as long as they live, through whatever the name server goes through.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde_json::Value;
use weir_tests::dns::{A, AAAA, Asked, Dns, Say};
use weir_tests::load::Load;
use weir_tests::quick::Quick;
use weir_tests::{Result, Trial, Weir, holds, raw, same, test, until};

use super::{run_for, table};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        test("control::dns::all_answers_are_used_and_removed_ones_are_not", all_answers_are_used_and_removed_ones_are_not),
        test("control::dns::ttls_are_honoured_and_clamped", ttls_are_honoured_and_clamped),
        test("control::dns::a_failing_name_server_costs_nothing", a_failing_name_server_costs_nothing),
        test("control::dns::a_name_that_blinks_costs_nothing", a_name_that_blinks_costs_nothing),
        test("control::dns::a_name_that_never_was", a_name_that_never_was),
        test("control::dns::questions_are_few_and_absolute", questions_are_few_and_absolute),
        test("control::dns::a_long_answer_comes_over_tcp", a_long_answer_comes_over_tcp),
        test("control::dns::a_reload_brings_and_drops_names", a_reload_brings_and_drops_names),
        test("control::dns::the_names_of_a_rejected_file_are_not_asked_for", the_names_of_a_rejected_file_are_not_asked_for),
    ]
}

/// Everything to the addresses of `name`. `limits` is more about DNS.
fn by_name(dns: &Dns, limits: &str, name: &str, port: u16) -> String {
    table(
        &format!("workers: 2\ndns: {{ servers: ['{}'], {limits} }}", dns.address),
        "backends: [{ cluster: named }]",
        &format!("named: {{ dns: '{name}:{port}', balance: round_robin }}"),
    )
}

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, last)
}

/// Origins on 127.0.0.1, 127.0.0.2 and 127.0.0.3, with one port.
async fn three() -> Result<[Quick; 3]> {
    for _ in 0..20 {
        let one = Quick::text("one").await?;
        let port = one.address.port();
        let two = Quick::text_at(&format!("127.0.0.2:{port}"), "two").await;
        let three = Quick::text_at(&format!("127.0.0.3:{port}"), "three").await;
        if let (Ok(two), Ok(three)) = (two, three) {
            return Ok([one, two, three]);
        }
    }
    Err("no port is free on three addresses".into())
}

/// The addresses that `/clusters` shows for the only name.
async fn shown(weir: &Weir) -> Result<Vec<String>> {
    let page: Value = serde_json::from_str(&weir.admin("/clusters").await?)?;
    let addresses = page["clusters"][0]["endpoints"][0]["addresses"].as_array().ok_or("no addresses")?;
    Ok(addresses.iter().filter_map(|address| address.as_str().map(str::to_owned)).collect())
}

fn questions(dns: &Dns, name: &str, kind: u16) -> Vec<Asked> {
    dns.asked().into_iter().filter(|asked| asked.name == name && asked.kind == kind).collect()
}

async fn all_answers_are_used_and_removed_ones_are_not() -> Result {
    const TTL: u32 = 1;
    let origins = three().await?;
    let dns = Dns::start().await?;
    dns.say("shop.test", Say::Addresses(vec![address(1), address(2), address(3)], TTL));
    let weir = Weir::start(&by_name(&dns, "", "shop.test", origins[0].address.port())).await?;
    same!(shown(&weir).await?, ["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
    let load = Load::new(weir.address("out"), 4).pausing(Duration::from_millis(1)).start(|_, _| Ok(()));
    until("all three take traffic", async || origins.iter().all(|origin| origin.count() > 30)).await?;
    let counts: Vec<usize> = origins.iter().map(Quick::count).collect();
    let (least, most) = (*counts.iter().min().unwrap_or(&0), *counts.iter().max().unwrap_or(&0));
    holds!(least * 2 > most, "{counts:?}");

    dns.say("shop.test", Say::Addresses(vec![address(1)], TTL));
    run_for(Duration::from_secs(u64::from(TTL) + 1)).await;
    let after: Vec<usize> = origins[1..].iter().map(Quick::count).collect();
    let first = origins[0].count();
    run_for(Duration::from_secs(1)).await;
    same!(origins[1..].iter().map(Quick::count).collect::<Vec<_>>(), after, "a removed address takes nothing after TTL + 1 s");
    holds!(origins[0].count() > first + 50, "the other one takes it all");
    same!(shown(&weir).await?, ["127.0.0.1"]);

    dns.say("shop.test", Say::Addresses(vec![address(1), address(3)], TTL));
    until("an address that is new takes traffic", async || origins[2].count() > after[1]).await?;
    load.stop().await.faultless()
}

async fn ttls_are_honoured_and_clamped() -> Result {
    let dns = Dns::start().await?;
    // Answers that live longer than max_ttl, shorter than min_ttl, and in between.
    for (name, ttl) in [("long.test", 3600), ("short.test", 0), ("two.test", 2)] {
        dns.say(name, Say::Addresses(vec![address(1)], ttl));
    }
    let asked = async |limits: &str, name: &str, time: u64| -> Result<Vec<Asked>> {
        let weir = Weir::start(&by_name(&dns, limits, name, 1)).await?;
        run_for(Duration::from_millis(time)).await;
        drop(weir);
        Ok(questions(&dns, name, A))
    };
    let long = asked("min_ttl: 100ms, max_ttl: 400ms", "long.test", 2100);
    let short = asked("min_ttl: 400ms, max_ttl: 2s", "short.test", 2100);
    let two = asked("", "two.test", 4500);
    let (long, short, two) = tokio::join!(long, short, two);
    let (long, short, two) = (long?, short?, two?);
    // Up to a tenth early; a busy machine may be late.
    for (what, asked, ttl) in [("max_ttl", long, 0.4), ("min_ttl", short, 0.4), ("TTL", two, 2.0)] {
        let apart: Vec<f64> = asked.windows(2).map(|pair| (pair[1].at - pair[0].at).as_secs_f64()).collect();
        holds!(!apart.is_empty() && apart.iter().all(|time| *time > 0.88 * ttl), "{what}: asked again too early: {apart:?}");
        let mean = apart.iter().sum::<f64>() / apart.len() as f64;
        holds!(mean < ttl + 0.4, "{what}: asked again too late: {apart:?}");
    }
    Ok(())
}

async fn a_failing_name_server_costs_nothing() -> Result {
    let origin = Quick::text("here").await?;
    let dns = Dns::start().await?;
    let answer = || Say::Addresses(vec![address(1)], 1);
    dns.say("shop.test", answer());
    let weir = Weir::start(&by_name(&dns, "min_ttl: 200ms, max_ttl: 500ms", "shop.test", origin.address.port())).await?;
    let load = Load::new(weir.address("out"), 4).pausing(Duration::from_millis(1)).start(|_, _| Ok(()));
    for trouble in [Say::ServFail, Say::Nothing] {
        let before = questions(&dns, "shop.test", A).len();
        dns.say("shop.test", trouble);
        until("it is asked in vain", async || questions(&dns, "shop.test", A).len() > before + 1).await?;
        run_for(Duration::from_secs(2)).await;
    }
    same!(shown(&weir).await?, ["127.0.0.1"], "the last answer stays");
    let page = weir.admin("/clusters").await?;
    holds!(!page.contains("\"error\": null"), "the failure shows: {page}");
    dns.say("shop.test", answer());
    until("the answer is back", async || weir.admin("/clusters").await.is_ok_and(|page| page.contains("\"error\": null")))
        .await?;
    load.stop().await.faultless()?;
    holds!(weir.metric("weir_dns_lookups_total", "failure").await? >= 1.0);
    Ok(())
}

async fn a_name_that_blinks_costs_nothing() -> Result {
    let origin = Quick::text("here").await?;
    let dns = Dns::start().await?;
    let answer = || Say::Addresses(vec![address(1)], 1);
    dns.say("shop.test", answer());
    let weir = Weir::start(&by_name(&dns, "min_ttl: 200ms, max_ttl: 500ms", "shop.test", origin.address.port())).await?;
    let load = Load::new(weir.address("out"), 4).pausing(Duration::from_millis(1)).start(|_, _| Ok(()));
    // The name is gone, and then it is there but has no addresses.
    for blink in [Say::NxDomain, Say::Addresses(Vec::new(), 1)] {
        let before = questions(&dns, "shop.test", A).len();
        dns.say("shop.test", blink);
        until("it is asked in vain", async || questions(&dns, "shop.test", A).len() > before + 1).await?;
        run_for(Duration::from_secs(3)).await;
        same!(shown(&weir).await?, ["127.0.0.1"], "an address is kept while its name blinks");
        dns.say("shop.test", answer());
    }
    load.stop().await.faultless()
}

async fn a_name_that_never_was() -> Result {
    let dns = Dns::start().await?;
    let limits = "min_ttl: 200ms, max_ttl: 500ms";
    let origin = Quick::text("here").await?;
    let weir = Weir::start(&by_name(&dns, limits, "nowhere.test", origin.address.port())).await?;
    let response = raw::get(weir.address("out"), "app", "/").await?;
    same!((response.status, response.header("x-weir-error")), (503, Some("dns_failure")));
    dns.say("nowhere.test", Say::Addresses(vec![address(1)], 1));
    until("it serves when the name appears", async || {
        raw::get(weir.address("out"), "app", "/").await.is_ok_and(|response| response.status == 200)
    })
    .await
}

async fn questions_are_few_and_absolute() -> Result {
    const NAMES: [&str; 2] = ["plain", "checkout.shop.svc"];
    let dns = Dns::start().await?;
    NAMES.iter().for_each(|name| dns.say(name, Say::Addresses(vec![address(1)], 1)));
    let origin = Quick::text("here").await?;
    let port = origin.address.port();
    let text = table(
        &format!("workers: 2\ndns: {{ servers: ['{}'] }}", dns.address),
        "backends: [{ cluster: a }, { cluster: b }, { cluster: c }]",
        // One name in two clusters is still one name.
        &format!("a: {{ dns: 'plain:{port}' }}, b: {{ dns: 'checkout.shop.svc:{port}' }}, c: {{ dns: 'plain:{port}' }}"),
    );
    let began = Instant::now();
    let weir = Weir::start(&text).await?;
    let load = Load::new(weir.address("out"), 2).pausing(Duration::from_millis(2)).start(|_, _| Ok(()));
    run_for(Duration::from_secs(5)).await;
    load.stop().await.faultless()?;
    let (asked, seconds) = (dns.asked(), began.elapsed().as_secs_f64());
    for question in &asked {
        holds!(NAMES.contains(&question.name.as_str()), "{question:?}: search domains were tried");
        holds!([A, AAAA].contains(&question.kind) && !question.tcp, "{question:?}");
    }
    // Both families, once a TTL, up to a tenth early; and once at the start.
    let bound = (NAMES.len() as f64 * 2.0 * (seconds / 0.9 + 1.0)).ceil() as usize;
    holds!(asked.len() <= bound, "{} questions in {seconds:.1} s, more than {bound}", asked.len());
    holds!(asked.len() >= NAMES.len() * 4, "{} questions: names are asked for again", asked.len());
    Ok(())
}

async fn a_long_answer_comes_over_tcp() -> Result {
    let dns = Dns::start().await?;
    dns.say("many.test", Say::Long((1..=60).map(address).collect(), 30));
    let weir = Weir::start(&by_name(&dns, "", "many.test", 1)).await?;
    same!(shown(&weir).await?.len(), 60);
    holds!(questions(&dns, "many.test", A).iter().any(|asked| asked.tcp), "{:?}", dns.asked());
    Ok(())
}

async fn a_reload_brings_and_drops_names() -> Result {
    let origin = Quick::text("here").await?;
    let dns = Dns::start().await?;
    for name in ["old.test", "new.test"] {
        dns.say(name, Say::Addresses(vec![address(1)], 1));
    }
    let limits = "min_ttl: 100ms, max_ttl: 200ms";
    let text = |name| by_name(&dns, limits, name, origin.address.port());
    let weir = Weir::start(&text("old.test")).await?;
    let load = Load::new(weir.address("out"), 2).pausing(Duration::from_millis(1)).start(|_, _| Ok(()));
    weir.reload(&text("new.test")).await?;
    // One lookup may be under way.
    run_for(Duration::from_millis(300)).await;
    let (old, new) = (questions(&dns, "old.test", A).len(), questions(&dns, "new.test", A).len());
    until("the new name is followed", async || questions(&dns, "new.test", A).len() > new + 3).await?;
    same!(questions(&dns, "old.test", A).len(), old, "the old name is not asked for any more");
    weir.reload(&text("old.test")).await?;
    until("the old name is followed again", async || questions(&dns, "old.test", A).len() > old + 2).await?;
    // A name that resolves to nothing new does not make a route table fail: it was resolved before it served.
    load.stop().await.faultless()
}

async fn the_names_of_a_rejected_file_are_not_asked_for() -> Result {
    let origin = Quick::text("here").await?;
    let dns = Dns::start().await?;
    for name in ["good.test", "rejected.test"] {
        dns.say(name, Say::Addresses(vec![address(1)], 1));
    }
    let stranger = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let limits = "min_ttl: 100ms, max_ttl: 200ms";
    let weir = Weir::start(&by_name(&dns, limits, "good.test", origin.address.port())).await?;
    let taken = format!("{{ name: more, listen: '{}', direction: outbound }}", stranger.local_addr()?);
    let text = by_name(&dns, limits, "rejected.test", origin.address.port());
    weir.write(&text.replace("listeners: [", &format!("listeners: [{taken}, ")))?;
    super::until_rejected(&weir, true).await?;
    // One lookup may be under way.
    run_for(Duration::from_millis(300)).await;
    let before = questions(&dns, "rejected.test", A).len();
    run_for(Duration::from_secs(1)).await;
    same!(questions(&dns, "rejected.test", A).len(), before, "a name that nothing uses is asked for");
    Ok(())
}
