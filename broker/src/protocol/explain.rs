//! Why, in words: the Reason String of what the broker answers, where a reason code alone does not tell what to do.
//!
//! All words are known beforehand, but for a number in some, and allocate nothing. Deliberately absent: who wants to
//! hear them.

use std::io::Write as _;

use super::properties::{Properties, PropertyId};
use super::reason::{ProtocolError, ReasonCode};

/// Longer words are left out.
const WORDS_BYTES_MAX: usize = 122;

/// What to say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Words {
    text: &'static str,
    /// Stands where `text` says `{}`.
    number: Option<u64>,
}

/// A reason code, and in words what it leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Why {
    /// The code.
    pub reason: ReasonCode,
    /// Empty if there is nothing to add.
    pub words: Words,
}

impl Words {
    /// With a number, a bound most often, where `text` says `{}`.
    pub fn with(text: &'static str, number: impl Into<u64>) -> Words {
        Words { text, number: Some(number.into()) }
    }

    /// There is nothing to say.
    pub fn is_empty(self) -> bool {
        self.text.is_empty()
    }

    /// Writes them to `out`; how many bytes they have. `None` if they don't fit.
    fn write(self, out: &mut [u8]) -> Option<usize> {
        let room = out.len();
        let mut rest = out;
        match (self.number, self.text.split_once("{}")) {
            (Some(number), Some((before, after))) => write!(rest, "{before}{number}{after}").ok()?,
            _ => rest.write_all(self.text.as_bytes()).ok()?,
        }
        Some(room - rest.len())
    }
}

impl From<&'static str> for Words {
    fn from(text: &'static str) -> Words {
        Words { text, number: None }
    }
}

impl ReasonCode {
    /// With words.
    pub fn because(self, words: impl Into<Words>) -> Why {
        Why { reason: self, words: words.into() }
    }
}

impl From<ReasonCode> for Why {
    fn from(reason: ReasonCode) -> Why {
        reason.because("")
    }
}

impl From<ProtocolError> for Why {
    fn from(error: ProtocolError) -> Why {
        error.reason.because(error.what)
    }
}

/// Appends the packet that `encode` makes of its properties: with the words, unless they make it larger than `bytes_max`.
pub fn encode_explained(
    out: &mut Vec<u8>,
    words: Words,
    bytes_max: u32,
    encode: impl Fn(Properties<'_>, &mut Vec<u8>),
) {
    let mut raw = [0; 3 + WORDS_BYTES_MAX];
    if let Some(length) = words.write(&mut raw[3..]).filter(|length| *length > 0) {
        raw[0] = PropertyId::ReasonString as u8;
        raw[2] = length as u8;
        let start = out.len();
        encode(Properties::built(&raw[..3 + length]), out);
        if out.len() - start <= bytes_max as usize {
            return;
        }
        out.truncate(start);
    }
    encode(Properties::default(), out);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Disconnect, Packet, Version};

    fn disconnect(words: Words, bytes_max: u32) -> Vec<u8> {
        let mut out = vec![7];
        encode_explained(&mut out, words, bytes_max, |properties, out| {
            Packet::Disconnect(Disconnect { reason: ReasonCode::QUOTA_EXCEEDED, properties }).encode(Version::V5, out);
        });
        out
    }

    #[test]
    fn words_are_there_if_there_is_room_for_them() {
        assert_eq!(disconnect("no".into(), 9), *b"\x07\xe0\x07\x97\x05\x1f\x00\x02no");
        assert_eq!(disconnect("no".into(), 8), *b"\x07\xe0\x01\x97");
        assert_eq!(disconnect("".into(), 9), *b"\x07\xe0\x01\x97");
        let longest: &'static str = "x".repeat(WORDS_BYTES_MAX).leak();
        assert_eq!(disconnect(longest.into(), u32::MAX).len(), 1 + 2 + 1 + 1 + 3 + WORDS_BYTES_MAX);
        let too_long: &'static str = "x".repeat(WORDS_BYTES_MAX + 1).leak();
        assert_eq!(disconnect(too_long.into(), u32::MAX).len(), 1 + 3);
    }

    #[test]
    fn a_number_stands_in_its_place() {
        let words = Words::with("at most {}!", 1024_u32);
        assert_eq!(disconnect(words, 20), *b"\x07\xe0\x12\x97\x10\x1f\x00\x0dat most 1024!");
        assert_eq!(disconnect(words, 19), *b"\x07\xe0\x01\x97");
    }
}
