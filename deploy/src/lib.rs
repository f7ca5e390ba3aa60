//! How weir comes to stand beside a service.
//!
//! [`manifest`] reads and writes what people apply; [`inject`] puts a sidecar in it. [`redirect`] is the rules by which the
//! kernel hands a service's connections to weir. Nothing here is on the path of a
//! request, and nothing runs while weir serves.

pub mod inject;
pub mod manifest;
mod netlink;
pub mod redirect;
