//! Malformed requests, floods and slow peers: nothing passes, nothing grows.

use weir_tests::Trial;

pub fn trials() -> Vec<Trial> {
    vec![]
}
