//! A process whose root is a directory of the test's, in namespaces of its own, for as long as the test holds it: this
//! binary, started again.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::process::{Process, Stream};
use driftlock_tests::sandbox::{Finished, Sandbox};
use rustix::fs::{CWD, FileType, Mode, mknodat};

/// The word that makes a process that holds a root.
const HOLD: &str = "--hold";
/// The word that makes a process that says an extended attribute.
const SAY: &str = "--say";
/// What it says once it has its root.
const HELD: &str = "held";

/// A process with a root of its own. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    process: Process,
}

/// Takes the root that this process was started for, and stays, or says an extended attribute as it sees it; `None` if it
/// was started for neither.
pub(crate) fn main() -> Option<ExitCode> {
    let mut arguments = env::args_os().skip(1);
    let word = arguments.next()?;
    if word == SAY {
        return Some(say(&PathBuf::from(arguments.next()?), &arguments.next()?));
    }
    if word != HOLD {
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

fn say(path: &Path, name: &OsStr) -> ExitCode {
    let mut value = [0; 256];
    let said = match rustix::fs::getxattr(path, name, &mut value) {
        Ok(len) => value[..len].iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
        Err(error) => format!("{error}"),
    };
    let _closed = writeln!(std::io::stdout(), "{said}");
    ExitCode::SUCCESS
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

    /// As [`Held::start`], in user and mount namespaces of which `map` is the map of users and of groups: lines of
    /// `INSIDE OUTSIDE COUNT`. In them it is root.
    ///
    /// # Errors
    /// If it does not come to hold its root.
    pub(crate) fn start_mapped(sandbox: &Sandbox, root: &Path, map: &str, script: &str) -> Result<Self> {
        const UNMAPPED: &str = "unmapped";
        let copy = for_everyone(sandbox)?;
        let gate = sandbox.path("gate");
        mknodat(CWD, &gate, FileType::Fifo, Mode::empty(), 0)?;
        // Who has no name yet has to come through.
        fs::set_permissions(&gate, Permissions::from_mode(0o666))?;
        let outer = format!(
            "echo {UNMAPPED}; read -r go < \"$3\"
             exec setpriv --reuid=0 --regid=0 --clear-groups sh -euc \"$4\" sh \"$1\" \"$2\""
        );
        let inner = format!("root=$1; {script}\nexec \"$2\" {HOLD} \"$root\"");
        let mut command = sandbox.bare_command(Path::new("unshare"));
        command.args(["--user", "--keep-caps", "--mount", "sh", "-euc", &outer, "sh"]);
        command.args([root, &copy, &gate]).arg(inner);
        let process = Process::spawn("the process with a root and a map", &mut command)?;
        process.line(Stream::Stdout, |line| (line == UNMAPPED).then_some(()))?;
        for file in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{}/{file}", process.id()), map).context(file)?;
        }
        fs::write(&gate, "go\n")?;
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

    /// What a command says that runs in its user namespace, as root there.
    ///
    /// # Errors
    /// If it does not end with 0.
    pub(crate) fn inside<A: AsRef<OsStr>>(
        &self,
        sandbox: &Sandbox,
        command: impl IntoIterator<Item = A>,
    ) -> Result<Finished> {
        let namespace = format!("--user=/proc/{}/ns/user", self.id());
        let mut line = vec![OsString::from(namespace)];
        line.extend(command.into_iter().map(|word| word.as_ref().to_owned()));
        sandbox.command(Path::new("nsenter"), line).run()?.expect(0)
    }

    /// An extended attribute as it sees it, in hexadecimal digits; what is wrong if there is none.
    ///
    /// # Errors
    /// If it cannot be asked.
    pub(crate) fn attribute(&self, sandbox: &Sandbox, path: &Path, name: &str) -> Result<String> {
        let program = for_everyone(sandbox)?;
        let said = self.inside(sandbox, [program.as_os_str(), SAY.as_ref(), path.as_os_str(), name.as_ref()])?;
        Ok(said.text()?.trim().to_owned())
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
