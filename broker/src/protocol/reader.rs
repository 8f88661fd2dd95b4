//! A cursor over the bytes of one packet. Every read is checked; what is missing is a malformed packet.

use super::reason::ProtocolError;
use super::text;

type Result<T> = std::result::Result<T, ProtocolError>;

const SHORT: ProtocolError = ProtocolError::malformed("MQTT-2.1.4", "the packet ends within a field");

#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }

    #[inline]
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or(SHORT)?;
        self.bytes = rest;
        Ok(taken)
    }

    #[inline]
    pub(super) fn u8(&mut self) -> Result<u8> {
        let (byte, rest) = self.bytes.split_first().ok_or(SHORT)?;
        self.bytes = rest;
        Ok(*byte)
    }

    #[inline]
    pub(super) fn u16(&mut self) -> Result<u16> {
        let (bytes, rest) = self.bytes.split_first_chunk::<2>().ok_or(SHORT)?;
        self.bytes = rest;
        Ok(u16::from_be_bytes(*bytes))
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        let (bytes, rest) = self.bytes.split_first_chunk::<4>().ok_or(SHORT)?;
        self.bytes = rest;
        Ok(u32::from_be_bytes(*bytes))
    }

    /// A Variable Byte Integer, in its shortest form ([MQTT-1.5.5-1]).
    pub(super) fn variable_int(&mut self) -> Result<u32> {
        let mut value = 0;
        for place in 0..4 {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                if byte == 0 && place > 0 {
                    return Err(ProtocolError::malformed("MQTT-1.5.5-1", "a length is not in its shortest form"));
                }
                return Ok(value);
            }
        }
        Err(ProtocolError::malformed("MQTT-1.5.5", "a length has more than four bytes"))
    }

    /// A UTF-8 Encoded String.
    #[inline]
    pub(super) fn string(&mut self) -> Result<&'a str> {
        text::utf8(self.binary()?)
    }

    /// Binary Data.
    #[inline]
    pub(super) fn binary(&mut self) -> Result<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    /// A Packet Identifier, which is never 0.
    #[inline]
    pub(super) fn packet_id(&mut self) -> Result<u16> {
        match self.u16()? {
            0 => Err(ProtocolError::malformed("MQTT-2.2.1-3", "the packet identifier is 0")),
            id => Ok(id),
        }
    }

    /// Nothing may be left.
    pub(super) fn end(&self) -> Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        Err(ProtocolError::malformed("MQTT-2.1.4", "the packet goes on after its last field"))
    }
}
