//! Step four: makes the API server have what was built, by server-side apply under one field manager.
//!
//! An object is written only when it isn't as it should be: when what we want has changed since it was applied, or when
//! somebody changed what we had set. An object that isn't ours is never taken over. Deliberately absent: decisions.

mod drift;

use std::{collections::BTreeMap, fmt::Debug, marker::PhantomData, sync::Arc, sync::Mutex};

use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    build::{Applied, Prepared, Resources},
    fingerprint,
    names::{APPLIED_HASH_ANNOTATION, INSTANCE_LABEL, OPERATOR},
    observe::Observed,
    telemetry::Metrics,
    validate::ValidBroker,
};

/// Applying failed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The API server refused or was not reached.
    #[error("{kind} {name} can't be written: {source}")]
    Api {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
        /// What the API server said.
        source: Box<kube::Error>,
    },
    /// Something else has the name.
    #[error("{kind} {name} exists and does not belong to this MqttBroker: delete or rename one of them")]
    Foreign {
        /// Kind of the object.
        kind: String,
        /// Its name.
        name: String,
    },
    /// An object can't be written as JSON.
    #[error("{kind} can't be written as JSON: {source}")]
    Serialise {
        /// Kind of the object.
        kind: String,
        /// Why.
        source: serde_json::Error,
    },
}

impl ApplyError {
    /// One word for conditions and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Api { .. } => "ApplyFailed",
            Self::Foreign { .. } => "NameTaken",
            Self::Serialise { .. } => "ApplyFailed",
        }
    }

    /// Whether somebody changed the object between our look at it and our write; looking again is all it takes.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Api { source, .. } if matches!(&**source, kube::Error::Api(status) if status.code == 409))
    }
}

/// What was applied at which resource version. It is the second line of defence against writing for ever: when the API
/// server stores something in another way than we wrote it, it looks like drift, but the version hasn't moved.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<BTreeMap<String, (String, String)>>);

/// Applies the children of one broker.
pub struct Applier<'a> {
    /// The API client.
    pub client: &'a Client,
    /// The broker they belong to.
    pub broker: &'a ValidBroker,
    /// What was applied before.
    pub ledger: &'a Ledger,
    /// Where writes are counted.
    pub metrics: &'a Metrics,
}

impl Applier<'_> {
    /// Applies everything, the StatefulSet last: its pods need the rest.
    pub async fn apply(
        &self,
        prepared: Resources<Prepared>,
        observed: &Observed,
    ) -> Result<Resources<Applied>, ApplyError> {
        // No `..`: a child that is forgotten here does not compile.
        let Resources {
            service_account,
            peer_ca,
            peer_tls,
            admin_token,
            config_map,
            peers_service,
            client_service,
            disruption_budget,
            network_policy,
            pod_monitor,
            stateful_set,
            state: PhantomData,
        } = prepared;
        Ok(Resources {
            service_account: self.put(service_account, observed.service_account.as_ref()).await?,
            peer_ca: self.put(peer_ca, observed.peer_ca.as_ref()).await?,
            peer_tls: self.put(peer_tls, observed.peer_tls.as_ref()).await?,
            admin_token: self.put(admin_token, observed.admin_token.as_ref()).await?,
            config_map: self.put(config_map, observed.config_map.as_ref()).await?,
            peers_service: self.put(peers_service, observed.peers_service.as_ref()).await?,
            client_service: self.put(client_service, observed.client_service.as_ref()).await?,
            disruption_budget: self.put_or_remove(disruption_budget, observed.disruption_budget.as_ref()).await?,
            network_policy: self.put(network_policy, observed.network_policy.as_ref()).await?,
            pod_monitor: self.put_or_remove(pod_monitor, observed.pod_monitor.as_ref()).await?,
            stateful_set: self.put(stateful_set, observed.stateful_set.as_ref()).await?,
            state: PhantomData,
        })
    }

    /// Has the API server hold an object, or none where none is wanted.
    async fn put_or_remove<K>(&self, desired: Option<K>, observed: Option<&Arc<K>>) -> Result<Option<K>, ApplyError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    {
        match desired {
            Some(desired) => self.put(desired, observed).await.map(Some),
            None => self.remove(observed).await.map(|()| None),
        }
    }

    /// Has the API server hold an object, and gives it back as it holds it.
    async fn put<K>(&self, mut desired: K, observed: Option<&Arc<K>>) -> Result<K, ApplyError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned,
    {
        let kind = K::kind(&()).into_owned();
        let name = desired.name_any();
        let json = |object: &K| {
            serde_json::to_value(object).map_err(|source| ApplyError::Serialise { kind: kind.clone(), source })
        };
        let hash = fingerprint::of(&json(&desired)?);
        desired.annotations_mut().insert(APPLIED_HASH_ANNOTATION.to_owned(), hash.clone());
        let desired_json = json(&desired)?;

        match observed {
            Some(observed) if !self.is_ours(&**observed) => {
                return Err(ApplyError::Foreign { kind, name });
            }
            Some(observed) if drift::is_as_wanted(&desired_json, &json(observed)?) => {
                return Ok((**observed).clone());
            }
            Some(observed) if self.is_answer_to(&kind, &hash, &**observed) => {
                return Ok((**observed).clone());
            }
            Some(_) => {}
            None => self.refuse_foreign::<K>(&name).await?,
        }

        let applied = self.patch(&name, desired_json, observed).await.map_err(|source| ApplyError::Api {
            kind: kind.clone(),
            name: name.clone(),
            source: Box::new(source),
        })?;
        self.metrics.wrote(&kind);
        tracing::info!(kind, name, namespace = self.broker.names.namespace, "applied");
        self.remember(&kind, hash, &applied);
        Ok(applied)
    }

    async fn patch<K>(&self, name: &str, mut desired: Value, observed: Option<&Arc<K>>) -> Result<K, kube::Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        // With the version we looked at, a decision made from an old look is refused instead of carried out.
        if let Some(version) = observed.and_then(|observed| observed.resource_version()) {
            desired["metadata"]["resourceVersion"] = Value::String(version);
        }
        let api = self.api::<K>();
        let apply = PatchParams::apply(OPERATOR).force();
        match api.patch(name, &apply, &Patch::Apply(&desired)).await {
            // Elements of a list that somebody else has changed may stand beside ours and contradict them: two ports of one
            // name. Then the lists are first put in place of theirs.
            Err(kube::Error::Api(status)) if status.code == 422 && observed.is_some() => {
                let merged: K = api.patch(name, &PatchParams::default(), &Patch::Merge(&desired)).await?;
                desired["metadata"]["resourceVersion"] = json!(merged.resource_version());
                api.patch(name, &apply, &Patch::Apply(&desired)).await
            }
            answer => answer,
        }
    }

    /// Deletes an object that is no longer wanted, if it is ours.
    async fn remove<K>(&self, observed: Option<&Arc<K>>) -> Result<(), ApplyError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let Some(observed) = observed.filter(|observed| self.is_ours(&***observed)) else {
            return Ok(());
        };
        let name = observed.name_any();
        let kind = K::kind(&()).into_owned();
        let same = Preconditions { uid: observed.uid(), resource_version: None };
        match self.api::<K>().delete(&name, &DeleteParams::default().preconditions(same)).await {
            Ok(_) => {
                self.metrics.wrote(&kind);
                tracing::info!(kind, name, namespace = self.broker.names.namespace, "deleted");
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(source) => Err(ApplyError::Api { kind, name, source: Box::new(source) }),
        }
    }

    /// The caches hold only what carries our label, so before something is made its name is looked up once.
    async fn refuse_foreign<K>(&self, name: &str) -> Result<(), ApplyError>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let kind = K::kind(&()).into_owned();
        match self.api::<K>().get_metadata_opt(name).await {
            Ok(None) => Ok(()),
            Ok(Some(present)) if self.is_ours(&present) => Ok(()),
            Ok(Some(_)) => Err(ApplyError::Foreign { kind, name: name.to_owned() }),
            Err(source) => Err(ApplyError::Api { kind, name: name.to_owned(), source: Box::new(source) }),
        }
    }

    /// Ours is what this very resource controls, and what nobody controls but carries our labels (an orphan).
    fn is_ours(&self, object: &impl Resource) -> bool {
        let controller = object.meta().owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
        match controller {
            Some(owner) => owner.uid == self.broker.uid,
            None => object.meta().labels.as_ref().is_some_and(|labels| {
                labels.get(INSTANCE_LABEL) == Some(&self.broker.names.broker)
                    && labels.get("app.kubernetes.io/managed-by").is_some_and(|by| by == OPERATOR)
            }),
        }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.broker.names.namespace)
    }

    /// Whether this is what the API server made of the very same content.
    fn is_answer_to(&self, kind: &str, hash: &str, observed: &impl Resource<DynamicType = ()>) -> bool {
        let ledger = self.ledger.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let answer = ledger.get(&self.ledger_key(kind, observed));
        answer
            .is_some_and(|(known, version)| known == hash && observed.meta().resource_version.as_ref() == Some(version))
    }

    fn remember(&self, kind: &str, hash: String, applied: &impl Resource<DynamicType = ()>) {
        let version = applied.meta().resource_version.clone().unwrap_or_default();
        let mut ledger = self.ledger.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        ledger.insert(self.ledger_key(kind, applied), (hash, version));
    }

    fn ledger_key(&self, kind: &str, object: &impl Resource<DynamicType = ()>) -> String {
        format!("{kind}/{}/{}", self.broker.names.namespace, object.meta().name.as_deref().unwrap_or_default())
    }
}
