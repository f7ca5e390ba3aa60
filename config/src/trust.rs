//! Whose word is taken for who called and under which id.

use std::net::IpAddr;

use ipnet::IpNet;

/// A set of peers that are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    any: bool,
    nets: Box<[IpNet]>,
}

const LOOPBACK: [&str; 2] = ["127.0.0.0/8", "::1/128"];
const PRIVATE: [&str; 7] =
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16", "fe80::/10", "fc00::/7"];

impl Trust {
    /// Everybody is believed.
    pub fn any() -> Self {
        Self { any: true, nets: Box::default() }
    }

    /// Loopback, RFC 1918, RFC 6598, link-local and unique local addresses are believed.
    pub fn private() -> Self {
        Self { any: false, nets: LOOPBACK.iter().chain(&PRIVATE).filter_map(|net| net.parse().ok()).collect() }
    }

    /// Parses the words and ranges of `trusted_peers`.
    ///
    /// # Errors
    /// The place of the first word that is neither a known word nor an address or range.
    pub fn parse(words: &[String]) -> Result<Self, usize> {
        let mut any = false;
        let mut nets: Vec<IpNet> = Vec::new();
        for (place, word) in words.iter().enumerate() {
            match word.as_str() {
                "any" => any = true,
                "none" => {}
                "loopback" => nets.extend(LOOPBACK.iter().filter_map(|net| net.parse::<IpNet>().ok())),
                "private" => nets.extend(Self::private().nets),
                other => match (other.parse::<IpNet>(), other.parse::<IpAddr>()) {
                    (Ok(net), _) => nets.push(net),
                    (_, Ok(address)) => nets.push(address.into()),
                    _ => return Err(place),
                },
            }
        }
        Ok(Self { any, nets: nets.into() })
    }

    /// Whether no peer at all is believed.
    pub fn is_nobody(&self) -> bool {
        !self.any && self.nets.is_empty()
    }

    /// Whether `peer` is believed. An IPv4 address mapped into IPv6 counts as the IPv4 address.
    pub fn believes(&self, peer: IpAddr) -> bool {
        if self.any {
            return true;
        }
        let peer = peer.to_canonical();
        self.nets.iter().any(|net| net.contains(&peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_ranges() {
        let trust = Trust::parse(&["loopback".into(), "10.1.0.0/16".into(), "192.0.2.7".into()]).unwrap();
        for (peer, believed) in [
            ("127.0.0.9", true),
            ("::ffff:127.0.0.1", true),
            ("10.1.2.3", true),
            ("10.2.2.3", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
        ] {
            assert_eq!(trust.believes(peer.parse().unwrap()), believed, "{peer}");
        }
        assert!(Trust::private().believes("172.20.0.1".parse().unwrap()));
        assert!(!Trust::private().believes("8.8.8.8".parse().unwrap()));
        assert_eq!(Trust::parse(&["none".into(), "nonsense".into()]), Err(1));
        assert!(!Trust::parse(&["none".into()]).unwrap().believes("127.0.0.1".parse().unwrap()));
    }
}
