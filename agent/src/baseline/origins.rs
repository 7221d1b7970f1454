//! Owns what of a manifest is only shown: the layer that an entry came from, and the SHA-256 beside its digest. That stays
//! in the file and is read again when it is wanted. Must not own what is compared.
//!
//! What is read again is believed only if it is byte for byte what was read at first: lines are checked in groups by a
//! digest that was taken then.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use driftlock_common::manifest::{Header, Meaning};
use driftlock_common::tree::{EntryId, Origin};

/// Lines in a group: some 16 KiB, which is about what a disk reads at once anyway.
const LINES: usize = 64;

/// Where the lines of a file are.
#[derive(Debug)]
pub(super) struct Places {
    groups: Vec<Group>,
    /// Bytes and lines so far.
    len: u64,
    lines: usize,
    hasher: blake3::Hasher,
}

#[derive(Clone, Copy, Debug)]
struct Group {
    /// Where it begins.
    start: u64,
    /// The beginning of the BLAKE3 digest of its bytes; of the last group, once it is complete.
    check: [u8; 16],
}

/// The origins of a manifest's entries.
#[derive(Debug)]
pub(super) struct Origins {
    file: File,
    places: Places,
    /// The entry of the first line: the root has one only if anything is known of it.
    first: usize,
    /// The group that was read last.
    last: Mutex<Option<(usize, Vec<u8>)>>,
    /// Whether it was said that the file is not what it was.
    said: AtomicBool,
}

impl Places {
    pub(super) fn new() -> Self {
        Self { groups: Vec::new(), len: 0, lines: 0, hasher: blake3::Hasher::new() }
    }

    /// Takes the next bytes of the file.
    pub(super) fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let (line, rest) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
            // The header belongs to no entry.
            if self.lines > 0 {
                if self.hasher.count() == 0 {
                    self.groups.push(Group { start: self.len, check: [0; 16] });
                }
                self.hasher.update(line);
            }
            self.len += line.len() as u64;
            if end.is_some() {
                if self.lines > 0 && self.lines.is_multiple_of(LINES) {
                    self.close();
                }
                self.lines += 1;
            }
            bytes = rest;
        }
    }

    fn close(&mut self) {
        if let Some(group) = self.groups.last_mut()
            && self.hasher.count() > 0
        {
            group.check = check(&self.hasher);
            self.hasher.reset();
        }
    }

    /// The origins of the file that all bytes were taken from. Its tree has `entries`, the root counted.
    pub(super) fn of(mut self, file: File, entries: usize) -> Origins {
        self.close();
        self.groups.shrink_to_fit();
        // A header, a line for each entry, and a trailer.
        let has_root_line = self.lines == entries + 2;
        Origins {
            file,
            places: self,
            first: usize::from(!has_root_line),
            last: Mutex::default(),
            said: AtomicBool::new(false),
        }
    }
}

impl Origins {
    /// Where an entry came from; nothing if the file is no longer what it was.
    pub(super) fn get(&self, header: &Header, id: EntryId) -> Origin {
        let Some(line) = id.index().checked_sub(self.first) else { return Origin::default() };
        let group = line / LINES;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = match last.take() {
            Some((number, bytes)) if number == group => Ok(bytes),
            _ => self.read(group),
        };
        match bytes {
            Ok(bytes) => {
                let line = bytes.split(|byte| *byte == b'\n').nth(line % LINES);
                let origin = line.and_then(|line| Meaning::of(header, line).ok()).and_then(|meaning| meaning.origin());
                *last = Some((group, bytes));
                origin.unwrap_or_default()
            }
            Err(error) => {
                if !self.said.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%error, "the manifest's file changed: layers and SHA-256 are no longer shown");
                }
                Origin::default()
            }
        }
    }

    fn read(&self, group: usize) -> io::Result<Vec<u8>> {
        let Places { groups, len, .. } = &self.places;
        let Group { start, check: expected } = groups.get(group).copied().ok_or(io::ErrorKind::UnexpectedEof)?;
        let end = groups.get(group + 1).map_or(*len, |next| next.start);
        let mut bytes = vec![0; usize::try_from(end - start).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, start)?;
        if check(blake3::Hasher::new().update(&bytes)) == expected {
            Ok(bytes)
        } else {
            Err(io::Error::other("other bytes than were read at first"))
        }
    }
}

fn check(hasher: &blake3::Hasher) -> [u8; 16] {
    let mut check = [0; 16];
    hasher.finalize_xof().fill(&mut check);
    check
}
