//! HTTP/1 streams that have no meaning, or more than one.
//!
//! Those about framing go on with what a reader who takes them the other way would find: a request of its own.

mod bodies;

/// Where a stream goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the head: nothing of it may go upstream.
    Head,
    /// In the body: its head may have gone upstream, but it never becomes a request there.
    Body,
}

/// A malformed request.
pub struct Case {
    /// What is wrong with it.
    pub name: &'static str,
    /// The bytes to send.
    pub bytes: Vec<u8>,
    /// What may be in `x-weir-error`, separated by `|`.
    pub codes: &'static str,
    /// Where it goes wrong.
    pub place: Place,
}

impl Case {
    /// The status that goes with a code.
    pub fn status(code: &str) -> u16 {
        match code {
            "header_bytes" | "header_count" => 431,
            "unknown_transfer_coding" => 501,
            "bad_version" => 505,
            _ => 400,
        }
    }
}

/// What must never arrive upstream.
const INNER: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// All of them.
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for (codes, group) in [
        ("both_lengths", both_lengths()),
        ("bad_transfer_encoding", transfer_encoding()),
        ("unknown_transfer_coding", unknown_codings()),
        ("bad_content_length", content_length()),
        ("upgrade_with_body", upgrades()),
        ("folded_header", folds()),
        ("bad_line_end", line_ends()),
        ("bad_syntax", fields()),
        ("bad_syntax", request_lines()),
        ("bad_host", hosts()),
        ("bad_target", targets()),
        ("encoded_nul", encoded_nul()),
        ("bad_version", versions()),
        ("bad_version|bad_syntax", garbled_versions()),
        ("header_bytes", too_large()),
        ("header_count", too_many()),
    ] {
        cases.extend(group.into_iter().map(|(name, bytes)| Case { name, bytes, codes, place: Place::Head }));
    }
    let bodies = bodies::chunks().into_iter().chain(bodies::trailers());
    cases.extend(bodies.map(|(name, bytes)| Case {
        name,
        bytes,
        codes: "bad_chunk|bad_line_end|folded_header|header_bytes|header_count",
        place: Place::Body,
    }));
    cases
}

type Group = Vec<(&'static str, Vec<u8>)>;

/// A POST with these fields after its Host; what follows would be a request to a reader who finds no body.
fn post(fields: &str) -> Vec<u8> {
    format!("POST /bad HTTP/1.1\r\nHost: a\r\n{fields}\r\n{INNER}").into_bytes()
}

/// The same, with the end of a chunked body first.
fn chunk_post(fields: &str) -> Vec<u8> {
    format!("POST /bad HTTP/1.1\r\nHost: a\r\n{fields}\r\n0\r\n\r\n{INNER}").into_bytes()
}

/// A GET with this request line.
fn line(line: &str) -> Vec<u8> {
    format!("{line}\r\nHost: a\r\n\r\n").into_bytes()
}

/// A GET with these fields and no Host of its own.
fn get(fields: &str) -> Vec<u8> {
    format!("GET /bad HTTP/1.1\r\n{fields}\r\n").into_bytes()
}

fn both_lengths() -> Group {
    vec![
        ("CL, TE", chunk_post("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n")),
        ("TE, CL", chunk_post("Transfer-Encoding: chunked\r\nContent-Length: 6\r\n")),
        ("CL of 0, TE", chunk_post("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n")),
        ("TE, CL over all", chunk_post("Transfer-Encoding: chunked\r\nContent-Length: 40\r\n")),
        ("cl, te in other cases", chunk_post("content-length: 6\r\nTRANSFER-ENCODING: chunked\r\n")),
        ("CL, X, TE", chunk_post("Content-Length: 6\r\nX: y\r\nTransfer-Encoding: chunked\r\n")),
        ("CL, TE: identity", chunk_post("Content-Length: 6\r\nTransfer-Encoding: identity\r\n")),
        ("CL, TE: xchunked", chunk_post("Content-Length: 6\r\nTransfer-Encoding: xchunked\r\n")),
        ("CL, empty TE", chunk_post("Content-Length: 6\r\nTransfer-Encoding:\r\n")),
        ("invalid CL, TE", chunk_post("Content-Length: x\r\nTransfer-Encoding: chunked\r\n")),
        ("CL, CL, TE", chunk_post("Content-Length: 6\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n")),
        ("CL, TE, with Connection naming CL", {
            chunk_post("Connection: content-length\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n")
        }),
        ("CL, TE on 1.0", {
            let head = "POST /bad HTTP/1.0\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
            [head, INNER].concat().into_bytes()
        }),
    ]
}

fn transfer_encoding() -> Group {
    vec![
        ("TE: chunked,", chunk_post("Transfer-Encoding: chunked,\r\n")),
        ("TE: ,chunked", chunk_post("Transfer-Encoding: ,chunked\r\n")),
        ("TE: xchunked", chunk_post("Transfer-Encoding: xchunked\r\n")),
        ("TE: chunkedx", chunk_post("Transfer-Encoding: chunkedx\r\n")),
        ("TE: chunk ed", chunk_post("Transfer-Encoding: chunk ed\r\n")),
        ("TE: chunked, chunked", chunk_post("Transfer-Encoding: chunked, chunked\r\n")),
        ("TE: chunked chunked", chunk_post("Transfer-Encoding: chunked chunked\r\n")),
        ("TE: chunked;q=1", chunk_post("Transfer-Encoding: chunked;q=1\r\n")),
        ("TE: \"chunked\"", chunk_post("Transfer-Encoding: \"chunked\"\r\n")),
        ("TE: cow", chunk_post("Transfer-Encoding: cow\r\n")),
        ("TE: cow, chunked", chunk_post("Transfer-Encoding: cow, chunked\r\n")),
        ("empty TE", chunk_post("Transfer-Encoding:\r\n")),
        ("blank TE", chunk_post("Transfer-Encoding: \t \r\n")),
        ("two TE", chunk_post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n")),
        ("two TE, second identity", chunk_post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n")),
        ("two TE, first identity", chunk_post("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n")),
        ("two TE, second empty", chunk_post("Transfer-Encoding: chunked\r\nTransfer-Encoding:\r\n")),
        ("TE on 1.0", {
            ["POST /bad HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", INNER].concat().into_bytes()
        }),
        ("TE on 1.0, keep-alive", {
            let head = "POST /bad HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
            [head, INNER].concat().into_bytes()
        }),
    ]
}

fn unknown_codings() -> Group {
    vec![
        ("TE: identity", chunk_post("Transfer-Encoding: identity\r\n")),
        ("TE: gzip", chunk_post("Transfer-Encoding: gzip\r\n")),
        ("TE: gzip, chunked", chunk_post("Transfer-Encoding: gzip, chunked\r\n")),
        ("TE: GZIP,chunked", chunk_post("Transfer-Encoding: GZIP,chunked\r\n")),
        ("TE: deflate, chunked", chunk_post("Transfer-Encoding: deflate, chunked\r\n")),
        ("TE: identity, chunked", chunk_post("Transfer-Encoding: identity, chunked\r\n")),
        ("TE: chunked, identity", chunk_post("Transfer-Encoding: chunked, identity\r\n")),
    ]
}

fn content_length() -> Group {
    vec![
        ("two equal CL", post("Content-Length: 35\r\nContent-Length: 35\r\n")),
        ("two CL", post("Content-Length: 35\r\nContent-Length: 0\r\n")),
        ("two CL, first 0", post("Content-Length: 0\r\nContent-Length: 35\r\n")),
        ("two CL, second empty", post("Content-Length: 35\r\nContent-Length:\r\n")),
        ("CL list of equals", post("Content-Length: 35, 35\r\n")),
        ("CL list", post("Content-Length: 35, 0\r\n")),
        ("CL with comma", post("Content-Length: 35,\r\n")),
        ("CL with plus", post("Content-Length: +35\r\n")),
        ("CL with minus", post("Content-Length: -35\r\n")),
        ("CL of minus 0", post("Content-Length: -0\r\n")),
        ("CL in hex", post("Content-Length: 0x23\r\n")),
        ("CL in hex digits", post("Content-Length: 2a\r\n")),
        ("CL with point", post("Content-Length: 35.0\r\n")),
        ("CL with exponent", post("Content-Length: 35e0\r\n")),
        ("CL with underscore", post("Content-Length: 3_5\r\n")),
        ("CL of two numbers", post("Content-Length: 3 5\r\n")),
        ("CL in quotes", post("Content-Length: \"35\"\r\n")),
        ("CL with parameter", post("Content-Length: 35;x\r\n")),
        ("CL in other digits", post("Content-Length: \u{0663}\u{0665}\r\n")),
        ("empty CL", post("Content-Length:\r\n")),
        ("blank CL", post("Content-Length:  \r\n")),
        ("CL of 2^64", post("Content-Length: 18446744073709551616\r\n")),
        ("CL of 2^64 + 35", post("Content-Length: 18446744073709551651\r\n")),
        ("CL of 30 digits", post("Content-Length: 000000000000000000000000000035\r\n")),
        ("CL in words", post("Content-Length: chunked\r\n")),
    ]
}

fn upgrades() -> Group {
    let body = "Connection: upgrade\r\nUpgrade: websocket\r\n";
    vec![
        ("websocket with CL", post(&format!("{body}Content-Length: 35\r\n"))),
        ("CL, then websocket", post(&format!("Content-Length: 35\r\n{body}"))),
        ("websocket with TE", chunk_post(&format!("{body}Transfer-Encoding: chunked\r\n"))),
        ("upgrade to something with CL", post("Connection: upgrade\r\nUpgrade: foo\r\nContent-Length: 35\r\n")),
        ("upgrade to one of two with CL", post("Connection: upgrade\r\nUpgrade: websocket, h2c\r\nContent-Length: 35\r\n")),
        ("upgrade without Connection with CL", post("Upgrade: websocket\r\nContent-Length: 35\r\n")),
        ("two Upgrade, h2c last, with CL", post(&format!("{body}Upgrade: h2c\r\nContent-Length: 35\r\n"))),
        ("two Upgrade, h2c first, with CL", post(&format!("Upgrade: h2c\r\n{body}Content-Length: 35\r\n"))),
    ]
}

fn folds() -> Group {
    vec![
        ("fold with blank", post("X: a\r\n b\r\n")),
        ("fold with tab", post("X: a\r\n\tb\r\n")),
        ("fold before the first field", b"GET /bad HTTP/1.1\r\n X: a\r\nHost: a\r\n\r\n".to_vec()),
        ("TE in a fold", chunk_post("Transfer-Encoding:\r\n chunked\r\n")),
        ("TE behind a fold", chunk_post("X: y\r\n Transfer-Encoding: chunked\r\n")),
        ("CL in a fold", post("Content-Length:\r\n 35\r\n")),
        ("CL longer by a fold", post("Content-Length: 3\r\n 5\r\n")),
        ("Host in a fold", get("Host:\r\n a\r\n")),
        ("an empty fold", post("X: a\r\n \r\n")),
        ("fold of two lines", post("X: a\r\n b\r\n c\r\n")),
    ]
}

fn line_ends() -> Group {
    let bytes = |text: &str| text.as_bytes().to_vec();
    vec![
        ("LF everywhere", bytes("GET /bad HTTP/1.1\nHost: a\n\n")),
        ("LF after the request line", bytes("GET /bad HTTP/1.1\nHost: a\r\n\r\n")),
        ("LF after a field", get("Host: a\nX: y\r\n")),
        ("LF after the last field", bytes("GET /bad HTTP/1.1\r\nHost: a\n\r\n")),
        ("LF for the empty line", bytes("GET /bad HTTP/1.1\r\nHost: a\r\n\n")),
        ("LF before the request line", bytes("\nGET /bad HTTP/1.1\r\nHost: a\r\n\r\n")),
        ("LF in the method", line("GE\nT /bad HTTP/1.1")),
        ("LF in the target", line("GET /b\nad HTTP/1.1")),
        ("LF in a name", post("X\nY: z\r\n")),
        ("LF in a value hides TE", chunk_post("X: y\nTransfer-Encoding: chunked\r\n")),
        ("LF in front of TE", chunk_post("\nTransfer-Encoding: chunked\r\n")),
        ("CR everywhere", bytes("GET /bad HTTP/1.1\rHost: a\r\r\n\r\n")),
        ("CR before the request line", bytes("\rGET /bad HTTP/1.1\r\nHost: a\r\n\r\n")),
        ("CR in the method", line("GE\rT /bad HTTP/1.1")),
        ("CR in the target", line("GET /b\rad HTTP/1.1")),
        ("CR in the version", line("GET /bad HTTP/1\r.1")),
        ("CR in a name", post("X\rY: z\r\n")),
        ("CR in a value", post("X: y\rz\r\n")),
        ("CR in a value hides TE", chunk_post("X: y\rTransfer-Encoding: chunked\r\n")),
        ("CR before a name", post("\rX: y\r\n")),
        ("two CR at the end of a line", post("X: y\r\r\n")),
        ("CR in CL", post("Content-Length: 3\r5\r\n")),
        ("CR in TE", chunk_post("Transfer-Encoding: chunked\r \r\n")),
        ("NUL in the method", line("GE\0T /bad HTTP/1.1")),
        ("NUL in the target", line("GET /b\0ad HTTP/1.1")),
        ("NUL in the version", line("GET /bad HTTP/1.\x001")),
        ("NUL in a name", post("X\0: y\r\n")),
        ("NUL in a value", post("X: y\0z\r\n")),
        ("NUL in Host", get("Host: a\0b\r\n")),
        ("NUL in CL", post("Content-Length: 35\0\r\n")),
        ("NUL in TE", chunk_post("Transfer-Encoding: \0chunked\r\n")),
        ("NUL before the request line", bytes("\0GET /bad HTTP/1.1\r\nHost: a\r\n\r\n")),
        ("NUL in front of a name", post("\0X: y\r\n")),
    ]
}

fn fields() -> Group {
    let not_ascii = [&b"POST /bad HTTP/1.1\r\nHost: a\r\nTransfer-Encoding\xff: chunked\r\n\r\n0\r\n\r\n"[..], INNER.as_bytes()];
    vec![
        ("blank before the colon of TE", chunk_post("Transfer-Encoding : chunked\r\n")),
        ("tab before the colon of TE", chunk_post("Transfer-Encoding\t: chunked\r\n")),
        ("vertical tab before the colon of TE", chunk_post("Transfer-Encoding\x0b: chunked\r\n")),
        ("vertical tab before chunked", chunk_post("Transfer-Encoding: \x0bchunked\r\n")),
        ("vertical tab after chunked", chunk_post("Transfer-Encoding: chunked\x0b\r\n")),
        ("form feed before chunked", chunk_post("Transfer-Encoding: \x0cchunked\r\n")),
        ("blank before the colon of CL", post("Content-Length : 35\r\n")),
        ("vertical tab before CL's number", post("Content-Length: \x0b35\r\n")),
        ("blank before the colon of Host", get("Host : a\r\n")),
        ("blank in a name", post("X Y: z\r\n")),
        ("no colon", post("nocolon\r\n")),
        ("no name", post(": y\r\n")),
        ("only a colon", post(":\r\n")),
        ("control character in a name", post("X\x01: y\r\n")),
        ("control character in a value", post("X: y\x01z\r\n")),
        ("DEL in a value", post("X: y\x7f\r\n")),
        ("escape character in a value", post("X: \x1b[31m\r\n")),
        ("bracket in a name", post("X(y): z\r\n")),
        ("quotes in a name", post("\"X\": z\r\n")),
        ("at sign in a name", post("X@Y: z\r\n")),
        ("comma in a name", post("X,Y: z\r\n")),
        ("a name that is not ASCII", not_ascii.concat()),
        ("a field in front of the request line", b"Host: a\r\nGET /bad HTTP/1.1\r\n\r\n".to_vec()),
    ]
}

fn request_lines() -> Group {
    vec![
        ("blank before the method", line(" GET /bad HTTP/1.1")),
        ("tab after the method", line("GET\t/bad HTTP/1.1")),
        ("two blanks after the method", line("GET  /bad HTTP/1.1")),
        ("no target", line("GET HTTP/1.1")),
        ("no method", line("/bad HTTP/1.1")),
        ("no version", line("GET /bad")),
        ("at sign in the method", line("G@T /bad HTTP/1.1")),
        ("bracket in the method", line("GET( /bad HTTP/1.1")),
        ("control character in the target", line("GET /b\x01ad HTTP/1.1")),
        ("DEL in the target", line("GET /b\x7fad HTTP/1.1")),
        ("TLS", b"\x16\x03\x01\x02 /bad HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        ("only a word", b"bad\r\n\r\n".to_vec()),
    ]
}

fn hosts() -> Group {
    vec![
        ("no Host", get("X: y\r\n")),
        ("no field", get("")),
        ("empty Host beside an absolute form", b"GET http://a/bad HTTP/1.1\r\nHost:\r\n\r\n".to_vec()),
        ("two equal Host", get("Host: a\r\nHost: a\r\n")),
        ("two Host", get("Host: a\r\nHost: b\r\n")),
        ("two Host, second empty", get("Host: a\r\nhost:\r\n")),
        ("two Host, apart", get("Host: a\r\nX: y\r\nHOST: b\r\n")),
        ("two words in Host", get("Host: a b\r\n")),
        ("list in Host", get("Host: a, b\r\n")),
        ("path in Host", get("Host: a/b\r\n")),
        ("URL in Host", get("Host: http://a\r\n")),
        ("query in Host", get("Host: a?b\r\n")),
        ("fragment in Host", get("Host: a#b\r\n")),
        ("user in Host", get("Host: u@a\r\n")),
        ("user and password in Host", get("Host: u:p@a\r\n")),
        ("backslash in Host", get("Host: a\\b\r\n")),
        ("quotes in Host", get("Host: \"a\"\r\n")),
        ("Host not ASCII", get("Host: \u{e4}\r\n")),
        ("Host with a word for a port", get("Host: a:b\r\n")),
        ("Host with two ports", get("Host: a:80:81\r\n")),
        ("Host with an open bracket", get("Host: [::1\r\n")),
        ("Host with a closing bracket", get("Host: a]\r\n")),
        ("other host in the target", b"GET http://b/bad HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        ("other port in the target", b"GET http://a:81/bad HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        ("other port in Host", b"GET http://a/bad HTTP/1.1\r\nHost: a:81\r\n\r\n".to_vec()),
        ("host only in the target", b"GET http://a/bad HTTP/1.1\r\n\r\n".to_vec()),
    ]
}

fn targets() -> Group {
    vec![
        ("user in the target", line("GET http://u@a/bad HTTP/1.1")),
        ("user and password in the target", line("GET http://u:p@a/bad HTTP/1.1")),
        ("fragment in the path", line("GET /bad#x HTTP/1.1")),
        ("fragment in the query", line("GET /bad?x#y HTTP/1.1")),
        ("fragment in the absolute form", line("GET http://a/bad#x HTTP/1.1")),
        ("fragment alone", line("GET # HTTP/1.1")),
        ("other scheme", line("GET ftp://a/bad HTTP/1.1")),
        ("file", line("GET file:///bad HTTP/1.1")),
        ("absolute form without host", line("GET http:///bad HTTP/1.1")),
        ("path without slash", line("GET bad HTTP/1.1")),
        ("query without slash", line("GET ?bad HTTP/1.1")),
        ("asterisk for GET", line("GET * HTTP/1.1")),
        ("authority for GET", line("GET a:80 HTTP/1.1")),
        ("authority and path for CONNECT", line("CONNECT bad/ HTTP/1.1")),
        ("path for CONNECT", line("CONNECT /bad HTTP/1.1")),
        ("URL for CONNECT", line("CONNECT http://a/bad HTTP/1.1")),
        ("asterisk for CONNECT", line("CONNECT * HTTP/1.1")),
        ("user for CONNECT", line("CONNECT bad@a:443 HTTP/1.1")),
    ]
}

fn encoded_nul() -> Group {
    vec![
        ("%00 at the end", line("GET /bad%00 HTTP/1.1")),
        ("%00 in the path", line("GET /bad/%00/x HTTP/1.1")),
        ("%00 hides an extension", line("GET /bad%00.html?x HTTP/1.1")),
        ("%00 in the absolute form", line("GET http://a/bad%00 HTTP/1.1")),
    ]
}

fn versions() -> Group {
    vec![
        ("HTTP/2.0", line("GET /bad HTTP/2.0")),
        ("HTTP/3.0", line("GET /bad HTTP/3.0")),
        ("HTTP/1.2", line("GET /bad HTTP/1.2")),
        ("HTTP/0.9", line("GET /bad HTTP/0.9")),
    ]
}

/// A version that is none; whether its place or its form is at fault is a matter of taste.
fn garbled_versions() -> Group {
    vec![
        ("HTTP/1.10", line("GET /bad HTTP/1.10")),
        ("HTTP/01.1", line("GET /bad HTTP/01.1")),
        ("HTTP/1", line("GET /bad HTTP/1")),
        ("HTTP/1,1", line("GET /bad HTTP/1,1")),
        ("HTTP/ 1.1", line("GET /bad HTTP/ 1.1")),
        ("http/1.1", line("GET /bad http/1.1")),
        ("HTTX/1.1", line("GET /bad HTTX/1.1")),
        ("a word after the version", line("GET /bad HTTP/1.1 x")),
        ("a blank in the target", line("GET /b ad HTTP/1.1")),
        ("two blanks before the version", line("GET /bad  HTTP/1.1")),
        ("a cut preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r".to_vec()),
    ]
}

fn too_large() -> Group {
    let long = "x".repeat(65 << 10);
    vec![
        ("a value over 64 KiB", get(&format!("Host: a\r\nX: {long}\r\n"))),
        ("a name over 64 KiB", get(&format!("Host: a\r\n{long}: y\r\n"))),
        ("a target over 64 KiB", line(&format!("GET /bad{long} HTTP/1.1"))),
        ("a method over 64 KiB", line(&format!("{long} /bad HTTP/1.1"))),
        ("fields over 64 KiB", get(&format!("Host: a\r\n{}", format!("X: {}\r\n", "y".repeat(1000)).repeat(66)))),
        ("no end in 80 KiB", format!("GET /bad HTTP/1.1\r\nHost: a\r\nX: {}", "y".repeat(80 << 10)).into_bytes()),
    ]
}

fn too_many() -> Group {
    vec![
        ("201 fields", get(&format!("Host: a\r\n{}", "X: y\r\n".repeat(200)))),
        ("1000 fields", get(&format!("Host: a\r\n{}", "X: y\r\n".repeat(999)))),
        ("5000 fields", get(&format!("Host: a\r\n{}", "X:\r\n".repeat(4999)))),
    ]
}
