//! The HTTP half of the data path: what comes in, what is made of it, what goes back.
//!
//! [`connection`] tells HTTP/1 from HTTP/2 and serves either; [`request`] is the one path that every request takes.
//! [`crate::h1`] is the codec of HTTP/1. The h2 crate speaks HTTP/2; beneath it [`h2_gate`] looks at the bytes first and
//! refuses the floods that the library would let pass.

pub mod admission;
pub mod body;
pub mod connection;
pub mod correlation;
pub mod forwarding;
pub mod h1;
pub mod h2;
pub mod h2_gate;
mod head;
pub mod hop;
pub mod informational;
pub mod logged;
pub mod request;
pub mod seen;
mod upgrade;
