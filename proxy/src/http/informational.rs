//! Informational responses (1xx) on the caller's wire: a proxy must forward them (RFC 9110, section 15.2).

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};

use crate::h1::wire::Wire;
use crate::upstream::informational::Inform;

/// The caller's side of one request, for 1xx responses.
#[derive(Clone)]
pub enum Caller {
    /// HTTP/1.1.
    H1(Rc<Wire>),
    /// HTTP/2.
    H2(Rc<RefCell<h2::server::SendResponse<Bytes>>>),
    /// HTTP/1.0, which knows no 1xx.
    Old,
}

impl Inform for Caller {
    fn inform(&self, status: StatusCode, headers: &HeaderMap) {
        // 101 is no information but a switch; it is never forwarded this way.
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return;
        }
        let mut headers = headers.clone();
        super::hop::remove(&mut headers);
        headers.remove(&crate::respond::WEIR_ERROR);
        match self {
            Self::H1(wire) => wire.inform(status, &headers),
            Self::H2(send) => {
                let mut response = Response::new(());
                *response.status_mut() = status;
                *response.headers_mut() = headers;
                // Not for this peer, or too late: it may be dropped.
                let _ = send.borrow_mut().send_informational(response);
            }
            Self::Old => {}
        }
    }
}
