//! Packets, their properties, topics.

use mqtt_broker::protocol::{
    Packet, PropertiesBuilder, PropertyId, PropertyValue, Version, decode, frame, glimpse, parse_filter,
    valid_topic_name,
};
use mqtt_broker::router::Trie;

use crate::mutation::fuzz;

const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

/// What decodes is written as bytes that decode to the same.
fn decode_and_back(bytes: &[u8], version: Version) {
    let seen = glimpse(bytes);
    let Ok(Some((packet, length))) = decode(bytes, version, usize::MAX) else { return };
    assert!(length <= bytes.len());
    assert_eq!(frame(bytes, length).unwrap().unwrap().total, length);
    assert!(frame(bytes, length - 1).is_err(), "it is larger than this");
    assert_eq!(decode(&bytes[..length - 1], version, usize::MAX), Ok(None), "a part is waited for");
    let version = match &packet {
        Packet::Connect(connect) => {
            let seen = seen.unwrap();
            assert_eq!(seen.level, connect.version as u8);
            let taken = connect.properties.int(PropertyId::MaximumPacketSize).unwrap_or(u32::MAX);
            assert_eq!(seen.packet_bytes_max, (connect.version == Version::V5).then_some(taken));
            connect.version
        }
        _ => version,
    };
    let mut again = Vec::new();
    packet.encode(version, &mut again);
    assert_eq!(decode(&again, version, usize::MAX), Ok(Some((packet, again.len()))), "{packet:?}");
}

#[test]
fn packets() {
    fuzz("packets", Vec::new(), |bytes| VERSIONS.into_iter().for_each(|version| decode_and_back(bytes, version)));
}

/// The same bytes as the properties of each packet that has some.
#[test]
fn properties() {
    fuzz("properties", Vec::new(), |raw| {
        let length = |count: usize| {
            let mut bytes = Vec::new();
            let mut count = count;
            loop {
                let more = if count > 0x7f { 0x80 } else { 0 };
                bytes.push(count as u8 & 0x7f | more);
                count >>= 7;
                if count == 0 {
                    return bytes;
                }
            }
        };
        let properties = [&*length(raw.len()), raw].concat();
        let connect: &[u8] = b"\x00\x04MQTT\x05\x02\x00\x00";
        for (first, before, after) in [
            (0x10, connect, &b"\x00\x01c"[..]),
            (0x10, b"\x00\x04MQTT\x05\x06\x00\x00\x00\x00\x01c", b"\x00\x01w\x00\x00"),
            (0x20, b"\x00\x00", b""),
            (0x30, b"\x00\x01t", b"payload"),
            (0x40, b"\x00\x01\x00", b""),
            (0x62, b"\x00\x01\x00", b""),
            (0x82, b"\x00\x01", b"\x00\x01t\x00"),
            (0x90, b"\x00\x01", b"\x00"),
            (0xa2, b"\x00\x01", b"\x00\x01t"),
            (0xb0, b"\x00\x01", b"\x00"),
            (0xe0, b"\x00", b""),
            (0xf0, b"\x18", b""),
        ] {
            let body = [before, &properties, after].concat();
            let packet = [&[first], &*length(body.len()), &body].concat();
            decode_and_back(&packet, Version::V5);
            let Ok(Some((Packet::Publish(publish), _))) = decode(&packet, Version::V5, usize::MAX) else { continue };
            assert_eq!(publish.payload, b"payload");
            let mut built = PropertiesBuilder::new();
            for (id, value) in publish.properties.iter() {
                built = match value {
                    PropertyValue::Int(value) => built.int(id, value),
                    PropertyValue::Text(text) => built.text(id, text),
                    PropertyValue::Binary(bytes) => built.binary(id, bytes),
                    PropertyValue::Pair(name, value) => built.user(name, value),
                };
            }
            assert_eq!(built.raw(), raw, "nothing is lost between bytes and values");
            let mut forwarded = Vec::new();
            publish.properties.forwarded_into(&mut forwarded);
            assert!(forwarded.len() <= raw.len());
        }
    });
}

/// What the standard says of a match, word by word.
fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

/// A filter, a line's end, a topic name.
#[test]
fn topics() {
    fuzz("topics", Vec::new(), |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let (filter, topic) = text.split_once('\n').unwrap_or((text, text));
        let Some(parsed) = parse_filter(filter) else { return };
        assert!(!parsed.filter.is_empty() && filter.ends_with(parsed.filter));
        assert!(parsed.share.is_none_or(|name| !name.is_empty() && !name.contains(['/', '+', '#'])));
        if !valid_topic_name(topic) {
            return;
        }
        let mut trie = Trie::new();
        trie.insert(parsed.filter, ());
        let mut found = 0;
        trie.for_each_match(topic, |_, ()| found += 1);
        assert_eq!(found, usize::from(matches(parsed.filter, topic)), "{:?} and {topic:?}", parsed.filter);
        assert_eq!(trie.remove(parsed.filter), Some(()));
        assert!(trie.is_empty());
    });
}
