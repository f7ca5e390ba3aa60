//! What is asked, and by whom.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};

use crate::authorize::Caller;
use crate::spiffe::SpiffeId;

/// A question in words, as command lines and queries have it.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// `GET`, which it is if nothing is said.
    pub method: Option<String>,
    /// `http://shop/x?y` or `/x?y`.
    pub url: Option<String>,
    /// `name: value` each.
    pub headers: Vec<String>,
    /// A listener's name.
    pub listener: Option<String>,
    /// `10.0.0.7:5432`.
    pub to: Option<String>,
    /// `spiffe://prod/ns/shop/sa/cart`.
    pub from: Option<String>,
    /// `10.0.0.1`.
    pub address: Option<String>,
}

/// A request that need not have been made, or a connection.
#[derive(Debug, Clone)]
pub struct Question {
    /// The method.
    pub method: Method,
    /// The URL; its host is the `Host` header unless the headers have one. `None`: whatever is said is not HTTP, and names
    /// nobody.
    pub url: Option<Uri>,
    /// The headers.
    pub headers: HeaderMap,
    /// The listener it comes to; the only outbound one if it is not said.
    pub listener: Option<String>,
    /// Where the connection was going before the kernel handed it over; `None` if it came to the listener itself.
    pub to: Option<SocketAddr>,
    /// Who asks.
    pub from: Asker,
}

/// Who asks.
#[derive(Debug, Clone, Default)]
pub struct Asker {
    /// As mutual TLS would show it.
    pub principal: Option<SpiffeId>,
    /// From where; loopback if it is not said.
    pub address: Option<IpAddr>,
    /// The trust domain of the proxy that is asked; the asker's own if it is not known.
    pub own_domain: Option<String>,
}

impl Asker {
    pub(super) fn caller(&self) -> Caller<'_> {
        let principal = self.principal.as_ref();
        let is_own_domain = match (&self.own_domain, principal) {
            (Some(own), Some(id)) => own == id.trust_domain(),
            _ => true,
        };
        Caller { principal, is_own_domain, address: self.address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)) }
    }
}

impl Question {
    /// From words.
    ///
    /// # Errors
    /// What cannot be understood.
    pub fn parse(asked: &Asked) -> Result<Self, String> {
        let method = asked.method.as_deref().unwrap_or("GET");
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| format!("`{method}` is not a method"))?;
        let url = |text: &String| {
            text.parse().map_err(|error| format!("`{text}` is not a URL ({error}): write it as `http://checkout/v2/pay`"))
        };
        let to = |text: &String| {
            text.parse()
                .map_err(|_| format!("`{text}` is not an address with a port, such as `10.0.0.7:5432` or `[fd00::7]:5432`"))
        };
        let principal = |text: &String| SpiffeId::parse(text).map_err(|why| format!("`{text}` is no SPIFFE ID: {why}"));
        let address = |text: &String| text.parse().map_err(|_| format!("`{text}` is not an address"));
        if asked.url.is_none() && asked.to.is_none() {
            return Err("say which URL, for example `http://checkout/v2`, or where a redirected connection was going".to_owned());
        }
        Ok(Self {
            method,
            url: asked.url.as_ref().map(url).transpose()?,
            headers: headers(&asked.headers)?,
            listener: asked.listener.clone(),
            to: asked.to.as_ref().map(to).transpose()?.map(|to: SocketAddr| SocketAddr::new(to.ip().to_canonical(), to.port())),
            from: Asker {
                principal: asked.from.as_ref().map(principal).transpose()?,
                address: asked.address.as_ref().map(address).transpose()?,
                own_domain: None,
            },
        })
    }
}

fn headers(lines: &[String]) -> Result<HeaderMap, String> {
    let mut map = HeaderMap::new();
    for line in lines {
        let parsed = line.split_once(':').and_then(|(name, value)| {
            let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
            Some((name, HeaderValue::from_str(value.trim()).ok()?))
        });
        let (name, value) = parsed.ok_or_else(|| format!("`{line}` is not a header; write `name: value`"))?;
        map.append(name, value);
    }
    Ok(map)
}
