//! Owns making the socket: what a killed agent left is replaced, what belongs to somebody who lives is not, and nobody may
//! speak who should not, not even for a moment. Must not own what is said.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags, fchmod, flock};
use tokio::net::{UnixListener, UnixSocket};

/// The owner and its group: to speak is to connect, which is to write.
const MODE: u32 = 0o660;
/// Connections that may wait to be taken.
const BACKLOG: u32 = 128;
/// The kernel takes names of sockets up to here, with the NUL: unix(7).
const MAX_NAME: usize = 108;

/// A socket in the file system that is listened to. Taken away when dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(super) listener: UnixListener,
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody is there.
    #[error("control.socket: somebody answers at {} already", .0.display())]
    InUse(PathBuf),
    /// Something else is there.
    #[error("control.socket: {} is there, and no socket", .0.display())]
    Occupied(PathBuf),
    /// It cannot be made.
    #[error("control.socket: {}", .0.display())]
    Create(PathBuf, #[source] io::Error),
}

impl Listener {
    /// Listens at an absolute path, in a directory that is there.
    ///
    /// # Errors
    /// If somebody else listens there, something else is there, or it cannot be made.
    pub(crate) fn bind(path: &Path) -> Result<Self, ListenError> {
        let create = |error: io::Error| ListenError::Create(path.to_owned(), error);
        let (directory, short) = Short::of(path).map_err(create)?;
        // Of two that begin at once, one comes after the other. The kernel lets go when the descriptor is closed.
        flock(&directory, FlockOperation::NonBlockingLockExclusive).map_err(|error| create(error.into()))?;
        make_room(path, &short)?;
        let socket = UnixSocket::new_stream().map_err(create)?;
        // What is made by binding is never open to more than this; a umask may take from it, so it is said again.
        fchmod(socket.as_fd(), Mode::from_raw_mode(MODE)).map_err(|error| create(error.into()))?;
        socket.bind(&short).map_err(create)?;
        let listener = socket.listen(BACKLOG).map_err(create)?;
        fs::set_permissions(&short, Permissions::from_mode(MODE)).map_err(create)?;
        let found = fs::symlink_metadata(&short).map_err(create)?;
        Ok(Self { listener, path: path.to_owned(), identity: (found.dev(), found.ino()) })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let ours = |found: fs::Metadata| (found.dev(), found.ino()) == self.identity;
        if fs::symlink_metadata(&self.path).is_ok_and(ours)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "the socket stays behind");
        }
    }
}

/// A name of the same file that is short enough for a socket.
#[derive(Debug)]
pub(super) struct Short;

impl Short {
    /// The directory of `path`, and a name of `path` that holds for as long as that is open.
    pub(super) fn of(path: &Path) -> io::Result<(OwnedFd, PathBuf)> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let directory = rustix::fs::open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let short = if path.as_os_str().len() < MAX_NAME {
            path.to_owned()
        } else {
            Path::new(&format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name)
        };
        Ok((directory, short))
    }
}

/// Takes away a socket that nobody listens to.
fn make_room(path: &Path, short: &Path) -> Result<(), ListenError> {
    let create = |error: io::Error| ListenError::Create(path.to_owned(), error);
    match fs::symlink_metadata(short) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => return Err(ListenError::Occupied(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(create(error)),
    }
    match UnixStream::connect(short) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(short).map_err(create),
        // One that takes no more connections lives; so does one that may not be spoken to.
        Ok(_) | Err(_) => Err(ListenError::InUse(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_nobody_listens_to_is_replaced_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("s");
        let first = Listener::bind(&path).unwrap();
        let mode = fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o660);
        assert!(matches!(Listener::bind(&path), Err(ListenError::InUse(_))));
        drop(first);
        assert!(!path.exists());

        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "what the kernel leaves of a process that is gone");
        let next = Listener::bind(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "somebody's").unwrap();
        drop(next);
        assert_eq!(fs::read(&path).unwrap(), b"somebody's");
        assert!(matches!(Listener::bind(&path), Err(ListenError::Occupied(_))));
        assert!(matches!(Listener::bind(&place.path().join("none/s")), Err(ListenError::Create(..))));
    }

    #[tokio::test]
    async fn a_path_may_be_longer_than_the_name_of_a_socket() {
        let place = tempfile::tempdir().unwrap();
        let deep = place.path().join("d".repeat(100)).join("e".repeat(100));
        fs::create_dir_all(&deep).unwrap();
        let path = deep.join("s");
        let listener = Listener::bind(&path).unwrap();
        let (_open, short) = Short::of(&path).unwrap();
        UnixStream::connect(short).unwrap();
        assert_eq!(listener.path(), path);
    }
}
