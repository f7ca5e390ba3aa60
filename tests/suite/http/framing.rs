//! Where messages end: bodies of methods that usually have none, answers to HEAD that weir makes itself, and responses
//! whose headers say two things.

use http::Response;
use weir_tests::origin::full;
use weir_tests::wire::{Caller, Keeper, Version};
use weir_tests::{Recorder, Result, Trial, Weir, holds, raw, same, test, wire};

pub fn trials() -> Vec<Trial> {
    vec![
        test("http::framing::a_get_keeps_its_body", a_get_keeps_its_body),
        test("http::framing::head_of_what_weir_says", head_of_what_weir_says),
        test("http::framing::two_lengths_in_a_response", two_lengths_in_a_response),
        test("http::framing::a_coding_nobody_undid", a_coding_nobody_undid),
        test("http::framing::few_fields_are_a_limit_too", few_fields_are_a_limit_too),
        test("http::framing::redirects_keep_what_is_not_given", redirects_keep_what_is_not_given),
    ]
}

async fn a_get_keeps_its_body() -> Result {
    let keeper = Keeper::start(|got| Response::new(full(got.body.clone()))).await?;
    for onward in [Version::One, Version::Two] {
        let weir = Weir::start(&wire::to(keeper.origin.address, onward)).await?;
        let chunked = "GET /search HTTP/1.1\r\nhost: shop\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
        same!(raw::request(weir.address("out"), chunked).await?.text(), "{}", "chunked to {onward:?}");
        let counted = "GET /search HTTP/1.1\r\nhost: shop\r\ncontent-length: 2\r\n\r\n{}";
        same!(raw::request(weir.address("out"), counted).await?.text(), "{}", "counted to {onward:?}");
    }
    Ok(())
}

async fn head_of_what_weir_says() -> Result {
    let weir = Weir::start(
        "listeners: [{ name: out, listen: 127.0.0.1:0, direction: outbound }]
routes: [{ name: r, hosts: [shop], rules: [{ respond: { status: 200, body: hello } }] }]
",
    )
    .await?;
    let mut connection = raw::Connection::open(weir.address("out")).await?;
    for (host, status) in [("shop", 200), ("elsewhere", 404)] {
        connection.send(format!("HEAD / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await?;
        let response = connection.response(true).await?;
        same!(response.status, status);
        holds!(response.header("content-length").is_some_and(|length| length != "0"), "{}", response.head);
    }
    let mut caller = Caller::open(weir.address("out"), Version::Two).await?;
    for _ in 0..2 {
        let answer = caller.exchange(caller.request("HEAD", "/").body(full(""))?).await?;
        holds!([200, 404].contains(&answer.status.as_u16()));
        same!(answer.text(), "");
    }
    drop(connection);
    same!(weir.metric("weir_request_flags_total", "DC").await?, 0.0, "a HEAD is complete without its body");
    Ok(())
}

async fn two_lengths_in_a_response() -> Result {
    let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\na\r\n0123456789\r\n0\r\n\r\n";
    let origin = Recorder::start(answer).await?;
    let weir = Weir::start(&wire::to(origin.address, Version::One)).await?;
    for version in [Version::One, Version::Two] {
        let mut caller = Caller::open(weir.address("out"), version).await?;
        same!(caller.get("/").await?.text(), "0123456789", "{version:?}");
    }
    Ok(())
}

async fn a_coding_nobody_undid() -> Result {
    let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let origin = Recorder::start(answer).await?;
    let weir = Weir::start(&wire::to(origin.address, Version::One)).await?;
    let response = raw::get(weir.address("out"), "shop", "/").await?;
    same!((response.status, response.header("x-weir-error")), (502, Some("upstream_protocol")));
    Ok(())
}

async fn few_fields_are_a_limit_too() -> Result {
    let weir = Weir::start(
        "listeners: [{ name: out, listen: 127.0.0.1:0, direction: outbound, limits: { header_count: 10 } }]
routes: [{ name: r, hosts: ['*'], rules: [{ respond: { status: 200 } }] }]
",
    )
    .await?;
    for (more, status) in [(9, 200), (10, 431)] {
        let lines = "x: y\r\n".repeat(more);
        let response = raw::request(weir.address("out"), &format!("GET / HTTP/1.1\r\nhost: a\r\n{lines}\r\n")).await?;
        same!(response.status, status);
    }
    Ok(())
}

async fn redirects_keep_what_is_not_given() -> Result {
    let weir = Weir::start(
        "listeners: [{ name: out, listen: 127.0.0.1:0, direction: outbound }]
routes: [{ name: r, hosts: ['*'], rules: [{ redirect: { host: other } }] }]
",
    )
    .await?;
    let plain = raw::get(weir.address("out"), "shop", "/a;v=1/%7Eb?c=d").await?;
    same!(plain.header("location"), Some("http://other/a;v=1/%7Eb?c=d"));
    let behind = "GET / HTTP/1.1\r\nhost: shop\r\nx-forwarded-proto: https\r\nconnection: close\r\n\r\n";
    same!(raw::request(weir.address("out"), behind).await?.header("location"), Some("https://other/"));
    Ok(())
}
