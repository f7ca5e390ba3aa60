use proptest::prelude::*;

use super::*;
use crate::h1::decode::{Decoder, Piece};
use crate::h1::encode;

const LIMITS: Limits = Limits { header_bytes: 4096, header_count: 100 };

/// Reads a stream of requests as a connection does; gives how many there were and whether it ended between two.
fn judge_at(stream: &[u8], cuts: &[usize]) -> Result<(usize, bool), BadRequest> {
    let (mut scanner, mut decoder, mut input) = (Scanner::default(), Decoder::done(), BytesMut::new());
    let (mut at, mut requests) = (0, 0);
    for cut in cuts.iter().copied().chain([stream.len()]) {
        let cut = cut.clamp(at, stream.len());
        input.extend_from_slice(&stream[at..cut]);
        at = cut;
        loop {
            if !decoder.is_done() {
                match decoder.next(&mut input)? {
                    Some(_) => continue,
                    None => break,
                }
            }
            let Some(head) = scanner.next(&mut input, LIMITS)? else { break };
            decoder.begin_request(read(&head, LIMITS)?.framing, LIMITS);
            assert_eq!(lines(&head, false), Ok(()), "a head passed that has stray line ends");
            requests += 1;
        }
    }
    assert!(input.len() <= LIMITS.header_bytes + 1, "memory is bounded");
    Ok((requests, decoder.is_done() && input.is_empty()))
}

fn judge(stream: &[u8]) -> Result<(usize, bool), BadRequest> {
    let whole = judge_at(stream, &[]);
    let single: Vec<usize> = (0..stream.len()).collect();
    assert_eq!(whole, judge_at(stream, &single), "byte by byte: {}", String::from_utf8_lossy(stream));
    whole
}

const GOOD: &[&str] = &[
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: \r\n\r\n",
    "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET /x?y=z%20 HTTP/1.1\r\nhost: a:80\r\nX_under: v\r\n\r\n",
    "GET / HTTP/1.0\r\n\r\n",
    "FOO / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
    "GET http://a/x HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET http://a/x HTTP/1.1\r\nHost: A\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=\"y\"\r\n0123456789\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\nX-T: v\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nContent-Length: 1\r\n\r\nx",
    "GET /{x}|y HTTP/1.1\r\nHost: a\r\n\r\n",
];

#[test]
fn good_streams_pass() {
    for stream in GOOD {
        let requests = stream.matches(" HTTP/1").count();
        assert_eq!(judge(stream.as_bytes()), Ok((requests, true)), "{stream:?}");
    }
}

#[test]
fn bad_streams_are_refused_with_their_reason() {
    use BadRequest::*;
    let host = "Host: a\r\n";
    let post = |headers: &str, body: &str| format!("POST / HTTP/1.1\r\n{host}{headers}\r\n{body}");
    let chunked = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
    let cases: Vec<(String, BadRequest)> = vec![
        (post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", ""), BothLengths),
        (post("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", ""), BothLengths),
        (post("Content-Length: 3\r\nContent-Length: 3\r\n", ""), Length),
        (post("Content-Length: 3\r\nContent-Length: 4\r\n", ""), Length),
        (post("Content-Length: 3, 3\r\n", ""), Length),
        (post("Content-Length: +3\r\n", ""), Length),
        (post("Content-Length: -3\r\n", ""), Length),
        (post("Content-Length: 0x3\r\n", ""), Length),
        (post("Content-Length: 3 4\r\n", ""), Length),
        (post("Content-Length: \r\n", ""), Length),
        (post("Content-Length: 99999999999999999999\r\n", ""), Length),
        (post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", ""), TransferEncoding),
        (post("Transfer-Encoding: chunked, chunked\r\n", ""), TransferEncoding),
        (post("Transfer-Encoding: chunked,\r\n", ""), TransferEncoding),
        (post("Transfer-Encoding: xchunked\r\n", ""), TransferEncoding),
        (post("Transfer-Encoding: \x0bchunked\r\n", ""), Syntax),
        (post("Transfer-Encoding: gzip, chunked\r\n", ""), UnknownCoding),
        (post("Transfer-Encoding: identity\r\n", ""), UnknownCoding),
        (post("Transfer-Encoding: \r\n", ""), TransferEncoding),
        (post("Transfer-Encoding : chunked\r\n", ""), Syntax),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".into(), TransferEncoding),
        (post("X: a\r\n b\r\n", ""), Folded),
        (post("X: a\r\n\tb\r\n", ""), Folded),
        (post(" X: a\r\n", ""), Folded),
        ("GET / HTTP/1.1\nHost: a\n\n".into(), LineEnd),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n".into(), LineEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\rX: y\r\n\r\n".into(), LineEnd),
        (post("X: a\rb\r\n", ""), LineEnd),
        (post("X: a\0b\r\n", ""), LineEnd),
        (post("X\0: a\r\n", ""), LineEnd),
        (post("X: a\x7f\r\n", ""), Syntax),
        (post("X Y: a\r\n", ""), Syntax),
        (post(": a\r\n", ""), Syntax),
        (post("nocolon\r\n", ""), Syntax),
        ("GET / HTTP/1.1\r\n\r\n".into(), Host),
        (post("Host: a\r\n", ""), Host),
        (post("Host: b\r\n", ""), Host),
        ("GET http://a/ HTTP/1.1\r\nHost: \r\n\r\n".into(), Host),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".into(), Host),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".into(), Host),
        ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n".into(), Host),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n".into(), Host),
        ("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n".into(), Target),
        ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n".into(), Target),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n".into(), Target),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n".into(), Target),
        ("GET a HTTP/1.1\r\nHost: a\r\n\r\n".into(), Target),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n".into(), Syntax),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n".into(), Version),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n".into(), Version),
        ("GET /\r\n\r\n".into(), Syntax),
        ("G@T / HTTP/1.1\r\nHost: a\r\n\r\n".into(), Syntax),
        ("\x16\x03\x01 / HTTP/1.1\r\nHost: a\r\n\r\n".into(), Syntax),
        (chunked("x\r\n"), Chunk),
        (chunked("\r\n"), Chunk),
        (chunked("-1\r\n"), Chunk),
        (chunked("+1\r\n"), Chunk),
        (chunked("0x1\r\n"), Chunk),
        (chunked("1 \r\na\r\n"), Chunk),
        (chunked(" 1\r\na\r\n"), Chunk),
        (chunked("1\na\r\n"), Chunk),
        (chunked("1;a\nb\r\na\r\n"), Chunk),
        (chunked("1;a\rb\r\na\r\n"), Chunk),
        (chunked("1\r\nab\r\n"), Chunk),
        (chunked("1\r\na\n0\r\n\r\n"), Chunk),
        (chunked("10000000000000000\r\n"), Chunk),
        (chunked(&format!("1;{}\r\n", "x".repeat(300))), Chunk),
        (chunked("0\r\nContent-Length: 1\r\n\r\n"), Chunk),
        (chunked("0\r\nHost: b\r\n\r\n"), Chunk),
        (chunked("0\r\nnocolon\r\n\r\n"), Chunk),
        (chunked("0\r\nX: y\n\r\n"), LineEnd),
        (post("Upgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 1\r\n", "x"), UpgradeBody),
        (post("Upgrade: foo\r\nTransfer-Encoding: chunked\r\n", ""), UpgradeBody),
        (post(&format!("X: {}\r\n", "x".repeat(5000)), ""), HeaderBytes),
        (post(&"X: y\r\n".repeat(101), ""), HeaderCount),
    ];
    for (stream, why) in &cases {
        assert_eq!(judge(stream.as_bytes()), Err(*why), "{stream:?}");
        // The same after a good request on the same connection.
        let second = format!("{}{stream}", GOOD[9]);
        assert_eq!(judge(second.as_bytes()), Err(*why), "second: {stream:?}");
    }
    assert!(cases.len() >= 60);
}

#[test]
fn nothing_after_an_offence_in_a_body_passes() {
    let mut decoder = Decoder::done();
    decoder.begin_request(Framing::Chunked, LIMITS);
    let mut input = BytesMut::from("1\r\nax\r\n0\r\n\r\n");
    assert!(matches!(decoder.next(&mut input), Ok(Some(Piece::Data(data))) if data == "a"));
    for _ in 0..2 {
        assert!(matches!(decoder.next(&mut input), Err(BadRequest::Chunk)));
        assert_eq!((decoder.failure(), decoder.is_done()), (Some(BadRequest::Chunk), false));
    }
}

#[test]
fn what_a_request_says() {
    let request = |text: &'static str| read(&Bytes::from_static(text.as_bytes()), LIMITS).unwrap();
    let head = request("POST /a?b HTTP/1.1\r\nHOST: x\r\nExpect: 100-Continue\r\nContent-Length: 3\r\nX: a\r\nx:  b \r\n\r\n");
    assert_eq!((head.framing, head.keep_alive, head.expects_continue), (Framing::Length(3), true, true));
    assert_eq!((&head.head.method, head.head.uri.to_string().as_str()), (&Method::POST, "/a?b"));
    assert_eq!(head.head.headers.get_all("x").iter().collect::<Vec<_>>(), ["a", "b"]);
    let stays = |text| request(text).keep_alive;
    assert!(!stays("GET / HTTP/1.0\r\n\r\n"));
    assert!(stays("GET / HTTP/1.0\r\nConnection: te, Keep-Alive\r\n\r\n"));
    assert!(!stays("GET / HTTP/1.1\r\nHost: a\r\nConnection: te\r\nConnection: CLOSE\r\n\r\n"));
    assert!(!request("GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n").expects_continue);
}

#[test]
fn sixty_fields_and_more_fit_until_the_limit() {
    for (fields, fits) in [(60, true), (64, true), (65, true), (99, true), (100, false)] {
        let stream = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(fields));
        assert_eq!(judge(stream.as_bytes()).is_ok(), fits, "{fields}");
    }
}

proptest! {
    /// However a stream is cut into reads, the verdict is the same.
    #[test]
    fn cuts_do_not_matter(streams in prop::collection::vec(prop::sample::select(GOOD.to_vec()), 1..5),
                          noise in prop::option::of(prop::collection::vec(any::<u8>(), 1..20)),
                          mut cuts in prop::collection::vec(0_usize..600, 0..8)) {
        let mut stream = streams.concat().into_bytes();
        stream.extend(noise.iter().flatten());
        cuts.sort_unstable();
        prop_assert_eq!(judge_at(&stream, &[]), judge_at(&stream, &cuts));
    }

    /// No input makes it panic, and memory stays bounded.
    #[test]
    fn any_bytes(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..40)) {
        let cuts: Vec<usize> = chunks.iter().scan(0, |at, chunk| { *at += chunk.len(); Some(*at) }).collect();
        let _ = judge_at(&chunks.concat(), &cuts);
    }

    /// A body in chunks comes out as it went in, however it is cut, and whether it comes by way of the buffer or past it.
    #[test]
    fn chunks_round_trip(past in any::<bool>(), parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..100), 0..10),
                         mut cuts in prop::collection::vec(0_usize..1000, 0..8)) {
        let mut stream = Vec::new();
        for part in &parts {
            encode::chunk(&mut stream, part.len());
            stream.extend_from_slice(part);
            stream.extend_from_slice(b"\r\n");
        }
        encode::last_chunk(&mut stream, None);
        stream.extend_from_slice(b"next");
        cuts.sort_unstable();
        let (mut decoder, mut input, mut body, mut at) = (Decoder::done(), BytesMut::new(), Vec::new(), 0);
        decoder.begin_request(Framing::Chunked, LIMITS);
        for cut in cuts.into_iter().chain([stream.len()]) {
            let cut = cut.clamp(at, stream.len());
            if past && input.is_empty() {
                let count = usize::try_from(decoder.expects()).unwrap().min(cut - at);
                body.extend_from_slice(&stream[at..at + count]);
                decoder.passed(count as u64);
                at += count;
            }
            input.extend_from_slice(&stream[at..cut]);
            at = cut;
            while !decoder.is_done() {
                match decoder.next(&mut input) {
                    Ok(Some(Piece::Data(data))) => body.extend_from_slice(&data),
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(bad) => prop_assert!(false, "{:?}", bad),
                }
            }
        }
        prop_assert!(decoder.is_done());
        prop_assert_eq!((&body[..], &input[..]), (&parts.concat()[..], &b"next"[..]));
    }
}
