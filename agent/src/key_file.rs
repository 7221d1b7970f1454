//! Owns the files of keys: reading public ones, reading private ones that nobody else can read, making a pair. Must not own
//! what a key is, or what it may be trusted with.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use driftlock_common::exit::Exit;
use driftlock_common::path::Escaped;
use driftlock_common::trust::{KeyError, MAX_KEY, PrivateKey, PublicKey, Scheme};

use crate::draft;
use crate::failure::Failure;

/// What a private key's file ends in, and the public one's beside it.
const PRIVATE: &str = ".key";
const PUBLIC: &str = ".pub";

/// Why the file of a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be opened or read.
    #[error("{}", shown(.0))]
    Read(PathBuf, #[source] io::Error),
    /// It is no such key.
    #[error("{}: {}", shown(.0), .1)]
    Key(PathBuf, KeyError),
    /// Not text, so no PEM.
    #[error("{}: {}", shown(.0), KeyError::NotPem)]
    NotText(PathBuf),
    /// A private key that others can read is everybody's.
    #[error("{}: a private key that others can read (mode {:04o}): chmod 600 {}", shown(.0), .1, shown(.0))]
    Loose(PathBuf, u32),
    /// A file is never written over: a key that is lost does not come back.
    #[error("{}: there is such a file already, and a key is never written over it: choose another name, or move it away", shown(.0))]
    Exists(PathBuf),
    /// It cannot be written.
    #[error("{}", shown(.0))]
    Write(PathBuf, #[source] io::Error),
    /// There is no randomness to make a key of.
    #[error("the system has no randomness to make a key of: {0}")]
    Random(getrandom::Error),
}

/// The two files of a key that was made.
#[derive(Debug)]
pub struct Pair {
    /// For its owner alone.
    pub private: PathBuf,
    /// For everybody.
    pub public: PathBuf,
    /// The key.
    pub key: PublicKey,
}

/// Reads a public key.
///
/// # Errors
/// If the file cannot be read, or is not the PEM of one.
pub fn read_public(path: &Path) -> Result<PublicKey, KeyFileError> {
    let file = File::open(path).map_err(|error| KeyFileError::Read(path.to_owned(), error))?;
    PublicKey::from_pem(&text(path, file)?).map_err(|error| KeyFileError::Key(path.to_owned(), error))
}

/// Reads a private key, which must be its owner's alone. What is no file, a pipe for example, has nobody else.
///
/// # Errors
/// If group or others may read the file, it cannot be read, or is not the PEM of one.
pub fn read_private(path: &Path) -> Result<PrivateKey, KeyFileError> {
    let opened = File::open(path).and_then(|file| file.metadata().map(|metadata| (file, metadata)));
    let (file, metadata) = opened.map_err(|error| KeyFileError::Read(path.to_owned(), error))?;
    let mode = metadata.mode() & 0o7777;
    // What is no private key is that first: nobody has to hide it.
    let key = PrivateKey::from_pem(&text(path, file)?).map_err(|error| KeyFileError::Key(path.to_owned(), error))?;
    if metadata.is_file() && mode & 0o077 != 0 {
        return Err(KeyFileError::Loose(path.to_owned(), mode));
    }
    Ok(key)
}

fn text(path: &Path, file: File) -> Result<String, KeyFileError> {
    let most = u64::try_from(MAX_KEY).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes).map_err(|error| KeyFileError::Read(path.to_owned(), error))?;
    String::from_utf8(bytes).map_err(|_| KeyFileError::NotText(path.to_owned()))
}

/// Makes a key and writes `NAME.key` (mode 0600) and `NAME.pub`; both are on disk when this returns, or neither is there.
///
/// # Errors
/// If one of the files is there already or cannot be written, or there is no randomness.
pub fn make(name: &Path, scheme: Scheme) -> Result<Pair, KeyFileError> {
    let [private, public] = [PRIVATE, PUBLIC].map(|ending| {
        let mut path = OsString::from(name);
        path.push(ending);
        PathBuf::from(path)
    });
    // Asked before, so that no private key stays behind without its public one; the opening decides.
    for path in [&private, &public] {
        if fs::symlink_metadata(path).is_ok() {
            return Err(KeyFileError::Exists(path.clone()));
        }
    }
    let key = random(scheme)?;
    write_new(&private, 0o600, key.to_pem().as_ref())?;
    if let Err(error) = write_new(&public, 0o666, &key.public().to_pem()) {
        // Without its public half it is of no use.
        let _left = fs::remove_file(&private);
        return Err(error);
    }
    let directory = draft::directory_of(&private);
    draft::sync(directory).map_err(|error| KeyFileError::Write(directory.to_owned(), error))?;
    Ok(Pair { private, public, key: key.public().clone() })
}

/// Makes a key that nobody else has.
///
/// # Errors
/// If there is no randomness.
pub fn random(scheme: Scheme) -> Result<PrivateKey, KeyFileError> {
    loop {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(KeyFileError::Random)?;
        if let Some(key) = PrivateKey::from_random(scheme, &bytes) {
            return Ok(key);
        }
    }
}

fn write_new(path: &Path, mode: u32, text: &str) -> Result<(), KeyFileError> {
    let written = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).inspect_err(|_| {
            // Half a key is no key.
            let _left = fs::remove_file(path);
        })
    };
    written().map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => KeyFileError::Exists(path.to_owned()),
        _ => KeyFileError::Write(path.to_owned(), error),
    })
}

fn shown(path: &Path) -> Escaped<'_> {
    Escaped(path.as_os_str().as_encoded_bytes())
}

impl From<KeyFileError> for Failure {
    fn from(error: KeyFileError) -> Self {
        match error {
            KeyFileError::Read(path, error) => Self::input(shown(&path), error),
            KeyFileError::Key(..) | KeyFileError::NotText(_) => Self::new(Exit::Malformed, error),
            KeyFileError::Loose(..) => Self::new(Exit::Refused, error),
            KeyFileError::Exists(_) => Self::new(Exit::CannotCreate, error),
            KeyFileError::Write(path, error) => Self::output(shown(&path), error),
            KeyFileError::Random(_) => Self::new(Exit::Io, error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_pair_is_its_owners_and_is_never_written_over() {
        for scheme in [Scheme::Ed25519, Scheme::EcdsaP256] {
            let dir = tempfile::tempdir().unwrap();
            let name = dir.path().join("build.v1");
            let pair = make(&name, scheme).unwrap();
            assert_eq!(pair.private, dir.path().join("build.v1.key"));
            assert_eq!(fs::metadata(&pair.private).unwrap().mode() & 0o7777, 0o600);
            let (private, public) = (read_private(&pair.private).unwrap(), read_public(&pair.public).unwrap());
            assert_eq!((private.public().id(), public.id()), (pair.key.id(), pair.key.id()));
            assert!(public.verifies(b"x", &private.sign(b"x")));
            let before = fs::read(&pair.private).unwrap();
            assert!(matches!(make(&name, scheme), Err(KeyFileError::Exists(_))));
            fs::remove_file(&pair.private).unwrap();
            // The public key alone is in the way too, and no private one is left behind.
            assert!(matches!(make(&name, scheme), Err(KeyFileError::Exists(_))));
            assert!(!pair.private.exists());
            fs::write(&pair.private, before).unwrap();
        }
    }

    #[test]
    fn two_keys_are_two() {
        let dir = tempfile::tempdir().unwrap();
        let made = ["a", "b"].map(|name| make(&dir.path().join(name), Scheme::Ed25519).unwrap().key.id());
        assert_ne!(made[0], made[1]);
    }

    #[test]
    fn a_private_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let pair = make(&dir.path().join("k"), Scheme::Ed25519).unwrap();
        for (mode, is_refused) in
            [(0o600, false), (0o400, false), (0o640, true), (0o604, true), (0o620, true), (0o601, true)]
        {
            fs::set_permissions(&pair.private, Permissions::from_mode(mode)).unwrap();
            let read = read_private(&pair.private);
            assert_eq!(matches!(read, Err(KeyFileError::Loose(..))), is_refused, "{mode:o}");
            let Err(error) = read else { continue };
            let failure = Failure::from(error);
            assert_eq!(failure.exit, Exit::Refused);
            assert!(failure.to_string().contains(&format!("(mode {mode:04o}): chmod 600 ")), "{failure}");
        }
    }

    #[test]
    fn what_is_no_key_is_said_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for (content, says) in [
            (&b""[..], "begins with -----BEGIN"),
            (b"\xff\xfe", "begins with -----BEGIN"),
            (&vec![b'-'; MAX_KEY + 1], "longer than any key"),
        ] {
            fs::write(&path, content).unwrap();
            let failure = Failure::from(read_public(&path).unwrap_err());
            assert_eq!(failure.exit, Exit::Malformed);
            assert!(failure.to_string().contains(says) && failure.to_string().contains("/key: "), "{failure}");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(Failure::from(read_public(&path).unwrap_err()).exit, Exit::NoInput);
        let nowhere = Failure::from(make(&dir.path().join("none/k"), Scheme::Ed25519).unwrap_err());
        assert_eq!(nowhere.exit, Exit::CannotCreate);
    }
}
