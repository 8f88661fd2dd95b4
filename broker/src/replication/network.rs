//! Calls between the members of a group, over whatever carries bytes between nodes.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use openraft::OptionalSend;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use serde::{Deserialize, Serialize};

use super::raft::{Snapshot, SnapshotMeta, Types, Vote, decode, encode};
use super::snapshot::Data;
use crate::identity::{GroupId, NodeId};

/// Appends under way to one follower.
const PIPELINE_MAX: usize = 16;
/// A node refuses a snapshot larger than this.
pub(super) const SNAPSHOT_BYTES_MAX: u64 = 16 << 30;

/// A future of the thread that the groups live on.
pub type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// There is no way to the node now.
    #[error("node {0} can't be reached")]
    Unreachable(NodeId),
    /// The call was sent, and its answer lost.
    #[error("the link to node {0} closed before the answer")]
    Closed(NodeId),
    /// No answer in time.
    #[error("node {0} did not answer in time")]
    Timeout(NodeId),
    /// The node has no such group now.
    #[error("node {0} has no replica of the group")]
    NoReplica(NodeId),
}

/// Carries calls between nodes.
pub trait Transport {
    /// Calls [`super::Group::receive`] of `group` on `to` and gives its answer. The request is queued before this returns;
    /// requests to one node arrive in the order queued.
    fn call(
        &self,
        to: NodeId,
        group: GroupId,
        request: Bytes,
        deadline: Duration,
    ) -> LocalFuture<Result<Bytes, TransportError>>;
}

/// What members of a group ask of each other. New variants go to the end.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub(super) enum Request {
    Append(AppendEntriesRequest<Types>),
    Vote(VoteRequest<Types>),
    PreVote(VoteRequest<Types>),
    TransferLeader(TransferLeaderRequest<Types>),
    Snapshot { vote: Vote, meta: SnapshotMeta, offset: u64, total: u64, chunk: Bytes },
}

/// The answers.
#[derive(Serialize, Deserialize)]
#[serde(bound = "")]
pub(super) enum Answer {
    Append(AppendEntriesResponse<Types>),
    Vote(VoteResponse<Types>),
    TransferLeader(TransferLeaderResponse<Types>),
    Snapshot(SnapshotResponse<Types>),
    /// The chunk was taken; `received` bytes are there.
    SnapshotChunk {
        received: u64,
    },
    Failed(String),
}

/// Makes the way to each member.
#[derive(Clone)]
pub(super) struct Network {
    pub(super) group: GroupId,
    pub(super) transport: Rc<dyn Transport>,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _node: &()) -> Peer {
        Peer { to: NodeId(target), network: self.clone() }
    }
}

/// The way to one member.
pub(super) struct Peer {
    to: NodeId,
    network: Network,
}

impl Peer {
    fn call(
        &self,
        request: &Request,
        deadline: Duration,
    ) -> impl Future<Output = Result<Answer, RPCError<Types>>> + use<> {
        let call =
            encode(request).map(|request| self.network.transport.call(self.to, self.network.group, request, deadline));
        async move {
            let answer = match call {
                Ok(call) => call.await.map_err(rpc_error)?,
                Err(error) => return Err(RPCError::Network(NetworkError::new(&error))),
            };
            match decode("answer", &answer).map_err(|error| RPCError::Network(NetworkError::new(&error)))? {
                Answer::Failed(why) => Err(RPCError::Unreachable(Unreachable::from_string(why))),
                answer => Ok(answer),
            }
        }
    }
}

fn rpc_error(error: TransportError) -> RPCError<Types> {
    match error {
        TransportError::Unreachable(_) | TransportError::NoReplica(_) => {
            RPCError::Unreachable(Unreachable::new(&error))
        }
        TransportError::Closed(_) | TransportError::Timeout(_) => RPCError::Network(NetworkError::new(&error)),
    }
}

fn unexpected() -> RPCError<Types> {
    RPCError::Network(NetworkError::from_string("an answer to another question"))
}

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = Data;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        match self.call(&Request::Append(rpc), option.hard_ttl()).await? {
            Answer::Append(answer) => Ok(answer),
            _ => Err(unexpected()),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let peer: &'s Peer = self;
        let results = input
            .map(move |rpc| {
                let prev = rpc.prev_log_id;
                let last = rpc.entries.last().map(|entry| entry.log_id).or(prev);
                let call = peer.call(&Request::Append(rpc), option.hard_ttl());
                async move {
                    match call.await? {
                        Answer::Append(answer) => {
                            let partial =
                                matches!(&answer, AppendEntriesResponse::PartialSuccess(reached) if *reached != last);
                            Ok((answer.into_stream_result(prev, last), partial))
                        }
                        _ => Err(unexpected()),
                    }
                }
            })
            .buffered(PIPELINE_MAX)
            // The first failure, conflict or partial success ends the stream: what was sent behind it is void.
            .scan(false, |ended, result| {
                let next = (!*ended).then_some(result);
                *ended = match &next {
                    Some(Ok((Ok(_), partial))) => *partial,
                    _ => true,
                };
                std::future::ready(next.map(|result| result.map(|(result, _)| result)))
            });
        let results: BoxStream<'s, _> = Box::pin(results);
        Box::pin(std::future::ready(Ok(results)))
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.call(&Request::Vote(rpc), option.hard_ttl()).await? {
            Answer::Vote(answer) => Ok(answer),
            _ => Err(unexpected()),
        }
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        match self.call(&Request::PreVote(rpc), option.hard_ttl()).await? {
            Answer::Vote(answer) => Ok(answer),
            _ => Err(unexpected()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let meta = snapshot.meta;
        let Data::Stored(stored) = snapshot.snapshot else { return Err(streaming_error(unexpected())) };
        let total = stored.data.len() as u64;
        let mut cancel = Box::pin(cancel);
        let mut offset = 0;
        loop {
            // A block of it at a time, so that it never delays a heartbeat for long. What the disk has spoilt goes nowhere.
            let chunk = stored.block_from(offset).map_err(|error| {
                tracing::error!(group = %self.network.group, %error, "a snapshot cannot be sent");
                streaming_error(RPCError::Unreachable(Unreachable::new(&error)))
            })?;
            let request = Request::Snapshot { vote, meta: meta.clone(), offset: offset as u64, total, chunk };
            let answer = tokio::select! {
                biased;
                closed = &mut cancel => return Err(StreamingError::Closed(closed)),
                answer = self.call(&request, option.hard_ttl()) => answer,
            };
            match answer.map_err(streaming_error)? {
                Answer::Snapshot(answer) => return Ok(answer),
                Answer::SnapshotChunk { received } if received < total => offset = received as usize,
                _ => return Err(streaming_error(unexpected())),
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        match self.call(&Request::TransferLeader(req), option.hard_ttl()).await? {
            Answer::TransferLeader(answer) => Ok(answer),
            _ => Err(unexpected()),
        }
    }
}

fn streaming_error(error: RPCError<Types>) -> StreamingError<Types> {
    match error {
        RPCError::Timeout(error) => StreamingError::Timeout(error),
        RPCError::Unreachable(error) => StreamingError::Unreachable(error),
        RPCError::Network(error) => StreamingError::Network(error),
        RPCError::RemoteError(never) => StreamingError::Network(NetworkError::new(&never)),
    }
}
