use super::fixture::*;
use crate::message::QoS;
use crate::protocol::Version;

#[test]
fn clients_over_tcp_meet_across_workers_on_threads() {
    run_test_in_real_time(async {
        let node = Node::on_threads(2);
        let address = node.listen();
        // Connections are dealt in turn: these two live on different workers.
        let mut subscriber = Client::connect_to(address, Version::V5, "subscriber").await;
        let mut publisher = Client::connect_to(address, Version::V3_1_1, "publisher").await;
        subscriber.subscribe("a/#", QoS::AtLeastOnce, 1).await;
        for round in 0..10 {
            for number in 1..=100 {
                publisher.publish(QoS::AtLeastOnce, number, "a/b", &format!("{round} {number}")).await;
            }
            for number in 1..=100 {
                publisher.expect(puback(number)).await;
                let (packet_id, payload) = subscriber.expect_publish().await;
                assert_eq!(payload, format!("{round} {number}"));
                subscriber.send(puback(packet_id)).await;
            }
        }
        assert_ne!(node.holder("subscriber").0.worker, node.holder("publisher").0.worker);
    });
}

#[test]
fn a_last_packet_arrives_although_the_client_goes_on_sending() {
    run_test_in_real_time(async {
        let node = Node::on_threads(1);
        let address = node.listen();
        for _ in 0..20 {
            let mut client = Client::connect_to(address, Version::V5, "client").await;
            let mut bytes = vec![0x00];
            bytes.resize(100_000, 0);
            client.send_bytes(&bytes).await;
            client.expect_disconnect(0x81).await;
        }
    });
}

#[test]
fn a_large_payload_passes_a_socket_that_takes_it_in_parts() {
    run_test_in_real_time(async {
        let node = Node::on_threads(2);
        let address = node.listen();
        let mut near = Client::connect_to(address, Version::V5, "one").await;
        let mut far = Client::connect_to(address, Version::V5, "two").await;
        near.subscribe("a", QoS::AtMostOnce, 0).await;
        far.subscribe("a", QoS::AtMostOnce, 0).await;
        let mut publisher = Client::connect_to(address, Version::V5, "publisher").await;
        let payload = |number| format!("{number}").repeat(1_000_000);
        for number in 0..8 {
            publisher.publish(QoS::AtLeastOnce, 1, "a", &payload(number)).await;
            publisher.publish(QoS::AtLeastOnce, 2, "a", &payload(number + 1)).await;
            for packet_id in [1, 2] {
                publisher.expect(puback(packet_id)).await;
            }
            for client in [&mut near, &mut far] {
                assert!(client.expect_publish().await.1 == payload(number));
                assert!(client.expect_publish().await.1 == payload(number + 1));
            }
        }
    });
}
