//! Normative statements of MQTT 5.0 that a server can violate, each tried by its number with raw bytes on a real broker. One
//! file per chapter of the standard.

mod broker;
mod delivery;
mod packet_ids;

use broker::Broker;

/// The steps of one client's conversation.
enum Step {
    /// The client sends these bytes.
    Send(&'static [u8]),
    /// The next packet is a CONNACK that accepts; whether it says that a session is present.
    Accepted(bool),
    /// The next packet is exactly this.
    Expect(&'static [u8]),
    /// The next packet begins like this.
    Begins(&'static [u8]),
    /// Nothing comes before the answer to a PINGREQ.
    Nothing,
    /// The broker says DISCONNECT with this reason, and closes.
    Disconnected(u8),
    /// The client closes the connection and opens a new one.
    Again,
}

/// A statement, and a conversation that shows whether it is kept.
struct Case {
    statement: &'static str,
    steps: &'static [Step],
}

/// CONNECT with Clean Start, client id `c`.
const CONNECT: &[u8] = b"\x10\x0e\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x01c";
/// CONNECT with Clean Start and Receive Maximum 1.
const CONNECT_ONE: &[u8] = b"\x10\x11\x00\x04MQTT\x05\x02\x00\x00\x03\x21\x00\x01\x00\x01c";
/// CONNECT of a session that lasts an hour: anew, and to go on with it.
const CONNECT_NEW: &[u8] = b"\x10\x13\x00\x04MQTT\x05\x02\x00\x00\x05\x11\x00\x00\x0e\x10\x00\x01k";
const CONNECT_KEPT: &[u8] = b"\x10\x13\x00\x04MQTT\x05\x00\x00\x00\x05\x11\x00\x00\x0e\x10\x00\x01k";
/// SUBSCRIBE to `a` at QoS 2, packet id 1; its SUBACK.
const SUBSCRIBE: &[u8] = b"\x82\x07\x00\x01\x00\x00\x01a\x02";
const SUBACK: &[u8] = b"\x90\x04\x00\x01\x00\x02";

/// Runs every case on one broker, and names those that fail together.
fn keep(cases: &[Case]) {
    let broker = Broker::start();
    let failed: Vec<String> = cases
        .iter()
        .filter_map(|case| broker.converse(case.steps).err().map(|error| format!("[{}] {error}", case.statement)))
        .collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
