//! `weir explain` says what serving does.

use tokio::process::Command;
use weir_tests::quick::Quick;
use weir_tests::weir::binary;
use weir_tests::{Result, Trial, Weir, holds, raw, same, test};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        test("control::explain::it_agrees_with_serving", it_agrees_with_serving),
        test("control::explain::what_it_says_of_endpoints", what_it_says_of_endpoints),
        test("control::explain::questions_that_have_no_answer", questions_that_have_no_answer),
    ]
}

/// Every rule answers with its name, so that an answer tells which one served.
const TABLE: &str = "listeners: [{ name: out, listen: 127.0.0.1:0, direction: outbound }]
routes:
  - name: one
    hosts: [one, '*.one']
    rules:
      - { name: a, match: [{ path: { exact: /a } }, { path: { prefix: /aa }, method: POST }], respond: { status: 200, body: one/a } }
      - { name: b, match: [{ headers: { x-b: { prefix: y } } }], respond: { status: 200, body: one/b } }
      - { name: c, match: [{ query: { q: { present: true } }, path: { regex: '/[a-c]+' } }], respond: { status: 200, body: one/c } }
      - { name: d, match: [{ path: { prefix: /a } }], respond: { status: 200, body: one/d } }
  - name: two
    hosts: ['*']
    rules:
      - { name: a, match: [{ method: [PUT, DELETE] }], respond: { status: 200, body: two/a } }
      - { name: b, match: [{ path: { string_prefix: /b } }], respond: { status: 200, body: two/b } }
";

async fn it_agrees_with_serving() -> Result {
    let weir = Weir::start(TABLE).await?;
    let mut random = fastrand::Rng::with_seed(11);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..400 {
        let host = random.choice(["one", "x.one", "other"]).unwrap_or("one");
        let path = random.choice(["/", "/a", "/a/x", "/aa", "/aa/b", "/b", "/bb", "/abc", "/c", "/%61"]).unwrap_or("/");
        let query = random.choice(["", "?q", "?q=1", "?r=1"]).unwrap_or("");
        let method = random.choice(["GET", "POST", "PUT"]).unwrap_or("GET");
        let header = random.choice(["", "x-b: yes", "x-b: no"]).unwrap_or("");
        let line = if header.is_empty() { String::new() } else { format!("{header}\r\n") };
        let request = format!("{method} {path}{query} HTTP/1.1\r\nhost: {host}\r\n{line}content-length: 0\r\n\r\n");
        let served = raw::request(weir.address("out"), &request).await?;
        let served = served.header("x-weir-error").map_or_else(|| served.text(), str::to_owned);
        let encoded = |text: &str| text.replace('%', "%25").replace('?', "%3F").replace(' ', "%20").replace('=', "%3D");
        let more = if header.is_empty() { String::new() } else { format!("&header={}", encoded(header)) };
        let page = format!("/explain?json=true&method={method}&url={}{more}", encoded(&format!("http://{host}{path}{query}")));
        let explained: serde_json::Value = serde_json::from_str(&weir.admin(&page).await?)?;
        let facts = explained["facts"].as_array().ok_or("no facts")?;
        let find = |section: &str, value: &str| {
            let found =
                facts.iter().find(|fact| fact["section"] == section && fact["value"].as_str().is_some_and(|v| v.contains(value)));
            found.and_then(|fact| fact["name"].as_str()).map(str::to_owned)
        };
        let says = match (find("Rules", "matches"), find("Answer", "")) {
            (Some(rule), _) => format!("{}/{rule}", find("Route", "").unwrap_or_default()),
            (None, Some(answer)) => answer.trim_start_matches("404 ").to_owned(),
            (None, None) => "nothing".to_owned(),
        };
        same!(says, served, "{request:?}: {explained:#}");
        seen.insert(served);
    }
    holds!(seen.len() >= 7, "every rule took part: {seen:?}");
    Ok(())
}

async fn what_it_says_of_endpoints() -> Result {
    let quick = Quick::text("ok").await?;
    let yaml = format!(
        "dns: {{ servers: ['127.0.0.1:1'] }}
listeners:
  - {{ name: out, listen: 127.0.0.1:0, direction: outbound }}
  - {{ name: in, listen: 127.0.0.1:0, direction: inbound, app: '{0}' }}
routes: [{{ name: all, hosts: ['*'], rules: [{{ backends: [{{ cluster: app }}] }}] }}]
clusters: {{ app: {{ endpoints: ['{0}', 'gone.test:80'] }} }}
",
        quick.address
    );
    let weir = Weir::start(&yaml).await?;
    let text = weir.admin("/explain?url=http://a/").await?;
    holds!(text.contains(&format!("{}", quick.address)) && text.contains("in, weight 1"), "{text}");
    holds!(text.contains("gone.test:80") && text.contains("out: "), "{text}");
    let text = weir.admin("/explain?url=/x&listener=in").await?;
    holds!(text.contains("takes what no route speaks for"), "{text}");
    let admin = weir.admin.to_string();
    let done = Command::new(binary()).args(["explain", "--admin", &admin, "--url", "http://a/", "-H", "x: y"]).output().await?;
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    holds!(done.status.success() && text.contains("\nEndpoints\n"), "{text} {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

async fn questions_that_have_no_answer() -> Result {
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), TABLE)?;
    for (arguments, why) in [
        (vec!["--url", "ht tp"], "is not a URL"),
        (vec!["--url", "/", "-H", "nonsense"], "write `name: value`"),
        (vec!["--url", "/", "--listener", "ot"], "did you mean `out`?"),
        (vec!["--url", "/", "-X", "G T"], "is not a method"),
        (vec!["--url", "/%00"], "encoded NUL"),
    ] {
        let done = Command::new(binary()).arg("explain").arg(file.path()).args(&arguments).output().await?;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        holds!(!done.status.success() && said.contains(why), "{arguments:?}: {said}");
    }
    Ok(())
}
