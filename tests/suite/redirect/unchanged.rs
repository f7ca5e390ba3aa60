//! What apps and callers do that are no good guests of a proxy: beside weir it works as without.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use weir_tests::mesh::{Authority, Files, Says};
use weir_tests::peers::Peer;
use weir_tests::pod::Program;
use weir_tests::{Result, Trial, holds, same, soak, test_with};

use super::{Pair, SIDECAR, TALK, UNSEEN};

pub fn trials() -> Vec<Trial> {
    let needs = ["nginx", "curl", "nft"].map(Peer::Program).into_iter().chain([Peer::Namespaces]);
    let needs: Vec<Peer> = needs.collect();
    vec![
        test_with("redirect::unchanged::what_is_said_to_a_forward_proxy_goes_there", &needs, forward_proxy),
        test_with("redirect::unchanged::who_ends_its_side_is_answered", &needs, half_closed),
        test_with("redirect::unchanged::half_of_something_is_passed_on", &needs, halves),
        test_with("redirect::unchanged::who_is_refused_hears_of_it_without_a_word", &needs, silent_and_refused),
        test_with("redirect::unchanged::the_address_that_was_called_is_called_again", &needs, called_again),
        test_with("redirect::unchanged::link_local_addresses_are_left_alone", &needs, link_local),
        test_with("redirect::unchanged::who_pauses_is_waited_for_and_who_is_gone_is_not", &needs, gone)
            .with_ignored_flag(!soak()),
    ]
}

impl Pair {
    fn mirror(&self, address: &str, port: u16, word: &str) -> Result<Program> {
        let mut server = self.server.command("python3");
        server.args([TALK, "mirror", address, &port.to_string(), word]);
        let mut server = Program::start(server)?;
        server.wait_for("serving")?;
        Ok(server)
    }

    /// What the client hears who says this, and how long it took.
    fn says(&self, port: u16, text: &str, end: &str) -> Result<(String, Duration)> {
        let began = Instant::now();
        Ok((self.talk(&format!("says 10.0.0.2 {port} '{text}' {end}"))?, began.elapsed()))
    }
}

async fn forward_proxy() -> Result {
    let routes = "
routes: [{ name: own, hosts: [own.example], rules: [{ respond: { status: 200, body: 'by a route' } }] }]
";
    let server = SIDECAR.replace("direction: inbound,", "direction: inbound, ports: { 3128: tcp },");
    let mut pair = Pair::with_sidecars("", &format!("{SIDECAR}{routes}"), &server)?;
    let mut proxy = pair.server.command("python3");
    proxy.args([TALK, "proxy", "0.0.0.0", "3128"]);
    let mut proxy = Program::start(proxy)?;
    proxy.wait_for("serving")?;
    let connect = |field: &str| format!(r"CONNECT shop.example:443 HTTP/1.1\r\nHost: shop.example:443\r\n{field}\r\n\r\n");
    // As it was said. What follows is the tunnel's once the proxy agrees.
    let agreed = connect("proxy-AUTHORIZATION: Basic eA==");
    let (heard, _) = pair.says(3128, &format!("{agreed}hello"), "end")?;
    holds!(heard.starts_with("HTTP/1.1 200 Go on") && heard.ends_with("|HELLO"), "{heard}");
    holds!(
        heard.contains("CONNECT shop.example:443 HTTP/1.1|") && heard.contains("|proxy-AUTHORIZATION: Basic eA==|"),
        "{heard}"
    );
    // Where it does not, it is the next request.
    let (heard, _) = pair.says(3128, &format!("{}{agreed}hello", connect("Refuse: yes")), "end")?;
    let answers: Vec<&str> = heard.split("HTTP/1.1 ").filter(|part| part.starts_with(|c: char| c.is_ascii_digit())).collect();
    holds!(matches!(answers[..], [no, yes] if no.starts_with("407 No") && yes.starts_with("200 Go on")), "{heard}");
    holds!(heard.ends_with("|HELLO"), "{heard}");
    // Whatever a caller and its server agree on, by whatever method.
    for protocol in ["tcp", "SPDY/3.1"] {
        let asks = format!(
            r"POST /attach HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\nContent-Length: 0\r\n\r\n"
        );
        let (heard, _) = pair.says(3128, &format!("{asks}hello"), "end")?;
        holds!(heard.starts_with("HTTP/1.1 101") && heard.ends_with("|HELLO"), "{protocol}: {heard}");
    }

    pair.serve_nginx(&["3129"], "$request")?;
    same!(pair.curl("-x http://10.0.0.2:3129 'http://shop.example/a?b'")?, "GET http://shop.example/a?b HTTP/1.1\n");
    same!(pair.curl("-x http://10.0.0.2:3129 'http://shop.example?b'")?, "GET http://shop.example/?b HTTP/1.1\n");
    same!(pair.curl("'http://10.0.0.2:3129/a?b'")?, "GET /a?b HTTP/1.1\n");
    // Callers of an app have no tunnels to it: it may agree to anything, and take what comes in them for requests.
    let sneaky = r"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\nGET /next HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n";
    for who in ["", UNSEEN] {
        let heard = pair.client.run(&format!("{who} python3 {TALK} says 10.0.0.2 3129 '{sneaky}'"))?;
        holds!(heard.starts_with("HTTP/1.1 405") && heard.ends_with(r"GET /next HTTP/1.1\n"), "{heard}");
    }
    pair.programs[1].wait_for("\"path\":\"/next\"")?;
    // Where a route speaks for it, it is the route's.
    same!(pair.curl("-x http://10.0.0.2:3129 http://own.example/")?, "by a route");
    let refused = pair.curl("-x http://10.0.0.2:3128 -w '%{http_connect}' https://own.example/")?;
    holds!(refused.contains("405"), "{refused}");
    Ok(())
}

async fn half_closed() -> Result {
    let mut pair = Pair::with_sidecars("", SIDECAR, SIDECAR)?;
    pair.serve_http(&["8080"])?;
    for _ in 0..10 {
        let request = r"GET / HTTP/1.1\r\nHost: shop\r\n\r\n";
        let (heard, _) = pair.says(8080, request, "end")?;
        holds!(heard.starts_with("HTTP/1.1 200") && heard.ends_with(r"8080 by HTTP/1.1\n"), "{heard:?}");
    }
    Ok(())
}

/// A sidecar that takes mutual TLS and all else.
fn permissive(dir: &std::path::Path) -> Result<String> {
    std::fs::set_permissions(dir, PermissionsExt::from_mode(0o755))?;
    let authority = Authority::new("shop.example")?;
    let shows = authority.issue(&Says::id("spiffe://shop.example/ns/shop/sa/server"))?;
    let identity = Files::write(&dir.join("server"), &shows, authority.root())?.yaml();
    Ok(format!("{}{identity}\n", SIDECAR.replace("direction: inbound,", "direction: inbound, tls: permissive,")))
}

async fn halves() -> Result {
    let dir = tempfile::tempdir()?;
    let mut pair = Pair::with_sidecars("", SIDECAR, &permissive(dir.path())?)?;
    let _mirror = pair.mirror("0.0.0.0", 7000, "heard")?;
    pair.serve_greetings("0.0.0.0", 2525)?;
    // Who only listens says so.
    same!(pair.talk("silent 10.0.0.2 2525")?, "220 at your service");
    for half in [r"\x16", r"\x16\x03", r"\x16\x03\x01\x02\x00\x01", r"GET /", "ruok"] {
        let (heard, took) = pair.says(7000, half, "end")?;
        same!(heard, format!("heard: {half}"));
        holds!(took < Duration::from_secs(5), "{half}: {took:?}");
    }
    // No method stops in the middle of its word.
    let (heard, took) = pair.says(7000, "ruok", "")?;
    same!(heard, "heard: ruok");
    holds!(took < Duration::from_secs(5), "{took:?}");
    Ok(())
}

async fn silent_and_refused() -> Result {
    let closed =
        SIDECAR.replace("direction: outbound,", "direction: outbound, unknown_destinations: deny, limits: { idle: 1s },");
    let mut pair = Pair::with_sidecars("", &closed, SIDECAR)?;
    pair.serve_greetings("0.0.0.0", 2525)?;
    let refused = pair.client.run(&format!("timeout 9 python3 {TALK} greeted 10.0.0.2 2525 1"));
    let refused = refused.err().map(|error| error.to_string());
    holds!(refused.as_ref().is_some_and(|said| said.contains("ConnectionResetError")), "{refused:?}");
    pair.programs[0].wait_for("\"response_code_details\":\"no_route\"")
}

async fn called_again() -> Result {
    let pair = Pair::with_sidecars("", SIDECAR, SIDECAR)?;
    let _private = pair.mirror("127.0.0.1", 7000, "private")?;
    let public = pair.mirror("10.0.0.2", 7000, "public")?;
    same!(pair.says(7000, "!", "")?.0, "public: !");
    drop(public);
    same!(pair.says(7000, "!", "")?.0, "private: !");
    let _public = pair.mirror("10.0.0.2", 7000, "public")?;
    let back = Instant::now();
    while pair.says(7000, "!", "")?.0 != "public: !" {
        holds!(back.elapsed() < Duration::from_secs(15), "it is called no more");
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}

async fn link_local() -> Result {
    let mut pair = Pair::with_sidecars("", SIDECAR, SIDECAR)?;
    pair.serve_greetings("::", 2525)?;
    let address = pair.server.run("ip -o -6 addr show dev w0 scope link | awk '{print $4}' | cut -d/ -f1")?;
    let before = pair.counter(&pair.client, "weir_downstream_connections_total", "listener=\"outbound\"")?;
    same!(pair.talk(&format!("silent {}%w0 2525", address.trim()))?, "220 at your service");
    same!(pair.counter(&pair.client, "weir_downstream_connections_total", "listener=\"outbound\"")?, before);
    Ok(())
}

/// Half a minute each, so in the long form only.
async fn gone() -> Result {
    let pair = Pair::with_sidecars("", SIDECAR, SIDECAR)?;
    let mut late = pair.server.command("python3");
    late.args([TALK, "late", "0.0.0.0", "8080", "40"]);
    let mut late = Program::start(late)?;
    late.wait_for("serving")?;
    // More than the kernels on the way hold for who does not read.
    let upload = pair.dir.path().join("upload");
    std::fs::write(&upload, vec![0; 20_000_000])?;
    same!(pair.client.run(&format!("curl -sS -m 60 -T {} http://10.0.0.2:8080/", upload.display()))?, "20000000\n");
    pair.server.run("ip link set w0 down")?;
    let began = Instant::now();
    same!(pair.client.run("curl -sS -m 60 -o /dev/null -w '%{http_code}' http://10.0.0.2:8080/")?, "503");
    holds!(began.elapsed() < Duration::from_secs(35), "{:?}", began.elapsed());
    Ok(())
}
