//! Addresses to listen on.

use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;

use super::error::ConfigError;
use super::file::{self, CertificateFiles};

/// An address for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// As written.
    pub url: String,
    /// Where.
    pub address: SocketAddr,
    /// Whether clients need not prove who they are. While there is no password file, a user name or a password that one
    /// of them sends all the same is not looked at, as in Mosquitto.
    pub anonymous: bool,
    /// A PROXY header comes first.
    pub proxy_protocol: bool,
    /// Connections at once.
    pub connections_max: Option<u64>,
    /// Connections accepted a second.
    pub connections_per_second: Option<u32>,
    /// For `mqtts` and `wss`.
    pub tls: Option<ListenTls>,
    /// For `ws` and `wss`.
    pub web_path: Option<String>,
}

/// TLS for clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenTls {
    /// At least one.
    pub certificates: Vec<CertificateFiles>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// Who may sign the certificates of clients; `None`: none is asked for.
    pub client_ca_file: Option<PathBuf>,
    /// Whether a client must have one.
    pub client_certificates: ClientCertificates,
    /// What of it is the user name.
    pub user_from: UserFrom,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// 1.2
    V1_2,
    /// 1.3
    V1_3,
}

/// Whether a client must have a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// It must.
    Required,
    /// If it has one, it must be good.
    Optional,
}

/// What of a client's certificate is its user name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UserFrom {
    /// Nothing.
    #[default]
    Nothing,
    /// The common name of its subject.
    CommonName,
    /// Its first alternative name that is a host, a mail address or a URI.
    AlternativeName,
}

/// Where MQTT is on a WebSocket listener whose URL does not say.
const WEB_PATH_DEFAULT: &str = "/mqtt";
const URL_REMEDY: &str = "write mqtt://HOST:PORT, mqtts://HOST:PORT, ws://HOST:PORT/PATH or wss://HOST:PORT/PATH";

impl Listen {
    /// What `--listen` asks for; `users` says whether there is a password file.
    pub(super) fn from_flag(url: &str, tls: Option<CertificateFiles>, users: bool) -> Result<Listen, ConfigError> {
        let is_encrypted = url.starts_with("mqtts:") || url.starts_with("wss:");
        let tls = tls.filter(|_| is_encrypted).map(|files| file::ListenerTls {
            certificates: vec![files],
            min_version: None,
            client_ca_file: None,
            client_certificates: None,
            user_from: None,
        });
        let asked = file::Listener {
            url: url.to_owned(),
            allow_anonymous: None,
            proxy_protocol: None,
            connections_max: None,
            connections_per_second: None,
            tls,
        };
        Listen::new("--listen", "--listen", asked, users)
    }

    /// What the file asks for at `place`.
    pub(super) fn from_file(place: &str, asked: file::Listener, users: bool) -> Result<Listen, ConfigError> {
        Listen::new(place, &format!("{place}.url"), asked, users)
    }

    fn new(place: &str, key: &str, asked: file::Listener, users: bool) -> Result<Listen, ConfigError> {
        let url = asked.url.as_str();
        let refuse = |remedy: &str| Err(ConfigError::value(key, url, remedy));
        let Some((scheme, rest)) = url.split_once("://") else { return refuse(URL_REMEDY) };
        let (is_encrypted, is_web) = match scheme {
            "mqtt" => (false, false),
            "mqtts" => (true, false),
            "ws" => (false, true),
            "wss" => (true, true),
            _ => return refuse(URL_REMEDY),
        };
        let (address, path) = match rest.find('/').filter(|_| is_web) {
            Some(slash) => rest.split_at(slash),
            None => (rest, WEB_PATH_DEFAULT),
        };
        if path.contains(['?', '#']) || path.contains(char::is_whitespace) {
            return refuse("the path must be plain");
        }
        let address = socket_address(key, address).map_err(|error| error.about(url))?;
        let tls = match (is_encrypted, asked.tls) {
            (true, Some(tls)) => Some(ListenTls::new(&format!("{place}.tls"), tls)?),
            (false, None) => None,
            (true, None) => {
                return refuse(
                    "give a certificate: tls: {certificates: [{cert_file: F, key_file: F}]} (or --tls-cert and --tls-key)",
                );
            }
            (false, Some(_)) => return refuse("tls is given, but the URL is not mqtts:// or wss://"),
        };
        let anonymous = asked.allow_anonymous.unwrap_or_else(|| address.ip().is_loopback() && !users);
        let certified = tls.as_ref().is_some_and(|tls| tls.user_from != UserFrom::Nothing);
        if !anonymous && !users && !certified {
            return refuse(
                "there are no users, so nobody could connect: give auth.password_file, or client certificates with \
                 tls.user_from, or listen on loopback, or set allow_anonymous: true in the configuration file to let \
                 anybody in who reaches this address",
            );
        }
        let rate = asked.connections_per_second.map(|rate| match u32::try_from(rate) {
            Ok(rate @ 1..=1_000_000) => Ok(rate),
            _ => {
                let key = format!("{place}.connections_per_second");
                Err(ConfigError::value(&key, rate, "choose from 1 to 1000000, or leave it out for no limit"))
            }
        });
        if asked.connections_max == Some(0) {
            let key = format!("{place}.connections_max");
            return Err(ConfigError::value(&key, 0, "choose at least 1, or leave it out for no limit"));
        }
        Ok(Listen {
            url: asked.url.clone(),
            address,
            anonymous,
            proxy_protocol: asked.proxy_protocol.unwrap_or_default(),
            connections_max: asked.connections_max,
            connections_per_second: rate.transpose()?,
            tls,
            web_path: is_web.then(|| path.to_owned()),
        })
    }
}

impl ListenTls {
    fn new(place: &str, asked: file::ListenerTls) -> Result<ListenTls, ConfigError> {
        let refuse =
            |key: &str, value: &str, remedy: &str| Err(ConfigError::value(&format!("{place}.{key}"), value, remedy));
        if asked.certificates.is_empty() {
            return refuse("certificates", "[]", "give at least one: {cert_file: F, key_file: F}");
        }
        let min_version = match asked.min_version.as_deref() {
            None | Some("1.2") => TlsVersion::V1_2,
            Some("1.3") => TlsVersion::V1_3,
            Some(other) => return refuse("min_version", other, "choose \"1.2\" or \"1.3\""),
        };
        let client_certificates = match asked.client_certificates.as_deref() {
            None | Some("required") => ClientCertificates::Required,
            Some("optional") => ClientCertificates::Optional,
            Some(other) => return refuse("client_certificates", other, "choose required or optional"),
        };
        let user_from = match asked.user_from.as_deref() {
            None | Some("none") => UserFrom::Nothing,
            Some("cn") => UserFrom::CommonName,
            Some("san") => UserFrom::AlternativeName,
            Some(other) => return refuse("user_from", other, "choose cn, san or none"),
        };
        if asked.client_ca_file.is_none() && (asked.client_certificates.is_some() || user_from != UserFrom::Nothing) {
            let key = if user_from != UserFrom::Nothing { "user_from" } else { "client_certificates" };
            return refuse(key, "set", "clients are asked for certificates only with client_ca_file: give it");
        }
        Ok(ListenTls {
            certificates: asked.certificates,
            min_version,
            client_ca_file: asked.client_ca_file,
            client_certificates,
            user_from,
        })
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
