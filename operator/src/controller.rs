//! The watches: on the resource and on everything it owns. They fill the caches and say when to reconcile; nothing polls
//! the API server. Deliberately absent: what a reconcile does.

use std::{collections::BTreeMap, fmt::Debug, hash::Hash, sync::Arc, sync::Mutex, time::Duration};

use futures_util::{Stream, StreamExt, future::join_all};
use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{
        Controller, WatchStreamExt,
        controller::{self, Action},
        predicates,
        reflector::{ObjectRef, Store, store::Writer},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::{
    api::MqttBroker,
    apply::Ledger,
    broker_client::BrokerClient,
    build::Settings,
    event::Recorder,
    names::{INSTANCE_LABEL, WATCH_SELECTOR},
    observe::Caches,
    pod_monitor::PodMonitor,
    reconcile::{Context, Error, reconcile},
    telemetry::Metrics,
};

/// Resources reconciled at once.
const CONCURRENCY: u16 = 8;
/// Changes that come together are answered by one reconcile.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// After a first failure the next try comes soon.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
/// However often it failed, the next try comes within this time.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Where the operator looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every namespace.
    All,
    /// These.
    Namespaces(Vec<String>),
}

/// What an operator works with, and what it has from outside.
#[derive(Clone)]
pub struct Surroundings {
    /// The way to the API server.
    pub client: Client,
    /// The way to the brokers.
    pub brokers: BrokerClient,
    /// What holds for all brokers.
    pub settings: Settings,
    /// The name of this operator among several, with which it signs Events.
    pub instance: String,
    /// Counters.
    pub metrics: Metrics,
    /// The time.
    pub now: fn() -> Timestamp,
}

/// Runs until `stop` says so, then finishes the reconciles under way.
pub async fn run(surroundings: Surroundings, scope: Scope, stop: watch::Receiver<bool>) {
    let namespaces: Vec<Option<String>> = match scope {
        Scope::All => vec![None],
        Scope::Namespaces(namespaces) => namespaces.into_iter().map(Some).collect(),
    };
    let recorder = Arc::new(Recorder::new(surroundings.client.clone(), surroundings.instance.clone()));
    let controllers = namespaces
        .into_iter()
        .map(|namespace| run_one(surroundings.clone(), namespace, recorder.clone(), stop.clone()));
    join_all(controllers).await;
}

async fn run_one(
    surroundings: Surroundings,
    namespace: Option<String>,
    recorder: Arc<Recorder>,
    mut stop: watch::Receiver<bool>,
) {
    let Surroundings { client, brokers, settings, instance: _, metrics, now } = surroundings;
    let watches = Watches { client: client.clone(), namespace };
    let (stateful_sets, stateful_set_changes) = watches.start::<StatefulSet>();
    let (services, service_changes) = watches.start::<Service>();
    let (config_maps, config_map_changes) = watches.start::<ConfigMap>();
    let (secrets, secret_changes) = watches.start::<Secret>();
    let (disruption_budgets, disruption_budget_changes) = watches.start::<PodDisruptionBudget>();
    let (network_policies, network_policy_changes) = watches.start::<NetworkPolicy>();
    let (service_accounts, service_account_changes) = watches.start::<ServiceAccount>();
    let (pod_monitors, pod_monitor_changes) = settings.pod_monitors.then(|| watches.start::<PodMonitor>()).unzip();
    let (pods, pod_changes) = watches.start::<Pod>();
    let (claims, claim_changes) = watches.start::<PersistentVolumeClaim>();

    let caches = Caches {
        stateful_sets,
        services,
        config_maps,
        secrets,
        disruption_budgets,
        network_policies,
        service_accounts,
        pod_monitors,
        pods,
        claims,
    };
    let context =
        Arc::new(Context { client, caches, brokers, settings, recorder, ledger: Ledger::default(), metrics, now });
    let failures = Arc::new(Failures::default());

    Controller::new(watches.api::<MqttBroker>(), watcher::Config::default())
        .with_config(controller::Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE))
        .owns_stream(stateful_set_changes)
        .owns_stream(service_changes)
        .owns_stream(config_map_changes)
        .owns_stream(secret_changes)
        .owns_stream(disruption_budget_changes)
        .owns_stream(network_policy_changes)
        .owns_stream(service_account_changes)
        .owns_stream(futures_util::stream::iter(pod_monitor_changes).flatten())
        // Pods and claims are owned by the StatefulSet, so their label says whose they are.
        .watches_stream(pod_changes, of_instance)
        .watches_stream(claim_changes, of_instance)
        .graceful_shutdown_on(async move {
            // An error means that the sender is gone, which is a reason to stop as well.
            let _ = stop.wait_for(|stop| *stop).await;
        })
        .run(
            {
                let failures = failures.clone();
                move |broker, context| reconcile_once_cached(broker, context, failures.clone())
            },
            move |broker, error, context| error_policy(&broker, error, &context, &failures),
            context,
        )
        .for_each(|result| async move {
            match result {
                Ok((broker, _)) => tracing::debug!(%broker, "reconciled"),
                // Failed reconciles are logged where they are counted.
                Err(controller::Error::ReconcilerFailed(..)) => {}
                // Deleted between the trigger and the reconcile.
                Err(controller::Error::ObjectNotFound(_)) => {}
                Err(error) => tracing::warn!(%error, "watch failed, it is started again"),
            }
        })
        .await;
}

/// A reconcile sees complete caches or waits: what is not in a cache that is still filling would be made again.
async fn reconcile_once_cached(
    broker: Arc<MqttBroker>,
    context: Arc<Context>,
    failures: Arc<Failures>,
) -> Result<Action, Error> {
    if !caches_filled(&context.caches).await {
        return Ok(Action::requeue(BACKOFF_FIRST));
    }
    let started = tokio::time::Instant::now();
    let key = broker.uid().unwrap_or_default();
    let result = reconcile(broker, context.clone()).await;
    context.metrics.reconciled(started.elapsed());
    if result.is_ok() {
        failures.forget(&key);
    }
    result
}

async fn caches_filled(caches: &Caches) -> bool {
    // No `..`: a cache that is forgotten here does not compile.
    let Caches {
        stateful_sets,
        services,
        config_maps,
        secrets,
        disruption_budgets,
        network_policies,
        service_accounts,
        pod_monitors,
        pods,
        claims,
    } = caches;
    if let Some(pod_monitors) = pod_monitors
        && pod_monitors.wait_until_ready().await.is_err()
    {
        return false;
    }
    stateful_sets.wait_until_ready().await.is_ok()
        && services.wait_until_ready().await.is_ok()
        && config_maps.wait_until_ready().await.is_ok()
        && secrets.wait_until_ready().await.is_ok()
        && disruption_budgets.wait_until_ready().await.is_ok()
        && network_policies.wait_until_ready().await.is_ok()
        && service_accounts.wait_until_ready().await.is_ok()
        && pods.wait_until_ready().await.is_ok()
        && claims.wait_until_ready().await.is_ok()
}

fn error_policy(broker: &MqttBroker, error: &Error, context: &Context, failures: &Failures) -> Action {
    let (name, namespace) = (broker.name_any(), broker.namespace());
    if error.is_conflict() {
        tracing::debug!(name, namespace, "looked too early, looking again");
        return Action::requeue(BACKOFF_FIRST);
    }
    let wait = failures.next_wait(&broker.uid().unwrap_or_default());
    context.metrics.failed(error.reason());
    tracing::warn!(name, namespace, %error, again_in = ?wait, "reconcile failed");
    Action::requeue(wait)
}

/// How often each resource failed in a row.
#[derive(Debug, Default)]
struct Failures(Mutex<BTreeMap<String, u32>>);

impl Failures {
    /// Twice as long after each failure.
    fn next_wait(&self, key: &str) -> Duration {
        let mut failures = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let failed = failures.entry(key.to_owned()).or_default();
        let wait = BACKOFF_FIRST.saturating_mul(1 << (*failed).min(16)).min(BACKOFF_MAX);
        *failed = failed.saturating_add(1);
        wait
    }

    fn forget(&self, key: &str) {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).remove(key);
    }
}

/// Watches of one scope.
struct Watches {
    client: Client,
    namespace: Option<String>,
}

impl Watches {
    /// A watch on everything of a kind that carries our label: its cache, and its changes.
    fn start<K>(&self) -> (Store<K>, impl Stream<Item = Result<K, watcher::Error>> + Send + use<K>)
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
        <K as Resource>::DynamicType: Eq + Hash + Clone,
    {
        let writer = Writer::<K>::new(());
        let store = writer.as_reader();
        let changes = watcher(self.api::<K>(), watcher::Config::default().labels(WATCH_SELECTOR))
            .default_backoff()
            .modify(|object| object.managed_fields_mut().clear())
            .reflect(writer)
            .touched_objects()
            .predicate_filter(predicates::resource_version, Default::default());
        (store, changes)
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }
}

fn of_instance(object: impl Resource) -> Option<ObjectRef<MqttBroker>> {
    let instance = object.labels().get(INSTANCE_LABEL)?.clone();
    let namespace = object.namespace()?;
    Some(ObjectRef::new(&instance).within(&namespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_come_further_and_further_apart_until_one_succeeds() {
        let failures = Failures::default();
        let seconds: Vec<u64> = (0..9).map(|_| failures.next_wait("a").as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        failures.forget("a");
        assert_eq!(failures.next_wait("a"), BACKOFF_FIRST);
    }
}
