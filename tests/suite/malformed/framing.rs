//! What HTTP/1 framing lets through: of the malformed nothing, of the rest exactly what was meant.

use std::time::Duration;

use weir_tests::raw::Connection;
use weir_tests::witness::{Mark, Received, Witness};
use weir_tests::{Result, Weir, holds, same};

use super::corpus::{self, Case, Place};

/// Requests of this size and below are also sent byte by byte.
const SHORT: usize = 320;

/// One weir before one witness. One worker, so that whatever is left on a pooled connection meets the next request.
pub struct Bench {
    /// The proxy.
    pub weir: Weir,
    /// The origin.
    pub witness: Witness,
}

impl Bench {
    /// Starts both.
    pub async fn start() -> Result<Self> {
        let witness = Witness::start().await?;
        let weir = Weir::start(&format!(
            "workers: 1
listeners: [{{ name: out, listen: 127.0.0.1:0, direction: outbound }}]
routes: [{{ name: all, hosts: ['*'], rules: [{{ backends: [{{ cluster: one }}] }}] }}]
clusters: {{ one: {{ endpoints: ['{}'], protocol: http1 }} }}
",
            witness.address
        ))
        .await?;
        Ok(Self { weir, witness })
    }

    async fn connect(&self) -> Result<Connection> {
        Connection::open(self.weir.address("out")).await
    }
}

/// How the bytes of a case get to weir.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Whole,
    Bytewise,
    /// In one write with a good request in front.
    Behind,
}

pub async fn corpus() -> Result {
    let cases = corpus::all();
    holds!(cases.len() >= 100, "{}", cases.len());
    let bench = Bench::start().await?;
    let mut failures = Vec::new();
    let mut sent = 0_u32;
    for case in &cases {
        for way in [Way::Whole, Way::Bytewise, Way::Behind] {
            if way == Way::Bytewise && case.bytes.len() > SHORT {
                continue;
            }
            sent += 1;
            if let Err(error) = refused(&bench, case, way).await {
                failures.push(format!("{} ({way:?}): {error}", case.name));
            }
            // Looked at each time, so that what is not counted has a name.
            let counted = bench.weir.metric("weir_malformed_requests_total", "").await?;
            if counted < f64::from(sent) {
                failures.push(format!("{} ({way:?}): not counted as malformed", case.name));
                sent -= 1;
            }
        }
    }
    failures.extend(bench.witness.surprises());
    holds!(failures.is_empty(), "{} failures over {} cases:\n{}", failures.len(), cases.len(), failures.join("\n"));
    Ok(())
}

async fn refused(bench: &Bench, case: &Case, way: Way) -> Result {
    let mark = bench.witness.mark();
    let told = conversation(bench, case, way).await;
    // Judged first: what arrived upstream matters more than how it was refused.
    upstream(bench, case, way, mark)?;
    told?;
    fence(bench).await
}

/// Sends the case and checks what comes back.
async fn conversation(bench: &Bench, case: &Case, way: Way) -> Result {
    let mut connection = bench.connect().await?;
    match way {
        Way::Whole => connection.send(&case.bytes).await?,
        Way::Bytewise => {
            for byte in &case.bytes {
                connection.send([*byte]).await?;
                tokio::task::yield_now().await;
            }
        }
        Way::Behind => {
            connection.send([b"GET /good HTTP/1.1\r\nHost: a\r\n\r\n", &case.bytes[..]].concat()).await?;
            let good = connection.response(false).await?;
            same!((good.status, good.text().as_str()), (200, "/good"));
        }
    }
    let refusal = connection.response(false).await?;
    let code = refusal.header("x-weir-error").unwrap_or("none");
    holds!(case.codes.split('|').any(|allowed| allowed == code), "{code} instead of {}", case.codes);
    same!(refusal.status, Case::status(code));
    holds!(refusal.header("connection") == Some("close"), "{}", refusal.head);
    holds!(!refusal.body.is_empty(), "{}", refusal.head);
    let rest = tokio::time::timeout(Duration::from_secs(3), connection.rest()).await;
    let rest = rest.map_err(|_| "the connection stays open")?.map_err(|error| format!("reset, not closed: {error}"))?;
    same!(String::from_utf8_lossy(&rest), "");
    Ok(())
}

/// Checks what the witness saw of it.
fn upstream(bench: &Bench, case: &Case, way: Way, mark: Mark) -> Result {
    let requests = bench.witness.requests_since(mark);
    let targets: Vec<&str> = requests.iter().map(Received::target).collect();
    let good: &[&str] = if way == Way::Behind { &["/good"] } else { &[] };
    same!(targets, good, "complete requests upstream");
    let bytes = bench.witness.bytes_since(mark);
    let text = String::from_utf8_lossy(&bytes);
    holds!(!text.contains("smuggled"), "upstream: {text}");
    let heads = text.matches(" HTTP/1.1\r\n").count() - good.len();
    match case.place {
        Place::Head => {
            same!(heads, 0, "upstream: {text}");
            holds!(!good.is_empty() || bytes.is_empty(), "upstream: {text}");
        }
        Place::Body => holds!(heads <= 1, "upstream: {text}"),
    }
    Ok(())
}

/// The next request, from somebody else, is what it is and gets its own answer.
pub async fn fence(bench: &Bench) -> Result {
    let mark = bench.witness.mark();
    let mut connection = bench.connect().await?;
    connection.send("GET /fence HTTP/1.1\r\nHost: a\r\n\r\n").await?;
    let answer = connection.response(false).await?;
    same!((answer.status, answer.text().as_str()), (200, "/fence"), "the next caller's answer");
    let targets: Vec<String> = bench.witness.requests_since(mark).iter().map(|seen| seen.target().to_owned()).collect();
    same!(targets, ["/fence"], "after the next caller's request");
    Ok(())
}

/// Bodies that a reader who loses count would take for requests.
const DECOYS: &[&str] = &[
    "GET /inner HTTP/1.1\r\nHost: a\r\n\r\n",
    "\r\n\r\nGET /inner HTTP/1.1\r\nHost: a\r\n\r\n",
    "0\r\n\r\nGET /inner HTTP/1.1\r\nHost: a\r\n\r\n",
    "0\r\n\r\n",
    "POST /inner HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n",
    "POST /inner HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "\0\r\n \n\r",
    "x",
];

/// A reproducible source of choices.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        // xorshift64*: short, and good enough to mix cases.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let drawn = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(drawn).unwrap_or(0) % limit
    }
}

/// A good request and what it means.
fn good_request(dice: &mut Dice, number: usize) -> (Vec<u8>, (String, Vec<u8>)) {
    let target = format!("/{number}");
    let decoy = DECOYS[dice.below(DECOYS.len())].as_bytes();
    let head = |fields: &str| format!("POST {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes();
    match dice.below(4) {
        0 => (format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n").into_bytes(), (target, Vec::new())),
        1 => ([head("Content-Length: 0\r\n"), Vec::new()].concat(), (target, Vec::new())),
        2 => {
            let sent = [head(&format!("Content-Length: {}\r\n", decoy.len())), decoy.to_vec()].concat();
            (sent, (target, decoy.to_vec()))
        }
        _ => {
            let mut sent = head("Transfer-Encoding: chunked\r\n");
            let mut left = decoy;
            while !left.is_empty() {
                let (chunk, rest) = left.split_at(1 + dice.below(left.len()));
                let extension = ["", ";a", ";a=\"b;c\""][dice.below(3)];
                sent.extend(format!("{:x}{extension}\r\n", chunk.len()).into_bytes());
                sent.extend_from_slice(chunk);
                sent.extend_from_slice(b"\r\n");
                left = rest;
            }
            sent.extend_from_slice([&b"0\r\n\r\n"[..], b"000\r\nX-Checked: yes\r\n\r\n"][dice.below(2)]);
            (sent, (target, decoy.to_vec()))
        }
    }
}

/// However a stream of good requests is cut into writes, the upstream gets the same requests, in order and no others.
pub async fn differential() -> Result {
    let bench = Bench::start().await?;
    let mut dice = Dice(0x5EED);
    for round in 0..150 {
        let requests: Vec<_> = (0..=dice.below(4)).map(|number| good_request(&mut dice, round * 10 + number)).collect();
        let stream: Vec<u8> = requests.iter().flat_map(|(sent, _)| sent.clone()).collect();
        let meant: Vec<(String, Vec<u8>)> = requests.into_iter().map(|(_, meant)| meant).collect();
        let mark = bench.witness.mark();
        let mut connection = bench.connect().await?;
        let mut left = &stream[..];
        let largest = [1, 7, 60, stream.len()][round % 4];
        while !left.is_empty() {
            let (part, rest) = left.split_at((1 + dice.below(largest)).min(left.len()));
            connection.send(part).await?;
            tokio::task::yield_now().await;
            left = rest;
        }
        for (target, _) in &meant {
            let answer = connection.response(false).await?;
            same!((answer.status, answer.text()), (200, target.clone()), "round {round}");
        }
        connection.finish().await?;
        same!(connection.rest().await?, b"", "round {round}: {}", String::from_utf8_lossy(&stream));
        let seen = bench.witness.requests_since(mark);
        let seen: Vec<(String, Vec<u8>)> = seen.into_iter().map(|seen| (seen.target().to_owned(), seen.body)).collect();
        same!(seen, meant, "round {round}: {}", String::from_utf8_lossy(&stream));
    }
    same!(bench.witness.surprises(), Vec::<String>::new());
    Ok(())
}

/// Two requests in one write arrive as two, and one whose body looks like a request arrives as one.
pub async fn one_is_one_and_two_are_two() -> Result {
    let bench = Bench::start().await?;
    let inner = "GET /inner HTTP/1.1\r\nHost: a\r\n\r\n";
    let fixed = format!("POST /fixed HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{inner}", inner.len());
    let chunked = format!(
        "POST /chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{inner}\r\n0\r\n\r\n",
        inner.len()
    );
    for (stream, wanted) in [
        (fixed.clone(), vec![("/fixed", inner)]),
        (chunked.clone(), vec![("/chunked", inner)]),
        (format!("{fixed}{chunked}"), vec![("/fixed", inner), ("/chunked", inner)]),
        (format!("{inner}{inner}"), vec![("/inner", ""), ("/inner", "")]),
    ] {
        let mark = bench.witness.mark();
        let mut connection = bench.connect().await?;
        connection.send(&stream).await?;
        for (target, _) in &wanted {
            same!(connection.response(false).await?.text(), *target);
        }
        let seen = bench.witness.requests_since(mark);
        let seen: Vec<_> = seen.iter().map(|seen| (seen.target(), std::str::from_utf8(&seen.body).unwrap_or("?"))).collect();
        same!(seen, wanted, "{stream}");
    }
    same!(bench.witness.surprises(), Vec::<String>::new());
    Ok(())
}
