//! A process whose root is a directory of the test's, in namespaces of its own, for as long as the test holds it: this
//! binary, started again.

use std::env;
use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::process::{Process, Stream};
use driftlock_tests::sandbox::Sandbox;

/// The word that makes a process that holds a root.
const HOLD: &str = "--hold";
/// What it says once it has its root.
const HELD: &str = "held";

/// A process with a root of its own. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    process: Process,
}

/// Takes the root that this process was started for, and stays; `None` if it was not started for that.
pub(crate) fn main() -> Option<ExitCode> {
    let mut arguments = env::args_os().skip(1);
    if arguments.next()? != HOLD {
        return None;
    }
    let root = PathBuf::from(arguments.next()?);
    if let Err(error) = rustix::process::chroot(&root).and_then(|()| rustix::process::chdir("/")) {
        let _closed = writeln!(std::io::stderr(), "{}: {error}", root.display());
        return Some(ExitCode::FAILURE);
    }
    let _closed = writeln!(std::io::stdout(), "{HELD}");
    loop {
        thread::park();
    }
}

impl Held {
    /// One with the root `root`, after `unshare` with `namespaces` and, as the first in them, the shell with `script`: it
    /// finds the root in `$root`.
    ///
    /// # Errors
    /// If it does not come to hold its root.
    pub(crate) fn start(sandbox: &Sandbox, root: &Path, namespaces: &[&str], script: &str) -> Result<Self> {
        let copy = for_everyone(sandbox)?;
        let script = format!("set -e; root=$1; {script}\nexec \"$2\" {HOLD} \"$root\"");
        let mut command = sandbox.bare_command(Path::new("unshare"));
        command.args(namespaces).args(["sh", "-c", &script, "sh"]).arg(root).arg(copy);
        let process = Process::spawn("the process with a root", &mut command)?;
        process.line(Stream::Stdout, |line| (line == HELD).then_some(()))?;
        Ok(Self { process })
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Its root, as everybody else finds it.
    pub(crate) fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.id()))
    }

    /// Ends it, and returns once it has ended.
    ///
    /// # Errors
    /// If the end cannot be waited for.
    pub(crate) fn end(self) -> Result<()> {
        self.process.kill()
    }
}

/// A copy of this binary that any user may run, made by another process: see [`Sandbox::driftlock_for_everyone`].
fn for_everyone(sandbox: &Sandbox) -> Result<PathBuf> {
    let copy = sandbox.path("holder");
    if !copy.exists() {
        let this = env::current_exe().context("this binary")?;
        let status = Command::new("install").args(["-m", "755"]).args([&this, &copy]).status().context("install")?;
        ensure!(status.success(), "install: {status}");
    }
    Ok(copy)
}

/// The arguments of a scan of `root`.
pub(crate) fn scan<'a>(manifest: &'a Path, root: &'a Path, more: &'a [&'a str]) -> Vec<&'a OsStr> {
    let first = ["scan".as_ref(), "--format".as_ref(), "ndjson".as_ref(), "--manifest".as_ref(), manifest.as_os_str()];
    first.into_iter().chain(more.iter().map(AsRef::as_ref)).chain([root.as_os_str()]).collect()
}
