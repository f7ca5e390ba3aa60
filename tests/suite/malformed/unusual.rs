//! Requests that few clients send and the standards allow: strict is not the same as narrow.

use bytes::Bytes;
use http::{Request, Version};
use tokio::net::TcpStream;
use weir_tests::raw::Connection;
use weir_tests::{Origin, Result, Weir, holds, same};

/// A weir before an echoing origin, spoken to with this protocol.
async fn bench(protocol: &str) -> Result<(Weir, Origin)> {
    let origin = Origin::echo().await?;
    let weir = Weir::start(&format!(
        "listeners: [{{ name: out, listen: 127.0.0.1:0, direction: outbound }}]
routes: [{{ name: all, hosts: ['*'], rules: [{{ backends: [{{ cluster: one }}] }}] }}]
clusters: {{ one: {{ endpoints: ['{}'], protocol: {protocol} }} }}
",
        origin.address
    ))
    .await?;
    Ok((weir, origin))
}

pub async fn http1() -> Result {
    let (weir, _origin) = bench("http1").await?;
    let cookie = "c".repeat(60 << 10);
    let host = "Host: a\r\n";
    let get = |fields: &str| format!("GET /x HTTP/1.1\r\n{host}{fields}\r\n");
    let post = |fields: &str, body: &str| format!("POST /x HTTP/1.1\r\n{host}{fields}\r\n{body}");
    let chunked = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
    let cases: Vec<(&str, String, String)> = vec![
        ("empty lines first", format!("\r\n\r\n{}", get("")), "GET /x HTTP/1.1".into()),
        ("absolute form", "GET http://a/x?y HTTP/1.1\r\nHost: a\r\n\r\n".into(), "GET /x?y HTTP/1.1".into()),
        ("absolute form, other case", "GET http://A/x HTTP/1.1\r\nHost: a\r\n\r\n".into(), "host: ".into()),
        ("absolute form with port", "GET http://a:81/x HTTP/1.1\r\nHost: a:81\r\n\r\n".into(), "host: a:81\n".into()),
        ("absolute form without path", "GET http://a HTTP/1.1\r\nHost: a\r\n\r\n".into(), "GET / HTTP/1.1".into()),
        ("absolute form on 1.0 without Host", "GET http://a/x HTTP/1.0\r\n\r\n".into(), "host: a\n".into()),
        ("unknown method", format!("BREW /x HTTP/1.1\r\n{host}\r\n"), "BREW /x HTTP/1.1".into()),
        ("method of odd characters", format!("M-#!$%&'*+.^_`|~9 /x HTTP/1.1\r\n{host}\r\n"), "M-#!$%&'*+.^_`|~9 /x".into()),
        ("asterisk form", format!("OPTIONS * HTTP/1.1\r\n{host}\r\n"), "OPTIONS ".into()),
        ("names in lower case", "GET /x HTTP/1.1\r\nhost: a\r\nx-y: z\r\n\r\n".into(), "x-y: z\n".into()),
        ("Host in upper case", "GET /x HTTP/1.1\r\nHOST: A\r\n\r\n".into(), "host: A\n".into()),
        ("empty Host", "GET /x HTTP/1.1\r\nHost: \t\r\n\r\n".into(), "host: 127.0.0.1:".into()),
        ("Host with port", "GET /x HTTP/1.1\r\nHost: a:8080\r\n\r\n".into(), "host: a:8080\n".into()),
        ("Host of IPv6", "GET /x HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n".into(), "host: [::1]:8080\n".into()),
        ("Host with underscore", "GET /x HTTP/1.1\r\nHost: a_b.c\r\n\r\n".into(), "host: a_b.c\n".into()),
        ("Host with final dot", "GET /x HTTP/1.1\r\nHost: a.\r\n\r\n".into(), "host: a.\n".into()),
        ("blanks around a value", get("X-Y:  \t z \t \r\n"), "x-y: z\n".into()),
        ("no blank before a value", get("X-Y:z\r\n"), "x-y:".into()),
        ("an empty value", get("X-Y:\r\n"), "x-y: \n".into()),
        ("a value that is not ASCII", get("X-Y: \u{e4}\r\n"), "x-y: \u{e4}\n".into()),
        ("odd names", get("X_Y.!#$%&'*+^`|~: z\r\n"), "z\n".into()),
        ("tab in a value", get("X-Y: a\tb\r\n"), "x-y: a\tb\n".into()),
        ("a field twice", get("X-Y: a\r\nX-Y: b\r\n"), "x-y: a\nx-y: b\n".into()),
        ("odd path", format!("GET /x;a=b/%7e//y/../{{z}}|\"?q=[1]&&%zz HTTP/1.1\r\n{host}\r\n"), "GET /x;a=b/%7e//y/../".into()),
        ("encoded slash", format!("GET /x%2Fy%5cz HTTP/1.1\r\n{host}\r\n"), "GET /x%2Fy%5cz HTTP/1.1".into()),
        ("encoded line end", format!("GET /x%0d%0ay HTTP/1.1\r\n{host}\r\n"), "GET /x%0d%0ay HTTP/1.1".into()),
        ("a long target", format!("GET /{} HTTP/1.1\r\n{host}\r\n", "p".repeat(8000)), "p".repeat(8000)),
        ("a cookie of 60 KiB", get(&format!("Cookie: a={cookie}\r\n")), cookie),
        ("199 fields", get(&"X-Y: z\r\n".repeat(198)), "x-y: z\n".repeat(198)),
        ("200 fields", get(&"X-Y: z\r\n".repeat(199)), "x-y: z\n".repeat(199)),
        ("body with GET", "GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc".into(), "\n\nabc".into()),
        ("CL with leading zeros", post("Content-Length: 003\r\n", "abc"), "\n\nabc".into()),
        ("CL of 0 with an upgrade", get("Connection: upgrade\r\nUpgrade: foo\r\nContent-Length: 0\r\n"), "GET /x".into()),
        ("h2c with a body", post("Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 3\r\n", "abc"), "\n\nabc".into()),
        ("chunked in other cases", post("transfer-encoding: CHUNKED\r\n", "3\r\nabc\r\n0\r\n\r\n"), "\n\nabc".into()),
        // Blanks and tabs around a value are no part of it (RFC 9110, section 5.5).
        ("tabs around chunked", post("Transfer-Encoding:\tchunked\t\r\n", "3\r\nabc\r\n0\r\n\r\n"), "\n\nabc".into()),
        ("chunk extensions", chunked("3;a;b=c;d=\"e; f\"\r\nabc\r\n0;last\r\n\r\n"), "\n\nabc".into()),
        ("chunk sizes with zeros", chunked("0003\r\nabc\r\n0000\r\n\r\n"), "\n\nabc".into()),
        (
            "chunk sizes in either case",
            chunked("A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n"),
            "\n\n01234567890123456789".into(),
        ),
        ("trailers", chunked("3\r\nabc\r\n0\r\nX-Checked: yes\r\nX-Other: no\r\n\r\n"), "\n\nabc".into()),
    ];
    // All on one connection too, so that none of them disturbs the next; HTTP/1.0 would close it.
    let mut kept = Connection::open(weir.address("out")).await?;
    for (name, request, wanted) in &cases {
        let mut alone = Connection::open(weir.address("out")).await?;
        alone.send(request).await?;
        let mut answers = vec![alone.response(false).await?];
        if !request.contains("HTTP/1.0") {
            kept.send(request).await?;
            answers.push(kept.response(false).await?);
        }
        for answer in answers {
            same!((answer.status, answer.header("x-weir-error")), (200, None), "{name}: {}", answer.text());
            let text = answer.text();
            holds!(text.contains(wanted), "{name}: {text}");
        }
    }
    Ok(())
}

/// The largest heads that pass on HTTP/1 pass on HTTP/2, to either protocol; larger ones get 431 and harm no other stream.
pub async fn http2() -> Result {
    for protocol in ["http1", "http2"] {
        let (weir, _origin) = bench(protocol).await?;
        let stream = TcpStream::connect(weir.address("out")).await?;
        let (client, connection) = h2::client::handshake(stream).await?;
        let driver = tokio::spawn(connection);
        let cookie = "c".repeat(60 << 10);
        let request = |path: &str| Request::get(format!("http://a{path}")).version(Version::HTTP_2);

        let (status, _, body) = ask(&client, request("/cookie").header("cookie", &cookie).body(())?).await?;
        same!(status, 200, "{protocol}: a cookie of 60 KiB");
        holds!(body.contains(&cookie), "{protocol}: the cookie arrives");

        let many = (0..199).fold(request("/many"), |request, _| request.header("x-y", "z"));
        let (status, _, body) = ask(&client, many.body(())?).await?;
        same!((status, body.matches("x-y: z\n").count()), (200, 199), "{protocol}: 199 fields");

        let (status, code, _) = ask(&client, request("/over").header("cookie", "c".repeat(70 << 10)).body(())?).await?;
        same!((status, code.as_str()), (431, "header_bytes"), "{protocol}: a cookie of 70 KiB");

        let many = (0..201).fold(request("/over"), |request, _| request.header("x-y", "z"));
        let (status, code, _) = ask(&client, many.body(())?).await?;
        same!((status, code.as_str()), (431, "header_count"), "{protocol}: 201 fields");

        let (status, code, _) = ask(&client, request("/x%00y").body(())?).await?;
        same!((status, code.as_str()), (400, "encoded_nul"), "{protocol}");

        let (status, code, _) = ask(&client, request("/").header("host", "b").body(())?).await?;
        same!((status, code.as_str()), (400, "bad_host"), "{protocol}: Host beside another :authority");

        let (status, _, _) = ask(&client, request("/after").body(())?).await?;
        same!(status, 200, "{protocol}: the connection still serves");
        driver.abort();
    }
    Ok(())
}

/// Status, `x-weir-error` and body of the answer to a request without a body.
async fn ask(client: &h2::client::SendRequest<Bytes>, request: Request<()>) -> Result<(u16, String, String)> {
    let mut client = client.clone().ready().await?;
    let (response, _) = client.send_request(request, true)?;
    let (head, mut body) = response.await?.into_parts();
    let code = head.headers.get("x-weir-error").map_or("", |code| code.to_str().unwrap_or("?")).to_owned();
    let mut text = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        text.extend_from_slice(&chunk);
    }
    Ok((head.status.as_u16(), code, String::from_utf8_lossy(&text).into_owned()))
}
