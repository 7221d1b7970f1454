//! Owns taking an assignment from its file: verified, for this target, not older than one that was taken before. The
//! highest serial is kept in the state directory. Must not own the manifest that it names.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use driftlock_common::digest::Digest;
use driftlock_common::exit::Exit;
use driftlock_common::path::Escaped;
use driftlock_common::trust::{Anchors, Assignment, Mark, Refusal, Role, StatementError, Timestamp, Unassigned};

use crate::bundle::{self, BundleError};
use crate::failure::Failure;
use crate::state_file;

const HEAD: &str = "driftlock serials 1";
/// More is no file of serials, in bytes.
const MAX_FILE: u64 = 4096;

/// What an assignment that counts asks for: only [`take`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assigned {
    manifest: Digest,
    until: Option<Timestamp>,
    mark: Mark,
}

/// For whom.
#[derive(Clone, Copy, Debug)]
pub struct Assignee<'a> {
    /// The target's name.
    pub target: &'a str,
    /// The host's labels.
    pub labels: &'a BTreeMap<String, String>,
}

/// The highest serial of one target, on disk and as this process knows it.
#[derive(Clone, Debug)]
pub struct Serials {
    /// Empty if there is none, for those who only look.
    path: PathBuf,
    known: Option<Mark>,
}

/// Why an assignment is not taken.
#[derive(Debug, thiserror::Error)]
pub enum AssignedError {
    /// The file.
    #[error(transparent)]
    File(#[from] BundleError),
    /// Not signed by whom it takes.
    #[error("{}: the assignment is refused: {}", shown(.0), .1)]
    Refused(PathBuf, Refusal),
    /// What was signed is no assignment.
    #[error("{}: {}", shown(.0), .1)]
    Statement(PathBuf, StatementError),
    /// It does not count.
    #[error("{}: the assignment is refused: {}", shown(.0), .1)]
    Unassigned(PathBuf, Unassigned),
    /// What was kept of the serials is not what was written.
    #[error("{}: damaged, so that an old assignment could not be told from a new one: remove it to begin anew", shown(.0))]
    Damaged(PathBuf),
    /// What was kept of the serials cannot be read or written.
    #[error("{}", shown(.0))]
    Serials(PathBuf, #[source] io::Error),
}

/// Takes the assignment in `path`. That it was taken is kept by [`Serials::keep`], once what it names is there.
///
/// # Errors
/// If it is not signed by enough keys of the role, not for this target, over, not begun, or older than one that was taken.
pub fn take(
    path: &Path,
    to: Assignee<'_>,
    anchors: &Anchors,
    serials: &mut Serials,
    now: Timestamp,
) -> Result<Assigned, AssignedError> {
    let named = || path.to_owned();
    let envelope = bundle::read_envelope(path)?;
    let trusted =
        anchors.judge(Role::Assignment, &envelope, now).map_err(|refusal| AssignedError::Refused(named(), refusal))?;
    let (assignment, mark) =
        Assignment::read(&trusted.claim).map_err(|error| AssignedError::Statement(named(), error))?;
    let unassigned = |why| AssignedError::Unassigned(named(), why);
    assignment.check(to.target, to.labels, now).map_err(unassigned)?;
    mark.follows(serials.highest()?).map_err(unassigned)?;
    let until = trusted.until.into_iter().chain(assignment.expires).min();
    Ok(Assigned { manifest: assignment.manifest, until, mark })
}

// === impl Assigned ===

impl Assigned {
    /// SHA-256 of the manifest that it names.
    pub const fn manifest(self) -> Digest {
        self.manifest
    }

    /// When it no longer counts; `None`: never.
    pub const fn until(self) -> Option<Timestamp> {
        self.until
    }

    /// Its serial, and what was signed.
    pub const fn mark(self) -> Mark {
        self.mark
    }
}

// === impl Serials ===

impl Serials {
    /// Those of the target of that name, in a state directory.
    pub fn of(target: &str, state_dir: &Path) -> Self {
        Self { path: state_file::of_target("serial", target, state_dir), known: None }
    }

    /// None were kept.
    pub fn none() -> Self {
        Self { path: PathBuf::new(), known: None }
    }

    /// The highest that was taken, whichever is higher: a file that was put back, or away, while the agent runs changes
    /// nothing.
    fn highest(&mut self) -> Result<Option<Mark>, AssignedError> {
        let on_disk = read(&self.path)?;
        self.known = self.known.into_iter().chain(on_disk).max_by_key(|mark| mark.serial);
        Ok(self.known)
    }

    /// Keeps it as taken: afterwards, and after a crash at any time, the file is the old or the new one.
    ///
    /// # Errors
    /// If it cannot be written. Then it must not count.
    pub fn keep(&mut self, mark: Mark) -> Result<(), AssignedError> {
        if self.known == Some(mark) && matches!(read(&self.path), Ok(Some(kept)) if kept == mark) {
            return Ok(());
        }
        state_file::write(&self.path, &encode(mark))
            .map_err(|error| AssignedError::Serials(self.path.clone(), error))?;
        self.known = Some(mark);
        Ok(())
    }
}

fn read(path: &Path) -> Result<Option<Mark>, AssignedError> {
    let damaged = || AssignedError::Damaged(path.to_owned());
    match state_file::read(path, MAX_FILE) {
        Ok(lines) => lines.map(|lines| parse(&lines).ok_or_else(damaged)).transpose(),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(damaged()),
        Err(error) => Err(AssignedError::Serials(path.to_owned(), error)),
    }
}

/// A head, and a line for the role with serial and SHA-256.
fn encode(mark: Mark) -> String {
    let Mark { serial, sha256 } = mark;
    format!("{HEAD}\n{} {serial} {sha256}\n", Role::Assignment.name())
}

fn parse(lines: &str) -> Option<Mark> {
    let line = lines.strip_prefix(HEAD)?.strip_prefix('\n')?.strip_suffix('\n')?;
    let (serial, sha256) = line.strip_prefix(Role::Assignment.name())?.strip_prefix(' ')?.split_once(' ')?;
    let mark = Mark { serial: serial.parse().ok()?, sha256: sha256.parse().ok()? };
    (encode(mark) == lines).then_some(mark)
}

fn shown(path: &Path) -> Escaped<'_> {
    Escaped(path.as_os_str().as_encoded_bytes())
}

impl AssignedError {
    /// Whether only time made it so.
    pub const fn is_expiry(&self) -> bool {
        match self {
            Self::Refused(_, refusal) => refusal.is_expiry(),
            Self::Unassigned(_, why) => matches!(why, Unassigned::Expired { .. }),
            Self::File(_) | Self::Statement(..) | Self::Damaged(_) | Self::Serials(..) => false,
        }
    }
}

impl From<AssignedError> for Failure {
    fn from(error: AssignedError) -> Self {
        match error {
            AssignedError::File(error) => error.into(),
            AssignedError::Serials(path, error) => Self::input(shown(&path), error),
            AssignedError::Statement(..) => Self::new(Exit::Malformed, error),
            AssignedError::Refused(..) | AssignedError::Unassigned(..) | AssignedError::Damaged(_) => {
                Self::new(Exit::Refused, error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(serial: u64, content: &[u8]) -> Mark {
        Mark { serial, sha256: Digest::sha256(content) }
    }

    #[test]
    fn the_highest_serial_outlives_the_process_and_its_own_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut serials = Serials::of("app", dir.path());
        assert_eq!(serials.highest().unwrap(), None);
        serials.keep(mark(7, b"a")).unwrap();
        assert_eq!(Serials::of("app", dir.path()).highest().unwrap(), Some(mark(7, b"a")));
        assert_eq!(Serials::of("other", dir.path()).highest().unwrap(), None);
        std::fs::remove_file(&serials.path).unwrap();
        assert_eq!(serials.highest().unwrap(), Some(mark(7, b"a")));
        // Written again although it is known.
        serials.keep(mark(7, b"a")).unwrap();
        assert_eq!(Serials::of("app", dir.path()).highest().unwrap(), Some(mark(7, b"a")));
    }

    #[test]
    fn the_form_of_the_file_and_every_byte_of_it_count() {
        let dir = tempfile::tempdir().unwrap();
        let mut serials = Serials::of("app", dir.path());
        serials.keep(mark(7, b"a")).unwrap();
        let golden = "driftlock serials 1\n\
             assignment 7 ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb\n\
             33aa185befbbca663767714f6a1442347ed1088878c70765e12ced2ba85003b3\n";
        assert_eq!(std::fs::read_to_string(&serials.path).unwrap(), golden);
        for at in 0..golden.len() {
            let mut flipped = golden.as_bytes().to_vec();
            flipped[at] ^= 1;
            for bytes in [&flipped, &golden.as_bytes()[..at]] {
                std::fs::write(&serials.path, bytes).unwrap();
                assert!(matches!(read(&serials.path), Err(AssignedError::Damaged(_))), "byte {at}");
            }
        }
        let failure = Failure::from(serials.highest().unwrap_err());
        assert_eq!(failure.exit, Exit::Refused);
        assert!(failure.to_string().contains("remove it to begin anew"), "{failure}");
        // What has a digest and another form is none either.
        for lines in [
            "driftlock serials 2\nassignment 7 ca\n",
            "driftlock serials 1\nassignment 07 ca\n",
            "driftlock serials 1\n",
        ] {
            state_file::write(&serials.path, lines).unwrap();
            assert!(matches!(read(&serials.path), Err(AssignedError::Damaged(_))), "{lines}");
        }
    }
}
