//! Owns the socket of the data directory. Must not own what is said over it.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use axum::Router;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

/// Its name in the data directory.
const NAME: &str = "admin.sock";

/// The socket's path by a name that is short enough for any directory, for as long as the file is open.
fn short(data: &Path) -> io::Result<(File, PathBuf)> {
    let directory = File::open(data)?;
    let path = Path::new(&format!("/proc/self/fd/{}", directory.as_raw_fd())).join(NAME);
    Ok((directory, path))
}

/// Answers at the socket of `data` until the shutdown. Who calls holds the store's lock, so whatever is there is left
/// of one that ended.
///
/// # Errors
/// If it cannot be made.
pub fn listen(data: &Path, router: Router, shutdown: CancellationToken) -> io::Result<()> {
    let (directory, path) = short(data)?;
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    // The directory is its owner's alone; this is for one that somebody opened.
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    drop(directory);
    let path = data.join(NAME);
    tokio::spawn(async move {
        let ended = shutdown.clone();
        let server = axum::serve(listener, router).with_graceful_shutdown(async move { ended.cancelled().await });
        if let Err(error) = server.await {
            tracing::error!(%error, "the admin socket failed");
        }
        // Whoever comes later takes it away otherwise.
        let _gone = fs::remove_file(path);
    });
    Ok(())
}

/// Connects to the collector of `data`.
///
/// # Errors
/// If none answers.
pub(super) async fn connect(data: &Path) -> io::Result<UnixStream> {
    let (_directory, path) = short(data)?;
    UnixStream::connect(path).await
}
