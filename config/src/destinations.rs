//! Finding the route of a redirected connection by where it was going.
//!
//! The most specific destination counts: an address before a range, a longer prefix before a shorter one, and of two that
//! are the same in this the one with a port.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use foldhash::fast::RandomState;
use ipnet::IpNet;

use crate::snapshot::RouteId;

/// The routes of one listener by destination.
#[derive(Debug, Default, Clone)]
pub struct DestinationTable {
    /// Of one address and one port, as most are.
    exact: HashMap<SocketAddr, RouteId, RandomState>,
    /// All others, the most specific first.
    ranges: Vec<(Destination, RouteId)>,
}

/// A destination of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Destination {
    /// `None` is any address.
    net: Option<IpNet>,
    /// `None` is any port.
    port: Option<u16>,
}

impl Destination {
    /// `address:port`, `range:port` or `*:port`, where the port may be `*`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port = match port {
            "*" => None,
            number => Some(number.parse().ok().filter(|port| *port > 0)?),
        };
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let net = match (host, bare) {
            ("*", _) => None,
            (_, Some(host)) => Some(host.parse::<IpNet>().or_else(|_| host.parse::<IpAddr>().map(IpNet::from)).ok()?),
            // IPv6 without brackets could be read in more than one way.
            (host, None) if host.contains(':') => return None,
            (host, None) => Some(host.parse::<IpNet>().or_else(|_| host.parse::<IpAddr>().map(IpNet::from)).ok()?),
        };
        Some(Self { net: net.map(|net| net.trunc()), port })
    }

    fn contains(&self, to: SocketAddr) -> bool {
        self.port.is_none_or(|port| port == to.port()) && self.net.is_none_or(|net| net.contains(&to.ip()))
    }

    /// Greater is more specific.
    fn weight(&self) -> (u8, bool) {
        // Of the two families none is before the other: no address is in both.
        let prefix = self.net.map_or(0, |net| net.prefix_len() + 1);
        (prefix, self.port.is_some())
    }

    fn exact(&self) -> Option<SocketAddr> {
        let net = self.net.filter(|net| net.prefix_len() == net.max_prefix_len())?;
        Some(SocketAddr::new(net.addr(), self.port?))
    }
}

impl DestinationTable {
    /// Files a route under a destination; gives the route that has it already.
    pub(crate) fn insert(&mut self, destination: Destination, route: RouteId) -> Option<RouteId> {
        if let Some(address) = destination.exact() {
            let taken = self.exact.get(&address).copied();
            if taken.is_none() {
                self.exact.insert(address, route);
            }
            return taken;
        }
        if let Some((_, taken)) = self.ranges.iter().find(|(other, _)| *other == destination) {
            return Some(*taken);
        }
        let place = self.ranges.partition_point(|(other, _)| other.weight() >= destination.weight());
        self.ranges.insert(place, (destination, route));
        None
    }

    /// The route of the most specific destination that contains `to`.
    pub fn find(&self, to: SocketAddr) -> Option<RouteId> {
        let to = SocketAddr::new(to.ip().to_canonical(), to.port());
        let exact = self.exact.get(&to).copied();
        exact.or_else(|| self.ranges.iter().find(|(destination, _)| destination.contains(to)).map(|(_, route)| *route))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(entries: &[&str]) -> DestinationTable {
        let mut table = DestinationTable::default();
        for (text, id) in entries.iter().zip(0..) {
            assert_eq!(table.insert(Destination::parse(text).unwrap(), RouteId(id)), None, "{text}");
        }
        table
    }

    #[test]
    fn the_most_specific_destination_counts() {
        let entries = [
            "*:*",
            "10.0.0.0/8:*",
            "10.0.0.0/8:80",
            "10.1.0.0/16:*",
            "10.1.2.3:*",
            "10.1.2.3:80",
            "*:9092",
            "[fd00::/8]:*",
            "[fd00::7]:6379",
        ];
        for (order, _) in entries.iter().enumerate() {
            let mut rotated = entries;
            rotated.rotate_left(order);
            let table = table(&rotated);
            for (to, wanted) in [
                ("10.1.2.3:80", "10.1.2.3:80"),
                ("10.1.2.3:81", "10.1.2.3:*"),
                ("10.1.9.9:80", "10.1.0.0/16:*"),
                ("10.2.9.9:80", "10.0.0.0/8:80"),
                ("10.2.9.9:9092", "10.0.0.0/8:*"),
                ("11.2.9.9:9092", "*:9092"),
                ("11.2.9.9:1", "*:*"),
                ("[fd00::7]:6379", "[fd00::7]:6379"),
                ("[fd00::8]:6379", "[fd00::/8]:*"),
                ("[2001::8]:6379", "*:*"),
                ("[::ffff:10.1.2.3]:80", "10.1.2.3:80"),
            ] {
                let found = table.find(to.parse().unwrap()).unwrap();
                assert_eq!(rotated[found.index()], wanted, "{to}");
            }
        }
    }

    #[test]
    fn what_is_no_destination() {
        for text in [
            "",
            "10.0.0.1",
            "10.0.0.1:0",
            "10.0.0.1:x",
            "fd00::1:80",
            "name:80",
            "10.0.0.0/33:80",
            "[fd00::1:80",
            ":80",
            "[*]:80",
        ] {
            assert_eq!(Destination::parse(text), None, "{text}");
        }
        let mut table = table(&["10.0.0.0/8:80", "10.0.0.1:80"]);
        assert_eq!(table.insert(Destination::parse("10.2.3.4/8:80").unwrap(), RouteId(7)), Some(RouteId(0)));
        assert_eq!(table.insert(Destination::parse("10.0.0.1/32:80").unwrap(), RouteId(7)), Some(RouteId(1)));
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text: String) {
            let _ = Destination::parse(&text);
        }
    }
}
