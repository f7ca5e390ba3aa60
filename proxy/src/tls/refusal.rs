//! Why a handshake failed: for logs, metrics and people.

use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError, Error};

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)+) => {
        /// Why a handshake failed.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Refusal {
            $($(#[$doc])* $name),+
        }

        impl Refusal {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// A word for metrics and programs.
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code),+ }
            }

            /// As a fault of the way to an upstream.
            pub fn upstream_code(self) -> &'static str {
                match self { $(Self::$name => concat!("upstream_tls_", $code)),+ }
            }

            /// As a fault of a caller.
            pub fn caller_code(self) -> &'static str {
                match self { $(Self::$name => concat!("caller_tls_", $code)),+ }
            }

            /// What it means, for people.
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text),+ }
            }
        }
    };
}

refusals! {
    /// The peer's certificate has expired.
    Expired = "expired", "the peer's certificate has expired";
    /// The peer's certificate is not valid yet.
    NotYetValid = "not_yet_valid", "the peer's certificate is not valid yet; do the clocks agree?";
    /// The peer's certificate was revoked.
    Revoked = "revoked", "the peer's certificate was revoked";
    /// No root that is believed for the peer's trust domain has issued its certificate.
    UnknownIssuer = "unknown_issuer", "no root of the peer's trust domain has issued its certificate";
    /// The trust domain of the peer is not believed.
    UnknownTrustDomain = "unknown_trust_domain", "the peer's trust domain is not among those that are believed";
    /// The certificate has no SPIFFE ID, or more than one, or a malformed one.
    NoSpiffeId = "no_spiffe_id", "the peer's certificate does not carry exactly one valid SPIFFE ID";
    /// The peer is somebody else than was expected.
    UnexpectedPeer = "unexpected_peer", "the peer is not among those that the cluster's `peers` expect";
    /// The certificate is for another server.
    WrongName = "wrong_name", "the server's certificate is not for the name (or address) that was called; see `server_name`";
    /// The certificate cannot be used for this, or not read.
    BadCertificate = "bad_certificate", "the peer's certificate cannot be read, or is not meant for this";
    /// The peer has shown no certificate.
    NoCertificate = "no_certificate", "the peer has shown no certificate";
    /// The peer cannot prove that the certificate is its own.
    BadSignature = "bad_signature", "the peer cannot prove that the certificate is its own";
    /// The peer refused this proxy's certificate.
    RefusedByPeer = "refused_by_peer", "the peer has refused this proxy's certificate; its log says why";
    /// The peer and this proxy have no protocol in common.
    NoCommonProtocol = "no_common_protocol",
        "the peer and this proxy have no TLS version (see `min_version`), cipher or protocol (ALPN) in common";
    /// It is not TLS, or not in order.
    NotTls = "not_tls", "what the peer sent is not TLS";
    /// It took too long.
    TimedOut = "timed_out", "the handshake took too long";
    /// The peer went away.
    Gone = "gone", "the peer went away in the middle of the handshake";
    /// This proxy's own certificate cannot be used.
    OwnCertificate = "own_certificate", "this proxy's own certificate is not there, or has expired";
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// What a failed handshake, or a read after it, was about.
    pub fn of(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(error) => Self::of_tls(error),
            None if error.kind() == io::ErrorKind::TimedOut => Self::TimedOut,
            None => Self::Gone,
        }
    }

    /// Gives an error of a connection a kind of its own if the peer has refused this side's certificate: after this side's
    /// handshake, for in TLS 1.3 the server judges last. The h2 crate passes on the kind of an error and its text, no more.
    pub fn mark(error: io::Error) -> io::Error {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(said) if Self::of_tls(said) == Self::RefusedByPeer => io::Error::new(io::ErrorKind::PermissionDenied, error),
            _ => error,
        }
    }

    /// Whether an error was marked.
    pub fn after_handshake(error: &io::Error) -> Option<Self> {
        (error.kind() == io::ErrorKind::PermissionDenied).then_some(Self::RefusedByPeer)
    }

    /// What rustls says it was about.
    pub(super) fn of_tls(error: &Error) -> Self {
        match error {
            Error::InvalidCertificate(error) => Self::of_certificate(error),
            Error::NoCertificatesPresented => Self::NoCertificate,
            Error::NoApplicationProtocol | Error::PeerIncompatible(_) => Self::NoCommonProtocol,
            Error::AlertReceived(alert) => Self::of_alert(*alert),
            _ => Self::NotTls,
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::Revoked => Self::Revoked,
            CertificateError::UnknownIssuer => Self::UnknownIssuer,
            CertificateError::BadSignature => Self::BadSignature,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Self::WrongName,
            CertificateError::Other(other) => other.0.downcast_ref::<Self>().copied().unwrap_or(Self::BadCertificate),
            _ => Self::BadCertificate,
        }
    }

    fn of_alert(alert: AlertDescription) -> Self {
        match alert {
            AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired
            | AlertDescription::DecryptError => Self::RefusedByPeer,
            AlertDescription::HandshakeFailure
            | AlertDescription::ProtocolVersion
            | AlertDescription::InsufficientSecurity
            | AlertDescription::NoApplicationProtocol => Self::NoCommonProtocol,
            _ => Self::Gone,
        }
    }
}
