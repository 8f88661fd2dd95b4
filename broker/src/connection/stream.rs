//! The byte stream under a connection.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::websocket::WebSocket;

/// A stream that is none of the others: of a simulated network.
pub trait Duplex: AsyncRead + AsyncWrite + Send {}

impl<S: AsyncRead + AsyncWrite + Send> Duplex for S {}

/// The byte stream under a connection. TCP is the fast path: no dynamic call, no readiness that isn't used.
pub enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
    /// WebSocket over either.
    Web(Box<WebSocket>),
    /// Anything else.
    Other(Pin<Box<dyn Duplex>>),
    /// Nothing: the connection is over.
    Closed,
}

impl Stream {
    /// Anything that reads and writes bytes.
    pub fn other(stream: impl Duplex + 'static) -> Stream {
        Stream::Other(Box::pin(stream))
    }

    /// Reads what is there; 0 is the end.
    pub fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(match self {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(context, &mut buffer),
            Stream::Tls(stream) => Pin::new(&mut **stream).poll_read(context, &mut buffer),
            Stream::Web(stream) => return stream.poll_read(context, buffer.initialize_unfilled()),
            Stream::Other(stream) => stream.as_mut().poll_read(context, &mut buffer),
            Stream::Closed => Poll::Ready(Ok(())),
        })?;
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Writes as much as the stream takes. When it takes nothing, `context` is woken once it would.
    pub fn poll_write(&mut self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self {
            // Not through `poll_write_vectored`: that one counts against the budget of the task that happens to flush.
            Stream::Tcp(stream) => loop {
                let written = match slices {
                    // One buffer is the common case, and the kernel is quicker at it.
                    [slice] => stream.try_write(slice),
                    slices => stream.try_write_vectored(slices),
                };
                match written {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready!(stream.poll_write_ready(context))?;
                    }
                    done => return Poll::Ready(done),
                }
            },
            Stream::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(context, slices),
            Stream::Web(stream) => stream.poll_write(context, slices),
            Stream::Other(stream) => stream.as_mut().poll_write_vectored(context, slices),
            Stream::Closed => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Lets what was taken by [`Stream::poll_write`] leave. Ready at once but for TLS, which encrypts more than the socket
    /// may take.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tls(stream) => Pin::new(&mut **stream).poll_flush(context),
            Stream::Web(stream) => stream.poll_flush(context),
            Stream::Tcp(_) | Stream::Other(_) | Stream::Closed => Poll::Ready(Ok(())),
        }
    }

    /// Whether something that was taken has not left.
    pub fn unflushed(&self) -> bool {
        match self {
            Stream::Tls(stream) => stream.get_ref().1.wants_write(),
            Stream::Web(stream) => stream.unflushed(),
            Stream::Tcp(_) | Stream::Other(_) | Stream::Closed => false,
        }
    }

    /// Says that nothing more will be written; reading goes on.
    pub fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(context),
            Stream::Web(stream) => stream.poll_shutdown(context),
            Stream::Other(stream) => stream.as_mut().poll_shutdown(context),
            Stream::Closed => Poll::Ready(Ok(())),
        }
    }
}
