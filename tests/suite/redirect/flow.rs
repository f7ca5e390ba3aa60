//! Two pods with a weir beside each app, and apps that know nothing of it.

use std::time::Duration;

use weir_tests::peers::Peer;
use weir_tests::pod::Program;
use weir_tests::weir::binary;
use weir_tests::{Result, Trial, holds, same, test_alone_with, test_with};

use super::{DIRECT, GRPC, Pair, SIDECAR, TALK, UNSEEN};

pub fn trials() -> Vec<Trial> {
    let needs = ["nginx", "curl", "redis-server", "nft", "iptables"].map(Peer::Program).into_iter().chain([Peer::Namespaces]);
    let needs: Vec<Peer> = needs.collect();
    let mut trials = vec![
        test_with("redirect::flow::the_app_is_found_wherever_it_listens", &needs, wherever),
        test_with("redirect::flow::ports_of_weir_itself_are_refused", &needs, own_ports),
        test_alone_with("redirect::flow::who_speaks_first_is_heard_at_once", &needs, speaks_first),
        test_with("redirect::flow::what_is_excluded_passes", &needs, exclusions),
        test_with("redirect::flow::short_connections_do_not_use_ports_up", &needs, short),
        test_with("redirect::flow::slow_and_torn_beginnings_are_what_they_are", &needs, slow),
        test_with("redirect::flow::routes_by_destination_and_by_server_name", &needs, destinations),
        test_with("redirect::flow::unknown_destinations_are_refused_where_they_are_to_be", &needs, denied),
        test_with("redirect::flow::what_comes_round_is_stopped", &needs, comes_round),
        test_with("redirect::flow::a_pod_calls_itself_as_a_service", &needs, itself),
    ];
    let more = [Peer::Python("grpc"), Peer::Program("initdb"), Peer::Program("psql")];
    let more: Vec<Peer> = needs.iter().copied().chain(more).collect();
    trials.push(test_with("redirect::flow::applications_as_they_are", &more, applications));
    for backend in ["nftables", "iptables-nft", "iptables-legacy"] {
        for families in ["ipv4", "ipv6", "dual"] {
            let name = format!("redirect::flow::{}_{families}", backend.replace('-', "_"));
            trials.push(test_with(&name, &needs, move || matrix(backend, families)));
        }
    }
    trials
}

async fn matrix(backend: &'static str, families: &'static str) -> Result {
    let ipv6 = if families == "ipv4" { "off" } else { "on" };
    let mut pair = Pair::with_sidecars(&format!("--backend {backend} --ipv6 {ipv6}"), SIDECAR, SIDECAR)?;
    pair.serve_http(&["8080", "[::]:8080 ipv6only=on", "8081 http2", "[::]:8081 http2 ipv6only=on"])?;
    pair.serve_redis(7000)?;
    pair.serve_greetings("::", 2525)?;
    let hosts: &[&str] = match families {
        "ipv4" => &["10.0.0.2"],
        "ipv6" => &["fd00:0::2"],
        _ => &["10.0.0.2", "fd00:0::2"],
    };
    for host in hosts {
        let url = if host.contains(':') { format!("'http://[{host}]") } else { format!("'http://{host}") };
        same!(pair.curl(&format!("{url}:8080/'"))?, "8080 by HTTP/1.1\n", "{host}");
        same!(pair.curl(&format!("--http2-prior-knowledge {url}:8081/'"))?, "8081 by HTTP/2.0\n", "{host}");
        same!(pair.client.run(&format!("redis-cli -h {host} -p 7000 set k {host}"))?.trim(), "OK");
        same!(pair.client.run(&format!("redis-cli -h {host} -p 7000 get k"))?.trim(), *host);
        pair.talk(&format!("greeted {host} 2525 3"))?;
        same!(pair.talk(&format!("silent {host} 2525"))?, "220 at your service");
    }
    let times = hosts.len() as u64;
    for (pod, listener) in [(&pair.client, "outbound"), (&pair.server, "inbound")] {
        let labels = |protocol: &str| format!("listener=\"{listener}\",protocol=\"{protocol}\"");
        let count = |protocol| pair.counter(pod, "weir_downstream_protocols_total", &labels(protocol));
        same!(count("http1")?, times, "{listener}");
        same!(count("http2")?, times, "{listener}");
        // Redis twice, greetings three times, once in silence. A caller of HTTP who is slow to say so has somebody called for it in
        // vain, twice at most.
        let (opaque, in_vain) = (count("tcp")?, if listener == "inbound" { times * 2 } else { 0 });
        holds!((times * 6..=times * 6 + in_vain).contains(&opaque), "{listener}: {opaque}");
    }
    same!(pair.counter(&pair.client, "weir_passthrough_total", "class=\"private\"")?, times * 8);
    Ok(())
}

async fn wherever() -> Result {
    let mut pair = Pair::with_sidecars("", SIDECAR, SIDECAR)?;
    pair.serve_http(&["0.0.0.0:8080", "127.0.0.1:8081", "10.0.0.2:8082", "[::1]:8083", "[fd00:0::2]:8084"])?;
    for port in 8080..=8083 {
        same!(pair.curl(&format!("http://10.0.0.2:{port}/"))?, format!("{port} by HTTP/1.1\n"));
    }
    for port in [8081, 8083, 8084] {
        same!(pair.curl(&format!("'http://[fd00:0::2]:{port}/'"))?, format!("{port} by HTTP/1.1\n"));
    }
    same!(pair.curl("-o /dev/null -w '%{http_code}' http://10.0.0.2:8099/")?, "503");
    // A caller that does not speak HTTP hears of it as it would without weir, soon after at least.
    let failed = pair.client.run(&format!("python3 {TALK} greeted 10.0.0.2 8099 1")).err().map(|error| error.to_string());
    holds!(failed.as_ref().is_some_and(|said| said.contains("ConnectionResetError")), "{failed:?}");
    Ok(())
}

async fn own_ports() -> Result {
    let mut pair = Pair::with_sidecars("", SIDECAR, SIDECAR)?;
    pair.serve_http(&["8080"])?;
    for port in [15000, 15001] {
        let refused = pair.client.run(&format!("{DIRECT} curl -sS -m 5 http://10.0.0.2:{port}/ 2>&1 || true"))?;
        holds!(refused.contains("reset") || refused.contains("Couldn't connect"), "port {port}: {refused}");
        same!(pair.curl(&format!("-o /dev/null -w '%{{http_code}}' http://10.0.0.2:{port}/"))?, "503");
    }
    pair.programs[1].wait_for("\"response_code_details\":\"own_port\"")?;
    // Probes are for all to see, and no business of redirection.
    same!(pair.curl("-o /dev/null -w '%{http_code}' http://10.0.0.2:15020/ready")?, "200");
    // Whoever calls the inbound listener itself has not said which port of the app it wants.
    let lost = pair
        .client
        .run("setpriv --reuid 1337 --clear-groups curl -sS -m 5 -o /dev/null -w '%{http_code}' http://10.0.0.2:15006/")?;
    same!(lost, "503");
    same!(pair.curl("http://10.0.0.2:8080/")?, "8080 by HTTP/1.1\n");
    Ok(())
}

async fn speaks_first() -> Result {
    let mut pair = Pair::with_sidecars("--exclude-outbound-ports 2526 --exclude-inbound-ports 2526", SIDECAR, SIDECAR)?;
    for port in [2525, 2526, 3306] {
        pair.serve_greetings("0.0.0.0", port)?;
    }
    // The median of many, for machines are busy.
    let direct: f64 = pair.talk("greeted 10.0.0.2 2526 51")?.parse()?;
    let found_out: f64 = pair.talk("greeted 10.0.0.2 2525 51")?.parse()?;
    let declared: f64 = pair.talk("greeted 10.0.0.2 3306 51")?.parse()?;
    let most = if binary().iter().any(|part| part == "debug") { 10.0 } else { 5.0 };
    holds!(found_out - direct < most, "{found_out} ms through two sidecars that find it out, {direct} ms without");
    holds!(declared < found_out, "{declared} ms where it is declared, {found_out} ms where not");
    Ok(())
}

/// More connections than there are ports for a minute, of which the caller ends each first.
async fn short() -> Result {
    let mut pair = Pair::with_sidecars("", SIDECAR, SIDECAR)?;
    pair.server.run("echo 40000 40099 >/proc/sys/net/ipv4/ip_local_port_range")?;
    pair.serve_greetings("0.0.0.0", 3306)?;
    // The kernel uses a port again for the same destination after a second.
    for _ in 0..3 {
        pair.talk("greeted 10.0.0.2 3306 80")?;
        std::thread::sleep(Duration::from_millis(1200));
    }
    Ok(())
}

async fn slow() -> Result {
    let mut pair = Pair::with_sidecars("", SIDECAR, SIDECAR)?;
    pair.serve_http(&["8080", "8081 http2"])?;
    let mut eager = pair.server.command("python3");
    let mut eager = Program::start({
        eager.args([TALK, "eager", "0.0.0.0", "8082"]);
        eager
    })?;
    eager.wait_for("serving")?;
    // SETTINGS, from whoever is in front. Past the caller's own sidecar, it is the callee's that finds it out. Whoever is meant
    // has been called by the first byte, and may have said its own SETTINGS.
    for port in [8081, 8082] {
        same!(pair.talk(&format!("slow 10.0.0.2 {port}"))?, "4");
        same!(pair.client.run(&format!("{UNSEEN} python3 {TALK} slow 10.0.0.2 {port}"))?.trim(), "4");
    }
    same!(pair.talk("torn 10.0.0.2 8080")?, "HTTP/1.1 200 OK");
    same!(pair.client.run(&format!("{UNSEEN} python3 {TALK} torn 10.0.0.2 8080"))?.trim(), "HTTP/1.1 200 OK");
    // By the caller's sidecar the torn request comes to the callee's in one piece, and connections that were opened in vain.
    for (pod, listener, http1) in [(&pair.client, "outbound", 1), (&pair.server, "inbound", 2)] {
        let count = |protocol: &str| {
            pair.counter(pod, "weir_downstream_protocols_total", &format!("listener=\"{listener}\",protocol=\"{protocol}\""))
        };
        same!((count("http1")?, count("http2")?), (http1, 2), "{listener}");
        holds!(listener == "inbound" || count("tcp")? == 0, "{}", count("tcp")?);
    }
    Ok(())
}

/// Clients and servers as they are: gRPC's servers say their SETTINGS before they were asked anything, PostgreSQL's protocol is
/// of those that are declared, and found out on another port.
async fn applications() -> Result {
    let mut pair = Pair::with_sidecars("", SIDECAR, SIDECAR)?;
    let port = pair.serve_grpc()?;
    for group in ["kinds", "metadata", "cancel", "large"] {
        let told = pair.client.run(&format!("python3 {GRPC} check 10.0.0.2:{port} {group}"))?;
        holds!(told.contains("all checks passed"), "{group}: {told}");
    }
    // Four channels on four connections, which become streams of fewer. A caller that was slow to begin has somebody called for
    // it in vain, of which the callee's sidecar sees a connection.
    let count = |pod, listener: &str, protocol: &str| {
        pair.counter(pod, "weir_downstream_protocols_total", &format!("listener=\"{listener}\",protocol=\"{protocol}\""))
    };
    let out = |protocol| count(&pair.client, "outbound", protocol);
    same!((out("http1")?, out("http2")?, out("tcp")?), (0, 4, 0));
    holds!(count(&pair.server, "inbound", "http2")? >= 1 && count(&pair.server, "inbound", "http1")? == 0);
    for place in [0, 1] {
        pair.programs[place].wait_for("\"grpc_status\":0")?;
    }
    for port in [5432, 7432] {
        pair.serve_postgres(port)?;
        let asked = "psql -h 10.0.0.2 -U postgres -d postgres -Atc 'select 6 * 7'";
        same!(pair.client.run(&format!("PGSSLMODE=disable {asked} -p {port}"))?.trim(), "42", "{port}");
        pair.programs.pop();
    }
    Ok(())
}

/// What is excluded goes past both sidecars, and what is included does not.
async fn exclusions() -> Result {
    let install =
        "--exclude-outbound-ports 8081 --exclude-outbound-cidrs 10.98.0.0/16 --exclude-uids 4242 --exclude-inbound-ports 8082";
    let mut pair = Pair::with_sidecars(install, SIDECAR, SIDECAR)?;
    pair.serve_http(&["8080", "[::]:8080 ipv6only=on", "8081", "8082"])?;
    // Platforms' metadata, and other addresses of the server.
    let elsewhere = ["169.254.169.254", "169.254.170.2", "169.254.170.23", "10.98.0.9", "10.97.0.9"];
    for address in elsewhere {
        pair.server.run(&format!("ip addr add {address}/32 dev lo"))?;
        pair.client.run(&format!("ip route add {address}/32 via 10.0.0.2"))?;
    }
    for address in ["fd00:ec2::254", "fd00:ec2::23"] {
        pair.server.run(&format!("ip -6 addr add {address}/128 dev lo nodad"))?;
        pair.client.run(&format!("ip -6 route add {address}/128 via fd00:0::2"))?;
    }
    let seen = |pod, listener: &str| pair.counter(pod, "weir_downstream_connections_total", &format!("listener=\"{listener}\""));
    for (what, [out, inn]) in [
        ("curl -sS -m 5 http://10.0.0.2:8080/", [1, 1]),
        ("curl -sS -m 5 http://10.97.0.9:8080/", [1, 1]),
        ("curl -sS -m 5 http://10.98.0.9:8080/", [0, 1]),
        ("curl -sS -m 5 http://169.254.169.254:8080/", [0, 1]),
        ("curl -sS -m 5 http://169.254.170.2:8080/", [0, 1]),
        ("curl -sS -m 5 http://169.254.170.23:8080/", [0, 1]),
        ("curl -sS -m 5 'http://[fd00:ec2::254]:8080/'", [0, 1]),
        ("curl -sS -m 5 'http://[fd00:ec2::23]:8080/'", [0, 1]),
        ("curl -sS -m 5 http://10.0.0.2:8081/", [0, 1]),
        ("curl -sS -m 5 http://10.0.0.2:8082/", [1, 0]),
        ("setpriv --reuid 4242 --clear-groups curl -sS -m 5 http://10.0.0.2:8080/", [0, 1]),
    ] {
        let before = [seen(&pair.client, "outbound")?, seen(&pair.server, "inbound")?];
        holds!(pair.client.run(what)?.contains("by HTTP/1.1"), "{what}");
        let after = [seen(&pair.client, "outbound")?, seen(&pair.server, "inbound")?];
        same!([after[0] - before[0], after[1] - before[1]], [out, inn], "{what}");
    }
    // Interfaces pass as a whole, both ways.
    let binary = binary();
    for pod in [&pair.client, &pair.server] {
        pod.run(&format!("{} redirect install --exclude-interfaces w0", binary.display()))?;
    }
    let before = [seen(&pair.client, "outbound")?, seen(&pair.server, "inbound")?];
    same!(pair.curl("http://10.0.0.2:8080/")?, "8080 by HTTP/1.1\n");
    same!([seen(&pair.client, "outbound")?, seen(&pair.server, "inbound")?], before);
    Ok(())
}

async fn destinations() -> Result {
    let routes = "
routes:
  - { name: cache, protocol: tcp, destinations: ['10.96.0.7:6379'], rules: [{ backends: [{ cluster: cache }] }] }
  - { name: any-greeter, protocol: tcp, destinations: ['10.96.3.0/24:*'], rules: [{ backends: [{ cluster: greeter }] }] }
  - { name: any, protocol: tcp, destinations: ['10.96.0.0/16:*'], rules: [{ backends: [{ cluster: cache }] }] }
  - { name: web, hosts: [web], rules: [{ backends: [{ cluster: web }] }] }
  - { name: secret, protocol: tls, hosts: ['*.secret.example'], rules: [{ backends: [{ cluster: web }] }] }
clusters:
  cache: { endpoints: ['10.0.0.2:7000'] }
  greeter: { endpoints: ['10.0.0.2:2525'] }
  web: { endpoints: ['10.0.0.2:8080'] }
";
    let mut pair = Pair::with_sidecars("", &format!("{SIDECAR}{routes}"), SIDECAR)?;
    // Addresses of services, which nobody has: they lead somewhere only by weir.
    pair.client.run("ip route add 10.96.0.0/16 via 10.0.0.2")?;
    pair.serve_http(&["8080"])?;
    pair.serve_redis(7000)?;
    pair.serve_greetings("0.0.0.0", 2525)?;
    same!(pair.client.run("redis-cli -h 10.96.0.7 ping")?.trim(), "PONG");
    pair.talk("greeted 10.96.3.3 4444 1")?;
    pair.talk("greeted 10.96.3.3 9999 1")?;
    same!(pair.client.run("redis-cli -h 10.96.0.11 -p 7777 ping")?.trim(), "PONG");
    same!(pair.curl("--resolve web:80:10.96.0.8 http://web/")?, "8080 by HTTP/1.1\n");
    // A name says more than an address; whoever the address leads to waits for its caller, who may be slow. nginx speaks no
    // TLS there, and says so in its own words: that is how far the bytes came.
    let tls = pair.curl("-o /dev/null --resolve a.secret.example:443:10.96.0.9 https://a.secret.example/")?;
    holds!(tls.contains("exit="), "{tls}");
    for route in ["cache", "any-greeter", "any", "web", "secret"] {
        pair.programs[0].wait_for(&format!("\"route_name\":\"{route}\""))?;
    }
    pair.programs[0].wait_for("\"authority\":\"a.secret.example\"")?;
    // The same is told to who asks.
    let admin = format!("{} explain --admin 127.0.0.1:15000", binary().display());
    for (question, route) in [
        ("--to 10.96.0.7:6379", "cache"),
        ("--to 10.96.3.3:4444", "any-greeter"),
        ("--to 10.96.3.3:9999", "any-greeter"),
        ("--to 10.96.0.11:7777", "any"),
        ("--to 10.96.0.8:80 --url http://web/", "web"),
        ("--to 10.96.0.9:443 --url https://a.secret.example/", "secret"),
    ] {
        let told = pair.client.run(&format!("{admin} {question}"))?;
        let named = told.lines().skip_while(|line| *line != "Route").nth(1).and_then(|line| line.split_whitespace().next());
        same!(named, Some(route), "{question}: {told}");
    }
    Ok(())
}

async fn denied() -> Result {
    let closed = SIDECAR.replace("direction: outbound,", "direction: outbound, unknown_destinations: deny,");
    let routes = "
routes: [{ name: web, hosts: [web], rules: [{ backends: [{ cluster: web }] }] }]
clusters: { web: { endpoints: ['10.0.0.2:8080'] } }
";
    let mut pair = Pair::with_sidecars("", &format!("{closed}{routes}"), SIDECAR)?;
    pair.serve_http(&["8080"])?;
    pair.serve_greetings("0.0.0.0", 2525)?;
    same!(pair.curl("-H 'host: web' http://10.0.0.2:8080/")?, "8080 by HTTP/1.1\n");
    let unknown = pair.curl("-o /dev/null -w '%{http_code} %header{x-weir-error}' http://10.0.0.2:8080/")?;
    same!(unknown, "404 no_route");
    for port in [2525, 3306] {
        let refused = pair.client.run(&format!("echo QUIT | timeout 5 python3 {TALK} silent 10.0.0.2 {port}"));
        let refused = refused.err().map(|error| error.to_string());
        holds!(refused.as_ref().is_some_and(|said| said.contains("ConnectionResetError")), "{port}: {refused:?}");
    }
    Ok(())
}

/// The app calls a service that its own pod is part of: the call leaves by the outbound listener and comes back by the inbound
/// one, as all others do.
async fn itself() -> Result {
    let routes = "
routes: [{ name: me, hosts: [me], rules: [{ backends: [{ cluster: me }] }] }]
clusters: { me: { endpoints: ['10.0.0.2:8080', '[fd00:0::2]:8080'] } }
";
    let mut pair = Pair::with_sidecars("", SIDECAR, &format!("{SIDECAR}{routes}"))?;
    pair.serve_http(&["8080", "[::]:8080 ipv6only=on"])?;
    pair.server.run("ip route add 10.96.0.0/16 via 10.0.0.1")?;
    for _ in 0..8 {
        same!(pair.server.run("curl -sS -m 5 --resolve me:80:10.96.0.1 http://me/")?, "8080 by HTTP/1.1\n");
    }
    // By its own addresses it calls itself without weir.
    same!(pair.server.run("curl -sS -m 5 http://10.0.0.2:8080/")?, "8080 by HTTP/1.1\n");
    same!(pair.server.run("curl -sS -m 5 http://127.0.0.1:8080/")?, "8080 by HTTP/1.1\n");
    same!(
        pair.server.run("curl -sS -m 15 -H 'host: last' --resolve me:80:10.96.0.1 http://me/ -o /dev/null -w '%{http_code}'")?,
        "504"
    );
    pair.programs[1].wait_for("\"authority\":\"last\"")?;
    let log = pair.programs[1].output()?;
    let came = |listener: &str| log.lines().filter(|line| line.contains(&format!("\"listener\":\"{listener}\""))).count();
    same!((came("outbound"), came("inbound")), (9, 8), "{log}");
    Ok(())
}

/// Rules that do not know the user that weir runs as.
async fn comes_round() -> Result {
    let mut pair = Pair::with_sidecars("--uid 2000 --gid none", SIDECAR, SIDECAR)?;
    pair.serve_http(&["8080"])?;
    pair.serve_greetings("0.0.0.0", 2525)?;
    let told = pair.curl("-o /dev/null -w '%{http_code}' http://10.0.0.2:8080/")?;
    same!(told, "508");
    let refused = pair.client.run(&format!("timeout 9 python3 {TALK} greeted 10.0.0.2 2525 1"));
    holds!(refused.is_err(), "{refused:?}");
    pair.programs[0].wait_for("run weir as the user that")?;
    let open = pair.counter(&pair.client, "weir_downstream_connections_total", "listener=\"outbound\"")?;
    holds!(open < 50, "{open} connections before it was noticed");
    Ok(())
}
