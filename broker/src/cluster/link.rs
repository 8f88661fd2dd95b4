//! One stream to one peer: hello, frames, signs of life, batched writes.
//!
//! Whether a stream is wanted, and what a frame means, is decided elsewhere (`links`).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use super::frames::{Frame, Hello};
use super::net::BoxStream;

/// A frame larger than this ends the link: it holds a batch of a log, a chunk of a snapshot or a list of routes.
pub const FRAME_BYTES_MAX: usize = 64 << 20;

/// What may wait to be written to one peer before the link is given up as too slow.
pub const QUEUE_BYTES_MAX: usize = 128 << 20;

/// Silence of the sender after which it says something.
pub const PING_MS: u64 = 300;

/// Silence of the peer after which the link is closed.
pub const SILENCE_MS: u64 = 1_500;

/// How long a peer may take for its hello.
pub const HELLO_MS: u64 = 1_000;

/// Bytes of frames in front of each frame.
const HEADER_BYTES: usize = 4;

/// What went wrong with a stream to a peer.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The stream broke.
    #[error("stream broke: {0}")]
    Broken(#[from] io::Error),
    /// The peer closed it.
    #[error("closed by the peer")]
    Closed,
    /// Nothing came for too long.
    #[error("silent for {SILENCE_MS} ms")]
    Silent,
    /// The peer does not keep up.
    #[error("more than {QUEUE_BYTES_MAX} bytes were waiting")]
    Slow,
    /// A frame that cannot be read.
    #[error("malformed frame: {0}")]
    Malformed(#[from] postcard::Error),
    /// A frame above the bound.
    #[error("frame of {0} bytes is above {FRAME_BYTES_MAX}")]
    TooLarge(usize),
    /// This end closed it.
    #[error("{0}")]
    Dropped(&'static str),
}

/// What waits to be written to a peer.
#[derive(Default)]
pub struct Outbound {
    /// Encoded frames, one after the other.
    usual: RefCell<BytesMut>,
    /// Frames that go one at a time, and only when nothing usual waits.
    bulk: RefCell<VecDeque<BytesMut>>,
    bulk_bytes: Cell<usize>,
    wake: Notify,
    closed: Cell<Option<&'static str>>,
    slow: Cell<bool>,
}

impl Outbound {
    /// Queues a frame; it is written with all others of this turn.
    pub fn send(&self, frame: &Frame) {
        let before = self.waiting_bytes();
        encode(frame, &mut self.usual.borrow_mut());
        self.queued(before);
    }

    /// Queues a frame behind everything usual.
    pub fn send_bulk(&self, frame: &Frame) {
        let before = self.waiting_bytes();
        let mut bytes = BytesMut::new();
        encode(frame, &mut bytes);
        self.bulk_bytes.set(self.bulk_bytes.get() + bytes.len());
        self.bulk.borrow_mut().push_back(bytes);
        self.queued(before);
    }

    fn queued(&self, before: usize) {
        if before > QUEUE_BYTES_MAX {
            self.slow.set(true);
        }
        self.wake.notify_one();
    }

    /// Bytes not yet handed to the network.
    pub fn waiting_bytes(&self) -> usize {
        self.usual.borrow().len() + self.bulk_bytes.get()
    }

    /// Ends the link; what waits is not written.
    pub fn close(&self, why: &'static str) {
        self.closed.set(Some(why));
        self.wake.notify_one();
    }

    fn next(&self) -> BytesMut {
        let usual = std::mem::take(&mut *self.usual.borrow_mut());
        if !usual.is_empty() {
            return usual;
        }
        let bulk = self.bulk.borrow_mut().pop_front().unwrap_or_default();
        self.bulk_bytes.set(self.bulk_bytes.get() - bulk.len());
        bulk
    }
}

fn encode(frame: &Frame, out: &mut BytesMut) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    // Only a map of unknown length or the like makes postcard fail, and no frame holds one.
    let encoded = postcard::serialize_with_flavor(frame, Append(out));
    debug_assert!(encoded.is_ok(), "frames are always encodable");
    let length = (out.len() - start - HEADER_BYTES) as u32;
    out[start..start + HEADER_BYTES].copy_from_slice(&length.to_be_bytes());
}

/// Postcard straight into the buffer of a link.
struct Append<'a>(&'a mut BytesMut);

impl postcard::ser_flavors::Flavor for Append<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.extend_from_slice(&[byte]);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Exchanges hellos on a new stream.
pub async fn greet(stream: &mut BoxStream, mine: &Hello) -> Result<Hello, LinkError> {
    let exchange = async {
        let body = postcard::to_stdvec(mine)?;
        let mut bytes = (body.len() as u32).to_be_bytes().to_vec();
        bytes.extend_from_slice(&body);
        stream.write_all(&bytes).await?;
        stream.flush().await?;
        let length = stream.read_u32().await? as usize;
        // A hello holds a name, an address and a version.
        if length > 4_096 {
            return Err(LinkError::TooLarge(length));
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        Ok(postcard::from_bytes(&body)?)
    };
    timeout(Duration::from_millis(HELLO_MS), exchange).await.unwrap_or(Err(LinkError::Silent))
}

/// Reads the one frame with which the lower of two nodes takes the stream for the link.
pub async fn taken(stream: &mut BoxStream) -> Result<(), LinkError> {
    let read = async {
        let length = stream.read_u32().await? as usize;
        let mut body = [0; 1];
        if length != body.len() {
            return Err(LinkError::TooLarge(length));
        }
        stream.read_exact(&mut body).await?;
        Ok(())
    };
    timeout(Duration::from_millis(HELLO_MS), read).await.unwrap_or(Err(LinkError::Silent))
}

/// Carries frames until the link ends; says why it ended. `receive` is called for each frame, in order.
pub async fn carry(stream: BoxStream, outbound: Rc<Outbound>, receive: impl FnMut(Frame)) -> LinkError {
    let (reader, writer) = tokio::io::split(stream);
    tokio::select! {
        error = read(reader, receive) => error,
        error = write(writer, &outbound) => error,
    }
}

async fn read(mut reader: impl AsyncRead + Unpin, mut receive: impl FnMut(Frame)) -> LinkError {
    let mut buffer = BytesMut::with_capacity(64 << 10);
    loop {
        loop {
            match decode(&mut buffer) {
                Ok(Some(frame)) => receive(frame),
                Ok(None) => break,
                Err(error) => return error,
            }
        }
        let silence = Duration::from_millis(SILENCE_MS);
        buffer.reserve(16 << 10);
        match timeout(silence, reader.read_buf(&mut buffer)).await {
            Err(_) => return LinkError::Silent,
            Ok(Err(error)) => return error.into(),
            Ok(Ok(0)) => return LinkError::Closed,
            Ok(Ok(_)) => {}
        }
    }
}

fn decode(buffer: &mut BytesMut) -> Result<Option<Frame>, LinkError> {
    let Some(header) = buffer.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*header) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(LinkError::TooLarge(length));
    }
    if buffer.len() < HEADER_BYTES + length {
        return Ok(None);
    }
    buffer.advance(HEADER_BYTES);
    let frame = postcard::from_bytes(&buffer[..length])?;
    buffer.advance(length);
    Ok(Some(frame))
}

async fn write(mut writer: impl AsyncWrite + Unpin, outbound: &Outbound) -> LinkError {
    let mut next_ping = Instant::now();
    loop {
        if let Some(why) = outbound.closed.get() {
            return LinkError::Dropped(why);
        }
        if outbound.slow.get() {
            return LinkError::Slow;
        }
        let bytes = outbound.next();
        if bytes.is_empty() {
            if timeout_at(next_ping, outbound.wake.notified()).await.is_err() {
                outbound.send(&Frame::Ping);
            }
            continue;
        }
        let written = async {
            writer.write_all(&bytes).await?;
            writer.flush().await
        };
        tokio::select! {
            written = written => if let Err(error) = written { return error.into() },
            () = until_closed(outbound) => {}
        }
        next_ping = Instant::now() + Duration::from_millis(PING_MS);
    }
}

async fn until_closed(outbound: &Outbound) {
    while outbound.closed.get().is_none() && !outbound.slow.get() {
        outbound.wake.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_only_when_it_is_whole() {
        let mut bytes = BytesMut::new();
        encode(&Frame::Forwarded { number: 7 }, &mut bytes);
        for cut in 0..bytes.len() {
            let mut part = BytesMut::from(&bytes[..cut]);
            assert!(matches!(decode(&mut part), Ok(None)), "cut at {cut}");
        }
        let mut whole = bytes.clone();
        assert_eq!(decode(&mut whole).ok().flatten(), Some(Frame::Forwarded { number: 7 }));
    }

    #[test]
    fn a_frame_above_the_bound_is_refused_before_it_is_there() {
        let mut bytes = BytesMut::from(&(FRAME_BYTES_MAX as u32 + 1).to_be_bytes()[..]);
        assert!(matches!(decode(&mut bytes), Err(LinkError::TooLarge(_))));
    }

    #[test]
    fn bulk_waits_for_everything_usual() {
        let outbound = Outbound::default();
        outbound.send_bulk(&Frame::Shard(vec![1; 100].into()));
        outbound.send(&Frame::Ping);
        assert_eq!(outbound.next().len(), HEADER_BYTES + 1);
        assert!(outbound.next().len() > 100);
        assert_eq!(outbound.waiting_bytes(), 0);
    }
}
