//! How weir comes to stand beside a service.
//!
//! [`redirect`] is the rules by which the kernel hands a service's connections to weir. Nothing here is on the path of a
//! request, and nothing runs while weir serves.

mod netlink;
pub mod redirect;
