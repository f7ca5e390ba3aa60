use super::*;

const FILE: &str = "listeners: [{ name: out, listen: 127.0.0.1:1, direction: outbound }]
routes:
  - name: shop
    hosts: [shop]
    rules:
      - name: beta
        match: [{ headers: { x-beta: 'true' } }]
        respond: { status: 204 }
      - name: main
        match: [{ path: { prefix: /v1 } }]
        backends:
          - { cluster: a, weight: 95 }
          - { cluster: b, weight: 5 }
        rewrite: { path: { prefix: / } }
        timeout: { request: 10s }
        retry: { on: [5xx, reset] }
        headers: { request: { set: { x-env: prod }, remove: [x-debug] } }
clusters:
  a: { endpoints: [127.0.0.1:2] }
  b: { dns: b.test:80, connect_timeout: 2s }
";

fn question(url: &str, headers: &[&str]) -> Question {
    let headers = headers.iter().map(|line| (*line).to_owned()).collect();
    Question::parse(&Asked { url: Some(url.to_owned()), headers, ..Asked::default() }).unwrap()
}

fn ask(url: &str, headers: &[&str], draw: u64) -> Explanation {
    let (_, snapshot) = crate::load(FILE).unwrap();
    explain(&snapshot, FILE, &question(url, headers), draw, &|_| None).unwrap()
}

#[test]
fn every_value_has_its_source() {
    let text = ask("http://shop/v1/x?y=1", &["x-debug: 1"], u64::MAX).text("f.yaml");
    for line in [
        "  out            127.0.0.1:1  (f.yaml:1)",
        "  shop           has the most specific host  (f.yaml:3)",
        "  beta           no: the header `x-beta` does not fit  (f.yaml:6)",
        "  main           matches  (f.yaml:9)",
        "  a              95 %  (f.yaml:12)",
        "  b              5 %, drawn this time  (f.yaml:13)",
        "  target         /x?y=1  (f.yaml:14)",
        "  x-env          prod  (f.yaml:17)",
        "  x-debug        removed  (f.yaml:17)",
        "  b.test:80      each of its addresses has weight 1  (f.yaml:20)",
        "  request        10s  (f.yaml:15)",
        "  idle           300s  (default)",
        "  connect        2s  (f.yaml:20)",
        "  on             5xx, reset  (f.yaml:16)",
        "  attempts       1  (default)",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[test]
fn dead_ends_are_explained_too() {
    assert_eq!(ask("http://other/", &[], 0).value("Answer", "404 no_route"), Some("no route of the listener has this host"));
    assert_eq!(ask("http://shop/v2", &[], 0).value("Rules", "main"), Some("no: the path differs"));
    assert!(ask("http://shop/", &["x-beta: true"], 0).value("Answer", "204 No Content").is_some());
    let asked = Asked { url: Some("/".to_owned()), headers: vec!["nonsense".to_owned()], ..Asked::default() };
    let wrong = Question::parse(&asked).unwrap_err();
    assert_eq!(wrong, "`nonsense` is not a header; write `name: value`");
}

#[test]
fn redirects_and_repeated_fields_are_as_served() {
    const MOVED: &str = "listeners: [{ name: out, listen: 127.0.0.1:1, direction: outbound }]
routes:
  - name: all
    hosts: ['*']
    rules:
      - { name: moved, match: [{ path: { prefix: /a } }], redirect: { host: new } }
      - { name: rest, backends: [{ cluster: c }] }
clusters: { c: { endpoints: [127.0.0.1:2] } }
";
    let (_, snapshot) = crate::load(MOVED).unwrap();
    let ask = |url: &str| explain(&snapshot, MOVED, &question(url, &["x: 1", "x: 2"]), 0, &|_| None).unwrap();
    assert_eq!(ask("http://shop:8080/%61?b").value("Answer", "302 Found"), Some("location: http://new:8080/%61?b"));
    assert_eq!(ask("http://shop/b").value("Sent upstream", "x"), None, "a field that came twice has not changed");
}

/// Connections that were going elsewhere.
const REDIRECTED: &str = "listeners:
  - { name: out, listen: 127.0.0.1:1, direction: outbound, original_destination: true, ports: { '9000-9001': tcp, '8080': http } }
  - { name: closed, listen: 127.0.0.1:2, direction: outbound, original_destination: true, unknown_destinations: deny }
  - { name: in, listen: 127.0.0.1:3, direction: inbound, original_destination: true }
  - { name: plain, listen: 127.0.0.1:4, direction: outbound }
routes:
  - { name: db, protocol: tcp, listeners: [out, closed], destinations: ['10.0.0.7:5432'], rules: [{ name: to-b, backends: [{ cluster: b }] }] }
  - { name: vault, protocol: tls, listeners: [out], hosts: [vault.test], rules: [{ name: to-v, backends: [{ cluster: b }] }] }
  - { name: web, listeners: [out], hosts: [web], rules: [{ name: to-w, backends: [{ cluster: b }] }] }
clusters: { b: { endpoints: [127.0.0.1:9] } }
";

#[test]
fn redirected_connections() {
    let (_, snapshot) = crate::load(REDIRECTED).unwrap();
    let ask = |listener: &str, to: Option<&str>, url: Option<&str>| {
        let [listener, to, url] = [Some(listener), to, url].map(|text| text.map(str::to_owned));
        let question = Question::parse(&Asked { listener, to, url, ..Asked::default() })?;
        explain(&snapshot, REDIRECTED, &question, 0, &|_| None)
    };
    let says = |asked: (&str, Option<&str>, Option<&str>), section: &str, name: &str, value: &str| {
        let told = ask(asked.0, asked.1, asked.2).unwrap();
        assert_eq!(told.value(section, name), Some(value), "{asked:?}\n{}", told.text("f.yaml"));
    };
    let db = Some("10.0.0.7:5432");
    let passed = "where the connection was going";
    // By destination, which the usual opaque ports are not even asked what they say.
    says(("out", db, None), "Route", "db", "has the most specific destination");
    says(("out", db, Some("http://web/")), "Endpoints", "127.0.0.1:9", "weight 1");
    says(("out", db, None), "Connection", "is spoken", "opaque TCP: nobody looks into it");
    // By the server name, by the host, and by nothing.
    says(("out", Some("9.9.9.9:443"), Some("https://vault.test")), "Rules", "to-v", "matches");
    says(("out", Some("9.9.9.9:443"), Some("https://other.test")), "Endpoints", "9.9.9.9:443", passed);
    says(("out", Some("9.9.9.9:80"), Some("http://web/")), "Rules", "to-w", "matches");
    says(("out", Some("9.9.9.9:80"), Some("http://other/")), "Endpoints", "9.9.9.9:80", passed);
    says(("out", Some("9.9.9.9:80"), None), "Endpoints", "9.9.9.9:80", passed);
    // What is declared needs no look.
    says(("out", Some("9.9.9.9:9001"), Some("http://web/")), "Endpoints", "9.9.9.9:9001", passed);
    let text = ask("out", Some("9.9.9.9:9001"), None).unwrap().text("f.yaml");
    assert!(text.contains("opaque TCP: nobody looks into it  (f.yaml:2)"), "{text}");
    // What is denied, what came to the listener itself, and the app.
    let denied = "no route is about it, and unknown destinations are denied";
    says(("closed", Some("10.0.0.7:5433"), None), "Answer", "reset", denied);
    says(("closed", db, None), "Rules", "to-b", "matches");
    says(
        ("closed", Some("10.0.0.7:80"), Some("http://other/")),
        "Answer",
        "404 no_route",
        "no route of the listener has this host",
    );
    let nobody = "nobody knows where it was going (`--to` says it); weir answers 503 no_endpoint";
    says(("out", None, Some("http://other/")), "Endpoints", "-", nobody);
    let app = "the app, where the caller asked for it, or on port 7000 of loopback";
    says(("in", Some("10.0.0.1:7000"), Some("http://x/")), "Endpoints", "10.0.0.1:7000", app);
    says(("in", Some("10.0.0.1:7000"), None), "Endpoints", "10.0.0.1:7000", app);
    for (listener, to, url, why) in [
        ("plain", db, None, "`plain` takes no connections that were going elsewhere (`original_destination: true`)"),
        ("out", Some("10.0.0.1:8080"), None, "it is HTTP that is spoken there: say which URL"),
        ("out", Some("10.0.0.1"), None, "`10.0.0.1` is not an address with a port, such as `10.0.0.7:5432` or `[fd00::7]:5432`"),
        ("out", None, None, "say which URL, for example `http://checkout/v2`, or where a redirected connection was going"),
    ] {
        assert_eq!(ask(listener, to, url).unwrap_err(), why);
    }
}

/// What mutual TLS, policies and weir's own ports make of them.
const GUARDED: &str = "admin: { listen: 127.0.0.1:15000 }
identity: { files: { cert: /a, key: /b, trust: /c } }
listeners:
  - { name: strict, listen: '0.0.0.0:15006', direction: inbound, original_destination: true, tls: strict, ports: { '7000': http } }
  - { name: mixed, listen: '0.0.0.0:15007', direction: inbound, original_destination: true, tls: permissive, app: '127.0.0.1:8080' }
  - { name: out, listen: 127.0.0.1:15001, direction: outbound, original_destination: true, ports: { '8443-8443': http } }
  - { name: named, listen: '0.0.0.0:15008', direction: inbound, original_destination: true, tls: permissive }
routes:
  - { name: any, protocol: tls, listeners: [out], hosts: ['*'], rules: [{ backends: [{ cluster: b }] }] }
authorization:
  - { name: shut, listeners: [mixed], action: deny, to: [{ ports: [9999] }] }
  - { name: names, listeners: [named], action: deny, to: [{ hosts: [secret] }] }
clusters: { b: { endpoints: [127.0.0.1:9] } }
";

#[test]
fn guarded_connections() {
    let (_, snapshot) = crate::load(GUARDED).unwrap_or_else(|wrong| panic!("{wrong:#?}"));
    const CART: &str = "spiffe://shop/cart";
    let ask = |listener: &str, to: Option<&str>, url: Option<&str>, from: Option<&str>| {
        let [listener, to, url, from] = [Some(listener), to, url, from].map(|text| text.map(str::to_owned));
        let question = Question::parse(&Asked { listener, to, url, from, ..Asked::default() })?;
        explain(&snapshot, GUARDED, &question, 0, &|_| None)
    };
    let says = |asked: (&str, Option<&str>, Option<&str>, Option<&str>), section: &str, name: &str, value: &str| {
        let told = ask(asked.0, asked.1, asked.2, asked.3).unwrap_or_else(|why| panic!("{asked:?}: {why}"));
        assert_eq!(told.value(section, name), Some(value), "{asked:?}\n{}", told.text("f.yaml"));
    };
    let (db, seven, https) = (Some("10.0.0.1:5432"), Some("10.0.0.1:7000"), Some("https://x/"));
    // What mutual TLS has agreed on counts before what is declared.
    says(("strict", db, Some("http://x/"), Some(CART)), "Connection", "is spoken", "HTTP, which mutual TLS has agreed on");
    says(("strict", db, https, Some(CART)), "Request", "host", "x");
    says(("strict", seven, None, Some(CART)), "Connection", "is spoken", "opaque TCP, which mutual TLS has agreed on");
    let stranger = "must be of the mesh, or is refused: say who it is, with `--from`";
    says(("strict", seven, Some("http://x/"), None), "Connection", "caller", stranger);
    assert_eq!(ask("strict", db, None, Some(CART)).unwrap().value("Connection", "caller"), None);
    // Who shows nothing may speak TLS of the app's own, or nothing of the kind.
    says(("mixed", Some("10.0.0.1:8443"), https, None), "Connection", "is spoken", "found out by the first bytes: TLS");
    says(("mixed", Some("10.0.0.1:8443"), https, Some(CART)), "Request", "host", "x");
    says(("mixed", db, Some("http://x/"), None), "Connection", "is spoken", "opaque TCP: nobody looks into it");
    // Whoever calls the listener itself calls the app that is named, and who was redirected the one that was meant.
    says(("mixed", None, Some("http://x/"), None), "Endpoints", "127.0.0.1:8080", "weight 1");
    let app = "the app, where the caller asked for it, or on port 8081 of loopback";
    says(("mixed", Some("10.0.0.1:8081"), Some("http://x/"), None), "Endpoints", "10.0.0.1:8081", app);
    // Policies know the port that was asked for, and believe no name of TLS that weir did not end.
    says(("mixed", Some("10.0.0.1:9999"), None, None), "Answer", "reset", "the connection is refused");
    says(("named", Some("10.0.0.1:80"), Some("http://secret/"), None), "Answer", "403 denied", "the request is refused");
    assert_eq!(ask("named", Some("10.0.0.1:80"), Some("http://open/"), None).unwrap().value("Answer", "403 denied"), None);
    says(("named", Some("10.0.0.1:443"), Some("https://open/"), None), "Answer", "reset", "the connection is refused");
    // Ports of weir's own.
    let own = "own_port: a port of weir's own, where nobody but weir and the app has business";
    says(("mixed", Some("10.0.0.1:15000"), Some("http://x/"), None), "Answer", "reset", own);
    says(("out", Some("127.0.0.1:15000"), None, None), "Answer", "reset", own);
    says(("out", Some("10.0.0.9:15000"), None, None), "Endpoints", "10.0.0.9:15000", "where the connection was going");
    says(("out", Some("127.0.0.1:15001"), Some("http://x/"), None), "Connection", "was going to", "the listener itself");
    // Of an address TLS shows no name, and TLS is not looked into where it is HTTP that is spoken.
    says(("out", Some("10.0.0.9:443"), https, None), "Endpoints", "127.0.0.1:9", "weight 1");
    says(
        ("out", Some("10.0.0.9:443"), Some("https://10.0.0.9/"), None),
        "Endpoints",
        "10.0.0.9:443",
        "where the connection was going",
    );
    says(("out", Some("[::ffff:10.0.0.9]:80"), None, None), "Connection", "was going to", "10.0.0.9:80");
    for to in [Some("10.0.0.9:8443"), None] {
        assert!(ask("out", to, https, None).unwrap_err().contains("it is HTTP that is spoken there"));
    }
    // A line is named where one says so, and none where none does.
    let text = ask("out", Some("10.0.0.9:8443"), Some("http://x/"), None).unwrap().text("f.yaml");
    for line in ["  is spoken      HTTP  (f.yaml:6)", "  out:passthrough  100 %"] {
        assert!(text.lines().any(|found| found.split_whitespace().eq(line.split_whitespace())), "{line}\n{text}");
    }
}
