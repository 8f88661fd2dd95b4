//! TLS for clients: certificates by name, who may sign a client's, and what a client's says of its owner.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::config::{ClientCertificates, ListenTls, TlsVersion, UserFrom};

/// Reads and checks the files.
///
/// # Errors
/// If one can't be read or used, with its name.
pub fn load(tls: &ListenTls) -> Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions: &[_] = match tls.min_version {
        TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::V1_3 => &[&rustls::version::TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions)?;
    let builder = match &tls.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).with_context(|| format!("{} is no CA certificate", path.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
            let verifier = match tls.client_certificates {
                ClientCertificates::Required => verifier,
                ClientCertificates::Optional => verifier.allow_unauthenticated(),
            };
            let verifier = verifier.build().with_context(|| format!("no usable CA in {}", path.display()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut keys = Vec::new();
    for files in &tls.certificates {
        let key = certified_key(&files.cert_file, &files.key_file, &provider)?;
        keys.push(Arc::new(key));
    }
    ensure!(!keys.is_empty(), "no certificate is given");
    Ok(Arc::new(builder.with_cert_resolver(Arc::new(ByName { keys }))))
}

/// The certificates of a PEM file; at least one.
///
/// # Errors
/// If it can't be read, or has none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = || format!("cannot read certificates from {}", path.display());
    let found =
        CertificateDer::pem_file_iter(path).with_context(read)?.collect::<Result<Vec<_>, _>>().with_context(read)?;
    ensure!(!found.is_empty(), "no certificate in {}", path.display());
    Ok(found)
}

fn certified_key(cert_file: &Path, key_file: &Path, provider: &CryptoProvider) -> Result<CertifiedKey> {
    let chain = certificates(cert_file)?;
    let key = PrivateKeyDer::from_pem_file(key_file)
        .with_context(|| format!("cannot read a private key from {}", key_file.display()))?;
    CertifiedKey::from_der(chain, key, provider)
        .with_context(|| format!("certificate {} and key {} do not fit", cert_file.display(), key_file.display()))
}

/// The certificate that is valid for the name a client asks for, else the first.
#[derive(Debug)]
struct ByName {
    keys: Vec<Arc<CertifiedKey>>,
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = || {
            let name = ServerName::try_from(hello.server_name()?).ok()?;
            self.keys.iter().find(|key| {
                let certificate = key.cert.first().and_then(|cert| ParsedCertificate::try_from(cert).ok());
                certificate.is_some_and(|certificate| verify_server_name(&certificate, &name).is_ok())
            })
        };
        // Most have one, and need not parse it for each client.
        let only = self.keys.len() == 1;
        (if only { None } else { named() }).or(self.keys.first()).cloned()
    }
}

/// The user name in a client's certificate, which was verified before.
pub(super) fn user(stream: &TlsStream<TcpStream>, from: UserFrom) -> Option<Arc<str>> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    user_of(certificate, from)
}

fn user_of(certificate: &[u8], from: UserFrom) -> Option<Arc<str>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let name = match from {
        UserFrom::Nothing => None,
        UserFrom::CommonName => {
            certificate.subject().iter_common_name().next().and_then(|name| name.as_str().ok()).map(str::to_owned)
        }
        UserFrom::AlternativeName => {
            let names = certificate.subject_alternative_name().ok()??;
            names.value.general_names.iter().find_map(|name| match name {
                GeneralName::DNSName(name) | GeneralName::RFC822Name(name) | GeneralName::URI(name) => {
                    Some((*name).to_owned())
                }
                _ => None,
            })
        }
    };
    name.filter(|name| !name.is_empty()).map(Arc::from)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    #[test]
    fn a_certificate_names_its_user() {
        let mut params = CertificateParams::new(vec!["sensor.example".to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "sensor-7");
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let of = |from| user_of(certificate.der(), from);
        assert_eq!(of(UserFrom::CommonName).as_deref(), Some("sensor-7"));
        assert_eq!(of(UserFrom::AlternativeName).as_deref(), Some("sensor.example"));
        assert_eq!(of(UserFrom::Nothing), None);
        assert_eq!(user_of(b"no certificate", UserFrom::CommonName), None);
    }
}
