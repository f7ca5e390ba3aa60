//! Responses that weir makes itself.
//!
//! Every error among them carries `x-weir-error` with a stable code, and says in one line what happened. Callers that speak
//! gRPC get a trailers-only response instead: HTTP 200 with `grpc-status` and `grpc-message`.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use http::{Response, StatusCode};
use weir_config::snapshot::{Respond, Rule};

use crate::error::{BadRequest, Fault};
use crate::http::body::ResponseBody;
use crate::observe::Record;

/// Says that weir itself made a response.
pub static WEIR_ERROR: HeaderName = HeaderName::from_static("x-weir-error");
/// Says, besides, that nothing of the request has reached the app: whoever forwards it may send it elsewhere, whatever its method.
/// What REFUSED_STREAM says in HTTP/2 (RFC 9113, section 8.7), for any version, and with a reason.
pub static UNPROCESSED: HeaderName = HeaderName::from_static("x-weir-unprocessed");
static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
static GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The answer to a request that failed.
pub fn fault(fault: Fault, mut record: Record) -> Response<ResponseBody> {
    record.fault = Some(fault);
    let mut headers = HeaderMap::new();
    headers.insert(WEIR_ERROR.clone(), HeaderValue::from_static(fault.code()));
    if record.grpc {
        headers.extend(grpc_trailers(fault));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        record.grpc_status = Some(fault.grpc() as u16);
        return finish(StatusCode::OK, headers, Bytes::new(), record);
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if fault == Fault::ConnectRefused {
        headers.insert(http::header::ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH"));
    }
    finish(fault.status(), headers, line(fault), record)
}

/// The answer to a request of which nothing has reached the app.
pub fn unprocessed(fault: Fault, record: Record) -> Response<ResponseBody> {
    let mut response = self::fault(fault, record);
    response.headers_mut().insert(UNPROCESSED.clone(), HeaderValue::from_static("true"));
    response
}

/// The trailers that end a gRPC response which failed.
pub fn grpc_trailers(fault: Fault) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert(GRPC_STATUS.clone(), HeaderValue::from(fault.grpc() as u16));
    // The messages are printable ASCII without `%`, so they need no percent-encoding.
    trailers.insert(GRPC_MESSAGE.clone(), HeaderValue::from_static(fault.message()));
    trailers
}

/// The answer of a rule's `respond`.
pub fn direct(respond: &Respond, rule: &Rule, record: Record) -> Response<ResponseBody> {
    let mut headers = HeaderMap::new();
    if !respond.body.is_empty() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    }
    rule.response_headers.apply(&mut headers);
    finish(respond.status, headers, respond.body.clone(), record)
}

/// The answer of a rule's `redirect`.
pub fn redirect(location: &str, status: StatusCode, rule: &Rule, record: Record) -> Response<ResponseBody> {
    let Ok(location) = HeaderValue::from_str(location) else {
        return fault(Fault::BadRequest(BadRequest::Target), record);
    };
    let mut headers = HeaderMap::new();
    headers.insert(LOCATION, location);
    rule.response_headers.apply(&mut headers);
    finish(status, headers, Bytes::new(), record)
}

fn finish(status: StatusCode, mut headers: HeaderMap, body: Bytes, mut record: Record) -> Response<ResponseBody> {
    // Without it, an empty response to an HTTP/1 caller would be sent in chunks.
    if !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    record.head(status);
    let mut response = Response::new(ResponseBody::own(body, record));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn line(fault: Fault) -> Bytes {
    Bytes::from(format!("{}: {}\n", fault.code(), fault.message()))
}

/// The bytes that refuse a request which never became one.
pub fn raw(fault: Fault, request_id: &HeaderValue) -> Vec<u8> {
    let body = line(fault);
    let status = fault.status();
    let head = format!(
        "HTTP/1.1 {} {}\r\nx-weir-error: {}\r\nx-request-id: {}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        status.as_u16(),
        status.canonical_reason().unwrap_or(""),
        fault.code(),
        request_id.to_str().unwrap_or_default(),
        body.len()
    );
    [head.as_bytes(), &body].concat()
}
