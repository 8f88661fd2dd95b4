//! How long a client of a node that was killed waits until another node goes on with its session (K2).
//!
//! The promise is about the brokers, not about a machine that has no time for them: the time for which the surviving ones
//! were ready to run and waited for a processor, as the kernel counts it, is allowed on top. On a machine that is not
//! starved it is next to nothing.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mqtt_broker::protocol::Version;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::client::{ANSWER_TIMEOUT, Dial, Identity, Receiver, Sender, connect};
use crate::cluster::Node;

/// What K2 allows.
pub const RESUMED_MAX: Duration = Duration::from_secs(2);
/// Clients connected to the node that is killed; their sessions belong to different shards.
const PROBES: u32 = 8;
/// A client that is refused comes again after this long.
const RETRY: Duration = Duration::from_millis(20);

/// Persistent sessions whose clients are connected to one node.
pub struct Probes {
    connected: Vec<(Identity, Sender, Receiver)>,
}

/// Clients on their way to another node.
pub struct Resuming {
    clients: Vec<JoinHandle<Result<Duration>>>,
    killed: Instant,
    survivors: Vec<u32>,
    starved_before: Duration,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Resumed {
    /// The last session was there so long after the kill.
    pub longest: Duration,
    /// For so long surviving brokers waited for a processor meanwhile.
    pub starved: Duration,
}

impl Probes {
    /// Connects clients to the node that will be killed.
    pub async fn connect(node: &Dial) -> Result<Probes> {
        let mut connected = Vec::new();
        for number in 0..PROBES {
            let client_id = format!("probe-{number}");
            let identity = Identity { client_id, version: Version::V5, persistent: true };
            let deadline = Instant::now() + ANSWER_TIMEOUT;
            let (sender, receiver, _) = loop {
                match connect(node, &identity).await {
                    Err(error) if Instant::now() >= deadline => return Err(error),
                    // The node has just lost its lease, and gets it back.
                    Err(_) => sleep(RETRY).await,
                    Ok(connection) => break connection,
                }
            };
            connected.push((identity, sender, receiver));
        }
        Ok(Probes { connected })
    }

    /// The node was killed just now: its clients go to the others.
    pub fn resume(self, survivors: &[&Node]) -> Resuming {
        let processes: Vec<u32> = survivors.iter().filter_map(|node| node.process_id()).collect();
        let (killed, starved_before) = (Instant::now(), starved(&processes));
        let survivors: Vec<Dial> = survivors.iter().map(|node| node.dial()).collect();
        let clients = self.connected.into_iter().enumerate().map(|(number, (identity, ..))| {
            let survivors = survivors.clone();
            tokio::task::spawn_local(async move {
                let mut attempts = number..;
                loop {
                    let node = &survivors[attempts.next().unwrap_or(0) % survivors.len()];
                    if let Ok((sender, _, present)) = connect(node, &identity).await {
                        let resumed = killed.elapsed();
                        ensure!(present, "the session of {} is gone", identity.client_id);
                        sender.disconnect().await?;
                        return Ok(resumed);
                    }
                    sleep(RETRY).await;
                }
            })
        });
        Resuming { clients: clients.collect(), killed, survivors: processes, starved_before }
    }
}

impl Resuming {
    /// Waits until all sessions go on.
    pub async fn finish(self) -> Result<Resumed> {
        let mut longest = Duration::ZERO;
        for client in self.clients {
            longest = longest.max(client.await??);
        }
        let waited = self.killed.elapsed().max(Duration::from_millis(1));
        // What was counted is of the whole time until now.
        let starved = starved(&self.survivors)
            .saturating_sub(self.starved_before)
            .mul_f64(longest.as_secs_f64() / waited.as_secs_f64());
        Ok(Resumed { longest, starved })
    }
}

impl Resumed {
    /// Whether K2 was kept.
    pub fn is_in_time(&self) -> bool {
        self.longest <= RESUMED_MAX + self.starved
    }
}

/// For how long threads of these processes were ready to run and waited for a processor, all together; nothing where the
/// kernel does not count.
pub fn starved(processes: &[u32]) -> Duration {
    let threads = processes.iter().filter_map(|process| std::fs::read_dir(format!("/proc/{process}/task")).ok());
    let waited = threads.flatten().flatten().filter_map(|thread| {
        let counted = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        counted.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    Duration::from_nanos(waited.sum())
}
