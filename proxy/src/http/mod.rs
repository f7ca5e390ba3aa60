//! The HTTP half of the data path: what comes in, what is made of it, what goes back.
//!
//! [`connection`] tells HTTP/1 from HTTP/2 and serves either; [`request`] is the one path that every request takes.
//! hyper speaks HTTP/1 and the h2 crate HTTP/2; beneath both, [`h1_gate`] and [`h2_gate`] look at the bytes first and
//! refuse what those libraries would let pass.

pub mod body;
pub mod connection;
pub mod correlation;
pub mod forwarding;
pub mod gate;
pub mod h1;
pub mod h1_gate;
pub mod h2;
pub mod h2_gate;
pub mod hop;
pub mod informational;
pub mod request;
pub mod seen;
