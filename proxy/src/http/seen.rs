//! Which of the headers that weir cares about a message has, found in one pass.
//!
//! A message has few headers, and weir asks for many names that are rarely there. One walk over what is there, told
//! apart by length first, is cheaper than a hash lookup for each name that is not.

use http::HeaderMap;

/// A set of headers that a message has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen(u16);

impl Seen {
    /// `connection`.
    const CONNECTION: u16 = 1;
    /// Another header that belongs to one connection.
    const HOP: u16 = 64;
    /// What only weir may say.
    const WEIR: u16 = 128;
    /// A header of a trace context, or baggage.
    const TRACE: u16 = 2;
    /// `expect`.
    const EXPECT: u16 = 4;
    /// A content type of gRPC.
    const GRPC: u16 = 8;
    /// The caller's deadline.
    const DEADLINE: u16 = 32;
    /// A content type of a stream of events.
    const EVENTS: u16 = 16;

    /// Looks at every header once.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut found = 0;
        for (name, value) in headers {
            found |= match (name.as_str().len(), name.as_str()) {
                (2, "te" | "b3") | (7, "upgrade" | "baggage") | (10, "keep-alive" | "tracestate") => {
                    if matches!(name.as_str(), "b3" | "baggage" | "tracestate") { Self::TRACE } else { Self::HOP }
                }
                (10, "connection") => Self::CONNECTION,
                (12, "x-weir-error") | (18, "x-weir-unprocessed") => Self::WEIR,
                (14, "http2-settings") | (16, "proxy-connection") | (17, "transfer-encoding") => Self::HOP,
                (11, "traceparent" | "x-b3-spanid") | (12, "x-b3-traceid" | "x-b3-sampled") => Self::TRACE,
                (15, "x-amzn-trace-id") | (10, "x-b3-flags") | (17, "x-b3-parentspanid") => Self::TRACE,
                (6, "expect") => Self::EXPECT,
                (12, "grpc-timeout") | (20, "x-request-timeout-ms") => Self::DEADLINE,
                (12, "content-type") if weir_config::matcher::is_grpc_type(value) => Self::GRPC,
                (12, "content-type") if value.as_bytes().starts_with(b"text/event-stream") => Self::EVENTS,
                _ => 0,
            };
        }
        Self(found)
    }

    /// Whether there is a header that belongs to one connection.
    pub fn hop(self) -> bool {
        self.0 & (Self::HOP | Self::CONNECTION) != 0
    }
    /// Whether there is such a header beside `connection` itself.
    pub fn hop_beside_connection(self) -> bool {
        self.0 & Self::HOP != 0
    }
    /// Whether there is a header that only weir may send.
    pub fn weir(self) -> bool {
        self.0 & Self::WEIR != 0
    }
    /// Whether there is a trace context, whole or in part.
    pub fn trace(self) -> bool {
        self.0 & Self::TRACE != 0
    }
    /// Whether there is an `expect`.
    pub fn expect(self) -> bool {
        self.0 & Self::EXPECT != 0
    }
    /// Whether the caller says how long it waits.
    pub fn deadline(self) -> bool {
        self.0 & Self::DEADLINE != 0
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
