//! The PROXY protocol, versions 1 and 2: whom a load balancer speaks for.
//!
//! Exactly the header is read from the socket, so that what follows is where it belongs. Deliberately absent: the
//! additional fields of version 2 (TLS of the balancer's own, its names), which are skipped.

use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::HandshakeError;

/// Longest line of version 1, with its end.
const LINE_BYTES_MAX: usize = 107;
/// Longest header of version 2 after its first 16 bytes; additional fields make it longer than the addresses.
const BODY_BYTES_MAX: usize = 2048;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and protocol, length.
const FIXED_BYTES: usize = 16;

/// Reads a header; gives the client's address if it names one.
///
/// # Errors
/// If there is none, or what it says makes no sense.
pub async fn read(socket: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, HandshakeError> {
    let mut header = vec![0; SIGNATURE.len()];
    socket.read_exact(&mut header).await?;
    if header == SIGNATURE {
        header.resize(FIXED_BYTES, 0);
        socket.read_exact(&mut header[SIGNATURE.len()..]).await?;
        let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
        if length > BODY_BYTES_MAX {
            return Err(HandshakeError::Proxy("it is too long"));
        }
        header.resize(FIXED_BYTES + length, 0);
        socket.read_exact(&mut header[FIXED_BYTES..]).await?;
        return parse_v2(&header).map_err(HandshakeError::Proxy);
    }
    if !header.starts_with(b"PROXY ") {
        return Err(HandshakeError::Proxy("there is none; is this client behind a balancer that sends one?"));
    }
    // A line has no length in front: byte by byte, so that nothing after it is taken.
    while !header.ends_with(b"\r\n") {
        if header.len() == LINE_BYTES_MAX {
            return Err(HandshakeError::Proxy("the line is too long"));
        }
        header.push(socket.read_u8().await?);
    }
    parse_v1(&header).map_err(HandshakeError::Proxy)
}

/// A whole line, with its end.
fn parse_v1(line: &[u8]) -> Result<Option<SocketAddr>, &'static str> {
    let line = line.strip_suffix(b"\r\n").ok_or("the line does not end")?;
    let line = std::str::from_utf8(line).map_err(|_| "the line is no text")?;
    let mut words = line.split(' ');
    if words.next() != Some("PROXY") {
        return Err("the line does not begin with PROXY");
    }
    let family = words.next();
    if family == Some("UNKNOWN") {
        return Ok(None);
    }
    let mut address = || words.next()?.parse::<IpAddr>().ok();
    let (source, destination) = (address(), address());
    let mut port = || words.next().filter(|port| !port.starts_with('+'))?.parse::<u16>().ok();
    let (source_port, destination_port) = (port(), port());
    match (family, source, destination, source_port, destination_port, words.next()) {
        (Some("TCP4"), Some(source @ IpAddr::V4(_)), Some(IpAddr::V4(_)), Some(port), Some(_), None)
        | (Some("TCP6"), Some(source @ IpAddr::V6(_)), Some(IpAddr::V6(_)), Some(port), Some(_), None) => {
            Ok(Some(SocketAddr::new(source, port)))
        }
        _ => Err("the line names no addresses and ports of one family"),
    }
}

/// A whole header.
fn parse_v2(header: &[u8]) -> Result<Option<SocketAddr>, &'static str> {
    let (fixed, body) = header.split_at_checked(FIXED_BYTES).ok_or("it is cut short")?;
    if !fixed.starts_with(SIGNATURE) || body.len() != usize::from(u16::from_be_bytes([fixed[14], fixed[15]])) {
        return Err("its signature or length is wrong");
    }
    match fixed[12] {
        // LOCAL: the balancer speaks for itself, as in a health check.
        0x20 => return Ok(None),
        0x21 => {}
        _ => return Err("it is of an unknown version or command"),
    }
    let port = |at: usize| body.get(at..at + 2).map(|port| u16::from_be_bytes([port[0], port[1]]));
    match fixed[13] {
        0x11 => {
            let (address, port) = body.first_chunk::<4>().zip(port(8)).ok_or("its addresses are cut short")?;
            Ok(Some(SocketAddr::from((*address, port))))
        }
        0x21 => {
            let (address, port) = body.first_chunk::<16>().zip(port(32)).ok_or("its addresses are cut short")?;
            Ok(Some(SocketAddr::from((*address, port))))
        }
        // UNSPEC and Unix sockets: there is an address, but none that we know how to name.
        0x00 | 0x31 => Ok(None),
        _ => Err("it is not about a stream"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend((body.len() as u16).to_be_bytes());
        header.extend(body);
        header
    }

    #[test]
    fn the_client_is_who_the_header_names() {
        let v4 = "192.0.2.7:4242".parse().ok();
        let v6 = "[2001:db8::7]:4242".parse().ok();
        assert_eq!(parse_v1(b"PROXY TCP4 192.0.2.7 198.51.100.1 4242 1883\r\n"), Ok(v4));
        assert_eq!(parse_v1(b"PROXY TCP6 2001:db8::7 2001:db8::1 4242 1883\r\n"), Ok(v6));
        assert_eq!(parse_v1(b"PROXY UNKNOWN anything at all\r\n"), Ok(None));
        let body = [&[192, 0, 2, 7, 198, 51, 100, 1][..], &4242_u16.to_be_bytes(), &[7, 91], b"more"].concat();
        assert_eq!(parse_v2(&v2(0x21, 0x11, &body)), Ok(v4));
        let mut body = [0; 36];
        body[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        body[15] = 7;
        body[32..34].copy_from_slice(&4242_u16.to_be_bytes());
        assert_eq!(parse_v2(&v2(0x21, 0x21, &body)), Ok(v6));
        assert_eq!(parse_v2(&v2(0x20, 0x00, b"")), Ok(None));
    }

    #[test]
    fn what_is_no_header_is_refused() {
        for line in [
            "PROXY\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 4242\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 4242 1883 1\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 70000 1883\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 +1 1883\r\n",
            "PROXY TCP4 ::1 ::2 1 2\r\n",
            "PROXY TCP4  192.0.2.7 198.51.100.1 1 2\r\n",
            "PROXY UDP4 192.0.2.7 198.51.100.1 1 2\r\n",
            "PROXY TCP4 192.0.2.7 198.51.100.1 1 2\n",
        ] {
            assert!(parse_v1(line.as_bytes()).is_err(), "{line:?}");
        }
        for header in
            [v2(0x11, 0x11, &[0; 12]), v2(0x22, 0x11, &[0; 12]), v2(0x21, 0x11, &[0; 9]), v2(0x21, 0x12, &[0; 12])]
        {
            assert!(parse_v2(&header).is_err(), "{header:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..80), line in "PROXY (TCP[46]|UNKNOWN) [0-9a-f:. ]{0,40}\r\n") {
            let _ = parse_v1(&bytes);
            let _ = parse_v1(line.as_bytes());
            let _ = parse_v2(&bytes);
            if bytes.len() >= FIXED_BYTES {
                bytes[..12].copy_from_slice(SIGNATURE);
                let length = (bytes.len() - FIXED_BYTES) as u16;
                bytes[14..16].copy_from_slice(&length.to_be_bytes());
                let _ = parse_v2(&bytes);
            }
        }
    }
}
