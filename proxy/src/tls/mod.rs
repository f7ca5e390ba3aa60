//! Mutual TLS between members of the mesh.
//!
//! [`identity`] is who this proxy is and whom it believes, [`verify`] decides whether a peer is who it says, [`handshake`]
//! runs both sides, [`follow`] keeps up with its files and [`workload`] with a SPIFFE agent; [`outside`] is TLS with those who are no members. Which peers a cluster expects stands in the snapshot; whether a
//! listener's callers must speak TLS does too. Nothing here falls back to anything: a peer that is not verified is not
//! spoken to.
//!
//! What breaks if this is changed carelessly: sessions must not be resumed, for a resumed handshake verifies nobody; and
//! [`verify`] is all that stands between a certificate and a name.

pub mod follow;
pub mod handshake;
pub mod identity;
pub mod outside;
pub mod refusal;
pub mod verify;
pub mod workload;

pub use identity::Identity;
pub use refusal::Refusal;

/// What a weir offers another for HTTP/2, so that it is known for a member of the mesh and not for the app's own client.
pub const ALPN_H2: &[u8] = b"weir-h2";
/// The same for HTTP/1.1.
pub const ALPN_H1: &[u8] = b"weir-http/1.1";
/// The same for opaque bytes.
pub const ALPN_TCP: &[u8] = b"weir-tcp";

/// Whether only members of the mesh offer this protocol.
pub fn is_of_mesh(protocol: &[u8]) -> bool {
    [ALPN_H2, ALPN_H1, ALPN_TCP].contains(&protocol)
}
