//! Which protocols a connection of HTTP/1.1 may switch to (RFC 9110, section 7.8).

/// Protocols that a connection may switch to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgrades {
    /// By the name in the `Upgrade` header, in lower case.
    pub names: Box<[Box<str>]>,
    /// Tunnels by CONNECT.
    pub connect: bool,
    /// Whatever is asked for: it is between the caller and whom it has called.
    pub any: bool,
}

/// Protocols that weir speaks itself: no connection switches to them.
pub const SPOKEN: [&str; 3] = ["h2c", "http", "tls"];

impl Upgrades {
    /// Whether a connection may switch to what `Upgrade` asks for.
    pub fn allow(&self, asked: &[u8]) -> bool {
        self.names.iter().any(|name| name.as_bytes().eq_ignore_ascii_case(asked)) || (self.any && is_foreign(asked))
    }
}

/// Whether it is one protocol, and none of weir's own (`name[/version]`, RFC 9110, section 7.8).
fn is_foreign(asked: &[u8]) -> bool {
    let name = asked.split(|byte| *byte == b'/').next().unwrap_or_default();
    !asked.contains(&b',') && !SPOKEN.iter().any(|spoken| spoken.as_bytes().eq_ignore_ascii_case(name))
}

impl Default for Upgrades {
    fn default() -> Self {
        Self { names: Box::new(["websocket".into()]), connect: false, any: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_is_any_but_what_weir_speaks() {
        let any = Upgrades { any: true, ..Upgrades::default() };
        for (asked, usually, among_any) in [
            ("websocket", true, true),
            ("WebSocket", true, true),
            ("tcp", false, true),
            ("SPDY/3.1", false, true),
            ("h2c", false, false),
            ("HTTP/2.0", false, false),
            ("TLS/1.3", false, false),
            ("tcp, foo", false, false),
        ] {
            let asked = asked.as_bytes();
            assert_eq!((Upgrades::default().allow(asked), any.allow(asked)), (usually, among_any), "{}", asked.escape_ascii());
        }
    }
}
