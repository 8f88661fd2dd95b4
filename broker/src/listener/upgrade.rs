//! The HTTP request that asks for MQTT over WebSocket (RFC 6455, section 4.2), and its answer.

use std::future::poll_fn;
use std::io::{self, IoSlice};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::HandshakeError;
use crate::connection::Stream;
use crate::limits::{HTTP_HEAD_BYTES_MAX, HTTP_HEADERS_MAX};

/// What is appended to the client's key (section 1.3).
const KEY_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Bytes of a key, once decoded.
const KEY_BYTES: usize = 16;

/// Why a request is refused: the status, and what is wrong.
type Refusal = (&'static str, &'static str);

/// The answer to a request.
#[derive(Debug, PartialEq, Eq)]
struct Accepted {
    /// To the client's key.
    key: String,
    protocol: &'static str,
}

/// Answers the request; gives what came after it.
///
/// # Errors
/// If it is refused, which the client has been told.
pub async fn answer(stream: &mut Stream, path: &str) -> Result<Vec<u8>, HandshakeError> {
    let (head, early) = read_head(stream).await?;
    match accept(&head, path) {
        Ok(Accepted { key, protocol }) => {
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {key}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
            );
            write_all(stream, answer.as_bytes()).await?;
            Ok(early)
        }
        Err((status, what)) => {
            let length = what.len() + 1;
            let answer = format!(
                "HTTP/1.1 {status}\r\nConnection: close\r\nSec-WebSocket-Version: 13\r\nContent-Type: text/plain\r\n\
                 Content-Length: {length}\r\n\r\n{what}\n"
            );
            write_all(stream, answer.as_bytes()).await?;
            let _ = poll_fn(|context| stream.poll_shutdown(context)).await;
            Err(HandshakeError::Upgrade(what))
        }
    }
}

/// Reads to the empty line that ends a request's head; gives what came after it too.
async fn read_head(stream: &mut Stream) -> Result<(Vec<u8>, Vec<u8>), HandshakeError> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 1024];
    loop {
        let count = poll_fn(|context| stream.poll_read(context, &mut chunk)).await?;
        if count == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let searched = bytes.len().saturating_sub(3);
        bytes.extend_from_slice(&chunk[..count]);
        if let Some(end) = bytes[searched..].windows(4).position(|window| window == b"\r\n\r\n") {
            let early = bytes.split_off(searched + end + 4);
            return Ok((bytes, early));
        }
        if bytes.len() > HTTP_HEAD_BYTES_MAX {
            return Err(HandshakeError::Upgrade("the request's head is too long"));
        }
    }
}

/// Checks a whole head.
fn accept(head: &[u8], path: &str) -> Result<Accepted, Refusal> {
    const BAD_REQUEST: &str = "400 Bad Request";
    let mut headers = [httparse::EMPTY_HEADER; HTTP_HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    if !request.parse(head).is_ok_and(|status| status.is_complete()) {
        return Err((BAD_REQUEST, "this is no HTTP request, or it has too many headers"));
    }
    if request.method != Some("GET") || request.version != Some(1) {
        return Err(("405 Method Not Allowed", "a WebSocket is asked for by GET in HTTP/1.1"));
    }
    let asked = request.path.unwrap_or_default().split('?').next().unwrap_or_default();
    if asked != path {
        return Err(("404 Not Found", "MQTT is not at this path"));
    }
    let values = |name: &'static str| {
        let headers = request.headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
        headers.filter_map(|header| std::str::from_utf8(header.value).ok())
    };
    let listed = |name, word: &str| {
        values(name).flat_map(|value| value.split(',')).any(|listed| listed.trim().eq_ignore_ascii_case(word))
    };
    if !listed("upgrade", "websocket") || !listed("connection", "upgrade") {
        return Err(("426 Upgrade Required", "MQTT is spoken here over WebSocket"));
    }
    if values("sec-websocket-version").next().map(str::trim) != Some("13") {
        return Err(("426 Upgrade Required", "this server speaks version 13 of WebSocket"));
    }
    // [MQTT-6.0.0-3]; clients of MQTT 3.1 know the other name only.
    let offered = ["mqtt", "mqttv3.1"].into_iter().find(|protocol| listed("sec-websocket-protocol", protocol));
    let Some(protocol) = offered else {
        return Err((BAD_REQUEST, "offer the sub-protocol mqtt [MQTT-6.0.0-3]"));
    };
    let key = values("sec-websocket-key").next().unwrap_or_default().trim();
    if !STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == KEY_BYTES) {
        return Err((BAD_REQUEST, "Sec-WebSocket-Key is missing or wrong"));
    }
    let keyed = [key.as_bytes(), KEY_SUFFIX].concat();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &keyed);
    Ok(Accepted { key: STANDARD.encode(digest), protocol })
}

async fn write_all(stream: &mut Stream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = poll_fn(|context| stream.poll_write(context, &[IoSlice::new(bytes)])).await?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[count..];
    }
    poll_fn(|context| stream.poll_flush(context)).await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(change: impl Fn(&str) -> Option<String>) -> Vec<u8> {
        let lines = [
            "GET /mqtt HTTP/1.1",
            "Host: server.example.com",
            "Upgrade: websocket",
            "Connection: keep-alive, Upgrade",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "Sec-WebSocket-Protocol: mqttv3.1, mqtt",
            "Sec-WebSocket-Version: 13",
        ];
        let changed: Vec<String> = lines.iter().filter_map(|line| change(line)).collect();
        format!("{}\r\n\r\n", changed.join("\r\n")).into_bytes()
    }

    #[test]
    fn the_key_of_the_standard_is_answered_as_there() {
        let accepted = accept(&head(|line| Some(line.to_owned())), "/mqtt");
        let key = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".to_owned();
        assert_eq!(accepted, Ok(Accepted { key, protocol: "mqtt" }));
        let old = accept(&head(|line| Some(line.replace(", mqtt", ""))), "/mqtt");
        assert_eq!(old.map(|accepted| accepted.protocol), Ok("mqttv3.1"));
    }

    #[test]
    fn each_thing_that_is_missing_is_refused() {
        for (line, status) in [
            ("Upgrade", "426"),
            ("Connection", "426"),
            ("Sec-WebSocket-Key", "400"),
            ("Sec-WebSocket-Protocol", "400"),
            ("Sec-WebSocket-Version", "426"),
        ] {
            let without = head(|kept| (!kept.starts_with(line)).then(|| kept.to_owned()));
            let (refused, _) = accept(&without, "/mqtt").unwrap_err();
            assert!(refused.starts_with(status), "{line}: {refused}");
        }
        let whole = head(|line| Some(line.to_owned()));
        assert!(accept(&whole, "/elsewhere").unwrap_err().0.starts_with("404"));
        let posted = head(|line| Some(line.replace("GET", "POST")));
        assert!(accept(&posted, "/mqtt").unwrap_err().0.starts_with("405"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0_usize..200) {
            let _ = accept(&bytes, "/mqtt");
            let mut whole = head(|line| Some(line.to_owned()));
            whole.truncate(cut);
            let _ = accept(&whole, "/mqtt");
        }
    }
}
