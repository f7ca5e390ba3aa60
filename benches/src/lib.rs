//! The parts of `weir-bench`: weir beside nginx, HAProxy, Envoy and no proxy at all, doing the same work in the same run.
//!
//! What it decides: what is measured and how, and when figures say nothing. What it does not: how fast anybody is; it has
//! no figure of its own. What breaks if it is changed carelessly: trust. A change that makes weir look better and is not in
//! weir is a defect.

pub mod certificates;
pub mod contestant;
pub mod figures;
pub mod load;
pub mod machine;
pub mod measure;
pub mod origin;
pub mod process;
pub mod report;
pub mod run;
pub mod scenario;
