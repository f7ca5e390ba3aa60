//! Updates of the configuration, discovery, admin, and leaving.

use weir_tests::Trial;

pub fn trials() -> Vec<Trial> {
    vec![]
}
