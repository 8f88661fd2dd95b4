//! Chapters 2 and 3: packet identifiers, flags of PUBLISH, and what the four answers say.

use super::Step::*;
use super::{CONNECT, CONNECT_ONE, Case, SUBACK, SUBSCRIBE, keep};

#[test]
fn packet_identifiers_and_flags() {
    keep(&[
        Case {
            statement: "MQTT-2.2.1-3",
            steps: &[Send(CONNECT), Accepted(false), Send(b"\x32\x06\x00\x01a\x00\x00\x00"), Disconnected(0x81)],
        },
        Case {
            statement: "MQTT-2.2.1-5",
            steps: &[
                Send(CONNECT),
                Accepted(false),
                Send(b"\x32\x06\x00\x01n\xff\xfe\x00"),
                Expect(b"\x40\x03\xff\xfe\x10"),
                Send(b"\x34\x06\x00\x01n\x12\x34\x00"),
                Expect(b"\x50\x03\x12\x34\x10"),
                Send(b"\x62\x02\x12\x34"),
                Expect(b"\x70\x02\x12\x34"),
            ],
        },
        Case {
            statement: "MQTT-2.2.1-6",
            steps: &[
                Send(CONNECT),
                Accepted(false),
                Send(b"\x82\x07\x43\x21\x00\x00\x01n\x02"),
                Expect(b"\x90\x04\x43\x21\x00\x02"),
                Send(b"\xa2\x06\x43\x22\x00\x00\x01n"),
                Expect(b"\xb0\x04\x43\x22\x00\x00"),
            ],
        },
        Case {
            statement: "MQTT-3.3.1-2",
            steps: &[Send(CONNECT), Accepted(false), Send(b"\x38\x04\x00\x01a\x00"), Disconnected(0x81)],
        },
        Case {
            statement: "MQTT-3.3.1-4",
            steps: &[Send(CONNECT), Accepted(false), Send(b"\x36\x06\x00\x01a\x00\x01\x00"), Disconnected(0x81)],
        },
        Case {
            statement: "MQTT-3.6.1-1",
            steps: &[Send(CONNECT), Accepted(false), Send(b"\x60\x02\x00\x01"), Disconnected(0x81)],
        },
        Case {
            statement: "section 3.7.2.1: a packet id that is not known",
            steps: &[
                Send(CONNECT),
                Accepted(false),
                Send(b"\x62\x02\x00\x09"),
                Expect(b"\x70\x03\x00\x09\x92"),
                Send(b"\x50\x02\x00\x09"),
                Expect(b"\x62\x03\x00\x09\x92"),
            ],
        },
    ]);
}

#[test]
fn receive_maximum_of_a_client() {
    keep(&[
        Case {
            statement: "MQTT-3.3.4-9",
            steps: &[
                Send(CONNECT_ONE),
                Accepted(false),
                Send(SUBSCRIBE),
                Expect(SUBACK),
                Send(b"\x34\x07\x00\x01a\x00\x01\x00x"),
                Begins(b"\x34"),
                Begins(b"\x50"),
                Send(b"\x34\x07\x00\x01a\x00\x02\x00y"),
                Begins(b"\x50"),
                Nothing,
                Send(b"\x50\x02\x00\x02"),
                Expect(b"\x62\x02\x00\x02"),
                Nothing,
                Send(b"\x70\x02\x00\x02"),
                Expect(b"\x34\x07\x00\x01a\x00\x03\x00y"),
            ],
        },
        Case {
            // Nobody may publish to $SYS.
            statement: "MQTT-4.3.3-9",
            steps: &[
                Send(CONNECT),
                Accepted(false),
                Send(b"\x34\x0d\x00\x06$SYS/a\x00\x07\x00xy"),
                Expect(b"\x50\x03\x00\x07\x87"),
                Send(b"\x34\x07\x00\x01n\x00\x07\x00x"),
                Expect(b"\x50\x03\x00\x07\x10"),
            ],
        },
        Case {
            statement: "MQTT-3.3.4-10",
            steps: &[
                Send(CONNECT_ONE),
                Accepted(false),
                Send(SUBSCRIBE),
                Expect(SUBACK),
                Send(b"\x32\x07\x00\x01a\x00\x01\x00x"),
                Begins(b"\x32"),
                Begins(b"\x40"),
                Send(b"\x82\x07\x00\x05\x00\x00\x01b\x00"),
                Expect(b"\x90\x04\x00\x05\x00\x00"),
                Nothing,
            ],
        },
        Case {
            statement: "MQTT-4.9.0-3",
            steps: &[
                Send(CONNECT_ONE),
                Accepted(false),
                Send(SUBSCRIBE),
                Expect(SUBACK),
                Send(b"\x32\x07\x00\x01a\x00\x01\x00x"),
                Begins(b"\x32"),
                Begins(b"\x40"),
                Send(b"\x34\x07\x00\x01n\x00\x02\x00y"),
                Expect(b"\x50\x03\x00\x02\x10"),
                Send(b"\x62\x02\x00\x02"),
                Expect(b"\x70\x02\x00\x02"),
            ],
        },
    ]);
}
