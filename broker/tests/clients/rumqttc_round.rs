//! One round with rumqttc, whose modules for 3.1.1 and 5.0 are alike but not the same.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

const DEADLINE: Duration = Duration::from_secs(20);
const COUNT: usize = 50;
/// Requests that wait in a client: more than it is given at once.
const REQUESTS_MAX: usize = 2 * COUNT;

/// What either module's event says.
enum Happened {
    Connected {
        session_present: bool,
    },
    Subscribed,
    /// At QoS 0: written.
    Acknowledged {
        qos: u8,
    },
    Received {
        topic: String,
        payload: String,
        qos: u8,
    },
    /// The client has answered, at the level that it received at, for the last time.
    Answered {
        qos: u8,
    },
    Other,
}

/// Of a filter.
type Subscribe = Box<dyn Fn(&str) -> Result<()>>;
/// To a topic, of a payload.
type Publish = Box<dyn Fn(&str, &str) -> Result<()>>;
/// Waits for what happens next.
type Next = Box<dyn FnMut() -> Result<Happened>>;

/// A client of either module. Dropped, it ends without DISCONNECT.
struct Client {
    subscribe: Subscribe,
    publish: Publish,
    next: Next,
}

/// Makes a client of one module, of its options and the level of its service.
macro_rules! client {
    ($($module:ident)::+, $packets:path, $qos:path, $options:expr, $qos_number:expr) => {{
        use $packets as packets;
        use $($module)::+ as module;
        use $qos as QoS;

        let level = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][usize::from($qos_number)];
        let (client, mut connection) = module::Client::new($options, REQUESTS_MAX);
        let subscribing = client.clone();
        Client {
            subscribe: Box::new(move |filter| Ok(subscribing.subscribe(filter, level)?)),
            publish: Box::new(move |topic, payload| Ok(client.publish(topic, level, false, payload.to_owned())?)),
            next: Box::new(move || {
                let event = connection.recv_timeout(DEADLINE).map_err(|error| anyhow!("{error:?}"))??;
                Ok(match event {
                    module::Event::Outgoing(rumqttc::Outgoing::Publish(_)) => Happened::Acknowledged { qos: 0 },
                    module::Event::Outgoing(rumqttc::Outgoing::PubAck(_)) => Happened::Answered { qos: 1 },
                    module::Event::Outgoing(rumqttc::Outgoing::PubComp(_)) => Happened::Answered { qos: 2 },
                    module::Event::Incoming(packets::Packet::PubAck(_)) => Happened::Acknowledged { qos: 1 },
                    module::Event::Incoming(packets::Packet::PubComp(_)) => Happened::Acknowledged { qos: 2 },
                    module::Event::Incoming(packets::Packet::SubAck(_)) => Happened::Subscribed,
                    module::Event::Incoming(packets::Packet::ConnAck(connack)) => {
                        Happened::Connected { session_present: connack.session_present }
                    }
                    module::Event::Incoming(packets::Packet::Publish(publish)) => Happened::Received {
                        topic: String::from_utf8(publish.topic.into())?,
                        payload: String::from_utf8(publish.payload.into())?,
                        qos: publish.qos as u8,
                    },
                    _ => Happened::Other,
                })
            }),
        }
    }};
}

/// A round with the module for 3.1.1.
pub fn of_v4(address: SocketAddr, qos: u8) -> Result<()> {
    let name = format!("rumqttc-311-{qos}");
    round(&name, qos, |id, keep, will| {
        let mut options = rumqttc::MqttOptions::new(format!("{name}-{id}"), address.ip().to_string(), address.port());
        options.set_clean_session(!keep);
        if let Some(topic) = will {
            options.set_last_will(rumqttc::LastWill::new(topic, "died", rumqttc::qos(qos).unwrap(), false));
        }
        client!(rumqttc, rumqttc, rumqttc::QoS, options, qos)
    })
}

/// A round with the module for 5.0.
pub fn of_v5(address: SocketAddr, qos: u8) -> Result<()> {
    use rumqttc::v5::mqttbytes::{qos as level, v5::LastWill};

    let name = format!("rumqttc-5-{qos}");
    round(&name, qos, |id, keep, will| {
        let id = format!("{name}-{id}");
        let mut options = rumqttc::v5::MqttOptions::new(id, address.ip().to_string(), address.port());
        options.set_clean_start(!keep);
        options.set_session_expiry_interval(Some(if keep { 300 } else { 0 }));
        if let Some(topic) = will {
            options.set_last_will(LastWill::new(topic, "died", level(qos).unwrap(), false, None));
        }
        client!(rumqttc::v5, rumqttc::v5::mqttbytes::v5, rumqttc::v5::mqttbytes::QoS, options, qos)
    })
}

impl Client {
    fn until(&mut self, what: &str, mut wanted: impl FnMut(Happened) -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            if wanted((self.next)().with_context(|| what.to_owned())?)? {
                return Ok(());
            }
        }
        bail!("not within {DEADLINE:?}: {what}")
    }

    fn connected(&mut self, wanted: bool) -> Result<()> {
        self.until("CONNACK", |happened| match happened {
            Happened::Connected { session_present } if session_present == wanted => Ok(true),
            Happened::Connected { session_present } => bail!("session present: {session_present}"),
            _ => Ok(false),
        })
    }

    fn publish(&mut self, topic: &str, qos: u8, payloads: &[String]) -> Result<()> {
        for payload in payloads {
            (self.publish)(topic, payload)?;
        }
        let mut left = payloads.len();
        self.until("what was published is acknowledged", |happened| {
            left -= usize::from(matches!(happened, Happened::Acknowledged { qos: at } if at == qos));
            Ok(left == 0)
        })
    }

    fn expect(&mut self, topic: &str, qos: u8, payloads: &[String]) -> Result<()> {
        let mut unanswered = if qos == 0 { 0 } else { payloads.len() };
        let mut payloads = payloads.iter();
        self.until("messages arrive", |happened| {
            match happened {
                Happened::Received { topic: on, payload, qos: at } => {
                    let wanted = payloads.next().context("more than was published")?;
                    ensure!((&*on, &payload, at) == (topic, wanted, qos), "{payload} on {on} instead of {wanted}");
                }
                Happened::Answered { qos: at } => unanswered -= usize::from(at == qos),
                _ => {}
            }
            Ok(payloads.len() == 0 && unanswered == 0)
        })
    }
}

fn numbered(kind: &str) -> Vec<String> {
    (0..COUNT).map(|number| format!("{kind} {number}")).collect()
}

/// `open` makes a client of an id, whether its session is kept, and the topic of its will.
fn round(name: &str, qos: u8, open: impl Fn(&str, bool, Option<&str>) -> Client) -> Result<()> {
    let [live, queued, will] = ["live", "queued", "will"].map(|topic| format!("{name}/{topic}"));
    let mut subscriber = open("sub", true, None);
    subscriber.connected(false)?;
    (subscriber.subscribe)(&format!("{name}/+"))?;
    subscriber.until("SUBACK", |happened| Ok(matches!(happened, Happened::Subscribed)))?;
    let mut publisher = open("pub", false, None);
    publisher.connected(false)?;
    publisher.publish(&live, qos, &numbered("live"))?;
    subscriber.expect(&live, qos, &numbered("live"))?;

    if qos > 0 {
        drop(subscriber);
        publisher.publish(&queued, qos, &numbered("queued"))?;
        subscriber = open("sub", true, None);
        subscriber.connected(true)?;
        subscriber.expect(&queued, qos, &numbered("queued"))?;
    }

    let mut dying = open("dying", false, Some(&will));
    dying.connected(false)?;
    // The end of the stream is all that the broker hears.
    drop(dying);
    subscriber.expect(&will, qos, &["died".to_owned()])
}
