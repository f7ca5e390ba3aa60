//! However a stream is cut, the codec reads the same requests out of it or refuses it for the same reason.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use weir::error::BadRequest;
use weir::h1::Limits;
use weir::h1::decode::Decoder;
use weir::h1::request::{Scanner, read};

const LIMITS: Limits = Limits { header_bytes: 4096, header_count: 50 };

fn requests<'s>(parts: impl Iterator<Item = &'s [u8]>) -> Result<usize, BadRequest> {
    let (mut scanner, mut decoder, mut input, mut found) = (Scanner::default(), Decoder::done(), BytesMut::new(), 0);
    for part in parts {
        input.extend_from_slice(part);
        loop {
            if !decoder.is_done() {
                if decoder.next(&mut input)?.is_none() {
                    break;
                }
                continue;
            }
            let Some(head) = scanner.next(&mut input, LIMITS)? else { break };
            decoder.begin_request(read(&head, LIMITS)?.framing, LIMITS);
            found += 1;
        }
    }
    Ok(found)
}

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (stream, cuts) = input;
    let mut rest = &stream[..];
    let mut parts = Vec::new();
    for cut in cuts {
        let (part, after) = rest.split_at(usize::from(cut).min(rest.len()));
        parts.push(part);
        rest = after;
    }
    parts.push(rest);
    assert_eq!(requests([&stream[..]].into_iter()), requests(parts.into_iter()));
});
