use proptest::prelude::*;

use super::*;

fn rule(on: &[RetryOn]) -> RetryRule {
    let mut conditions = Conditions::default();
    on.iter().for_each(|condition| conditions.insert(*condition));
    RetryRule {
        attempts: 1,
        on: conditions,
        codes: Box::new([]),
        headers: Box::new([]),
        idempotent: false,
        base: Duration::from_millis(25),
        max: Duration::from_millis(250),
        retry_after: Duration::from_secs(1),
    }
}

fn first(method: &Method) -> Circumstances<'_> {
    let (attempts, moves, replays) = (1, 0, 0);
    Circumstances { method, attempts, moves, replays, elsewhere: true, replayable: true, remaining: None, per_try: None }
}

fn ask(rule: Option<&RetryRule>, outcome: Outcome<'_>, now: Circumstances<'_>) -> Verdict {
    judge(rule, outcome, now, 0, SystemTime::UNIX_EPOCH)
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(n, v)| (HeaderName::from_static(n), http::HeaderValue::from_static(v))).collect()
}

const RETRIED: Verdict = Verdict::Retry(Duration::ZERO);

#[test]
fn without_a_rule_only_what_was_not_processed_is_tried_again() {
    let none = HeaderMap::new();
    for method in [Method::GET, Method::POST] {
        let now = first(&method);
        assert_eq!(ask(None, Outcome::NotConnected, now), Verdict::Move);
        for outcome in [Outcome::Unsent, Outcome::Refused, Outcome::Stale] {
            assert_eq!(ask(None, outcome, now), Verdict::Replay, "{outcome:?}");
        }
        for outcome in [
            Outcome::Reset,
            Outcome::TimedOut,
            Outcome::Final,
            Outcome::Response(StatusCode::SERVICE_UNAVAILABLE, &none),
            Outcome::Response(StatusCode::OK, &none),
        ] {
            assert_eq!(ask(None, outcome, now), Verdict::Done(None), "{outcome:?}");
        }
    }
}

#[test]
fn what_is_free_is_bounded() {
    let now = first(&Method::GET);
    assert_eq!(ask(None, Outcome::NotConnected, Circumstances { elsewhere: false, ..now }), Verdict::Done(None));
    assert_eq!(ask(None, Outcome::NotConnected, Circumstances { moves: MAX_MOVES, ..now }), Verdict::Done(None));
    assert_eq!(ask(None, Outcome::Stale, Circumstances { replays: MAX_REPLAYS, ..now }), Verdict::Done(None));
    assert_eq!(ask(None, Outcome::Stale, Circumstances { replayable: false, ..now }), Verdict::Done(Some(Denied::Body)));
}

#[test]
fn conditions_and_methods() {
    use RetryOn::*;
    let none = HeaderMap::new();
    let (get, post) = (Method::GET, Method::POST);
    let code = |code: u16| StatusCode::from_u16(code).unwrap();
    // The condition, what it is met by, and whether a POST is retried too.
    let unavailable = headers(&[("grpc-status", "14")]);
    let limited = headers(&[("x-envoy-ratelimited", "true")]);
    let last = Circumstances { elsewhere: false, ..first(&get) };
    let cases: &[(RetryOn, Outcome<'_>, bool)] = &[
        (FiveXx, Outcome::Response(code(500), &none), false),
        (FiveXx, Outcome::Reset, false),
        (FiveXx, Outcome::TimedOut, false),
        (FiveXx, Outcome::NotConnected, true),
        (GatewayError, Outcome::Response(code(502), &none), false),
        (GatewayError, Outcome::Response(code(504), &none), false),
        (GatewayError, Outcome::TimedOut, false),
        (Reset, Outcome::Reset, false),
        (ConnectFailure, Outcome::NotConnected, true),
        (Retriable4xx, Outcome::Response(code(409), &none), false),
        (EnvoyRatelimited, Outcome::Response(code(429), &limited), true),
        (Unavailable, Outcome::Response(code(200), &unavailable), true),
    ];
    for (condition, outcome, also_post) in cases {
        let rule = rule(&[*condition]);
        assert_eq!(ask(Some(&rule), *outcome, last), RETRIED, "{condition:?} {outcome:?}");
        let verdict = ask(Some(&rule), *outcome, Circumstances { method: &post, ..last });
        let expected = if *also_post { RETRIED } else { Verdict::Done(Some(Denied::Method)) };
        assert_eq!(verdict, expected, "POST: {condition:?} {outcome:?}");
        let any = RetryRule { idempotent: true, ..rule };
        assert_eq!(ask(Some(&any), *outcome, Circumstances { method: &post, ..last }), RETRIED);
        // Nothing else meets it.
        assert_eq!(ask(Some(&any), Outcome::Response(code(200), &none), last), Verdict::Done(None));
        assert_eq!(ask(Some(&any), Outcome::Response(code(404), &none), last), Verdict::Done(None));
        assert_eq!(ask(Some(&any), Outcome::Final, last), Verdict::Done(None));
    }
    let gateway = rule(&[GatewayError]);
    assert_eq!(ask(Some(&gateway), Outcome::Response(code(500), &none), last), Verdict::Done(None));
    let coded = RetryRule { codes: Box::new([code(404)]), ..rule(&[]) };
    assert_eq!(ask(Some(&coded), Outcome::Response(code(404), &none), last), RETRIED);
}

#[test]
fn waits() {
    let rule = RetryRule { attempts: 10, ..rule(&[RetryOn::FiveXx]) };
    let none = HeaderMap::new();
    let failed = Outcome::Response(StatusCode::SERVICE_UNAVAILABLE, &none);
    let wait = |attempts, draw| {
        judge(Some(&rule), failed, Circumstances { attempts, ..first(&Method::GET) }, draw, SystemTime::UNIX_EPOCH)
    };
    for (attempts, longest) in [(1, 25), (2, 75), (3, 175), (4, 250), (10, 250)] {
        assert_eq!(wait(attempts, u64::MAX), Verdict::Retry(Duration::from_millis(longest)), "{attempts}");
        assert_eq!(wait(attempts, 0), RETRIED);
    }
    assert_eq!(wait(11, 0), Verdict::Done(Some(Denied::Attempts)));
}

#[test]
fn patience_that_is_asked_for() {
    let rule = rule(&[RetryOn::FiveXx]);
    let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
    let told = |text: &'static str| {
        let headers = headers(&[("retry-after", text)]);
        judge(Some(&rule), Outcome::Response(StatusCode::SERVICE_UNAVAILABLE, &headers), first(&Method::GET), 0, wall)
    };
    assert_eq!(told("1"), Verdict::Retry(Duration::from_secs(1)));
    assert_eq!(told("2"), Verdict::Done(Some(Denied::RetryAfter)));
    assert_eq!(told("Sun, 06 Nov 1994 08:49:38 GMT"), Verdict::Retry(Duration::from_secs(1)));
    assert_eq!(told("Sun, 06 Nov 1994 08:49:30 GMT"), RETRIED);
    assert_eq!(told("soon"), RETRIED);
}

proptest! {
    /// A retry never reaches past the deadline, and never begins where nothing can be sent again.
    #[test]
    fn no_retry_past_the_deadline(remaining in 0_u64..1000, per_try in prop::option::of(0_u64..500), attempts in 1_u32..5,
                                  replayable: bool, draw: u64) {
        let rule = RetryRule { attempts: 4, ..rule(&[RetryOn::FiveXx]) };
        let now = Circumstances {
            attempts,
            replayable,
            remaining: Some(Duration::from_millis(remaining)),
            per_try: per_try.map(Duration::from_millis),
            ..first(&Method::GET)
        };
        let none = HeaderMap::new();
        let verdict = judge(Some(&rule), Outcome::Response(StatusCode::BAD_GATEWAY, &none), now, draw, SystemTime::UNIX_EPOCH);
        if let Verdict::Retry(delay) = verdict {
            prop_assert!(replayable && attempts <= 4);
            prop_assert!(delay + now.per_try.unwrap_or_default() < Duration::from_millis(remaining));
            prop_assert!(delay <= rule.max);
        }
    }
}
