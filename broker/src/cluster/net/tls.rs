//! TCP with mutual TLS between peers.
//!
//! Both ends must present a certificate of the cluster's own CA. Names in certificates are not compared with addresses:
//! the CA signs nobody but members, and pods are dialled by addresses that change.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Accept, BoxStream, Listener, Net};
use crate::cluster::mesh::LocalFuture;

/// A dial or a handshake that takes longer is given up.
const HANDSHAKE_MS: u64 = 3_000;

/// The PEM files of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The cluster's CA.
    pub ca_file: PathBuf,
    /// This node's certificate chain.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
}

impl TlsFiles {
    /// Reads and checks the files; an error names the file.
    pub fn load(&self) -> anyhow::Result<Tls> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca_file)? {
            roots.add(certificate).with_context(|| format!("{} is no CA certificate", self.ca_file.display()))?;
        }
        let roots = Arc::new(roots);
        let chain = certificates(&self.cert_file)?;
        let key = PrivateKeyDer::from_pem_file(&self.key_file)
            .with_context(|| format!("cannot read a private key from {}", self.key_file.display()))?;
        let peers = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .build()
            .with_context(|| format!("no usable CA in {}", self.ca_file.display()))?;
        let mismatch =
            || format!("certificate {} and key {} do not fit", self.cert_file.display(), self.key_file.display());
        let server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(peers)
            .with_single_cert(chain.clone(), key.clone_key())
            .with_context(mismatch)?;
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(OfTheCluster { roots, provider }))
            .with_client_auth_cert(chain, key)
            .with_context(mismatch)?;
        Ok(Tls { server: Arc::new(server), client: Arc::new(client) })
    }
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = || format!("cannot read certificates from {}", path.display());
    let found =
        CertificateDer::pem_file_iter(path).with_context(read)?.collect::<Result<Vec<_>, _>>().with_context(read)?;
    anyhow::ensure!(!found.is_empty(), "no certificate in {}", path.display());
    Ok(found)
}

/// What the files say, ready for use.
#[derive(Clone)]
pub struct Tls {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

/// Accepts a server whose chain ends in the cluster's CA, whatever its name.
#[derive(Debug)]
struct OfTheCluster {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for OfTheCluster {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The real network.
pub struct TlsNet {
    files: TlsFiles,
    /// What was last read of the files without error. New streams read them anew, so that a renewed certificate is used
    /// without a restart; a broken file leaves the old one in force.
    last: Rc<std::cell::RefCell<Tls>>,
}

impl TlsNet {
    /// A network with the certificates of `files`, which must be good now.
    pub fn new(files: TlsFiles) -> anyhow::Result<TlsNet> {
        let last = Rc::new(std::cell::RefCell::new(files.load()?));
        Ok(TlsNet { files, last })
    }
}

fn current(files: &TlsFiles, last: &Rc<std::cell::RefCell<Tls>>) -> Tls {
    match files.load() {
        Ok(tls) => *last.borrow_mut() = tls,
        Err(error) => tracing::warn!("peer certificates stay as they were: {error:#}"),
    }
    last.borrow().clone()
}

impl Net for TlsNet {
    fn listen(&self, address: &str) -> LocalFuture<io::Result<Box<dyn Listener>>> {
        let (files, last) = (self.files.clone(), self.last.clone());
        let address = address.to_string();
        Box::pin(async move {
            let listener = TcpListener::bind(&address).await?;
            Ok(Box::new(TlsListener { listener, files, last }) as Box<dyn Listener>)
        })
    }

    fn connect(&self, address: &str) -> LocalFuture<io::Result<BoxStream>> {
        let (files, last) = (self.files.clone(), self.last.clone());
        let address = address.to_string();
        within_handshake_time(async move {
            let stream = TcpStream::connect(&address).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::IpAddress(stream.peer_addr()?.ip().into());
            let tls = TlsConnector::from(current(&files, &last).client).connect(name, stream).await?;
            Ok(Box::new(tls) as BoxStream)
        })
    }

    fn resolve(&self, peer: &str) -> LocalFuture<io::Result<Vec<String>>> {
        let peer = peer.to_string();
        Box::pin(async move {
            let Some(name) = peer.strip_prefix("dns://") else {
                return Ok(vec![peer]);
            };
            let mut found: Vec<_> = tokio::net::lookup_host(name).await?.collect();
            found.sort();
            found.dedup();
            Ok(found.iter().map(ToString::to_string).collect())
        })
    }
}

fn within_handshake_time(
    handshake: impl Future<Output = io::Result<BoxStream>> + 'static,
) -> LocalFuture<io::Result<BoxStream>> {
    Box::pin(async move {
        tokio::time::timeout(Duration::from_millis(HANDSHAKE_MS), handshake)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    })
}

struct TlsListener {
    listener: TcpListener,
    files: TlsFiles,
    last: Rc<std::cell::RefCell<Tls>>,
}

impl Listener for TlsListener {
    fn accept(&mut self) -> Accept<'_> {
        Box::pin(async move {
            let (stream, _) = self.listener.accept().await?;
            let (files, last) = (self.files.clone(), self.last.clone());
            Ok(within_handshake_time(async move {
                stream.set_nodelay(true)?;
                let tls = TlsAcceptor::from(current(&files, &last).server).accept(stream).await?;
                Ok(Box::new(tls) as BoxStream)
            }))
        })
    }
}

#[cfg(test)]
mod tests;
