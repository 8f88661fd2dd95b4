//! What the cluster knows of a session when its client hears that the connection ends.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::{io, iter};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::mpsc;
use tokio::task::{spawn_local, yield_now};

use super::fixture::*;
use crate::auth::Guard;
use crate::door::{ToCluster, ToWorker};
use crate::identity::NodeId;
use crate::limits::ClientLimits;
use crate::listener::Accepted;
use crate::message::{Message, QoS};
use crate::protocol::{PropertiesBuilder, PropertyId, Version};
use crate::shard::{Ack, Delivery, Outcome};
use crate::worker::{WorkerConfig, doors, run};

/// What a worker has said to the cluster thread, as far as it has left the worker.
#[derive(Clone)]
struct Told {
    receiver: Arc<Mutex<mpsc::UnboundedReceiver<Vec<ToCluster>>>>,
    told: Arc<Mutex<Vec<ToCluster>>>,
}

impl Told {
    fn is<T>(&self, what: impl Fn(&ToCluster) -> Option<T>) -> Option<T> {
        let (mut receiver, mut told) = (self.receiver.lock().unwrap(), self.told.lock().unwrap());
        told.extend(iter::from_fn(|| receiver.try_recv().ok()).flatten());
        told.iter().find_map(what)
    }

    fn acks(&self) -> Option<Vec<Ack>> {
        self.is(|what| match what {
            ToCluster::Acknowledge { acks, .. } => Some(acks.clone()),
            _ => None,
        })
    }
}

/// A client's stream that notes, whenever the worker writes to it or ends it, which acknowledgements the cluster thread
/// has heard of.
struct Watched {
    stream: DuplexStream,
    told: Told,
    seen: Arc<Mutex<Vec<Option<Vec<Ack>>>>>,
}

impl Watched {
    fn look(&self) {
        self.seen.lock().unwrap().push(self.told.acks());
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buf)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.look();
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.look();
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A client that comes back at once, by another worker, must not be sent again what it acknowledged.
#[test]
fn the_cluster_hears_of_an_end_before_the_client_sees_it() {
    // It ends the connection; it breaks a rule, and is told so before the end.
    for (last, writes) in [(&[0xe0, 0][..], 0), (&[0xd0, 0], 1)] {
        run_test(async {
            let limits = ClientLimits::default();
            let (to_cluster, receiver) = mpsc::unbounded_channel();
            let told = Told { receiver: Arc::new(Mutex::new(receiver)), told: Arc::default() };
            let (doors, worker) = doors(1, &to_cluster, &limits).pop().unwrap();
            let guard = Guard::open(limits);
            spawn_local(run(WorkerConfig { index: 0, node: NodeId(1), guard, seed: 7, now_ms: 0 }, doors));
            worker.commands.send(vec![ToWorker::Serving(true)]).unwrap();
            let (client, stream) = tokio::io::duplex(1 << 16);
            let seen = Arc::new(Mutex::new(Vec::new()));
            let watched = Watched { stream, told: told.clone(), seen: seen.clone() };
            worker.accepted.send(Accepted::other(watched, true)).await.ok().unwrap();
            let mut client = Client::over(client);
            let hour = PropertiesBuilder::new().int(PropertyId::SessionExpiryInterval, 3600);
            client.connect_with(Version::V5, "client", false, &hour).await;
            let connection = loop {
                let opened = told.is(|what| match what {
                    ToCluster::Open(open) => Some(open.connection),
                    _ => None,
                });
                match opened {
                    Some(connection) => break connection,
                    None => yield_now().await,
                }
            };
            let outcome =
                Outcome::Opened { epoch: 1, session_present: false, subscriptions: Vec::new(), owed: Vec::new() };
            let message =
                Message { topic: "a".into(), payload: "x".into(), qos: QoS::AtLeastOnce, ..Message::default() };
            let deliveries = vec![Delivery { seq: 5, message, dup: false, received: false, identifiers: Vec::new() }];
            worker
                .commands
                .send(vec![
                    ToWorker::Opened { connection, outcome },
                    ToWorker::Deliver { connection, epoch: 1, deliveries },
                ])
                .unwrap();
            client.receive().await;
            let packet_id = Delivery::packet_id(5);
            assert_eq!(client.expect_publish().await, (packet_id, "x".to_owned()));
            seen.lock().unwrap().clear();
            client.send_bytes(&[&[0x40, 2, 0, packet_id as u8], last].concat()).await;
            if writes > 0 {
                let told = client.receive().await;
                assert_eq!((told[0], told[2]), (0xe0, 0x82), "{told:02x?}");
            }
            client.expect_end().await;
            assert_eq!(*seen.lock().unwrap(), vec![Some(vec![Ack::Done(5)]); writes + 1]);
        });
    }
}
