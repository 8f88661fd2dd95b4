//! Chapter 6: MQTT over WebSocket.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::broker::PATIENCE;
use crate::scene::Scene;
use crate::wire::*;

/// A frame of a client, masked with zeros.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    assert!(payload.len() < 126);
    [&[first, 0x80 | payload.len() as u8, 0, 0, 0, 0], payload].concat()
}

/// Asks for WebSocket with these protocols; gives the head of the answer.
fn ask(scene: &Scene, protocols: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(scene.stage().web).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let protocols =
        if protocols.is_empty() { String::new() } else { format!("Sec-WebSocket-Protocol: {protocols}\r\n") };
    let request = format!(
        "GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocols}Sec-WebSocket-Version: 13\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap() == 0 {
            break;
        }
        head.push(byte[0]);
    }
    (stream, String::from_utf8(head).unwrap())
}

/// The payload of the next frame, which is a whole binary one and not masked.
fn binary(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = [0; 2];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head[0], 0x82, "a binary frame");
    assert!(head[1] < 126);
    let mut payload = vec![0; usize::from(head[1])];
    stream.read_exact(&mut payload).unwrap();
    payload
}

/// 5.0: MQTT-6.0.0-1.
/// 3.1.1: MQTT-6.0.0-1.
#[test]
fn frames_that_are_not_binary_end_the_connection() {
    for scene in Scene::both() {
        let (mut stream, _) = ask(&scene, "mqtt");
        stream.write_all(&frame(0x82, &scene.clean("c").bytes())).unwrap();
        assert_eq!(binary(&mut stream)[0], 0x20);
        stream.write_all(&frame(0x81, PINGREQ)).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert!(!rest.windows(2).any(|bytes| bytes == PINGRESP), "{rest:02x?}");
    }
}

/// 5.0: MQTT-6.0.0-2.
/// 3.1.1: MQTT-6.0.0-2.
#[test]
fn packets_need_not_begin_and_end_with_frames() {
    for scene in Scene::both() {
        let bytes = [&scene.clean("c").bytes()[..], PINGREQ, PINGREQ].concat();
        for size in 1..bytes.len() {
            let (mut stream, _) = ask(&scene, "mqtt");
            for part in bytes.chunks(size) {
                stream.write_all(&frame(0x82, part)).unwrap();
            }
            let mut answers = Vec::new();
            while answers.iter().filter(|byte| **byte == PINGRESP[0]).count() < 2 {
                answers.extend(binary(&mut stream));
            }
            assert!(answers.ends_with(&PINGRESP.repeat(2)), "{answers:02x?}");
        }
    }
}

/// 5.0: MQTT-6.0.0-4.
/// 3.1.1: MQTT-6.0.0-4.
#[test]
fn the_sub_protocol_is_mqtt() {
    let scene = Scene::new(V5);
    for protocols in ["mqtt", "mqttv3.1, mqtt", "x,mqtt"] {
        let (_stream, head) = ask(&scene, protocols);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.to_lowercase().contains("\r\nsec-websocket-protocol: mqtt\r\n"), "{head}");
    }
    for protocols in ["", "amqp", "mqttv5"] {
        let (_stream, head) = ask(&scene, protocols);
        let chosen = head.to_lowercase().lines().any(|line| line.starts_with("sec-websocket-protocol:"));
        assert!(!chosen, "{protocols:?}: {head}");
    }
}
