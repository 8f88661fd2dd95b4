//! Chapter 4: the flows of QoS 1 and 2, redelivery, order.

use super::Step::*;
use super::{CONNECT, CONNECT_KEPT, CONNECT_NEW, Case, SUBACK, SUBSCRIBE, keep};

#[test]
fn qos_1() {
    keep(&[
        Case {
            statement: "MQTT-4.3.2-4",
            steps: &[
                Send(CONNECT),
                Accepted(false),
                Send(b"\x32\x06\x00\x01n\x00\x07\x00"),
                Expect(b"\x40\x03\x00\x07\x10"),
            ],
        },
        Case {
            statement: "MQTT-4.3.2-5",
            steps: &[
                Send(CONNECT),
                Accepted(false),
                Send(SUBSCRIBE),
                Expect(SUBACK),
                Send(b"\x32\x07\x00\x01a\x00\x07\x00x"),
                Expect(b"\x32\x07\x00\x01a\x00\x02\x00x"),
                Expect(b"\x40\x02\x00\x07"),
                Send(b"\x3a\x07\x00\x01a\x00\x07\x00x"),
                Expect(b"\x32\x07\x00\x01a\x00\x03\x00x"),
                Expect(b"\x40\x02\x00\x07"),
            ],
        },
    ]);
}

#[test]
fn qos_2_from_a_client() {
    keep(&[
        Case {
            statement: "MQTT-4.3.3-8, MQTT-4.3.3-10, MQTT-4.3.3-11, MQTT-4.3.3-12",
            steps: &[
                Send(CONNECT),
                Accepted(false),
                Send(SUBSCRIBE),
                Expect(SUBACK),
                Send(b"\x34\x07\x00\x01a\x00\x07\x00x"),
                Expect(b"\x34\x07\x00\x01a\x00\x02\x00x"),
                Expect(b"\x50\x02\x00\x07"),
                Send(b"\x3c\x07\x00\x01a\x00\x07\x00x"),
                Expect(b"\x50\x02\x00\x07"),
                Send(b"\x62\x02\x00\x07"),
                Expect(b"\x70\x02\x00\x07"),
                Send(b"\x34\x07\x00\x01a\x00\x07\x00y"),
                Expect(b"\x34\x07\x00\x01a\x00\x03\x00y"),
                Expect(b"\x50\x02\x00\x07"),
            ],
        },
        Case {
            statement: "MQTT-4.3.3-10, over connections of one session",
            steps: &[
                Send(CONNECT_NEW),
                Accepted(false),
                Send(b"\x34\x07\x00\x01p\x00\x07\x00x"),
                Begins(b"\x50"),
                Send(b"\x82\x07\x00\x01\x00\x00\x01p\x02"),
                Expect(SUBACK),
                Again,
                Send(CONNECT_KEPT),
                Accepted(true),
                Send(b"\x3c\x07\x00\x01p\x00\x07\x00x"),
                Begins(b"\x50"),
                Nothing,
                Send(b"\x62\x02\x00\x07"),
                Expect(b"\x70\x02\x00\x07"),
                Send(b"\x62\x02\x00\x07"),
                Expect(b"\x70\x03\x00\x07\x92"),
            ],
        },
    ]);
}

#[test]
fn qos_2_to_a_client() {
    keep(&[
        Case {
            statement: "MQTT-4.3.3-2, MQTT-4.3.3-4",
            steps: &[
                Send(CONNECT),
                Accepted(false),
                Send(SUBSCRIBE),
                Expect(SUBACK),
                Send(b"\x34\x07\x00\x01a\x00\x07\x00x"),
                Expect(b"\x34\x07\x00\x01a\x00\x02\x00x"),
                Expect(b"\x50\x02\x00\x07"),
                Send(b"\x50\x02\x00\x02"),
                Expect(b"\x62\x02\x00\x02"),
                Send(b"\x70\x02\x00\x02"),
                Nothing,
            ],
        },
        Case {
            statement: "MQTT-4.3.3-3, MQTT-4.3.3-6, MQTT-4.4.0-1, MQTT-4.6.0-1",
            steps: &[
                Send(CONNECT_NEW),
                Accepted(false),
                Send(SUBSCRIBE),
                Expect(SUBACK),
                Send(b"\x34\x07\x00\x01a\x00\x07\x00x"),
                // PUBLISH and PUBREC come in either order.
                Begins(b""),
                Begins(b""),
                Send(b"\x34\x07\x00\x01a\x00\x08\x00y"),
                Begins(b""),
                Begins(b""),
                Send(b"\x50\x02\x00\x02"),
                Expect(b"\x62\x02\x00\x02"),
                Again,
                Send(CONNECT_KEPT),
                Accepted(true),
                Expect(b"\x62\x02\x00\x02"),
                Expect(b"\x3c\x07\x00\x01a\x00\x03\x00y"),
                Nothing,
            ],
        },
        Case {
            statement: "MQTT-4.4.0-2",
            steps: &[
                Send(CONNECT_NEW),
                Accepted(false),
                Send(SUBSCRIBE),
                Expect(SUBACK),
                Send(b"\x34\x07\x00\x01a\x00\x07\x00x"),
                Begins(b""),
                Begins(b""),
                Send(b"\x50\x03\x00\x02\x97"),
                Nothing,
                Again,
                Send(CONNECT_KEPT),
                Accepted(true),
                Nothing,
            ],
        },
    ]);
}

#[test]
fn answers_come_in_the_order_of_what_they_answer() {
    keep(&[Case {
        statement: "MQTT-4.6.0-2, MQTT-4.6.0-3",
        steps: &[
            Send(CONNECT),
            Accepted(false),
            Send(b"\x34\x06\x00\x01n\x00\x01\x00\x32\x06\x00\x01n\x00\x02\x00\x34\x06\x00\x01n\x00\x03\x00"),
            Expect(b"\x50\x03\x00\x01\x10"),
            Expect(b"\x40\x03\x00\x02\x10"),
            Expect(b"\x50\x03\x00\x03\x10"),
        ],
    }]);
}
