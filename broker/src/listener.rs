//! Where clients knock: accepts connections and hands them to the workers in turn.
//!
//! One socket per address and one task that accepts, so that a second process on the same address is an error at its
//! start and connections spread evenly. Deliberately absent: anything about MQTT.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::connection::{Duplex, Stream};
use crate::limits::{ACCEPT_RETRY_MS, LISTEN_BACKLOG};

/// A connection on its way to its worker.
pub struct Accepted {
    /// Nobody need prove who they are.
    pub anonymous: bool,
    stream: AcceptedStream,
}

enum AcceptedStream {
    /// A socket moves between runtimes only when it is registered with neither.
    Tcp(std::net::TcpStream),
    Other(Stream),
}

impl Accepted {
    /// A TCP connection.
    ///
    /// # Errors
    /// If the socket can't be taken from its runtime.
    pub fn tcp(stream: TcpStream, anonymous: bool) -> io::Result<Accepted> {
        let stream = AcceptedStream::Tcp(stream.into_std()?);
        Ok(Accepted { anonymous, stream })
    }

    /// Anything else that reads and writes bytes.
    pub fn other(stream: impl Duplex + 'static, anonymous: bool) -> Accepted {
        let stream = AcceptedStream::Other(Stream::other(stream));
        Accepted { anonymous, stream }
    }

    /// Registers the stream with this thread's runtime.
    ///
    /// # Errors
    /// If the runtime doesn't take it.
    pub fn into_stream(self) -> io::Result<Stream> {
        match self.stream {
            AcceptedStream::Tcp(stream) => Ok(Stream::Tcp(TcpStream::from_std(stream)?)),
            AcceptedStream::Other(stream) => Ok(stream),
        }
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
    bind().map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))
}

/// Accepts until all workers are gone. No failed accept ends it.
pub async fn run(listener: TcpListener, anonymous: bool, workers: Vec<mpsc::Sender<Accepted>>) {
    let mut turn = 0;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // The client has gone already, or there are no descriptors left: the next may do better, in a moment.
                tracing::warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(ACCEPT_RETRY_MS)).await;
                continue;
            }
        };
        // Packets are batched here; the system must not wait for more.
        let accepted = stream.set_nodelay(true).and_then(|()| Accepted::tcp(stream, anonymous));
        let Ok(accepted) = accepted else {
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
