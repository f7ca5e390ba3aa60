//! Switching protocols, in the words of each version.
//!
//! Within weir a request for another protocol looks as in HTTP/1.1: GET, `Upgrade`, and 101 for an answer. What comes or
//! goes over HTTP/2 (extended CONNECT, RFC 8441) is put into these words at the edge, so that routing, limits and logs
//! know one form. Decides what may be asked for; not how the bytes then flow. Careless changes let a request hide in what
//! was meant to be a tunnel.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use h2::ext::Protocol;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::request::Parts;
use http::{Method, StatusCode, Version, response};
use sha1::{Digest, Sha1};
use weir_config::snapshot::Rule;

use super::seen::Seen;
use crate::error::Fault;
use crate::upstream::body::Source;

/// Puts an extended CONNECT into HTTP/1.1's words.
pub(super) fn from_extended(head: &mut Parts) {
    let Some(protocol) = head.extensions.get::<Protocol>().filter(|_| head.method == Method::CONNECT) else { return };
    if let Ok(protocol) = HeaderValue::from_str(protocol.as_str()) {
        head.method = Method::GET;
        head.headers.insert(UPGRADE, protocol);
        head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// Whether it came as an extended CONNECT. Its caller cannot take no for an answer and go on as if it had not asked.
pub(super) fn is_extended(head: &Parts) -> bool {
    head.version == Version::HTTP_2 && head.extensions.get::<Protocol>().is_some()
}

/// What a request asks for.
pub(super) struct Asked {
    /// `None` for CONNECT, which goes to a forward proxy as it is.
    protocol: Option<HeaderValue>,
    /// What the answer to a WebSocket handshake must say (RFC 6455, section 4.2.2).
    accept: Option<HeaderValue>,
    from_h2: bool,
}

/// The protocol that the caller asks to switch to, if the rule allows it. A request with a body is one like any other, and
/// so is one that is not GET (RFC 6455, section 4.1) where WebSocket is all that is expected: an upgrade may be ignored (RFC 9110,
/// section 7.8).
pub(super) fn asked(rule: &Rule, head: &Parts, source: &Source, seen: Seen) -> Option<HeaderValue> {
    if !seen.hop_beside_connection() || (head.method != Method::GET && !rule.upgrades.any) {
        return None;
    }
    let may_switch = is_extended(head) || (head.version == Version::HTTP_11 && source.is_end());
    let asked = head.headers.get(UPGRADE).filter(|asked| may_switch && rule.upgrades.allow(asked.as_bytes()))?;
    let named = |field: &HeaderValue| crate::h1::request::names(field.as_bytes(), b"upgrade");
    head.headers.get_all(CONNECTION).iter().any(named).then(|| asked.clone())
}

/// Whether a caller that sent this would take a 2xx for a tunnel.
pub(super) fn expects_tunnel(head: &Parts) -> bool {
    head.method == Method::CONNECT || is_extended(head)
}

impl Asked {
    /// Asks upstream for `protocol`, in a head that has lost what belongs to the caller's connection. `draw` becomes the
    /// handshake's key if the caller has none: over HTTP/2 there is no need of one.
    pub(super) fn upstream(protocol: HeaderValue, head: &mut Parts, from_h2: bool, draw: u128) -> Self {
        let mut accept = None;
        if protocol.as_bytes().eq_ignore_ascii_case(b"websocket") {
            if from_h2 && let Ok(key) = HeaderValue::from_str(&STANDARD.encode(draw.to_be_bytes())) {
                head.headers.insert(SEC_WEBSOCKET_KEY, key);
            }
            accept = head.headers.get(SEC_WEBSOCKET_KEY).and_then(|key| accept_of(key.as_bytes()));
        }
        head.headers.insert(UPGRADE, protocol.clone());
        Self { protocol: Some(protocol), accept, from_h2 }
    }

    /// Asks a forward proxy for a tunnel to whom the head names. Only for callers on HTTP/1: in HTTP/2 a proxy would be asked by its
    /// own name.
    pub(super) fn of_proxy() -> Self {
        Self { protocol: None, accept: None, from_h2: false }
    }

    /// Whether the upstream consents; puts its consent into the caller's words. `over_h2` says how it came.
    ///
    /// # Errors
    /// The upstream does not answer what it was asked.
    pub(super) fn consented(&self, head: &mut response::Parts, over_h2: bool) -> Result<bool, Fault> {
        let Some(protocol) = &self.protocol else { return consents_to_connect(head) };
        if head.status != StatusCode::SWITCHING_PROTOCOLS {
            // A caller on HTTP/2 would take a 2xx for consent, and an app that never heard of it for one that agreed.
            return if self.from_h2 && head.status.is_success() { Err(Fault::UpstreamProtocol) } else { Ok(false) };
        }
        if !head.headers.get(UPGRADE).is_some_and(|said| said.as_bytes().eq_ignore_ascii_case(protocol.as_bytes())) {
            return Err(Fault::UpstreamProtocol);
        }
        // A tunnel has no length (RFC 9110, section 9.3.6).
        head.headers.remove(CONTENT_LENGTH);
        self.translate(protocol, head, over_h2).map(|()| true)
    }

    fn translate(&self, protocol: &HeaderValue, head: &mut response::Parts, over_h2: bool) -> Result<(), Fault> {
        if !self.from_h2 {
            if over_h2 {
                head.headers.insert(UPGRADE, protocol.clone());
                if let Some(accept) = &self.accept {
                    head.headers.insert(SEC_WEBSOCKET_ACCEPT, accept.clone());
                }
            }
            return Ok(());
        }
        // The handshake was weir's own, so weir must look whether it was understood.
        let said = head.headers.remove(SEC_WEBSOCKET_ACCEPT);
        if !over_h2 && self.accept.is_some() && said != self.accept {
            return Err(Fault::UpstreamProtocol);
        }
        head.headers.remove(UPGRADE);
        head.status = StatusCode::OK;
        Ok(())
    }
}

/// Any 2xx makes a tunnel; nothing else does (RFC 9110, section 9.3.6).
fn consents_to_connect(head: &mut response::Parts) -> Result<bool, Fault> {
    match head.status {
        StatusCode::SWITCHING_PROTOCOLS => Err(Fault::UpstreamProtocol),
        status if status.is_success() => {
            head.headers.remove(CONTENT_LENGTH);
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// RFC 6455, section 1.3.
fn accept_of(key: &[u8]) -> Option<HeaderValue> {
    let hash = Sha1::new().chain_update(key).chain_update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    HeaderValue::from_str(&STANDARD.encode(hash)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(accept_of(b"dGhlIHNhbXBsZSBub25jZQ==").unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_proxy_consents_by_any_2xx_and_by_nothing_else() {
        for (status, consents) in
            [(200, Ok(true)), (204, Ok(true)), (407, Ok(false)), (302, Ok(false)), (101, Err(Fault::UpstreamProtocol))]
        {
            let (mut head, ()) = http::Response::new(()).into_parts();
            head.status = StatusCode::from_u16(status).unwrap();
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("3"));
            assert_eq!(Asked::of_proxy().consented(&mut head, false), consents, "{status}");
            assert_eq!(head.headers.contains_key(CONTENT_LENGTH), consents != Ok(true), "{status}");
        }
    }

    #[test]
    fn a_false_accept_is_not_believed() {
        let (mut head, ()) = http::Request::new(()).into_parts();
        let asked = Asked::upstream(HeaderValue::from_static("websocket"), &mut head, true, 7);
        let answer = |accept: Option<&HeaderValue>| {
            let (mut head, ()) = http::Response::new(()).into_parts();
            head.status = StatusCode::SWITCHING_PROTOCOLS;
            head.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
            accept.map(|accept| head.headers.insert(SEC_WEBSOCKET_ACCEPT, accept.clone()));
            head
        };
        let right = accept_of(head.headers[SEC_WEBSOCKET_KEY].as_bytes());
        let mut consent = answer(right.as_ref());
        assert_eq!(asked.consented(&mut consent, false), Ok(true));
        assert_eq!((consent.status, consent.headers.len()), (StatusCode::OK, 0));
        assert_eq!(asked.consented(&mut answer(None), false), Err(Fault::UpstreamProtocol));
        let wrong = accept_of(b"another");
        assert_eq!(asked.consented(&mut answer(wrong.as_ref()), false), Err(Fault::UpstreamProtocol));
        assert_eq!(asked.consented(&mut answer(None), true), Ok(true), "over HTTP/2 there is none");
        let mut other = answer(right.as_ref());
        other.headers.insert(UPGRADE, HeaderValue::from_static("foo"));
        assert_eq!(asked.consented(&mut other, false), Err(Fault::UpstreamProtocol));
        for (status, consents) in [(200, Err(Fault::UpstreamProtocol)), (403, Ok(false)), (302, Ok(false))] {
            let mut plain = answer(None);
            plain.status = StatusCode::from_u16(status).unwrap();
            assert_eq!(asked.consented(&mut plain, false), consents, "{status}");
        }
    }
}
