//! Where snapshots come from and how they reach the workers.
//!
//! A source (today: a file) yields text; [`apply::Applier`] validates and compiles it away from the workers and publishes
//! it in a [`publish::Store`] by one pointer store. A text that is rejected changes nothing but the status: the last
//! good generation goes on serving.
//!
//! What breaks if this is changed carelessly: workers compare generations, so a generation may never be reused or go
//! back, and nothing may be published that `weir_config` did not compile as a whole.

pub mod apply;
pub mod file;
pub mod publish;

pub use apply::{Applier, Outcome, Status};
pub use publish::{Published, Store};
