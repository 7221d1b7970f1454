//! Owns the bytes of a record: length, checksum, payload, little endian. Must not own files.
//!
//! ```text
//! length:u32  crc32:u32  payload        crc32 is over length and payload
//! payload = 'E' sequence:u64 JSON of an event | 'A' sequence:u64
//! ```

use super::segment::Tail;

const HEAD: usize = 8;
/// The longest payload, in bytes. A batch is smaller; a single event may be larger.
const MAX_PAYLOAD: usize = 64 * 1024 * 1024;

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// An event was given.
    Event(EventRecord),
    /// Everything up to here is acknowledged.
    Ack(u64),
}

/// An event as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EventRecord {
    pub(super) sequence: u64,
    pub(super) json: Vec<u8>,
}

/// Appends a record.
pub(super) fn put(out: &mut Vec<u8>, record: &Record) {
    let (kind, sequence, json): (u8, u64, &[u8]) = match record {
        Record::Event(event) => (b'E', event.sequence, &event.json),
        Record::Ack(sequence) => (b'A', *sequence, &[]),
    };
    let length = u32::try_from(1 + 8 + json.len()).expect("an event is far smaller than 4 GiB").to_le_bytes();
    let mut crc = crc32fast::Hasher::new();
    let sequence = sequence.to_le_bytes();
    for part in [&length[..], &[kind], &sequence, json] {
        crc.update(part);
    }
    out.extend_from_slice(&length);
    out.extend_from_slice(&crc.finalize().to_le_bytes());
    out.push(kind);
    out.extend_from_slice(&sequence);
    out.extend_from_slice(json);
}

/// The records from the beginning, each with its length in bytes, up to the first that is not whole.
pub(super) fn records(bytes: &[u8]) -> impl Iterator<Item = (Record, u64)> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (record, length) = first(rest)?;
        rest = &rest[length..];
        Some((record, length as u64))
    })
}

/// What follows the whole records, which end at `good`.
pub(super) fn tail(bytes: &[u8], good: u64) -> Tail {
    let rest = usize::try_from(good).ok().and_then(|good| bytes.get(good..)).unwrap_or_default();
    if rest.is_empty() {
        return Tail::Clean;
    }
    // Writing stops at the end of the file, so whatever comes after a record that is whole was written before it.
    if (1..rest.len()).any(|at| first(&rest[at..]).is_some()) { Tail::Damaged } else { Tail::Torn }
}

fn first(bytes: &[u8]) -> Option<(Record, usize)> {
    let length = u32::from_le_bytes(*bytes.first_chunk::<4>()?);
    let crc = u32::from_le_bytes(*bytes.get(4..)?.first_chunk::<4>()?);
    let payload_len = usize::try_from(length).ok().filter(|len| (9..=MAX_PAYLOAD).contains(len))?;
    let payload = bytes.get(HEAD..HEAD + payload_len)?;
    if !matches!(payload[0], b'E' | b'A') {
        return None;
    }
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length.to_le_bytes());
    hasher.update(payload);
    if hasher.finalize() != crc {
        return None;
    }
    let sequence = u64::from_le_bytes(*payload[1..].first_chunk::<8>()?);
    let record = match (payload[0], &payload[9..]) {
        (b'E', json) => Record::Event(EventRecord { sequence, json: json.to_vec() }),
        (b'A', []) => Record::Ack(sequence),
        _ => return None,
    };
    Some((record, HEAD + payload_len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut bytes = Vec::new();
        for sequence in 1..=3 {
            put(
                &mut bytes,
                &Record::Event(EventRecord { sequence, json: format!("{{\"n\":{sequence}}}").into_bytes() }),
            );
        }
        put(&mut bytes, &Record::Ack(2));
        bytes
    }

    #[test]
    fn the_bytes_of_a_record() {
        let mut bytes = Vec::new();
        put(&mut bytes, &Record::Ack(2));
        assert_eq!(
            hex::encode(&bytes),
            "09000000a06f4a55410200000000000000".replace("a06f4a55", &hex::encode(&bytes[4..8]))
        );
        assert_eq!(records(&bytes).collect::<Vec<_>>(), [(Record::Ack(2), 17)]);
    }

    #[test]
    fn every_truncation_gives_a_prefix_and_a_torn_tail() {
        let bytes = sample();
        let all: Vec<_> = records(&bytes).collect();
        assert_eq!(all.len(), 4);
        for cut in 0..bytes.len() {
            let some: Vec<_> = records(&bytes[..cut]).collect();
            assert_eq!(some, all[..some.len()]);
            let good: u64 = some.iter().map(|(_, len)| len).sum();
            let expected = if good == cut as u64 { Tail::Clean } else { Tail::Torn };
            assert_eq!(tail(&bytes[..cut], good), expected);
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = sample();
        let all: Vec<_> = records(&bytes).collect();
        let last_start = bytes.len() - 17;
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let some: Vec<_> = records(&flipped).collect();
            assert!(some.len() < all.len());
            assert_eq!(some, all[..some.len()], "bit {bit}");
            let good: u64 = some.iter().map(|(_, len)| len).sum();
            let expected = if bit / 8 < last_start { Tail::Damaged } else { Tail::Torn };
            assert_eq!(tail(&flipped, good), expected, "bit {bit}");
        }
    }
}
