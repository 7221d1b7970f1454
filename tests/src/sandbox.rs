//! Owns a test's own place: a temporary directory, and commands that run in it to their end. Must not own long-lived
//! processes.

use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::binaries::binaries;
use crate::process::wait_for;
use crate::tree::Tree;
use crate::wait::PATIENCE;

/// The user and group that nobody is.
pub const NOBODY: u32 = 65534;

/// A temporary directory, removed when dropped.
#[derive(Debug)]
pub struct Sandbox {
    dir: TempDir,
}

/// A command that runs to its end.
#[derive(Debug)]
pub struct Invocation {
    command: Command,
}

/// How it ended.
#[derive(Clone, PartialEq, Eq)]
pub struct Finished {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What it wrote.
    pub stdout: Vec<u8>,
    /// What it said.
    pub stderr: String,
}

impl Sandbox {
    /// A new one, open to every user: some commands run as nobody.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("driftlock-test-").tempdir()?;
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
        fs::create_dir(dir.path().join("tmp"))?;
        Ok(Self { dir })
    }

    /// Leaves it there when it is dropped, for whoever wants to know what went wrong.
    pub fn keep(&mut self) -> &Path {
        self.dir.disable_cleanup(true);
        self.dir.path()
    }

    /// A path in it.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file in it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, content).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// An empty tree in it.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn tree(&self, name: &str) -> Result<Tree> {
        Tree::create(self.path(name))
    }

    /// Runs `driftlock` with `args`.
    pub fn driftlock<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Invocation {
        self.command(&binaries().driftlock, args)
    }

    /// Runs `driftlock-collector` with `args`.
    pub fn collector<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Invocation {
        self.command(&binaries().collector, args)
    }

    /// Runs any program with `args`.
    pub fn command<A: AsRef<OsStr>>(&self, program: &Path, args: impl IntoIterator<Item = A>) -> Invocation {
        let mut command = self.bare_command(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Invocation { command }
    }

    /// A command of `program` that sees nothing of the machine's environment but `PATH`.
    pub fn bare_command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.dir.path())
            .env("TMPDIR", self.path("tmp"))
            .env("LC_ALL", "C.UTF-8")
            .env("NO_COLOR", "1")
            .current_dir(self.dir.path());
        command
    }

    /// Seals `source` into the file `name` of the sandbox, and expects no objection.
    ///
    /// # Errors
    /// If `driftlock seal` does not end with 0.
    pub fn seal(&self, source: impl AsRef<OsStr>, name: &str) -> Result<PathBuf> {
        let output = self.path(name);
        self.driftlock([OsStr::new("seal"), source.as_ref(), "-o".as_ref(), output.as_ref()]).run()?.expect(0)?;
        Ok(output)
    }

    /// A copy of `driftlock` that every user may run: the build's own directory may be closed to others.
    ///
    /// # Errors
    /// If it cannot be copied.
    pub fn driftlock_for_everyone(&self) -> Result<PathBuf> {
        let copy = self.path("driftlock");
        // By another process: a program that this one has open for writing while another thread starts a command would
        // be open in that command too, and "text file busy" here.
        let mut install = Command::new("install");
        let status = install.args(["-m", "755"]).arg(&binaries().driftlock).arg(&copy).status().context("install")?;
        ensure!(status.success(), "install: {status}");
        Ok(copy)
    }
}

impl Invocation {
    /// Reads standard input from a file.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn stdin(mut self, file: &Path) -> Result<Self> {
        self.command.stdin(File::open(file).with_context(|| file.display().to_string())?);
        Ok(self)
    }

    /// Adds to the environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs as nobody, if the test itself runs as root.
    #[must_use]
    pub fn unprivileged(mut self) -> Self {
        if nix::unistd::geteuid().is_root() {
            self.command.uid(NOBODY).gid(NOBODY);
        }
        self
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// If it cannot be started or does not end within [`PATIENCE`].
    pub fn run(self) -> Result<Finished> {
        self.run_within(PATIENCE)
    }

    /// As [`Invocation::run`], for what is known to take longer.
    ///
    /// # Errors
    /// If it cannot be started or does not end within `limit`.
    pub fn run_within(mut self, limit: Duration) -> Result<Finished> {
        // Files, not pipes: whatever the amount, the command is never held up by who reads.
        let (out, err) = (tempfile::NamedTempFile::new()?, tempfile::NamedTempFile::new()?);
        self.command.stdout(out.reopen()?).stderr(err.reopen()?);
        let mut child = self.command.spawn().with_context(|| format!("{:?}", self.command))?;
        let status = wait_for(&mut child, limit).with_context(|| format!("{:?}", self.command))?;
        Ok(Finished {
            code: status.code(),
            signal: status.signal(),
            stdout: fs::read(out.path())?,
            stderr: String::from_utf8_lossy(&fs::read(err.path())?).into_owned(),
        })
    }
}

impl Finished {
    /// The same, if the exit code is `code`.
    ///
    /// # Errors
    /// If it is another.
    pub fn expect(self, code: i32) -> Result<Self> {
        ensure!(self.code == Some(code), "expected exit code {code}\n{self:?}");
        Ok(self)
    }

    /// Standard output as text.
    ///
    /// # Errors
    /// If it is not UTF-8.
    pub fn text(&self) -> Result<&str> {
        Ok(std::str::from_utf8(&self.stdout)?)
    }
}

impl fmt::Debug for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stdout = String::from_utf8_lossy(&self.stdout);
        let stdout: String = stdout.chars().take(4000).collect();
        write!(f, "exit {:?}, signal {:?}\n--- stdout\n{stdout}\n--- stderr\n{}", self.code, self.signal, self.stderr)
    }
}
