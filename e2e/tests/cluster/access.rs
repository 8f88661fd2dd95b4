//! Clients that come in by TLS and WebSocket, as users; and Secrets and settings that change under them.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use mqtt_e2e::cluster::Cluster;
use mqtt_e2e::command::Program;
use mqtt_e2e::mqtt::{Connection, Packet, User};
use mqtt_e2e::resource::Resource;
use mqtt_e2e::service::Endpoint;
use mqtt_e2e::wait::{self, seen};
use mqtt_e2e::web_socket;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, Join};
use tokio::process::{Child, ChildStdin, ChildStdout};

use super::TRAFFIC_DEADLINE;
use super::side::{self, SIDE, small};

const ANN: User<'static> = ("ann", "right");
/// A node brings a changed Secret or ConfigMap to its pods when it looks after them the next time, and brokers look every
/// two seconds.
const RENEWAL_DEADLINE: Duration = Duration::from_secs(120);
const MESSAGE_DEADLINE: Duration = Duration::from_secs(20);
/// OpenSSL's client lives as long as its connection.
const CONNECTION_LIFE: Duration = Duration::from_secs(600);

/// One broker with every listener there is, and what its clients need to know.
struct Doors<'a> {
    cluster: &'a Cluster,
    broker: Resource<'a>,
    folder: tempfile::TempDir,
    service: Endpoint,
}

/// A connection through OpenSSL's client, which ends with it.
struct Tls {
    mqtt: Connection<Join<ChildStdout, ChildStdin>>,
    _client: Child,
}

pub async fn clients_come_in_by_every_door(cluster: &Cluster) -> Result<()> {
    let doors = Doors::open(cluster).await?;
    let mut subscriber = doors.tls("listener").await?;
    subscriber.mqtt.subscribe("home/#").await?;

    doors.publish(ANN, &["-m", "by TCP"]).await?;
    ensure!(next_message(&mut subscriber.mqtt).await? == "by TCP");
    let (ca, tls) = (doors.certificate(), doors.port("mqtts"));
    doors.publish(ANN, &["-m", "by TLS", "-p", &tls, "--cafile", &ca]).await?;
    ensure!(next_message(&mut subscriber.mqtt).await? == "by TLS");
    let (reader, writer) = doors.at("ws")?.connect().await?.into_split();
    publish(web_socket::open(reader, writer).await?, "by WebSocket").await?;
    ensure!(next_message(&mut subscriber.mqtt).await? == "by WebSocket");
    let (reader, writer, _client) = doors.openssl("wss")?;
    publish(web_socket::open(reader, writer).await?, "by WebSocket and TLS").await?;
    ensure!(next_message(&mut subscriber.mqtt).await? == "by WebSocket and TLS");

    ensure!(doors.publish(("ann", "wrong"), &["-m", "no"]).await.is_err(), "a wrong password lets in");
    let nobody = doors.program("mosquitto_pub").args(["-m", "no"]).output().await;
    ensure!(nobody.is_err(), "somebody without a name is let in");
    doors.change(subscriber).await
}

impl<'a> Doors<'a> {
    /// Makes the resource first and then its Secrets: their certificate names the Service's address.
    async fn open(cluster: &'a Cluster) -> Result<Self> {
        side::make(cluster).await?;
        let broker = Resource::named(cluster, SIDE, "doors");
        let secret = json!({ "secretName": "doors-users" });
        broker
            .apply(&small(json!({
                "listeners": { "mqtts": {}, "ws": {}, "wss": {} }, "tls": { "secretName": "doors-tls" },
                "auth": { "passwords": secret, "acls": secret },
            })))
            .await?;
        let service = wait::until("the Service has an address", TRAFFIC_DEADLINE, async || {
            Ok(wait::Seen::Yes(cluster.endpoint(SIDE, "doors").await?))
        })
        .await?;
        let doors = Self { cluster, broker, folder: tempfile::tempdir()?, service };
        doors.new_certificate().await?;
        doors.new_user(ANN, &["-c"]).await?;
        doors.put_users().await?;
        doors.broker.available(1, RENEWAL_DEADLINE).await?;
        Ok(doors)
    }

    /// While a connection is open: another certificate, another user, another limit; then what makes no sense.
    async fn change(&self, mut open: Tls) -> Result<()> {
        let before = self.broker.pod_identities().await?;
        let large = "x".repeat(4096);
        ensure!(self.takes(&large).await, "{} bytes are no large packet yet", large.len());
        ensure!(next_message(&mut open.mqtt).await? == large);

        self.new_certificate().await?;
        self.new_user(("bob", "secret"), &[]).await?;
        self.put_users().await?;
        self.broker.patch(&json!({ "limits": { "packet_bytes_max": 2048 } })).await?;
        let new = std::fs::read_to_string(self.certificate())?;
        wait::until("new connections see the new certificate", RENEWAL_DEADLINE, async || {
            let address = self.at("mqtts")?.address.to_string();
            let hello = ["s_client", "-connect", &address];
            let shown = self.cluster.program("openssl").args(hello).input(String::new()).output().await?;
            Ok(seen(shown.contains(new.trim()), || "the old one".to_owned()))
        })
        .await?;
        wait::until("the new user gets in", RENEWAL_DEADLINE, async || {
            self.publish(("bob", "secret"), &["-m", "by bob"]).await?;
            Ok(seen(true, String::new))
        })
        .await?;
        self.broker.says("ConfigApplied", "True", "AllCurrent", RENEWAL_DEADLINE).await?;
        wait::until("the new limit is in force", RENEWAL_DEADLINE, async || {
            Ok(seen(!self.takes(&large).await, || "a larger packet was taken".to_owned()))
        })
        .await?;
        self.publish(ANN, &["-m", "still here"]).await?;
        // The same connection, which has seen none of it. What bob sent, and what was large, may come before.
        while next_message(&mut open.mqtt).await? != "still here" {}

        self.broker.patch(&json!({ "config": { "no_such_key": 1 } })).await?;
        let words = self.broker.says("Degraded", "True", "Invalid", TRAFFIC_DEADLINE).await?;
        ensure!(words.contains("no_such_key"), "the broker's own words are missing: {words}");
        self.broker.patch(&json!({ "config": null })).await?;
        self.broker.says("ConfigApplied", "True", "AllCurrent", TRAFFIC_DEADLINE).await?;

        std::fs::write(self.file("passwords"), "no colon\n")?;
        self.put_users().await?;
        let words = self.broker.says("Degraded", "True", "ReloadFailed", RENEWAL_DEADLINE).await?;
        ensure!(words.contains("doors-0") && words.contains("line 1"), "{words}");
        self.publish(ANN, &["-m", "the old users stay"]).await?;

        ensure!(self.broker.pod_identities().await? == before, "a pod was made again for what can be reloaded");
        let restarts = self.broker.owned("pod").await?[0]["status"]["containerStatuses"][0]["restartCount"].clone();
        ensure!(restarts == 0, "the broker was restarted {restarts} times");
        Ok(())
    }

    async fn new_certificate(&self) -> Result<()> {
        let name = format!("subjectAltName=IP:{}", self.service.address.ip());
        let make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=broker";
        Program::new("openssl")
            .args(make.split(' '))
            .args(["-addext", &name, "-keyout", &self.file("tls.key"), "-out", &self.certificate()])
            .output()
            .await?;
        let files = [format!("--cert={}", self.certificate()), format!("--key={}", self.file("tls.key"))];
        self.put_secret("tls", "doors-tls", &files).await
    }

    async fn new_user(&self, (name, password): User<'_>, further: &[&str]) -> Result<()> {
        let file = self.file("passwords");
        let tool = Program::new("mosquitto_passwd").args(["-b"]).args(further);
        tool.args([&file, name, password]).output().await.map(drop)
    }

    /// Passwords and ACLs in one Secret.
    async fn put_users(&self) -> Result<()> {
        std::fs::write(self.file("acls"), "user ann\ntopic home/#\nuser bob\ntopic home/#\n")?;
        let files = ["passwords", "acls"].map(|key| format!("--from-file={key}={}", self.file(key)));
        self.put_secret("generic", "doors-users", &files).await
    }

    async fn put_secret(&self, kind: &str, name: &str, content: &[String]) -> Result<()> {
        let create = self.cluster.kubectl(["create", "secret", kind, name, "-n", SIDE]).args(content);
        let secret = create.args(["--dry-run=client", "-o", "json"]).output().await?;
        self.cluster.kubectl(["apply", "-f", "-"]).input(secret).output().await.map(drop)
    }

    /// Whether a message is acknowledged. What is too large for the broker is not even sent, which is no failure of the program.
    async fn takes(&self, message: &str) -> bool {
        let said = self.publish(ANN, &["-V", "mqttv5", "-d", "-m", message]).await;
        said.is_ok_and(|said| said.contains("received PUBACK"))
    }

    /// `mosquitto_pub` as a user, with arguments after its usual ones; what it said.
    async fn publish(&self, (name, password): User<'_>, arguments: &[&str]) -> Result<String> {
        self.program("mosquitto_pub").args(["-u", name, "-P", password]).args(arguments).output().await
    }

    fn program(&self, name: &str) -> Program {
        let (host, port) = (self.service.address.ip().to_string(), self.port("mqtt"));
        self.cluster.program(name).args(["-h", &host, "-p", &port, "-q", "1", "-t", "home/door"])
    }

    /// A connection by TLS, its certificate proven.
    async fn tls(&self, id: &str) -> Result<Tls> {
        let (output, input, client) = self.openssl("mqtts")?;
        let opening = Connection::open_as(Some(ANN), tokio::io::join(output, input), id, true);
        let (mqtt, _) =
            tokio::time::timeout(MESSAGE_DEADLINE, opening).await.context("the broker does not answer")??;
        Ok(Tls { mqtt, _client: client })
    }

    fn openssl(&self, door: &str) -> Result<(ChildStdout, ChildStdin, Child)> {
        let endpoint = self.at(door)?;
        let (address, ip) = (endpoint.address.to_string(), endpoint.address.ip().to_string());
        let prove = ["-CAfile", &self.certificate(), "-verify_return_error", "-verify_ip", &ip];
        let connect = ["s_client", "-quiet", "-connect", &address];
        let mut client = self.cluster.program("openssl").args(connect).args(prove).deadline(CONNECTION_LIFE).spawn()?;
        let output = client.stdout.take().context("openssl has no output")?;
        let input = client.stdin.take().context("openssl has no input")?;
        Ok((output, input, client))
    }

    fn at(&self, door: &str) -> Result<Endpoint> {
        let mut endpoint = self.service.clone();
        endpoint.address.set_port(self.port(door).parse()?);
        Ok(endpoint)
    }

    /// The default ports of the Service.
    fn port(&self, door: &str) -> String {
        match door {
            "mqtts" => "8883",
            "ws" => "8083",
            "wss" => "8084",
            _ => "1883",
        }
        .to_owned()
    }

    fn certificate(&self) -> String {
        self.file("tls.crt")
    }

    fn file(&self, name: &str) -> String {
        Path::new(self.folder.path()).join(name).display().to_string()
    }
}

async fn publish<S: AsyncRead + AsyncWrite + Unpin>(stream: S, payload: &str) -> Result<()> {
    let exchange = async {
        let (mut connection, _) = Connection::open_as(Some(ANN), stream, payload, true).await?;
        connection.publish(1, false, "home/door", payload.as_bytes()).await?;
        match connection.receive().await? {
            Packet::Acknowledged(1) => connection.close().await,
            other => bail!("the broker answered PUBLISH with {other:?}"),
        }
    };
    tokio::time::timeout(MESSAGE_DEADLINE, exchange).await.with_context(|| format!("publishing {payload}"))?
}

async fn next_message<S: AsyncRead + AsyncWrite + Unpin>(connection: &mut Connection<S>) -> Result<Bytes> {
    let next = async {
        loop {
            if let Packet::Message { id, payload } = connection.receive().await? {
                if let Some(id) = id {
                    connection.acknowledge(id).await?;
                }
                return Ok(payload);
            }
        }
    };
    tokio::time::timeout(MESSAGE_DEADLINE, next).await.context("no message came")?
}
