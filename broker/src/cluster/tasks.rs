//! The tasks of one node on the cluster thread, which end together.

use std::future::Future;

use tokio_util::sync::CancellationToken;

/// Spawns onto the current `LocalSet`; all that was spawned ends with [`Tasks::end`]. Clones are the same group.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    token: CancellationToken,
}

impl Tasks {
    /// Runs `future` until it is ready or the group ends.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let token = self.token.clone();
        tokio::task::spawn_local(async move {
            token.run_until_cancelled(future).await;
        });
    }

    /// Drops every future of the group at its next turn.
    pub fn end(&self) {
        self.token.cancel();
    }

    /// Whether [`Tasks::end`] was called.
    pub fn ended(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Ready once [`Tasks::end`] was called.
    pub async fn until_end(&self) {
        self.token.cancelled().await;
    }
}
