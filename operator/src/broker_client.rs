//! Talks to the brokers' admin API over plain HTTP inside the cluster network, with a bearer token.
//!
//! Any broker can answer for all, so questions go to several at once and the first useful answer wins; one that is
//! frozen or cut off then costs nothing. Deliberately absent: retries, which are the reconcile's own.

use std::{fmt, io, net::IpAddr, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, body::Bytes, header};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

/// How long one request to one broker may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest answer that is read.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// The cluster as a broker sees it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub struct Cluster {
    /// Whether the cluster was founded.
    pub initialised: bool,
    /// Version of the broker that answered.
    #[serde(default)]
    pub version: String,
    /// Whether every shard has its full set of in-sync replicas, and more than one.
    pub failover_ready: bool,
    /// Why not.
    #[serde(default)]
    pub failover_reason: String,
    /// Copies of each shard now.
    #[serde(default)]
    pub replication_factor: Option<u32>,
    /// The members, leaving and unreachable ones included.
    pub members: Vec<Member>,
    /// The shards, counted.
    pub shards: Shards,
    /// Connections of all members.
    #[serde(default)]
    pub connections: i64,
    /// Persistent sessions.
    #[serde(default)]
    pub sessions: i64,
}

/// One member of the cluster.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub struct Member {
    /// Name of the node, which is the name of its pod.
    pub name: String,
    /// Where it stands.
    pub state: MemberState,
    /// Replicas of shards on it.
    #[serde(default)]
    pub replicas: u32,
    /// Shards it leads.
    #[serde(default)]
    pub shards_led: u32,
    /// Version it runs.
    #[serde(default)]
    pub version: String,
}

/// Where a member stands.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// Not yet holding anything.
    Joining,
    /// In service.
    #[default]
    Active,
    /// Its replicas are being moved away.
    Leaving,
    /// Not heard of.
    Unreachable,
    /// A state that this operator does not know.
    #[serde(other)]
    Unknown,
}

/// The shards, counted.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub struct Shards {
    /// All of them.
    pub total: u32,
    /// Those that lack an in-sync replica.
    pub under_replicated: u32,
    /// Those without a leader.
    #[serde(default)]
    pub without_leader: u32,
}

/// What a broker read of its files last.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Reload {
    /// Of its configuration file's text.
    pub config_sha256: Option<String>,
    /// What it could not take; what was before stays in force.
    pub failed: Vec<String>,
}

/// What a broker says of itself alone.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Node {
    /// Whether it can store.
    pub storage: Storage,
}

/// Whether a broker's volume takes what is to be stored.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Storage {
    /// In one word.
    pub state: StorageState,
    /// Why it has failed.
    #[serde(default)]
    pub reason: String,
}

/// Whether a broker's volume takes what is to be stored, in one word.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum StorageState {
    /// It does.
    #[default]
    Healthy,
    /// It has no space; the broker tries again by itself.
    Full,
    /// It failed, and the broker needs a restart to try again.
    Failed,
    /// A state that this operator does not know.
    #[serde(other)]
    Unknown,
}

/// Why a broker gave no useful answer.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// There is nobody to ask.
    #[error("no broker is running")]
    NobodyToAsk,
    /// No answer in time.
    #[error("broker at {0} did not answer within {REQUEST_TIMEOUT:?}")]
    Timeout(SocketAddr),
    /// The connection failed.
    #[error("broker at {0} can't be reached: {1}")]
    Connect(SocketAddr, io::Error),
    /// HTTP failed.
    #[error("request to broker at {0} failed: {1}")]
    Http(SocketAddr, Box<dyn std::error::Error + Send + Sync>),
    /// The broker refused.
    #[error("broker at {0} answered {1}: {2}")]
    Refused(SocketAddr, StatusCode, String),
    /// The answer is not the one of the contract.
    #[error("broker at {0} answered what can't be read: {1}")]
    Unreadable(SocketAddr, serde_json::Error),
}

/// A connection to a broker.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// How a connection to an address is made.
pub type Dial = Arc<dyn Fn(SocketAddr) -> BoxFuture<'static, io::Result<Box<dyn Wire>>> + Send + Sync>;

/// A client of the admin API.
#[derive(Clone)]
pub struct BrokerClient {
    port: u16,
    dial: Dial,
}

impl fmt::Debug for BrokerClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokerClient").field("port", &self.port).finish_non_exhaustive()
    }
}

impl BrokerClient {
    /// A client for brokers that serve the admin API on this port.
    pub fn new(port: u16) -> Self {
        Self::dialling(port, Arc::new(|address| Box::pin(connect(address))))
    }

    /// The same by connections that are made in another way than by TCP.
    pub fn dialling(port: u16, dial: Dial) -> Self {
        Self { port, dial }
    }

    /// Asks all of them how the cluster is; the first that belongs to a founded one decides, else the first answer.
    pub async fn cluster(&self, brokers: &[IpAddr], token: &str) -> Result<Cluster, BrokerError> {
        let mut answers: FuturesUnordered<_> =
            brokers.iter().map(|broker| self.read::<Cluster>(*broker, token, "/api/v1/cluster")).collect();
        let mut unfounded = None;
        let mut failure = BrokerError::NobodyToAsk;
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(cluster) if cluster.initialised => return Ok(cluster),
                Ok(cluster) => unfounded = Some(cluster),
                Err(error) => failure = error,
            }
        }
        unfounded.ok_or(failure)
    }

    /// Has a member leave the cluster; asking again changes nothing, nor does a member that is gone.
    pub async fn leave(&self, brokers: &[IpAddr], token: &str, member: &str) -> Result<(), BrokerError> {
        self.first_to_accept(brokers, token, Method::POST, &format!("/api/v1/cluster/members/{member}/leave")).await
    }

    /// Takes a leave back that is not completed.
    pub async fn cancel_leave(&self, brokers: &[IpAddr], token: &str, member: &str) -> Result<(), BrokerError> {
        self.first_to_accept(brokers, token, Method::DELETE, &format!("/api/v1/cluster/members/{member}/leave")).await
    }

    /// What a broker read of its files last.
    pub async fn last_reload(&self, broker: IpAddr, token: &str) -> Result<Reload, BrokerError> {
        self.read(broker, token, "/api/v1/reload").await
    }

    /// What a broker says of itself alone.
    pub async fn node(&self, broker: IpAddr, token: &str) -> Result<Node, BrokerError> {
        self.read(broker, token, "/api/v1/node").await
    }

    /// Asks whether a configuration file of this text would do; the first that can tell decides. `Some`: why it wouldn't.
    pub async fn refusal_of(&self, brokers: &[IpAddr], token: &str, config: &str) -> Option<String> {
        for broker in brokers {
            let body = Bytes::copy_from_slice(config.as_bytes());
            match self.request(*broker, token, Method::POST, "/api/v1/config/check", body).await {
                Ok(_) => return None,
                Err(BrokerError::Refused(_, StatusCode::UNPROCESSABLE_ENTITY, said)) => {
                    let error = serde_json::from_str::<Refusal>(&said).map(|refusal| refusal.error);
                    return Some(error.unwrap_or(said));
                }
                Err(error) => tracing::debug!(%error, "a broker can't say whether it would take the configuration"),
            }
        }
        None
    }

    async fn read<T: DeserializeOwned>(&self, broker: IpAddr, token: &str, path: &str) -> Result<T, BrokerError> {
        let body = self.request(broker, token, Method::GET, path, Bytes::new()).await?;
        let address = SocketAddr::new(broker, self.port);
        serde_json::from_slice(&body).map_err(|error| BrokerError::Unreadable(address, error))
    }

    async fn first_to_accept(
        &self,
        brokers: &[IpAddr],
        token: &str,
        method: Method,
        path: &str,
    ) -> Result<(), BrokerError> {
        let mut failure = BrokerError::NobodyToAsk;
        for broker in brokers {
            match self.request(*broker, token, method.clone(), path, Bytes::new()).await {
                Ok(_) => return Ok(()),
                Err(BrokerError::Refused(_, StatusCode::NOT_FOUND, _)) => return Ok(()),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn request(
        &self,
        broker: IpAddr,
        token: &str,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Bytes, BrokerError> {
        let address = SocketAddr::new(broker, self.port);
        let exchange = async {
            let wire = (self.dial)(address).await.map_err(|error| BrokerError::Connect(address, error))?;
            exchange(wire, address, token, method, path, body).await
        };
        tokio::time::timeout(REQUEST_TIMEOUT, exchange).await.map_err(|_| BrokerError::Timeout(address))?
    }
}

/// How a broker says no.
#[derive(Deserialize)]
struct Refusal {
    error: String,
}

async fn connect(address: SocketAddr) -> io::Result<Box<dyn Wire>> {
    Ok(Box::new(TcpStream::connect(address).await?))
}

async fn exchange(
    wire: Box<dyn Wire>,
    address: SocketAddr,
    token: &str,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Bytes, BrokerError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(wire))
        .await
        .map_err(|error| BrokerError::Http(address, error.into()))?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, address.to_string())
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .body(Full::new(body))
        .map_err(|error| BrokerError::Http(address, error.into()))?;

    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| BrokerError::Http(address, error.into()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| BrokerError::Http(address, error))?
            .to_bytes();
        if status.is_success() {
            return Ok(body);
        }
        Err(BrokerError::Refused(address, status, String::from_utf8_lossy(&body).trim().to_owned()))
    };
    // The connection only moves while it is polled; the answer ends it.
    tokio::pin!(answer, connection);
    tokio::select! {
        // Not in a random order, so that a simulation has the same course each time.
        biased;
        answer = &mut answer => answer,
        ended = &mut connection => match ended {
            // Closed after the last byte: the answer is complete in the sender's hands.
            Ok(()) => answer.await,
            Err(error) => Err(BrokerError::Http(address, error.into())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_of_the_contract_is_read() {
        let cluster: Cluster = serde_json::from_str(
            r#"{"cluster_id":"c","initialised":true,"version":"0.1.0","failover_ready":true,"failover_reason":"",
                "replication_factor":3,
                "members":[{"id":"0a","name":"mqtt-0","address":"x:7883","state":"leaving","shards_led":6,"replicas":16,"connections":12,"version":"0.1.0"},
                           {"id":"0b","name":"mqtt-1","address":"y:7883","state":"sleeping","shards_led":6,"replicas":16,"connections":12,"version":"0.1.0"}],
                "shards":{"total":16,"under_replicated":0,"without_leader":0},"connections":36,"sessions":12}"#,
        )
        .unwrap();
        assert_eq!(cluster.members[0].state, MemberState::Leaving);
        assert_eq!(cluster.members[1].state, MemberState::Unknown);
        assert_eq!((cluster.connections, cluster.sessions, cluster.shards.total), (36, 12, 16));
    }

    #[test]
    fn what_a_node_says_of_itself_is_read() {
        let node: Node = serde_json::from_str(
            r#"{"name":"mqtt-0","version":"0.1.0","ready":false,"not_ready":"drains","storage":{"state":"failed","reason":"sync failed"}}"#,
        )
        .unwrap();
        assert_eq!(node.storage, Storage { state: StorageState::Failed, reason: "sync failed".to_owned() });
        let newer: Node = serde_json::from_str(r#"{"storage":{"state":"tired"}}"#).unwrap();
        assert_eq!(newer.storage.state, StorageState::Unknown);
    }
}
