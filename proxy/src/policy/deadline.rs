//! What the caller says about its patience, and what is left of it for the next hop.

use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::h1::encode;

static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
static TIMEOUT_MS: HeaderName = HeaderName::from_static(encode::TIMEOUT_MS);

/// How long the caller waits, if it says so in a way that can be understood: `grpc-timeout` of a gRPC request, else
/// `x-request-timeout-ms`.
pub fn told(headers: &HeaderMap, grpc: bool) -> Option<Duration> {
    if grpc {
        return headers.get(&GRPC_TIMEOUT).and_then(|value| parse_grpc(value.as_bytes()));
    }
    let text = headers.get(&TIMEOUT_MS)?.to_str().ok()?;
    digits(text.as_bytes()).map(Duration::from_millis)
}

/// Tells the next hop what is left. Gives the milliseconds that are to be told in `x-request-timeout-ms`. A gRPC deadline
/// is passed on only where there was one: it ends streams too, which a rule's `timeout.request` does not.
pub fn tell(headers: &mut HeaderMap, grpc: bool, left: Duration) -> Option<u64> {
    let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
    if !grpc {
        return Some(millis);
    }
    if headers.contains_key(&GRPC_TIMEOUT)
        && let Ok(value) = HeaderValue::from_str(&format_grpc(millis))
    {
        headers.insert(GRPC_TIMEOUT.clone(), value);
    }
    None
}

/// At most eight digits and a unit (gRPC over HTTP/2, `Timeout`).
fn parse_grpc(text: &[u8]) -> Option<Duration> {
    let (unit, number) = text.split_last()?;
    if number.len() > 8 {
        return None;
    }
    let number = digits(number)?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

fn digits(text: &[u8]) -> Option<u64> {
    let number = !text.is_empty() && text.len() <= 15 && text.iter().all(u8::is_ascii_digit);
    number.then(|| std::str::from_utf8(text).ok()?.parse().ok())?
}

fn format_grpc(millis: u64) -> String {
    match millis {
        0..=99_999_999 => format!("{millis}m"),
        _ => format!("{}S", (millis / 1000).min(99_999_999)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_understood() {
        let told = |name: &'static str, value: &'static str, grpc| {
            told(&HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_static(value))]), grpc)
        };
        let cases = [("1H", 3_600_000_000), ("2M", 120_000_000), ("3S", 3_000_000), ("4m", 4_000), ("5u", 5), ("0n", 0)];
        for (text, micros) in cases {
            assert_eq!(told("grpc-timeout", text, true), Some(Duration::from_micros(micros)));
        }
        for text in ["", "5", "S", "-1S", "+1S", "1.5S", "123456789m", "1s", " 1S", "1 S"] {
            assert_eq!(told("grpc-timeout", text, true), None, "{text:?}");
        }
        assert_eq!(told("grpc-timeout", "1S", false), None);
        assert_eq!(told("x-request-timeout-ms", "250", false), Some(Duration::from_millis(250)));
        assert_eq!(told("x-request-timeout-ms", "0", false), Some(Duration::ZERO));
        assert_eq!(told("x-request-timeout-ms", "soon", false), None);
    }

    #[test]
    fn what_is_left_is_told() {
        let mut headers = HeaderMap::new();
        tell(&mut headers, true, Duration::from_secs(1));
        assert!(headers.is_empty(), "no gRPC deadline is made up");
        headers.insert(GRPC_TIMEOUT.clone(), HeaderValue::from_static("10S"));
        tell(&mut headers, true, Duration::from_micros(2_500_900));
        assert_eq!(headers[&GRPC_TIMEOUT], "2500m");
        tell(&mut headers, true, Duration::from_secs(1_000_000));
        assert_eq!(headers[&GRPC_TIMEOUT], "1000000S");
        assert_eq!(tell(&mut headers, false, Duration::from_micros(10)), Some(1));
    }
}
