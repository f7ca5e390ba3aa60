//! Any header values: there always is exactly one valid id, and what is left of the trace context is well-formed.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use weir::http::correlation::{ensure, trace_id};

const NAMES: [&str; 9] = [
    "x-request-id",
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-sampled",
    "x-amzn-trace-id",
    "baggage",
];

fuzz_target!(|input: (bool, Vec<(u8, Vec<u8>)>)| {
    let (trusted, fields) = input;
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            headers.append(HeaderName::from_static(NAMES[usize::from(name) % NAMES.len()]), value);
        }
    }
    let found = ensure(&mut headers, true, trusted, || HeaderValue::from_static("fresh"));
    assert_eq!(headers.get_all("x-request-id").iter().count(), 1);
    assert_eq!(headers["x-request-id"], found.request_id);
    let trace = trace_id(&headers);
    assert!(trace.is_none_or(|id| matches!(id.len(), 16 | 32) && id.bytes().all(|b| b.is_ascii_hexdigit())));
});
