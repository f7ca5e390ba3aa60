use std::collections::BTreeMap;

use http::Method;
use http::header::HeaderName;

use crate::error::{Diagnostics, Path};
use crate::matcher::{CompiledMatch, PathTest, ValueKind, ValueTest};
use crate::path;
use crate::schema::{self, GrpcMatch, Match, PathMatch, ValueMatch};

pub(super) fn compile(matched: &Match, at: &Path<'_>, found: &mut Diagnostics) -> CompiledMatch {
    let mistakes = found.len();
    let mut compiled = CompiledMatch::default();
    if matched.path.is_some() && matched.grpc.is_some() {
        found.error(&at.key("grpc"), "a match has either `path` or `grpc`, not both").hint =
            Some("a gRPC service and method are the path `/service/method`".to_owned());
    }
    if let Some(test) = &matched.path {
        compiled.path = path_test(test, &at.key("path"), found);
    }
    if let Some(grpc) = &matched.grpc {
        compiled.grpc = true;
        compiled.path = grpc_path(grpc, &at.key("grpc"), found);
    }
    if let Some(methods) = &matched.method {
        compiled.methods = self::methods(methods.as_slice(), &at.key("method"), found);
    }
    if let Some(headers) = &matched.headers {
        let here = at.key("headers");
        compiled.headers = header_tests(headers, &here, found);
    }
    if let Some(query) = &matched.query {
        let here = at.key("query");
        let tests = query.iter().filter_map(|(name, test)| {
            let test = value_test(test, &here.key(name), found)?;
            Some((name.as_str().into(), test))
        });
        compiled.query = tests.collect();
    }
    compiled.incomplete = found.len() > mistakes;
    compiled
}

pub(super) fn methods(methods: &[String], at: &Path<'_>, found: &mut Diagnostics) -> Box<[Method]> {
    if methods.is_empty() {
        found.error(at, "an empty list of methods matches nothing").hint =
            Some("leave `method` out to match every method".to_owned());
    }
    let parse = |text: &String| match Method::from_bytes(text.as_bytes()) {
        Ok(method) => {
            let upper = text.to_ascii_uppercase();
            if upper != *text && ["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS"].contains(&upper.as_str()) {
                found.error(at, format!("the method `{text}` is case-sensitive")).hint = Some(format!("write `{upper}`"));
            }
            Some(method)
        }
        Err(_) => {
            found.error(at, format!("`{text}` is not a method"));
            None
        }
    };
    methods.iter().filter_map(parse).collect()
}

pub(super) fn header_tests(
    tests: &BTreeMap<String, ValueMatch>,
    here: &Path<'_>,
    found: &mut Diagnostics,
) -> Box<[(HeaderName, ValueTest)]> {
    let mut compiled: Vec<(HeaderName, ValueTest)> = Vec::with_capacity(tests.len());
    for (name, test) in tests {
        let place = here.key(name);
        let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else {
            let hint = match name.as_str() {
                ":authority" | "host" => "match hosts with the route's `hosts`",
                ":method" => "use `method`",
                ":path" => "use `path`",
                _ => "a header name has letters, digits and `-`",
            };
            found.key_error(&place, format!("`{name}` is not a header name")).hint = Some(hint.to_owned());
            continue;
        };
        if header == http::header::HOST {
            found.key_error(&place, "`host` cannot be matched as a header").hint =
                Some("match hosts with the route's `hosts`".to_owned());
        }
        if header == http::header::CONNECTION {
            found.key_error(&place, "`connection` cannot be matched: it belongs to one connection, not to the message").hint =
                Some("to match what asks for another protocol, match `upgrade`".to_owned());
        }
        if compiled.iter().any(|(known, _)| *known == header) {
            found.key_error(&place, format!("the header `{header}` is tested twice; names ignore case"));
        }
        if let Some(test) = value_test(test, &place, found) {
            compiled.push((header, test));
        }
    }
    compiled.into()
}

pub(super) fn path_test(test: &PathMatch, at: &Path<'_>, found: &mut Diagnostics) -> Option<PathTest> {
    let PathMatch { exact, prefix, string_prefix, regex } = test;
    match (exact, prefix, string_prefix, regex) {
        (Some(text), None, None, None) => literal_path(text, &at.key("exact"), found).map(|p| PathTest::Exact(p.into())),
        (None, Some(text), None, None) => {
            let text = literal_path(text, &at.key("prefix"), found)?;
            let trimmed = if text.len() > 1 { text.trim_end_matches('/') } else { text };
            Some(PathTest::Segments(trimmed.into()))
        }
        (None, None, Some(text), None) => {
            literal_path(text, &at.key("string_prefix"), found).map(|p| PathTest::Characters(p.into()))
        }
        (None, None, None, Some(pattern)) => self::regex(pattern, true, &at.key("regex"), found).map(PathTest::Regex),
        _ => {
            found.error(at, "a path match has exactly one of `exact`, `prefix`, `string_prefix`, `regex`").hint =
                Some("for example `path: { prefix: /v2 }`".to_owned());
            None
        }
    }
}

fn literal_path<'t>(text: &'t str, at: &Path<'_>, found: &mut Diagnostics) -> Option<&'t str> {
    let complaint = if !text.starts_with('/') && text != "*" {
        (format!("the path `{text}` must begin with `/`"), Some(format!("write `/{text}`")))
    } else if text.contains(['?', '#']) {
        (format!("`{text}` has a query or fragment in it"), Some("match the query with `query: { name: value }`".to_owned()))
    } else {
        match path::normalise(text) {
            Ok(normal) if normal == text => return Some(text),
            Ok(normal) => (
                format!("`{text}` can never match, because paths are normalised before they are compared"),
                Some(format!("write `{normal}`")),
            ),
            Err(_) => (format!("`{text}` has an encoded NUL in it; such requests are refused"), None),
        }
    };
    found.error(at, complaint.0).hint = complaint.1;
    None
}

fn grpc_path(grpc: &GrpcMatch, at: &Path<'_>, found: &mut Diagnostics) -> Option<PathTest> {
    for (key, value) in [("service", &grpc.service), ("method", &grpc.method)] {
        let Some(value) = value else { continue };
        let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || (key == "service" && b == b'.');
        if value.is_empty() || !value.bytes().all(fits) {
            found.error(&at.key(key), format!("`{value}` is not a gRPC {key} name")).hint =
                Some("for example `service: shop.v1.Checkout` and `method: Pay`".to_owned());
            return None;
        }
    }
    match (&grpc.service, &grpc.method) {
        (Some(service), Some(method)) => Some(PathTest::Exact(format!("/{service}/{method}").into())),
        (Some(service), None) => Some(PathTest::Segments(format!("/{service}").into())),
        (None, Some(method)) => self::regex(&format!("/[^/]+/{method}"), true, at, found).map(PathTest::Regex),
        (None, None) => None,
    }
}

pub(super) fn value_test(test: &ValueMatch, at: &Path<'_>, found: &mut Diagnostics) -> Option<ValueTest> {
    let test = match test {
        ValueMatch::Exact(text) => return Some(ValueTest { kind: ValueKind::Exact(text.as_bytes().into()), not: false }),
        ValueMatch::Test(test) => test,
    };
    let schema::ValueTest { exact, prefix, suffix, contains, regex, range, present, not } = test;
    let bytes = |text: &String| Box::<[u8]>::from(text.as_bytes());
    let mut kinds: Vec<ValueKind> = Vec::new();
    kinds.extend(exact.as_ref().map(bytes).map(ValueKind::Exact));
    kinds.extend(prefix.as_ref().map(bytes).map(ValueKind::Prefix));
    kinds.extend(suffix.as_ref().map(bytes).map(ValueKind::Suffix));
    kinds.extend(contains.as_ref().map(bytes).map(ValueKind::Contains));
    kinds.extend(present.map(ValueKind::Present));
    if let Some(range) = range {
        if range.start >= range.end {
            found.error(&at.key("range"), format!("no number is from {} to below {}", range.start, range.end));
        }
        kinds.push(ValueKind::Range(range.start, range.end));
    }
    if let Some(pattern) = regex {
        let place = at.key("regex");
        match bytes_regex(pattern) {
            Ok(compiled) => kinds.push(ValueKind::Regex(compiled)),
            Err(error) => {
                report_regex(pattern, &error, &place, found);
                return None;
            }
        }
    }
    match (kinds.pop(), kinds.is_empty()) {
        (Some(kind), true) => Some(ValueTest { kind, not: *not }),
        _ => {
            found
                .error(at, "a test has exactly one of `exact`, `prefix`, `suffix`, `contains`, `regex`, `range`, `present`")
                .hint = Some("for several tests of one value use one `regex`".to_owned());
            None
        }
    }
}

/// The most memory a compiled pattern may take; a table has many.
const REGEX_SIZE: usize = 1 << 20;

fn bytes_regex(pattern: &str) -> Result<regex::bytes::Regex, regex::Error> {
    regex::bytes::RegexBuilder::new(pattern).size_limit(REGEX_SIZE).build()
}

/// Compiles a pattern, anchored at both ends if asked.
pub(super) fn regex(pattern: &str, anchored: bool, at: &Path<'_>, found: &mut Diagnostics) -> Option<regex::Regex> {
    // Checked bare first, so that the error shows what was written.
    let checked = regex::RegexBuilder::new(pattern).size_limit(REGEX_SIZE).build();
    let whole = if anchored { format!("^(?:{pattern})$") } else { pattern.to_owned() };
    match checked.and_then(|_| regex::RegexBuilder::new(&whole).size_limit(REGEX_SIZE).build()) {
        Ok(regex) => Some(regex),
        Err(error) => {
            report_regex(pattern, &error, at, found);
            None
        }
    }
}

fn report_regex(pattern: &str, error: &regex::Error, at: &Path<'_>, found: &mut Diagnostics) {
    let text = error.to_string();
    let last = text.lines().rev().find(|line| line.starts_with("error: ")).map_or(text.as_str(), |line| &line[7..]);
    let mistake = found.error(at, format!("the pattern `{pattern}` is not a regular expression: {last}"));
    if pattern.contains("(?=") || pattern.contains("(?!") || pattern.contains("(?<") {
        mistake.hint = Some("look-around is not supported, because it can take exponential time".to_owned());
    }
}
