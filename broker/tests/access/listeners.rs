//! The ways in: TLS with and without certificates of clients, WebSocket, PROXY.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};

use crate::authority::Authority;
use crate::broker::{Broker, PATIENCE, free_address};
use crate::mosquitto::{end, mosquitto, receives};

#[test]
fn tls_asks_for_certificates_knows_users_by_them_and_renews_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ca");
    authority.sign("server", &["localhost", "127.0.0.1"]);
    authority.sign("ann", &["ann"]);
    let (plain, secure) = (free_address(), free_address());
    std::fs::write(folder.path().join("acl"), "pattern readwrite of/%u/#\n").unwrap();
    let broker = Broker::start(
        folder,
        &format!(
            "
auth: {{ acl_file: FOLDER/acl }}
listeners:
  - url: mqtts://{secure}
    tls:
      certificates: [{{ cert_file: FOLDER/server.crt, key_file: FOLDER/server.key }}]
      client_ca_file: FOLDER/ca.crt
      user_from: cn
  - url: mqtts://{plain}
    allow_anonymous: true
    tls: {{ certificates: [{{ cert_file: FOLDER/server.crt, key_file: FOLDER/server.key }}] }}
"
        ),
    );
    let certified = "--cafile FOLDER/ca.crt --cert FOLDER/ann.crt --key FOLDER/ann.key -q 1";
    for version in ["mqttv311", "mqttv5"] {
        for tls in ["tlsv1.2", "tlsv1.3"] {
            let with = format!("-V {version} --tls-version {tls} {certified} -t of/ann/x");
            let subscriber = mosquitto("sub", &broker, secure, &format!("{with} -C 1 -W 20"));
            let said = receives(&broker, subscriber, || {
                end(mosquitto("pub", &broker, secure, &format!("{with} -m hello")));
            });
            assert!(said.contains("hello"), "{with}: {said}");
        }
    }
    let (ok, said) = end(mosquitto("pub", &broker, secure, "--cafile FOLDER/ca.crt -t of/ann/x -m x -q 1"));
    assert!(!ok, "without a certificate: {said}");
    let (ok, said) = end(mosquitto("pub", &broker, plain, "--cafile FOLDER/ca.crt -t of/ann/x -m x -q 1 -V mqttv5"));
    assert!(said.contains("ot authorized") || !ok, "anonymous may nothing here: {said}");

    // A connection outlives the certificate it began with, and new ones get the new certificate.
    let subscriber = mosquitto("sub", &broker, secure, &format!("{certified} -t of/ann/late -C 1 -W 25"));
    broker.until("the subscriber is there", || broker.ask("GET /api/v1/clients").contains("\"user\":\"ann\""));
    let renewed = Authority::new(broker.folder.path(), "ca2");
    renewed.sign("server", &["localhost", "127.0.0.1"]);
    broker.until("the new certificate is in force", || {
        let with = "--cafile FOLDER/ca2.crt --cert FOLDER/ann.crt --key FOLDER/ann.key -q 1 -t of/ann/late -m renewed";
        end(mosquitto("pub", &broker, secure, with)).0
    });
    let (ok, said) = end(subscriber);
    assert!(ok && said.contains("renewed"), "{said}");
}

/// The certificate that the broker shows to who asks for `name`, and what MQTT says over the connection.
fn certificate_for(address: SocketAddr, name: &str, roots: &rustls::RootCertStore) -> Vec<u8> {
    let config = rustls::ClientConfig::builder().with_root_certificates(roots.clone()).with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = rustls::StreamOwned::new(connection, TcpStream::connect(address).unwrap());
    stream.sock.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(CONNECT).unwrap();
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).unwrap();
    assert_eq!(connack, *b"\x20\x02\x00\x00");
    stream.conn.peer_certificates().unwrap()[0].to_vec()
}

#[test]
fn a_name_chooses_its_certificate() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path(), "ca");
    for (file, name) in [("one", "one.test"), ("two", "two.test"), ("wild", "*.wild.test")] {
        authority.sign(file, &[name]);
    }
    let certificate = |file: &str| CertificateDer::from_pem_file(folder.path().join(file)).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate("ca.crt")).unwrap();
    let [one, two, wild] = ["one.crt", "two.crt", "wild.crt"].map(certificate);
    let files = |name: &str| format!("{{ cert_file: FOLDER/{name}.crt, key_file: FOLDER/{name}.key }}");
    let address = free_address();
    let _broker = Broker::start(
        folder,
        &format!(
            "listeners: [{{ url: \"mqtts://{address}\", tls: {{ certificates: [{}, {}, {}] }} }}]",
            files("one"),
            files("two"),
            files("wild")
        ),
    );
    assert_eq!(certificate_for(address, "one.test", &roots), one.as_ref());
    assert_eq!(certificate_for(address, "two.test", &roots), two.as_ref());
    assert_eq!(certificate_for(address, "any.wild.test", &roots), wild.as_ref());
}

/// A frame of a client, masked with zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first, 0x80 | payload.len() as u8, 0, 0, 0, 0];
    frame.extend(payload);
    frame
}

const CONNECT: &[u8] = b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01w";
const SUBSCRIBE: &[u8] = b"\x82\x06\x00\x01\x00\x01a\x01";

#[test]
fn mqtt_over_websocket_comes_in_any_cut_of_frames() {
    let (plain, web) = (free_address(), free_address());
    let config = format!("listeners: [{{ url: \"mqtt://{plain}\" }}, {{ url: \"ws://{web}/mqtt\" }}]");
    let broker = Broker::start(tempfile::tempdir().unwrap(), &config);
    let mut client = TcpStream::connect(web).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = "GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\
                   Sec-WebSocket-Version: 13\r\n\r\n";
    // The first frames come with the request, cut in the middle of a packet, with a ping between the fragments.
    let (begin, rest) = CONNECT.split_at(5);
    let early = [request.as_bytes(), &frame(0x02, begin), &frame(0x89, b"p"), &frame(0x80, rest)].concat();
    client.write_all(&early).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("Sec-WebSocket-Protocol: mqtt"), "{head}");
    let mut answers = vec![0; 3 + 6];
    client.read_exact(&mut answers).unwrap();
    assert_eq!(answers, b"\x8a\x01p\x82\x04\x20\x02\x00\x00");
    // Two packets in one frame.
    client.write_all(&frame(0x82, &[SUBSCRIBE, b"\xc0\x00"].concat())).unwrap();
    let mut bytes = Vec::<u8>::new();
    while bytes.iter().filter(|byte| **byte == 0xd0).count() == 0 || !bytes.windows(2).any(|pair| pair == b"\x90\x03") {
        let mut chunk = [0; 64];
        let count = client.read(&mut chunk).unwrap();
        assert!(count > 0, "{bytes:?}");
        bytes.extend(&chunk[..count]);
    }
    assert!(end(mosquitto("pub", &broker, plain, "-t a -m over-the-web -q 1")).0);
    let mut bytes = Vec::<u8>::new();
    while !bytes.windows(12).any(|part| part == b"over-the-web") {
        let mut chunk = [0; 64];
        let count = client.read(&mut chunk).unwrap();
        assert!(count > 0, "{bytes:?}");
        bytes.extend(&chunk[..count]);
    }
    // Another path is no way in.
    let mut other = TcpStream::connect(web).unwrap();
    other.write_all(request.replace("/mqtt ", "/other ").as_bytes()).unwrap();
    let mut answer = String::new();
    other.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
}

#[test]
fn a_balancer_says_whom_it_speaks_for() {
    let proxied = free_address();
    let config = format!("listeners: [{{ url: \"mqtt://{proxied}\", proxy_protocol: true }}]");
    let broker = Broker::start(tempfile::tempdir().unwrap(), &config);
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x08\x7f\x00\x00\x01\x10\x92\x07\x5b";
    let connections = [
        connect_through(proxied, b"PROXY TCP4 192.0.2.7 127.0.0.1 4242 1883\r\n", "one"),
        connect_through(proxied, v2, "two"),
    ];
    broker.until("both are seen", || {
        let clients = broker.ask("GET /api/v1/clients");
        clients.contains("192.0.2.7:4242") && clients.contains("192.0.2.8:4242")
    });
    drop(connections);
    // Without a header nobody gets in.
    let mut bare = TcpStream::connect(proxied).unwrap();
    bare.write_all(CONNECT).unwrap();
    bare.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(matches!(bare.read(&mut [0; 8]), Ok(0) | Err(_)));
    broker.until("it is counted", || {
        let metrics = broker.ask("GET /metrics");
        metrics
            .lines()
            .any(|line| line.starts_with("mqtt_broker_listener_handshakes_failed_total") && line.ends_with(" 1"))
    });
}

fn connect_through(address: SocketAddr, header: &[u8], client_id: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let mut connect = b"\x10\x0f\x00\x04MQTT\x04\x02\x00\x3c\x00\x03".to_vec();
    connect.extend(client_id.as_bytes());
    stream.write_all(&[header, &connect].concat()).unwrap();
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).unwrap();
    assert_eq!(connack, *b"\x20\x02\x00\x00");
    stream
}
