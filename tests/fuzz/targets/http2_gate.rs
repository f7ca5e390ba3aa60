//! Any bytes in any pieces: no panic, and the same verdict.
#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use weir::http::h2_gate::Inspector;

fuzz_target!(|input: (Vec<u8>, u8)| {
    let (stream, size) = input;
    let now = Instant::now();
    let limits = weir_config::schema::Http2::default();
    let whole = Inspector::new(limits.clone(), now).inspect(&stream, || now);
    let mut inspector = Inspector::new(limits, now);
    let mut pieces = stream.chunks(usize::from(size).max(1));
    let verdict = pieces.try_for_each(|piece| inspector.inspect(piece, || now));
    assert_eq!(whole, verdict);
});
