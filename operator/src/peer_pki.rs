//! The credentials the operator makes for the brokers: an authority of their own, the certificate that they show each
//! other, and the token of their admin API. Made once, kept in Secrets, renewed before they expire.
//!
//! What has to be made is a pure decision ([`Credentials::missing`]); making it ([`Credentials::complete`]) is the only
//! place with randomness in the operator. Deliberately absent: certificates that clients see.

use std::sync::Arc;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use jiff::{Timestamp, ToSpan, tz::TimeZone};
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

use crate::names::{NOT_AFTER_ANNOTATION, Names};

/// How long an authority lives.
const CA_DAYS: i64 = 3650;
/// How long a peer certificate lives.
const PEER_DAYS: i64 = 397;
/// How long before its end something is made anew: late enough to be rare, early enough for a slow roll.
const RENEW_DAYS_BEFORE_END: i64 = 60;
/// Random bytes in a token; it is twice as many characters.
const TOKEN_BYTES: usize = 32;

/// A certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, PEM.
    pub certificate: String,
    /// The private key, PEM.
    pub key: String,
    /// When the certificate ends.
    pub not_after: Timestamp,
}

/// Everything there has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The brokers' own authority.
    pub ca: Identity,
    /// What the brokers show each other.
    pub peer: Identity,
    /// What opens the admin API.
    pub admin_token: String,
}

/// What there is, as far as it can be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// The authority.
    pub ca: Option<Identity>,
    /// The peer certificate.
    pub peer: Option<Identity>,
    /// The token.
    pub admin_token: Option<String>,
}

/// What has to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing {
    /// A new authority; it signs a new peer certificate.
    pub ca: bool,
    /// A new peer certificate.
    pub peer: bool,
    /// A new token.
    pub admin_token: bool,
}

/// Making a certificate failed.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The certificate could not be signed.
    #[error("certificate of the peers can't be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// There is no randomness.
    #[error("the system gives no random numbers")]
    Randomness,
}

impl Kept {
    /// Reads the Secrets; what is damaged counts as missing.
    pub fn read(ca: Option<&Arc<Secret>>, peer: Option<&Arc<Secret>>, token: Option<&Arc<Secret>>) -> Self {
        Self {
            ca: ca.and_then(|secret| identity(secret, "ca.crt", "ca.key")),
            peer: peer.and_then(|secret| identity(secret, "tls.crt", "tls.key")),
            admin_token: token.and_then(|secret| text(secret, "token")).filter(|token| !token.is_empty()),
        }
    }
}

impl Credentials {
    /// Decides what has to be made.
    pub fn missing(kept: &Kept, now: Timestamp) -> Missing {
        let ends_soon = |identity: &Identity| identity.not_after < in_days(now, RENEW_DAYS_BEFORE_END);
        let ca = kept.ca.as_ref().is_none_or(ends_soon);
        Missing { ca, peer: ca || kept.peer.as_ref().is_none_or(ends_soon), admin_token: kept.admin_token.is_none() }
    }

    /// Keeps what is good and makes the rest.
    pub fn complete(kept: Kept, names: &Names, cluster_domain: &str, now: Timestamp) -> Result<Self, PkiError> {
        let missing = Self::missing(&kept, now);
        let ca = match kept.ca {
            Some(ca) if !missing.ca => ca,
            _ => new_ca(names, now)?,
        };
        let peer = match kept.peer {
            Some(peer) if !missing.peer => peer,
            _ => new_peer(&ca, names, cluster_domain, now)?,
        };
        let admin_token = match kept.admin_token {
            Some(token) => token,
            None => new_token()?,
        };
        Ok(Self { ca, peer, admin_token })
    }
}

/// The names a peer may be called by, in the order in which people would look for them.
pub fn peer_names(names: &Names, cluster_domain: &str) -> Vec<String> {
    let service = format!("{}.{}.svc", names.peers_service(), names.namespace);
    vec![
        format!("*.{service}.{cluster_domain}"),
        format!("*.{service}"),
        format!("{service}.{cluster_domain}"),
        service,
        "localhost".to_owned(),
    ]
}

fn new_ca(names: &Names, now: Timestamp) -> Result<Identity, PkiError> {
    let key = KeyPair::generate()?;
    let not_after = in_days(now, CA_DAYS);
    let params = ca_params(names, now, not_after);
    let certificate = params.self_signed(&key)?;
    Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem(), not_after })
}

fn new_peer(ca: &Identity, names: &Names, cluster_domain: &str, now: Timestamp) -> Result<Identity, PkiError> {
    // An issuer is its name and its key, and both are the same as when the authority was made.
    let issuer = Issuer::new(ca_params(names, now, ca.not_after), KeyPair::from_pem(&ca.key)?);
    let key = KeyPair::generate()?;
    let not_after = in_days(now, PEER_DAYS).min(ca.not_after);
    let mut params = CertificateParams::new(peer_names(names, cluster_domain))?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("{} peer", names.broker));
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    set_validity(&mut params, now, not_after);
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem(), not_after })
}

fn ca_params(names: &Names, now: Timestamp, not_after: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("{} peers", names.broker));
    params.distinguished_name.push(DnType::OrganizationName, names.namespace.clone());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, now, not_after);
    params
}

/// Whole days, and one day back so that clocks that differ a little agree.
fn set_validity(params: &mut CertificateParams, now: Timestamp, not_after: Timestamp) {
    let day = |timestamp: Timestamp| {
        let date = timestamp.to_zoned(TimeZone::UTC).date();
        date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    params.not_before = day(in_days(now, -1));
    params.not_after = day(not_after);
}

fn new_token() -> Result<String, PkiError> {
    let mut bytes = [0u8; TOKEN_BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| PkiError::Randomness)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn in_days(now: Timestamp, days: i64) -> Timestamp {
    now.saturating_add((days * 24).hours()).unwrap_or(now)
}

fn identity(secret: &Arc<Secret>, certificate: &str, key: &str) -> Option<Identity> {
    let not_after = secret.annotations().get(NOT_AFTER_ANNOTATION)?.parse().ok()?;
    let identity = Identity { certificate: text(secret, certificate)?, key: text(secret, key)?, not_after };
    let whole =
        identity.certificate.contains("-----BEGIN CERTIFICATE-----") && KeyPair::from_pem(&identity.key).is_ok();
    whole.then_some(identity)
}

fn text(secret: &Arc<Secret>, key: &str) -> Option<String> {
    String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names { broker: "mqtt".to_owned(), namespace: "ns".to_owned() }
    }

    fn now() -> Timestamp {
        "2026-03-01T00:00:00Z".parse().unwrap()
    }

    fn complete(kept: Kept, now: Timestamp) -> Credentials {
        Credentials::complete(kept, &names(), "cluster.local", now).unwrap()
    }

    fn kept(credentials: &Credentials) -> Kept {
        Kept {
            ca: Some(credentials.ca.clone()),
            peer: Some(credentials.peer.clone()),
            admin_token: Some(credentials.admin_token.clone()),
        }
    }

    #[test]
    fn what_is_good_is_kept() {
        let made = complete(Kept::default(), now());
        assert_eq!(made.admin_token.len(), 64);
        assert_eq!(complete(kept(&made), in_days(now(), 300)), made);
    }

    #[test]
    fn the_peer_certificate_is_renewed_before_its_end_by_the_same_authority() {
        let made = complete(Kept::default(), now());
        let later = in_days(now(), PEER_DAYS - RENEW_DAYS_BEFORE_END + 1);
        let renewed = complete(kept(&made), later);
        assert_eq!(renewed.ca, made.ca);
        assert_eq!(renewed.admin_token, made.admin_token);
        assert_ne!(renewed.peer, made.peer);
        assert!(renewed.peer.not_after > made.peer.not_after);
    }

    #[test]
    fn a_new_authority_signs_a_new_certificate() {
        let made = complete(Kept::default(), now());
        let missing = Credentials::missing(&Kept { ca: None, ..kept(&made) }, now());
        assert_eq!(missing, Missing { ca: true, peer: true, admin_token: false });
        let at_its_end = Credentials::missing(&kept(&made), in_days(now(), CA_DAYS));
        assert!(at_its_end.ca);
    }

    #[test]
    fn damaged_secrets_count_as_missing() {
        let secret = Secret::default();
        let secret = Arc::new(secret);
        assert_eq!(Kept::read(Some(&secret), Some(&secret), Some(&secret)), Kept::default());
    }

    #[test]
    fn a_peer_is_known_by_the_name_of_its_pod() {
        assert_eq!(
            peer_names(&names(), "cluster.local"),
            [
                "*.mqtt-peers.ns.svc.cluster.local",
                "*.mqtt-peers.ns.svc",
                "mqtt-peers.ns.svc.cluster.local",
                "mqtt-peers.ns.svc",
                "localhost"
            ]
        );
    }
}
