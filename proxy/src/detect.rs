//! What is spoken on a connection, by its first bytes: purely.
//!
//! HTTP/1 is taken for HTTP only when its whole first line shows it, for many protocols of one line begin alike (`PING`,
//! `CONNECT {..}`, `get key`). Whatever is none of those known is opaque, which loses nothing but what only HTTP could have.
//! What breaks if this is changed carelessly: bytes of the one taken for the other are refused, or pass by all rules for HTTP.

use crate::http::h2_gate::PREFACE;

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP/1.0, HTTP/1.1, or HTTP/2 by prior knowledge.
    Http,
    /// TLS.
    Tls,
    /// Something else.
    Opaque,
}

/// A first line longer than this is HTTP if it looked like it so far: whoever serves it has a limit of its own.
const MAX_LINE: usize = 16 << 10;
/// No method in use is longer.
const MAX_METHOD: usize = 32;

/// What bytes show; `None` if more must come.
pub fn judge(seen: &[u8]) -> Option<Spoken> {
    match seen {
        [] | [22] => None,
        // A record that carries a handshake, and the first byte of a version.
        [22, 3, ..] => Some(Spoken::Tls),
        _ if is_prefix(seen, PREFACE) => (seen.len() >= PREFACE.len()).then_some(Spoken::Http),
        _ => judge_line(seen),
    }
}

/// Whether it is no more so far than a word that might be a method, or the empty line before one.
pub fn is_word(seen: &[u8]) -> bool {
    seen.iter().all(|byte| is_token(*byte) || matches!(byte, b'\r' | b'\n'))
}

/// Whether what a server says before anything was asked is HTTP/2: its SETTINGS, which many do not wait with (RFC 9113,
/// section 3.4). Nobody else is greeted so; `None` if more must come.
pub fn greets_by_http2(said: &[u8]) -> Option<bool> {
    // A length below 65,536, the type, no flags, and the stream that is none.
    let header = |place: usize, byte: u8| match place {
        1 | 2 => true,
        3 => byte == 4,
        _ => byte == 0,
    };
    let fits = said.iter().take(FRAME_HEADER).enumerate().all(|(place, byte)| header(place, *byte));
    if fits && said.len() < FRAME_HEADER { None } else { Some(fits) }
}

/// RFC 9113, section 4.1.
const FRAME_HEADER: usize = 9;

fn is_prefix(seen: &[u8], whole: &[u8]) -> bool {
    let known = seen.len().min(whole.len());
    seen[..known] == whole[..known]
}

/// `method SP target SP HTTP/1.x`, of which robust servers let empty lines stand before (RFC 9112, section 2.2).
fn judge_line(seen: &[u8]) -> Option<Spoken> {
    let begin = seen.iter().position(|byte| !matches!(byte, b'\r' | b'\n'));
    let Some(begin) = begin.filter(|begin| *begin <= 4) else {
        return (seen.len() > 4).then_some(Spoken::Opaque);
    };
    let line = &seen[begin..];
    let method = line.iter().take(MAX_METHOD + 1).position(|byte| !is_token(*byte));
    let Some(method) = method else {
        return (line.len() > MAX_METHOD).then_some(Spoken::Opaque);
    };
    if method == 0 || line[method] != b' ' {
        return Some(Spoken::Opaque);
    }
    let rest = &line[method + 1..];
    let Some(end) = rest.iter().position(|byte| *byte == b' ' || byte.is_ascii_control()) else {
        return (rest.len() > MAX_LINE).then_some(Spoken::Http);
    };
    if end == 0 || rest[end] != b' ' {
        return Some(Spoken::Opaque);
    }
    let version = &rest[end + 1..];
    match is_prefix(version, b"HTTP/1.") {
        false => Some(Spoken::Opaque),
        true => (version.len() >= b"HTTP/1.".len()).then_some(Spoken::Http),
    }
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_beginnings() {
        for (seen, spoken) in [
            (&b"GET / HTTP/1.1\r\n"[..], Spoken::Http),
            (b"\r\nPOST http://a/b HTTP/1.0\r\n", Spoken::Http),
            (b"OPTIONS * HTTP/1.1\r\n", Spoken::Http),
            (b"CONNECT a:1 HTTP/1.1\r\n", Spoken::Http),
            (b"M-SEARCH * HTTP/1.1\r\n", Spoken::Http),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0", Spoken::Http),
            (b"\x16\x03\x01\x02\0\x01", Spoken::Tls),
            // Redis, inline and not; NATS; SMTP; memcached; SSH; PostgreSQL; MySQL; Kafka; FTP.
            (b"*1\r\n$4\r\nPING\r\n", Spoken::Opaque),
            (b"PING\r\n", Spoken::Opaque),
            (b"GET key\r\n", Spoken::Opaque),
            (b"CONNECT {\"verbose\":false}\r\n", Spoken::Opaque),
            (b"EHLO me\r\n", Spoken::Opaque),
            (b"get a b\r\n", Spoken::Opaque),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Spoken::Opaque),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", Spoken::Opaque),
            (b"\x20\0\0\x01\x85\xa6", Spoken::Opaque),
            (b"\0\0\0\x24\0\x12", Spoken::Opaque),
            (b"USER anonymous\r\n", Spoken::Opaque),
            (b"\x16\x02", Spoken::Opaque),
            (b"GET / HTTP/0.9\r\n", Spoken::Opaque),
            (b"GET /\r\n", Spoken::Opaque),
            (b"GET  / HTTP/1.1\r\n", Spoken::Opaque),
            (b"RTSP", Spoken::Opaque),
        ] {
            let judged = judge(seen);
            let undecided = seen == b"RTSP";
            assert_eq!(judged, (!undecided).then_some(spoken), "{}", seen.escape_ascii());
        }
    }

    #[test]
    fn greetings() {
        let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0x40, 0];
        for length in 0..settings.len() {
            assert_eq!(greets_by_http2(&settings[..length]), (length >= 9).then_some(true), "{length}");
        }
        // SMTP; MySQL; what only begins so; an acknowledgement, which nobody begins with.
        for said in [&b"220 at"[..], b"\x4a\0\0\0\x0a8.0", b"\0\0\x06\x05", b"\0\0\0\x04\x01\0\0\0\0"] {
            assert_eq!(greets_by_http2(said), Some(false), "{}", said.escape_ascii());
        }
    }

    #[test]
    fn patience_has_an_end() {
        assert_eq!(judge(&[b'A'; MAX_METHOD]), None);
        assert_eq!(judge(&[b'A'; MAX_METHOD + 1]), Some(Spoken::Opaque));
        let long = [&b"GET /"[..], &[b'a'; MAX_LINE]].concat();
        assert_eq!(judge(&long[..long.len() - 1]), None);
        assert_eq!(judge(&long), Some(Spoken::Http));
        assert_eq!(judge(b"\r\n\r\n\r\n"), Some(Spoken::Opaque));
    }

    proptest! {
        /// However bytes come in pieces, what they show does not change.
        #[test]
        fn more_bytes_do_not_change_a_judgement(bytes in any::<Vec<u8>>(), http in any::<bool>(), cut in 0_usize..40) {
            let bytes = if http { [b"DELETE /some/path?q=1 HTTP/1.1\r\nhost: a\r\n\r\n", &bytes[..]].concat() } else { bytes };
            let first = judge(&bytes[..cut.min(bytes.len())]);
            if first.is_some() {
                prop_assert_eq!(first, judge(&bytes));
            }
        }

        /// Nothing keeps a caller waiting for ever.
        #[test]
        fn enough_bytes_are_always_judged(bytes in prop::collection::vec(any::<u8>(), MAX_LINE + MAX_METHOD + 8)) {
            prop_assert!(judge(&bytes).is_some());
        }
    }
}
