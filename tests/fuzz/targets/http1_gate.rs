//! However a stream is cut, the gate's verdict is the same, and nothing passes after a refusal.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::http::h1_gate::Inspector;

fuzz_target!(|input: (Vec<u8>, Vec<u8>)| {
    let (stream, cuts) = input;
    let whole = Inspector::new(4096, 50).inspect(&stream).map_err(|(_, why, _)| why);
    let mut inspector = Inspector::new(4096, 50);
    let mut rest = &stream[..];
    let mut verdict = Ok(());
    for cut in cuts.iter().map(|cut| usize::from(*cut)).chain([stream.len()]) {
        let (part, after) = rest.split_at(cut.min(rest.len()));
        verdict = inspector.inspect(part).map_err(|(_, why, _)| why);
        if verdict.is_err() {
            assert!(inspector.inspect(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").is_err());
            break;
        }
        rest = after;
    }
    assert_eq!(whole, verdict);
});
