//! Frames however cut and joined, against what they carry; and what must not be.

use std::task::Waker;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::*;

fn frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..=125 => frame.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn pair(capacity: usize) -> (DuplexStream, WebSocket) {
    let (client, server) = tokio::io::duplex(capacity);
    (client, WebSocket::new(Stream::other(server), Vec::new()))
}

/// Reads what is there now.
fn read(socket: &mut WebSocket, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
    socket.poll_read(&mut Context::from_waker(Waker::noop()), buffer)
}

#[derive(Clone, Debug)]
enum Piece {
    Data(Vec<u8>, u8),
    Ping(Vec<u8>),
    Pong,
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let bytes = |max| prop::collection::vec(any::<u8>(), 0..max);
    prop::collection::vec(
        prop_oneof![
            4 => (bytes(300), 1_u8..4).prop_map(|(bytes, parts)| Piece::Data(bytes, parts)),
            1 => bytes(CONTROL_BYTES_MAX + 1).prop_map(Piece::Ping),
            1 => Just(Piece::Pong),
        ],
        1..12,
    )
}

proptest! {
    #[test]
    fn what_is_sent_in_frames_comes_out_whatever_the_cuts(pieces in pieces(), cut in 1_usize..400, room in 1_usize..64, mask: [u8; 4]) {
        let (mut wire, mut expected) = (Vec::new(), Vec::<u8>::new());
        for piece in pieces {
            match piece {
                Piece::Data(bytes, parts) => {
                    expected.extend(&bytes);
                    let parts: Vec<_> = bytes.chunks(bytes.len().div_ceil(parts.into()).max(1)).collect();
                    for (index, part) in parts.iter().enumerate() {
                        let last = if index + 1 == parts.len() { FIN } else { 0 };
                        wire.extend(frame(last | if index == 0 { BINARY } else { CONTINUATION }, part, mask));
                        // Control frames may stand between fragments (section 5.4).
                        wire.extend(frame(FIN | PONG, b"x", mask));
                    }
                }
                Piece::Ping(bytes) => wire.extend(frame(FIN | PING, &bytes, mask)),
                Piece::Pong => wire.extend(frame(FIN | PONG, b"", mask)),
            }
        }
        let (mut client, mut socket) = pair(1 << 20);
        let (mut received, mut buffer) = (Vec::<u8>::new(), vec![0; room]);
        for chunk in wire.chunks(cut) {
            block_on(client.write_all(chunk)).unwrap();
            while let Poll::Ready(count) = read(&mut socket, &mut buffer) {
                received.extend(&buffer[..count.unwrap()]);
            }
        }
        prop_assert_eq!(received, expected);
    }

    #[test]
    fn what_is_written_is_framed_whatever_the_socket_takes(
        parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 1..6),
        capacity in 1_usize..80,
    ) {
        let (mut client, mut socket) = pair(capacity);
        let expected = parts.concat();
        let mut left: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let (mut wire, mut chunk) = (Vec::new(), [0; 512]);
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..10_000 {
            let slices: Vec<_> = left.iter().map(|part| IoSlice::new(part)).collect();
            match socket.poll_write(&mut context, &slices) {
                Poll::Ready(Ok(0)) => break,
                Poll::Ready(count) => {
                    let mut count = count.unwrap();
                    while count > 0 {
                        let taken = count.min(left[0].len());
                        left[0] = &left[0][taken..];
                        count -= taken;
                        if left[0].is_empty() {
                            left.remove(0);
                        }
                    }
                }
                Poll::Pending => {
                    let count = block_on(client.read(&mut chunk)).unwrap();
                    wire.extend(&chunk[..count]);
                }
            }
        }
        drop(socket);
        block_on(client.read_to_end(&mut wire)).unwrap();
        let (mut at, mut received) = (0, Vec::<u8>::new());
        while at < wire.len() {
            prop_assert_eq!(wire[at], FIN | BINARY);
            let (length, header) = match wire[at + 1] {
                126 => (usize::from(u16::from_be_bytes([wire[at + 2], wire[at + 3]])), 4),
                length => (usize::from(length), 2),
            };
            received.extend(&wire[at + header..at + header + length]);
            at += header + length;
        }
        prop_assert_eq!(received, expected);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), room in 1_usize..64) {
        let (mut client, mut socket) = pair(1 << 16);
        block_on(client.write_all(&bytes)).unwrap();
        let mut buffer = vec![0; room];
        for _ in 0..bytes.len() + 1 {
            match read(&mut socket, &mut buffer) {
                Poll::Ready(Ok(1..)) => {}
                _ => break,
            }
        }
    }
}

#[test]
fn a_ping_is_answered_with_what_it_carried() {
    let (mut client, mut socket) = pair(4096);
    block_on(client.write_all(&frame(FIN | PING, b"hello", [1, 2, 3, 4]))).unwrap();
    assert!(read(&mut socket, &mut [0; 64]).is_pending());
    let mut answer = [0; 7];
    block_on(client.read_exact(&mut answer)).unwrap();
    assert_eq!(&answer, b"\x8a\x05hello");
}

#[test]
fn what_must_not_be_is_told_by_its_code() {
    let masked = |first, payload: &[u8]| frame(first, payload, [9; 4]);
    let mut unmasked = masked(FIN | BINARY, b"x");
    unmasked[1] &= 0x7f;
    for (bytes, code) in [
        // [MQTT-6.0.0-1]
        (masked(FIN | 0x1, b"text"), UNSUPPORTED_DATA),
        (unmasked, PROTOCOL_ERROR),
        (masked(FIN | 0x40 | BINARY, b"x"), PROTOCOL_ERROR),
        (masked(FIN | CONTINUATION, b"x"), PROTOCOL_ERROR),
        (masked(PING, b"x"), PROTOCOL_ERROR),
        (masked(FIN | PING, &[0; CONTROL_BYTES_MAX + 1]), PROTOCOL_ERROR),
        (masked(FIN | CLOSE, b"x"), PROTOCOL_ERROR),
    ] {
        let (mut client, mut socket) = pair(4096);
        block_on(client.write_all(&bytes)).unwrap();
        assert!(matches!(read(&mut socket, &mut [0; 256]), Poll::Ready(Err(_))), "{bytes:?}");
        let mut close = [0; 4];
        block_on(client.read_exact(&mut close)).unwrap();
        assert_eq!(close, [FIN | CLOSE, 2, (code >> 8) as u8, code as u8], "{bytes:?}");
    }
}

#[test]
fn close_is_answered_and_ends_it() {
    let (mut client, mut socket) = pair(4096);
    let bytes = [frame(FIN | BINARY, b"last", [7; 4]), frame(FIN | CLOSE, &1000_u16.to_be_bytes(), [7; 4])].concat();
    block_on(client.write_all(&bytes)).unwrap();
    let mut buffer = [0; 64];
    assert!(matches!(read(&mut socket, &mut buffer), Poll::Ready(Ok(4))));
    assert!(matches!(read(&mut socket, &mut buffer), Poll::Ready(Ok(0)) | Poll::Pending));
    let mut close = [0; 4];
    block_on(client.read_exact(&mut close)).unwrap();
    assert_eq!(close, [0x88, 2, 0x03, 0xe8]);
}
