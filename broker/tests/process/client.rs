//! A client that knows nothing but bytes, and what it says of what it gets.

#![allow(dead_code, reason = "not every test uses everything")]

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::broker::PATIENCE;
use crate::wire::{self, *};

/// How long nothing must come for a test to believe that nothing comes.
const SILENCE: Duration = Duration::from_millis(60);

/// One connection.
pub struct Client {
    stream: TcpStream,
    pub version: Version,
    id: u16,
    /// Came while something else was waited for.
    early: VecDeque<Received>,
}

/// A packet from the broker.
#[derive(Clone, PartialEq, Eq)]
pub struct Received {
    pub first: u8,
    pub body: Vec<u8>,
}

/// A PUBLISH from the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub first: u8,
    pub topic: String,
    /// 0 if there is none.
    pub id: u16,
    pub properties: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Client {
    /// A connection on which nothing was said.
    pub fn dial(address: SocketAddr, version: Version) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client { stream, version, id: 0, early: VecDeque::new() }
    }

    #[track_caller]
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// False if the connection has ended.
    pub fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// The next packet; `None` if the connection ends instead.
    pub fn receive(&mut self) -> Option<Received> {
        if let Some(packet) = self.early.pop_front() {
            return Some(packet);
        }
        self.read()
    }

    fn read(&mut self) -> Option<Received> {
        let mut first = [0];
        match self.stream.read_exact(&mut first) {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => return None,
            Err(error) => panic!("no packet: {error}"),
        }
        let (mut length, mut shift, mut byte) = (0, 0, [0x80]);
        while byte[0] & 0x80 != 0 {
            self.stream.read_exact(&mut byte).unwrap();
            length |= usize::from(byte[0] & 0x7f) << shift;
            shift += 7;
        }
        assert_eq!(variable(length).len(), shift / 7, "[MQTT-1.5.5-1]: the remaining length is longer than it must be");
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        Some(Received { first: first[0], body })
    }

    #[track_caller]
    pub fn next(&mut self) -> Received {
        self.receive().expect("a packet instead of the end")
    }

    /// The next packet is exactly this.
    #[track_caller]
    pub fn expect(&mut self, bytes: &[u8]) {
        let got = self.next().bytes();
        assert_eq!(got, bytes, "{got:02x?} instead of {bytes:02x?}");
    }

    /// Nothing comes, now and in a moment, but the answers to PINGREQ.
    #[track_caller]
    pub fn nothing(&mut self) {
        self.send(PINGREQ);
        self.expect(PINGRESP);
        std::thread::sleep(SILENCE);
        self.send(PINGREQ);
        self.expect(PINGRESP);
    }

    /// The connection ends, and nothing is said before.
    #[track_caller]
    pub fn end(&mut self) {
        let got = self.receive();
        assert!(got.is_none(), "{got:?} instead of the end");
    }

    /// The connection ends because of what this client did: 5.0 is told why.
    #[track_caller]
    pub fn ended(&mut self, reason: u8) {
        if self.version == V5 {
            let got = self.next();
            assert_eq!((got.first, got.body.first()), (0xe0, Some(&reason)), "{got:?}");
            // [MQTT-3.14.2-2]
            assert!(got.properties(1).iter().all(|(id, _)| *id != SESSION_EXPIRY), "{got:?}");
        }
        self.end();
    }

    /// CONNECT is refused, and the connection ends. `code` is the one of 3.1.1.
    #[track_caller]
    pub fn refused(&mut self, reason: u8, code: u8) {
        let wanted = [0, if self.version == V5 { reason } else { code }];
        let got = self.next();
        assert_eq!((got.first, got.body.get(..2)), (0x20, Some(&wanted[..])), "{got:?}");
        self.end();
    }

    /// CONNECT is accepted; whether a session is present.
    #[track_caller]
    pub fn accepted(&mut self) -> bool {
        let got = self.next();
        assert_eq!((got.first, got.body.get(1)), (0x20, Some(&0)), "{got:?}");
        assert!(got.body[0] <= 1, "[MQTT-3.2.2-1]: {got:?}");
        got.body[0] == 1
    }

    /// A packet id that was not used before.
    pub fn fresh(&mut self) -> u16 {
        self.id += 1;
        self.id
    }

    /// SUBSCRIBE to one filter, and its SUBACK: the reason code.
    #[track_caller]
    pub fn subscribe(&mut self, filter: &str, options: u8) -> u8 {
        self.subscribe_with(&[], filter, options)
    }

    #[track_caller]
    pub fn subscribe_with(&mut self, raw: &[u8], filter: &str, options: u8) -> u8 {
        let id = self.fresh();
        self.send(&wire::subscribe(self.version, id, raw, &[(filter, options)]));
        let codes = self.suback(id);
        assert_eq!(codes.len(), 1);
        codes[0]
    }

    /// SUBACK or UNSUBACK with this packet id: its reason codes.
    #[track_caller]
    pub fn suback(&mut self, id: u16) -> Vec<u8> {
        let got = self.next();
        assert!(matches!(got.first, 0x90 | 0xb0), "{got:?}");
        assert_eq!(got.body[..2], id.to_be_bytes(), "{got:?}");
        let at = if self.version == V5 { got.after_properties(2) } else { 2 };
        got.body[at..].to_vec()
    }

    /// Sends a PUBLISH without properties; its packet id.
    pub fn publish(&mut self, qos: u8, topic: &str, payload: &str) -> u16 {
        self.publish_with(qos << 1, topic, &[], payload)
    }

    pub fn publish_with(&mut self, flags: u8, topic: &str, raw: &[u8], payload: &str) -> u16 {
        let id = self.fresh();
        self.send(&wire::publish(self.version, 0x30 | flags, topic, id, raw, payload));
        id
    }

    /// Publishes, and waits until the broker has it.
    #[track_caller]
    pub fn publishes(&mut self, flags: u8, topic: &str, raw: &[u8], payload: &str) {
        let id = self.publish_with(flags, topic, raw, payload);
        match flags & 6 {
            0 => {
                self.send(PINGREQ);
                self.expect(PINGRESP);
            }
            2 => assert!(self.answered(PUBACK, id) < 0x80),
            _ => {
                assert!(self.answered(PUBREC, id) < 0x80);
                self.send(&answer(PUBREL, id));
                assert_eq!(self.answered(PUBCOMP, id), 0);
            }
        }
    }

    /// The next packet is this answer to this packet id: its reason.
    #[track_caller]
    pub fn answered(&mut self, first: u8, id: u16) -> u8 {
        let got = self.next();
        assert_eq!((got.first, got.body.get(..2)), (first, Some(&id.to_be_bytes()[..])), "{got:?}");
        if self.version == V3 {
            assert_eq!(got.body.len(), 2, "{got:?}");
        }
        got.body.get(2).copied().unwrap_or(0)
    }

    /// The next packet is a PUBLISH.
    #[track_caller]
    pub fn message(&mut self) -> Message {
        let got = self.next();
        got.message(self.version)
    }

    /// The next packet is a PUBLISH with this payload; it is acknowledged to the end.
    #[track_caller]
    pub fn gets(&mut self, payload: &str) -> Message {
        let message = self.message();
        assert_eq!(message.payload, payload.as_bytes(), "{message:?} instead of {payload}");
        match message.qos() {
            0 => {}
            1 => self.send(&answer(PUBACK, message.id)),
            _ => {
                self.send(&answer(PUBREC, message.id));
                // Other messages may be on their way.
                let pubrel = loop {
                    let got = self.read().expect("PUBREL");
                    if got.first >> 4 != 3 {
                        break got;
                    }
                    self.early.push_back(got);
                };
                assert_eq!(pubrel.bytes(), answer(PUBREL, message.id));
                self.send(&answer(PUBCOMP, message.id));
            }
        }
        message
    }

    /// All that comes until there is a moment of silence; it is not acknowledged.
    #[track_caller]
    pub fn all(&mut self) -> Vec<Received> {
        let mut all = Vec::new();
        for wait in [Duration::ZERO, SILENCE] {
            std::thread::sleep(wait);
            self.send(PINGREQ);
            all.extend(std::iter::from_fn(|| Some(self.next()).filter(|got| got.bytes() != PINGRESP)));
        }
        all
    }

    /// DISCONNECT, and the broker closes.
    pub fn disconnect(mut self) {
        self.send(DISCONNECT);
        self.end();
    }

    /// How long it takes until the connection ends.
    pub fn time_to_end(&mut self) -> Duration {
        let start = Instant::now();
        while self.receive().is_some() {}
        start.elapsed()
    }
}

impl Received {
    pub fn bytes(&self) -> Vec<u8> {
        packet(self.first, &self.body)
    }

    /// The properties of a 5.0 packet that stand at `at`: the identifier and the value of each, as it came.
    pub fn properties(&self, at: usize) -> Vec<(u8, Vec<u8>)> {
        if at >= self.body.len() {
            return Vec::new();
        }
        let (mut from, to) = (at + length_of(&self.body[at..]).1, self.after_properties(at));
        let mut properties = Vec::new();
        while from < to {
            let (id, rest) = (self.body[from], &self.body[from + 1..to]);
            let string = |rest: &[u8]| 2 + usize::from(u16::from_be_bytes([rest[0], rest[1]]));
            let length = match id {
                0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28..=0x2a => 1,
                0x13 | 0x21..=0x23 => 2,
                0x02 | 0x11 | 0x18 | 0x27 => 4,
                0x0b => length_of(rest).1,
                0x26 => string(rest) + string(&rest[string(rest)..]),
                _ => string(rest),
            };
            properties.push((id, rest[..length].to_vec()));
            from += 1 + length;
        }
        properties
    }

    /// The value of the property `id` among those that stand at `at`.
    pub fn property(&self, at: usize, id: u8) -> Option<Vec<u8>> {
        self.properties(at).into_iter().find_map(|(found, value)| (found == id).then_some(value))
    }

    /// The Reason String among the properties that stand at `at`.
    #[track_caller]
    pub fn words(&self, at: usize) -> String {
        let words = self.property(at, REASON).unwrap_or_else(|| panic!("{self:?} says nothing in words"));
        String::from_utf8(words[2..].to_vec()).unwrap()
    }

    fn after_properties(&self, at: usize) -> usize {
        let (length, size) = length_of(&self.body[at..]);
        at + size + length
    }

    #[track_caller]
    pub fn message(&self, version: Version) -> Message {
        assert_eq!(self.first >> 4, 3, "{self:?} instead of a PUBLISH");
        let length = usize::from(u16::from_be_bytes([self.body[0], self.body[1]]));
        let topic = String::from_utf8(self.body[2..2 + length].to_vec()).unwrap();
        let mut at = 2 + length;
        let mut id = 0;
        if self.first & 6 != 0 {
            id = u16::from_be_bytes([self.body[at], self.body[at + 1]]);
            assert_ne!(id, 0, "[MQTT-2.2.1-4]: {self:?}");
            at += 2;
        }
        let mut properties = Vec::new();
        if version == V5 {
            let (length, size) = length_of(&self.body[at..]);
            properties = self.body[at + size..at + size + length].to_vec();
            at += size + length;
        }
        Message { first: self.first, topic, id, properties, payload: self.body[at..].to_vec() }
    }
}

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:02x} {:02x?}", self.first, self.body)
    }
}

impl Message {
    pub fn qos(&self) -> u8 {
        self.first >> 1 & 3
    }

    pub fn retain(&self) -> bool {
        self.first & 1 != 0
    }

    pub fn dup(&self) -> bool {
        self.first & 8 != 0
    }

    /// The value of a property, as it came.
    pub fn property(&self, id: u8) -> Option<Vec<u8>> {
        self.all(id).into_iter().next()
    }

    /// Every value of a property, in order.
    pub fn all(&self, id: u8) -> Vec<Vec<u8>> {
        let body = properties(V5, &self.properties);
        let all = Received { first: 0, body }.properties(0);
        all.into_iter().filter_map(|(found, value)| (found == id).then_some(value)).collect()
    }
}

/// A Variable Byte Integer, and how many bytes it has.
fn length_of(bytes: &[u8]) -> (usize, usize) {
    let mut value = 0;
    for (place, byte) in bytes.iter().enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            assert_eq!(variable(value).len(), place + 1, "[MQTT-1.5.5-1]: {bytes:02x?}");
            return (value, place + 1);
        }
    }
    panic!("no length: {bytes:02x?}")
}
