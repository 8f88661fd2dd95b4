//! Mutual TLS on loopback, with certificates made here.

use std::fs;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::{LocalSet, spawn_local};

use super::*;

struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    fn new() -> Ca {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Ca { pem, issuer: Issuer::new(params, key) }
    }

    /// Files of a node that trusts this CA and has a certificate of `of`.
    fn files(&self, directory: &Path, of: &Ca) -> TlsFiles {
        let key = KeyPair::generate().expect("a key");
        // A name that fits no address: addresses are not compared.
        let params = CertificateParams::new(vec!["a-node".to_string()]).expect("a name");
        let certificate = params.signed_by(&key, &of.issuer).expect("a certificate");
        let file = |name: &str, pem: String| {
            let path = directory.join(name);
            fs::write(&path, pem).expect("a file");
            path
        };
        TlsFiles {
            ca_file: file("ca.crt", self.pem.clone()),
            cert_file: file("tls.crt", certificate.pem()),
            key_file: file("tls.key", key.serialize_pem()),
        }
    }
}

fn on_one_thread(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, test);
}

/// Sends a word from a node with `client` to one with `server`, and gives what comes back.
async fn echo(server: TlsFiles, client: TlsFiles) -> io::Result<Vec<u8>> {
    let server = TlsNet::new(server).expect("good files");
    let client = TlsNet::new(client).expect("good files");
    // The address is not known before it is bound, and is free again for a moment.
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let mut listener = server.listen(&address).await?;
    spawn_local(async move {
        let Ok(incoming) = listener.accept().await else { return };
        if let Ok(mut stream) = incoming.await {
            let mut word = [0; 5];
            if stream.read_exact(&mut word).await.is_ok() {
                // The test sees whether it comes.
                let _ = stream.write_all(&word).await;
                let _ = stream.shutdown().await;
            }
        }
    });
    let mut stream = client.connect(&address).await?;
    stream.write_all(b"hello").await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer)
}

fn directories<const N: usize>() -> [tempfile::TempDir; N] {
    std::array::from_fn(|_| tempfile::tempdir().expect("a directory"))
}

#[test]
fn two_nodes_of_one_ca_talk_whatever_their_names() {
    on_one_thread(async {
        let ([a, b], ca) = (directories(), Ca::new());
        let answer = echo(ca.files(a.path(), &ca), ca.files(b.path(), &ca)).await;
        assert_eq!(answer.expect("an answer"), b"hello");
    });
}

#[test]
fn a_client_of_another_ca_is_refused() {
    on_one_thread(async {
        let ([a, b], ours, theirs) = (directories(), Ca::new(), Ca::new());
        // It would accept the server: only the server refuses.
        let answer = echo(ours.files(a.path(), &ours), ours.files(b.path(), &theirs)).await;
        assert!(answer.is_err(), "{answer:?}");
    });
}

#[test]
fn a_server_of_another_ca_is_refused() {
    on_one_thread(async {
        let ([a, b], ours, theirs) = (directories(), Ca::new(), Ca::new());
        let answer = echo(ours.files(a.path(), &theirs), ours.files(b.path(), &ours)).await;
        assert!(answer.is_err(), "{answer:?}");
    });
}

#[test]
fn files_that_do_not_fit_are_named() {
    let ([a, b], ca) = (directories(), Ca::new());
    let mut files = ca.files(a.path(), &ca);
    files.key_file = ca.files(b.path(), &ca).key_file;
    let error = format!("{:#}", files.load().err().expect("they do not fit"));
    assert!(error.contains("tls.key"), "{error}");
    files.cert_file = a.path().join("absent.crt");
    let error = format!("{:#}", files.load().err().expect("one is missing"));
    assert!(error.contains("absent.crt"), "{error}");
}

#[test]
fn a_renewed_certificate_is_used_without_a_restart() {
    on_one_thread(async {
        let ([a], ca, renewed) = (directories(), Ca::new(), Ca::new());
        let files = ca.files(a.path(), &ca);
        let net = TlsNet::new(files.clone()).expect("good files");
        let before = current(&net.files, &net.last);
        fs::write(&files.ca_file, "not a certificate").expect("a file");
        assert!(Arc::ptr_eq(&current(&net.files, &net.last).server, &before.server), "a broken file changes nothing");
        renewed.files(a.path(), &renewed);
        assert!(!Arc::ptr_eq(&current(&net.files, &net.last).server, &before.server));
    });
}

#[test]
fn names_stand_for_all_their_addresses() {
    on_one_thread(async {
        let ([a], ca) = (directories(), Ca::new());
        let net = TlsNet::new(ca.files(a.path(), &ca)).expect("good files");
        assert_eq!(net.resolve("host:7883").await.expect("itself"), ["host:7883"]);
        let found = net.resolve("dns://localhost:7883").await.expect("loopback");
        assert!(found.contains(&"127.0.0.1:7883".to_string()), "{found:?}");
    });
}
