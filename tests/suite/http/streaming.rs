//! Bodies stream: nothing is collected, nobody waits for the end of anything, and what breaks off is seen to.

mod breaks;
mod flow;
mod stalled;

use weir_tests::Trial;

pub fn trials() -> Vec<Trial> {
    [flow::trials(), breaks::trials(), stalled::trials()].into_iter().flatten().collect()
}
