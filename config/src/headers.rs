//! Changes of headers, compiled: names and values are parsed once, when a snapshot is made.

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Changes of one message's headers, in the order they are applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderOps(pub(crate) Box<[HeaderOp]>);

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderOp {
    /// Take every value of the name away.
    Remove(HeaderName),
    /// Give the name this one value.
    Set(HeaderName, HeaderValue),
    /// Add a value.
    Add(HeaderName, HeaderValue),
}

impl HeaderOps {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The changes, in order.
    pub fn iter(&self) -> impl Iterator<Item = &HeaderOp> {
        self.0.iter()
    }

    /// Applies the changes.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for op in &self.0 {
            match op {
                HeaderOp::Remove(name) => {
                    headers.remove(name);
                }
                HeaderOp::Set(name, value) => {
                    headers.insert(name.clone(), value.clone());
                }
                // A map that is full (32,768 fields) drops the addition; peers are limited to far fewer.
                HeaderOp::Add(name, value) => {
                    let _ = headers.try_append(name.clone(), value.clone());
                }
            }
        }
    }
}

/// Why a configuration may not change this header, or `None` if it may.
pub(crate) fn protected(name: &HeaderName) -> Option<&'static str> {
    match name.as_str() {
        "host" => Some("the host is changed by `rewrite: { host: ... }`"),
        "content-length" | "transfer-encoding" | "trailer" | "te" => Some("weir frames messages itself"),
        "connection" | "keep-alive" | "proxy-connection" | "upgrade" | "http2-settings" => {
            Some("it belongs to one connection, not to the message")
        }
        "x-weir-error" => Some("it says that weir itself made a response"),
        "x-request-id" => Some("it must be the same on every hop"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn op() -> impl Strategy<Value = HeaderOp> {
        let name = prop::sample::select(vec!["x-a", "x-b", "x-c"]).prop_map(HeaderName::from_static);
        let value = prop::sample::select(vec!["1", "2", "3"]).prop_map(HeaderValue::from_static);
        (0..3, name, value).prop_map(|(kind, name, value)| match kind {
            0 => HeaderOp::Remove(name),
            1 => HeaderOp::Set(name, value),
            _ => HeaderOp::Add(name, value),
        })
    }

    proptest! {
        /// The map agrees with the plainest model there is: a list of pairs.
        #[test]
        fn agrees_with_a_list(ops in prop::collection::vec(op(), 0..12)) {
            let mut headers = HeaderMap::new();
            headers.append("x-a", HeaderValue::from_static("0"));
            let mut list = vec![("x-a".to_owned(), "0".to_owned())];
            HeaderOps(ops.clone().into()).apply(&mut headers);
            for op in &ops {
                match op {
                    HeaderOp::Remove(name) => list.retain(|(n, _)| n != name.as_str()),
                    HeaderOp::Set(name, value) => {
                        list.retain(|(n, _)| n != name.as_str());
                        list.push((name.to_string(), value.to_str().unwrap().to_owned()));
                    }
                    HeaderOp::Add(name, value) => list.push((name.to_string(), value.to_str().unwrap().to_owned())),
                }
            }
            let mut got: Vec<_> = headers.iter().map(|(n, v)| (n.to_string(), v.to_str().unwrap().to_owned())).collect();
            got.sort();
            list.sort();
            prop_assert_eq!(got, list);
        }
    }
}
