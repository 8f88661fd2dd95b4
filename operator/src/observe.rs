//! Step one: what exists. Children and pods come from caches that watches fill, the cluster from the brokers.
//!
//! The caches hold only what carries our label. Reading them costs the API server nothing, so a resource at rest makes no
//! requests at all. Deliberately absent: judgement of any kind.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use futures_util::future::{join_all, join3};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::reflector::{ObjectRef, Store},
};

use crate::{
    api::MqttBroker,
    broker_client::{BrokerClient, BrokerError, Cluster, Node, Reload},
    names::{INSTANCE_LABEL, Names},
    peer_pki::Kept,
    pod_monitor::PodMonitor,
    validate::ValidBroker,
};

/// The caches of one controller.
#[derive(Clone)]
pub struct Caches {
    /// StatefulSets with our label.
    pub stateful_sets: Store<StatefulSet>,
    /// Services with our label.
    pub services: Store<Service>,
    /// ConfigMaps with our label.
    pub config_maps: Store<ConfigMap>,
    /// Secrets with our label.
    pub secrets: Store<Secret>,
    /// PodDisruptionBudgets with our label.
    pub disruption_budgets: Store<PodDisruptionBudget>,
    /// NetworkPolicies with our label.
    pub network_policies: Store<NetworkPolicy>,
    /// ServiceAccounts with our label.
    pub service_accounts: Store<ServiceAccount>,
    /// PodMonitors with our label; none where Kubernetes doesn't know them.
    pub pod_monitors: Option<Store<PodMonitor>>,
    /// Pods with our label.
    pub pods: Store<Pod>,
    /// Volume claims with our label.
    pub claims: Store<PersistentVolumeClaim>,
}

/// What exists of one broker.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The StatefulSet.
    pub stateful_set: Option<Arc<StatefulSet>>,
    /// The headless Service.
    pub peers_service: Option<Arc<Service>>,
    /// The Service for clients.
    pub client_service: Option<Arc<Service>>,
    /// The configuration.
    pub config_map: Option<Arc<ConfigMap>>,
    /// The authority's Secret.
    pub peer_ca: Option<Arc<Secret>>,
    /// The peer certificate's Secret.
    pub peer_tls: Option<Arc<Secret>>,
    /// The admin token's Secret.
    pub admin_token: Option<Arc<Secret>>,
    /// The PodDisruptionBudget.
    pub disruption_budget: Option<Arc<PodDisruptionBudget>>,
    /// The NetworkPolicy.
    pub network_policy: Option<Arc<NetworkPolicy>>,
    /// The ServiceAccount.
    pub service_account: Option<Arc<ServiceAccount>>,
    /// Its pods, by ordinal.
    pub pods: Vec<(i32, Arc<Pod>)>,
    /// Its volume claims, by ordinal.
    pub claims: Vec<(i32, Arc<PersistentVolumeClaim>)>,
    /// The PodMonitor.
    pub pod_monitor: Option<Arc<PodMonitor>>,
    /// What is the matter with Secrets that the resource names, in words; see [`look_for_named_secrets`].
    pub missing_secrets: Vec<String>,
    /// What each ready broker read of its files last, by the name of its pod; those of an older version can't say.
    pub reloads: BTreeMap<String, Reload>,
    /// What each running broker, ready or not, says of itself, by the name of its pod; those of an older version can't.
    pub nodes: BTreeMap<String, Node>,
    /// The cluster, or in words why it can't be asked.
    pub cluster: Result<Cluster, String>,
}

impl Observed {
    /// The credentials that can be kept.
    pub fn credentials(&self) -> Kept {
        Kept::read(self.peer_ca.as_ref(), self.peer_tls.as_ref(), self.admin_token.as_ref())
    }

    /// Addresses of brokers to ask, the ready ones first.
    pub fn brokers(&self) -> Vec<IpAddr> {
        let (ready, unready): (Vec<_>, Vec<_>) = self
            .pods
            .iter()
            .map(|(_, pod)| pod)
            .filter_map(|pod| Some((is_ready(pod), address(pod)?)))
            .partition(|(ready, _)| *ready);
        ready.into_iter().chain(unready).map(|(_, address)| address).collect()
    }
}

/// Looks at everything that belongs to a broker.
pub async fn observe(broker: &MqttBroker, caches: &Caches, client: &BrokerClient) -> Observed {
    let names = Names { broker: broker.name_any(), namespace: broker.namespace().unwrap_or_default() };
    let mut observed = Observed {
        stateful_set: cached(&caches.stateful_sets, &names, &names.stateful_set()),
        peers_service: cached(&caches.services, &names, &names.peers_service()),
        client_service: cached(&caches.services, &names, &names.client_service()),
        config_map: cached(&caches.config_maps, &names, &names.config_map()),
        peer_ca: cached(&caches.secrets, &names, &names.peer_ca_secret()),
        peer_tls: cached(&caches.secrets, &names, &names.peer_tls_secret()),
        admin_token: cached(&caches.secrets, &names, &names.admin_token_secret()),
        disruption_budget: cached(&caches.disruption_budgets, &names, &names.disruption_budget()),
        network_policy: cached(&caches.network_policies, &names, &names.network_policy()),
        service_account: cached(&caches.service_accounts, &names, &names.service_account()),
        pods: of_instance(&caches.pods, &names, |pod| names.ordinal(pod)),
        claims: of_instance(&caches.claims, &names, |claim| names.claim_ordinal(claim)),
        pod_monitor: caches.pod_monitors.as_ref().and_then(|store| cached(store, &names, &names.pod_monitor())),
        missing_secrets: Vec::new(),
        reloads: BTreeMap::new(),
        nodes: BTreeMap::new(),
        cluster: Err("no broker is running".to_owned()),
    };
    if let Some(token) = observed.credentials().admin_token {
        (observed.cluster, observed.reloads, observed.nodes) = join3(
            cluster(&observed, client, &token),
            each(&observed, is_ready, |address| client.last_reload(address, &token)),
            each(&observed, |_| true, |address| client.node(address, &token)),
        )
        .await;
    }
    observed
}

/// Looks past the cache for Secrets that it does not hold. A cache that lags must not have certificates made anew that
/// brokers already use: with another authority they would not know each other any more.
pub async fn look_for_secrets(observed: &mut Observed, names: &Names, client: &Client) -> Result<(), kube::Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &names.namespace);
    for (secret, name) in [
        (&mut observed.peer_ca, names.peer_ca_secret()),
        (&mut observed.peer_tls, names.peer_tls_secret()),
        (&mut observed.admin_token, names.admin_token_secret()),
    ] {
        if secret.is_none() {
            *secret = api.get_opt(&name).await?.map(Arc::new);
        }
    }
    Ok(())
}

/// Looks for the Secrets that the resource names. They are not ours and carry no label of ours, so no cache has them and no
/// watch tells of them: they are looked up while pods are about to start, and left alone once all brokers run.
pub async fn look_for_named_secrets(
    observed: &mut Observed,
    broker: &ValidBroker,
    client: &Client,
) -> Result<(), kube::Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &broker.names.namespace);
    observed.missing_secrets.clear();
    for (name, keys) in broker.named_secrets() {
        let found = api.get_opt(&name).await?;
        let data = found.as_ref().map(|secret| secret.data.clone().unwrap_or_default());
        match data {
            None => observed.missing_secrets.push(format!("Secret {name} is missing: make it, the resource names it")),
            Some(data) => {
                for key in keys.into_iter().filter(|key| !data.contains_key(key)) {
                    observed.missing_secrets.push(format!("Secret {name} has no key {key}: add it, brokers need it"));
                }
            }
        }
    }
    Ok(())
}

/// Asks the ready brokers, and the others only when none of those answers: a broker without a majority knows less.
async fn cluster(observed: &Observed, client: &BrokerClient, token: &str) -> Result<Cluster, String> {
    let (ready, unready): (Vec<_>, Vec<_>) = observed.pods.iter().partition(|(_, pod)| is_ready(pod));
    let addresses =
        |pods: Vec<&(i32, Arc<Pod>)>| pods.into_iter().filter_map(|(_, pod)| address(pod)).collect::<Vec<_>>();
    let (ready, unready) = (addresses(ready), addresses(unready));
    match client.cluster(&ready, token).await {
        Ok(cluster) => Ok(cluster),
        Err(error) if unready.is_empty() => Err(error.to_string()),
        Err(_) => client.cluster(&unready, token).await.map_err(|error| error.to_string()),
    }
}

/// The answers of those brokers that give one, by the names of their pods.
async fn each<T, F>(observed: &Observed, asked: impl Fn(&Pod) -> bool, ask: impl Fn(IpAddr) -> F) -> BTreeMap<String, T>
where
    F: Future<Output = Result<T, BrokerError>>,
{
    let pods = observed.pods.iter().map(|(_, pod)| pod).filter(|pod| asked(pod));
    let (names, questions): (Vec<String>, Vec<F>) =
        pods.filter_map(|pod| Some((pod.name_any(), ask(address(pod)?)))).unzip();
    names.into_iter().zip(join_all(questions).await).filter_map(|(name, answer)| Some((name, answer.ok()?))).collect()
}

/// Whether a pod is ready and not on its way out.
pub fn is_ready(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
        && pod
            .status
            .as_ref()
            .and_then(|status| status.conditions.as_ref())
            .is_some_and(|conditions| conditions.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
}

fn address(pod: &Pod) -> Option<IpAddr> {
    let status = pod.status.as_ref()?;
    if status.phase.as_deref() != Some("Running") {
        return None;
    }
    status.pod_ip.as_ref()?.parse().ok()
}

fn cached<K>(store: &Store<K>, names: &Names, name: &str) -> Option<Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    store.get(&ObjectRef::new(name).within(&names.namespace))
}

fn of_instance<K>(store: &Store<K>, names: &Names, ordinal: impl Fn(&str) -> Option<i32>) -> Vec<(i32, Arc<K>)>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let mut found: Vec<(i32, Arc<K>)> = store
        .state()
        .into_iter()
        .filter(|object| object.namespace().as_deref() == Some(names.namespace.as_str()))
        .filter(|object| object.labels().get(INSTANCE_LABEL) == Some(&names.broker))
        .filter_map(|object| Some((ordinal(&object.name_any())?, object)))
        .collect();
    found.sort_by_key(|(ordinal, _)| *ordinal);
    found
}
