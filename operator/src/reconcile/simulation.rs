//! The reconciler for hundreds of steps in a world that fails from a seed: requests are refused, answers are lost, caches
//! lag, brokers are silent, pods die, and a person changes the resource all the while. After every step the invariants
//! hold; when the faults end, everything comes to where it was asked to be, and then nothing is written any more.

mod world;

use self::world::World;

const STEPS: u32 = 150;
/// Seeds without being asked for more; `SIMULATION_SEEDS=100..200` in the environment runs others.
const SEEDS: std::ops::Range<u64> = 0..10;
/// Steps without faults within which everything must have come to rest.
const STEPS_TO_REST: u32 = 200;

#[tokio::test]
async fn it_is_safe_while_everything_fails_and_comes_to_rest_afterwards() {
    for seed in seeds() {
        // A failing step says which seed it was.
        eprintln!("seed {seed}");
        let mut world = World::new(seed).await;
        world.start_failing();
        for _ in 0..STEPS {
            world.a_person_changes_something();
            world.something_breaks();
            world.step().await;
        }
        world.stop_failing();
        let mut steps = 0;
        while !world.is_at_rest() {
            world.step().await;
            steps += 1;
            assert!(steps < STEPS_TO_REST, "seed {seed} does not come to rest: {}", world.describe());
        }
        world.assert_as_asked_for();
        world.forget_requests();
        for _ in 0..20 {
            world.step().await;
        }
        assert_eq!(world.writes(), Vec::<String>::new(), "seed {seed}: writes at rest");
    }
}

fn seeds() -> std::ops::Range<u64> {
    let Ok(wanted) = std::env::var("SIMULATION_SEEDS") else {
        return SEEDS;
    };
    let (first, end) = wanted.split_once("..").expect("SIMULATION_SEEDS is FIRST..END");
    first.parse().unwrap()..end.parse().unwrap()
}
