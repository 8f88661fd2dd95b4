//! A plain MQTT client at QoS 1 and 2 over the broker's own codec. It sends what it is told to and reports what it gets.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mqtt_broker::message::{QoS, SubscriptionOptions};
use mqtt_broker::protocol::{
    Acknowledgement, Connect, Disconnect, Packet, Properties, PropertiesBuilder, PropertyId, Publish, ReasonCode,
    Subscribe, SubscribeFilters, Version, WillView, decode,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::timeout;

/// How long a broker may take to answer a CONNECT or a SUBSCRIBE before the client tries another node.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

const PACKET_BYTES_MAX: usize = 1 << 20;

/// A stream to a broker.
pub type Wire = Box<dyn ByteStream>;

/// What a [`Wire`] must be able to do.
pub trait ByteStream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> ByteStream for S {}

/// Opens a stream to one broker, over whatever there is between it and the client.
pub type Dial = Rc<dyn Fn() -> Pin<Box<dyn Future<Output = io::Result<Wire>>>>>;

/// How to connect.
#[derive(Clone, Debug)]
pub struct Identity {
    pub client_id: String,
    pub version: Version,
    /// A session that outlives its connections.
    pub persistent: bool,
}

/// What came from the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Publish { qos: QoS, dup: bool, retain: bool, packet_id: u16, topic: String, payload: Vec<u8> },
    PubAck { packet_id: u16, reason: ReasonCode },
    PubRec { packet_id: u16, reason: ReasonCode },
    PubRel { packet_id: u16 },
    PubComp { packet_id: u16 },
    SubAck { codes: Vec<u8> },
    Disconnect { reason: ReasonCode },
}

/// The sending half.
pub struct Sender {
    stream: WriteHalf<Wire>,
    version: Version,
}

/// The receiving half.
pub struct Receiver {
    stream: ReadHalf<Wire>,
    version: Version,
    buffer: Vec<u8>,
}

/// Connects and waits for the CONNACK. The last value tells whether a session was present.
pub async fn connect(dial: &Dial, identity: &Identity) -> Result<(Sender, Receiver, bool)> {
    connect_with_will(dial, identity, None).await
}

/// Connects with a will of QoS 2: topic and payload.
pub async fn connect_with_will(
    dial: &Dial,
    identity: &Identity,
    will: Option<(&str, &str)>,
) -> Result<(Sender, Receiver, bool)> {
    timeout(ANSWER_TIMEOUT, connect_without_limit(dial, identity, will)).await.context("no CONNACK in time")?
}

async fn connect_without_limit(
    dial: &Dial,
    identity: &Identity,
    will: Option<(&str, &str)>,
) -> Result<(Sender, Receiver, bool)> {
    let (read, write) = tokio::io::split(dial().await?);
    let version = identity.version;
    let mut sender = Sender { stream: write, version };
    let mut receiver = Receiver { stream: read, version, buffer: Vec::new() };
    let properties = match identity.persistent {
        true => PropertiesBuilder::new().int(PropertyId::SessionExpiryInterval, 3600),
        false => PropertiesBuilder::new(),
    };
    let packet = Packet::Connect(Connect {
        version,
        clean_start: !identity.persistent,
        keep_alive_seconds: 30,
        properties: if version == Version::V5 { properties.properties() } else { Properties::default() },
        client_id: &identity.client_id,
        will: will.map(|(topic, payload)| WillView {
            topic,
            payload: payload.as_bytes(),
            qos: QoS::ExactlyOnce,
            retain: false,
            properties: Properties::default(),
        }),
        user_name: None,
        password: None,
    });
    sender.send(&packet).await?;
    loop {
        let accepted = match receiver.decoded(|packet| match packet {
            Packet::ConnAck(answer) => Ok((answer.reason, answer.session_present)),
            other => Err(format!("{other:?}")),
        })? {
            Some(Ok((ReasonCode::SUCCESS, session_present))) => session_present,
            Some(Ok((reason, _))) => bail!("refused: {}", reason.words()),
            Some(Err(other)) => bail!("instead of a CONNACK: {other}"),
            None => {
                receiver.fill().await?;
                continue;
            }
        };
        return Ok((sender, receiver, accepted));
    }
}

impl Sender {
    pub async fn subscribe(&mut self, packet_id: u16, qos: QoS, filters: &[&str]) -> Result<()> {
        let mut raw = Vec::new();
        for filter in filters {
            let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
            SubscribeFilters::append(&mut raw, filter, options);
        }
        let filters = SubscribeFilters::built(&raw);
        self.send(&Packet::Subscribe(Subscribe { packet_id, properties: Properties::default(), filters })).await
    }

    pub async fn publish(&mut self, qos: QoS, dup: bool, packet_id: u16, topic: &str, payload: &[u8]) -> Result<()> {
        let properties = Properties::default();
        self.send(&Packet::Publish(Publish { dup, qos, retain: false, topic, packet_id, properties, payload })).await
    }

    pub async fn publish_retained(&mut self, packet_id: u16, topic: &str, payload: &[u8]) -> Result<()> {
        let (dup, qos, properties) = (false, QoS::AtLeastOnce, Properties::default());
        self.send(&Packet::Publish(Publish { dup, qos, retain: true, topic, packet_id, properties, payload })).await
    }

    /// PUBACK.
    pub async fn acknowledge(&mut self, packet_id: u16) -> Result<()> {
        self.send(&Packet::PubAck(success(packet_id))).await
    }

    /// PUBREC.
    pub async fn receive(&mut self, packet_id: u16) -> Result<()> {
        self.send(&Packet::PubRec(success(packet_id))).await
    }

    /// PUBREL.
    pub async fn release(&mut self, packet_id: u16) -> Result<()> {
        self.send(&Packet::PubRel(success(packet_id))).await
    }

    /// PUBCOMP.
    pub async fn complete(&mut self, packet_id: u16) -> Result<()> {
        self.send(&Packet::PubComp(success(packet_id))).await
    }

    pub async fn ping(&mut self) -> Result<()> {
        self.send(&Packet::PingReq).await
    }

    pub async fn disconnect(mut self) -> Result<()> {
        let (reason, properties) = (ReasonCode::SUCCESS, Properties::default());
        self.send(&Packet::Disconnect(Disconnect { reason, properties })).await
    }

    async fn send(&mut self, packet: &Packet<'_>) -> Result<()> {
        let mut out = Vec::new();
        packet.encode(self.version, &mut out);
        Ok(self.stream.write_all(&out).await?)
    }
}

fn success(packet_id: u16) -> Acknowledgement<'static> {
    Acknowledgement { packet_id, reason: ReasonCode::SUCCESS, properties: Properties::default() }
}

impl Receiver {
    /// Waits for the next packet that means something here. Cancelling loses nothing.
    pub async fn next(&mut self) -> Result<Event> {
        loop {
            let event = self.decoded(|packet| match packet {
                Packet::Publish(publish) => Ok(Some(Event::Publish {
                    qos: publish.qos,
                    dup: publish.dup,
                    retain: publish.retain,
                    packet_id: publish.packet_id,
                    topic: publish.topic.to_owned(),
                    payload: publish.payload.to_vec(),
                })),
                Packet::PubAck(answer) => {
                    Ok(Some(Event::PubAck { packet_id: answer.packet_id, reason: answer.reason }))
                }
                Packet::PubRec(answer) => {
                    Ok(Some(Event::PubRec { packet_id: answer.packet_id, reason: answer.reason }))
                }
                Packet::PubRel(answer) => Ok(Some(Event::PubRel { packet_id: answer.packet_id })),
                Packet::PubComp(answer) => Ok(Some(Event::PubComp { packet_id: answer.packet_id })),
                Packet::SubAck(answer) => Ok(Some(Event::SubAck { codes: answer.codes.to_vec() })),
                Packet::Disconnect(end) => Ok(Some(Event::Disconnect { reason: end.reason })),
                Packet::PingResp => Ok(None),
                other => Err(format!("{other:?}")),
            })?;
            match event {
                Some(Ok(Some(event))) => return Ok(event),
                Some(Ok(None)) => {}
                Some(Err(other)) => bail!("a packet that a broker does not send to this client: {other}"),
                None => self.fill().await?,
            }
        }
    }

    /// Takes the first whole packet out of the buffer.
    fn decoded<T>(&mut self, take: impl FnOnce(Packet<'_>) -> T) -> Result<Option<T>> {
        let Some((packet, length)) = decode(&self.buffer, self.version, PACKET_BYTES_MAX)? else { return Ok(None) };
        let taken = take(packet);
        self.buffer.drain(..length);
        Ok(Some(taken))
    }

    async fn fill(&mut self) -> Result<()> {
        if self.stream.read_buf(&mut self.buffer).await? == 0 {
            bail!("the broker closed the connection");
        }
        Ok(())
    }
}
