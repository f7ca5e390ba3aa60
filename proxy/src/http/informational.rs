//! Informational responses (1xx) on the caller's wire.
//!
//! A proxy must forward 1xx responses (RFC 9110, section 15.2). hyper's server cannot write them, so on HTTP/1 the gate
//! does; the h2 crate can.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};

use super::gate::H1Shared;
use super::h1_gate::Place;
use crate::error::Fault;
use crate::upstream::informational::Inform;

/// The caller's side of one request, for 1xx responses.
#[derive(Clone)]
pub enum Caller {
    /// HTTP/1.1.
    H1(Rc<H1Shared>),
    /// HTTP/2.
    H2(Rc<RefCell<h2::server::SendResponse<Bytes>>>),
    /// HTTP/1.0, which knows no 1xx.
    Old,
}

impl Caller {
    /// Why the gate refused the body of the request in flight, if it did.
    pub fn refusal(&self) -> Option<Fault> {
        match self {
            Self::H1(shared) => match shared.refusal() {
                Some((bad, Place::Body)) => Some(Fault::BadRequest(bad)),
                Some((_, Place::Head)) | None => None,
            },
            Self::H2(_) | Self::Old => None,
        }
    }
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
            Self::H1(shared) => shared.informational(&encode(status, &headers)),
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

fn encode(status: StatusCode, headers: &HeaderMap) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or("")).into_bytes();
    for (name, value) in headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}
