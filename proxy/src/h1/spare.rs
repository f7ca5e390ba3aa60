//! What a message needs and leaves behind, used again: header maps, request heads, room for bytes to write.
//!
//! Making and freeing them is a tenth of what a small request costs. Each thread keeps a few, none of them large. Whoever
//! is done with one gives it here; who forgets to only makes the next message dearer.

use std::cell::RefCell;

use http::header::HeaderMap;
use http::request::Parts;
use http::{Method, Request, Uri};

/// How many of each kind a thread keeps.
const MAX_SPARE: usize = 64;
/// Maps with room for more are not kept.
const MAX_FIELDS: usize = 32;
/// Bytes that have room for more are not kept.
const MAX_BYTES: usize = 4 << 10;
/// A usual head fits; a longer one grows.
const USUAL_HEAD: usize = 1000;

thread_local! {
    static SPARE: RefCell<Spare> = const { RefCell::new(Spare { heads: Vec::new(), maps: Vec::new(), bytes: Vec::new() }) };
}

#[expect(clippy::vec_box, reason = "the boxes are what is kept")]
struct Spare {
    heads: Vec<Box<Parts>>,
    maps: Vec<HeaderMap>,
    bytes: Vec<Vec<u8>>,
}

/// A thread that ends keeps nothing.
fn with<T>(work: impl FnOnce(&mut Spare) -> Option<T>) -> Option<T> {
    SPARE.try_with(|spare| work(&mut spare.borrow_mut())).ok().flatten()
}

/// An empty map with room for so many fields.
pub fn headers(fields: usize) -> HeaderMap {
    let mut map = with(|spare| spare.maps.pop()).unwrap_or_default();
    // More than any map holds is found out when they are put in.
    let _ = map.try_reserve(fields);
    map
}

/// Gives a map back.
pub fn give_headers(mut map: HeaderMap) {
    // Its capacity is that of names; what a name has further values takes room of its own.
    if map.capacity() > 0 && map.capacity() <= MAX_FIELDS && map.len() <= MAX_FIELDS {
        map.clear();
        with(|spare| keep(&mut spare.maps, map));
    }
}

/// The head of a request that says nothing yet; its version may be any.
pub fn head() -> Box<Parts> {
    with(|spare| spare.heads.pop()).unwrap_or_else(|| Box::new(Request::new(()).into_parts().0))
}

/// Gives a head back.
pub fn give_head(mut head: Box<Parts>) {
    give_headers(std::mem::take(&mut head.headers));
    head.method = Method::GET;
    head.uri = Uri::default();
    head.extensions.clear();
    with(|spare| keep(&mut spare.heads, head));
}

/// Room for the bytes of a head.
pub fn bytes() -> Vec<u8> {
    with(|spare| spare.bytes.pop()).unwrap_or_else(|| Vec::with_capacity(USUAL_HEAD))
}

/// Gives room back.
pub fn give_bytes(mut bytes: Vec<u8>) {
    if bytes.capacity() > 0 && bytes.capacity() <= MAX_BYTES {
        bytes.clear();
        with(|spare| keep(&mut spare.bytes, bytes));
    }
}

fn keep<T>(kept: &mut Vec<T>, one: T) -> Option<()> {
    (kept.len() < MAX_SPARE).then(|| kept.push(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_back_says_nothing_any_more() {
        let mut one = head();
        one.method = Method::POST;
        one.uri = Uri::from_static("/secret");
        one.extensions.insert(5_u32);
        one.headers = headers(3);
        one.headers.insert("authorization", "secret".parse().unwrap());
        one.headers.append("authorization", "again".parse().unwrap());
        give_head(one);
        let again = head();
        assert_eq!((&again.method, &again.uri), (&Method::GET, &Uri::default()));
        assert!(again.headers.is_empty() && again.extensions.is_empty());
        let map = headers(1);
        assert!(map.is_empty() && map.capacity() >= 3, "the same map");
        let mut text = bytes();
        text.extend_from_slice(b"secret");
        give_bytes(text);
        assert!(bytes().is_empty());
    }

    #[test]
    fn little_is_kept() {
        (0..2 * MAX_SPARE).map(|_| headers(4)).collect::<Vec<_>>().into_iter().for_each(give_headers);
        let kept = || SPARE.with_borrow(|spare| spare.maps.len());
        assert_eq!(kept(), MAX_SPARE);
        let mut repeated = headers(1);
        for _ in 0..1000 {
            repeated.append("x", http::HeaderValue::from_static("y"));
        }
        give_headers(repeated);
        give_headers(HeaderMap::with_capacity(1000));
        assert_eq!(kept(), MAX_SPARE - 1, "neither");
        give_headers(HeaderMap::with_capacity(4));
        give_bytes(Vec::with_capacity(1 << 20));
        SPARE.with_borrow(|spare| {
            assert_eq!(spare.maps.len(), MAX_SPARE);
            assert!(spare.maps.iter().all(|map| map.capacity() <= MAX_FIELDS));
            assert!(spare.bytes.is_empty());
        });
    }
}
