//! What comes before MQTT, or around it: PROXY headers, the request for WebSocket, its frames, SCRAM.

use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mqtt_broker::auth::{Exchange, ScramVerifier};
use mqtt_broker::connection::{Stream, WebSocket};
use mqtt_broker::listener::{proxy, upgrade};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::mutation::fuzz;

/// Bytes of answers that a client that does not read leaves room for.
const ANSWER_BYTES_MAX: usize = 4096;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), future).await }).expect("it waits for more")
}

/// A stream on which a client says `bytes` and nothing more.
fn said(bytes: &[u8]) -> (tokio::io::DuplexStream, tokio::io::DuplexStream) {
    let (mut client, server) = tokio::io::duplex(bytes.len().max(ANSWER_BYTES_MAX));
    let written = std::pin::pin!(client.write_all(bytes)).poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(written, Poll::Ready(Ok(()))));
    let shut = std::pin::pin!(client.shutdown()).poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(shut, Poll::Ready(Ok(()))));
    (client, server)
}

#[test]
fn proxy_headers() {
    fuzz("proxy", Vec::new(), |bytes| {
        block_on(async {
            let (_client, mut server) = said(bytes);
            if proxy::read(&mut server).await.is_ok() {
                // What follows the header is where it belongs.
                let mut rest = Vec::new();
                server.read_to_end(&mut rest).await.unwrap();
                assert!(bytes.ends_with(&rest) && rest.len() < bytes.len());
            }
        });
    });
}

#[test]
fn requests_for_websocket() {
    fuzz("upgrade", Vec::new(), |bytes| {
        block_on(async {
            let (mut client, server) = said(bytes);
            let mut server = Stream::other(server);
            let answered = upgrade::answer(&mut server, "/mqtt").await;
            let mut unread = Vec::new();
            let mut chunk = [0; 100];
            while let Ok(count @ 1..) = poll_fn(|context| server.poll_read(context, &mut chunk)).await {
                unread.extend_from_slice(&chunk[..count]);
            }
            drop(server);
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            match answered {
                Ok(early) => {
                    assert!(answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("\r\n\r\n"), "{answer}");
                    let after = [early, unread].concat();
                    let head = bytes.strip_suffix(&after[..]);
                    assert!(head.is_some_and(|head| head.ends_with(b"\r\n\r\n")), "{after:02x?}");
                }
                Err(_) => assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}"),
            }
        });
    });
}

/// All the data of a client's frames, in reads of at most `size` bytes, and whether it ended without a violation.
fn unframe(stream: Stream, early: &[u8], size: usize) -> (Vec<u8>, bool) {
    let mut socket = WebSocket::new(stream, early.to_vec());
    let (mut data, mut buffer) = (Vec::new(), vec![0; size]);
    loop {
        match socket.poll_read(&mut Context::from_waker(Waker::noop()), &mut buffer) {
            Poll::Ready(Ok(0)) => return (data, true),
            Poll::Ready(Ok(count)) => data.extend_from_slice(&buffer[..count]),
            Poll::Ready(Err(error)) => {
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
                return (data, false);
            }
            Poll::Pending => panic!("the client has said everything"),
        }
    }
}

#[test]
fn websocket_frames() {
    fuzz("websocket", Vec::new(), |bytes| {
        // However they are cut: the same data, but for what a whole read lost with the frame that broke the rules.
        let (whole, kept) = unframe(Stream::other(said(&[]).1), bytes, 64 * 1024);
        assert!(whole.len() <= bytes.len());
        for size in [1, 2, 7, 100] {
            let half = bytes.len() / 2;
            let (_client, server) = said(&bytes[half..]);
            let (data, also_kept) = unframe(Stream::other(server), &bytes[..half], size);
            assert_eq!(also_kept, kept);
            assert!(data.starts_with(&whole) && (data == whole || !kept), "{data:02x?} and {whole:02x?}");
        }
    });
}

/// A first message, or a last one.
#[test]
fn scram_messages() {
    let verifier = ScramVerifier::of(b"secret", b"salt");
    fuzz("scram", Vec::new(), |bytes| {
        if let Ok(exchange) = Exchange::begin(bytes, |_| Some(verifier.clone())) {
            assert!(exchange.challenge().starts_with("r="));
            assert!(exchange.finish(bytes).is_err());
        }
        let exchange = Exchange::begin(b"n,,n=ann,r=abc", |_| Some(verifier.clone())).unwrap();
        assert!(exchange.finish(bytes).is_err(), "nobody guesses a proof");
    });
}
