//! MQTT in the frames of a WebSocket, as a browser sends it: as much as a test needs of a client.
//!
//! Deliberately absent: fragments, pings and extensions; a broker that uses them fails the test.

use anyhow::{Result, bail, ensure};
use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex};

/// The example of RFC 6455: a key, and the answer that proves that it was understood.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// Bytes on their way through.
const BUFFER: usize = 16 * 1024;
/// The longest head of an answer.
const HEAD_BYTES_MAX: usize = 4096;

/// Asks for a WebSocket on a connection; what is written to the stream that is returned goes out in frames.
pub async fn open<R, W>(mut reader: R, mut writer: W) -> Result<DuplexStream>
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let request = format!(
        "GET /mqtt HTTP/1.1\r\nHost: broker\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Key: {KEY}\r\n\r\n"
    );
    writer.write_all(request.as_bytes()).await?;
    writer.flush().await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        ensure!(head.len() < HEAD_BYTES_MAX, "the head of the answer is too long");
        head.push(reader.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    ensure!(head.starts_with("HTTP/1.1 101 ") && head.contains(ACCEPT), "no WebSocket: {head}");

    let (ours, theirs) = duplex(BUFFER);
    let (mut from, mut to) = tokio::io::split(theirs);
    // Both end with the connection, or when the other end of the pipe is dropped.
    tokio::spawn(async move {
        let mut payload = BytesMut::with_capacity(BUFFER);
        while from.read_buf(&mut payload).await? > 0 {
            writer.write_all(&frame(&payload)).await?;
            writer.flush().await?;
            payload.clear();
        }
        anyhow::Ok(())
    });
    tokio::spawn(async move {
        loop {
            to.write_all(&next_payload(&mut reader).await?).await?;
        }
        #[allow(unreachable_code, reason = "it names the type of the task's errors")]
        anyhow::Ok(())
    });
    Ok(ours)
}

/// A binary frame; a client's are masked, if only with zeros.
fn frame(payload: &[u8]) -> BytesMut {
    let mut frame = BytesMut::with_capacity(payload.len() + 14);
    frame.put_u8(0x82);
    match u16::try_from(payload.len()) {
        Ok(length) if length < 126 => frame.put_u8(0x80 | length as u8),
        Ok(length) => {
            frame.put_u8(0x80 | 126);
            frame.put_u16(length);
        }
        Err(_) => {
            frame.put_u8(0x80 | 127);
            frame.put_u64(payload.len() as u64);
        }
    }
    frame.put_u32(0);
    frame.put_slice(payload);
    frame
}

async fn next_payload(reader: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>> {
    let first = reader.read_u8().await?;
    ensure!(first == 0x82, "the broker sent a frame that begins with {first:#04x}");
    let length = match reader.read_u8().await? {
        length @ ..126 => u64::from(length),
        126 => u64::from(reader.read_u16().await?),
        127 => reader.read_u64().await?,
        _ => bail!("the broker sent a masked frame"),
    };
    ensure!(length <= BUFFER as u64, "the broker sent a frame of {length} bytes");
    let mut payload = vec![0; length as usize];
    reader.read_exact(&mut payload).await?;
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_frame_has_its_length_before_the_payload() {
        assert_eq!(frame(b"hi")[..], [0x82, 0x82, 0, 0, 0, 0, b'h', b'i']);
        assert_eq!(frame(&[0; 300])[..4], [0x82, 0xfe, 1, 44]);
        let mut answer = &[0x82, 2, b'h', b'i'][..];
        assert_eq!(next_payload(&mut answer).await.unwrap(), b"hi");
        assert!(next_payload(&mut &[0x88, 0][..]).await.is_err());
    }
}
