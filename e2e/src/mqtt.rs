//! The few packets of MQTT 3.1.1 that a client counting QoS 1 messages needs, on one connection.
//!
//! Deliberately absent: reconnecting and remembering (see `ledger`), and the broker's own codec: a mistake there must not be
//! able to hide behind the same mistake here.

use anyhow::{Result, bail};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// The largest packet a broker may send us; more is a broken stream.
const PACKET_BYTES_MAX: usize = 1 << 20;

/// What a broker sends to such a client.
#[derive(Debug, PartialEq, Eq)]
pub enum Packet {
    /// CONNACK: the return code, 0 for welcome.
    Connected {
        /// Whether the broker still had the session.
        session_present: bool,
        /// The return code.
        code: u8,
    },
    /// PUBLISH, with a packet id at QoS 1.
    Message {
        /// To be acknowledged, at QoS 1.
        id: Option<u16>,
        /// The application message.
        payload: Bytes,
    },
    /// PUBACK.
    Acknowledged(u16),
    /// SUBACK: the granted QoS, 0x80 for a refusal.
    Subscribed(u8),
    /// PINGRESP.
    Pong,
}

/// A user's name and password.
pub type User<'a> = (&'a str, &'a str);

/// A connection to a broker.
pub struct Connection<S = TcpStream> {
    stream: S,
    unread: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Greets the broker and waits for its welcome; says whether it still has the session.
    pub async fn open(stream: S, client_id: &str, clean_session: bool) -> Result<(Self, bool)> {
        Self::open_as(None, stream, client_id, clean_session).await
    }

    /// The same as a user.
    pub async fn open_as(
        user: Option<User<'_>>,
        stream: S,
        client_id: &str,
        clean_session: bool,
    ) -> Result<(Self, bool)> {
        let mut connection = Self { stream, unread: BytesMut::new() };
        let mut body = BytesMut::new();
        put_text(&mut body, "MQTT");
        body.put_u8(4);
        let proof = if user.is_some() { 0b1100_0000 } else { 0 };
        body.put_u8(proof | if clean_session { 0b10 } else { 0 });
        body.put_u16(KEEP_ALIVE_SECONDS);
        put_text(&mut body, client_id);
        if let Some((name, password)) = user {
            put_text(&mut body, name);
            put_text(&mut body, password);
        }
        connection.send(0x10, &body).await?;
        match connection.receive().await? {
            Packet::Connected { session_present, code: 0 } => Ok((connection, session_present)),
            Packet::Connected { code, .. } => {
                bail!("the broker refused the connection with code {code}")
            }
            other => bail!("the broker answered CONNECT with {other:?}"),
        }
    }

    /// Publishes at QoS 1.
    pub async fn publish(&mut self, id: u16, duplicate: bool, topic: &str, payload: &[u8]) -> Result<()> {
        let mut body = BytesMut::new();
        put_text(&mut body, topic);
        body.put_u16(id);
        body.put_slice(payload);
        self.send(if duplicate { 0x3a } else { 0x32 }, &body).await
    }

    /// Acknowledges a message that came at QoS 1.
    pub async fn acknowledge(&mut self, id: u16) -> Result<()> {
        self.send(0x40, &id.to_be_bytes()).await
    }

    /// Subscribes at QoS 1 and waits until the broker has granted it.
    pub async fn subscribe(&mut self, filter: &str) -> Result<()> {
        let mut body = BytesMut::new();
        body.put_u16(1);
        put_text(&mut body, filter);
        body.put_u8(1);
        self.send(0x82, &body).await?;
        match self.receive().await? {
            Packet::Subscribed(1) => Ok(()),
            other => bail!("the broker answered SUBSCRIBE with {other:?}"),
        }
    }

    /// Asks for a sign of life.
    pub async fn ping(&mut self) -> Result<()> {
        self.send(0xc0, &[]).await
    }

    /// Says goodbye.
    pub async fn close(mut self) -> Result<()> {
        self.send(0xe0, &[]).await?;
        Ok(self.stream.shutdown().await?)
    }

    /// The next packet. Dropping the future loses nothing: what was read is kept.
    pub async fn receive(&mut self) -> Result<Packet> {
        loop {
            if let Some(packet) = take_packet(&mut self.unread)? {
                return Ok(packet);
            }
            if self.stream.read_buf(&mut self.unread).await? == 0 {
                bail!("the broker closed the connection");
            }
        }
    }

    async fn send(&mut self, first: u8, body: &[u8]) -> Result<()> {
        let mut packet = BytesMut::with_capacity(body.len() + 5);
        packet.put_u8(first);
        let mut length = body.len();
        loop {
            let low = (length % 128) as u8;
            length /= 128;
            packet.put_u8(if length > 0 { low | 0x80 } else { low });
            if length == 0 {
                break;
            }
        }
        packet.put_slice(body);
        Ok(self.stream.write_all(&packet).await?)
    }
}

/// The broker may drop a client that is silent for one and a half of it; the ledger pings more often.
const KEEP_ALIVE_SECONDS: u16 = 30;

fn put_text(buffer: &mut BytesMut, text: &str) {
    buffer.put_u16(text.len() as u16);
    buffer.put_slice(text.as_bytes());
}

/// Takes one whole packet off the front of what was read, if there is one.
fn take_packet(unread: &mut BytesMut) -> Result<Option<Packet>> {
    let Some((header, length)) = remaining_length(unread)? else {
        return Ok(None);
    };
    if unread.len() < header + length {
        return Ok(None);
    }
    let first = unread[0];
    unread.advance(header);
    let mut body = unread.split_to(length).freeze();
    let packet = match (first >> 4, length) {
        (2, 2) => Packet::Connected { session_present: body[0] & 1 == 1, code: body[1] },
        (3, 2..) => {
            let topic = usize::from(body.get_u16());
            let quality = (first >> 1) & 3;
            if quality > 1 || body.len() < topic + usize::from(quality) * 2 {
                bail!("the broker sent a malformed PUBLISH (first byte {first:#04x}, {length} bytes)");
            }
            body.advance(topic);
            let id = (quality == 1).then(|| body.get_u16());
            Packet::Message { id, payload: body }
        }
        (4, 2) => Packet::Acknowledged(body.get_u16()),
        (9, 3) => Packet::Subscribed(body[2]),
        (13, 0) => Packet::Pong,
        _ => {
            bail!("the broker sent an unexpected packet (first byte {first:#04x}, {length} bytes)")
        }
    };
    Ok(Some(packet))
}

/// Length of the fixed header and of what follows it, once both are readable.
fn remaining_length(unread: &[u8]) -> Result<Option<(usize, usize)>> {
    let mut length = 0;
    for (index, byte) in unread.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            if length > PACKET_BYTES_MAX {
                bail!("the broker sent a packet of {length} bytes");
            }
            return Ok(Some((index + 2, length)));
        }
    }
    if unread.len() > 4 {
        bail!("the broker sent a packet length of more than four bytes");
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_taken_only_when_whole() {
        let whole = [0x32, 7, 0, 1, b't', 0, 9, b'h', b'i', 0x40, 2, 0, 3];
        for cut in 0..9 {
            assert_eq!(take_packet(&mut BytesMut::from(&whole[..cut])).unwrap(), None, "cut at {cut}");
        }
        let mut unread = BytesMut::from(&whole[..]);
        let message = Packet::Message { id: Some(9), payload: Bytes::from_static(b"hi") };
        assert_eq!(take_packet(&mut unread).unwrap(), Some(message));
        assert_eq!(take_packet(&mut unread).unwrap(), Some(Packet::Acknowledged(3)));
        assert!(unread.is_empty());
    }

    #[test]
    fn what_no_broker_may_send_is_an_error() {
        for bytes in [
            &[0x32, 3, 0, 9, b't'][..],
            &[0x30, 0],
            &[0xf0, 0],
            &[0x30, 0xff, 0xff, 0xff, 0xff],
            &[0x36, 4, 0, 0, 0, 1],
        ] {
            assert!(take_packet(&mut BytesMut::from(bytes)).is_err(), "{bytes:?}");
        }
    }
}
