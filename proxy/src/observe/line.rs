//! One access log line: JSON, or Envoy's text notation. Written straight into bytes, without a tree in between.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, Version};
use weir_config::access_log::{Field, Format, HeaderRef, NameRef, Piece};

use super::record::{Finished, LogEntry};

/// Appends the line, with its line end.
pub fn write(out: &mut Vec<u8>, format: &Format, entry: &LogEntry, numbers: &Finished) {
    match format {
        Format::Json => json(out, entry, numbers),
        Format::Text(pieces) => pieces.iter().for_each(|piece| text(out, piece, entry, numbers)),
    }
    out.push(b'\n');
}

// Istio's key names where it has them, so that existing queries keep working.
fn json(out: &mut Vec<u8>, entry: &LogEntry, numbers: &Finished) {
    let mut object = Object { out, first: true };
    object.string("start_time", |out| start_time(out, entry.began));
    object.text("listener", entry.listener.as_bytes());
    object.text("method", entry.method.as_str().as_bytes());
    object.text("authority", entry.authority.as_bytes());
    object.text("path", entry.path.as_bytes());
    object.text("protocol", protocol(entry).as_bytes());
    object.number("response_code", u128::from(numbers.status));
    if let Some(status) = numbers.grpc_status {
        object.number("grpc_status", u128::from(status));
    }
    object.text("response_flags", numbers.flags().as_bytes());
    if let Some(fault) = numbers.fault {
        object.text("response_code_details", fault.code().as_bytes());
    }
    object.number("bytes_received", u128::from(numbers.bytes_in));
    object.number("bytes_sent", u128::from(numbers.bytes_out));
    object.number("duration_us", numbers.duration_us);
    if let Some(head) = numbers.head_us {
        object.number("response_duration_us", head);
    }
    if numbers.attempts > 1 {
        object.number("upstream_request_attempt_count", u128::from(numbers.attempts));
    }
    if let Some(denied) = numbers.denied {
        object.text("retry_denied", denied.word().as_bytes());
    }
    object.text("route_name", entry.route.as_bytes());
    object.text("rule_name", entry.rule.as_bytes());
    object.text("upstream_cluster", entry.cluster.as_bytes());
    if let Some(upstream) = entry.upstream {
        object.address("upstream_host", upstream);
    }
    object.address("downstream_remote_address", entry.peer);
    object.address("downstream_local_address", entry.local);
    if let Some(principal) = &entry.principal {
        object.text("downstream_peer", principal.id.as_str().as_bytes());
    }
    if let Some(authorization) = &entry.authorization {
        object.text("authorization", authorization.as_bytes());
    }
    object.text("request_id", entry.request_id.as_bytes());
    if let Some(trace) = &entry.trace_id {
        object.text("trace_id", trace.as_bytes());
    }
    if let Some(agent) = &entry.user_agent {
        object.text("user_agent", agent.as_bytes());
    }
    object.number("generation", u128::from(entry.generation));
    out.push(b'}');
}

struct Object<'o> {
    out: &'o mut Vec<u8>,
    first: bool,
}

impl Object<'_> {
    fn key(&mut self, key: &str) {
        self.out.push(if std::mem::take(&mut self.first) { b'{' } else { b',' });
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }
    fn string(&mut self, key: &str, write: impl FnOnce(&mut Vec<u8>)) {
        self.key(key);
        self.out.push(b'"');
        write(self.out);
        self.out.push(b'"');
    }
    fn text(&mut self, key: &str, value: &[u8]) {
        self.string(key, |out| escape(out, value));
    }
    fn number(&mut self, key: &str, value: u128) {
        self.key(key);
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }
    fn address(&mut self, key: &str, address: SocketAddr) {
        self.string(key, |out| {
            let _ = write!(out, "{address}");
        });
    }
}

/// Escapes for a JSON string. Bytes that are not UTF-8 become the replacement character, so a line is always JSON.
fn escape(out: &mut Vec<u8>, value: &[u8]) {
    if value.iter().all(|b| matches!(b, b' '..=b'~') && !matches!(b, b'"' | b'\\')) {
        out.extend_from_slice(value);
        return;
    }
    for c in String::from_utf8_lossy(value).chars() {
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\t' => out.extend_from_slice(b"\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

static HOSTNAME: LazyLock<String> =
    LazyLock::new(|| std::fs::read_to_string("/proc/sys/kernel/hostname").map_or("-".to_owned(), |name| name.trim().to_owned()));

fn text(out: &mut Vec<u8>, piece: &Piece, entry: &LogEntry, numbers: &Finished) {
    match piece {
        Piece::Literal(text) => out.extend_from_slice(text.as_bytes()),
        Piece::Field(field) => self::field(out, *field, entry, numbers),
        Piece::Request(reference) => header(out, reference, entry.request_headers.as_ref(), Some(entry)),
        Piece::Response(reference) => header(out, reference, entry.response_headers.as_ref(), None),
    }
}

fn field(out: &mut Vec<u8>, field: Field, entry: &LogEntry, numbers: &Finished) {
    let number = |out: &mut Vec<u8>, value: u128| out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    let text = |out: &mut Vec<u8>, value: &str| out.extend_from_slice(if value.is_empty() { b"-" } else { value.as_bytes() });
    match field {
        Field::StartTime => start_time(out, entry.began),
        Field::Protocol => text(out, protocol(entry)),
        Field::ResponseCode => number(out, numbers.status.into()),
        Field::ResponseCodeDetails => text(out, numbers.fault.map_or("via_upstream", |fault| fault.code())),
        Field::ResponseFlags => text(out, numbers.flags()),
        Field::BytesReceived => number(out, numbers.bytes_in.into()),
        Field::BytesSent => number(out, numbers.bytes_out.into()),
        Field::Duration => number(out, numbers.duration_us / 1000),
        Field::ResponseDuration => match numbers.head_us {
            Some(head) => number(out, head / 1000),
            None => text(out, ""),
        },
        Field::UpstreamHost => match entry.upstream {
            Some(address) => {
                let _ = write!(out, "{address}");
            }
            None => text(out, ""),
        },
        Field::UpstreamCluster | Field::UpstreamClusterRaw => text(out, &entry.cluster),
        Field::UpstreamTransportFailureReason => text(out, numbers.fault.map_or("", |fault| fault.message())),
        Field::UpstreamRequestAttemptCount => number(out, numbers.attempts.into()),
        Field::DownstreamRemoteAddress => {
            let _ = write!(out, "{}", entry.peer);
        }
        Field::DownstreamRemoteAddressWithoutPort => {
            let _ = write!(out, "{}", entry.peer.ip());
        }
        Field::DownstreamLocalAddress => {
            let _ = write!(out, "{}", entry.local);
        }
        Field::RouteName if entry.rule.is_empty() => text(out, &entry.route),
        Field::RouteName => {
            let _ = write!(out, "{}/{}", entry.route, entry.rule);
        }
        Field::GrpcStatusNumber => match numbers.grpc_status {
            Some(status) => number(out, status.into()),
            None => text(out, ""),
        },
        Field::Hostname => text(out, &HOSTNAME),
        Field::RequestId => defused(out, entry.request_id.as_bytes()),
        Field::TraceId => text(out, entry.trace_id.as_deref().unwrap_or("")),
        Field::Generation => number(out, entry.generation.into()),
        Field::DownstreamPeerUriSan => text(out, entry.principal.as_ref().map_or("", |principal| principal.id.as_str())),
        Field::Authorization => text(out, entry.authorization.as_deref().unwrap_or("")),
        Field::Listener => text(out, &entry.listener),
        // What was asked for in cleartext is the host.
        Field::RequestedServerName if entry.opaque => defused(out, or_none(entry.authority.as_bytes())),
        Field::UpstreamLocalAddress | Field::RequestedServerName | Field::ConnectionTerminationDetails => text(out, ""),
    }
}

fn header(out: &mut Vec<u8>, reference: &HeaderRef, headers: Option<&HeaderMap>, entry: Option<&LogEntry>) {
    let value = reference.names.iter().find_map(|name| match name {
        NameRef::Method => entry.map(|entry| entry.method.as_str().as_bytes()),
        NameRef::Path => entry.map(|entry| entry.path.as_bytes()),
        NameRef::Authority => entry.map(|entry| entry.authority.as_bytes()),
        NameRef::Scheme => Some(&b"http"[..]),
        NameRef::Header(name) if *name == "x-request-id" => entry.map(|entry| entry.request_id.as_bytes()),
        NameRef::Header(name) => headers?.get(name).map(|value| value.as_bytes()),
    });
    let value = or_none(value.unwrap_or_default());
    let value = &value[..value.len().min(reference.max_length.unwrap_or(usize::MAX))];
    defused(out, value);
}

fn or_none(value: &[u8]) -> &[u8] {
    if value.is_empty() { b"-" } else { value }
}

/// Appends what a caller wrote: a quote or control character would let it write columns or lines of its own.
fn defused(out: &mut Vec<u8>, value: &[u8]) {
    out.extend(value.iter().map(|b| if b.is_ascii_control() || *b == b'"' { b'_' } else { *b }));
}

fn protocol(entry: &LogEntry) -> &'static str {
    match entry.version {
        _ if entry.opaque => "TCP",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

/// RFC 3339 with milliseconds, UTC. Civil date from days: Howard Hinnant's `civil_from_days`.
fn start_time(out: &mut Vec<u8>, time: SystemTime) {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let _ = write!(
        out,
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_millis()
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_767_225_599_999, "2025-12-31T23:59:59.999Z"),
        ] {
            let mut out = Vec::new();
            start_time(&mut out, UNIX_EPOCH + Duration::from_millis(millis));
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    #[test]
    fn escapes_stay_json() {
        for raw in [&b"plain"[..], b"q\"b\\s\tt\n\x01", b"\xff\xfe", "ü".as_bytes()] {
            let mut out = vec![b'"'];
            escape(&mut out, raw);
            out.push(b'"');
            let back: String = serde_json::from_slice(&out).unwrap();
            assert_eq!(back, String::from_utf8_lossy(raw));
        }
    }
}
