//! A replica of a Raft group, whatever it replicates: what hosting, convergence and drain need of it.

use std::collections::BTreeSet;
use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::watch;

use super::convergence::Step;
use super::mesh::LocalFuture;
use crate::identity::NodeId;
use crate::replication::{ChangeError, Group, Leadership, ProposeError, Standing, StateMachine};

/// A running replica. See [`Group`] for what each door does.
pub trait Replica {
    /// Answers a call from another replica.
    fn receive(&self, request: Bytes) -> LocalFuture<Bytes>;
    /// The stream to a member has closed.
    fn peer_closed(&self, node: NodeId) -> LocalFuture<()>;
    /// Who leads, and every change of it.
    fn leadership(&self) -> watch::Receiver<Leadership>;
    /// How far everybody is.
    fn standing(&self) -> Standing;
    /// Whether it has ever been part of a group.
    fn is_initialized(&self) -> LocalFuture<bool>;
    /// Makes a group of it alone.
    fn initialize(&self, me: NodeId) -> LocalFuture<Result<(), ChangeError>>;
    /// Whether a node is certainly no member any more. Only a leader can tell.
    fn has_removed(&self, node: NodeId) -> LocalFuture<Result<bool, ProposeError>>;
    /// Takes a step towards the members it shall have.
    fn take(&self, step: Step) -> LocalFuture<Result<(), ChangeError>>;
    /// Stops it; what it has stays on disk.
    fn shutdown(&self) -> LocalFuture<()>;
}

/// The group as a replica.
pub fn replica_of<S: StateMachine>(group: &Group<S>) -> Rc<dyn Replica> {
    Rc::new(group.clone())
}

impl<S: StateMachine> Replica for Group<S> {
    fn receive(&self, request: Bytes) -> LocalFuture<Bytes> {
        let group = self.clone();
        Box::pin(async move { Group::receive(&group, request).await })
    }

    fn peer_closed(&self, node: NodeId) -> LocalFuture<()> {
        let group = self.clone();
        Box::pin(async move { Group::peer_closed(&group, node).await })
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        Group::leadership(self)
    }

    fn standing(&self) -> Standing {
        Group::standing(self)
    }

    fn is_initialized(&self) -> LocalFuture<bool> {
        let group = self.clone();
        Box::pin(async move { Group::is_initialized(&group).await })
    }

    fn initialize(&self, me: NodeId) -> LocalFuture<Result<(), ChangeError>> {
        let group = self.clone();
        Box::pin(async move { Group::initialize(&group, &BTreeSet::from([me])).await })
    }

    fn has_removed(&self, node: NodeId) -> LocalFuture<Result<bool, ProposeError>> {
        let group = self.clone();
        Box::pin(async move { Group::has_removed(&group, node).await })
    }

    fn take(&self, step: Step) -> LocalFuture<Result<(), ChangeError>> {
        let group = self.clone();
        Box::pin(async move {
            match step {
                Step::Rest => Ok(()),
                Step::AddLearner(node) => group.add_learner(node).await,
                Step::ChangeVoters(voters) => group.change_voters(&voters).await,
                Step::RemoveLearner(node) => group.remove_learner(node).await,
                Step::Transfer(to) => group.transfer_leader(to).await,
            }
        })
    }

    fn shutdown(&self) -> LocalFuture<()> {
        let group = self.clone();
        Box::pin(async move { Group::shutdown(&group).await })
    }
}
