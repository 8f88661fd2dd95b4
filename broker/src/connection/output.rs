//! What is to be written to one client, as encoded packets, until its socket takes them.
//!
//! Small packets are copied one after another into one buffer; a large payload stays where it is, shared by every
//! client it goes to, and is named by its place between the copied bytes. A connection with nothing to write holds no
//! buffer: full ones come from the worker's [`Spares`] and go back to them.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};

use super::stream::Stream;
use crate::limits::{SPARE_BUFFER_BYTES_MAX, SPARE_BUFFERS_MAX, WRITE_SLICES_MAX};

/// Encoded packets on their way to one client. Takes one word while there are none.
#[derive(Debug, Default)]
pub struct Output(Option<Box<Packets>>);

/// Packets to write.
#[derive(Debug, Default)]
struct Packets {
    /// The copied bytes; those before `written` have left.
    copied: Vec<u8>,
    written: usize,
    /// Payloads that aren't copied; not empty.
    shared: Option<Box<Shared>>,
}

/// Payloads that stay where they are.
#[derive(Debug, Default)]
struct Shared {
    /// Each with the place in the copied bytes that it follows.
    payloads: VecDeque<(usize, Bytes)>,
    /// Bytes to write of them.
    bytes: usize,
}

impl Output {
    /// Bytes to write.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |packets| packets.len())
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|packets| packets.is_empty())
    }

    /// Where to append small packets.
    pub fn buffer(&mut self, spares: &mut Spares) -> &mut Vec<u8> {
        &mut self.0.get_or_insert_with(|| spares.take()).copied
    }

    /// Appends a payload without copying it.
    pub fn share(&mut self, payload: Bytes) {
        if payload.is_empty() {
            return;
        }
        let packets = self.0.get_or_insert_default();
        let shared = packets.shared.get_or_insert_default();
        shared.bytes += payload.len();
        shared.payloads.push_back((packets.copied.len(), payload));
    }

    /// Forgets everything.
    pub fn clear(&mut self, spares: &mut Spares) {
        if let Some(packets) = self.0.take() {
            spares.give_back(packets);
        }
    }

    /// Writes until all is written or the stream takes no more; returns the bytes written. Whether something is left,
    /// [`Output::is_empty`] and [`Stream::unflushed`] say; then `context` is woken when the stream takes more.
    pub fn write_to(
        &mut self,
        stream: &mut Stream,
        context: &mut Context<'_>,
        spares: &mut Spares,
    ) -> io::Result<usize> {
        let mut total = 0;
        while let Some(packets) = self.0.as_mut().filter(|packets| !packets.is_empty()) {
            let result = match &packets.shared {
                None => stream.poll_write(context, &[IoSlice::new(&packets.copied[packets.written..])]),
                Some(shared) => packets.write_gathered(&shared.payloads, stream, context),
            };
            match result {
                Poll::Pending => break,
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(count)) => {
                    total += count;
                    packets.advance(count);
                    if packets.is_empty() {
                        self.clear(spares);
                    }
                }
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Poll::Ready(Err(error)) => return Err(error),
            }
        }
        if self.is_empty()
            && let Poll::Ready(Err(error)) = stream.poll_flush(context)
        {
            return Err(error);
        }
        Ok(total)
    }
}

impl Packets {
    fn len(&self) -> usize {
        self.copied.len() - self.written + self.shared.as_ref().map_or(0, |shared| shared.bytes)
    }

    fn is_empty(&self) -> bool {
        self.written == self.copied.len() && self.shared.is_none()
    }

    fn write_gathered(
        &self,
        payloads: &VecDeque<(usize, Bytes)>,
        stream: &mut Stream,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); WRITE_SLICES_MAX];
        let mut used = 0;
        let mut add = |bytes| {
            if used < WRITE_SLICES_MAX && !<[u8]>::is_empty(bytes) {
                slices[used] = IoSlice::new(bytes);
                used += 1;
            }
        };
        let mut from = self.written;
        // Each payload needs at most two slices.
        for (at, payload) in payloads.iter().take(WRITE_SLICES_MAX / 2) {
            add(&self.copied[from..*at]);
            add(payload);
            from = *at;
        }
        if payloads.len() < WRITE_SLICES_MAX / 2 {
            add(&self.copied[from..]);
        }
        stream.poll_write(context, &slices[..used])
    }

    fn advance(&mut self, mut count: usize) {
        if let Some(shared) = &mut self.shared {
            while let Some((at, payload)) = shared.payloads.front_mut() {
                let before = (*at - self.written).min(count);
                self.written += before;
                count -= before;
                let taken = count.min(payload.len());
                payload.advance(taken);
                shared.bytes -= taken;
                count -= taken;
                if self.written < *at || !payload.is_empty() {
                    return;
                }
                shared.payloads.pop_front();
            }
            self.shared = None;
        }
        self.written += count;
        debug_assert!(self.written <= self.copied.len());
        if self.written < self.copied.len() && self.written > self.copied.len() / 2 {
            self.copied.drain(..self.written);
            self.written = 0;
        }
    }
}

/// Buffers that were written out, for the next connections that have something to write.
#[derive(Debug, Default)]
pub struct Spares(#[expect(clippy::vec_box, reason = "they go to connections as they are")] Vec<Box<Packets>>);

impl Spares {
    fn take(&mut self) -> Box<Packets> {
        self.0.pop().unwrap_or_default()
    }

    fn give_back(&mut self, mut packets: Box<Packets>) {
        let worth_keeping = 1..=SPARE_BUFFER_BYTES_MAX;
        if worth_keeping.contains(&packets.copied.capacity()) && self.0.len() < SPARE_BUFFERS_MAX {
            packets.copied.clear();
            packets.written = 0;
            packets.shared = None;
            self.0.push(packets);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    use super::*;

    proptest! {
        #[test]
        fn what_is_appended_comes_out_in_order_whatever_the_socket_takes(
            parts in prop::collection::vec((any::<bool>(), 0_usize..40), 1..80),
            capacity in 1_usize..64,
        ) {
            let (client, server) = tokio::io::duplex(capacity);
            let mut client = client;
            let mut stream = Stream::other(server);
            let mut context = Context::from_waker(Waker::noop());
            let mut spares = Spares::default();
            let mut output = Output::default();
            let mut expected = Vec::new();
            let mut received = Vec::new();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut read = |received: &mut Vec<u8>, expected: &[u8], output: &mut Output, spares: &mut Spares| {
                output.write_to(&mut stream, &mut context, spares).unwrap();
                let left = expected.len() - received.len() - output.len();
                let mut chunk = vec![0; left];
                runtime.block_on(client.read_exact(&mut chunk)).unwrap();
                received.extend(chunk);
            };
            for (number, (shared, length)) in parts.into_iter().enumerate() {
                let bytes = vec![number as u8; length];
                expected.extend(&bytes);
                if shared {
                    output.share(bytes.into());
                } else {
                    output.buffer(&mut spares).extend(&bytes);
                }
                if number % 3 == 0 {
                    read(&mut received, &expected, &mut output, &mut spares);
                }
            }
            while received.len() < expected.len() {
                read(&mut received, &expected, &mut output, &mut spares);
            }
            prop_assert_eq!(received, expected);
            prop_assert_eq!(output.len(), 0);
        }
    }
}
