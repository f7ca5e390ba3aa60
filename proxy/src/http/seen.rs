//! Which of the headers that weir cares about a message has, found in one pass.
//!
//! A message has few headers, and weir asks for many names that are rarely there. One walk over what is there, told
//! apart by length first, is cheaper than a hash lookup for each name that is not.

use http::HeaderMap;

/// A set of headers that a message has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen(u8);

impl Seen {
    /// A header that belongs to one connection.
    const HOP: u8 = 1;
    /// A header of a trace context, or baggage.
    const TRACE: u8 = 2;
    /// `expect`.
    const EXPECT: u8 = 4;
    /// A content type of gRPC.
    const GRPC: u8 = 8;
    /// A content type of a stream of events.
    const EVENTS: u8 = 16;

    /// Looks at every header once.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut found = 0;
        for (name, value) in headers {
            found |= match (name.as_str().len(), name.as_str()) {
                (2, "te" | "b3") | (7, "upgrade" | "baggage") | (10, "connection" | "keep-alive" | "tracestate") => {
                    if matches!(name.as_str(), "b3" | "baggage" | "tracestate") { Self::TRACE } else { Self::HOP }
                }
                (14, "http2-settings") | (16, "proxy-connection") | (17, "transfer-encoding") => Self::HOP,
                (11, "traceparent" | "x-b3-spanid") | (12, "x-b3-traceid" | "x-b3-sampled") => Self::TRACE,
                (15, "x-amzn-trace-id") | (10, "x-b3-flags") | (17, "x-b3-parentspanid") => Self::TRACE,
                (6, "expect") => Self::EXPECT,
                (12, "content-type") if weir_config::matcher::is_grpc_type(value) => Self::GRPC,
                (12, "content-type") if value.as_bytes().starts_with(b"text/event-stream") => Self::EVENTS,
                _ => 0,
            };
        }
        Self(found)
    }

    /// Whether there is a header that belongs to one connection.
    pub fn hop(self) -> bool {
        self.0 & Self::HOP != 0
    }
    /// Whether there is a trace context, whole or in part.
    pub fn trace(self) -> bool {
        self.0 & Self::TRACE != 0
    }
    /// Whether there is an `expect`.
    pub fn expect(self) -> bool {
        self.0 & Self::EXPECT != 0
    }
    /// Whether the message is a stream of events (SSE).
    pub fn events(self) -> bool {
        self.0 & Self::EVENTS != 0
    }
    /// Whether the message is gRPC.
    pub fn grpc(self) -> bool {
        self.0 & Self::GRPC != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    #[test]
    fn every_name_is_found() {
        let one = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
            Seen::of(&headers)
        };
        for name in ["te", "upgrade", "connection", "keep-alive", "http2-settings", "proxy-connection", "transfer-encoding"] {
            assert!(one(name, "x").hop(), "{name}");
        }
        for name in crate::http::correlation::TRACE_HEADERS {
            assert!(one(name, "x").trace(), "{name}");
        }
        assert!(one("expect", "x").expect());
        assert!(one("content-type", "application/grpc+proto").grpc());
        assert_eq!(one("content-type", "application/json"), Seen::default());
        assert_eq!(one("accept", "x"), Seen::default());
    }
}
