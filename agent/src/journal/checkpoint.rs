//! Owns the file that holds the state up to a sequence: its checksum in hexadecimal, a line feed, JSON. Replaced as a
//! whole, by renaming.

use serde::{Deserialize, Serialize};

use super::JournalError;
use super::directory::{CHECKPOINT, Directory};
use super::state::{State, StateFile};

/// Bytes of the checksum's line.
const CHECKSUM: usize = 9;

/// A checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Checkpoint {
    pub(super) epoch: String,
    pub(super) acked: u64,
    pub(super) state: State,
}

#[derive(Serialize, Deserialize)]
struct CheckpointFile {
    epoch: String,
    acked: u64,
    state: StateFile,
}

impl Checkpoint {
    /// `None` if there is none, or it is damaged.
    pub(super) fn read(directory: &Directory) -> Result<Option<Self>, JournalError> {
        let Some(bytes) = directory.read(CHECKPOINT)? else { return Ok(None) };
        Ok(Self::decode(&bytes))
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (checksum, json) = bytes.split_at_checked(CHECKSUM)?;
        let checksum = std::str::from_utf8(checksum).ok()?.strip_suffix('\n')?;
        if checksum != format!("{:08x}", crc32fast::hash(json)) {
            return None;
        }
        let CheckpointFile { epoch, acked, state } = serde_json::from_slice(json).ok()?;
        Some(Self { epoch, acked, state: state.into() })
    }

    /// Puts it on disk, and says how many bytes it has.
    pub(super) fn write(self, directory: &Directory) -> Result<u64, JournalError> {
        let file = CheckpointFile { epoch: self.epoch, acked: self.acked, state: self.state.into() };
        let mut bytes = vec![b'\n'; CHECKSUM];
        serde_json::to_writer(&mut bytes, &file).expect("a checkpoint is strings, numbers and lists of them");
        let (head, json) = bytes.split_at_mut(CHECKSUM);
        head.copy_from_slice(format!("{:08x}\n", crc32fast::hash(json)).as_bytes());
        directory.replace(CHECKPOINT, &bytes)?;
        Ok(bytes.len() as u64)
    }
}
