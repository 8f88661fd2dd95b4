//! One reconcile a step, called by hand, its caches as old as the seed says: every order of looks and acts can come.

use std::sync::Arc;

use kube::runtime::controller::Action;
use rand::Rng;

use super::{STEPS, seeds, world::World};
use crate::{
    api::MqttBroker,
    apply::Ledger,
    event::Recorder,
    fixtures::{CacheWriters, now, settings},
    reconcile::{Context, RECOVERING_INTERVAL, REST_INTERVAL, reconcile},
    telemetry::Metrics,
};

/// Steps without faults within which everything must have come to rest.
const STEPS_TO_REST: u32 = 200;

#[tokio::test]
async fn it_is_safe_while_everything_fails_and_comes_to_rest_afterwards() {
    for seed in seeds(0..10) {
        // A failing step says which seed it was.
        eprintln!("seed {seed}");
        let mut operator = Operator::new(seed);
        operator.world.start_failing();
        for _ in 0..STEPS {
            operator.world.a_person_changes_something();
            operator.world.something_breaks();
            operator.step().await;
        }
        operator.world.stop_failing();
        let mut steps = 0;
        while !operator.is_at_rest() {
            operator.step().await;
            steps += 1;
            assert!(steps < STEPS_TO_REST, "seed {seed} does not come to rest: {}", operator.world.describe());
        }
        assert!(operator.world.is_as_asked_for(), "seed {seed}: {}", operator.world.describe());
        operator.world.server.take_requests();
        for _ in 0..20 {
            operator.step().await;
        }
        assert_eq!(operator.world.server.take_writes(), Vec::<String>::new(), "seed {seed}: writes at rest");
    }
}

struct Operator {
    world: World,
    writers: CacheWriters,
    context: Arc<Context>,
    resource: Arc<MqttBroker>,
    last_action: Option<Action>,
}

impl Operator {
    fn new(seed: u64) -> Self {
        let world = World::new(seed);
        let (mut writers, caches) = CacheWriters::new();
        writers.sync(&world.server);
        let context = Arc::new(Context {
            recorder: Arc::new(Recorder::new(world.client.clone(), "test".to_owned())),
            client: world.client.clone(),
            caches,
            brokers: world.door.clone(),
            settings: settings(),
            ledger: Ledger::default(),
            metrics: Metrics::default(),
            now,
        });
        let resource = Arc::new(world.resource());
        Self { world, writers, context, resource, last_action: None }
    }

    /// One reconcile, then everybody else's turn.
    async fn step(&mut self) {
        self.refresh_caches();
        let before = self.world.before();
        self.last_action = reconcile(self.resource.clone(), self.context.clone()).await.ok();
        self.world.assert_that_it_was_safe(&before);
        self.world.everybody_elses_turn();
    }

    /// A cache that lags shows what was true some steps ago.
    fn refresh_caches(&mut self) {
        let lags = |world: &mut World| world.failing && world.random.random_range(0..3) == 0;
        if !lags(&mut self.world) {
            self.writers.sync(&self.world.server);
        }
        if !lags(&mut self.world) {
            self.writers.sync_pods(&self.world.server);
        }
        if !lags(&mut self.world) {
            self.resource = Arc::new(self.world.resource());
        }
    }

    fn is_at_rest(&self) -> bool {
        // Below three brokers a failover is never ready, so the reconciler goes on asking them, and nobody else.
        let rest = if self.resource.spec.replicas < 3 { RECOVERING_INTERVAL } else { REST_INTERVAL };
        self.last_action == Some(Action::requeue(rest))
            && self.world.is_in_sync()
            && self.world.server.take_writes().is_empty()
    }
}
