//! `mosquitto_sub` and `mosquitto_pub`, as a person runs them, watched through their debug output: what was acknowledged to the one
//! and what the other received.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin};
use tokio::task::JoinHandle;

use crate::cluster::Cluster;
use crate::command::Program;
use crate::wait;

/// A day: these programs end when they are told to.
const LIFE: Duration = Duration::from_secs(86_400);
/// Time between two messages of a publisher.
const PACE: Duration = Duration::from_millis(20);

/// Reason codes from here on are refusals.
const REFUSALS: u8 = 0x80;

/// What a client said, line by line.
#[derive(Default)]
struct Diary {
    subscribed: bool,
    connected: bool,
    received: BTreeSet<u64>,
    acknowledged: BTreeSet<u64>,
    /// Reason codes of PUBACKs, in order.
    verdicts: Vec<u8>,
    /// In its own words, why its connection is over.
    lost: Option<String>,
    sent: u64,
    last_line: String,
}

/// One of the two programs, running.
pub struct Client {
    child: Child,
    diary: Arc<Mutex<Diary>>,
    readers: Vec<JoinHandle<()>>,
    writer: Option<JoinHandle<()>>,
}

impl Client {
    /// `mosquitto_sub` with a persistent session, once it is subscribed: MQTT 5.0, kept for an hour, where its broker is killed.
    /// Elsewhere `kubectl delete --force` lets the broker say goodbye, and a DISCONNECT of 5.0 is where `mosquitto_sub` ends: so
    /// it speaks 3.1.1, and comes back.
    pub async fn subscriber(cluster: &Cluster, service: SocketAddr, id: &str, topic: &str) -> Result<Self> {
        let program = mosquitto(cluster, "mosquitto_sub", service, id, topic).args(["-c"]);
        let client = Self::start(match cluster.is_local() {
            true => program.args(["-V", "mqttv5", "-x", "3600"]),
            false => program.args(["-V", "mqttv311"]),
        })?;
        client.wait("mosquitto_sub subscribed", |diary| diary.subscribed).await?;
        Ok(client)
    }

    /// `mosquitto_pub -l` (MQTT 3.1.1), once it is connected; it sends nothing yet.
    pub async fn publisher(cluster: &Cluster, service: SocketAddr, id: &str, topic: &str) -> Result<Self> {
        let client =
            Self::start(mosquitto(cluster, "mosquitto_pub", service, id, topic).args(["-V", "mqttv311", "-l"]))?;
        client.wait("mosquitto_pub connected", |diary| diary.connected).await?;
        Ok(client)
    }

    /// `mosquitto_pub -l -r` (MQTT 5.0), once it is connected: for [`Client::say`].
    pub async fn speaker(cluster: &Cluster, service: SocketAddr, id: &str, topic: &str) -> Result<Self> {
        let program = mosquitto(cluster, "mosquitto_pub", service, id, topic);
        let client = Self::start(program.args(["-V", "mqttv5", "-r", "-l"]))?;
        client.wait("mosquitto_pub connected", |diary| diary.connected).await?;
        Ok(client)
    }

    /// Publishes one message, and gives the reason code of its PUBACK; an error when the connection is lost before it comes.
    pub async fn say(&mut self, message: &str, deadline: Duration) -> Result<u8> {
        let before = self.read(|diary| diary.verdicts.len());
        let input = self.child.stdin.as_mut().context("the publisher is publishing already")?;
        input.write_all(format!("{message}\n").as_bytes()).await.context("mosquitto_pub takes no more lines")?;
        wait::until("mosquitto_pub received PUBACK", deadline, async || {
            Ok(self.read(|diary| match (diary.verdicts.get(before), &diary.lost) {
                (Some(code), _) => wait::Seen::Yes(Ok(*code)),
                (None, Some(lost)) => wait::Seen::Yes(Err(anyhow!("mosquitto_pub lost its connection: {lost}"))),
                (None, None) => wait::Seen::NotYet(format!("its last line is '{}'", diary.last_line)),
            }))
        })
        .await?
    }

    /// Lets a publisher publish, a line at a time, until [`Client::finish`].
    pub fn publish(&mut self) -> Result<()> {
        let input = self.child.stdin.take().context("the publisher is publishing already")?;
        self.writer = Some(tokio::spawn(write_lines(input, self.diary.clone())));
        Ok(())
    }

    /// The local port of its connection, from the sockets of the cluster's network.
    pub async fn local_port(&self, cluster: &Cluster) -> Result<u16> {
        let process = self.child.id().context("the client has ended")?;
        let sockets = cluster.program("ss").args(["-tnpH", "state", "established"]).output().await?;
        let owner = format!("pid={process},");
        let line = sockets.lines().find(|line| line.contains(&owner)).context("the client has no connection")?;
        let local = line.split_whitespace().nth(2).and_then(|address| address.rsplit(':').next());
        local.and_then(|port| port.parse().ok()).with_context(|| format!("reading the port in '{line}'"))
    }

    /// Different messages acknowledged to a publisher.
    pub fn acknowledged(&self) -> usize {
        self.read(|diary| diary.acknowledged.len())
    }

    /// Different messages received by a subscriber.
    pub fn received(&self) -> usize {
        self.read(|diary| diary.received.len())
    }

    /// Waits until a subscriber has received so many.
    pub async fn has_received(&self, count: usize, deadline: Duration) -> Result<()> {
        wait::until(&format!("{count} messages received by mosquitto_sub"), deadline, async || {
            let now = self.received();
            Ok(wait::seen(now >= count, || {
                format!("{now}, and its last line is '{}'", self.read(|diary| diary.last_line.clone()))
            }))
        })
        .await
    }

    /// Ends a publisher's input and waits until all of it is acknowledged and the program has ended; the number acknowledged.
    pub async fn finish(mut self, deadline: Duration) -> Result<usize> {
        if let Some(writer) = self.writer.take() {
            writer.abort();
            // The pipe closes with the task that owns it.
            drop(writer.await);
        }
        drop(self.child.stdin.take());
        let Ok(status) = tokio::time::timeout(deadline, self.child.wait()).await else {
            let (sent, acknowledged) = self.read(|diary| (diary.sent, diary.acknowledged.len()));
            bail!("mosquitto_pub waits after {} s: {acknowledged} of {sent} messages acknowledged", deadline.as_secs());
        };
        for reader in self.readers.drain(..) {
            drop(reader.await);
        }
        let status = status.context("waiting for mosquitto_pub")?;
        if !status.success() {
            bail!("mosquitto_pub ended with {status}: {}", self.read(|diary| diary.last_line.clone()));
        }
        Ok(self.acknowledged())
    }

    fn start(program: Program) -> Result<Self> {
        let mut child = program.spawn()?;
        let diary = Arc::new(Mutex::new(Diary::default()));
        let mut readers = Vec::new();
        if let Some(output) = child.stdout.take() {
            readers.push(tokio::spawn(read_lines(output, diary.clone())));
        }
        if let Some(errors) = child.stderr.take() {
            readers.push(tokio::spawn(read_lines(errors, diary.clone())));
        }
        Ok(Self { child, diary, readers, writer: None })
    }

    async fn wait(&self, what: &str, holds: impl Fn(&Diary) -> bool) -> Result<()> {
        wait::until(what, Duration::from_secs(15), async || {
            Ok(self.read(|diary| wait::seen(holds(diary), || format!("its last line is '{}'", diary.last_line))))
        })
        .await
    }

    fn read<T>(&self, look: impl FnOnce(&Diary) -> T) -> T {
        look(&self.diary.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The common arguments: debug output, line by line, QoS 1.
fn mosquitto(cluster: &Cluster, name: &str, service: SocketAddr, id: &str, topic: &str) -> Program {
    let (host, port) = (service.ip().to_string(), service.port().to_string());
    let words = ["-oL", name, "-d", "-h", &host, "-p", &port, "-k", "5", "-i", id, "-q", "1", "-t", topic];
    cluster.program("stdbuf").args(words).deadline(LIFE)
}

async fn read_lines(output: impl AsyncRead + Unpin, diary: Arc<Mutex<Diary>>) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        diary.lock().unwrap_or_else(PoisonError::into_inner).note(line);
    }
}

async fn write_lines(mut input: ChildStdin, diary: Arc<Mutex<Diary>>) {
    for number in 0_u64.. {
        if input.write_all(format!("message {number}\n").as_bytes()).await.is_err() {
            return;
        }
        diary.lock().unwrap_or_else(PoisonError::into_inner).sent = number + 1;
        tokio::time::sleep(PACE).await;
    }
}

impl Diary {
    fn note(&mut self, line: String) {
        if let Some(number) = line.strip_prefix("message ").and_then(|number| number.parse().ok()) {
            self.received.insert(number);
            return;
        }
        let number = |after: &str| {
            let rest = line.split(after).nth(1)?;
            rest.split([',', ')']).next()?.parse::<u64>().ok()
        };
        if line.contains("received PUBACK") {
            let verdict = number("RC:").and_then(|code| u8::try_from(code).ok()).unwrap_or(0);
            self.verdicts.push(verdict);
            if verdict < REFUSALS {
                self.acknowledged.extend(number("Mid: "));
            }
        }
        self.connected |= line.contains("received CONNACK (0)");
        if ["Received DISCONNECT", "Connection error", "Error:"].iter().any(|end| line.starts_with(end)) {
            self.lost.get_or_insert_with(|| line.clone());
        }
        self.subscribed |= line.starts_with("Subscribed ");
        self.last_line = line;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_debug_output_is_understood() {
        let mut diary = Diary::default();
        for line in [
            "Client a received CONNACK (0)",
            "Subscribed (mid: 1): 1",
            "Client a received PUBLISH (d0, q1, r0, m7, 't', ... (9 bytes))",
            "message 12",
            "message 12",
            "Client b received PUBACK (Mid: 3, RC:0)",
            "Client b received PUBACK (Mid: 4, RC:16)",
            "Client b received PUBACK (Mid: 5, RC:151)",
            "Warning: Publish 5 failed: Quota exceeded.",
            "Received DISCONNECT (156)",
            "Error: The client is not currently connected.",
        ] {
            diary.note(line.to_owned());
        }
        assert!(diary.connected && diary.subscribed);
        assert_eq!((diary.received.len(), diary.acknowledged.len()), (1, 2));
        assert_eq!(diary.verdicts, [0, 16, 151]);
        assert_eq!(diary.lost.as_deref(), Some("Received DISCONNECT (156)"));
    }
}
