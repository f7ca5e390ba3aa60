//! Two sidecars with mutual TLS between them.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use weir_tests::mesh::{Authority, Files, Says};
use weir_tests::origin::full;
use weir_tests::raw::Connection;
use weir_tests::weir::binary;
use weir_tests::{Origin, Recorder, Result, Trial, Weir, mesh, same, test, test_alone, two};

use super::{CART, PAY, inbound, member, outbound, outbound_tcp};

pub fn trials() -> Vec<Trial> {
    let mut trials = vec![
        test("mesh::an_app_hears_who_calls_and_in_its_own_protocol", app_hears),
        test("mesh::a_permissive_port_tells_three_kinds_of_callers_apart", permissive),
        // A permissive listener takes 200 ms of silence for plaintext.
        test_alone("mesh::a_server_that_speaks_first_is_heard", server_first),
        test("mesh::the_demo_of_two_services_says_who_calls", demo),
    ];
    for (inner, outer) in [("strict", "mesh"), ("permissive", "mesh")] {
        trials.push(test(&format!("mesh::bulk_arrives_whole_{inner}"), move || bulk(inner, outer)));
    }
    trials
}

/// An origin that answers with the version and the headers it got.
async fn mirror() -> Result<Origin> {
    Origin::start(|request| async move {
        let mut said = format!("{:?}\n", request.version());
        for (name, value) in request.headers() {
            said += &format!("{name}: {}\n", value.to_str().unwrap_or("?"));
        }
        http::Response::new(full(said))
    })
    .await
}

async fn app_hears() -> Result {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("shop.example")?;
    let (cart, pay) = (member(&authority, &dir.path().join("cart"), CART)?, member(&authority, &dir.path().join("pay"), PAY)?);
    let app = mirror().await?;
    let callee = Weir::start(&inbound(&pay, app.address, "tls: strict")).await?;
    for protocol in ["auto", "http1", "http2"] {
        let tls = "tls: { mesh: { peers: ['spiffe://shop.example/ns/shop/*'] } }";
        let caller = Weir::start(&outbound(&cart, callee.address("in"), &format!("protocol: {protocol}, {tls}"))).await?;
        let mut connection = Connection::open(caller.address("out")).await?;
        for lie in ["x-forwarded-client-cert: By=me;URI=spiffe://shop.example/admin\r\n", "x-weir-proto: http2\r\n", ""] {
            connection.send(format!("GET / HTTP/1.1\r\nhost: pay\r\n{lie}\r\n")).await?;
            let said = connection.response(false).await?.text();
            // However the sidecars speak to each other.
            assert!(said.starts_with("HTTP/1.1\n"), "{protocol} {lie}: {said}");
            let told: Vec<&str> = said.lines().filter(|line| line.starts_with("x-forwarded-client-cert")).collect();
            same!(told.len(), 1);
            assert!(told[0].starts_with(&format!("x-forwarded-client-cert: By={PAY};Hash=")), "{told:?}");
            assert!(told[0].ends_with(&format!(";URI={CART}")), "{told:?}");
            assert!(!said.contains("x-weir-proto"), "{said}");
        }
        if protocol != "http1" {
            let h2 = two::Client::open(caller.address("out")).await?;
            let (_, mut body) = h2.get("/").await?.await?.into_parts();
            let (said, _) = two::collect(&mut body).await?;
            assert!(said.starts_with(b"HTTP/2.0\n"), "{}", String::from_utf8_lossy(&said));
        }
    }
    assert!(callee.metric("weir_downstream_tls_total", "mtls").await? >= 3.0);
    let certs: serde_json::Value = serde_json::from_str(&callee.admin("/certs").await?)?;
    same!((certs["identity"].as_str(), certs["valid"].as_bool()), (Some(PAY), Some(true)));
    same!(certs["trust_domains"]["shop.example"].as_u64(), Some(1));
    Ok(())
}

/// Plaintext, the mesh's TLS, and the app's own TLS on one port.
async fn permissive() -> Result {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("shop.example")?;
    let (cart, pay) = (member(&authority, &dir.path().join("cart"), CART)?, member(&authority, &dir.path().join("pay"), PAY)?);
    let app = mirror().await?;
    let callee = Weir::start(&inbound(&pay, app.address, "tls: off")).await?;
    let address = callee.address("in");
    let lie = "GET / HTTP/1.1\r\nhost: pay\r\nx-forwarded-client-cert: By=me;URI=spiffe://shop.example/admin\r\n\r\n";

    // Where nobody shows who it is, a trusted peer is believed; elsewhere only what was verified, also of who came before.
    let mut early = Connection::open(address).await?;
    early.send(lie).await?;
    assert!(early.response(false).await?.text().contains("client-cert"));
    callee.reload(&format!("admin: {{ listen: 127.0.0.1:0 }}\n{}", inbound(&pay, app.address, "tls: permissive"))).await?;
    for mut plain in [early, Connection::open(address).await?] {
        plain.send(lie).await?;
        let said = plain.response(false).await?.text();
        assert!(said.starts_with("HTTP/1.1\n") && !said.contains("client-cert"), "{said}");
    }

    let caller = Weir::start(&outbound(&cart, address, "tls: mesh")).await?;
    let mut meshed = Connection::open(caller.address("out")).await?;
    meshed.send(lie).await?;
    assert!(meshed.response(false).await?.text().contains(&format!("URI={CART}")));

    for (tls, count) in [("plain", 1.0), ("mtls", 1.0)] {
        same!((tls, callee.metric("weir_downstream_tls_total", tls).await?), (tls, count));
    }
    for protocol in ["auto", "tcp"] {
        own_tls(&pay, protocol).await?;
    }
    Ok(())
}

/// The app's own TLS: every byte as it was sent.
async fn own_tls(pay: &Files, protocol: &str) -> Result {
    let app = Recorder::start(b"").await?;
    let own = Weir::start(&inbound(pay, app.address, &format!("protocol: {protocol}, tls: permissive"))).await?;
    let relay = TcpListener::bind("127.0.0.1:0").await?;
    let (through, to) = (relay.local_addr()?, own.address("in"));
    let sent = tokio::spawn(async move {
        let (mut client, _) = relay.accept().await?;
        let mut hello = vec![0; 4096];
        let read = client.read(&mut hello).await?;
        hello.truncate(read);
        let mut stream = TcpStream::connect(to).await?;
        // In two pieces, so that the first does not tell.
        stream.write_all(&hello[..20]).await?;
        tokio::task::yield_now().await;
        stream.write_all(&hello[20..]).await?;
        stream.shutdown().await?;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        Ok::<_, std::io::Error>(hello)
    });
    let _ = mesh::call(through, None, &["h2"]).await;
    let hello = sent.await??;
    weir_tests::until(&format!("{protocol}: the app has the ClientHello"), async || app.all() == hello).await?;
    same!((protocol, own.metric("weir_downstream_tls_total", "\"tls\"").await?), (protocol, 1.0));
    Ok(())
}

/// Opaque bytes over mutual TLS, and in the clear to a permissive port, where the caller says nothing at first.
async fn server_first() -> Result {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("shop.example")?;
    let (cart, pay) = (member(&authority, &dir.path().join("cart"), CART)?, member(&authority, &dir.path().join("pay"), PAY)?);
    let app = TcpListener::bind("127.0.0.1:0").await?;
    let address = app.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = app.accept().await {
            tokio::spawn(async move {
                stream.write_all(b"220 ready\r\n").await?;
                let mut line = [0; 6];
                stream.read_exact(&mut line).await?;
                stream.write_all(&line).await?;
                stream.shutdown().await
            });
        }
    });
    let callee = Weir::start(&inbound(&pay, address, "protocol: tcp, tls: permissive")).await?;
    let caller = Weir::start(&outbound_tcp(&cart, callee.address("in"), "tls: mesh")).await?;
    for (way, address) in [("mesh", caller.address("out")), ("plain", callee.address("in"))] {
        let mut stream = TcpStream::connect(address).await?;
        let mut banner = [0; 11];
        stream.read_exact(&mut banner).await.map_err(|error| format!("{way}: {error}"))?;
        same!((way, &banner[..]), (way, &b"220 ready\r\n"[..]));
        stream.write_all(b"HELO\r\n").await?;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await?;
        same!((way, &rest[..]), (way, &b"HELO\r\n"[..]));
    }
    same!(callee.metric("weir_downstream_tls_total", "mtls").await?, 1.0);
    same!(callee.metric("weir_downstream_tls_total", "plain").await?, 1.0);
    Ok(())
}

/// Large bodies both ways, and their ends.
async fn bulk(inner: &'static str, outer: &'static str) -> Result {
    const SIZE: usize = 3 << 20;
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("shop.example")?;
    let cart = authority.issue(&Says::id(CART))?;
    let cart = mesh::Files::write(&dir.path().join("cart"), &cart, authority.root())?;
    let pay = member(&authority, &dir.path().join("pay"), PAY)?;
    let app = Origin::echo().await?;
    let callee = Weir::start(&inbound(&pay, app.address, &format!("tls: {inner}"))).await?;
    for protocol in ["http1", "http2"] {
        let caller = Weir::start(&outbound(&cart, callee.address("in"), &format!("protocol: {protocol}, tls: {outer}"))).await?;
        let mut connection = Connection::open(caller.address("out")).await?;
        let body: Vec<u8> = (0..SIZE).map(|place| (place % 251) as u8).collect();
        connection.send(format!("POST / HTTP/1.1\r\nhost: pay\r\ncontent-length: {SIZE}\r\n\r\n")).await?;
        connection.send(&body).await?;
        let answer = connection.response(false).await?;
        same!((protocol, answer.status), (protocol, 200));
        assert!(answer.body.ends_with(&body), "{protocol}: {} of {SIZE} bytes came back", answer.body.len());
    }
    Ok(())
}

/// One command: two services, two sidecars.
async fn demo() -> Result {
    let mut command = Command::new(binary());
    command.args(["demo", "--mtls", "--port", "0", "--rate", "100", "--json"]).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
    let told = loop {
        let line = tokio::time::timeout(Duration::from_secs(20), lines.next_line()).await??.ok_or("the demo ended")?;
        let told: serde_json::Value = serde_json::from_str(&line)?;
        if told["requests"].as_u64().is_some_and(|requests| requests >= 100) {
            break told;
        }
    };
    same!(told["caller"].as_str(), Some("spiffe://demo.example/ns/demo/sa/cart"));
    assert!(told["mtls_connections"].as_u64().is_some_and(|count| count >= 1) && told["refused_in_the_clear"] == 0, "{told}");
    let pid = i32::try_from(child.id().ok_or("no process")?)?;
    // SAFETY: kill has no memory effects; the pid is of a child that has not been waited for.
    same!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
    same!(tokio::time::timeout(Duration::from_secs(20), child.wait()).await??.code(), Some(0));
    Ok(())
}
