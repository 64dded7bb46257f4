//! Addresses of other machines: hosts by name or number, as seeds and as what a node says of itself.

use std::fmt;
use std::net::SocketAddr;

use super::value::{Raw, Value, parse, quoted};

/// A host, by name or number, and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// The host; an IPv6 address stands without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl HostPort {
    /// Reads `HOST:PORT`.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Some(address.into());
        }
        let (host, port) = text.rsplit_once(':')?;
        Some(Self { host: host_name(host)?, port: port.parse().ok()? })
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A host by its name or as an IPv4 address.
fn host_name(text: &str) -> Option<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    (!text.is_empty() && text.chars().all(allowed)).then(|| text.to_owned())
}

impl Value for Vec<HostPort> {
    fn read(raw: &Raw<'_>) -> Result<Self, String> {
        let items: Self = match raw {
            Raw::List(items) => items.iter().map(|item| seed(item)).collect::<Result<_, _>>()?,
            Raw::Text(text) => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                items.map(seed).collect::<Result<_, _>>()?
            }
            _ => return Err("expects a list of addresses, such as [\"10.0.0.1:7401\", \"10.0.0.2:7401\"]".to_owned()),
        };
        Ok(items)
    }
    fn write(&self) -> String {
        let items: Vec<String> = self.iter().map(|item| quoted(&item.to_string())).collect();
        format!("[{}]", items.join(", "))
    }
}

fn seed(text: &str) -> Result<HostPort, String> {
    let expected = "expects HOST:PORT with the peer port of another node";
    HostPort::parse(text).filter(|seed| seed.port > 0).ok_or_else(|| format!("{expected}, and {text:?} is not one"))
}

/// What a node says of where it is reached. What it does not say is taken from the listener.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Advertised {
    /// The host.
    pub host: Option<String>,
    /// The port.
    pub port: Option<u16>,
}

impl Advertised {
    /// Completed by the address of the bound listener.
    pub fn over(&self, bound: SocketAddr) -> HostPort {
        let host = self.host.clone().unwrap_or_else(|| bound.ip().to_string());
        HostPort { host, port: self.port.unwrap_or(bound.port()) }
    }

    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() {
            return Some(Self::default());
        }
        if let Some(HostPort { host, port }) = HostPort::parse(text) {
            return Some(Self { host: Some(host), port: Some(port) });
        }
        let bare = text.trim_start_matches('[').trim_end_matches(']').parse::<std::net::Ipv6Addr>();
        let host = bare.map_or_else(|_| host_name(text), |address| Some(address.to_string()))?;
        Some(Self { host: Some(host), port: None })
    }
}

impl fmt::Display for Advertised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.host, self.port) {
            (Some(host), Some(port)) => HostPort { host: host.clone(), port }.fmt(f),
            (Some(host), None) => f.write_str(host),
            (None, _) => Ok(()),
        }
    }
}

impl Value for Advertised {
    fn read(raw: &Raw<'_>) -> Result<Self, String> {
        parse(raw, "HOST:PORT, or HOST alone with the port that is listened on", Self::parse)
    }
    fn write(&self) -> String {
        quoted(&self.to_string())
    }
}
