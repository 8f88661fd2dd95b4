//! Addresses to listen on.

use std::net::{SocketAddr, ToSocketAddrs as _};

use super::error::ConfigError;

/// An address for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Where.
    pub address: SocketAddr,
    /// Whether clients need not prove who they are. A user name or a password that one of them sends all the same is not
    /// looked at, as in Mosquitto with `allow_anonymous true` and no `password_file`.
    pub anonymous: bool,
}

impl Listen {
    /// What `key` asks for. Loopback is let in by default.
    pub(super) fn new(key: &str, url: &str, allow_anonymous: Option<bool>) -> Result<Listen, ConfigError> {
        let address = match url.split_once("://") {
            Some(("mqtt", address)) => socket_address(key, address)?,
            Some(("mqtts" | "ws" | "wss", _)) => {
                return Err(ConfigError::value(
                    key,
                    url,
                    "TLS and WebSocket are not served yet: write mqtt://HOST:PORT",
                ));
            }
            _ => return Err(ConfigError::value(key, url, "write mqtt://HOST:PORT")),
        };
        let anonymous = allow_anonymous.unwrap_or_else(|| address.ip().is_loopback());
        if !anonymous {
            return Err(ConfigError::value(
                key,
                url,
                "there are no users yet, so nobody could connect: listen on loopback, or set allow_anonymous: true in \
                 the configuration file to let anybody in who reaches this address",
            ));
        }
        Ok(Listen { address, anonymous })
    }
}

/// A host and a port, resolved now: what we listen on is our own address.
pub(super) fn socket_address(key: &str, text: &str) -> Result<SocketAddr, ConfigError> {
    host_and_port(key, text)?;
    text.to_socket_addrs()
        .ok()
        .and_then(|mut addresses| addresses.next())
        .ok_or_else(|| ConfigError::value(key, text, "the host has no address: write an IP address"))
}

/// Checks for `HOST:PORT`, without looking the host up.
pub(super) fn host_and_port(key: &str, text: &str) -> Result<(), ConfigError> {
    let is_host = |host: &str| !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || "/@".contains(c));
    let port = text.rsplit_once(':').filter(|(host, _)| is_host(host)).map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(_)) => Ok(()),
        Some(Err(_)) => Err(ConfigError::value(key, text, "the port must be a number from 0 to 65535")),
        None => Err(ConfigError::value(key, text, "write HOST:PORT")),
    }
}

/// An address that others are told: it must lead here.
pub(super) fn reachable(key: &str, text: &str) -> Result<(), ConfigError> {
    host_and_port(key, text)?;
    let address = text.parse::<SocketAddr>();
    if address.is_ok_and(|address| address.ip().is_unspecified()) || text.ends_with(":0") {
        return Err(ConfigError::value(
            key,
            text,
            "peers can't reach that: write the HOST:PORT that leads to this node",
        ));
    }
    Ok(())
}
