//! The load generator against the floor, in this process.

use super::*;
use crate::floor;

/// A floor on a thread of its own.
fn floor() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    listener.set_nonblocking(true).expect("a socket");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { floor::serve(tokio::net::TcpListener::from_std(listener)?).await })
    });
    address
}

fn load(shape: Shape, qos: u8, payload: usize) -> Result<Throughput> {
    let load = Load { shape, payload, window: 4, qos, persistent: false, without_wildcards: false };
    let (warm_up, measure) = (Duration::from_millis(50), Duration::from_millis(200));
    run(floor(), load, warm_up, measure, || Ok(Duration::ZERO))
}

#[test]
fn every_shape_flows_at_every_qos_of_the_floor() {
    for shape in [Shape::Pairs(3), Shape::FanOut(5), Shape::FanIn(4)] {
        for qos in [0, 1] {
            let measured = load(shape, qos, 64).unwrap_or_else(|error| panic!("{shape:?}, QoS {qos}: {error:#}"));
            assert!(measured.delivered > 100, "{shape:?}, QoS {qos}: {} delivered", measured.delivered);
        }
    }
}

#[test]
fn packets_larger_than_what_is_read_at_once_flow() {
    load(Shape::Pairs(2), 1, 2 * SCRATCH_BYTES).expect("flows");
}

#[test]
fn a_broker_that_delivers_nothing_is_an_error() {
    let error = load(Shape::Wildcards(1), 0, 64).expect_err("the floor knows no wildcards");
    assert!(error.to_string().contains("nothing was delivered"), "{error:#}");
}
