//! Owns the files of a bundle: the envelope, which is the only pointer that is ever replaced, and the manifest beside it,
//! which is named by its SHA-256. Must not own signatures, whom to believe, or what a manifest says.

use std::fs::{File, Metadata};
use std::io::{self, Chain, Cursor, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use driftlock_common::digest::Digest;
use driftlock_common::exit::Exit;
use driftlock_common::path::Escaped;
use driftlock_common::trust::{Envelope, EnvelopeError, MAX_ENVELOPE};

use crate::failure::Failure;

/// What every manifest begins with, and nothing else does.
const MANIFEST: &[u8] = b"{\"driftlock\":";
/// The largest window of a compressed manifest, as a power of two: 128 MiB, what `zstd` itself allows when it is not told
/// otherwise.
const MAX_WINDOW_LOG: u32 = 27;

/// A file that says what a tree must be: a manifest, or a bundle. It is told by its content, never by its name.
#[derive(Debug)]
pub struct Opened {
    path: PathBuf,
    metadata: Metadata,
    head: Vec<u8>,
    file: File,
}

/// The bytes of a manifest, uncompressed.
pub struct Stream {
    input: Input,
    /// The file that they can be read from again, at the same offsets.
    again: Option<File>,
}

enum Input {
    Plain(Chain<Cursor<Vec<u8>>, File>),
    Zstd(Box<zstd::stream::read::Decoder<'static, io::BufReader<File>>>),
}

/// Why a bundle's files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// A file cannot be opened or read.
    #[error("{}", Escaped(.0.as_os_str().as_encoded_bytes()))]
    Read(PathBuf, #[source] io::Error),
    /// It is no envelope.
    #[error("{}: no manifest, and {}", Escaped(.0.as_os_str().as_encoded_bytes()), .1)]
    Envelope(PathBuf, EnvelopeError),
    /// The manifest is not where it belongs.
    #[error("{}: its manifest {} is not beside it: copy it there, or its .zst", Escaped(.0.as_os_str().as_encoded_bytes()), file_name(*.1))]
    NoManifest(PathBuf, Digest),
}

/// What the file of a manifest is called that lies beside its bundle. Compressed, it ends in `.zst` besides.
pub fn file_name(sha256: Digest) -> String {
    format!("{sha256}.manifest")
}

/// Opens a manifest or a bundle.
///
/// # Errors
/// If it cannot be read.
pub fn open(path: &Path) -> Result<Opened, BundleError> {
    let opened = || {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        let mut head = Vec::new();
        file.by_ref().take(MANIFEST.len() as u64).read_to_end(&mut head)?;
        Ok(Opened { path: path.to_owned(), metadata, head, file })
    };
    opened().map_err(|error| BundleError::Read(path.to_owned(), error))
}

/// Opens the manifest with this SHA-256 that lies beside a bundle, or beside what a link of that name leads to. What its
/// bytes are is for the caller to check.
///
/// # Errors
/// If it is not there, or cannot be read.
pub fn beside(bundle: &Path, sha256: Digest) -> Result<Stream, BundleError> {
    let name = file_name(sha256);
    let named = bundle.parent().map(Path::to_owned);
    let linked = || bundle.canonicalize().ok().and_then(|path| path.parent().map(Path::to_owned));
    for directory in named.into_iter().chain(std::iter::once_with(linked).flatten()) {
        for (name, is_compressed) in [(name.clone(), false), (format!("{name}.zst"), true)] {
            let path = directory.join(name);
            match File::open(&path) {
                Ok(file) => {
                    let stream = if is_compressed { Stream::compressed(file) } else { Stream::plain(file) };
                    return stream.map_err(|error| BundleError::Read(path, error));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(BundleError::Read(path, error)),
            }
        }
    }
    Err(BundleError::NoManifest(bundle.to_owned(), sha256))
}

/// Reads the envelope of a file that must be one.
///
/// # Errors
/// If it cannot be read, or is none.
pub fn read_envelope(path: &Path) -> Result<Envelope, BundleError> {
    open(path)?.envelope()
}

// === impl Opened ===

impl Opened {
    /// Whether it is a manifest, or at least no bundle.
    pub fn is_manifest(&self) -> bool {
        self.head == MANIFEST || self.head.trim_ascii_start().first() != Some(&b'{')
    }

    /// Device and inode, which one file has under each of its names.
    pub fn identity(&self) -> (u64, u64) {
        (self.metadata.dev(), self.metadata.ino())
    }

    /// The envelope that it is.
    ///
    /// # Errors
    /// If it cannot be read, or is none.
    pub fn envelope(self) -> Result<Envelope, BundleError> {
        let Self { path, head, file, .. } = self;
        let most = u64::try_from(MAX_ENVELOPE).unwrap_or(u64::MAX).saturating_add(1);
        let mut bytes = Vec::new();
        match Cursor::new(head).chain(file).take(most).read_to_end(&mut bytes) {
            Ok(_) => Envelope::parse(&bytes).map_err(|error| BundleError::Envelope(path, error)),
            Err(error) => Err(BundleError::Read(path, error)),
        }
    }

    /// The bytes of the manifest that it is.
    ///
    /// # Errors
    /// If the file cannot be opened a second time.
    pub fn manifest(self) -> Result<Stream, BundleError> {
        // What cannot be read twice, a pipe for example, is read once.
        let again = if self.metadata.is_file() { self.file.try_clone().map(Some) } else { Ok(None) };
        let again = again.map_err(|error| BundleError::Read(self.path, error))?;
        Ok(Stream { input: Input::Plain(Cursor::new(self.head).chain(self.file)), again })
    }
}

// === impl Stream ===

impl Stream {
    /// What a file holds.
    ///
    /// # Errors
    /// If nothing can be asked about it.
    pub fn plain(file: File) -> io::Result<Self> {
        let again = if file.metadata()?.is_file() { Some(file.try_clone()?) } else { None };
        Ok(Self { input: Input::Plain(Cursor::new(Vec::new()).chain(file)), again })
    }

    fn compressed(file: File) -> io::Result<Self> {
        let mut decoder = zstd::stream::read::Decoder::new(file)?;
        decoder.window_log_max(MAX_WINDOW_LOG)?;
        Ok(Self { input: Input::Zstd(Box::new(decoder)), again: None })
    }

    /// The file that the bytes can be read from again, at the same offsets: once.
    pub fn again(&mut self) -> Option<File> {
        self.again.take()
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("again", &self.again).finish_non_exhaustive()
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.input {
            Input::Plain(input) => input.read(buffer),
            Input::Zstd(input) => input.read(buffer),
        }
    }
}

impl From<BundleError> for Failure {
    fn from(error: BundleError) -> Self {
        match error {
            BundleError::Read(path, error) => Self::input(Escaped(path.as_os_str().as_encoded_bytes()), error),
            BundleError::Envelope(..) => Self::new(Exit::Malformed, error),
            BundleError::NoManifest(..) => Self::new(Exit::NoInput, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn at(content: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, content).unwrap();
        (dir, path)
    }

    #[test]
    fn a_manifest_and_a_bundle_are_told_apart_by_their_content() {
        for (content, is_manifest) in [
            (&b"{\"driftlock\":1}\n"[..], true),
            (b"{\"mediaType\":\"x\"}", false),
            (b"\n {\"payload\":\"\"}", false),
            (b"{}", false),
            (b"", true),
            (b"\x7fELF", true),
        ] {
            let (_dir, path) = at(content);
            let opened = open(&path).unwrap();
            assert_eq!(opened.is_manifest(), is_manifest, "{content:?}");
            let mut bytes = Vec::new();
            opened.manifest().unwrap().read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes, content);
        }
    }

    #[test]
    fn the_manifest_beside_a_bundle_is_plain_or_compressed_and_beside_what_a_link_leads_to() {
        let (dir, bundle) = at(b"{}");
        let manifest = b"{\"driftlock\":1}\n";
        let sha256 = Digest::sha256(manifest);
        let read = |bundle: &Path| {
            let mut stream = beside(bundle, sha256).unwrap();
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).unwrap();
            (bytes, stream.again().is_some())
        };
        let absent = Failure::from(beside(&bundle, sha256).err().unwrap());
        assert_eq!(absent.exit, Exit::NoInput);
        assert!(absent.to_string().contains(&format!("{sha256}.manifest is not beside it")), "{absent}");
        let plain = dir.path().join(file_name(sha256));
        fs::write(plain.with_extension("manifest.zst"), zstd::encode_all(&manifest[..], 3).unwrap()).unwrap();
        assert_eq!(read(&bundle), (manifest.to_vec(), false));
        fs::write(&plain, manifest).unwrap();
        assert_eq!(read(&bundle), (manifest.to_vec(), true));
        let elsewhere = tempfile::tempdir().unwrap();
        let link = elsewhere.path().join("app.bundle");
        std::os::unix::fs::symlink(&bundle, &link).unwrap();
        assert_eq!(read(&link).0, manifest);
    }

    #[test]
    fn an_envelope_is_not_read_beyond_its_bound() {
        let (_dir, path) = at(&vec![b'{'; MAX_ENVELOPE + 2]);
        assert!(matches!(read_envelope(&path), Err(BundleError::Envelope(_, EnvelopeError::TooLong))));
        let (_dir, path) = at(b"{}");
        let failure = Failure::from(read_envelope(&path).unwrap_err());
        assert_eq!(failure.exit, Exit::Malformed);
        assert!(failure.to_string().contains("neither a Sigstore bundle nor a DSSE envelope"), "{failure}");
    }
}
