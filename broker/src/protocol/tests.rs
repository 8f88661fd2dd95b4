//! One table of packets drives decode, encode and prefix tests; properties of the codec are tried at random.

use proptest::prelude::*;

use super::*;
use crate::message::{QoS, SubscriptionOptions};

const MAX: usize = 1 << 20;

/// A row of the table: its name, the version of the connection, the bytes, and what they say.
type Row = (&'static str, Version, Vec<u8>, Packet<'static>);

/// Bytes in hexadecimal; the remaining length is filled in behind the first byte.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let mut bytes: Vec<u8> =
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect();
    bytes.insert(1, u8::try_from(bytes.len() - 1).unwrap());
    bytes
}

fn having(raw: &'static [u8]) -> Properties<'static> {
    Properties::built(raw)
}

fn connect(version: Version, client_id: &'static str) -> Connect<'static> {
    Connect {
        version,
        clean_start: true,
        keep_alive_seconds: 10,
        properties: Properties::default(),
        client_id,
        will: None,
        user_name: None,
        password: None,
    }
}

fn publish(topic: &'static str, payload: &'static [u8]) -> Publish<'static> {
    let (dup, qos, retain, packet_id) = (false, QoS::AtMostOnce, false, 0);
    Publish { dup, qos, retain, topic, packet_id, properties: Properties::default(), payload }
}

fn acknowledgement(packet_id: u16, reason: u8, properties: &'static [u8]) -> Acknowledgement<'static> {
    Acknowledgement { packet_id, reason: ReasonCode(reason), properties: having(properties) }
}

fn suback(packet_id: u16, codes: &'static [u8]) -> SubAck<'static> {
    SubAck { packet_id, properties: Properties::default(), codes }
}

/// Every row decodes to its packet, and encodes to its bytes.
fn good() -> Vec<Row> {
    use Packet::*;
    use Version::*;
    #[rustfmt::skip]
    let rows = vec![
        ("CONNECT 3.1", V3_1, hex("10 0006 4d5149736470 03 02 000a 0001 61"), Connect(connect(V3_1, "a"))),
        ("CONNECT 3.1.1, clean", V3_1_1, hex("10 0004 4d515454 04 02 000a 0001 61"), Connect(connect(V3_1_1, "a"))),
        ("CONNECT 3.1.1 with will, user name and password", V3_1_1,
            hex("10 0004 4d515454 04 ec 003c 0000 0001 74 0002 6869 0001 75 0003 707764"),
            Connect(super::Connect {
                clean_start: false,
                keep_alive_seconds: 60,
                will: Some(WillView {
                    qos: QoS::AtLeastOnce,
                    retain: true,
                    properties: Properties::default(),
                    topic: "t",
                    payload: b"hi",
                }),
                user_name: Some("u"),
                password: Some(b"pwd"),
                ..connect(V3_1_1, "")
            })),
        ("CONNECT 5.0 with properties", V5, hex("10 0004 4d515454 05 00 0000 08 11 0000000a 21 0014 0000"),
            Connect(super::Connect {
                clean_start: false,
                keep_alive_seconds: 0,
                properties: having(&[0x11, 0, 0, 0, 10, 0x21, 0, 20]),
                ..connect(V5, "")
            })),
        ("CONNECT 5.0 with will delay", V5,
            hex("10 0004 4d515454 05 16 000a 00 0001 61 05 18 00000005 0001 74 0001 78"),
            Connect(super::Connect {
                will: Some(WillView {
                    qos: QoS::ExactlyOnce,
                    retain: false,
                    properties: having(&[0x18, 0, 0, 0, 5]),
                    topic: "t",
                    payload: b"x",
                }),
                ..connect(V5, "a")
            })),
        ("CONNECT 5.0 with a password alone", V5, hex("10 0004 4d515454 05 42 000a 00 0001 61 0001 70"),
            Connect(super::Connect { password: Some(b"p"), ..connect(V5, "a") })),
        ("CONNACK 3.1.1", V3_1_1, hex("20 01 00"),
            ConnAck(super::ConnAck { session_present: true, reason: ReasonCode(0), properties: having(&[]) })),
        ("CONNACK 3.1.1, refused", V3_1_1, hex("20 00 05"),
            ConnAck(super::ConnAck { session_present: false, reason: ReasonCode(0x87), properties: having(&[]) })),
        ("CONNACK 5.0", V5, hex("20 00 00 03 21 0010"),
            ConnAck(super::ConnAck { session_present: false, reason: ReasonCode(0), properties: having(&[0x21, 0, 16]) })),
        ("CONNACK 5.0, refused", V5, hex("20 00 9c 00"),
            ConnAck(super::ConnAck { session_present: false, reason: ReasonCode(0x9c), properties: having(&[]) })),
        ("PUBLISH QoS 0", V3_1_1, hex("30 0003 612f62 78"), Publish(publish("a/b", b"x"))),
        ("PUBLISH QoS 1, DUP, retain", V3_1_1, hex("3b 0003 612f62 000a 7879"),
            Publish(super::Publish {
                dup: true, qos: QoS::AtLeastOnce, retain: true, packet_id: 10, ..publish("a/b", b"xy")
            })),
        ("PUBLISH QoS 2 without payload", V3_1_1, hex("34 0003 612f62 ffff"),
            Publish(super::Publish { qos: QoS::ExactlyOnce, packet_id: 0xffff, ..publish("a/b", b"") })),
        ("PUBLISH 5.0 with alias only", V5, hex("30 0000 03 23 0001 78"),
            Publish(super::Publish { properties: having(&[0x23, 0, 1]), ..publish("", b"x") })),
        ("PUBLISH 5.0 with expiry and user property", V5,
            hex("32 0001 61 0001 0c 02 0000003c 26 0001 6b 0001 76 78 79 7a"),
            Publish(super::Publish {
                qos: QoS::AtLeastOnce,
                packet_id: 1,
                properties: having(&[2, 0, 0, 0, 60, 0x26, 0, 1, b'k', 0, 1, b'v']),
                ..publish("a", b"xyz")
            })),
        ("PUBACK", V3_1_1, hex("40 0001"), PubAck(acknowledgement(1, 0, &[]))),
        ("PUBACK 5.0 with reason", V5, hex("40 0001 10"), PubAck(acknowledgement(1, 0x10, &[]))),
        ("PUBACK 5.0 with reason string", V5, hex("40 0001 97 04 1f 0001 78"),
            PubAck(acknowledgement(1, 0x97, &[0x1f, 0, 1, b'x']))),
        ("PUBREC", V5, hex("50 0102"), PubRec(acknowledgement(0x0102, 0, &[]))),
        ("PUBREL", V5, hex("62 0001"), PubRel(acknowledgement(1, 0, &[]))),
        ("PUBREL with reason", V5, hex("62 0001 92"), PubRel(acknowledgement(1, 0x92, &[]))),
        ("PUBCOMP", V3_1_1, hex("70 0001"), PubComp(acknowledgement(1, 0, &[]))),
        ("SUBSCRIBE 3.1.1", V3_1_1, hex("82 0001 0002 612f 01"),
            Subscribe(super::Subscribe {
                packet_id: 1, properties: having(&[]), filters: SubscribeFilters::built(&[0, 2, b'a', b'/', 1])
            })),
        ("SUBSCRIBE 5.0 with identifier and options", V5, hex("82 0001 02 0b 07 0002 2b2f 2d"),
            Subscribe(super::Subscribe {
                packet_id: 1,
                properties: having(&[0x0b, 7]),
                filters: SubscribeFilters::built(&[0, 2, b'+', b'/', 0x2d]),
            })),
        ("SUBACK", V3_1_1, hex("90 0001 01 80"), SubAck(suback(1, &[1, 0x80]))),
        ("SUBACK 5.0", V5, hex("90 0001 00 8f"), SubAck(suback(1, &[0x8f]))),
        ("UNSUBSCRIBE", V3_1_1, hex("a2 0001 0001 61"),
            Unsubscribe(super::Unsubscribe {
                packet_id: 1, properties: having(&[]), filters: UnsubscribeFilters::built(&[0, 1, b'a'])
            })),
        ("UNSUBSCRIBE 5.0", V5, hex("a2 0001 00 0001 61"),
            Unsubscribe(super::Unsubscribe {
                packet_id: 1, properties: having(&[]), filters: UnsubscribeFilters::built(&[0, 1, b'a'])
            })),
        ("UNSUBACK 3.1.1", V3_1_1, hex("b0 0001"), UnsubAck(suback(1, &[]))),
        ("UNSUBACK 5.0", V5, hex("b0 0001 00 11"), UnsubAck(suback(1, &[0x11]))),
        ("PINGREQ", V3_1_1, hex("c0"), PingReq),
        ("PINGRESP", V5, hex("d0"), PingResp),
        ("DISCONNECT", V3_1_1, hex("e0"),
            Disconnect(super::Disconnect { reason: ReasonCode(0), properties: having(&[]) })),
        ("DISCONNECT 5.0 with will", V5, hex("e0 04"),
            Disconnect(super::Disconnect { reason: ReasonCode(4), properties: having(&[]) })),
        ("DISCONNECT 5.0 with expiry", V5, hex("e0 00 05 11 00000000"),
            Disconnect(super::Disconnect { reason: ReasonCode(0), properties: having(&[0x11, 0, 0, 0, 0]) })),
        ("AUTH", V5, hex("f0 18 04 15 0001 6d"),
            Auth(super::Auth { reason: ReasonCode(0x18), properties: having(&[0x15, 0, 1, b'm']) })),
    ];
    rows
}

#[test]
fn every_good_packet_decodes_to_what_it_says_and_encodes_to_its_own_bytes() {
    for (name, version, bytes, packet) in good() {
        assert_eq!(decode(&bytes, version, MAX), Ok(Some((packet, bytes.len()))), "{name}");
        let mut encoded = Vec::new();
        packet.encode(version, &mut encoded);
        assert_eq!(encoded, bytes, "{name}: {packet:?}");
    }
}

#[test]
fn subscription_options_are_read_bit_by_bit() {
    let filters = SubscribeFilters::built(&[0, 1, b'a', 0x2d]);
    let options = SubscriptionOptions {
        qos: QoS::AtLeastOnce,
        no_local: true,
        retain_as_published: true,
        retain_handling: 2,
        identifier: None,
    };
    assert_eq!(filters.iter().collect::<Vec<_>>(), [("a", options)]);
}

#[test]
fn only_mqtt_3_1_sends_again_with_the_dup_flag() {
    for again in [&hex("6a 0001")[..], &hex("8a 0001 0001 61 01"), &hex("aa 0001 0001 61")] {
        assert!(matches!(decode(again, Version::V3_1, MAX), Ok(Some(_))), "{again:02x?}");
        for version in [Version::V3_1_1, Version::V5] {
            assert_eq!(decode(again, version, MAX).unwrap_err().rule, "MQTT-2.1.3-1", "{again:02x?}");
        }
    }
}

#[test]
fn a_length_takes_as_many_bytes_as_it_needs() {
    for (length, header) in [(127, 2), (128, 3), (16_383, 3), (16_384, 4), (2_097_151, 4), (2_097_152, 5)] {
        let payload = vec![7; length - 3];
        let packet = Packet::Publish(Publish { payload: &payload, ..publish("a", b"") });
        let mut bytes = Vec::new();
        packet.encode(Version::V3_1_1, &mut bytes);
        assert_eq!(bytes.len(), header + length);
        let expected = Frame { packet_type: PacketType::Publish, header, total: header + length };
        assert_eq!(frame(&bytes[..header], usize::MAX), Ok(Some(expected)));
        assert_eq!(decode(&bytes, Version::V3_1_1, usize::MAX), Ok(Some((packet, header + length))));
        // The other encoder of lengths.
        let codes = vec![0; length - 2];
        let packet = Packet::SubAck(SubAck { codes: &codes, ..suback(1, &[]) });
        bytes.clear();
        packet.encode(Version::V3_1_1, &mut bytes);
        assert_eq!(decode(&bytes, Version::V3_1_1, usize::MAX), Ok(Some((packet, header + length))));
    }
}

#[test]
fn a_packet_of_exactly_the_maximum_is_taken_and_one_byte_more_is_not() {
    let bytes = hex("30 0001 61 78");
    assert!(decode(&bytes, Version::V3_1_1, bytes.len()).is_ok());
    let error = frame(&bytes[..2], bytes.len() - 1).unwrap_err();
    assert_eq!(error.reason, ReasonCode::PACKET_TOO_LARGE);
}

#[test]
fn every_prefix_of_a_good_packet_is_incomplete() {
    for (name, version, bytes, _) in good() {
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut], version, MAX), Ok(None), "{name}, cut at {cut}");
        }
    }
}

#[test]
fn every_bad_packet_is_refused_with_the_code_and_the_rule() {
    use Version::*;
    #[rustfmt::skip]
    let bad: &[(&str, Version, &[u8], u8, &str)] = &[
        ("type 0", V5, &[0x00, 0], 0x81, "MQTT-2.1.2"),
        ("AUTH in 3.1.1", V3_1_1, &[0xf0, 0], 0x81, "MQTT-2.1.2"),
        ("flags of SUBSCRIBE", V5, &[0x80, 0], 0x81, "MQTT-2.1.3-1"),
        ("flags of PINGREQ", V3_1_1, &[0xc1, 0], 0x81, "MQTT-2.1.3-1"),
        ("PUBLISH with QoS 3", V5, &[0x36, 5, 0, 1, b'a', 0, 1], 0x81, "MQTT-3.3.1-4"),
        ("PUBLISH with DUP at QoS 0", V5, &[0x38, 4, 0, 1, b'a', 0], 0x81, "MQTT-3.3.1-2"),
        ("PUBLISH with a wildcard", V3_1_1, &[0x30, 3, 0, 1, b'#'], 0x90, "MQTT-3.3.2-2"),
        ("PUBLISH without a topic", V3_1_1, &[0x30, 2, 0, 0], 0x82, "MQTT-4.7.3-1"),
        ("PUBLISH without a topic or alias", V5, &[0x30, 3, 0, 0, 0], 0x82, "MQTT-4.7.3-1"),
        ("PUBLISH with alias 0", V5, &[0x30, 6, 0, 0, 3, 0x23, 0, 0], 0x94, "MQTT-3.3.2-8"),
        ("PUBLISH with packet id 0", V3_1_1, &[0x32, 5, 0, 1, b'a', 0, 0], 0x81, "MQTT-2.2.1-3"),
        ("PUBLISH with U+0000", V3_1_1, &[0x30, 3, 0, 1, 0], 0x81, "MQTT-1.5.4-2"),
        ("PUBLISH with a surrogate", V3_1_1, &[0x30, 5, 0, 3, 0xed, 0xa0, 0x80], 0x81, "MQTT-1.5.4-1"),
        ("a topic longer than the packet", V3_1_1, &[0x30, 3, 0, 9, b'a'], 0x81, "MQTT-2.1.4"),
        ("a property twice", V5, &[0x30, 8, 0, 1, b'a', 4, 1, 0, 1, 0], 0x82, "MQTT-2.2.2.2"),
        ("a property of another packet", V5, &[0x30, 7, 0, 1, b'a', 3, 0x21, 0, 1], 0x82, "MQTT-2.2.2.2"),
        ("an unknown property", V5, &[0x30, 6, 0, 1, b'a', 2, 0x7f, 0], 0x81, "MQTT-2.2.2.2"),
        ("a payload format of 2", V5, &[0x30, 6, 0, 1, b'a', 2, 1, 2], 0x82, "MQTT-2.2.2.2"),
        ("a length not in its shortest form", V5, &[0xc0, 0x80, 0x00], 0x81, "MQTT-1.5.5-1"),
        ("a remaining length of five bytes", V5, &[0x30, 0xff, 0xff, 0xff, 0xff, 1], 0x81, "MQTT-2.1.4"),
        ("a packet over the maximum", V5, &[0x30, 0xff, 0xff, 0xff, 0x7f], 0x95, "MQTT-3.1.2-24"),
        ("PINGREQ with a body", V5, &[0xc0, 1, 0], 0x81, "MQTT-2.1.4"),
        ("PUBACK with a reason of DISCONNECT", V5, &[0x40, 3, 0, 1, 0x8e], 0x81, "MQTT-2.4"),
        ("DISCONNECT with a reason of PUBREL", V5, &[0xe0, 1, 0x92], 0x81, "MQTT-2.4"),
        ("SUBACK with a code of UNSUBACK", V5, &[0x90, 4, 0, 1, 0, 0x11], 0x81, "MQTT-3.9.3-2"),
        ("SUBACK 3.1.1 with a code of 5.0", V3_1_1, &[0x90, 3, 0, 1, 0x8f], 0x81, "MQTT-3.9.3-2"),
        ("CONNACK 3.1.1 with a reserved code", V3_1_1, &[0x20, 2, 0, 6], 0x81, "MQTT-3.2.2-8"),
        ("CONNACK refused with a session", V5, &[0x20, 3, 1, 0x87, 0], 0x82, "MQTT-3.2.2-6"),
        ("SUBSCRIBE without filters", V3_1_1, &[0x82, 2, 0, 1], 0x82, "MQTT-3.8.3-2"),
        ("SUBSCRIBE with QoS 3", V5, &[0x82, 7, 0, 1, 0, 0, 1, b'a', 3], 0x81, "MQTT-3.8.3-5"),
        ("SUBSCRIBE with options in 3.1.1", V3_1_1, &[0x82, 6, 0, 1, 0, 1, b'a', 4], 0x81, "MQTT-3.8.3-5"),
        ("SUBSCRIBE with retain handling 3", V5, &[0x82, 7, 0, 1, 0, 0, 1, b'a', 0x30], 0x82, "MQTT-3.8.3.1"),
        ("UNSUBSCRIBE without filters", V3_1_1, &[0xa2, 2, 0, 1], 0x82, "MQTT-3.10.3-2"),
        ("CONNECT of version 6", V5, &[0x10, 7, 0, 4, b'M', b'Q', b'T', b'T', 6], 0x84, "MQTT-3.1.2-2"),
        ("CONNECT of another protocol", V5, &[0x10, 7, 0, 4, b'H', b'T', b'T', b'P', 5], 0x84, "MQTT-3.1.2-1"),
        ("CONNECT with the reserved flag", V3_1_1,
            &[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 3, 0, 0, 0, 0], 0x81, "MQTT-3.1.2-3"),
        ("CONNECT with will QoS but no will", V3_1_1,
            &[0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 8, 0, 0, 0, 0], 0x81, "MQTT-3.1.2-11"),
        ("CONNECT 3.1.1 with a password alone", V3_1_1,
            &[0x10, 14, 0, 4, b'M', b'Q', b'T', b'T', 4, 0x42, 0, 0, 0, 0, 0, 0], 0x81, "MQTT-3.1.2-22"),
        ("CONNECT with receive maximum 0", V5,
            &[0x10, 16, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 0, 3, 0x21, 0, 0, 0, 0], 0x82, "MQTT-3.1.2.11.3"),
        ("CONNECT with bytes behind its end", V3_1_1,
            &[0x10, 13, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 0, 0, 0, 9], 0x81, "MQTT-2.1.4"),
    ];
    for (name, version, bytes, code, rule) in bad {
        let error = decode(bytes, *version, MAX).expect_err(name);
        assert_eq!((error.reason.0, error.rule), (*code, *rule), "{name}: {error}");
    }
}

#[test]
fn filters_are_taken_apart_or_refused() {
    for good in ["a", "/", "+", "#", "a/+/b", "a/#", "+/+/#", "$SYS/#", "a b", "/a", "a//b"] {
        assert_eq!(parse_filter(good), Some(Filter { share: None, filter: good }), "{good}");
    }
    assert_eq!(parse_filter("$share/g/a/#"), Some(Filter { share: Some("g"), filter: "a/#" }));
    for bad in [
        "",
        "a#",
        "a/#/b",
        "#/a",
        "a+",
        "+a/b",
        "$share",
        "$share/",
        "$share/g",
        "$share/g/",
        "$share//a",
        "$share/+/a",
    ] {
        assert_eq!(parse_filter(bad), None, "{bad}");
    }
    let deep = |levels: usize| vec!["a"; levels].join("/");
    let max = crate::limits::TOPIC_LEVELS_MAX;
    assert!(parse_filter(&deep(max)).is_some() && parse_filter(&deep(max + 1)).is_none());
    assert!(valid_topic_name(&deep(max)) && !valid_topic_name(&deep(max + 1)));
}

#[test]
fn what_is_forwarded_leaves_out_what_belongs_to_one_hop() {
    let built = PropertiesBuilder::new()
        .int(PropertyId::PayloadFormatIndicator, 1)
        .int(PropertyId::TopicAlias, 7)
        .user("k", "v")
        .int(PropertyId::MessageExpiryInterval, 60)
        .text(PropertyId::ContentType, "t");
    let mut forwarded = Vec::new();
    built.properties().forwarded_into(&mut forwarded);
    let expected = PropertiesBuilder::new()
        .int(PropertyId::PayloadFormatIndicator, 1)
        .user("k", "v")
        .text(PropertyId::ContentType, "t");
    assert_eq!(forwarded, expected.raw());
}

#[test]
fn a_layout_and_a_whole_encoding_give_the_same_bytes() {
    for (version, qos) in [(Version::V3_1_1, QoS::AtMostOnce), (Version::V5, QoS::AtLeastOnce)] {
        let payload = vec![7; 300];
        let parts = PublishParts {
            version,
            dup: false,
            qos,
            retain: false,
            topic: "a/b",
            properties: &[1, 1],
            payload: &payload,
        };
        let (mut whole, mut patched) = (Vec::new(), vec![0xee]);
        encode_publish(&mut whole, &parts, 0x1234);
        let layout = PublishLayout::new(&parts);
        layout.append_header(&mut patched, 0x1234);
        assert_eq!(layout.header_len() + payload.len(), publish_len(&parts));
        patched.extend_from_slice(&payload);
        assert_eq!(patched[1..], whole);
    }
}

#[test]
fn a_string_that_is_too_long_is_cut_at_a_character() {
    let built = PropertiesBuilder::new().text(PropertyId::ReasonString, &"é".repeat(40_000));
    assert_eq!(built.properties().text(PropertyId::ReasonString).unwrap().len(), 0xfffe);
}

#[test]
fn a_glimpse_of_a_connect_says_what_is_certain_of_it() {
    let with_maximum = having(b"\x27\x00\x00\x01\x00");
    let mut whole = Vec::new();
    Packet::Connect(Connect { properties: with_maximum, ..connect(Version::V5, "client") })
        .encode(Version::V5, &mut whole);
    let seen = |level, packet_bytes_max| Some(Glimpse { level, packet_bytes_max });
    assert_eq!(glimpse(&whole), seen(5, Some(256)));
    // However much is there; the properties end at the 18th byte.
    let (level, properties) = (2 + 6, 2 + 6 + 1 + 3 + 6);
    for length in 0..whole.len() {
        let expected = match length {
            _ if length <= level => None,
            _ if length < properties => seen(5, None),
            _ => seen(5, Some(256)),
        };
        assert_eq!(glimpse(&whole[..length]), expected, "{length} bytes");
    }
    for (at, byte, expected) in [(0, 0x30, None), (4, b'X', None), (level, 6, seen(6, None)), (level, 4, seen(4, None))]
    {
        let mut other = whole.clone();
        other[at] = byte;
        assert_eq!(glimpse(&other), expected, "{byte} at {at}");
    }
    let mut none = Vec::new();
    Packet::Connect(connect(Version::V5, "client")).encode(Version::V5, &mut none);
    assert_eq!(glimpse(&none), seen(5, Some(u32::MAX)));
}

fn any_version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V3_1), Just(Version::V3_1_1), Just(Version::V5)]
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), version in any_version()) {
        let _ = glimpse(&bytes);
        if let Ok(Some((packet, length))) = decode(&bytes, version, MAX) {
            prop_assert!(length <= bytes.len());
            if let Packet::Publish(publish) = packet {
                publish.properties.forwarded_into(&mut Vec::new());
            }
        }
    }

    #[test]
    fn a_good_packet_with_one_byte_changed_never_panics(index in 0..good().len(), at in 0..64_usize, byte: u8) {
        let (_, version, mut bytes, _) = good().swap_remove(index);
        let at = at % bytes.len();
        bytes[at] = byte;
        let _ = decode(&bytes, version, MAX);
        let _ = glimpse(&bytes);
    }

    #[test]
    fn a_publish_comes_back_as_it_went(
        topic in "[^+#\u{0}]{1,40}", payload in prop::collection::vec(any::<u8>(), 0..400),
        packet_id in 1..=u16::MAX, qos in 0..3_u8, retain: bool, version in any_version(), expiry in any::<Option<u32>>(),
    ) {
        let qos = QoS::from_bits(qos).unwrap();
        let mut properties = PropertiesBuilder::new();
        if let (Version::V5, Some(expiry)) = (version, expiry) {
            properties = properties.int(PropertyId::MessageExpiryInterval, expiry).user("k", &topic);
        }
        let publish = Publish {
            dup: false, qos, retain, topic: &topic, payload: &payload, properties: properties.properties(),
            packet_id: if qos == QoS::AtMostOnce { 0 } else { packet_id },
        };
        let mut bytes = Vec::new();
        Packet::Publish(publish).encode(version, &mut bytes);
        let length = bytes.len();
        bytes.extend_from_slice(&[0xc0, 0]);
        prop_assert_eq!(decode(&bytes, version, MAX), Ok(Some((Packet::Publish(publish), length))));
    }

    #[test]
    fn a_connect_comes_back_as_it_went(
        version in any_version(), clean_start: bool, keep_alive_seconds: u16, client_id in "[^\u{0}]{0,30}",
        will in prop::option::of(("[^+#\u{0}]{1,20}", prop::collection::vec(any::<u8>(), 0..200), 0..3_u8, any::<bool>())),
        user_name in prop::option::of("[^\u{0}]{0,20}"), password in prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
        expiry: u32, delay: u32,
    ) {
        let (mut own, mut of_will) = (PropertiesBuilder::new(), PropertiesBuilder::new());
        if version == Version::V5 {
            own = own.int(PropertyId::SessionExpiryInterval, expiry).user("k", &client_id);
            of_will = of_will.int(PropertyId::WillDelayInterval, delay);
        }
        let sent = Connect {
            version, clean_start, keep_alive_seconds, client_id: &client_id, properties: own.properties(),
            will: will.as_ref().map(|(topic, payload, qos, retain)| WillView {
                qos: QoS::from_bits(*qos).unwrap(), retain: *retain, properties: of_will.properties(), topic, payload,
            }),
            user_name: user_name.as_deref(),
            // Before 5.0 there is no password without a user name.
            password: password.as_deref().filter(|_| version == Version::V5 || user_name.is_some()),
        };
        let mut bytes = Vec::new();
        Packet::Connect(sent).encode(version, &mut bytes);
        prop_assert_eq!(decode(&bytes, version, MAX), Ok(Some((Packet::Connect(sent), bytes.len()))));
        for cut in 0..bytes.len() {
            prop_assert_eq!(decode(&bytes[..cut], version, MAX), Ok(None));
        }
    }

    #[test]
    fn a_subscribe_comes_back_as_it_went(
        filters in prop::collection::vec(("[^\u{0}$]{1,20}", 0..3_u8, any::<(bool, bool)>(), 0..3_u8), 1..5),
        packet_id in 1..=u16::MAX,
    ) {
        let mut raw = Vec::new();
        let mut expected = Vec::new();
        for (filter, qos, (no_local, retain_as_published), retain_handling) in &filters {
            let qos = QoS::from_bits(*qos).unwrap();
            let options = SubscriptionOptions {
                qos, no_local: *no_local, retain_as_published: *retain_as_published,
                retain_handling: *retain_handling, identifier: None,
            };
            SubscribeFilters::append(&mut raw, filter, options);
            expected.push((filter.as_str(), options));
        }
        let subscribe =
            Subscribe { packet_id, properties: Properties::default(), filters: SubscribeFilters::built(&raw) };
        let mut bytes = Vec::new();
        Packet::Subscribe(subscribe).encode(Version::V5, &mut bytes);
        let Ok(Some((Packet::Subscribe(back), _))) = decode(&bytes, Version::V5, MAX) else {
            return Err(TestCaseError::fail("not a SUBSCRIBE"));
        };
        prop_assert_eq!(back.filters.iter().collect::<Vec<_>>(), expected);
    }
}
