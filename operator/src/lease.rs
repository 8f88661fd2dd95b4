//! Leader election on a Lease: of several operators one reconciles, and another takes over when it is gone.
//!
//! Whether a lease has run out is judged by how long *we* have seen it unchanged, never by the clock of its holder. Every
//! write carries the version that was read, so of two who try, one wins. Deliberately absent: fencing of the reconciles;
//! a leader that can't renew stops before another may begin.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::names::OPERATOR;

/// How long a lease is good for after it was renewed.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for so long gives up, before anybody may take over.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// How often a leader renews.
const RENEW_INTERVAL: Duration = Duration::from_secs(5);
/// How often the others look.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// What to do about a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// There is none: make it.
    Create,
    /// It is ours, or nobody's, or has run out: write our name.
    Take,
    /// It is another's.
    Wait,
}

/// The lease as it was last seen, and since when it looks like that.
#[derive(Clone, Debug, Default)]
struct Sight {
    lease: Option<Lease>,
    unchanged_since: Option<Instant>,
    /// Whether it is what we wrote ourselves; then it needn't be read before it is renewed.
    written: bool,
}

/// One candidate for leading.
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    identity: String,
}

impl Candidate {
    /// A candidate with a name of its own among those for the lease of this namespace.
    pub fn new(client: Client, namespace: &str, identity: String) -> Self {
        Self { api: Api::namespaced(client, namespace), name: OPERATOR.to_owned(), identity }
    }

    /// Waits until this candidate leads; returns false if `stop` came first.
    pub async fn lead(&self, stop: &mut watch::Receiver<bool>) -> bool {
        let mut sight = Sight::default();
        loop {
            match self.try_once(&mut sight).await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the lease can't be had"),
            }
            tokio::select! {
                () = sleep(RETRY_INTERVAL) => {}
                _ = stop.wait_for(|stop| *stop) => return false,
            }
        }
    }

    /// Keeps the lease until it is lost; to be cancelled by whoever wants to stop leading.
    pub async fn keep(&self) {
        let mut sight = Sight::default();
        let mut renewed = Instant::now();
        loop {
            sleep(RENEW_INTERVAL).await;
            let deadline = renewed + RENEW_DEADLINE;
            match tokio::time::timeout_at(deadline, self.try_once(&mut sight)).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return tracing::error!("another operator has taken the lease"),
                Ok(Err(error)) => tracing::warn!(%error, "the lease can't be renewed"),
                Err(_) => {}
            }
            if Instant::now() >= deadline {
                return tracing::error!("the lease could not be renewed in time");
            }
        }
    }

    /// Gives the lease back, so that another can take it at once.
    pub async fn release(&self) {
        let released = async {
            let Some(mut lease) = self.api.get_opt(&self.name).await? else {
                return Ok(());
            };
            if holder(&lease) != Some(self.identity.as_str()) {
                return Ok(());
            }
            lease.spec.get_or_insert_default().holder_identity = None;
            self.api.replace(&self.name, &PostParams::default(), &lease).await.map(|_| ())
        };
        match released.await {
            Ok(()) => tracing::info!("lease released"),
            Err::<(), kube::Error>(error) => {
                tracing::warn!(%error, "the lease could not be released, it runs out by itself")
            }
        }
    }

    /// Takes or renews the lease where that is right; says whether it is ours now.
    async fn try_once(&self, sight: &mut Sight) -> Result<bool, kube::Error> {
        if sight.written {
            // Somebody else's write in between makes ours fail; then it is looked at as by any other candidate.
            sight.written = false;
            if self.write(Step::Take, sight).await? {
                return Ok(true);
            }
        }
        let lease = self.api.get_opt(&self.name).await?;
        let now = Instant::now();
        if sight.unchanged_since.is_none() || version(&sight.lease) != version(&lease) {
            *sight = Sight { lease, unchanged_since: Some(now), written: false };
        }
        let unchanged_for = sight.unchanged_since.map_or(Duration::ZERO, |since| now - since);
        match decide(sight.lease.as_ref(), &self.identity, unchanged_for) {
            Step::Wait => Ok(false),
            step => self.write(step, sight).await,
        }
    }

    /// Writes our name; false when somebody else wrote in between.
    async fn write(&self, step: Step, sight: &mut Sight) -> Result<bool, kube::Error> {
        let signed = self.signed(sight.lease.clone());
        let written = match step {
            Step::Create => self.api.create(&PostParams::default(), &signed).await,
            _ => self.api.replace(&self.name, &PostParams::default(), &signed).await,
        };
        match written {
            Ok(lease) => {
                *sight = Sight { lease: Some(lease), unchanged_since: Some(Instant::now()), written: true };
                Ok(true)
            }
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The lease with our name on it.
    fn signed(&self, present: Option<Lease>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let mut lease = present.unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            ..Lease::default()
        });
        let renewal = holder(&lease) == Some(self.identity.as_str());
        let spec: &mut LeaseSpec = lease.spec.get_or_insert_default();
        if !renewal {
            spec.holder_identity = Some(self.identity.clone());
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        spec.lease_duration_seconds = i32::try_from(LEASE_DURATION.as_secs()).ok();
        spec.renew_time = Some(now);
        lease
    }
}

fn decide(lease: Option<&Lease>, identity: &str, unchanged_for: Duration) -> Step {
    let Some(lease) = lease else {
        return Step::Create;
    };
    match holder(lease) {
        Some(holder) if holder != identity && unchanged_for < duration(lease) => Step::Wait,
        _ => Step::Take,
    }
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

fn duration(lease: &Lease) -> Duration {
    let seconds = lease
        .spec
        .as_ref()
        .and_then(|spec| spec.lease_duration_seconds)
        .and_then(|seconds| u64::try_from(seconds).ok());
    seconds.map_or(LEASE_DURATION, Duration::from_secs)
}

fn version(lease: &Option<Lease>) -> Option<&str> {
    lease.as_ref()?.metadata.resource_version.as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::ApiServer;

    fn held_by(holder: Option<&str>) -> Lease {
        Lease {
            spec: Some(LeaseSpec {
                holder_identity: holder.map(str::to_owned),
                lease_duration_seconds: Some(15),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        }
    }

    #[test]
    fn a_lease_is_taken_only_when_it_is_ours_or_nobodys() {
        let fresh = Duration::from_secs(14);
        let stale = Duration::from_secs(15);
        assert_eq!(decide(None, "a", fresh), Step::Create);
        assert_eq!(decide(Some(&held_by(Some("a"))), "a", fresh), Step::Take);
        assert_eq!(decide(Some(&held_by(None)), "a", fresh), Step::Take);
        assert_eq!(decide(Some(&held_by(Some(""))), "a", fresh), Step::Take);
        assert_eq!(decide(Some(&held_by(Some("b"))), "a", fresh), Step::Wait);
        assert_eq!(decide(Some(&held_by(Some("b"))), "a", stale), Step::Take);
    }

    /// How long one of two candidates has to wait for the other that leads and then is gone.
    async fn wait_for_a_successor(released: bool) -> Duration {
        let (_, client) = ApiServer::start();
        let candidate = |name: &str| Candidate::new(client.clone(), "ns", name.to_owned());
        let (first, second) = (candidate("first"), candidate("second"));
        let (_stop, mut stopping) = watch::channel(false);
        assert!(first.lead(&mut stopping).await);
        let mut stops = stopping.clone();
        let successor = tokio::spawn(async move { second.lead(&mut stops).await });
        // Long enough to run out, had it not been renewed.
        assert!(tokio::time::timeout(4 * LEASE_DURATION, first.keep()).await.is_err(), "it was lost");
        assert!(!successor.is_finished(), "two lead");
        if released {
            first.release().await;
        }
        let gone = Instant::now();
        assert!(successor.await.unwrap());
        gone.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_released_lease_is_taken_at_the_next_look_and_another_when_it_has_run_out() {
        assert!(wait_for_a_successor(true).await <= RETRY_INTERVAL);
        let waited = wait_for_a_successor(false).await;
        let (least, most) = (LEASE_DURATION - RENEW_INTERVAL, LEASE_DURATION + 2 * RETRY_INTERVAL);
        assert!((least..=most).contains(&waited), "{waited:?}");
    }
}
