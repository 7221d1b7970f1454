//! Owns stating something about a manifest: the statement, its time, and the two files, of which the bundle comes last. Must not
//! own making signatures, or believing any.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use driftlock_common::digest::Digest;
use driftlock_common::exit::Exit;
use driftlock_common::manifest::{MAX_LINE, Manifest};
use driftlock_common::path::Escaped;
use driftlock_common::trust::{Envelope, EnvelopeError, PAYLOAD_TYPE, Statement};
use sha2::Digest as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::baseline::{ReadError, read_manifest};
use crate::bundle::file_name;
use crate::draft::Draft;
use crate::failure::Failure;

/// Seconds since 1970 that stand for the time of a statement, so that two builds of one source give the same bytes
/// (reproducible-builds.org, "SOURCE_DATE_EPOCH").
pub const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

/// Why nothing was stated.
#[derive(Debug, thiserror::Error)]
pub enum AttestationError {
    /// The time that was asked for is none.
    #[error("{SOURCE_DATE_EPOCH}={0:?}: not a whole number of seconds since 1970, before the year 10000")]
    Epoch(String),
    /// A bundle that no reader would take.
    #[error("it would be {0}")]
    Unreadable(#[from] EnvelopeError),
}

/// When something is stated: as the environment has it, else now.
///
/// # Errors
/// If the environment has it, and it is no time.
pub fn created_at(epoch: Option<&OsStr>) -> Result<String, AttestationError> {
    let Some(epoch) = epoch else { return Ok(shown(OffsetDateTime::now_utc()).unwrap_or_default()) };
    let wrong = || AttestationError::Epoch(epoch.to_string_lossy().into_owned());
    let digits = epoch.to_str().filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    let seconds = digits.and_then(|text| text.parse().ok()).ok_or_else(wrong)?;
    OffsetDateTime::from_unix_timestamp(seconds).ok().and_then(shown).ok_or_else(wrong)
}

/// Whole seconds: the environment has no fractions either.
fn shown(time: OffsetDateTime) -> Option<String> {
    time.replace_nanosecond(0).ok()?.format(&Rfc3339).ok()
}

/// What there is to sign about a manifest, at that time; `name` is that of the image, empty if it has none.
pub fn about(manifest: &Manifest, sha256: Digest, name: &str, created_at: String) -> Envelope {
    Envelope::new(PAYLOAD_TYPE, Statement::of(manifest, sha256, name, created_at).encode())
}

/// Writes a manifest to where its bundle will be, but without a name: it gets one once the bundle can be written.
///
/// # Errors
/// If it cannot be written.
pub fn write_manifest(manifest: &Manifest, bundle: &Path) -> Result<ManifestDraft, Failure> {
    let mut copy = Copy::beside(bundle)?;
    let written = write_lines(manifest, &mut copy);
    copy.finish(written.err())
}

/// Copies a manifest to where its bundle will be, byte for byte, and reads it on the way.
///
/// # Errors
/// If it is none, or cannot be written.
pub fn copy_manifest(from: &Path, input: impl Read, bundle: &Path) -> Result<(Manifest, ManifestDraft), Failure> {
    let mut tee = Tee { input, copy: Copy::beside(bundle)?, failed: None };
    let read = read_manifest(io::BufReader::with_capacity(256 * 1024, &mut tee));
    let draft = tee.copy.finish(tee.failed)?;
    let from = || Escaped(from.as_os_str().as_encoded_bytes()).to_string();
    match read {
        // Nothing but what was read was written.
        Ok((manifest, _)) => Ok((manifest, draft)),
        Err(ReadError::Io(error)) => Err(Failure::input(from(), error)),
        Err(ReadError::Manifest(error)) => {
            Err(Failure::new(Exit::Malformed, anyhow::Error::new(error).context(from())))
        }
    }
}

/// The bytes of a bundle.
///
/// # Errors
/// If they would be beyond what a reader takes.
pub fn encode(envelope: &Envelope) -> Result<Vec<u8>, AttestationError> {
    let bytes = envelope.encode();
    Envelope::parse(&bytes)?;
    Ok(bytes)
}

/// Writes the lines of a manifest.
///
/// # Errors
/// If they cannot be written, or no reader would take one of them.
pub fn write_lines(manifest: &Manifest, output: &mut dyn Write) -> io::Result<()> {
    manifest.write(&mut |line: &[u8]| {
        // What no reader would take must not be written.
        if line.len() > MAX_LINE + 1 {
            return Err(io::Error::other("a line is longer than the format allows: seal with fewer excludes"));
        }
        output.write_all(line)
    })
}

/// A manifest that will lie beside a bundle. Gone when it is dropped.
#[derive(Debug)]
pub struct ManifestDraft {
    draft: Draft,
    bundle: PathBuf,
    /// Of its bytes, taken as they were written.
    pub sha256: Digest,
}

impl ManifestDraft {
    /// Puts it there, under the name of its SHA-256.
    ///
    /// # Errors
    /// If that fails.
    pub fn keep(self) -> Result<(), Failure> {
        let Self { draft, bundle, sha256 } = self;
        draft.keep(file_name(sha256).as_ref()).map_err(|error| beside(&bundle, error))
    }
}

fn beside(bundle: &Path, error: io::Error) -> Failure {
    Failure::output(format_args!("the manifest beside {}", bundle.display()), error)
}

/// Bytes on their way into a draft.
struct Copy {
    draft: Draft,
    bundle: PathBuf,
    sha256: sha2::Sha256,
}

impl Copy {
    fn beside(bundle: &Path) -> Result<Self, Failure> {
        let draft = Draft::beside(bundle).map_err(|error| beside(bundle, error))?;
        Ok(Self { draft, bundle: bundle.to_owned(), sha256: sha2::Sha256::new() })
    }

    /// What became of it, unless writing failed.
    fn finish(self, failed: Option<io::Error>) -> Result<ManifestDraft, Failure> {
        let Self { draft, bundle, sha256 } = self;
        if let Some(error) = failed {
            return Err(beside(&bundle, error));
        }
        Ok(ManifestDraft { draft, bundle, sha256: Digest::from_bytes(sha256.finalize().into()) })
    }
}

impl Write for Copy {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.draft.write(bytes)?;
        self.sha256.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.draft.flush()
    }
}

/// Writes what is read.
struct Tee<R> {
    input: R,
    copy: Copy,
    /// Why it could not be written: reading ends with it.
    failed: Option<io::Error>,
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        if let Err(error) = self.copy.write_all(buffer.get(..read).unwrap_or_default()) {
            self.failed = Some(error);
            return Err(io::ErrorKind::Other.into());
        }
        Ok(read)
    }
}

impl From<AttestationError> for Failure {
    fn from(error: AttestationError) -> Self {
        let exit = match &error {
            AttestationError::Epoch(_) => Exit::Usage,
            AttestationError::Unreadable(_) => Exit::Malformed,
        };
        Self::new(exit, error)
    }
}

#[cfg(test)]
mod tests {
    use driftlock_common::digest::Algorithm;
    use driftlock_common::manifest::Header;
    use driftlock_common::pattern::Excludes;
    use driftlock_common::profile::Profile;
    use driftlock_common::tree::Tree;

    use super::*;

    #[test]
    fn times_that_a_build_may_state() {
        for (text, time) in [
            ("0", Some("1970-01-01T00:00:00Z")),
            ("1764482400", Some("2025-11-30T06:00:00Z")),
            ("253402300799", Some("9999-12-31T23:59:59Z")),
            ("253402300800", None),
            ("99999999999999999999999", None),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            (" 1", None),
            ("1s", None),
        ] {
            assert_eq!(created_at(Some(text.as_ref())).ok().as_deref(), time, "{text}");
        }
        let now = created_at(None).unwrap();
        assert_eq!(now.len(), "2025-11-30T06:00:00Z".len(), "{now}");
    }

    fn manifest(history: &str) -> Manifest {
        let mut header = Header::new(Profile::Portable, Algorithm::Blake3, Excludes::none());
        header.history = vec![history.to_owned()];
        Manifest { header, tree: Tree::from_sorted([]).unwrap() }
    }

    #[test]
    fn a_manifest_lies_beside_its_bundle_under_the_name_of_its_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let bundle = dir.path().join("app.bundle");
        let names = || std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
        let bytes = manifest("one").encode();
        let draft = write_manifest(&manifest("one"), &bundle).unwrap();
        let sha256 = draft.sha256;
        assert_eq!(sha256, Digest::sha256(&bytes));
        assert!(!dir.path().join(file_name(sha256)).exists());
        draft.keep().unwrap();
        assert_eq!(std::fs::read(dir.path().join(file_name(sha256))).unwrap(), bytes);
        assert_eq!(names(), [std::ffi::OsString::from(file_name(sha256))]);
        // What is not kept, one that no reader would take, and one that is none, leave nothing behind.
        drop(write_manifest(&manifest("two"), &bundle).unwrap());
        let failure = write_manifest(&manifest(&"x".repeat(MAX_LINE)), &bundle).unwrap_err();
        assert_eq!(failure.exit, Exit::CannotCreate);
        let failure = copy_manifest(Path::new("x"), &bytes[..bytes.len() - 1], &bundle).unwrap_err();
        assert_eq!(failure.exit, Exit::Malformed);
        assert_eq!(names().len(), 1);
        let other = tempfile::tempdir().unwrap();
        let (read, draft) = copy_manifest(Path::new("x"), &bytes[..], &other.path().join("b")).unwrap();
        assert_eq!((read, draft.sha256), (manifest("one"), sha256));
        draft.keep().unwrap();
        assert_eq!(std::fs::read(other.path().join(file_name(sha256))).unwrap(), bytes);
    }
}
