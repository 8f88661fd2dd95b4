//! Reading: into the worker's scratch buffer, keeping between two reads only what could not be processed yet.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::stream::Stream;
use crate::limits::LARGE_PACKET_BYTES_MIN;

/// What was read from a connection and not yet processed. Takes one word while that is nothing: how an idle connection is.
#[derive(Debug, Default)]
pub struct Input(Option<Box<Kept>>);

/// What is kept between two reads.
#[derive(Debug)]
enum Kept {
    /// The beginning of a packet.
    Partial(Box<[u8]>),
    /// Packets that came while the connection was paused, and perhaps the beginning of one.
    Unprocessed(Box<[u8]>),
    /// The beginning of a packet so large that it is gathered in a buffer of its own, which its payload then shares.
    Large(Large),
}

/// A large packet that is not whole.
#[derive(Debug)]
struct Large {
    /// What has come.
    buffer: Vec<u8>,
    /// How long the packet is.
    total: usize,
}

/// What there is to process.
pub enum Chunk {
    /// The client has ended the stream.
    End,
    /// That many bytes of the scratch buffer.
    Scratch(usize),
    /// One whole packet.
    Packet(Bytes),
}

impl Chunk {
    /// How many bytes there are to process.
    pub fn bytes(&self) -> usize {
        match self {
            Chunk::End => 0,
            Chunk::Scratch(count) => *count,
            Chunk::Packet(packet) => packet.len(),
        }
    }
}

impl Input {
    /// How many bytes are kept.
    pub fn bytes(&self) -> usize {
        match self.0.as_deref() {
            None => 0,
            Some(Kept::Partial(bytes) | Kept::Unprocessed(bytes)) => bytes.len(),
            Some(Kept::Large(large)) => large.buffer.len(),
        }
    }

    /// Whether the beginning of a large packet is kept.
    pub fn is_large(&self) -> bool {
        matches!(self.0.as_deref(), Some(Kept::Large(_)))
    }

    /// Reads once. Must not be called while something is [unprocessed](Input::keep_unprocessed).
    pub fn poll_read(
        &mut self,
        stream: &mut Stream,
        context: &mut Context<'_>,
        scratch: &mut [u8],
    ) -> Poll<io::Result<Chunk>> {
        match self.0.as_deref_mut() {
            None => {
                let count = ready!(stream.poll_read(context, scratch))?;
                Poll::Ready(Ok(match count {
                    0 => Chunk::End,
                    count => Chunk::Scratch(count),
                }))
            }
            Some(Kept::Partial(kept) | Kept::Unprocessed(kept)) => {
                let before = kept.len();
                let count = ready!(stream.poll_read(context, &mut scratch[before..]))?;
                if count == 0 {
                    return Poll::Ready(Ok(Chunk::End));
                }
                scratch[..before].copy_from_slice(kept);
                self.0 = None;
                Poll::Ready(Ok(Chunk::Scratch(before + count)))
            }
            Some(Kept::Large(Large { buffer, total })) => loop {
                let missing = (*total - buffer.len()).min(scratch.len());
                let count = ready!(stream.poll_read(context, &mut scratch[..missing]))?;
                if count == 0 {
                    return Poll::Ready(Ok(Chunk::End));
                }
                buffer.extend_from_slice(&scratch[..count]);
                if buffer.len() == *total {
                    let packet = std::mem::take(buffer);
                    self.0 = None;
                    return Poll::Ready(Ok(Chunk::Packet(packet.into())));
                }
            },
        }
    }

    /// Keeps the beginning of a packet, of which the whole length is known if its header is there.
    pub fn keep_partial(&mut self, bytes: &[u8], total: Option<usize>) {
        if bytes.is_empty() {
            self.0 = None;
            return;
        }
        self.0 = Some(Box::new(match total {
            Some(total) if total >= LARGE_PACKET_BYTES_MIN => {
                // It grows with what comes: the announced length alone costs the client nothing.
                let mut buffer = Vec::with_capacity(total.min(2 * LARGE_PACKET_BYTES_MIN));
                buffer.extend_from_slice(bytes);
                Kept::Large(Large { buffer, total })
            }
            _ => Kept::Partial(bytes.into()),
        }));
    }

    /// Keeps what a pause leaves unprocessed.
    pub fn keep_unprocessed(&mut self, bytes: &[u8]) {
        self.0 = (!bytes.is_empty()).then(|| Box::new(Kept::Unprocessed(bytes.into())));
    }

    /// Takes what a pause left unprocessed.
    pub fn take_unprocessed(&mut self) -> Option<Box<[u8]>> {
        match self.0.as_deref_mut() {
            Some(Kept::Unprocessed(bytes)) => {
                let bytes = std::mem::take(bytes);
                self.0 = None;
                Some(bytes)
            }
            _ => None,
        }
    }
}
