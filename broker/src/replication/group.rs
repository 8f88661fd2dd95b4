//! A Raft group as the rest of the broker holds it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::raft::TransferLeaderRequest;
use openraft::{ChangeMembers, Config, Raft, ReadPolicy, ServerState, SnapshotPolicy};
use tokio::sync::watch;

use super::log::RaftLog;
use super::machine::{EffectSink, Machine, StateMachine};
use super::network::{Answer, Network, Request, SNAPSHOT_BYTES_MAX, Transport};
use super::raft::{Command, Snapshot, SnapshotMeta, Types, decode, encode};
use crate::identity::{GroupId, NodeId};
use crate::storage::GroupLog;

/// How a group keeps time and tidies up.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Between heartbeats of a leader.
    pub heartbeat_ms: u64,
    /// A follower that hears nothing for a time between these two asks for votes (Raft paper, section 5.2).
    pub election_timeout_min_ms: u64,
    /// See `election_timeout_min_ms`.
    pub election_timeout_max_ms: u64,
    /// Entries after which a snapshot is made and the log before it purged.
    pub snapshot_entries: u64,
    /// Entries kept behind a snapshot, for followers that are a little late.
    pub kept_entries: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            heartbeat_ms: 100,
            election_timeout_min_ms: 400,
            election_timeout_max_ms: 800,
            snapshot_entries: 20_000,
            kept_entries: 2_000,
        }
    }
}

impl Settings {
    fn config(&self, group: GroupId) -> Result<Config, openraft::ConfigError> {
        let config = Config {
            cluster_name: group.to_string(),
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min: self.election_timeout_min_ms,
            election_timeout_max: self.election_timeout_max_ms,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_entries),
            max_in_snapshot_log_to_keep: self.kept_entries,
            install_snapshot_timeout: 5_000,
            enable_pre_vote: Some(true),
            // `committed` is not persisted, so a leader must not go on after a restart as if it had never stopped.
            enable_leader_restore: Some(false),
            ..Config::default()
        };
        config.validate()
    }
}

/// Who leads a group, as this replica knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The Raft term.
    pub term: u64,
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// This replica was elected. A cut-off leader goes on believing so: what it proposes fails.
    pub is_leader: bool,
    /// This replica leads and has applied everything committed before its term.
    pub ready: bool,
    /// Why the group has stopped here (its disk failed, usually); it must be started again.
    pub failed: Option<String>,
}

/// How far the members of a group are, as its leader knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Those that vote. During a change of members, those of both configurations.
    pub voters: BTreeSet<NodeId>,
    /// Those that only listen.
    pub learners: BTreeSet<NodeId>,
    /// A change of members is half done.
    pub joint: bool,
    /// The last entry in this replica's log.
    pub last_index: Option<u64>,
    /// The last entry applied here.
    pub applied_index: Option<u64>,
    /// On a leader: the last entry known to be in the log of each other member.
    pub matched: Vec<(NodeId, Option<u64>)>,
}

impl Standing {
    /// Whether `node`'s log is at most `entries` behind. Only a leader knows; others say no.
    pub fn in_sync(&self, node: NodeId, entries: u64) -> bool {
        let matched = self.matched.iter().find(|(member, _)| *member == node).and_then(|(_, matched)| *matched);
        match (matched, self.last_index) {
            (Some(matched), Some(last)) => matched + entries >= last,
            _ => false,
        }
    }
}

/// Why an entry is not known to be committed. It may be, all the same, unless `NotLeader` says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Somebody else leads; the entry was not taken.
    #[error("this node does not lead the group (leader: {leader:?})")]
    NotLeader {
        /// Who, if known.
        leader: Option<NodeId>,
    },
    /// The entry was taken, then replaced by a new leader's, or its fate is not known.
    #[error("leadership changed before the entry was committed")]
    Lost,
    /// The group has stopped here.
    #[error("the group has stopped: {0}")]
    Unavailable(String),
}

/// Why members could not be changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("changing members: {0}")]
pub struct ChangeError(pub String);

/// One replica of a Raft group. Cloning gives another handle.
pub struct Group<S: StateMachine> {
    inner: Rc<Inner<S>>,
}

impl<S: StateMachine> Clone for Group<S> {
    fn clone(&self) -> Self {
        Group { inner: self.inner.clone() }
    }
}

struct Inner<S: StateMachine> {
    node: NodeId,
    id: GroupId,
    raft: Raft<Types, Machine<S>>,
    state: Rc<RefCell<S>>,
    leadership: watch::Receiver<Leadership>,
    incoming: RefCell<Option<Incoming>>,
}

/// A snapshot on its way in.
struct Incoming {
    meta: SnapshotMeta,
    total: u64,
    bytes: BytesMut,
}

impl<S: StateMachine> Group<S> {
    /// Starts this node's replica of `id` from what `log` has. A replica that has nothing waits to be
    /// [initialised](Group::initialize) or to be added by a leader.
    ///
    /// # Errors
    /// When the log or the snapshot can't be read, or `settings` contradict themselves.
    pub async fn start(
        node: NodeId,
        id: GroupId,
        state: S,
        log: GroupLog,
        transport: Rc<dyn Transport>,
        settings: Settings,
        sink: EffectSink<S::Effect>,
    ) -> io::Result<Group<S>> {
        if let Some(damage) = log.damage() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, damage.reason));
        }
        let config = settings.config(id).map_err(io::Error::other)?;
        let state = Rc::new(RefCell::new(state));
        let machine = Machine::recover(state.clone(), log.clone(), sink).await?;
        let network = Network { group: id, transport };
        let raft =
            Raft::new(node.0, Arc::new(config), network, RaftLog::new(log), machine).await.map_err(io::Error::other)?;
        let leadership = watch_leadership(&raft, node);
        Ok(Group { inner: Rc::new(Inner { node, id, raft, state, leadership, incoming: RefCell::default() }) })
    }

    /// Which group.
    pub fn id(&self) -> GroupId {
        self.inner.id
    }

    /// Makes a group of a replica that has nothing, with these voters. Told to one node only.
    pub async fn initialize(&self, voters: &BTreeSet<NodeId>) -> Result<(), ChangeError> {
        let voters: std::collections::BTreeMap<u64, ()> = voters.iter().map(|node| (node.0, ())).collect();
        self.inner.raft.initialize(voters).await.map_err(|error| ChangeError(error.to_string()))
    }

    /// Whether the replica has ever been part of a group.
    pub async fn is_initialized(&self) -> bool {
        self.inner.raft.is_initialized().await.unwrap_or(false)
    }

    /// Proposes an entry; done when it is committed and applied here. Several may be outstanding: they are committed in the
    /// order in which these futures were first polled.
    pub async fn propose(&self, entry: Bytes) -> Result<(), ProposeError> {
        match self.inner.raft.client_write(Command(entry)).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
                Err(ProposeError::NotLeader { leader: forward.leader_id.map(NodeId) })
            }
            Err(RaftError::APIError(_)) => Err(ProposeError::Lost),
            Err(RaftError::Fatal(fatal)) => Err(ProposeError::Unavailable(fatal.to_string())),
        }
    }

    /// Reads the state. `read` must not propose or wait.
    pub fn with<T>(&self, read: impl FnOnce(&S) -> T) -> T {
        read(&self.inner.state.borrow())
    }

    /// Who leads, and every change of it.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// Waits until this replica has applied everything that was committed when it was asked, having heard from a
    /// majority that it still leads (ReadIndex, Raft dissertation, section 6.4; never a lease).
    pub async fn linearizable(&self) -> Result<(), ProposeError> {
        match self.inner.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Err(ProposeError::NotLeader { leader: forward.leader_id.map(NodeId) })
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                Err(ProposeError::NotLeader { leader: None })
            }
            Err(RaftError::Fatal(fatal)) => Err(ProposeError::Unavailable(fatal.to_string())),
        }
    }

    /// How far everybody is.
    pub fn standing(&self) -> Standing {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        Standing {
            voters: membership.voter_ids().map(NodeId).collect(),
            learners: membership.learner_ids().map(NodeId).collect(),
            joint: membership.get_joint_config().len() > 1,
            last_index: metrics.last_log_index,
            applied_index: metrics.last_applied.map(|id| id.index()),
            matched: metrics
                .replication
                .iter()
                .flatten()
                .map(|(node, matched)| (NodeId(*node), matched.map(|id| id.index())))
                .collect(),
        }
    }

    /// Adds a member that listens. It is not in sync when this returns: see [`Standing::in_sync`].
    pub async fn add_learner(&self, node: NodeId) -> Result<(), ChangeError> {
        self.inner.raft.add_learner(node.0, (), false).await.map(|_| ()).map_err(|error| ChangeError(error.to_string()))
    }

    /// Makes exactly these the voters, by joint consensus; whoever is not among them leaves the group.
    pub async fn change_voters(&self, voters: &BTreeSet<NodeId>) -> Result<(), ChangeError> {
        let voters: BTreeSet<u64> = voters.iter().map(|node| node.0).collect();
        self.inner
            .raft
            .change_membership(voters, false)
            .await
            .map(|_| ())
            .map_err(|error| ChangeError(error.to_string()))
    }

    /// Ends the replication to a member that only listens.
    pub async fn remove_learner(&self, node: NodeId) -> Result<(), ChangeError> {
        let nodes = BTreeSet::from([node.0]);
        self.inner
            .raft
            .change_membership(ChangeMembers::RemoveNodes(nodes), true)
            .await
            .map(|_| ())
            .map_err(|error| ChangeError(error.to_string()))
    }

    /// Asks `to` to lead. Does nothing unless `to` is a voter whose log is complete: `openraft` itself would not check.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), ChangeError> {
        let standing = self.standing();
        if !standing.voters.contains(&to) || !standing.in_sync(to, 0) {
            return Err(ChangeError(format!("node {to} is not in sync")));
        }
        self.inner.raft.trigger().transfer_leader(to.0).await.map_err(|error| ChangeError(error.to_string()))
    }

    /// Tells the group that the stream to a member has closed. If it led, one survivor, the same one everywhere, asks for
    /// votes at once instead of after the election timeout. Safe, since it is an ordinary election; but leases would not be.
    pub async fn peer_closed(&self, node: NodeId) {
        let (vote, voters) = {
            let metrics = self.inner.raft.metrics();
            let metrics = metrics.borrow_watched();
            if metrics.current_leader != Some(node.0) || node == self.inner.node {
                return;
            }
            let voters: BTreeSet<u64> =
                metrics.membership_config.membership().voter_ids().filter(|voter| *voter != node.0).collect();
            (metrics.vote, voters)
        };
        let Some(turn) = usize::from(self.inner.id.0).checked_rem(voters.len()) else { return };
        let Some(to) = voters.into_iter().nth(turn) else { return };
        // A group that has stopped has nobody to elect.
        let _ = self.inner.raft.handle_transfer_leader(TransferLeaderRequest::new(vote, to, None)).await;
    }

    /// Answers a call that [`Transport::call`] carried here. Calls of one node must be started in the order they came.
    pub async fn receive(&self, request: Bytes) -> Bytes {
        let answer = match decode::<Request>("request", &request) {
            Ok(request) => self.answer(request).await,
            Err(error) => Answer::Failed(error.to_string()),
        };
        // An answer that can't be encoded is no answer.
        encode(&answer).unwrap_or_default()
    }

    async fn answer(&self, request: Request) -> Answer {
        let raft = &self.inner.raft;
        let failed = |error: &dyn std::fmt::Display| Answer::Failed(error.to_string());
        match request {
            Request::Append(rpc) => raft.append_entries(rpc).await.map_or_else(|e| failed(&e), Answer::Append),
            Request::Vote(rpc) => raft.vote(rpc).await.map_or_else(|e| failed(&e), Answer::Vote),
            Request::PreVote(rpc) => raft.pre_vote(rpc).await.map_or_else(|e| failed(&e), Answer::Vote),
            Request::TransferLeader(rpc) => {
                raft.handle_transfer_leader(rpc).await.map_or_else(|e| failed(&e), Answer::TransferLeader)
            }
            Request::Snapshot { vote, meta, offset, total, chunk } => {
                match self.take_chunk(meta, offset, total, &chunk) {
                    Err(answer) => answer,
                    Ok(snapshot) => {
                        raft.install_full_snapshot(vote, snapshot).await.map_or_else(|e| failed(&e), Answer::Snapshot)
                    }
                }
            }
        }
    }

    /// The whole snapshot with its last chunk; before, the answer that asks for the next.
    fn take_chunk(&self, meta: SnapshotMeta, offset: u64, total: u64, chunk: &[u8]) -> Result<Snapshot, Answer> {
        let mut incoming = self.inner.incoming.borrow_mut();
        if total > SNAPSHOT_BYTES_MAX {
            return Err(Answer::Failed(format!(
                "a snapshot of {total} bytes is over the limit of {SNAPSHOT_BYTES_MAX}"
            )));
        }
        if offset == 0 || incoming.as_ref().is_none_or(|known| known.meta != meta || known.total != total) {
            *incoming = Some(Incoming { meta, total, bytes: BytesMut::new() });
        }
        let Some(known) = incoming.as_mut() else { return Err(Answer::SnapshotChunk { received: 0 }) };
        if known.bytes.len() as u64 == offset && offset + chunk.len() as u64 <= total {
            known.bytes.extend_from_slice(chunk);
        }
        let received = known.bytes.len() as u64;
        if received < total {
            return Err(Answer::SnapshotChunk { received });
        }
        match incoming.take() {
            Some(whole) => Ok(Snapshot { meta: whole.meta, snapshot: whole.bytes.freeze() }),
            None => Err(Answer::SnapshotChunk { received: 0 }),
        }
    }

    /// Stops this replica. What it has stays on disk.
    pub async fn shutdown(&self) {
        // It may have stopped by itself.
        let _ = self.inner.raft.shutdown().await;
    }
}

fn watch_leadership<S: StateMachine>(raft: &Raft<Types, Machine<S>>, node: NodeId) -> watch::Receiver<Leadership> {
    let mut metrics = raft.metrics();
    let read = move |metrics: &openraft::RaftMetrics<Types>| {
        let is_leader = metrics.state == ServerState::Leader && metrics.current_leader == Some(node.0);
        Leadership {
            term: metrics.current_term,
            leader: metrics.current_leader.map(NodeId),
            is_leader,
            ready: is_leader && metrics.last_applied.is_some_and(|id| id.leader_id.term == metrics.current_term),
            failed: metrics.running_state.as_ref().err().map(ToString::to_string),
        }
    };
    let (changes, leadership) = watch::channel(read(&metrics.borrow_watched()));
    tokio::task::spawn_local(async move {
        while metrics.changed().await.is_ok() {
            let now = read(&metrics.borrow_watched());
            changes.send_if_modified(|known| {
                let changed = *known != now;
                *known = now;
                changed
            });
            if changes.is_closed() {
                return;
            }
        }
    });
    leadership
}
