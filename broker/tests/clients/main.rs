//! Clients that others wrote: each does the same round with a broker process over every transport that it has, and so
//! does a person with Debian's tools.
//!
//! A round: subscribe in a session that is kept, publish, receive in order; disconnect, publish, resume and receive what
//! was queued; a client with a will dies, and the will arrives.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../process/authority.rs"]
mod authority;
#[path = "../process/broker.rs"]
mod broker;
mod rumqttc_round;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use authority::Authority;
use broker::{Broker, PATIENCE, free_address};

/// The levels of service that rounds are done with.
const QOS: [&str; 3] = ["0", "1", "2"];

/// A broker that keeps its data, and where it listens.
struct Doors {
    _broker: Broker,
    plain: SocketAddr,
    secure: SocketAddr,
    /// `mqtt`, `mqtts`, `ws`, `wss`.
    urls: [String; 4],
    ca_file: PathBuf,
}

impl Doors {
    /// Starts the broker, and does not wait for it: it accepts, and lets in who knocks as soon as it can.
    fn open() -> Result<Doors> {
        let folder = tempfile::tempdir()?;
        let authority = Authority::new(folder.path(), "ca");
        authority.sign("server", &["localhost", "127.0.0.1"]);
        let [plain, secure, web, secure_web] = std::array::from_fn(|_| free_address());
        let tls = "tls: { certificates: [{ cert_file: FOLDER/server.crt, key_file: FOLDER/server.key }] }";
        let config = format!(
            "
data_dir: FOLDER/data
listeners:
  - url: mqtt://{plain}
  - url: mqtts://{secure}
    {tls}
  - url: ws://{web}
  - url: wss://{secure_web}
    {tls}
"
        );
        let ca_file = folder.path().join("ca.crt");
        let broker = Broker::spawn(folder, &config);
        for address in [plain, secure, web, secure_web] {
            broker.until("it accepts", || TcpStream::connect(address).is_ok());
        }
        let url = |scheme: &str, address: SocketAddr| format!("{scheme}://localhost:{}", address.port());
        let urls = [url("mqtt", plain), url("mqtts", secure), url("ws", web), url("wss", secure_web)];
        Ok(Doors { _broker: broker, plain, secure, urls, ca_file })
    }
}

/// Runs `program` to its end; its output is the error if it fails.
fn run(mut program: Command) -> Result<()> {
    let output = program.output().with_context(|| format!("{program:?}"))?;
    let said = || [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
    ensure!(output.status.success(), "{program:?}: {}\n{}", output.status, said());
    Ok(())
}

/// This folder.
fn here() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// Where the clients from PyPI and npm are, installed if they were not.
fn installed() -> Result<PathBuf> {
    let cache = std::env::var("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|_| std::env::var("HOME").map(|home| PathBuf::from(home).join(".cache")))?;
    let folder = cache.join("mqtt-broker/clients");
    let mut install = Command::new(here().join("install"));
    install.arg(&folder);
    run(install)?;
    Ok(folder)
}

/// One round of each QoS with each version, over each of these listeners.
fn rounds(doors: &Doors, urls: &[String], client: impl Fn() -> Result<Command>) -> Result<()> {
    for url in urls {
        for version in ["3.1", "3.1.1", "5"] {
            for qos in QOS {
                let mut command = client()?;
                command.args([url.as_str(), version, qos]).arg(&doors.ca_file);
                run(command)?;
            }
        }
    }
    Ok(())
}

#[test]
fn paho_does_a_round() -> Result<()> {
    let (folder, doors) = (installed()?, Doors::open()?);
    rounds(&doors, &doors.urls, || {
        let mut python = Command::new(folder.join("python/bin/python"));
        python.arg(here().join("paho_round.py"));
        Ok(python)
    })
}

#[test]
fn mqtt_js_does_a_round() -> Result<()> {
    let (folder, doors) = (installed()?, Doors::open()?);
    rounds(&doors, &doors.urls, || {
        let mut node = Command::new("node");
        node.env("NODE_PATH", folder.join("node/node_modules")).arg(here().join("mqtt_js_round.js"));
        Ok(node)
    })
}

#[test]
fn rumqttc_does_a_round() -> Result<()> {
    let doors = Doors::open()?;
    for qos in 0..=2 {
        rumqttc_round::of_v4(doors.plain, qos).with_context(|| format!("3.1.1, QoS {qos}"))?;
        rumqttc_round::of_v5(doors.plain, qos).with_context(|| format!("5.0, QoS {qos}"))?;
    }
    Ok(())
}

/// Debian's tools: what `mosquitto_pub` sends while `mosquitto_sub` is away waits for it in its session.
#[test]
fn mosquitto_pub_and_sub_exchange_messages() -> Result<()> {
    let doors = Doors::open()?;
    let ca_file = doors.ca_file.to_str().context("a path that is no text")?;
    for (way, address, tls) in [("tcp", doors.plain, vec![]), ("tls", doors.secure, vec!["--cafile", ca_file])] {
        let port = address.port().to_string();
        for version in ["mqttv31", "mqttv311", "mqttv5"] {
            for qos in QOS.iter().filter(|qos| **qos != "0") {
                let (topic, id) = (format!("{way}/{version}/{qos}"), format!("{way}-{version}-{qos}"));
                let common = ["-h", "localhost", "-p", &port, "-V", version, "-q", qos, "-t", &topic];
                let subscribe = |more: &[&str]| {
                    let mut command = Command::new("mosquitto_sub");
                    command.args(common).args(&tls).args(["-i", &id, "-c", "-W", "20"]);
                    if version == "mqttv5" {
                        command.args(["-x", "300"]);
                    }
                    command.args(more);
                    command
                };
                // -E: subscribes, and ends.
                run(subscribe(&["-E"]))?;
                for number in 0..3 {
                    let mut publish = Command::new("mosquitto_pub");
                    publish.args(common).args(&tls).args(["-m", &format!("message {number}")]);
                    run(publish)?;
                }
                let mut receive = subscribe(&["-C", "3"]);
                let output = receive.output()?;
                let received = String::from_utf8_lossy(&output.stdout);
                assert_eq!(received, "message 0\nmessage 1\nmessage 2\n", "{receive:?}: {output:?}");
            }
        }
    }
    Ok(())
}

/// A client that knocks in the moment in which the broker starts is served, not refused.
#[test]
fn a_connect_during_the_start_waits_for_its_end() -> Result<()> {
    for _ in 0..5 {
        let address = free_address();
        let config = format!("data_dir: FOLDER/data\nlisteners: [{{ url: \"mqtt://{address}\" }}]");
        let broker = Broker::spawn(tempfile::tempdir()?, &config);
        let mut stream = None;
        broker.until("it accepts", || {
            stream = TcpStream::connect(address).ok();
            stream.is_some()
        });
        let mut stream = stream.context("no stream")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x3c\x00\x01a")?;
        let mut connack = [0; 4];
        stream.read_exact(&mut connack)?;
        assert_eq!(connack, [0x20, 2, 0, 0]);
    }
    Ok(())
}
