//! Why, in words: the Reason String of what the broker answers, where a reason code alone does not tell what to do.
//!
//! All words are known beforehand and allocate nothing. Deliberately absent: who wants to hear them.

use super::properties::{Properties, PropertyId};
use super::reason::{ProtocolError, ReasonCode};

/// Longer words are left out.
const WORDS_BYTES_MAX: usize = 122;

/// A reason code, and in words what it leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Why {
    /// The code.
    pub reason: ReasonCode,
    /// Empty if there is nothing to add.
    pub words: &'static str,
}

impl ReasonCode {
    /// With words.
    pub const fn because(self, words: &'static str) -> Why {
        Why { reason: self, words }
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
pub fn encode_explained(out: &mut Vec<u8>, words: &str, bytes_max: u32, encode: impl Fn(Properties<'_>, &mut Vec<u8>)) {
    let mut raw = [0; 3 + WORDS_BYTES_MAX];
    if let Some(space) = raw.get_mut(3..3 + words.len()).filter(|_| !words.is_empty()) {
        space.copy_from_slice(words.as_bytes());
        raw[0] = PropertyId::ReasonString as u8;
        raw[2] = words.len() as u8;
        let start = out.len();
        encode(Properties::built(&raw[..3 + words.len()]), out);
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

    fn disconnect(words: &str, bytes_max: u32) -> Vec<u8> {
        let mut out = vec![7];
        encode_explained(&mut out, words, bytes_max, |properties, out| {
            Packet::Disconnect(Disconnect { reason: ReasonCode::QUOTA_EXCEEDED, properties }).encode(Version::V5, out);
        });
        out
    }

    #[test]
    fn words_are_there_if_there_is_room_for_them() {
        assert_eq!(disconnect("no", 9), *b"\x07\xe0\x07\x97\x05\x1f\x00\x02no");
        assert_eq!(disconnect("no", 8), *b"\x07\xe0\x01\x97");
        assert_eq!(disconnect("", 9), *b"\x07\xe0\x01\x97");
        assert_eq!(disconnect(&"x".repeat(WORDS_BYTES_MAX), u32::MAX).len(), 1 + 2 + 1 + 1 + 3 + WORDS_BYTES_MAX);
        assert_eq!(disconnect(&"x".repeat(WORDS_BYTES_MAX + 1), u32::MAX).len(), 1 + 3);
    }
}
