//! From accept to the first byte of MQTT: PROXY, then TLS, then the upgrade to WebSocket.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::{LazyConfigAcceptor, rustls::server::Acceptor};

use super::{Arrival, proxy, tls, upgrade};
use crate::connection::{Stream, WebSocket};

/// Why MQTT did not begin.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The stream ended or failed.
    #[error("{0}")]
    Stream(#[from] io::Error),
    /// It took longer than CONNECT may.
    #[error("it took too long")]
    TooLong,
    /// No PROXY header, or a wrong one.
    #[error("PROXY header: {0}")]
    Proxy(&'static str),
    /// No request for MQTT over WebSocket.
    #[error("WebSocket: {0}")]
    Upgrade(&'static str),
}

/// Lets one TLS handshake compute at a time on a worker, and the worker's other tasks in between.
pub struct TurnTaking(Semaphore);

impl Default for TurnTaking {
    fn default() -> Self {
        TurnTaking(Semaphore::new(1))
    }
}

impl Arrival {
    /// Does what the entrance asks for, within `patience`.
    ///
    /// # Errors
    /// If the client doesn't.
    pub async fn shake_hands(self, turns: &TurnTaking, patience: Duration) -> Result<Arrival, HandshakeError> {
        timeout(patience, self.layers(turns)).await.unwrap_or(Err(HandshakeError::TooLong))
    }

    async fn layers(mut self, turns: &TurnTaking) -> Result<Arrival, HandshakeError> {
        let Stream::Tcp(mut socket) = self.stream else {
            return Ok(self);
        };
        let entrance = &self.origin.entrance;
        if entrance.proxy_protocol
            && let Some(source) = proxy::read(&mut socket).await?
        {
            self.origin.peer = Some(source.into());
        }
        let mut stream = Stream::Tcp(socket);
        if entrance.tls.is_some()
            && let Stream::Tcp(socket) = stream
        {
            let encrypted = encrypt(socket, entrance, turns).await?;
            self.origin.user = tls::user(&encrypted, entrance.user_from);
            stream = Stream::Tls(Box::new(encrypted));
        }
        if let Some(path) = &entrance.web_path {
            let early = upgrade::answer(&mut stream, path).await?;
            stream = Stream::Web(Box::new(WebSocket::new(stream, early)));
        }
        self.stream = stream;
        Ok(self)
    }
}

async fn encrypt(
    socket: TcpStream,
    entrance: &super::Entrance,
    turns: &TurnTaking,
) -> io::Result<tokio_rustls::server::TlsStream<TcpStream>> {
    let Some(certificates) = &entrance.tls else {
        return Err(io::ErrorKind::Unsupported.into());
    };
    // Costs nothing but waiting.
    let hello = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
    let mut handshake = pin!(hello.into_stream(certificates.0.load_full()));
    // The first step signs, which takes long: one at a time, and then the others' turn. A client that is slow from here
    // on keeps nobody waiting.
    let turn = turns.0.acquire().await;
    let first = poll_fn(|context| Poll::Ready(handshake.as_mut().poll(context))).await;
    tokio::task::yield_now().await;
    drop(turn);
    match first {
        Poll::Ready(done) => done,
        Poll::Pending => handshake.await,
    }
}
