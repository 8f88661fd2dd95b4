//! The bytes of the log: records, and the header of a segment. Encoding and checking only; no files, no state.
//!
//! A segment is a header and then records, without padding. All numbers are little-endian.
//!
//! ```text
//! segment header                                record
//!   0  8  "MQTTLOG1"                              0  4  CRC-32C of bytes 4..36, seeded (below)
//!   8  8  fingerprint of the identity             4  4  CRC-32C of the payload
//!  16  8  number of the segment                   8  4  length of the payload
//!  24  4  length of the previous segment         12  4  offset at which the write that carried it began
//!  28  4  length of the table                    16  2  group
//!  32  4  CRC-32C of 0..32 and the table         18  1  kind
//!  36     table: the state of all groups         19  1  key (values only)
//!                                                20  8  index
//!                                                28  8  sequence: counts the records of its group
//!                                                36     payload
//! ```
//!
//! The checksum of a record's header is seeded with the log's identity, the segment's number and the record's offset, so
//! that neither an old record in a reused block nor a record spelled out in a client's payload passes for one. It covers the
//! payload's checksum, and with it everything.
//!
//! The *offset at which the write began* tells a torn end from damage. A write is only begun after the sync of the one
//! before it. So where a record is unreadable and a later one belongs to a write that began behind it, something that was
//! durable is gone. Where none does, the unreadable part may be a write that never completed.
//!
//! The table lets a segment stand for all older ones: once no entry in those is needed, they are deleted.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::index::Group;
use crate::identity::{GroupId, stable_hash};

/// Bytes of a record before its payload.
pub(super) const RECORD_HEADER_BYTES: usize = 36;
const SEGMENT_HEADER_BYTES: usize = 36;
const MAGIC: &[u8; 8] = b"MQTTLOG1";

/// What a record does to its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Adds the entry `index`, the next one.
    Entry = 1,
    /// Repeats the entry `index`, so that the segment it was in can go.
    Rewrite = 2,
    /// Removes the entries from `index` on.
    Truncate = 3,
    /// Forgets the entries below `index`.
    Purge = 4,
    /// Sets the value `key`.
    Value = 5,
    /// Forgets everything, damage too.
    Erase = 6,
    /// Nothing; that it is there shows that everything before it was durable. Belongs to no group.
    Mark = 7,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Entry,
            2 => Kind::Rewrite,
            3 => Kind::Truncate,
            4 => Kind::Purge,
            5 => Kind::Value,
            6 => Kind::Erase,
            7 => Kind::Mark,
            _ => return None,
        })
    }
}

/// A record without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub payload_checksum: u32,
    pub length: u32,
    pub batch: u32,
    pub group: GroupId,
    pub kind: Kind,
    pub key: u8,
    pub index: u64,
    pub sequence: u64,
}

/// Makes and checks the seeded checksums of one log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seal {
    fingerprint: u64,
    seed: u32,
}

impl Seal {
    pub fn new(identity: u64) -> Seal {
        Seal { fingerprint: stable_hash(&identity.to_le_bytes()), seed: crc32c::crc32c(&identity.to_le_bytes()) }
    }

    fn at(self, segment: u64, offset: u32) -> u32 {
        let seed = crc32c::crc32c_append(self.seed, &segment.to_le_bytes());
        crc32c::crc32c_append(seed, &offset.to_le_bytes())
    }

    pub fn encode(self, header: &Header, segment: u64, offset: u32, out: &mut BytesMut) {
        let start = out.len();
        out.put_u32_le(0);
        out.put_u32_le(header.payload_checksum);
        out.put_u32_le(header.length);
        out.put_u32_le(header.batch);
        out.put_u16_le(header.group.0);
        out.put_u8(header.kind as u8);
        out.put_u8(header.key);
        out.put_u64_le(header.index);
        out.put_u64_le(header.sequence);
        let checksum = crc32c::crc32c_append(self.at(segment, offset), &out[start + 4..]);
        out[start..start + 4].copy_from_slice(&checksum.to_le_bytes());
    }

    /// The record header at the start of `bytes`, if one is whole there. The payload is not looked at.
    pub fn decode(self, bytes: &[u8], segment: u64, offset: u32) -> Option<Header> {
        let mut header = bytes.get(..RECORD_HEADER_BYTES)?;
        let kind = Kind::from_byte(header[18])?;
        let checksum = header.get_u32_le();
        if checksum != crc32c::crc32c_append(self.at(segment, offset), header) {
            return None;
        }
        let payload_checksum = header.get_u32_le();
        let length = header.get_u32_le();
        let batch = header.get_u32_le();
        let group = GroupId(header.get_u16_le());
        let (_, key) = (header.get_u8(), header.get_u8());
        let index = header.get_u64_le();
        let sequence = header.get_u64_le();
        Some(Header { payload_checksum, length, batch, group, kind, key, index, sequence })
    }

    pub fn encode_segment(self, header: &SegmentHeader) -> Bytes {
        let mut out = BytesMut::new();
        out.put_slice(MAGIC);
        out.put_u64_le(self.fingerprint);
        out.put_u64_le(header.number);
        out.put_u32_le(header.previous_length);
        out.put_u64_le(0); // length of the table and checksum, known below
        put_text(&mut out, header.stray.as_deref());
        out.put_u32_le(header.groups.len() as u32);
        for (group, state) in &header.groups {
            out.put_u16_le(group.0);
            out.put_u64_le(state.first);
            out.put_u64_le(state.next);
            out.put_u64_le(state.sequence);
            put_text(&mut out, state.damage.as_deref());
            out.put_u16_le(state.values.len() as u16);
            for (key, value) in &state.values {
                out.put_u8(*key);
                out.put_u32_le(value.len() as u32);
                out.put_slice(value);
            }
        }
        let table = (out.len() - SEGMENT_HEADER_BYTES) as u32;
        out[28..32].copy_from_slice(&table.to_le_bytes());
        let checksum = self.segment_checksum(&out);
        out[32..36].copy_from_slice(&checksum.to_le_bytes());
        out.freeze()
    }

    fn segment_checksum(self, header: &[u8]) -> u32 {
        let checksum = crc32c::crc32c_append(self.seed, &header[..32]);
        crc32c::crc32c_append(checksum, &header[SEGMENT_HEADER_BYTES..])
    }

    /// The header of the segment `number` and its length in bytes.
    pub fn decode_segment(self, bytes: &[u8], number: u64) -> Result<(SegmentHeader, u32), Spoilt> {
        let mut fixed = bytes.get(..SEGMENT_HEADER_BYTES).ok_or(Spoilt::Unreadable)?;
        if fixed[..8] != *MAGIC {
            return Err(Spoilt::Unreadable);
        }
        fixed.advance(8);
        let fingerprint = fixed.get_u64_le();
        let own_number = fixed.get_u64_le();
        let previous_length = fixed.get_u32_le();
        let length = SEGMENT_HEADER_BYTES + fixed.get_u32_le() as usize;
        let checksum = fixed.get_u32_le();
        let whole = bytes.get(..length).ok_or(Spoilt::Unreadable)?;
        if checksum != self.segment_checksum(whole) {
            // A header that is whole under another identity is no damage: it is somebody else's log.
            return Err(if fingerprint == self.fingerprint { Spoilt::Unreadable } else { Spoilt::Foreign });
        }
        if own_number != number || fingerprint != self.fingerprint {
            return Err(Spoilt::Unreadable);
        }
        let mut table = Table(&whole[SEGMENT_HEADER_BYTES..]);
        let stray = table.text()?;
        let count = table.u32()?;
        let mut groups = Vec::new();
        for _ in 0..count {
            let group = GroupId(table.u16()?);
            let (first, next, sequence) = (table.u64()?, table.u64()?, table.u64()?);
            let damage = table.text()?;
            let mut values = Vec::new();
            for _ in 0..table.u16()? {
                let key = table.u8()?;
                let length = table.u32()? as usize;
                values.push((key, Bytes::copy_from_slice(table.take(length)?)));
            }
            groups.push((group, GroupHeader { first, next, sequence, damage, values }));
        }
        let header = SegmentHeader { number, previous_length, stray, groups };
        Ok((header, length as u32))
    }
}

/// What a segment's header says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub number: u64,
    pub previous_length: u32,
    /// Damage that could not be laid at any group's door.
    pub stray: Option<String>,
    pub groups: Vec<(GroupId, GroupHeader)>,
}

/// The state of a group when a segment began.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GroupHeader {
    pub first: u64,
    pub next: u64,
    pub sequence: u64,
    pub damage: Option<String>,
    pub values: Vec<(u8, Bytes)>,
}

impl From<&Group> for GroupHeader {
    fn from(group: &Group) -> Self {
        GroupHeader {
            first: group.first,
            next: group.next(),
            sequence: group.sequence,
            damage: group.damage.clone(),
            values: group.values.iter().map(|(key, value)| (*key, value.clone())).collect(),
        }
    }
}

/// Why a segment's header can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoilt {
    Unreadable,
    /// Another identity's fingerprint stands in it.
    Foreign,
}

const TEXT_BYTES_MAX: usize = 1024;

fn put_text(out: &mut BytesMut, text: Option<&str>) {
    let text = text.unwrap_or_default();
    let mut end = text.len().min(TEXT_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    out.put_u16_le(end as u16);
    out.put_slice(&text.as_bytes()[..end]);
}

/// Reads a table without trusting its lengths.
struct Table<'a>(&'a [u8]);

impl<'a> Table<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Spoilt> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Spoilt::Unreadable)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, Spoilt> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, Spoilt> {
        Ok(self.take(2)?.get_u16_le())
    }

    fn u32(&mut self) -> Result<u32, Spoilt> {
        Ok(self.take(4)?.get_u32_le())
    }

    fn u64(&mut self) -> Result<u64, Spoilt> {
        Ok(self.take(8)?.get_u64_le())
    }

    fn text(&mut self) -> Result<Option<String>, Spoilt> {
        let length = usize::from(self.u16()?);
        let text = String::from_utf8_lossy(self.take(length)?).into_owned();
        Ok((!text.is_empty()).then_some(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            payload_checksum: crc32c::crc32c(b"payload"),
            length: 7,
            batch: 40,
            group: GroupId(3),
            kind: Kind::Entry,
            key: 0,
            index: 12,
            sequence: 99,
        }
    }

    #[test]
    fn a_record_is_read_back_only_where_it_was_written() {
        let seal = Seal::new(1);
        let mut out = BytesMut::new();
        seal.encode(&header(), 5, 77, &mut out);
        assert_eq!(seal.decode(&out, 5, 77), Some(header()));
        assert_eq!(seal.decode(&out, 5, 78), None, "another offset");
        assert_eq!(seal.decode(&out, 6, 77), None, "another segment");
        assert_eq!(Seal::new(2).decode(&out, 5, 77), None, "another log");
        assert_eq!(seal.decode(&out[..35], 5, 77), None, "cut");
    }

    #[test]
    fn a_flipped_bit_in_a_record_header_is_seen() {
        let seal = Seal::new(1);
        let mut out = BytesMut::new();
        seal.encode(&header(), 5, 77, &mut out);
        for bit in 0..out.len() * 8 {
            let mut spoilt = out.clone();
            spoilt[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(seal.decode(&spoilt, 5, 77), None, "bit {bit}");
        }
    }

    #[test]
    fn a_segment_header_is_read_back_and_a_flipped_bit_in_it_is_seen() {
        let seal = Seal::new(1);
        let header = SegmentHeader {
            number: 9,
            previous_length: 1234,
            stray: None,
            groups: vec![(
                GroupId(2),
                GroupHeader {
                    first: 10,
                    next: 20,
                    sequence: 30,
                    damage: Some("gone".to_owned()),
                    values: vec![(1, Bytes::from_static(b"vote"))],
                },
            )],
        };
        let bytes = seal.encode_segment(&header);
        assert_eq!(seal.decode_segment(&bytes, 9), Ok((header, bytes.len() as u32)));
        assert!(seal.decode_segment(&bytes, 8).is_err(), "another number");
        assert_eq!(Seal::new(2).decode_segment(&bytes, 9), Err(Spoilt::Foreign));
        for bit in 0..bytes.len() * 8 {
            let mut spoilt = bytes.to_vec();
            spoilt[bit / 8] ^= 1 << (bit % 8);
            assert!(seal.decode_segment(&spoilt, 9).is_err(), "bit {bit}");
        }
    }
}
