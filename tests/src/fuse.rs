//! Owns a file system of the test's own, in memory and read-only, that misbehaves as a script says: it fails, it
//! changes between two calls, it lies. What is where is [`Tree`]. Must not own what a scan should say of it.
//!
//! Nothing is cached by the kernel, so that every look of a scan is a call here.

mod serve;
mod tree;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use fuser::{BackgroundSession, Config, MountOption, SessionACL};

pub use fuser::{Errno, FileType};
pub use tree::{Kind, Node, Tree};

use serve::Server;

/// A mounted one. Unmounted when dropped.
pub struct Fuse {
    session: Option<BackgroundSession>,
    state: Arc<Mutex<State>>,
    root: PathBuf,
}

/// What is asked of the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// A name in a directory; the path is that of what is looked for.
    Lookup,
    /// Attributes of what was looked up before.
    Attributes,
    /// Opening a file.
    Open,
    /// A part of a file.
    Read,
    /// The target of a symlink.
    ReadLink,
    /// Opening a directory.
    OpenDirectory,
    /// Names in a directory.
    ReadDirectory,
    /// An extended attribute, or the names of all.
    Xattr,
}

/// One question.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// What is asked.
    pub op: Op,
    /// Of which path; the root is empty.
    pub path: &'a [u8],
    /// From which byte, or which name, on.
    pub offset: u64,
    /// How often this was asked of this path since the script began, this time included.
    pub nth: u64,
}

/// Called before each question is answered: changes the tree, or lets the answer be an error.
pub type Script = Box<dyn FnMut(&Call<'_>, &mut Tree) -> Result<(), Errno> + Send>;

struct State {
    tree: Tree,
    script: Option<Script>,
    asked: BTreeMap<(Op, Vec<u8>), u64>,
}

impl Fuse {
    /// Mounts `tree` on the directory `root`, for every user.
    ///
    /// # Errors
    /// If it cannot be mounted.
    pub fn mount(root: &Path, tree: Tree) -> Result<Self> {
        let state = Arc::new(Mutex::new(State { tree, script: None, asked: BTreeMap::new() }));
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("driftlock-test".into()),
            MountOption::RO,
            MountOption::Dev,
            MountOption::Suid,
            MountOption::DefaultPermissions,
        ];
        config.acl = SessionACL::All;
        let server = Server::new(Arc::clone(&state));
        let session = fuser::spawn_mount(server, root, &config).context("mount a FUSE")?;
        Ok(Self { session: Some(session), state, root: root.to_owned() })
    }

    /// Where it is mounted.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// From now on `script` is called before each answer.
    pub fn script(&self, script: impl FnMut(&Call<'_>, &mut Tree) -> Result<(), Errno> + Send + 'static) {
        let mut state = lock(&self.state);
        state.asked.clear();
        state.script = Some(Box::new(script));
    }

    /// From now on `op` of `path` fails.
    pub fn fail(&self, op: Op, path: &str, error: Errno) {
        let path = path.as_bytes().to_owned();
        self.script(move |call, _| if (call.op, call.path) == (op, path.as_slice()) { Err(error) } else { Ok(()) });
    }

    /// From now on everything is answered as it is.
    pub fn behave(&self) {
        lock(&self.state).script = None;
    }

    /// Changes what is there.
    pub fn change<T>(&self, change: impl FnOnce(&mut Tree) -> T) -> T {
        change(&mut lock(&self.state).tree)
    }

    /// How often `op` was asked of `path` since the script began.
    pub fn asked(&self, op: Op, path: &str) -> u64 {
        lock(&self.state).asked.get(&(op, path.as_bytes().to_owned())).copied().unwrap_or(0)
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            // If something is still open there, it ends with the namespace it is mounted in.
            let _busy = session.umount_and_join();
        }
    }
}

impl fmt::Debug for Fuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fuse").field("root", &self.root).finish_non_exhaustive()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Why none can be mounted; `None` if one can.
pub fn missing() -> Option<String> {
    let attempt = || {
        let place = tempfile::tempdir()?;
        crate::namespace::within(|| Fuse::mount(place.path(), Tree::new()).map(drop))
    };
    attempt().err().map(|error| format!("needs to mount a FUSE: {error:#}"))
}
