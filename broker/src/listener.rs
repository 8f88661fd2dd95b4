//! Where clients knock: accepts connections and hands them to the workers in turn, which shake hands.
//!
//! One socket per address and one task that accepts, so that a second process on the same address is an error at its
//! start and connections spread evenly. What comes before MQTT (PROXY, TLS, the upgrade to WebSocket) is done by the
//! worker that will own the connection, within one time limit. Deliberately absent: anything about MQTT.

mod handshake;
pub mod proxy;
pub mod tls;
pub mod upgrade;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use crate::config::{Listen, UserFrom};
use crate::connection::{Duplex, Origin, Peer, Stream};
use crate::limits::{ACCEPT_RETRY_MS, LISTEN_BACKLOG};

pub use handshake::{HandshakeError, TurnTaking};

/// What one listener asks of those who come through it, and how many did.
#[derive(Debug, Default)]
pub struct Entrance {
    /// As configured; empty for none.
    pub url: String,
    /// Nobody need prove who they are.
    pub anonymous: bool,
    /// A PROXY header comes first.
    pub proxy_protocol: bool,
    /// TLS, with certificates that may be replaced while it serves.
    pub tls: Option<Certificates>,
    /// Which part of a client's certificate is its user name.
    pub user_from: UserFrom,
    /// WebSocket, at this path.
    pub web_path: Option<String>,
    /// Connections at once; more are closed.
    pub connections_max: Option<u64>,
    /// Connections accepted a second; more wait in the system's queue.
    pub connections_per_second: Option<u32>,
    /// Connections that exist now.
    pub connections: AtomicU64,
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections closed because there were [`Entrance::connections_max`].
    pub refused_full: AtomicU64,
    /// Connections that ended before MQTT began.
    pub handshakes_failed: AtomicU64,
}

/// The certificates in force.
pub struct Certificates(pub ArcSwap<ServerConfig>);

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificates")
    }
}

impl Entrance {
    /// As configured.
    ///
    /// # Errors
    /// If a certificate can't be read or used, with its file.
    pub fn new(listen: &Listen) -> anyhow::Result<Entrance> {
        let tls = listen.tls.as_ref().map(|tls| tls::load(tls).map(|config| Certificates(ArcSwap::new(config))));
        Ok(Entrance {
            url: listen.url.clone(),
            anonymous: listen.anonymous,
            proxy_protocol: listen.proxy_protocol,
            tls: tls.transpose()?,
            user_from: listen.tls.as_ref().map(|tls| tls.user_from).unwrap_or_default(),
            web_path: listen.web_path.clone(),
            connections_max: listen.connections_max,
            connections_per_second: listen.connections_per_second,
            ..Entrance::default()
        })
    }

    /// Plain TCP without limits of its own.
    pub fn plain(anonymous: bool) -> Arc<Entrance> {
        Arc::new(Entrance { anonymous, ..Entrance::default() })
    }

    /// Whether MQTT begins with the first byte.
    fn is_plain(&self) -> bool {
        !self.proxy_protocol && self.tls.is_none() && self.web_path.is_none()
    }

    fn enter(self: &Arc<Entrance>) -> Option<Ticket> {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        let ticket = Ticket(self.clone());
        if self.connections_max.is_some_and(|max| before >= max) {
            self.refused_full.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.accepted.fetch_add(1, Ordering::Relaxed);
        Some(ticket)
    }
}

/// A connection's place in what its entrance counts, until it is dropped.
#[derive(Debug)]
pub struct Ticket(Arc<Entrance>);

impl Ticket {
    /// The entrance, without a place in it.
    pub fn share(&self) -> Arc<Entrance> {
        self.0.clone()
    }
}

impl std::ops::Deref for Ticket {
    type Target = Entrance;

    fn deref(&self) -> &Entrance {
        &self.0
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection on its way to its worker.
pub struct Accepted {
    ticket: Ticket,
    peer: Option<SocketAddr>,
    stream: AcceptedStream,
}

enum AcceptedStream {
    /// A socket moves between runtimes only when it is registered with neither.
    Tcp(std::net::TcpStream),
    Other(Stream),
}

impl Accepted {
    /// A TCP connection; `None` if the entrance has too many.
    ///
    /// # Errors
    /// If the socket can't be taken from its runtime.
    pub fn tcp(stream: TcpStream, peer: SocketAddr, entrance: &Arc<Entrance>) -> io::Result<Option<Accepted>> {
        let Some(ticket) = entrance.enter() else { return Ok(None) };
        let stream = AcceptedStream::Tcp(stream.into_std()?);
        Ok(Some(Accepted { ticket, peer: Some(peer), stream }))
    }

    /// Anything else that reads and writes bytes.
    pub fn other(stream: impl Duplex + 'static, anonymous: bool) -> Accepted {
        let ticket = Ticket(Entrance::plain(anonymous));
        ticket.connections.fetch_add(1, Ordering::Relaxed);
        Accepted { ticket, peer: None, stream: AcceptedStream::Other(Stream::other(stream)) }
    }

    /// Registers the stream with this thread's runtime. [`Arrival::shake_hands`] comes next, unless there is nothing to do.
    ///
    /// # Errors
    /// If the runtime doesn't take it.
    pub fn arrive(self) -> io::Result<Arrival> {
        let stream = match self.stream {
            AcceptedStream::Tcp(stream) => Stream::Tcp(TcpStream::from_std(stream)?),
            AcceptedStream::Other(stream) => stream,
        };
        Ok(Arrival { stream, origin: Origin { entrance: self.ticket, peer: self.peer.map(Peer::from), user: None } })
    }
}

/// A connection that has reached its worker.
pub struct Arrival {
    /// What carries it.
    pub stream: Stream,
    /// How it came.
    pub origin: Origin,
}

impl Arrival {
    /// Whether MQTT can begin.
    pub fn is_ready(&self) -> bool {
        self.origin.entrance.is_plain()
    }
}

/// Binds a listening socket. Must be called within a runtime.
///
/// # Errors
/// What the system says, with the address.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let bind = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A restarted broker must not wait for the connections of the last run to be forgotten.
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            // `[::]` is for both families, as people expect of it.
            socket.set_only_v6(false)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(LISTEN_BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    bind().map_err(|error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => "another process listens there: stop it, or choose another port",
            io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege: choose a higher one",
            io::ErrorKind::AddrNotAvailable => "this machine has no such address: choose one of its own, or 0.0.0.0",
            _ => "choose another address",
        };
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}; {remedy}"))
    })
}

/// Accepts until all workers are gone. No failed accept ends it.
pub async fn run(listener: TcpListener, entrance: Arc<Entrance>, workers: Vec<mpsc::Sender<Accepted>>) {
    let mut turn = 0;
    let mut pace = Pace::new(entrance.connections_per_second);
    loop {
        pace.wait().await;
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // The client has gone already, or there are no descriptors left: the next may do better, in a moment.
                tracing::warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(ACCEPT_RETRY_MS)).await;
                continue;
            }
        };
        // Packets are batched here; the system must not wait for more.
        let accepted = stream.set_nodelay(true).and_then(|()| Accepted::tcp(stream, peer, &entrance));
        let Ok(Some(accepted)) = accepted else {
            continue;
        };
        if workers.is_empty() {
            return;
        }
        turn = (turn + 1) % workers.len();
        if workers[turn].send(accepted).await.is_err() {
            return;
        }
    }
}

/// So many a second, and as many at once after a silence.
struct Pace {
    interval: Option<Duration>,
    burst: Duration,
    next: Instant,
}

impl Pace {
    fn new(per_second: Option<u32>) -> Pace {
        let interval = per_second.map(|rate| Duration::from_secs(1) / rate.max(1));
        Pace { interval, burst: Duration::from_secs(1), next: Instant::now() }
    }

    async fn wait(&mut self) {
        let Some(interval) = self.interval else { return };
        let now = Instant::now();
        self.next = self.next.max(now.checked_sub(self.burst).unwrap_or(now));
        self.next += interval;
        if self.next > now {
            sleep_until(self.next).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_lets_a_burst_in_and_then_so_many_a_second() {
        let mut pace = Pace::new(Some(10));
        let start = Instant::now();
        for _ in 0..10 {
            pace.wait().await;
        }
        tokio::time::sleep(Duration::from_secs(30)).await;
        let later = Instant::now();
        for _ in 0..10 {
            pace.wait().await;
        }
        assert_eq!(later.elapsed(), Duration::ZERO, "what was not used, up to a second's worth, may come at once");
        for _ in 0..20 {
            pace.wait().await;
        }
        assert!(later.elapsed() >= Duration::from_millis(1900), "{:?}", later.elapsed());
        assert!(start.elapsed() < Duration::from_secs(40));
    }

    #[tokio::test]
    async fn an_address_in_use_is_named_with_a_remedy() {
        let taken = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind(address).unwrap_err().to_string();
        assert!(error.contains(&address.to_string()) && error.contains("choose another port"), "{error}");
    }

    #[test]
    fn an_entrance_counts_who_is_there_and_closes_at_its_bound() {
        let entrance = Arc::new(Entrance { connections_max: Some(1), ..Entrance::default() });
        let first = entrance.enter().unwrap();
        assert!(entrance.enter().is_none());
        assert_eq!(entrance.refused_full.load(Ordering::Relaxed), 1);
        drop(first);
        assert!(entrance.enter().is_some());
        assert_eq!(entrance.connections.load(Ordering::Relaxed), 0);
    }
}
