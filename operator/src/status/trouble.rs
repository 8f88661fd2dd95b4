//! What is wrong with a pod, in words. Kubernetes spreads it over several places; here they are looked through once.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

/// Reasons for waiting that are part of every start.
const HARMLESS_WAITS: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// Why a pod doesn't run, when waiting alone may not mend it.
pub(super) fn of(pod: &Pod) -> Option<String> {
    let name = pod.name_any();
    let status = pod.status.as_ref()?;
    let unscheduled =
        status.conditions.iter().flatten().find(|one| one.type_ == "PodScheduled" && one.status == "False");
    if let Some(condition) = unscheduled {
        return Some(format!(
            "{name} can't be placed on a node: {}",
            condition.message.as_deref().unwrap_or("no reason given")
        ));
    }
    for container in status.container_statuses.iter().flatten() {
        let Some(waiting) = container.state.as_ref().and_then(|state| state.waiting.as_ref()) else {
            continue;
        };
        let reason = waiting.reason.as_deref().unwrap_or("unknown");
        if HARMLESS_WAITS.contains(&reason) {
            continue;
        }
        let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        let detail = match last {
            Some(ended) => format!("its last run ended with exit code {}", ended.exit_code),
            None => waiting.message.clone().unwrap_or_else(|| "no reason given".to_owned()),
        };
        return Some(format!("{name} does not start ({reason}): {detail}"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(status: &str) -> Pod {
        serde_yaml::from_str(&format!("{{metadata: {{name: mqtt-2}}, status: {status}}}")).unwrap()
    }

    #[test]
    fn trouble_has_words_and_a_start_is_none() {
        let cases = [
            (
                "{phase: Running, containerStatuses: [{name: c, image: i, imageID: '', ready: true, restartCount: 0, state: {running: {}}}]}",
                None,
            ),
            (
                "{containerStatuses: [{name: c, image: i, imageID: '', ready: false, restartCount: 0, state: {waiting: {reason: ContainerCreating}}}]}",
                None,
            ),
            (
                "{conditions: [{type: PodScheduled, status: 'False', reason: Unschedulable, message: '0/3 nodes are available'}]}",
                Some("mqtt-2 can't be placed on a node: 0/3 nodes are available"),
            ),
            (
                "{containerStatuses: [{name: c, image: i, imageID: '', ready: false, restartCount: 0, state: {waiting: {reason: ImagePullBackOff, message: 'no such image'}}}]}",
                Some("mqtt-2 does not start (ImagePullBackOff): no such image"),
            ),
            (
                "{containerStatuses: [{name: c, image: i, imageID: '', ready: false, restartCount: 4, state: {waiting: {reason: CrashLoopBackOff}}, lastState: {terminated: {exitCode: 2}}}]}",
                Some("mqtt-2 does not start (CrashLoopBackOff): its last run ended with exit code 2"),
            ),
        ];
        for (status, trouble) in cases {
            assert_eq!(of(&pod(status)).as_deref(), trouble, "{status}");
        }
    }
}
