//! What is wrong with a pod or its volume, in words. Kubernetes spreads it over several places; here they are looked through once.
//!
//! The words don't change while the trouble stays the same, however often Kubernetes tries: a status is written for news only.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus, PersistentVolumeClaim, Pod};
use kube::ResourceExt;

use crate::broker_client::{Node, StorageState};

/// Reasons for waiting that are part of every start.
const HARMLESS_WAITS: [&str; 2] = ["ContainerCreating", "PodInitializing"];
/// Reasons for waiting for an image. They alternate while Kubernetes tries again.
const IMAGE_WAITS: [&str; 5] =
    ["ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError"];
/// How long a volume may take before its absence is a trouble.
const VOLUME_PATIENCE: SignedDuration = SignedDuration::from_secs(30);
/// Of what a broker said last, so many characters are told.
const LAST_WORDS_MAX: usize = 512;

/// Something that waiting alone may not mend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// One word, for programs.
    pub(super) reason: &'static str,
    /// In words, for people.
    pub(super) message: String,
}

/// Why a pod doesn't run.
pub(super) fn of(pod: &Pod) -> Option<Trouble> {
    let name = pod.name_any();
    let status = pod.status.as_ref()?;
    let unscheduled =
        status.conditions.iter().flatten().find(|one| one.type_ == "PodScheduled" && one.status == "False");
    if let Some(condition) = unscheduled {
        let why = condition.message.as_deref().unwrap_or("no reason given");
        return Some(Trouble { reason: "Unschedulable", message: format!("{name} can't be placed on a node: {why}") });
    }
    status.container_statuses.iter().flatten().find_map(|container| of_container(&name, container))
}

fn of_container(pod: &str, container: &ContainerStatus) -> Option<Trouble> {
    let state = container.state.as_ref();
    let waiting = state.and_then(|state| state.waiting.as_ref());
    let reason = waiting.and_then(|waiting| waiting.reason.as_deref()).unwrap_or_default();
    if IMAGE_WAITS.contains(&reason) {
        let image = &container.image;
        return Some(Trouble {
            reason: "ImagePull",
            message: format!("{pod} does not start: its image {image} can't be had, correct image or version"),
        });
    }
    // Whether it waits, or tries once more just now: until it is ready, the trouble is the same.
    let ended = state
        .and_then(|state| state.terminated.as_ref())
        .or_else(|| container.last_state.as_ref()?.terminated.as_ref())
        .filter(|ended| ended.exit_code != 0 && !container.ready);
    if let Some(ended) = ended {
        let said = ended.message.as_deref().map(last_words).filter(|said| !said.is_empty());
        let message = format!("{pod} does not stay up: its last run ended with exit code {}", ended.exit_code);
        let message = said.map_or(message.clone(), |said| format!("{message}: {said}"));
        return Some(Trouble { reason: "Crashing", message });
    }
    if waiting.is_none() || HARMLESS_WAITS.contains(&reason) {
        return None;
    }
    let why = waiting.and_then(|waiting| waiting.message.as_deref()).unwrap_or("no reason given");
    Some(Trouble { reason: "NotStarting", message: format!("{pod} does not start ({reason}): {why}") })
}

/// The end of what was said, on one line.
fn last_words(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let length = line.chars().count();
    line.chars().skip(length.saturating_sub(LAST_WORDS_MAX)).collect()
}

/// Why a volume isn't there.
pub(super) fn of_claim(claim: &PersistentVolumeClaim, now: Timestamp) -> Option<Trouble> {
    let pending = claim.status.as_ref()?.phase.as_deref() == Some("Pending");
    let since = claim.metadata.creation_timestamp.as_ref()?.0;
    if !pending || now.duration_since(since) < VOLUME_PATIENCE {
        return None;
    }
    let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    let class = class.map_or_else(|| "there is no default storage class".to_owned(), |class| format!("class {class}"));
    Some(Trouble {
        reason: "VolumeUnbound",
        message: format!("{} has no volume yet ({class}): see `kubectl describe pvc`", claim.name_any()),
    })
}

/// Why a broker can't store, by its own words, and what to do about it.
pub(super) fn of_storage(pod: &str, claim: &str, node: &Node) -> Option<Trouble> {
    match node.storage.state {
        StorageState::Full => Some(Trouble {
            reason: "VolumeFull",
            message: format!(
                "the volume of {pod} is full (claim {claim}), what would be stored is refused: raise persistence.size"
            ),
        }),
        StorageState::Failed => {
            let reason = &node.storage.reason;
            Some(Trouble {
                reason: "VolumeFailed",
                message: format!(
                    "the volume of {pod} has failed (claim {claim}), nothing is stored on it any more: see to it, then delete the pod: {reason}"
                ),
            })
        }
        StorageState::Healthy | StorageState::Unknown => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(status: &str) -> Pod {
        serde_yaml::from_str(&format!("{{metadata: {{name: mqtt-2}}, status: {status}}}")).unwrap()
    }

    fn container(state: &str) -> String {
        format!("{{containerStatuses: [{{name: c, image: i, imageID: '', ready: false, restartCount: 0, {state}}}]}}")
    }

    #[test]
    fn trouble_has_words_and_a_start_is_none() {
        let cases = [
            (container("state: {running: {}}"), None),
            (container("state: {waiting: {reason: ContainerCreating}}"), None),
            (
                "{conditions: [{type: PodScheduled, status: 'False', reason: Unschedulable, message: '0/3 nodes are available'}]}"
                    .to_owned(),
                Some(("Unschedulable", "mqtt-2 can't be placed on a node: 0/3 nodes are available")),
            ),
            (
                container("state: {waiting: {reason: ImagePullBackOff, message: 'Back-off'}}"),
                Some(("ImagePull", "mqtt-2 does not start: its image i can't be had, correct image or version")),
            ),
            (
                container("state: {waiting: {reason: ErrImagePull, message: 'no such image'}}"),
                Some(("ImagePull", "mqtt-2 does not start: its image i can't be had, correct image or version")),
            ),
            (
                container("state: {waiting: {reason: CrashLoopBackOff}}, lastState: {terminated: {exitCode: 2}}"),
                Some(("Crashing", "mqtt-2 does not stay up: its last run ended with exit code 2")),
            ),
            (
                container(
                    "state: {waiting: {reason: CrashLoopBackOff}}, lastState: {terminated: {exitCode: 2, message: \"bad\\nkey\"}}",
                ),
                Some(("Crashing", "mqtt-2 does not stay up: its last run ended with exit code 2: bad key")),
            ),
            (
                container("state: {running: {}}, lastState: {terminated: {exitCode: 2}}"),
                Some(("Crashing", "mqtt-2 does not stay up: its last run ended with exit code 2")),
            ),
            (
                container("state: {waiting: {reason: CreateContainerConfigError, message: 'no such key'}}"),
                Some(("NotStarting", "mqtt-2 does not start (CreateContainerConfigError): no such key")),
            ),
        ];
        for (status, trouble) in cases {
            let found = of(&pod(&status));
            assert_eq!(found.as_ref().map(|found| (found.reason, found.message.as_str())), trouble, "{status}");
        }
    }

    #[test]
    fn a_volume_is_missed_after_a_while() {
        let claim: PersistentVolumeClaim = serde_yaml::from_str(
            "{metadata: {name: data-mqtt-0, creationTimestamp: '2026-03-01T12:00:00Z'}, spec: {storageClassName: fast}, status: {phase: Pending}}",
        )
        .unwrap();
        let at = |time: &str| of_claim(&claim, time.parse().unwrap());
        assert_eq!(at("2026-03-01T12:00:29Z"), None);
        assert_eq!(at("2026-03-01T12:00:30Z").map(|trouble| trouble.reason), Some("VolumeUnbound"));
        let bound = PersistentVolumeClaim { status: Some(serde_yaml::from_str("{phase: Bound}").unwrap()), ..claim };
        assert_eq!(of_claim(&bound, "2026-03-02T12:00:00Z".parse().unwrap()), None);
    }
}
