//! The access log: one true line for each request, whatever the request says, and never in a request's way.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use http::Response;
use serde_json::Value;
use weir_tests::origin::full;
use weir_tests::wire::{self, Caller, Keeper, Version};
use weir_tests::{Result, Trial, Weir, holds, raw, same, test, two, until};

pub fn trials() -> Vec<Trial> {
    vec![
        test("http::access_log::json_lines_are_true", json_lines_are_true),
        test("http::access_log::envoys_text_format", envoys_text_format),
        test("http::access_log::values_cannot_break_a_line", values_cannot_break_a_line),
        test("http::access_log::an_id_cannot_break_a_text_line", id_cannot_break_a_text_line),
        test("http::access_log::a_rotated_file_is_opened_again", rotation),
        test("http::access_log::a_full_pipe_blocks_nobody", full_pipe),
        test("http::access_log::a_pipe_nobody_reads_does_not_hang_the_start", unread_pipe),
    ]
}

fn logged(yaml: &str, file: &Path, format: Option<&str>) -> String {
    let path = file.display();
    let format = format.map_or(String::new(), |format| format!(", format: {}", Value::from(format)));
    format!("access_log: {{ path: '{path}'{format} }}\n{yaml}")
}

/// The lines of the log, once there are so many.
async fn lines(file: &Path, count: usize) -> Result<Vec<String>> {
    let read = || std::fs::read_to_string(file).unwrap_or_default();
    until("the lines are written", async || read().lines().count() >= count).await?;
    let text = read();
    holds!(text.ends_with('\n'), "{text:?}");
    same!(text.lines().count(), count, "{text}");
    Ok(text.lines().map(str::to_owned).collect())
}

/// Envoy's documented default format, as one line.
const ENVOY_DEFAULT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
    %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
    \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

async fn json_lines_are_true() -> Result {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("access.log");
    let keeper = Keeper::start(|_| Response::builder().status(201).body(full("created")).expect("a response")).await?;
    let app = keeper.origin.address;
    let yaml = format!(
        "listeners: [{{ name: out, listen: 127.0.0.1:0, direction: outbound }}]
routes:
  - name: shop
    hosts: [shop]
    rules:
      - {{ name: gone, match: [{{ path: {{ exact: /gone }} }}], respond: {{ status: 410, body: gone }} }}
      - {{ name: main, match: [{{ path: {{ prefix: /app }} }}], backends: [{{ cluster: app }}] }}
      - {{ name: dead, match: [{{ path: {{ prefix: /dead }} }}], backends: [{{ cluster: dead }}] }}
clusters: {{ app: {{ endpoints: ['{app}'] }}, dead: {{ endpoints: ['127.0.0.1:1'] }} }}
"
    );
    let weir = Weir::start(&logged(&yaml, &file, None)).await?;
    let out = weir.address("out");
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut done = 0;
    let mut next = async || -> Result<Value> {
        done += 1;
        Ok(serde_json::from_str(lines(&file, done).await?.last().ok_or("no line")?)?)
    };

    raw::request(
        out,
        &format!(
            "POST /app/x?y=z HTTP/1.1\r\nHost: shop:80\r\nUser-Agent: me/1\r\nX-Request-Id: id-1\r\ntraceparent: {trace}\r\n\
             Content-Length: 5\r\nConnection: close\r\n\r\nhello"
        ),
    )
    .await?;
    let line = next().await?;
    for (key, value) in [
        ("listener", "out"),
        ("method", "POST"),
        ("authority", "shop:80"),
        ("path", "/app/x?y=z"),
        ("protocol", "HTTP/1.1"),
        ("response_flags", "-"),
        ("route_name", "shop"),
        ("rule_name", "main"),
        ("upstream_cluster", "app"),
        ("upstream_host", &app.to_string()),
        ("downstream_local_address", &out.to_string()),
        ("request_id", "id-1"),
        ("trace_id", "0af7651916cd43dd8448eb211c80319c"),
        ("user_agent", "me/1"),
    ] {
        same!(line[key], value, "{key} of {line}");
    }
    for (key, value) in [("response_code", 201), ("bytes_received", 5), ("bytes_sent", 7), ("generation", 1)] {
        same!(line[key], value, "{key} of {line}");
    }
    let time = line["start_time"].as_str().unwrap_or("");
    holds!(time.len() == 24 && time.starts_with("20") && time.ends_with('Z'), "{line}");
    let (whole, head) = (line["duration_us"].as_u64(), line["response_duration_us"].as_u64());
    holds!(whole.is_some() && head.is_some() && head <= whole, "{line}");
    holds!(line["downstream_remote_address"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{line}");
    holds!(line.get("grpc_status").is_none() && line.get("response_code_details").is_none(), "{line}");

    let mut caller = Caller::open(out, Version::Two).await?;
    let answer = caller.get("/app").await?;
    let line = next().await?;
    same!((&line["protocol"], &line["request_id"]), (&"HTTP/2".into(), &answer.header("x-request-id").unwrap_or("").into()));

    raw::get(out, "shop", "/gone").await?;
    let line = next().await?;
    same!((&line["response_code"], &line["rule_name"], &line["bytes_sent"]), (&410.into(), &"gone".into(), &4.into()));
    same!((line.get("upstream_host"), &line["upstream_cluster"]), (None, &"".into()));

    for (host, path, code, flags, details, route) in [
        ("shop", "/none", 404, "NR", "no_rule", "shop"),
        ("other", "/", 404, "NR", "no_route", ""),
        ("shop", "/dead", 503, "UF", "connect_failed", "shop"),
    ] {
        let answer = raw::get(out, host, path).await?;
        let line = next().await?;
        let told = (&line["response_code"], &line["response_flags"], &line["response_code_details"], &line["route_name"]);
        same!(told, (&code.into(), &flags.into(), &details.into(), &route.into()), "{line}");
        same!(line["bytes_sent"], answer.body.len(), "{line}");
    }

    // gRPC: the status of the call, not only of the response.
    let client = two::Client::open(out).await?;
    let request = http::Request::post("/dead").header("content-type", "application/grpc").body(())?;
    client.send(request, true).await?.0.await?;
    let line = next().await?;
    same!((&line["response_code"], &line["grpc_status"], &line["response_flags"]), (&200.into(), &14.into(), &"UF".into()));

    // What never became a request is logged as well.
    raw::request(out, "GET / HTTP/1.1\r\nHost: shop\r\nContent-Length: x\r\n\r\n").await?;
    let line = next().await?;
    same!((&line["response_code"], &line["response_flags"]), (&400.into(), &"DPE".into()), "{line}");
    Ok(())
}

async fn envoys_text_format() -> Result {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("access.log");
    let keeper = Keeper::start(|_| {
        Response::builder().header("x-envoy-upstream-service-time", "7").body(full("created")).expect("a response")
    })
    .await?;
    let yaml = wire::to(keeper.origin.address, Version::One);
    let weir = Weir::start(&logged(&yaml, &file, Some(ENVOY_DEFAULT))).await?;
    let request = "POST /a?b HTTP/1.1\r\nHost: shop\r\nUser-Agent: curl/8 (x)\r\nX-Request-Id: id-1\r\nX-Forwarded-For: 192.0.2.1\r\n\
                   Content-Length: 2\r\nConnection: close\r\n\r\nhi";
    raw::request(weir.address("out"), request).await?;
    let line = lines(&file, 1).await?.remove(0);
    let (time, rest) = line.strip_prefix('[').and_then(|rest| rest.split_once("] ")).ok_or("no time")?;
    holds!(time.len() == 24 && time.ends_with('Z'), "{line}");
    let (begin, rest) = rest.split_at(rest.find(" 200 ").ok_or("no status")?);
    same!(begin, "\"POST /a?b HTTP/1.1\"", "{line}");
    let words: Vec<&str> = rest.trim_start().splitn(7, ' ').collect();
    same!(words[..4], ["200", "-", "2", "7"], "{line}");
    holds!(words[4].parse::<u32>().is_ok(), "{line}");
    same!(words[5], "7", "{line}");
    same!(words[6], format!("\"192.0.2.1\" \"curl/8 (x)\" \"id-1\" \"shop\" \"{}\"", keeper.origin.address), "{line}");
    Ok(())
}

/// Bytes that HTTP allows in values, and that end strings, lines or columns elsewhere.
const NASTY: &[u8] = b"a\"b\\\"c\\\tz\x80\xff {\"k\":1} \x9b31m 'x' $(y) %0a\\n\xe2\x80\xa8.";

async fn values_cannot_break_a_line() -> Result {
    let dir = tempfile::tempdir()?;
    let keeper = Keeper::start(|_| {
        let nasty = http::HeaderValue::from_bytes(NASTY).expect("a value");
        Response::builder().header("x-back", nasty).body(full("ok")).expect("a response")
    })
    .await?;
    let text = "\"%REQ(USER-AGENT)%\" \"%REQ(X-NASTY)%\" \"%RESP(X-BACK)%\" \"%REQ(:PATH)%\" \"%REQ(X-REQUEST-ID)%\" \"end\"";
    for format in [None, Some(text)] {
        let file = dir.path().join(if format.is_some() { "text" } else { "json" });
        let yaml = wire::to(keeper.origin.address, Version::One);
        let weir = Weir::start(&logged(&yaml, &file, format)).await?;
        let mut request =
            b"GET /%22%0a?\"'\\ HTTP/1.1\r\nHost: shop\r\nX-Request-Id: q\"\\q\r\nConnection: close\r\nX-Nasty: ".to_vec();
        request.extend_from_slice(NASTY);
        request.extend_from_slice(b"\r\nUser-Agent: ");
        request.extend_from_slice(NASTY);
        request.extend_from_slice(b"\r\n\r\n");
        let mut connection = raw::Connection::open(weir.address("out")).await?;
        connection.send(&request).await?;
        let status = connection.response(false).await?.status;
        until("the line is written", async || std::fs::read(&file).is_ok_and(|bytes| bytes.ends_with(b"\n"))).await?;
        let bytes = std::fs::read(&file)?;
        same!(bytes.iter().filter(|b| **b == b'\n').count(), 1);
        holds!(!bytes[..bytes.len() - 1].iter().any(u8::is_ascii_control), "{:?}", String::from_utf8_lossy(&bytes));
        if format.is_some() {
            if status == 200 {
                same!(bytes.iter().filter(|b| **b == b'"').count(), 12, "{:?}", String::from_utf8_lossy(&bytes));
            }
        } else {
            let line: Value = serde_json::from_slice(&bytes)?;
            same!(line["response_code"], status);
            if status == 200 {
                same!(line["user_agent"], String::from_utf8_lossy(NASTY).into_owned());
                same!(line["request_id"], "q\"\\q");
            }
        }
    }
    Ok(())
}

/// An id may hold any printable character, and so a quote.
async fn id_cannot_break_a_text_line() -> Result {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("access.log");
    let keeper = Keeper::start(|_| Response::new(full("ok"))).await?;
    let yaml = wire::to(keeper.origin.address, Version::One);
    let weir = Weir::start(&logged(&yaml, &file, Some("\"%REQUEST_ID%\" \"%TRACE_ID%\" %RESPONSE_CODE%"))).await?;
    raw::request(weir.address("out"), "GET / HTTP/1.1\r\nHost: shop\r\nX-Request-Id: a\"b\r\nConnection: close\r\n\r\n").await?;
    same!(lines(&file, 1).await?, ["\"a_b\" \"-\" 200"]);
    Ok(())
}

async fn rotation() -> Result {
    let dir = tempfile::tempdir()?;
    let (file, rotated) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    let keeper = Keeper::start(|_| Response::new(full("ok"))).await?;
    let yaml = wire::to(keeper.origin.address, Version::One);
    let weir = Weir::start(&logged(&yaml, &file, Some("%REQ(:PATH)%"))).await?;
    let out = weir.address("out");
    raw::get(out, "shop", "/one").await?;
    lines(&file, 1).await?;
    std::fs::rename(&file, &rotated)?;
    raw::get(out, "shop", "/two").await?;
    same!(lines(&rotated, 2).await?, ["/one", "/two"], "the file that was opened, whatever its name");
    weir.signal(libc::SIGHUP);
    // The signal is served when it is served; from then on lines go to the new file.
    let asked = std::cell::Cell::new(2);
    until("the file is opened again", async || {
        asked.set(asked.get() + 1);
        raw::get(out, "shop", &format!("/{}", asked.get())).await.is_ok() && file.exists()
    })
    .await?;
    let asked = asked.get();
    let all = || [&rotated, &file].map(|path| std::fs::read_to_string(path).unwrap_or_default()).concat();
    until("every line is somewhere", async || all().lines().count() == asked).await?;
    let newest = std::fs::read_to_string(&file)?;
    same!(newest.lines().last(), Some(&*format!("/{asked}")));
    same!(weir.metric("weir_access_log_dropped_total", "").await?, 0.0);
    Ok(())
}

fn fifo(path: &Path) -> Result {
    let done = std::process::Command::new("mkfifo").arg(path).status()?;
    if done.success() { Ok(()) } else { Err("no FIFO".into()) }
}

async fn full_pipe() -> Result {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("pipe");
    fifo(&path)?;
    // Open for both, the pipe has a reader that never reads.
    let pipe = std::fs::File::options().read(true).write(true).open(&path)?;
    holds!(pipe.as_raw_fd() >= 0);
    let keeper = Keeper::start(|_| Response::new(full("ok"))).await?;
    let yaml = wire::to(keeper.origin.address, Version::One);
    let mut weir = Weir::start(&logged(&yaml, &path, None)).await?;
    // Lines of some 8 KiB: the queue's four megabytes are full after five hundred.
    let target = format!("/{}", "x".repeat(8000));
    let mut connection = raw::Connection::open(weir.address("out")).await?;
    for number in 0..1500 {
        connection.send(format!("GET {target} HTTP/1.1\r\nHost: shop\r\n\r\n")).await?;
        let answer = connection.response(false).await.map_err(|error| format!("request {number}: {error}"))?;
        same!(answer.status, 200, "request {number}");
    }
    let dropped = weir.metric("weir_access_log_dropped_total", "").await?;
    holds!((1.0..1500.0).contains(&dropped), "{dropped} of 1500 lines dropped");
    // Leaving does not wait for the pipe either.
    drop(connection);
    weir.signal(libc::SIGTERM);
    same!(weir.ended(Duration::from_secs(10)).await?, 0);
    Ok(())
}

async fn unread_pipe() -> Result {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("pipe");
    fifo(&path)?;
    let keeper = Keeper::start(|_| Response::new(full("ok"))).await?;
    let yaml = logged(&wire::to(keeper.origin.address, Version::One), &path, None);
    let file = dir.path().join("weir.yaml");
    std::fs::write(&file, format!("admin: {{ listen: 127.0.0.1:0 }}\n{yaml}"))?;
    let mut command = tokio::process::Command::new(weir_tests::weir::binary());
    command.args(["run", "--json", "-c"]).arg(&file).env("WEIR_LOG", "info").kill_on_drop(true);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut stderr = tokio::io::BufReader::new(child.stderr.take().ok_or("no stderr")?);
    // Serving and refusing to start are both fine; saying neither is not.
    let speaks = async {
        use tokio::io::AsyncBufReadExt;
        let mut line = String::new();
        while stderr.read_line(&mut line).await? > 0 && !line.contains("\"ready\"") {
            line.clear();
        }
        Result::<()>::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(5), speaks)
        .await
        .map_err(|_| "weir hangs: it waits for somebody to read the access log's pipe")??;
    Ok(())
}
