//! The whole controller with its own watches, on a clock that stands still while anybody works: its watches are closed, torn,
//! cut off, told that they are too old (410) and silenced at moments from the seed, and tell late until then.

use std::{fmt::Debug, time::Duration};

use rand::Rng;
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::{
    STEPS, seeds,
    world::{RESOURCE, World},
};
use crate::{
    api::PAUSED_ANNOTATION,
    controller::{Scope, Surroundings, run},
    fixtures::{now, settings},
    telemetry::Metrics,
};

/// As often as others act, of the simulation's time.
const STEP: Duration = Duration::from_secs(1);
/// As often as they act when there is little left to do.
const LONG_STEP: Duration = Duration::from_secs(10);
/// Without a write for so long, there is little left to do.
const LULL: Duration = Duration::from_secs(10);
/// Without a write for so long, it rests: a watch that begins a moment before the faults end may fall silent a minute later, and
/// is given up 295 seconds after that; only then can be seen what it had not told.
const REST: Duration = Duration::from_secs(360);
/// Without faults, it rests within this.
const REST_DEADLINE: Duration = Duration::from_secs(1_200);
/// What a watch tells is answered within this; without it, the next look would come half a minute later.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);

const CHILDREN: [&str; 11] = [
    "/api/v1/namespaces/ns/serviceaccounts/mqtt",
    "/api/v1/namespaces/ns/secrets/mqtt-peer-ca",
    "/api/v1/namespaces/ns/secrets/mqtt-peer-tls",
    "/api/v1/namespaces/ns/secrets/mqtt-admin-token",
    "/api/v1/namespaces/ns/configmaps/mqtt-config",
    "/api/v1/namespaces/ns/services/mqtt-peers",
    "/api/v1/namespaces/ns/services/mqtt",
    "/apis/policy/v1/namespaces/ns/poddisruptionbudgets/mqtt",
    "/apis/networking.k8s.io/v1/namespaces/ns/networkpolicies/mqtt",
    "/apis/monitoring.coreos.com/v1/namespaces/ns/podmonitors/mqtt",
    "/apis/apps/v1/namespaces/ns/statefulsets/mqtt",
];

#[test]
fn it_comes_to_rest_whatever_becomes_of_its_watches() {
    for seed in seeds(0..5) {
        eprintln!("seed {seed}");
        course(seed);
    }
}

#[test]
fn the_same_seed_has_the_same_course() {
    let (first, second) = (course(0), course(0));
    let differ = first.iter().zip(&second).position(|(first, second)| first != second);
    assert_eq!(differ.map(|at| (at, &first[at], &second[at])), None);
    assert_eq!(first.len(), second.len());
}

/// All that was asked and told in a world of this seed, which has a runtime of its own, so that nothing is left of another.
fn course(seed: u64) -> Vec<String> {
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut operator = Operator::start(seed);
        operator.live_through_faults().await;
        operator.come_to_rest().await;
        operator.answer_each_watch().await;
        operator.stop().await
    })
}

struct Operator {
    seed: u64,
    world: World,
    stop: watch::Sender<bool>,
    running: JoinHandle<()>,
}

impl Operator {
    fn start(seed: u64) -> Self {
        let mut world = World::new(seed);
        world.start_failing();
        world.start_dropping_watches();
        let (stop, stopping) = watch::channel(false);
        let surroundings = Surroundings {
            client: world.client.clone(),
            brokers: world.door.clone(),
            settings: settings(),
            instance: "test".to_owned(),
            metrics: Metrics::default(),
            now,
        };
        let running = tokio::spawn(run(surroundings, Scope::All, stopping));
        Self { seed, world, stop, running }
    }

    async fn step(&mut self, length: Duration) {
        let before = self.world.before();
        sleep(length).await;
        self.world.assert_that_it_was_safe(&before);
        self.world.everybody_elses_turn();
    }

    async fn live_through_faults(&mut self) {
        for _ in 0..STEPS {
            self.world.a_person_changes_something();
            self.world.something_breaks();
            if self.world.random.random_range(0..20) == 0 {
                self.world.server.forget_changes();
            }
            self.step(STEP).await;
        }
    }

    async fn come_to_rest(&mut self) {
        self.world.stop_failing();
        self.world.server.take_requests();
        let end = Instant::now() + REST_DEADLINE;
        let mut since = Instant::now();
        while since.elapsed() < REST {
            self.step(if since.elapsed() < LULL { STEP } else { LONG_STEP }).await;
            if !(self.world.server.take_writes().is_empty() && self.world.is_as_asked_for()) {
                since = Instant::now();
            }
            assert!(Instant::now() < end, "seed {} does not come to rest: {}", self.seed, self.world.describe());
        }
    }

    /// Of every kind a watch is open again, and what it tells is answered at once.
    async fn answer_each_watch(&mut self) {
        for child in CHILDREN {
            let Some(present) = self.world.server.get(child) else {
                assert!(child.contains("poddisruptionbudgets"), "seed {}: {child} is missing", self.seed);
                continue;
            };
            let label = |child: &Value| child["metadata"]["labels"]["app.kubernetes.io/name"].clone();
            let right = label(&present);
            self.world.server.change(child, |child| child["metadata"]["labels"]["app.kubernetes.io/name"] = json!("x"));
            self.until(child, label, right).await;
        }
        let ready = |resource: &Value| resource["status"]["readyReplicas"].clone();
        let replicas = self.world.resource().spec.replicas;
        self.world.server.change("/api/v1/namespaces/ns/pods/mqtt-0", |pod| {
            pod["status"]["conditions"][0]["status"] = json!("False");
        });
        self.until(RESOURCE, ready, json!(replicas - 1)).await;
        self.world.server.change("/api/v1/namespaces/ns/pods/mqtt-0", |pod| {
            pod["status"]["conditions"][0]["status"] = json!("True");
        });
        self.until(RESOURCE, ready, json!(replicas)).await;

        let claim = "/api/v1/namespaces/ns/persistentvolumeclaims/data-mqtt-0";
        let size = |claim: &Value| claim["spec"]["resources"]["requests"]["storage"].clone();
        self.world.server.change(claim, |claim| claim["spec"]["resources"]["requests"]["storage"] = json!("1Mi"));
        self.until(claim, size, json!("1Gi")).await;

        let paused = |resource: &Value| {
            let conditions = resource["status"]["conditions"].as_array().unwrap();
            conditions.iter().find(|one| one["type"] == "Paused").unwrap()["status"].clone()
        };
        self.world.server.change(RESOURCE, |resource| {
            resource["metadata"]["annotations"] = json!({ PAUSED_ANNOTATION: "true" });
        });
        self.until(RESOURCE, paused, json!("True")).await;
    }

    async fn until<T: PartialEq + Debug>(&self, path: &str, look: impl Fn(&Value) -> T, wanted: T) {
        let end = Instant::now() + ANSWER_DEADLINE;
        loop {
            sleep(STEP / 20).await;
            let now = self.world.server.get(path).map(|object| look(&object));
            if now.as_ref() == Some(&wanted) {
                return;
            }
            assert!(Instant::now() < end, "seed {}: {path} is {now:?} and not {wanted:?}", self.seed);
        }
    }

    /// Has the controller end as a signal does, and gives all that was asked and told.
    async fn stop(self) -> Vec<String> {
        self.stop.send_replace(true);
        let ended = tokio::time::timeout(STEP, self.running).await;
        assert!(matches!(ended, Ok(Ok(()))), "seed {}: it does not end: {ended:?}", self.seed);
        self.world.server.course()
    }
}
