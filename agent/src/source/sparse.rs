//! Owns the maps of sparse files as GNU tar writes them (GNU tar manual, "Storing Sparse Files"): the old GNU type and
//! PAX 0.0, 0.1, 1.0. Our parser gives the map; here it is checked that every other tool reads the same one. Must not
//! own reading the content.

use std::collections::VecDeque;

use tar_core::{EntryType, SparseEntry};

use super::block::{BLOCK, Records, check_number};
use super::problem::Fault;

/// The most pieces of one file: more than `tar` makes of a large database, and a map that fits in an extended header.
pub(super) const MAX_PIECES: usize = 10_000;

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// So many zeros that are not stored.
    Hole(u64),
    /// So many bytes that are.
    Data(u64),
}

/// The pieces of a file in order, none of them empty.
pub(super) type Pieces = VecDeque<Piece>;

/// Offsets in a header of the old GNU format, and in the blocks that continue its map.
const DESCRIPTORS: std::ops::Range<usize> = 386..482;
const EXTENDED: usize = 482;
const REAL_SIZE: std::ops::Range<usize> = 483..495;
const DESCRIPTOR: usize = 24;
const CONTINUED: usize = 504;

/// The pieces of a file of `real` bytes, of which `stored` are in the archive.
pub(super) fn pieces(map: &[SparseEntry], real: u64, stored: u64) -> Result<Pieces, Fault> {
    let (mut pieces, mut at, mut data) = (Pieces::new(), 0_u64, 0_u64);
    for chunk in map {
        let end = chunk.offset.checked_add(chunk.length).filter(|end| *end <= real).ok_or(Fault::SparseMap)?;
        let hole = chunk.offset.checked_sub(at).ok_or(Fault::SparseMap)?;
        pieces.extend((hole > 0).then_some(Piece::Hole(hole)));
        pieces.extend((chunk.length > 0).then_some(Piece::Data(chunk.length)));
        data += chunk.length;
        at = end;
    }
    pieces.extend((real > at).then_some(Piece::Hole(real - at)));
    if data == stored { Ok(pieces) } else { Err(Fault::SparseMap) }
}

/// Whether extended headers speak of a sparse file.
pub(super) fn is_in(records: &Records<'_>) -> bool {
    records.iter().any(|(key, _)| key.starts_with(b"GNU.sparse."))
}

/// Checks the form of what the parser took for a sparse file. `own` is the entry's header and what stands between it
/// and its content.
pub(super) fn check(kind: EntryType, own: &[u8], records: &Records<'_>) -> Result<(), Fault> {
    // A size beside the map means the stored bytes to one tool, the file's to another.
    if records.iter().any(|(key, _)| *key == b"size") {
        return Err(Fault::SparseMap);
    }
    match kind {
        EntryType::GnuSparse if !is_in(records) => check_blocks(own),
        EntryType::Regular if own[156] == b'0' => check_records(own, records),
        _ => Err(Fault::SparseMap),
    }
}

/// The old format: four descriptors in the header, 21 in each block behind it.
fn check_blocks(own: &[u8]) -> Result<(), Fault> {
    let header = own.get(..BLOCK).ok_or(Fault::SparseMap)?;
    check_number("realsize", &header[REAL_SIZE])?;
    let mut ended = check_descriptors(&header[DESCRIPTORS], false)?;
    let mut more = header[EXTENDED];
    for block in own[BLOCK..].chunks(BLOCK) {
        if more != 1 || block.len() < BLOCK || block[CONTINUED + 1..].iter().any(|b| *b != 0) {
            return Err(Fault::SparseMap);
        }
        ended = check_descriptors(&block[..CONTINUED], ended)?;
        more = block[CONTINUED];
    }
    if more == 0 { Ok(()) } else { Err(Fault::SparseMap) }
}

/// Behind the first empty one all are, and behind one that stores nothing, which stands for a hole at the end: tools stop
/// there, or go on. Whether there was one.
fn check_descriptors(descriptors: &[u8], mut ended: bool) -> Result<bool, Fault> {
    for descriptor in descriptors.chunks(DESCRIPTOR) {
        let (offset, length) = descriptor.split_at(DESCRIPTOR / 2);
        ended |= descriptor.iter().all(|b| *b == 0);
        if !ended {
            if offset[0] == 0 || length[0] == 0 {
                return Err(Fault::SparseMap);
            }
            check_number("offset", offset)?;
            check_number("numbytes", length)?;
            // Octal digits, or a binary number with its mark.
            ended = matches!(length[0], b'0' | b' ' | 0x80) && length[1..].iter().all(|b| matches!(b, b'0' | b' ' | 0));
        } else if descriptor.iter().any(|b| *b != 0) {
            return Err(Fault::SparseMap);
        }
    }
    Ok(ended)
}

/// The three PAX formats: each has its own keys, and no others.
fn check_records(own: &[u8], records: &Records<'_>) -> Result<(), Fault> {
    let all = |key: &'static [u8]| records.iter().filter(move |(other, _)| *other == key).map(|(_, value)| *value);
    let one = |key| {
        let mut values = all(key);
        values.next().filter(|_| values.next().is_none()).ok_or(Fault::SparseMap)
    };
    let count = |keys: &[&[u8]]| records.iter().filter(|(key, _)| keys.contains(key)).count();
    let sparse = records.iter().filter(|(key, _)| key.starts_with(b"GNU.sparse.")).count();
    let whole = |keys: &[&[u8]]| if count(keys) == sparse { Ok(()) } else { Err(Fault::SparseMap) };
    if all(b"GNU.sparse.major").next().is_some() {
        whole(&[b"GNU.sparse.major", b"GNU.sparse.minor", b"GNU.sparse.name", b"GNU.sparse.realsize"])?;
        decimal(one(b"GNU.sparse.realsize")?)?;
        one(b"GNU.sparse.name")?;
        if one(b"GNU.sparse.major")? != b"1" || one(b"GNU.sparse.minor")? != b"0" {
            return Err(Fault::SparseMap);
        }
        return check_lines(own.get(BLOCK..).unwrap_or_default());
    }
    let chunks = decimal(one(b"GNU.sparse.numblocks")?)?;
    decimal(one(b"GNU.sparse.size")?)?;
    if own.len() != BLOCK {
        return Err(Fault::SparseMap);
    }
    let found = if all(b"GNU.sparse.map").next().is_some() {
        whole(&[b"GNU.sparse.size", b"GNU.sparse.numblocks", b"GNU.sparse.name", b"GNU.sparse.map"])?;
        one(b"GNU.sparse.name")?;
        let numbers = one(b"GNU.sparse.map")?.split(|b| *b == b',').map(decimal).collect::<Result<Vec<_>, _>>()?;
        numbers.len() as u64
    } else {
        whole(&[b"GNU.sparse.size", b"GNU.sparse.numblocks", b"GNU.sparse.offset", b"GNU.sparse.numbytes"])?;
        let pairs = records.iter().filter(|(key, _)| matches!(*key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes"));
        for (index, (key, value)) in pairs.enumerate() {
            if key.ends_with(b"offset") != (index % 2 == 0) {
                return Err(Fault::SparseMap);
            }
            decimal(value)?;
        }
        count(&[b"GNU.sparse.offset", b"GNU.sparse.numbytes"]) as u64
    };
    if chunks.checked_mul(2) == Some(found) { Ok(()) } else { Err(Fault::SparseMap) }
}

/// The map of 1.0: a number on each line, then zeros.
fn check_lines(map: &[u8]) -> Result<(), Fault> {
    let end = map.iter().rposition(|b| *b != 0).ok_or(Fault::SparseMap)?;
    let text = map[..=end].strip_suffix(b"\n").ok_or(Fault::SparseMap)?;
    let numbers = text.split(|b| *b == b'\n').map(decimal).collect::<Result<Vec<_>, _>>()?;
    let chunks = numbers.first().and_then(|count| count.checked_mul(2)).ok_or(Fault::SparseMap)?;
    if chunks == numbers.len() as u64 - 1 { Ok(()) } else { Err(Fault::SparseMap) }
}

/// Digits alone: no sign, no space.
fn decimal(text: &[u8]) -> Result<u64, Fault> {
    let digits = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    digits.and_then(|text| text.parse().ok()).ok_or(Fault::SparseMap)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::super::entries::{Entries, Readers};
    use super::super::kit::{Tar, raw, sparse, sparse_map};
    use super::super::problem::Problem;
    use super::*;

    /// Name, content, bytes in holes.
    type Sparse = (Vec<u8>, Vec<u8>, Option<u64>);
    type Record = (&'static [u8], &'static [u8]);

    fn read(archive: &[u8]) -> Result<Vec<Sparse>, Problem> {
        let mut entries = Entries::new(archive, Readers::Any);
        let mut all = Vec::new();
        while let Some(entry) = entries.next()? {
            let mut content = Vec::new();
            entries.body().read_to_end(&mut content).map_err(Problem::of_stream)?;
            assert_eq!(content.len() as u64, entry.size);
            all.push((entry.path, content, entry.holes));
        }
        Ok(all)
    }

    #[test]
    fn holes_are_zeros_in_every_format() {
        let many: Vec<(u64, &[u8])> = (0..100).map(|at| (at * 1000 + 7, &b"chunk"[..])).collect();
        for (chunks, real) in [
            (vec![], 0),
            (vec![], 100_000),
            (vec![(0, &b"all"[..])], 3),
            (vec![(0, &b"begin"[..]), (200_000, b"end")], 200_003),
            (vec![(5, &b"a"[..]), (6, b"b")], 1000),
            (many, 123_456),
        ] {
            let mut expected = vec![0; real];
            for (offset, data) in &chunks {
                let at = usize::try_from(*offset).unwrap();
                expected[at..at + data.len()].copy_from_slice(data);
            }
            let stored: usize = chunks.iter().map(|(_, data)| data.len()).sum();
            for format in 0..4 {
                let archive = sparse(format, "s", &chunks, real as u64).file("behind", "x").end();
                let all = read(&archive).unwrap();
                assert!(all[0] == (b"s".to_vec(), expected.clone(), Some((real - stored) as u64)), "{format} {real}");
                assert_eq!(all[1], (b"behind".to_vec(), b"x".to_vec(), None));
                // Content that nobody reads is passed over.
                let mut entries = Entries::new(archive.as_slice(), Readers::Any);
                let names: Vec<_> = std::iter::from_fn(|| entries.next().unwrap().map(|entry| entry.path)).collect();
                assert_eq!(names, [b"s".to_vec(), b"behind".to_vec()]);
            }
        }
    }

    #[test]
    fn a_truncated_sparse_file_is_told_at_every_length() {
        for format in 0..4 {
            let chunks: Vec<(u64, &[u8])> = (0..30).map(|at| (at * 100, &b"data"[..])).collect();
            let whole = sparse(format, "s", &chunks, 5000).end();
            for length in 0..whole.len() {
                let problem = read(&whole[..length]).unwrap_err();
                assert!(
                    matches!(problem, Problem::TarTruncated(at) if at == length as u64),
                    "{format} {length}: {problem}"
                );
            }
        }
    }

    #[test]
    fn a_map_that_does_not_fit_is_refused() {
        let top = u64::MAX;
        let eleven_digits = (1 << 33) - 1;
        for (map, data, real) in [
            (&[(0, 4), (2, 4)][..], &b"abcdefgh"[..], 9),
            (&[(10, 4), (2, 4)], b"abcdefgh", 20),
            (&[(0, 4), (6, 4)], b"abcdefgh", 9),
            (&[(0, 4)], b"abcde", 10),
            (&[(0, 4)], b"abc", 10),
            (&[(11, 0)], b"", 10),
            (&[(eleven_digits, eleven_digits)], b"", 10),
            (&[(top, 2)], b"ab", top),
        ] {
            for format in if real == top { 1..4 } else { 0..4 } {
                let archive = sparse_map(format, "s", map, data, real).end();
                let text = read(&archive).unwrap_err().to_string();
                let expected = "entry s: the map of a sparse file is malformed; write the archive without --sparse";
                assert_eq!(text, expected, "{format} {map:?}");
            }
        }
    }

    #[test]
    fn what_stands_behind_an_empty_piece_is_refused_where_tools_stop_at_it() {
        for map in [&[(0, 0), (0, 4)][..], &[(0, 4), (4, 0), (6, 4)], &[(0, 0); 5]] {
            let stored: u64 = map.iter().map(|(_, length)| length).sum();
            let data = &b"abcdefgh"[..usize::try_from(stored).unwrap()];
            let archive = sparse_map(0, "s", map, data, 10).end();
            assert!(read(&archive).unwrap_err().to_string().contains("sparse file is malformed"), "{map:?}");
        }
        assert!(read(&sparse_map(0, "s", &[(0, 4), (10, 0)], b"abcd", 10).end()).is_ok());
    }

    #[test]
    fn too_many_pieces_are_refused() {
        let map: Vec<(u64, u64)> = (0..=MAX_PIECES as u64).map(|at| (at * 2, 1)).collect();
        let data = vec![b'x'; map.len()];
        for format in 0..4 {
            let text = read(&sparse_map(format, "s", &map, &data, 100_000).end()).unwrap_err().to_string();
            assert!(
                text.ends_with("the map of a sparse file is malformed; write the archive without --sparse"),
                "{text}"
            );
            assert!(read(&sparse_map(format, "s", &map[1..], &data[1..], 100_000).end()).is_ok(), "{format}");
        }
    }

    #[test]
    fn records_of_no_format_or_of_two_are_refused() {
        let (size, blocks): (Record, Record) = ((b"GNU.sparse.size", b"9"), (b"GNU.sparse.numblocks", b"1"));
        let (offset, length): (Record, Record) = ((b"GNU.sparse.offset", b"0"), (b"GNU.sparse.numbytes", b"1"));
        let (major, minor): (Record, Record) = ((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"));
        let (name, real): (Record, Record) = ((b"GNU.sparse.name", b"x"), (b"GNU.sparse.realsize", b"9"));
        let map: Record = (b"GNU.sparse.map", b"0,1");
        let with = |records: &[(&[u8], &[u8])]| read(&Tar::default().pax(records).file("x", "a").end());
        assert!(with(&[size, blocks, offset, length]).is_ok());
        assert!(with(&[size, blocks, name, map]).is_ok());
        for records in [
            &[size, blocks][..],
            &[size, offset, length],
            &[blocks, offset, length],
            &[size, size, blocks, offset, length],
            &[size, blocks, offset, length, offset, length],
            &[size, blocks, length, offset],
            &[size, blocks, name, map, offset, length],
            &[size, blocks, map],
            &[size, blocks, name, map, real],
            &[size, (b"GNU.sparse.numblocks", b"+1"), name, map],
            &[(b"GNU.sparse.size", b"+9"), blocks, name, map],
            &[size, blocks, name, (b"GNU.sparse.map", b"0,+1")],
            &[size, blocks, name, (b"GNU.sparse.map", b"0,,1")],
            &[size, blocks, name, map, (b"size", b"1")],
            &[major, minor, name],
            &[major, minor, real],
            &[major, real, name],
            &[(b"GNU.sparse.major", b"2"), minor, name, real],
            &[name],
            &[real],
        ] {
            assert!(with(records).is_err(), "{records:?}");
        }
        let lines = |text: &str| {
            let mut body = text.as_bytes().to_vec();
            body.resize(512, 0);
            body.push(b'a');
            read(&Tar::default().pax(&[major, minor, name, real]).file("x", body).end())
        };
        assert!(lines("1\n0\n1\n").is_ok());
        for bad in
            ["1\n0\n+1\n", "1\n0\n1\n0\n", "1\n0\n1\n\0x", "\n0\n1\n", "1\n0\n1", "2\n0\n1\n", "99999999\n0\n1\n"]
        {
            assert!(lines(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn descriptors_behind_an_empty_one_are_refused() {
        let good = sparse(0, "s", &[(0, b"abc")], 9);
        for (at, byte) in [(386 + 23, b'1'), (386 + 48, b'1'), (386 + 60, b'7'), (482, 2), (483, 0), (494, b'x')] {
            let mut bytes = good.0.clone();
            bytes[at] = byte;
            let mut header = raw(b'S', "s").patch(0, &bytes[..512]);
            header.body = b"abc".to_vec();
            assert!(read(&Tar::default().add(header).end()).is_err(), "{at}");
        }
        let mut header = raw(b'S', "s").patch(0, &good.0[..512]);
        header.body = b"abc".to_vec();
        assert!(read(&Tar::default().add(header).end()).is_ok());
    }
}
