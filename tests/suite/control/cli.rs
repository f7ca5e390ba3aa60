//! The command line.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use weir_tests::weir::binary;
use weir_tests::{Result, Trial, holds, same, test};

use super::version;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        test("control::cli::check_finds_every_mistake", check_finds_every_mistake),
        test("control::cli::check_as_json", check_as_json),
        test("control::cli::run_refuses_what_check_refuses", run_refuses_what_check_refuses),
        test("control::cli::run_names_the_listener_whose_port_is_taken", run_names_the_listener_whose_port_is_taken),
        test("control::cli::schema_and_completions", schema_and_completions),
        test("control::cli::the_demo_splits_its_requests", the_demo_splits_its_requests),
        test("control::cli::an_authority_issues_what_weir_runs_with", an_authority_issues_what_weir_runs_with),
        test("control::cli::a_closed_pipe_is_no_panic", a_closed_pipe_is_no_panic),
    ]
}

struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Runs weir to its end.
async fn weir(arguments: &[&str], input: &str) -> Result<Said> {
    let mut command = Command::new(binary());
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().ok_or("no stdin")?;
    // Who does not read its input may be gone already.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let Output { status, stdout, stderr } = tokio::time::timeout(Duration::from_secs(20), child.wait_with_output()).await??;
    Ok(Said { code: status.code(), out: String::from_utf8(stdout)?, err: String::from_utf8(stderr)? })
}

fn good() -> String {
    version(1, ([127, 0, 0, 1], 9).into())
}

/// Three mistakes of meaning: lines and words.
const BAD: [(u32, &str); 3] = [(3, "99999"), (4, "elsewhere"), (5, "portless")];

fn bad() -> String {
    good()
        .replace("127.0.0.1:0, direction", "127.0.0.1:99999, direction")
        .replace("cluster: only", "cluster: elsewhere")
        .replace("127.0.0.1:9'", "portless'")
}

/// Two mistakes of structure, which hide those of meaning: what is not understood cannot be judged.
fn nonsense() -> String {
    format!("{}nonsense: true\n", bad().replace("name: only, ", "name: only, colour: red, "))
}

async fn check_finds_every_mistake() -> Result {
    let dir = tempfile::tempdir()?;
    let path = |name: &str, text: &str| -> Result<String> {
        let path = dir.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    };
    let fine = path("good.yaml", &good())?;
    let said = weir(&["check", &fine], "").await?;
    same!((said.code, said.err.as_str()), (Some(0), ""));
    holds!(said.out.starts_with(&format!("{fine}: ok")), "{}", said.out);

    let wrong = path("bad.yaml", &bad())?;
    let said = weir(&["check", &wrong], "").await?;
    same!((said.code, said.out.as_str()), (Some(1), ""));
    all_said(&said.err, &wrong, &BAD)?;
    let odd = path("nonsense.yaml", &nonsense())?;
    let said = weir(&["check", &odd], "").await?;
    same!((said.code, said.out.as_str()), (Some(1), ""));
    all_said(&said.err, &odd, &[(4, "colour"), (6, "nonsense")])?;

    same!(weir(&["check", "-"], &good()).await?.code, Some(0));
    let said = weir(&["check", "-"], &bad()).await?;
    same!(said.code, Some(1));
    all_said(&said.err, "-", &BAD)?;

    let missing = dir.path().join("missing.yaml").display().to_string();
    let said = weir(&["check", &missing], "").await?;
    same!(said.code, Some(1));
    holds!(said.err.contains(&missing) && said.err.contains("No such file"), "{}", said.err);

    let said = weir(&["check", &path("broken.yaml", "listeners: [\n")?], "").await?;
    same!(said.code, Some(1));
    holds!(said.err.contains("broken.yaml:"), "{}", said.err);
    same!(weir(&["check", &path("empty.yaml", "")?], "").await?.code, Some(1));
    // A pattern that does not exist is a mistake here, not a surprise in production.
    let said = weir(&["check", "-"], &format!("access_log: {{ format: '%NO_SUCH_THING%' }}\n{}", good())).await?;
    same!(said.code, Some(1));
    holds!(said.err.contains("NO_SUCH_THING"), "{}", said.err);
    Ok(())
}

/// Every one of these mistakes has a line `file:line:column: ...` with its word in it, and their number is said last.
fn all_said(said: &str, file: &str, mistakes: &[(u32, &str)]) -> Result {
    for (line, word) in mistakes {
        let found = said.lines().any(|text| placed(text, file, *line) && text.contains(word));
        holds!(found, "no line {file}:{line}:<column>: about {word} in\n{said}");
    }
    let count = format!("{} mistakes", mistakes.len());
    holds!(said.lines().last().is_some_and(|last| last.starts_with(&count)), "not {count}:\n{said}");
    Ok(())
}

/// Whether a line begins with `file:line:column: `.
fn placed(text: &str, file: &str, line: u32) -> bool {
    text.strip_prefix(&format!("{file}:{line}:"))
        .and_then(|rest| rest.split_once(": "))
        .is_some_and(|(column, _)| column.parse::<u32>().is_ok())
}

async fn check_as_json() -> Result {
    let said = weir(&["check", "--json", "-"], &good()).await?;
    same!((said.code, said.err.as_str()), (Some(0), ""));
    let report: Value = serde_json::from_str(&said.out)?;
    same!((&report["ok"], report["mistakes"].as_array().map(Vec::len)), (&Value::Bool(true), Some(0)));
    let said = weir(&["check", "--json", "-"], &bad()).await?;
    same!((said.code, said.err.as_str()), (Some(1), ""));
    let report: Value = serde_json::from_str(&said.out)?;
    same!(report["ok"], Value::Bool(false));
    let mistakes = report["mistakes"].as_array().ok_or("no mistakes")?;
    same!(mistakes.len(), 3, "{report}");
    for mistake in mistakes {
        holds!(mistake["line"].is_u64() && mistake["column"].is_u64() && mistake["message"].is_string(), "{mistake}");
    }
    Ok(())
}

async fn run_refuses_what_check_refuses() -> Result {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("weir.yaml");
    let name = file.display().to_string();
    std::fs::write(&file, bad())?;
    let said = weir(&["run", "-c", &name], "").await?;
    same!(said.code, Some(1));
    all_said(&said.err, &name, &BAD)?;
    let said = weir(&["run", "-c", &dir.path().join("missing").display().to_string()], "").await?;
    same!(said.code, Some(1));
    holds!(said.err.contains("missing"), "{}", said.err);
    for level in ["loud=nonsense", "loud"] {
        let said = weir(&["run", "--log", level, "-c", &name], "").await?;
        same!(said.code, Some(1));
        holds!(said.err.contains(&format!("`{level}` is not a log level")), "{}", said.err);
    }
    Ok(())
}

async fn run_names_the_listener_whose_port_is_taken() -> Result {
    let dir = tempfile::tempdir()?;
    let stranger = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let taken = stranger.local_addr()?;
    let name = dir.path().join("weir.yaml").display().to_string();
    let refused = async |text: String| -> Result<String> {
        std::fs::write(Path::new(&name), text)?;
        let said = weir(&["run", "-c", &name], "").await?;
        same!(said.code, Some(1));
        holds!(said.err.contains(&taken.to_string()) && said.err.contains("in use"), "{}", said.err);
        Ok(said.err)
    };
    for workers in [1, 2] {
        let text = good().replace("listen: 127.0.0.1:0, direction", &format!("listen: '{taken}', direction"));
        let said = refused(format!("workers: {workers}\n{text}")).await?;
        holds!(said.contains("`out`"), "{said}");
    }
    let said = refused(good().replace("admin: { listen: 127.0.0.1:0 }", &format!("admin: {{ listen: '{taken}' }}"))).await?;
    holds!(said.contains("admin"), "{said}");
    let said = refused(format!("probes: {{ listen: '{taken}' }}\n{}", good())).await?;
    holds!(said.contains("probes"), "{said}");
    Ok(())
}

async fn schema_and_completions() -> Result {
    let said = weir(&["schema"], "").await?;
    same!((said.code, said.err.as_str()), (Some(0), ""));
    let schema: Value = serde_json::from_str(&said.out)?;
    holds!(schema["properties"]["listeners"].is_object() && schema["$schema"].is_string());
    let said = weir(&["schema", "--markdown"], "").await?;
    holds!(said.code == Some(0) && said.out.contains("`listeners`"), "{}", said.err);
    let said = weir(&["completions", "bash"], "").await?;
    holds!(said.code == Some(0) && said.out.contains("complete -F _weir"), "{}", said.err);
    let said = weir(&["--version"], "").await?;
    holds!(said.code == Some(0) && said.out.starts_with("weir "), "{}", said.out);
    let said = weir(&["frobnicate"], "").await?;
    same!(said.code, Some(2));
    Ok(())
}

async fn the_demo_splits_its_requests() -> Result {
    let mut command = Command::new(binary());
    command.args(["demo", "--port", "0", "--rate", "300", "--json"]).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
    let count = |report: &Value, place: usize| report["split"][place]["requests"].as_u64().unwrap_or(0);
    let mut last = 0;
    let report = loop {
        let line = tokio::time::timeout(Duration::from_secs(10), lines.next_line()).await??.ok_or("the demo ended")?;
        let report: Value = serde_json::from_str(&line)?;
        let requests = report["requests"].as_u64().ok_or("no count")?;
        holds!(requests >= last, "{report}");
        same!(report["failed"], 0);
        // A thousand draws of 10 % have a standard deviation of one point.
        if requests >= 1000 {
            holds!(requests > last, "{report}");
            break report;
        }
        last = requests;
    };
    let (v1, v2) = (count(&report, 0), count(&report, 1));
    same!(report["requests"].as_u64(), Some(v1 + v2));
    let percent = 100.0 * v2 as f64 / (v1 + v2) as f64;
    holds!((5.0..=15.0).contains(&percent), "{percent:.1} % went to v2: {report}");
    for place in [0, 1] {
        let id = report["split"][place]["request_ids"][0].as_str().ok_or("no request id")?;
        same!(id.len(), 36, "{id}");
    }
    let pid = i32::try_from(child.id().ok_or("no process")?)?;
    // SAFETY: kill has no memory effects; the pid is of a child that has not been waited for.
    same!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
    let status = tokio::time::timeout(Duration::from_secs(10), child.wait()).await??;
    same!(status.code(), Some(0));
    Ok(())
}

async fn a_closed_pipe_is_no_panic() -> Result {
    // `weir schema | true`: the reader is gone before the first byte.
    for arguments in [&["schema"][..], &["schema", "--markdown"], &["completions", "zsh"], &["check", "-"], &["--help"]] {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let mut command = Command::new(binary());
        command.args(arguments).stdin(Stdio::piped()).stdout(writer).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        // The command holds the other end until it is dropped.
        drop(command);
        let _ = child.stdin.take().ok_or("no stdin")?.write_all(good().as_bytes()).await;
        let output = tokio::time::timeout(Duration::from_secs(20), child.wait_with_output()).await??;
        let said = String::from_utf8_lossy(&output.stderr);
        holds!(!said.contains("panicked"), "{arguments:?}: {said}");
        holds!(output.status.code().is_some(), "{arguments:?} ended by a signal");
    }
    // The demo goes on serving when nobody watches, and ends when it is told to, or with its terminal.
    for signal in [libc::SIGINT, libc::SIGHUP] {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let mut command = Command::new(binary());
        command.args(["demo", "--port", "0", "--rate", "20"]).stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn()?;
        drop(command);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        holds!(child.try_wait()?.is_none(), "the demo ended when nobody watched");
        let pid = i32::try_from(child.id().ok_or("no process")?)?;
        // SAFETY: kill has no memory effects; the pid is of a child that has not been waited for.
        same!(unsafe { libc::kill(pid, signal) }, 0);
        let output = tokio::time::timeout(Duration::from_secs(10), child.wait_with_output()).await??;
        same!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

async fn an_authority_issues_what_weir_runs_with() -> Result {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (ca, tls) = (at("ca"), at("tls"));
    let missing = weir(&["ca", "issue", "/ns/shop/sa/cart", "--dir", &ca, "--out", &tls], "").await?;
    assert!(missing.code == Some(1) && missing.err.contains("weir ca init"), "{}", missing.err);
    for wrong in ["Shop", "shop/ns", ""] {
        let said = weir(&["ca", "init", wrong, "--dir", &ca], "").await?;
        assert!(said.code == Some(1) && said.err.contains("trust domain"), "{wrong}: {}", said.err);
    }
    same!(weir(&["ca", "init", "shop.example", "--dir", &ca], "").await?.code, Some(0));
    let again = weir(&["ca", "init", "shop.example", "--dir", &ca], "").await?;
    assert!(again.code == Some(1) && again.err.contains("there already"), "{}", again.err);
    for wrong in ["cart", "spiffe://other.example/ns/shop/sa/cart", "spiffe://shop.example", "/ns//cart"] {
        let said = weir(&["ca", "issue", wrong, "--dir", &ca, "--out", &tls], "").await?;
        assert!(said.code == Some(1) && !Path::new(&tls).exists(), "{wrong}: {}", said.out);
    }
    let issued = weir(&["ca", "issue", "/ns/shop/sa/cart", "--dir", &ca, "--out", &tls, "--ttl", "90s"], "").await?;
    assert!(
        issued.code == Some(0) && issued.out.starts_with("spiffe://shop.example/ns/shop/sa/cart, valid until "),
        "{}",
        issued.err
    );
    for key in ["ca/ca.key", "tls/tls.key"] {
        same!((key, std::fs::metadata(at(key))?.permissions().mode() & 0o777), (key, 0o600));
    }
    let identity = issued.out.lines().nth(1).ok_or("no second line")?;
    let running = weir_tests::Weir::start(&format!(
        "{identity}\nlisteners: [{{ name: in, listen: 127.0.0.1:0, direction: inbound, app: 127.0.0.1:9, tls: strict }}]\n"
    ))
    .await?;
    let certs: Value = serde_json::from_str(&running.admin("/certs").await?)?;
    same!(certs["identity"].as_str(), Some("spiffe://shop.example/ns/shop/sa/cart"));
    // A key of another certificate's does not start, and says why.
    std::fs::copy(at("ca/ca.key"), at("tls/tls.key"))?;
    let refused = weir_tests::Weir::start(&format!(
        "{identity}\nlisteners: [{{ name: in, listen: 127.0.0.1:0, direction: inbound, app: 127.0.0.1:9, tls: strict }}]\n"
    ))
    .await;
    let why = refused.err().ok_or("it runs with a key that does not fit")?.to_string();
    assert!(why.contains("`key` does not fit `cert`"), "{why}");
    Ok(())
}
