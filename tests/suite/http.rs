//! HTTP semantics, through weir, with real peers.

use weir_tests::Trial;

pub fn trials() -> Vec<Trial> {
    vec![]
}
