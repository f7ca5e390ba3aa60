//! What a running weir says about where a request would go: `/explain` of its admin server, over one connection.

use std::net::SocketAddr;

use serde_json::Value;

use crate::Result;
use crate::raw::Connection;

/// A connection to the admin server that questions are asked on.
pub struct Explainer(Connection);

/// An answer.
#[derive(Debug, Clone)]
pub struct Explained(Vec<Value>);

impl Explainer {
    /// Connects.
    ///
    /// # Errors
    /// No connection opens.
    pub async fn open(admin: SocketAddr) -> Result<Self> {
        Ok(Self(Connection::open(admin).await?))
    }

    /// Where this request goes; headers are lines, `name: value`.
    ///
    /// # Errors
    /// What weir says instead.
    pub async fn ask(&mut self, method: &str, url: &str, headers: &[String]) -> Result<Explained> {
        let headers = headers.iter().map(|header| ("header", header.as_str()));
        self.ask_with([("method", method), ("url", url)].into_iter().chain(headers)).await
    }

    /// The same, with whatever `/explain` understands.
    ///
    /// # Errors
    /// What weir says instead.
    pub async fn ask_with<'q>(&mut self, query: impl Iterator<Item = (&'q str, &'q str)>) -> Result<Explained> {
        let query = query.map(|(name, value)| format!("&{name}={}", encoded(value)));
        let target = query.fold("/explain?json=true".to_owned(), |target, part| target + &part);
        self.0.send(format!("GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await?;
        let response = self.0.response(false).await?;
        if response.status != 200 {
            return Err(format!("{}: {}", response.status, response.text()).into());
        }
        let mut page: Value = serde_json::from_slice(&response.body)?;
        match page["facts"].take() {
            Value::Array(facts) => Ok(Explained(facts)),
            other => Err(format!("no facts: {other}").into()),
        }
    }
}

impl Explained {
    /// Name and value of each fact of a section, in order.
    pub fn section(&self, section: &str) -> Vec<(&str, &str)> {
        let facts = self.0.iter().filter(|fact| fact["section"] == section);
        facts.filter_map(|fact| Some((fact["name"].as_str()?, fact["value"].as_str()?))).collect()
    }

    /// The value of one fact.
    pub fn value(&self, section: &str, name: &str) -> Option<&str> {
        self.section(section).into_iter().find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// The route and the rule that take the request.
    pub fn rule(&self) -> Option<(&str, &str)> {
        let (route, _) = *self.section("Route").first()?;
        let (rule, _) = self.section("Rules").into_iter().find(|(_, value)| *value == "matches")?;
        Some((route, rule))
    }
}

/// A value for a query, percent-encoded.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
