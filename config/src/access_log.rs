//! The access log's text format: Envoy's `%OPERATOR%` notation, parsed once.
//!
//! Decides what a format means and rejects what weir cannot fill; writing lines is the proxy's.

use http::header::HeaderName;

/// How a line looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// A JSON object with the fields of the reference.
    Json,
    /// Pieces of text and operators.
    Text(Box<[Piece]>),
}

/// A piece of a text format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text as it is.
    Literal(Box<str>),
    /// A value of the request's record; `-` when there is none.
    Field(Field),
    /// `%REQ(NAME?ALTERNATIVE):LENGTH%`: a request header or `:method`, `:path`, `:authority`, `:scheme`.
    Request(HeaderRef),
    /// `%RESP(NAME?ALTERNATIVE):LENGTH%`: a response header.
    Response(HeaderRef),
}

/// A reference to a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderRef {
    /// What to look up, in order.
    pub names: Box<[NameRef]>,
    /// At most this many characters.
    pub max_length: Option<usize>,
}

/// What a header reference looks up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameRef {
    /// The method.
    Method,
    /// Path and query as received.
    Path,
    /// The host as received.
    Authority,
    /// `http` or `https`.
    Scheme,
    /// A header field.
    Header(HeaderName),
}

macro_rules! fields {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A value of the request's record.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Field { $($(#[$doc])* $variant,)* }
        const FIELDS: &[(&str, Field)] = &[$(($name, Field::$variant),)*];
    };
}

fields! {
    /// When the request began, RFC 3339 with milliseconds, UTC.
    StartTime = "START_TIME",
    /// The protocol of the caller.
    Protocol = "PROTOCOL",
    /// The status.
    ResponseCode = "RESPONSE_CODE",
    /// Why weir made the response, in words.
    ResponseCodeDetails = "RESPONSE_CODE_DETAILS",
    /// Envoy's letters.
    ResponseFlags = "RESPONSE_FLAGS",
    /// Bytes of the request body.
    BytesReceived = "BYTES_RECEIVED",
    /// Bytes of the response body.
    BytesSent = "BYTES_SENT",
    /// Milliseconds from the first byte of the request to the last of the response.
    Duration = "DURATION",
    /// Milliseconds from the start to the response's head.
    ResponseDuration = "RESPONSE_DURATION",
    /// The endpoint's address.
    UpstreamHost = "UPSTREAM_HOST",
    /// The cluster.
    UpstreamCluster = "UPSTREAM_CLUSTER",
    /// The cluster (Istio's name).
    UpstreamClusterRaw = "UPSTREAM_CLUSTER_RAW",
    /// Why the upstream failed, in words.
    UpstreamTransportFailureReason = "UPSTREAM_TRANSPORT_FAILURE_REASON",
    /// How many attempts reached for an endpoint.
    UpstreamRequestAttemptCount = "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    /// The address of the upstream connection on this side; not recorded.
    UpstreamLocalAddress = "UPSTREAM_LOCAL_ADDRESS",
    /// The caller's address and port.
    DownstreamRemoteAddress = "DOWNSTREAM_REMOTE_ADDRESS",
    /// The caller's address.
    DownstreamRemoteAddressWithoutPort = "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    /// The address weir accepted on.
    DownstreamLocalAddress = "DOWNSTREAM_LOCAL_ADDRESS",
    /// The SPIFFE ID of a caller that mutual TLS has shown.
    DownstreamPeerUriSan = "DOWNSTREAM_PEER_URI_SAN",
    /// What the policies of `authorization` said: what was denied or audited by which, and what those on trial would have
    /// changed (weir's own).
    Authorization = "AUTHORIZATION",
    /// The server name of TLS that is passed through; none otherwise.
    RequestedServerName = "REQUESTED_SERVER_NAME",
    /// Why a connection was closed; not recorded.
    ConnectionTerminationDetails = "CONNECTION_TERMINATION_DETAILS",
    /// Route and rule as `route/rule`.
    RouteName = "ROUTE_NAME",
    /// The gRPC status as a number.
    GrpcStatusNumber = "GRPC_STATUS_NUMBER",
    /// The host name of this machine.
    Hostname = "HOSTNAME",
    /// The correlation ID (weir's own).
    RequestId = "REQUEST_ID",
    /// The trace ID.
    TraceId = "TRACE_ID",
    /// The generation of the snapshot that decided (weir's own).
    Generation = "GENERATION",
    /// The listener (weir's own).
    Listener = "LISTENER",
}

/// Envoy's default format, as one line.
pub const ENVOY_DEFAULT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
    %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \
    \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

/// Parses a text format.
///
/// # Errors
/// What is wrong and what to write instead.
pub fn parse(text: &str) -> Result<Format, (String, Option<String>)> {
    let mut pieces = Vec::new();
    let mut rest = text.trim_end_matches('\n');
    while let Some(start) = rest.find('%') {
        push_literal(&mut pieces, &rest[..start]);
        rest = &rest[start + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            push_literal(&mut pieces, "%");
            rest = after;
            continue;
        }
        let end = rest.find('%').ok_or_else(|| {
            let shown: String = rest.chars().take(24).collect();
            (format!("`%{shown}` has no closing `%`"), Some("write `%%` for a percent sign".to_owned()))
        })?;
        pieces.push(operator(&rest[..end])?);
        rest = &rest[end + 1..];
    }
    push_literal(&mut pieces, rest);
    Ok(Format::Text(pieces.into()))
}

fn push_literal(pieces: &mut Vec<Piece>, text: &str) {
    if !text.is_empty() {
        pieces.push(Piece::Literal(text.into()));
    }
}

fn operator(text: &str) -> Result<Piece, (String, Option<String>)> {
    let (name, argument, length) = split_operator(text)?;
    match (name, argument) {
        ("REQ", Some(argument)) => Ok(Piece::Request(header_ref(argument, length)?)),
        ("RESP", Some(argument)) => Ok(Piece::Response(header_ref(argument, length)?)),
        ("REQ" | "RESP", None) => Err((format!("`%{text}%` names no header"), Some(format!("write `%{name}(HEADER)%`")))),
        // Envoy's START_TIME takes a strftime pattern; weir always writes RFC 3339.
        ("START_TIME", Some(_)) => Err((
            "START_TIME takes no pattern here".to_owned(),
            Some("write `%START_TIME%`, which is RFC 3339 in UTC with milliseconds".to_owned()),
        )),
        _ => match FIELDS.iter().find(|(known, _)| *known == name) {
            Some((_, field)) => Ok(Piece::Field(*field)),
            None => {
                let known = FIELDS.iter().map(|(known, _)| *known).chain(["REQ", "RESP"]);
                Err((format!("unknown operator `%{text}%`"), Some(crate::error::suggest(name, known))))
            }
        },
    }
}

type Operator<'t> = (&'t str, Option<&'t str>, Option<usize>);

fn split_operator(text: &str) -> Result<Operator<'_>, (String, Option<String>)> {
    let malformed = || {
        (format!("`%{text}%` is malformed"), Some("write `%NAME%`, `%NAME(ARGUMENT)%` or `%NAME(ARGUMENT):LENGTH%`".to_owned()))
    };
    let Some((name, rest)) = text.split_once('(') else {
        return Ok((text, None, None));
    };
    let (argument, rest) = rest.rsplit_once(')').ok_or_else(malformed)?;
    let length = match rest.strip_prefix(':') {
        Some(digits) => Some(digits.parse().map_err(|_| malformed())?),
        None if rest.is_empty() => None,
        None => return Err(malformed()),
    };
    Ok((name, Some(argument), length))
}

fn header_ref(argument: &str, max_length: Option<usize>) -> Result<HeaderRef, (String, Option<String>)> {
    let names = argument
        .split('?')
        .map(|name| match name.to_ascii_lowercase().as_str() {
            ":method" => Ok(NameRef::Method),
            ":path" => Ok(NameRef::Path),
            ":authority" => Ok(NameRef::Authority),
            ":scheme" => Ok(NameRef::Scheme),
            other => match HeaderName::from_bytes(other.as_bytes()) {
                Ok(name) => Ok(NameRef::Header(name)),
                Err(_) => Err((format!("`{name}` is not a header name"), None)),
            },
        })
        .collect::<Result<_, _>>()?;
    Ok(HeaderRef { names, max_length })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn envoys_formats_parse() {
        let Ok(Format::Text(pieces)) = parse(ENVOY_DEFAULT) else { panic!() };
        assert_eq!(pieces[0], Piece::Literal("[".into()));
        assert_eq!(pieces[1], Piece::Field(Field::StartTime));
        let istio = "%UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% \
            %REQUESTED_SERVER_NAME% %ROUTE_NAME% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \
            \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\"";
        assert!(parse(istio).is_ok());
        assert!(matches!(parse("100%% %REQ(A?B):5%"), Ok(Format::Text(p)) if p.len() == 4));
    }

    #[test]
    fn mistakes_are_told() {
        for (text, part) in [
            ("%RESPONSE_COD%", "RESPONSE_CODE"),
            ("%REQ%", "names no header"),
            ("50% off", "no closing"),
            ("%REQ(a b)%", "not a header name"),
            ("%REQ(A):x%", "malformed"),
            ("%START_TIME(%s)%", "closing"),
        ] {
            let (message, hint) = parse(text).unwrap_err();
            let all = format!("{message} {}", hint.unwrap_or_default());
            assert!(all.contains(part) || all.contains("malformed"), "{text}: {all}");
        }
    }
}
