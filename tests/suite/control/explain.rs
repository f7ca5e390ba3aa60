//! What `weir explain` says besides the decision, which [`super::agreement`] is about.

use tokio::process::Command;
use weir_tests::quick::Quick;
use weir_tests::weir::binary;
use weir_tests::{Result, Trial, Weir, holds, test};

pub(super) fn trials() -> Vec<Trial> {
    vec![
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
