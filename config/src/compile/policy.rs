use std::time::Duration;

use http::StatusCode;
use http::header::HeaderName;

use super::matches::value_test;
use crate::error::{Diagnostics, Path};
use crate::policy::{Conditions, RetryRule, Timeouts};
use crate::schema::{self, RetryOn};
use crate::snapshot::{SPOKEN, Upgrades};
use crate::units::Limit;

/// Without a byte either way for so long, nobody is there any more.
pub(super) const DEFAULT_IDLE: Duration = Duration::from_secs(300);

pub(super) fn timeouts(rule: &schema::Rule, path: &Path<'_>, found: &mut Diagnostics) -> Timeouts {
    let Some(timeout) = &rule.timeout else { return Timeouts { request: None, per_try: None, idle: Some(DEFAULT_IDLE) } };
    let here = path.key("timeout");
    if rule.backends.is_none() {
        found.error(&here, "only requests to `backends` take time, and this rule has none");
    }
    let mut read = |limit: Option<Limit>, key| {
        let limit = limit?.0;
        if limit.is_some_and(|limit| limit.is_zero()) {
            found.error(&here.key(key), "no request can be done in no time").hint = Some("write `off` for no limit".to_owned());
        }
        limit
    };
    let (request, per_try) = (read(timeout.request, "request"), read(timeout.per_try, "per_try"));
    let idle = if timeout.idle.is_some() { read(timeout.idle, "idle") } else { Some(DEFAULT_IDLE) };
    if let (Some(request), Some(per_try)) = (request, per_try)
        && per_try > request
    {
        found.error(&here.key("per_try"), "an attempt may not take longer than the whole request, `request`").hint =
            Some("make it shorter, or leave it out".to_owned());
    }
    Timeouts { request, per_try, idle }
}

pub(super) fn retry(rule: &schema::Rule, path: &Path<'_>, found: &mut Diagnostics) -> Option<RetryRule> {
    let retry = rule.retry.as_ref()?;
    let here = path.key("retry");
    if rule.backends.is_none() {
        found.error(&here, "only requests to `backends` can be tried again, and this rule has none");
    }
    if retry.backoff.base.0 > retry.backoff.max.0 {
        found.error(&here.key("backoff").key("max"), "`max` is shorter than `base`");
    }
    let headers = retry.headers.iter().filter_map(|(name, test)| {
        let place = here.key("headers");
        let place = place.key(name);
        let Ok(header) = HeaderName::from_bytes(name.as_bytes()) else {
            found.key_error(&place, format!("`{name}` is not a header name"));
            return None;
        };
        if header == http::header::CONNECTION {
            found.key_error(&place, "`connection` cannot ask for a retry: it belongs to one connection, not to the message");
        }
        Some((header, value_test(test, &place, found)?))
    });
    let headers: Box<[_]> = headers.collect();
    let codes = codes(retry, &here, found);
    Some(RetryRule {
        attempts: retry.attempts,
        on: conditions(retry, &here, found),
        codes,
        headers,
        idempotent: retry.idempotent,
        base: retry.backoff.base.0,
        max: retry.backoff.max.0,
        retry_after: retry.retry_after.0,
    })
}

fn conditions(retry: &schema::Retry, here: &Path<'_>, found: &mut Diagnostics) -> Conditions {
    let mut on = Conditions::default();
    let asked_otherwise = !retry.codes.is_empty() || !retry.headers.is_empty();
    match &retry.on {
        None if asked_otherwise => {}
        None => {
            for condition in [RetryOn::ConnectFailure, RetryOn::RefusedStream, RetryOn::GatewayError] {
                on.insert(condition);
            }
        }
        Some(list) => {
            let place = here.key("on");
            if list.is_empty() && !asked_otherwise {
                found.error(&place, "an empty list retries nothing").hint =
                    Some("leave `on` out for the default, or `retry` for no retries".to_owned());
            }
            for (index, condition) in list.iter().enumerate() {
                let missing = match condition {
                    RetryOn::RetriableStatusCodes if retry.codes.is_empty() => Some("codes: [503]"),
                    RetryOn::RetriableHeaders if retry.headers.is_empty() => Some("headers: { x-retry: \"yes\" }"),
                    _ => None,
                };
                if let Some(example) = missing {
                    found.error(&place.index(index), "this condition names nothing by itself").hint =
                        Some(format!("add for example `{example}`; the name in `on` is not needed then"));
                }
                if on.has(*condition) {
                    found.error(&place.index(index), "this condition is listed twice");
                }
                on.insert(*condition);
            }
        }
    }
    on
}

fn codes(retry: &schema::Retry, here: &Path<'_>, found: &mut Diagnostics) -> Box<[StatusCode]> {
    let place = here.key("codes");
    let code = |(index, code): (usize, &u16)| match StatusCode::from_u16(*code) {
        Ok(status) if (400..600).contains(code) => Some(status),
        _ => {
            found.error(&place.index(index), format!("{code} is no status of a failure")).hint =
                Some("write statuses from 400 to 599".to_owned());
            None
        }
    };
    retry.codes.iter().enumerate().filter_map(code).collect()
}

pub(super) fn upgrades(rule: &schema::Rule, path: &Path<'_>, found: &mut Diagnostics) -> Upgrades {
    let Some(list) = &rule.upgrades else { return Upgrades::default() };
    let here = path.key("upgrades");
    if rule.backends.is_none() {
        found.error(&here, "only connections to `backends` can switch protocols, and this rule has none");
    }
    let mut upgrades = Upgrades { names: Box::default(), connect: false, any: false };
    let mut names: Vec<Box<str>> = Vec::new();
    for (index, name) in list.iter().enumerate() {
        let lower = name.to_ascii_lowercase();
        if HeaderName::from_bytes(lower.as_bytes()).is_err() {
            found.error(&here.index(index), format!("`{name}` is not a protocol's name")).hint =
                Some("for example `websocket`".to_owned());
        } else if SPOKEN.contains(&&*lower) {
            found.error(&here.index(index), format!("`{name}` cannot be passed through: weir speaks HTTP itself")).hint =
                Some("leave it out; callers that offer it are served without".to_owned());
        } else if lower == "connect" {
            upgrades.connect = true;
        } else {
            names.push(lower.into());
        }
    }
    upgrades.names = names.into();
    upgrades
}
