//! MQTT over WebSocket (RFC 6455, server's side), as a byte stream: frames are taken off and put on in place.
//!
//! Written here and not taken from a crate, because those that are kept hold a read and a write buffer per connection:
//! this one unmasks in the buffer that is read into and writes its headers beside the caller's slices. Deliberately
//! absent: the HTTP upgrade (`listener`), extensions, and message boundaries, which mean nothing to MQTT ([MQTT-6.0.0-2]).

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use super::stream::Stream;
use crate::limits::WRITE_SLICES_MAX;

/// Of a frame from a client: two bytes, a length of eight, a mask.
const CLIENT_HEADER_BYTES_MAX: usize = 14;
/// Of a frame to a client.
const SERVER_HEADER_BYTES_MAX: usize = 10;
/// Of the payload of a control frame (section 5.5).
const CONTROL_BYTES_MAX: usize = 125;

const CONTINUATION: u8 = 0x0;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;
const FIN: u8 = 0x80;

/// Why the server ends it (section 7.4.1).
const NORMAL: u16 = 1000;
const PROTOCOL_ERROR: u16 = 1002;
/// Only binary frames carry MQTT ([MQTT-6.0.0-1]).
const UNSUPPORTED_DATA: u16 = 1003;

/// A WebSocket whose handshake is done.
pub struct WebSocket {
    stream: Stream,
    /// What came with the handshake.
    early: Vec<u8>,
    reading: Reading,
    writing: Writing,
}

#[derive(Default)]
struct Reading {
    /// Of a frame header, as far as it has come.
    header: [u8; CLIENT_HEADER_BYTES_MAX],
    header_bytes: usize,
    opcode: u8,
    /// Rotated, so that its first byte is for the next one of the payload.
    mask: [u8; 4],
    /// Of the payload of the frame at hand.
    left: u64,
    /// A message was begun and not finished.
    fragmented: bool,
    /// The payload of a control frame, as far as it has come.
    control: Vec<u8>,
}

#[derive(Default)]
struct Writing {
    header: [u8; SERVER_HEADER_BYTES_MAX],
    header_bytes: usize,
    header_written: usize,
    /// Of the payload of the frame whose header was begun.
    left: usize,
    /// A whole control frame that goes out before the next data.
    control: Vec<u8>,
    control_written: usize,
    /// Close was sent: nothing may follow.
    closed: bool,
}

/// A frame that must not be: the code for Close, and what is wrong.
type Violation = (u16, &'static str);

/// What a client's bytes bring besides data.
enum Event {
    Ping(Vec<u8>),
    Close,
}

impl WebSocket {
    /// Over a stream whose client has sent `early` after its handshake.
    pub fn new(stream: Stream, early: Vec<u8>) -> WebSocket {
        WebSocket { stream, early, reading: Reading::default(), writing: Writing::default() }
    }

    /// Reads data; 0 is the end.
    pub fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            // Whether it is taken shows when data is written or the end is read.
            let _ = self.poll_control(context)?;
            if self.writing.closed {
                return Poll::Ready(Ok(0));
            }
            let count = if self.early.is_empty() {
                ready!(self.stream.poll_read(context, buffer))?
            } else {
                let count = self.early.len().min(buffer.len());
                buffer[..count].copy_from_slice(&self.early[..count]);
                self.early.drain(..count);
                if self.early.is_empty() {
                    self.early = Vec::new();
                }
                count
            };
            if count == 0 {
                return Poll::Ready(Ok(0));
            }
            let mut event = None;
            match self.reading.unframe(&mut buffer[..count], &mut event) {
                Ok(data) => {
                    match event {
                        Some(Event::Ping(payload)) => self.writing.answer(PONG, &payload),
                        Some(Event::Close) => self.writing.close(NORMAL),
                        None => {}
                    }
                    let _ = self.poll_control(context)?;
                    if data > 0 {
                        return Poll::Ready(Ok(data));
                    }
                }
                Err((code, what)) => {
                    self.writing.close(code);
                    let _ = self.poll_control(context)?;
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, what)));
                }
            }
        }
    }

    /// Writes data as binary frames; see [`Stream::poll_write`].
    pub fn poll_write(&mut self, context: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            if self.writing.between_frames() {
                ready!(self.poll_control(context))?;
                let total = slices.iter().map(|slice| slice.len()).sum();
                if total == 0 {
                    return Poll::Ready(Ok(0));
                }
                if self.writing.closed {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
                self.writing.begin(total);
            }
            let mut gathered = [IoSlice::new(&[]); WRITE_SLICES_MAX + 1];
            let used = self.writing.gather(slices, &mut gathered);
            let count = ready!(self.stream.poll_write(context, &gathered[..used]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let data = self.writing.advance(count);
            if data > 0 {
                return Poll::Ready(Ok(data));
            }
        }
    }

    /// Lets what lies in the layer below leave.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_flush(context)
    }

    /// Whether the layer below holds something back.
    pub fn unflushed(&self) -> bool {
        self.stream.unflushed()
    }

    /// Says that nothing more will be written.
    pub fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.writing.closed {
            self.writing.close(NORMAL);
        }
        // A client that takes nothing more is not waited for.
        let _ = self.poll_control(context)?;
        self.stream.poll_shutdown(context)
    }

    /// Writes the control frame that waits, unless a data frame is half out.
    fn poll_control(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.writing.control.is_empty() || !self.writing.between_frames() {
            return Poll::Ready(Ok(()));
        }
        while self.writing.control_written < self.writing.control.len() {
            let rest = IoSlice::new(&self.writing.control[self.writing.control_written..]);
            match ready!(self.stream.poll_write(context, &[rest]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.writing.control_written += count,
            }
        }
        self.writing.control = Vec::new();
        self.writing.control_written = 0;
        self.stream.poll_flush(context)
    }
}

impl Reading {
    /// Moves the data among `bytes` to their front and says how much there is. Of several pings the last is answered
    /// (section 5.5.3).
    fn unframe(&mut self, bytes: &mut [u8], event: &mut Option<Event>) -> Result<usize, Violation> {
        let (mut from, mut to) = (0, 0);
        while from < bytes.len() {
            if self.left == 0 {
                self.header[self.header_bytes] = bytes[from];
                self.header_bytes += 1;
                from += 1;
                if self.header_bytes == self.header_bytes_needed() {
                    self.begin_frame()?;
                    if self.left == 0 {
                        self.end_frame(event)?;
                    }
                }
            } else {
                let count = (bytes.len() - from).min(usize::try_from(self.left).unwrap_or(usize::MAX));
                unmask(&mut bytes[from..from + count], &mut self.mask);
                if self.opcode & CLOSE != 0 {
                    self.control.extend_from_slice(&bytes[from..from + count]);
                } else {
                    bytes.copy_within(from..from + count, to);
                    to += count;
                }
                from += count;
                self.left -= count as u64;
                if self.left == 0 {
                    self.end_frame(event)?;
                }
            }
            if matches!(event, Some(Event::Close)) {
                // What follows is nothing.
                break;
            }
        }
        Ok(to)
    }

    fn header_bytes_needed(&self) -> usize {
        if self.header_bytes < 2 {
            return 2;
        }
        match self.header[1] & 0x7f {
            126 => 8,
            127 => 14,
            _ => 6,
        }
    }

    fn begin_frame(&mut self) -> Result<(), Violation> {
        let header = &self.header[..self.header_bytes];
        let (first, second) = (header[0], header[1]);
        let end = header.len();
        self.opcode = first & 0x0f;
        self.mask.copy_from_slice(&header[end - 4..]);
        self.left = match second & 0x7f {
            126 => u64::from(u16::from_be_bytes([header[2], header[3]])),
            127 => header[2..10].iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
            length => u64::from(length),
        };
        self.header_bytes = 0;
        let is_last = first & FIN != 0;
        if first & 0x70 != 0 {
            return Err((PROTOCOL_ERROR, "a reserved bit is set, and no extension was agreed on"));
        }
        if second & 0x80 == 0 {
            return Err((PROTOCOL_ERROR, "a client's frame is not masked"));
        }
        if self.left > i64::MAX as u64 {
            return Err((PROTOCOL_ERROR, "a length has its first bit set"));
        }
        match self.opcode {
            CLOSE | PING | PONG if !is_last || self.left > CONTROL_BYTES_MAX as u64 => {
                Err((PROTOCOL_ERROR, "a control frame is fragmented or too long"))
            }
            CLOSE | PING | PONG => Ok(()),
            CONTINUATION if self.fragmented => {
                self.fragmented = !is_last;
                Ok(())
            }
            BINARY if !self.fragmented => {
                self.fragmented = !is_last;
                Ok(())
            }
            CONTINUATION | BINARY => Err((PROTOCOL_ERROR, "a fragment is out of place")),
            _ => Err((UNSUPPORTED_DATA, "a frame is not binary [MQTT-6.0.0-1]")),
        }
    }

    fn end_frame(&mut self, event: &mut Option<Event>) -> Result<(), Violation> {
        let payload = std::mem::take(&mut self.control);
        match self.opcode {
            PING => *event = Some(Event::Ping(payload)),
            CLOSE if payload.len() == 1 => return Err((PROTOCOL_ERROR, "half a close code")),
            CLOSE => *event = Some(Event::Close),
            _ => {}
        }
        Ok(())
    }
}

/// Unmasks, and turns the mask to what comes next.
fn unmask(bytes: &mut [u8], mask: &mut [u8; 4]) {
    let mut words = bytes.chunks_exact_mut(4);
    for word in &mut words {
        for (byte, mask) in word.iter_mut().zip(*mask) {
            *byte ^= mask;
        }
    }
    let rest = words.into_remainder();
    for (byte, mask) in rest.iter_mut().zip(*mask) {
        *byte ^= mask;
    }
    mask.rotate_left(rest.len());
}

impl Writing {
    fn between_frames(&self) -> bool {
        self.left == 0 && self.header_written == self.header_bytes
    }

    fn begin(&mut self, total: usize) {
        self.header[0] = FIN | BINARY;
        self.header_bytes = match total {
            0..=125 => {
                self.header[1] = total as u8;
                2
            }
            126..=0xffff => {
                self.header[1] = 126;
                self.header[2..4].copy_from_slice(&(total as u16).to_be_bytes());
                4
            }
            _ => {
                self.header[1] = 127;
                self.header[2..10].copy_from_slice(&(total as u64).to_be_bytes());
                10
            }
        };
        self.header_written = 0;
        self.left = total;
    }

    /// What is to be written of the frame: the rest of its header, and of `slices` what belongs to it.
    fn gather<'a>(&'a self, slices: &'a [IoSlice<'_>], out: &mut [IoSlice<'a>]) -> usize {
        let mut used = 0;
        if self.header_written < self.header_bytes {
            out[0] = IoSlice::new(&self.header[self.header_written..self.header_bytes]);
            used = 1;
        }
        let mut left = self.left;
        for slice in slices {
            if left == 0 || used == out.len() {
                break;
            }
            let count = slice.len().min(left);
            if count > 0 {
                out[used] = IoSlice::new(&slice[..count]);
                used += 1;
                left -= count;
            }
        }
        used
    }

    /// So many bytes were written; how many of them were data.
    fn advance(&mut self, count: usize) -> usize {
        let of_header = count.min(self.header_bytes - self.header_written);
        self.header_written += of_header;
        let data = count - of_header;
        self.left -= data;
        data
    }

    /// Puts a control frame in front of the next data; one that waits and has not begun to leave is replaced.
    fn answer(&mut self, opcode: u8, payload: &[u8]) {
        if self.control_written > 0 || self.closed {
            return;
        }
        debug_assert!(payload.len() <= CONTROL_BYTES_MAX);
        self.control.clear();
        self.control.extend([FIN | opcode, payload.len() as u8]);
        self.control.extend_from_slice(payload);
    }

    fn close(&mut self, code: u16) {
        self.answer(CLOSE, &code.to_be_bytes());
        self.closed = true;
    }
}

#[cfg(test)]
mod tests;
