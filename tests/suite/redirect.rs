//! Standing beside a service without its knowing: rules of the kernel, and what comes by them.

mod flow;
mod rules;

use weir_tests::Trial;

pub fn trials() -> Vec<Trial> {
    [rules::trials(), flow::trials()].into_iter().flatten().collect()
}
