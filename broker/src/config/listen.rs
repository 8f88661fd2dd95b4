//! Addresses to listen on.

use std::net::{SocketAddr, ToSocketAddrs as _};

use super::file::{self, ConfigError};

/// An address for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Where.
    pub address: SocketAddr,
    /// Whether clients need not prove who they are.
    pub anonymous: bool,
}

impl Listen {
    pub(super) fn new(asked: &file::Listener) -> Result<Listen, ConfigError> {
        let url = &asked.url;
        let address = match url.split_once("://") {
            Some(("mqtt", address)) => socket_address("listeners.url", address)?,
            Some(("mqtts" | "ws" | "wss", _)) => {
                return Err(ConfigError::value("listeners.url", url, "only mqtt:// is served yet"));
            }
            _ => return Err(ConfigError::value("listeners.url", url, "write mqtt://HOST:PORT")),
        };
        let anonymous = asked.allow_anonymous.unwrap_or_else(|| address.ip().is_loopback());
        if !anonymous {
            return Err(ConfigError::value(
                "listeners.url",
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
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
    match port {
        Some(Ok(_)) => Ok(()),
        Some(Err(_)) => Err(ConfigError::value(key, text, "the port must be a number from 0 to 65535")),
        None => Err(ConfigError::value(key, text, "write HOST:PORT")),
    }
}
