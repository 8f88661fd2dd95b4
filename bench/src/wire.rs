//! The few MQTT 3.1.1 packets that a load generator and the floor need, and how to find packets in a buffer.

/// DISCONNECT.
pub const DISCONNECT: [u8; 2] = [0xe0, 0];

/// PUBLISH, as [`kind`] tells it.
pub const PUBLISH: u8 = 3;
/// PUBREC, as [`kind`] tells it.
pub const PUBREC: u8 = 5;
/// PUBREL, as [`kind`] tells it.
pub const PUBREL: u8 = 6;

/// CONNECT without keep alive; `persistent`: with a session that outlives the connection.
pub fn connect(client_id: &str, persistent: bool) -> Vec<u8> {
    let clean_session = if persistent { 0 } else { 0b10 };
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, clean_session, 0, 0];
    string(&mut body, client_id);
    packet(0x10, &body)
}

/// SUBSCRIBE to one filter.
pub fn subscribe(packet_id: u16, filter: &str, qos: u8) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    string(&mut body, filter);
    body.push(qos);
    packet(0x82, &body)
}

/// PUBLISH; the packet id, if `qos` is above 0, is written by [`set_packet_id`].
pub fn publish(topic: &str, qos: u8, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(topic.len() + payload.len() + 4);
    string(&mut body, topic);
    if qos > 0 {
        body.extend_from_slice(&[0, 1]);
    }
    body.extend_from_slice(payload);
    packet(0x30 | (qos << 1), &body)
}

/// What a packet is: the type in its first byte.
pub fn kind(packet: &[u8]) -> u8 {
    packet[0] >> 4
}

/// The QoS of a PUBLISH.
pub fn qos(publish: &[u8]) -> u8 {
    (publish[0] >> 1) & 3
}

/// The payload of a PUBLISH.
pub fn payload(publish: &[u8]) -> &[u8] {
    let packet_id = if qos(publish) > 0 { 2 } else { 0 };
    &publish[packet_id_offset(publish) + packet_id..]
}

/// Where the packet id of a PUBLISH stands, or would stand.
pub fn packet_id_offset(publish: &[u8]) -> usize {
    let header = header_len(publish);
    header + 2 + usize::from(u16::from_be_bytes([publish[header], publish[header + 1]]))
}

/// Writes the packet id at `offset`.
pub fn set_packet_id(publish: &mut [u8], offset: usize, packet_id: u16) {
    publish[offset..offset + 2].copy_from_slice(&packet_id.to_be_bytes());
}

/// PUBACK.
pub fn puback(packet_id: [u8; 2]) -> [u8; 4] {
    [0x40, 2, packet_id[0], packet_id[1]]
}

/// What a receiver answers to a PUBLISH: nothing, PUBACK or PUBREC, by its QoS.
pub fn acknowledge(publish: &[u8], out: &mut Vec<u8>) {
    let first = match qos(publish) {
        0 => return,
        1 => 0x40,
        _ => 0x50,
    };
    let at = packet_id_offset(publish);
    out.extend_from_slice(&[first, 2, publish[at], publish[at + 1]]);
}

/// PUBREL, to a PUBREC.
pub fn release(pubrec: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&[0x62, 2, pubrec[2], pubrec[3]]);
}

/// PUBCOMP, to a PUBREL.
pub fn complete(pubrel: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&[0x70, 2, pubrel[2], pubrel[3]]);
}

/// The length of the first packet in `buffer`, header included; `None` until it is whole.
pub fn packet_len(buffer: &[u8]) -> Option<usize> {
    let (mut length, mut shift) = (0_usize, 0);
    for (place, byte) in buffer.iter().enumerate().skip(1).take(4) {
        length |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            let total = place + 1 + length;
            return (total <= buffer.len()).then_some(total);
        }
        shift += 7;
    }
    None
}

/// The length of the fixed header of a whole packet.
pub fn header_len(packet: &[u8]) -> usize {
    1 + packet.iter().skip(1).take_while(|byte| **byte & 0x80 != 0).count() + 1
}

fn string(body: &mut Vec<u8>, text: &str) {
    body.extend_from_slice(&(text.len() as u16).to_be_bytes());
    body.extend_from_slice(text.as_bytes());
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut length = body.len();
    loop {
        let more = length > 0x7f;
        out.push((length & 0x7f) as u8 | if more { 0x80 } else { 0 });
        length >>= 7;
        if !more {
            break;
        }
    }
    out.extend_from_slice(body);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_found_whole_and_not_before() {
        let packet = publish("a/b", 1, &[7; 200]);
        assert_eq!(packet_len(&packet), Some(packet.len()));
        assert_eq!(header_len(&packet), 3);
        for cut in 0..packet.len() {
            assert_eq!(packet_len(&packet[..cut]), None, "cut at {cut}");
        }
    }

    #[test]
    fn the_packet_id_is_written_behind_the_topic() {
        let mut packet = publish("a/b", 1, b"x");
        let offset = packet_id_offset(&packet);
        set_packet_id(&mut packet, offset, 0x0102);
        assert_eq!(packet, [0x32, 8, 0, 3, b'a', b'/', b'b', 1, 2, b'x']);
    }

    #[test]
    fn the_payload_is_what_follows_topic_and_packet_id() {
        for level in 0..=2 {
            assert_eq!(payload(&publish("a/b", level, b"xyz")), b"xyz", "QoS {level}");
        }
    }

    #[test]
    fn each_qos_is_answered_as_it_must_be() {
        let answer = |level| {
            let mut packet = publish("a/b", level, b"x");
            let offset = packet_id_offset(&packet);
            if level > 0 {
                set_packet_id(&mut packet, offset, 0x0102);
            }
            let mut out = Vec::new();
            acknowledge(&packet, &mut out);
            out
        };
        assert_eq!(answer(0), Vec::<u8>::new());
        assert_eq!(answer(1), [0x40, 2, 1, 2]);
        assert_eq!(answer(2), [0x50, 2, 1, 2]);
        let (mut pubrel, mut pubcomp) = (Vec::new(), Vec::new());
        release(&answer(2), &mut pubrel);
        complete(&pubrel, &mut pubcomp);
        assert_eq!((pubrel, pubcomp), (vec![0x62, 2, 1, 2], vec![0x70, 2, 1, 2]));
    }
}
