//! The only way from the cluster's room to a network: listen, connect, resolve.
//!
//! Two networks exist: TCP with mutual TLS ([`tls`]) and one in memory whose time, cuts and deaths a test owns
//! ([`memory`]). What flows in a stream is the business of `link`.

pub mod alone;
pub mod memory;
pub mod tls;

use std::future::Future;
use std::io;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

use super::mesh::LocalFuture;

/// Bytes in order in both directions, to an authenticated peer.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// Any stream.
pub type BoxStream = Box<dyn Stream>;

/// Waits for the next incoming stream.
pub type Accept<'a> = Pin<Box<dyn Future<Output = io::Result<LocalFuture<io::Result<BoxStream>>>> + 'a>>;

/// Incoming streams of one address.
pub trait Listener {
    /// The next one. What it yields still has its handshake before it, so that a slow peer delays nobody else. May be
    /// dropped before it is ready without losing a stream.
    fn accept(&mut self) -> Accept<'_>;
}

/// A network.
pub trait Net {
    /// Opens an address (`host:port`) for peers.
    fn listen(&self, address: &str) -> LocalFuture<io::Result<Box<dyn Listener>>>;

    /// Dials an address and proves who is who.
    fn connect(&self, address: &str) -> LocalFuture<io::Result<BoxStream>>;

    /// The addresses a configured peer stands for: `dns://host:port` all those of the name, `host:port` itself.
    fn resolve(&self, peer: &str) -> LocalFuture<io::Result<Vec<String>>>;
}
