use super::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn run(incoming: &[(&str, &str)], trusted: bool) -> (Vec<(String, String)>, Correlation, Option<Box<str>>) {
    let mut headers = HeaderMap::new();
    for (name, value) in incoming {
        headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    let found = ensure(&mut headers, true, trusted, || HeaderValue::from_static("fresh"));
    let trace = trace_id(&headers);
    let text = |v: &HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
    let mut all: Vec<_> = headers.iter().map(|(n, v)| (n.to_string(), text(v))).collect();
    all.sort();
    (all, found, trace)
}

/// What a trusted hop sends in one of the four families goes out byte for byte, with the trace id found in it.
#[test]
fn well_formed_context_is_sent_on_in_kind() {
    let p = |flags: &str| format!("00-{TRACE}-{SPAN}-{flags}");
    let amzn_trace = "5759e988bd862e3fe1be46a994272793";
    let amzn = "Root=1-5759e988-bd862e3fe1be46a994272793";
    type Case = (Vec<(&'static str, String)>, Option<&'static str>);
    let cases: Vec<Case> = vec![
        (vec![("traceparent", p("00"))], Some(TRACE)),
        (vec![("traceparent", p("01"))], Some(TRACE)),
        (vec![("traceparent", p("01")), ("tracestate", "a=1,b=2".into())], Some(TRACE)),
        (vec![("traceparent", format!("cc-{TRACE}-{SPAN}-01-what-comes"))], Some(TRACE)),
        (vec![("baggage", "k=v".into())], None),
        (vec![("b3", "0".into())], None),
        (vec![("b3", "1".into())], None),
        (vec![("b3", "d".into())], None),
        (vec![("b3", format!("{TRACE}-{SPAN}"))], Some(TRACE)),
        (vec![("b3", format!("{TRACE}-{SPAN}-0"))], Some(TRACE)),
        (vec![("b3", format!("{TRACE}-{SPAN}-1"))], Some(TRACE)),
        (vec![("b3", format!("{TRACE}-{SPAN}-d-05e3ac9a4f6e3b90"))], Some(TRACE)),
        (vec![("b3", format!("{SPAN}-{SPAN}-1"))], Some(SPAN)),
        (vec![("b3", format!("{}-{SPAN}", TRACE.to_uppercase()))], Some("4BF92F3577B34DA6A3CE929D0E0E4736")),
        (vec![("x-b3-traceid", TRACE.into()), ("x-b3-spanid", SPAN.into())], Some(TRACE)),
        (vec![("x-b3-traceid", SPAN.into()), ("x-b3-spanid", SPAN.into()), ("x-b3-sampled", "0".into())], Some(SPAN)),
        (vec![("x-b3-traceid", TRACE.into()), ("x-b3-spanid", SPAN.into()), ("x-b3-flags", "1".into())], Some(TRACE)),
        (vec![("x-b3-traceid", TRACE.into()), ("x-b3-spanid", SPAN.into()), ("x-b3-parentspanid", SPAN.into())], Some(TRACE)),
        (vec![("x-b3-sampled", "0".into())], None),
        (vec![("x-amzn-trace-id", amzn.into())], Some(amzn_trace)),
        (vec![("x-amzn-trace-id", format!("{amzn};Sampled=0"))], Some(amzn_trace)),
        (vec![("x-amzn-trace-id", format!("{amzn};Sampled=?"))], Some(amzn_trace)),
        (vec![("x-amzn-trace-id", format!("{amzn};Parent=53995c3f42cd8ad8;Sampled=1"))], Some(amzn_trace)),
        (vec![("x-amzn-trace-id", format!("Self=1-67891234-12456789abcdef012345678;{amzn};Lineage=a:1"))], Some(amzn_trace)),
        (vec![("traceparent", p("01")), ("b3", format!("{SPAN}-{SPAN}-1")), ("x-amzn-trace-id", amzn.into())], Some(TRACE)),
        (vec![("b3", format!("{SPAN}-{SPAN}-1")), ("x-amzn-trace-id", amzn.into())], Some(SPAN)),
    ];
    for (headers, trace) in cases {
        let mut incoming: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        incoming.push(("x-request-id", "abc"));
        let (outgoing, found, found_trace) = run(&incoming, true);
        let mut same: Vec<(String, String)> = incoming.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        same.sort();
        assert_eq!(outgoing, same);
        assert_eq!(found.malformed, 0);
        assert_eq!(found_trace.as_deref(), trace, "{incoming:?}");
    }
}

#[test]
fn malformed_context_is_removed_and_counted() {
    let zero = "0".repeat(32);
    let cases: Vec<Vec<(&str, String)>> = vec![
        vec![("traceparent", String::new())],
        vec![("traceparent", format!("00-{TRACE}-{SPAN}"))],
        vec![("traceparent", format!("ff-{TRACE}-{SPAN}-01"))],
        vec![("traceparent", format!("00-{zero}-{SPAN}-01"))],
        vec![("traceparent", format!("00-{TRACE}-0000000000000000-01"))],
        vec![("traceparent", format!("00-{}-{SPAN}-01", TRACE.to_uppercase()))],
        vec![("traceparent", format!("00-{TRACE}-{SPAN}-01-more"))],
        vec![("traceparent", format!("00-{TRACE}-{SPAN}-01")), ("traceparent", format!("00-{TRACE}-{SPAN}-01"))],
        vec![("traceparent", "x".into()), ("tracestate", "a=1".into())],
        vec![("traceparent", format!("00-{TRACE}-ü{SPAN}-01"))],
        vec![("b3", "2".into())],
        vec![("b3", format!("{TRACE}-"))],
        vec![("b3", format!("{TRACE}-{SPAN}-x"))],
        vec![("b3", format!("{TRACE}-{SPAN}-1-{SPAN}-1"))],
        vec![("b3", format!("{zero}-{SPAN}"))],
        vec![("x-b3-traceid", TRACE.into())],
        vec![("x-b3-spanid", SPAN.into())],
        vec![("x-b3-traceid", "12".into()), ("x-b3-spanid", SPAN.into())],
        vec![("x-b3-traceid", TRACE.into()), ("x-b3-spanid", SPAN.into()), ("x-b3-sampled", "2".into())],
        vec![("x-amzn-trace-id", "Root=1-2-3".into())],
        vec![("x-amzn-trace-id", "Parent=53995c3f42cd8ad8".into())],
        vec![("x-amzn-trace-id", "Root=1-5759e988-bd862e3fe1be46a99427279z".into())],
        vec![("tracestate", "x".repeat(9000))],
        vec![("baggage", "x".repeat(9000))],
    ];
    for headers in cases {
        let mut incoming: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        incoming.push(("x-request-id", "abc"));
        let (outgoing, found, trace) = run(&incoming, true);
        assert_eq!(outgoing, [("x-request-id".to_owned(), "abc".to_owned())], "{incoming:?}");
        assert_eq!((found.malformed, trace), (1, None), "{incoming:?}");
    }
}

#[test]
fn ids_are_kept_or_replaced() {
    let long = "x".repeat(129);
    for (id, trusted, kept, replaced) in [
        (Some("my-id-1"), true, true, false),
        (Some("01890a5d-ac96-774b-bcce-b302099a8057"), true, true, false),
        (Some("my-id-1"), false, false, false),
        (None, true, false, false),
        (Some(""), true, false, true),
        (Some("a b"), true, false, true),
        (Some("ü"), true, false, true),
        (Some(&*long), true, false, true),
    ] {
        let incoming: Vec<(&str, &str)> = id.map(|id| ("x-request-id", id)).into_iter().collect();
        let (outgoing, found, _) = run(&incoming, trusted);
        let wanted = if kept { id.unwrap() } else { "fresh" };
        assert_eq!(outgoing, [("x-request-id".to_owned(), wanted.to_owned())]);
        assert_eq!((found.request_id.to_str().unwrap(), found.replaced), (wanted, replaced));
    }
    let (outgoing, ..) = run(&[("x-request-id", "first"), ("x-request-id", "second")], true);
    assert_eq!(outgoing, [("x-request-id".to_owned(), "first".to_owned())]);
}

#[test]
fn an_untrusted_peers_trace_is_forgotten() {
    let (outgoing, ..) = run(&[("traceparent", &format!("00-{TRACE}-{SPAN}-01")), ("b3", "1"), ("baggage", "a=b")], false);
    assert_eq!(outgoing, [("x-request-id".to_owned(), "fresh".to_owned())]);
}

#[test]
fn fresh_ids_are_uuid_v7() {
    let mut room = BytesMut::new();
    let id = fresh_id(0x0189_0a5d_ac96, u128::MAX, &mut room);
    assert_eq!(id, "01890a5d-ac96-7fff-bfff-ffffffffffff");
    assert_ne!(fresh_id(1, 2, &mut room), fresh_id(1, 3, &mut room));
}

/// A table of headers that come again must not be filled with those that do not (RFC 7541, section 6.2.3).
#[test]
fn what_differs_from_request_to_request_is_never_indexed() {
    let parent = format!("00-{TRACE}-{SPAN}-01");
    for given in [&[][..], &[("x-request-id", "abc")]] {
        let mut headers = HeaderMap::new();
        let fields = [("traceparent", parent.as_str()), ("tracestate", "a=1"), ("b3", "1"), ("baggage", "tenant=7")];
        for (name, value) in given.iter().chain(&fields) {
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap());
        }
        let found = ensure(&mut headers, true, true, || HeaderValue::from_static("fresh"));
        assert!(found.request_id.is_sensitive(), "the response's");
        for name in ["x-request-id", "traceparent", "tracestate", "b3"] {
            assert!(headers[name].is_sensitive(), "{name}");
        }
        assert!(!headers["baggage"].is_sensitive(), "the same for all requests of a session");
    }
}
