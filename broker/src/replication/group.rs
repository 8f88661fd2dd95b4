//! A Raft group as the rest of the broker holds it.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::{ClientWriteError, LinearizableReadError, RaftError};
use openraft::raft::TransferLeaderRequest;
use openraft::{ChangeMembers, ReadPolicy};
use tokio::sync::{Mutex, watch};

use super::machine::{EffectSink, StateMachine};
use super::network::{Answer, Request, SNAPSHOT_BYTES_MAX, Transport};
use super::raft::{Command, Snapshot, SnapshotMeta, decode, encode};
use super::replica::{Parts, Replica, Running};
use super::settings::Settings;
use super::snapshot::{Data, Snapshots};
use super::standing::{Leadership, Standing};
use crate::identity::{GroupId, NodeId};
use crate::storage::{GroupLog, SnapshotWriter};

/// How far behind a member's log may be when it becomes a voter.
const PROMOTION_LAG_ENTRIES_MAX: u64 = 1_000;

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
    replica: Rc<Replica<S>>,
    incoming: Mutex<Option<Incoming>>,
}

/// A snapshot on its way in, as far as it is on disk.
struct Incoming {
    meta: SnapshotMeta,
    total: u64,
    written: SnapshotWriter,
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
        let state = Rc::new(RefCell::new(state));
        let snapshots = Snapshots::new(log.clone());
        let applied = Rc::default();
        let parts = Parts { node, id, state, applied, log, snapshots, transport, settings, sink };
        let replica = Replica::start(parts).await?;
        Ok(Group { inner: Rc::new(Inner { replica, incoming: Mutex::default() }) })
    }

    fn raft(&self) -> Running<S> {
        self.inner.replica.raft()
    }

    /// Which group.
    pub fn id(&self) -> GroupId {
        self.inner.replica.parts.id
    }

    /// Makes a group of a replica that has nothing, with these voters. Told to one node only.
    pub async fn initialize(&self, voters: &BTreeSet<NodeId>) -> Result<(), ChangeError> {
        let voters: std::collections::BTreeMap<u64, ()> = voters.iter().map(|node| (node.0, ())).collect();
        self.raft().initialize(voters).await.map_err(|error| ChangeError(error.to_string()))
    }

    /// Whether the replica has ever been part of a group.
    pub async fn is_initialized(&self) -> bool {
        self.raft().is_initialized().await.unwrap_or(false)
    }

    /// Proposes an entry; done when it is committed and applied here. Several may be outstanding: they are committed in the
    /// order in which these futures were first polled.
    pub async fn propose(&self, entry: Bytes) -> Result<(), ProposeError> {
        match self.raft().client_write(Command(entry)).await {
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
        read(&self.inner.replica.parts.state.borrow())
    }

    /// Whether nothing that was proposed is undecided: this replica alone decides, and what its log has on the disk is in the
    /// state. While the group [has stopped](Leadership::failed), what is not in the state then never will be, unless it
    /// is proposed again.
    pub fn is_settled(&self) -> bool {
        self.inner.replica.is_settled()
    }

    /// Who leads, and every change of it.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.replica.leadership()
    }

    /// Waits until this replica has applied everything that was committed when it was asked, having heard from a
    /// majority that it still leads (ReadIndex, Raft dissertation, section 6.4; never a lease).
    pub async fn linearizable(&self) -> Result<(), ProposeError> {
        match self.raft().ensure_linearizable(ReadPolicy::ReadIndex).await {
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

    /// Whether `node` is no member of the group, by a configuration that is committed and that no other is to follow. Only
    /// a replica that still leads when it is asked can tell: it hears from a majority first, so that what it tells is no
    /// older than the question. From then on no majority of an earlier configuration needs the node: whatever it
    /// promised, it may forget.
    pub async fn has_removed(&self, node: NodeId) -> Result<bool, ProposeError> {
        self.linearizable().await?;
        let raft = self.raft();
        let removed = raft.with_raft_state(move |state| {
            let (committed, effective) = (state.membership_state.committed(), state.membership_state.effective());
            committed.log_id() == effective.log_id() && committed.membership().get_node(&node.0).is_none()
        });
        removed.await.map_err(|fatal| ProposeError::Unavailable(fatal.to_string()))
    }

    /// How far everybody is.
    pub fn standing(&self) -> Standing {
        Standing::read(&self.raft().metrics().borrow_watched())
    }

    /// Adds a member that listens. It is not in sync when this returns: see [`Standing::in_sync`].
    pub async fn add_learner(&self, node: NodeId) -> Result<(), ChangeError> {
        self.raft().add_learner(node.0, (), false).await.map(|_| ()).map_err(|error| ChangeError(error.to_string()))
    }

    /// Makes exactly these the voters, by joint consensus; a voter that is not among them leaves the group. Does nothing
    /// unless the new ones are nearly [in sync](Standing::in_sync): `openraft` itself would take even a node that isn't there.
    pub async fn change_voters(&self, voters: &BTreeSet<NodeId>) -> Result<(), ChangeError> {
        let standing = self.standing();
        let late =
            |node: &&NodeId| !standing.voters.contains(node) && !standing.in_sync(**node, PROMOTION_LAG_ENTRIES_MAX);
        if let Some(late) = voters.iter().find(late) {
            return Err(ChangeError(format!("node {late} is not in sync")));
        }
        let voters: BTreeSet<u64> = voters.iter().map(|node| node.0).collect();
        self.raft().change_membership(voters, false).await.map(|_| ()).map_err(|error| ChangeError(error.to_string()))
    }

    /// Ends the replication to a member that only listens.
    pub async fn remove_learner(&self, node: NodeId) -> Result<(), ChangeError> {
        let nodes = BTreeSet::from([node.0]);
        self.raft()
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
        self.raft().trigger().transfer_leader(to.0).await.map_err(|error| ChangeError(error.to_string()))
    }

    /// Tells the group that the stream to a member has closed. If it led, one survivor, the same one everywhere, asks for
    /// votes at once instead of after the election timeout. Safe, since it is an ordinary election; but leases would not be.
    pub async fn peer_closed(&self, node: NodeId) {
        let (vote, voters) = {
            let metrics = self.raft().metrics();
            let metrics = metrics.borrow_watched();
            if metrics.current_leader != Some(node.0) || node == self.inner.replica.parts.node {
                return;
            }
            let voters: BTreeSet<u64> =
                metrics.membership_config.membership().voter_ids().filter(|voter| *voter != node.0).collect();
            (metrics.vote, voters)
        };
        let Some(turn) = usize::from(self.id().0).checked_rem(voters.len()) else { return };
        let Some(to) = voters.into_iter().nth(turn) else { return };
        // A group that has stopped has nobody to elect.
        let _ = self.raft().handle_transfer_leader(TransferLeaderRequest::new(vote, to, None)).await;
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
        let raft = self.raft();
        let failed = |error: &dyn std::fmt::Display| Answer::Failed(error.to_string());
        match request {
            Request::Append(rpc) => raft.append_entries(rpc).await.map_or_else(|e| failed(&e), Answer::Append),
            Request::Vote(rpc) => raft.vote(rpc).await.map_or_else(|e| failed(&e), Answer::Vote),
            Request::PreVote(rpc) => raft.pre_vote(rpc).await.map_or_else(|e| failed(&e), Answer::Vote),
            Request::TransferLeader(rpc) => {
                raft.handle_transfer_leader(rpc).await.map_or_else(|e| failed(&e), Answer::TransferLeader)
            }
            Request::Snapshot { vote, meta, offset, total, chunk } => {
                match self.take_chunk(meta, offset, total, chunk).await {
                    Err(answer) => answer,
                    Ok(snapshot) => {
                        raft.install_full_snapshot(vote, snapshot).await.map_or_else(|e| failed(&e), Answer::Snapshot)
                    }
                }
            }
        }
    }

    /// The whole snapshot with its last chunk; before, the answer that asks for the next.
    async fn take_chunk(&self, meta: SnapshotMeta, offset: u64, total: u64, chunk: Bytes) -> Result<Snapshot, Answer> {
        let failed = |error: io::Error| Answer::Failed(format!("a snapshot cannot be written: {error}"));
        let mut incoming = self.inner.incoming.lock().await;
        if total > SNAPSHOT_BYTES_MAX {
            return Err(Answer::Failed(format!(
                "a snapshot of {total} bytes is over the limit of {SNAPSHOT_BYTES_MAX}"
            )));
        }
        let known = incoming.take().filter(|known| offset > 0 && known.meta == meta && known.total == total);
        let mut known = match known {
            Some(known) => known,
            None => {
                let written = self.inner.replica.parts.snapshots.begin(&meta).map_err(failed)?;
                Incoming { meta, total, written }
            }
        };
        if known.written.length() == offset && offset + chunk.len() as u64 <= total {
            known.written.write(vec![chunk]).await.map_err(failed)?;
        }
        let received = known.written.length();
        if received < total {
            *incoming = Some(known);
            return Err(Answer::SnapshotChunk { received });
        }
        Ok(Snapshot { meta: known.meta, snapshot: Data::Arrived(known.written) })
    }

    /// Stops this replica. What it has stays on disk.
    pub async fn shutdown(&self) {
        self.inner.replica.stop().await;
    }
}
