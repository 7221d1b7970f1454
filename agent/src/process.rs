//! Owns finding the process whose root is watched, and holding on to it: to its pidfd, so that its end is noticed and its
//! number means nobody else; to its mount namespace, so that nothing is unmounted under a scan before the end is noticed.
//! Must not own what is done with its root.
//!
//! The agent and the process share a process namespace. Looking into `/proc/PID` asks for what ptrace(2) calls
//! PTRACE_MODE_READ: the same user with at least the same capabilities, or `CAP_SYS_PTRACE`.

use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use driftlock_common::exit::Exit;
use driftlock_common::path::TreePath;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{CWD, Mode, OFlags, fstat, openat};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::failure::Failure;
use crate::host::mountinfo;
use crate::scan::IdMap;

/// Which process a target's root belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// The one with this number; when it ended there is no other.
    Pid(u32),
    /// One that runs this executable: an absolute path as the process sees it, or a name without a slash.
    Executable(String),
}

/// A process, held.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    /// Ticks since boot; the lowest is the oldest.
    started: u64,
    pidfd: OwnedFd,
    _namespace: OwnedFd,
    root: OwnedFd,
    /// Where something was mounted below its root when it was found.
    mounts: Vec<TreePath>,
    /// How its user namespace called ids when it was found.
    ids: IdMap,
}

/// Why there is no process to hold.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// None is there.
    #[error("{selector} is not there{}", unseen(.denied))]
    Absent {
        /// What was looked for.
        selector: Selector,
        /// How many processes could not be looked at.
        denied: usize,
    },
    /// It is there, and cannot be looked into.
    #[error("process {0} cannot be looked into: {NEEDS}")]
    Denied(u32),
    /// Several are there, in different roots.
    #[error(
        "{selector} is there in {roots} different roots: give the whole path of its executable, or root = \"/proc/PID/root\""
    )]
    Ambiguous {
        /// What was looked for.
        selector: Selector,
        /// In how many roots.
        roots: usize,
    },
    /// The kernel does not say.
    #[error("{}", .0.display())]
    Proc(PathBuf, #[source] io::Error),
}

impl Process {
    /// Finds the process; of several in one root, the oldest.
    ///
    /// # Errors
    /// If it is not there, cannot be looked into, or if several are there that do not have the same root.
    pub fn find(selector: &Selector) -> Result<Self, ProcessError> {
        let absent = |denied| ProcessError::Absent { selector: selector.clone(), denied };
        match selector {
            Selector::Pid(pid) => Self::hold(*pid, |_| true)?.ok_or_else(|| absent(0)),
            Selector::Executable(wanted) => {
                let (found, denied) = Self::all(wanted)?;
                let roots: std::collections::BTreeSet<_> = found.iter().filter_map(Self::root_identity).collect();
                if roots.len() > 1 {
                    return Err(ProcessError::Ambiguous { selector: selector.clone(), roots: roots.len() });
                }
                found.into_iter().min_by_key(|process| (process.started, process.pid)).ok_or_else(|| absent(denied))
            }
        }
    }

    /// Every process that runs `wanted`, and how many could not be looked at.
    fn all(wanted: &str) -> Result<(Vec<Self>, usize), ProcessError> {
        let proc = Path::new("/proc");
        let fail = |error| ProcessError::Proc(proc.to_owned(), error);
        let (mut found, mut denied) = (Vec::new(), 0);
        for entry in std::fs::read_dir(proc).map_err(fail)? {
            let name = entry.map_err(fail)?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            match Self::hold(pid, |exe| runs(exe, wanted)) {
                Ok(process) => found.extend(process),
                Err(ProcessError::Denied(_)) => denied += 1,
                Err(error) => return Err(error),
            }
        }
        Ok((found, denied))
    }

    /// Holds process `pid` if it is there and its executable is wanted.
    fn hold(pid: u32, wanted: impl Fn(&[u8]) -> bool) -> Result<Option<Self>, ProcessError> {
        let path = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
        let fail = |name: &str, error: io::Error| match error.kind() {
            // It ended meanwhile, or never was.
            io::ErrorKind::NotFound => Ok(None),
            io::ErrorKind::PermissionDenied => Err(ProcessError::Denied(pid)),
            _ if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(None),
            _ => Err(ProcessError::Proc(path(name), error)),
        };
        let open = |name: &str, flags| {
            openat(CWD, path(name), flags | OFlags::CLOEXEC, Mode::empty()).map_err(io::Error::from)
        };
        // Threads of the kernel have no executable, and no root of their own.
        match std::fs::read_link(path("exe")) {
            Ok(exe) if wanted(exe.as_os_str().as_bytes()) => {}
            Ok(_) => return Ok(None),
            Err(error) => return fail("exe", error),
        }
        let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let pidfd = match pidfd_open(number, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            // A thread of a process, which /proc answers for but does not list.
            Err(rustix::io::Errno::INVAL) => return Ok(None),
            Err(error) => return fail("", error.into()),
        };
        let read = || {
            let namespace = open("ns/mnt", OFlags::RDONLY)?;
            let root = open("root", OFlags::PATH | OFlags::DIRECTORY)?;
            let mounts = std::fs::read(path("mountinfo"))?;
            let stat = std::fs::read(path("stat"))?;
            let ids = if shares_users(&path("ns/user"))? {
                None
            } else {
                Some((std::fs::read(path("uid_map"))?, std::fs::read(path("gid_map"))?))
            };
            let exe = std::fs::read_link(path("exe"))?;
            Ok((namespace, root, mounts, stat, ids, exe))
        };
        let (namespace, root, mounts, stat, ids, exe) = match read() {
            Ok(read) => read,
            Err(error) => return fail("root", error),
        };
        let invalid = |name: &str, error: &dyn fmt::Display| {
            ProcessError::Proc(path(name), io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
        };
        let mounts = mountinfo::parse(&mounts).map_err(|error| invalid("mountinfo", &error))?;
        let mounts = mountinfo::points_below(&mounts, b"/").map_err(|error| invalid("mountinfo", &error))?;
        let ids = ids.map(|(users, groups)| IdMap::of_kernel(&users, &groups)).transpose();
        let ids = ids.map_err(|error| invalid("uid_map", &error))?.unwrap_or_default();
        let started = start_time(&stat).unwrap_or(u64::MAX);
        let process = Self { pid, started, pidfd, _namespace: namespace, root, mounts, ids };
        // A number is given anew only after the end: while it lives, all that was read is of this one.
        Ok((process.is_alive() && wanted(exe.as_os_str().as_bytes())).then_some(process))
    }

    fn root_identity(&self) -> Option<(u64, u64)> {
        fstat(&self.root).ok().map(|stat| (stat.st_dev, stat.st_ino))
    }

    /// Its number, for people.
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// Its root directory, an `O_PATH` descriptor.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Readable once it ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Where something was mounted below its root when it was found.
    pub fn mounts(&self) -> &[TreePath] {
        &self.mounts
    }

    /// How its user namespace called ids when it was found, as seen from that of this process.
    pub const fn ids(&self) -> &IdMap {
        &self.ids
    }

    /// Whether it did not end yet.
    pub fn is_alive(&self) -> bool {
        !Self::has_ended(self.pidfd())
    }

    /// Whether the process of a pidfd has ended, or at least may have.
    pub fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut ended = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
        !matches!(rustix::event::poll(&mut ended, Some(&now)), Ok(0) | Err(rustix::io::Errno::INTR))
    }

    /// Whether its root is still the directory that it was when it was found: a process may change it.
    pub fn keeps_root(&self) -> bool {
        let path = format!("/proc/{}/root", self.pid);
        let now = openat(CWD, &path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let now = now.and_then(|root| fstat(&root)).map(|stat| (stat.st_dev, stat.st_ino)).ok();
        self.is_alive() && now == self.root_identity()
    }
}

impl From<ProcessError> for Failure {
    fn from(error: ProcessError) -> Self {
        let exit = match &error {
            ProcessError::Absent { .. } | ProcessError::Ambiguous { .. } => Exit::NoInput,
            ProcessError::Denied(_) => Exit::Refused,
            ProcessError::Proc(..) => Exit::Io,
        };
        Self::new(exit, error)
    }
}

/// Whether a process is in this one's user namespace. Its map is then about the namespace above, and of no use here: both
/// call ids the same.
fn shares_users(theirs: &Path) -> io::Result<bool> {
    match std::fs::read_link("/proc/self/ns/user") {
        Ok(ours) => Ok(ours == std::fs::read_link(theirs)?),
        // The kernel was built without.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// Whether an executable, as the kernel names it, is the wanted one. A deleted one is what still runs.
fn runs(exe: &[u8], wanted: &str) -> bool {
    let exe = exe.strip_suffix(b" (deleted)").unwrap_or(exe);
    if wanted.contains('/') {
        return exe == wanted.as_bytes();
    }
    exe.rsplit(|byte| *byte == b'/').next() == Some(wanted.as_bytes())
}

/// Field 22 of proc_pid_stat(5). The name before may hold anything, a parenthesis too.
fn start_time(stat: &[u8]) -> Option<u64> {
    let after = &stat[stat.iter().rposition(|byte| *byte == b')')? + 1..];
    // Field 3 is the first after the name.
    std::str::from_utf8(after).ok()?.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

/// What looking into a process asks for.
const NEEDS: &str = "driftlock must run as the same user with at least its capabilities, or with CAP_SYS_PTRACE";

fn unseen(denied: &usize) -> String {
    match denied {
        0 => String::new(),
        1 => format!(", unless it is the one process that cannot be looked into: {NEEDS}"),
        n => format!(", unless it is one of {n} processes that cannot be looked into: {NEEDS}"),
    }
}

// === impl Selector ===

impl Selector {
    /// The process of a root that is written `/proc/PID/root`.
    pub fn of_root(path: &Path) -> Option<Self> {
        // Without what can be spelled in more than one way: `/proc//7/root/`.
        let plain: PathBuf = path.components().collect();
        let pid = plain.to_str()?.strip_prefix("/proc/")?.strip_suffix("/root")?;
        pid.parse().ok().filter(|pid| *pid > 0).map(Self::Pid)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pid(pid) => write!(f, "process {pid}"),
            Self::Executable(name) => write!(f, "process {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process of the test's own, under an executable of a name that no other has. Ends when dropped.
    struct Sleeper(Child);

    impl Drop for Sleeper {
        fn drop(&mut self) {
            // It may have ended already.
            let _ended = self.0.kill();
            let _reaped = self.0.wait();
        }
    }

    /// A copy of `cat`, that waits for its input for ever.
    fn executable(dir: &Path, name: &str) -> PathBuf {
        let copy = dir.join(name);
        let status = Command::new("cp").args(["-L", "/bin/cat"]).arg(&copy).status().unwrap();
        assert!(status.success());
        copy
    }

    fn sleeper(executable: &Path) -> Sleeper {
        Sleeper(Command::new(executable).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
    }

    fn named(name: &str) -> Selector {
        Selector::Executable(name.to_owned())
    }

    #[test]
    fn the_oldest_of_one_root_is_found_by_name_and_by_path_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let name = format!("driftlock-test-{}-a", std::process::id());
        let path = executable(dir.path(), &name);
        assert!(matches!(Process::find(&named(&name)), Err(ProcessError::Absent { .. })));
        let (first, second) = (sleeper(&path), sleeper(&path));
        for selector in [named(&name), named(path.to_str().unwrap())] {
            let found = Process::find(&selector).unwrap();
            assert_eq!(found.pid(), first.0.id(), "{selector}");
            assert!(found.is_alive() && found.keeps_root());
        }
        let found = Process::find(&named(&name)).unwrap();
        // What was deleted still runs under its name.
        std::fs::remove_file(&path).unwrap();
        assert_eq!(Process::find(&named(&name)).unwrap().pid(), first.0.id());
        drop(first);
        assert!(!found.is_alive() && !found.keeps_root());
        assert_eq!(Process::find(&named(&name)).unwrap().pid(), second.0.id());
        assert_eq!(Process::find(&Selector::Pid(second.0.id())).unwrap().pid(), second.0.id());
        let pid = second.0.id();
        drop(second);
        let gone = Process::find(&Selector::Pid(pid)).unwrap_err();
        assert_eq!(gone.to_string(), format!("process {pid} is not there"));
    }

    #[test]
    fn an_executable_is_meant_by_its_name_or_its_whole_path() {
        for (exe, wanted, is) in [
            ("/usr/sbin/nginx", "nginx", true),
            ("/usr/sbin/nginx", "/usr/sbin/nginx", true),
            ("/usr/sbin/nginx (deleted)", "nginx", true),
            ("/usr/sbin/nginx (deleted)", "/usr/sbin/nginx", true),
            ("/usr/sbin/nginx", "/usr/local/sbin/nginx", false),
            ("/usr/sbin/nginx-debug", "nginx", false),
            ("/usr/sbin/nginx", "ginx", false),
            ("/usr/sbin/nginx", "sbin/nginx", false),
        ] {
            assert_eq!(runs(exe.as_bytes(), wanted), is, "{exe} {wanted}");
        }
    }

    #[test]
    fn the_start_is_read_after_whatever_the_name_is() {
        let fields: Vec<String> = (3..=52).map(|n| n.to_string()).collect();
        for name in ["cat", "a b", ") R 1", "((", "\u{1b}"] {
            let stat = format!("7 ({name}) {}\n", fields.join(" "));
            assert_eq!(start_time(stat.as_bytes()), Some(22), "{stat}");
        }
        for stat in ["", "7 (cat", "7 (cat) S 1 2"] {
            assert_eq!(start_time(stat.as_bytes()), None, "{stat}");
        }
    }

    #[test]
    fn a_root_names_a_process() {
        for (path, selector) in [
            ("/proc/7/root", Some(Selector::Pid(7))),
            ("/proc/7/root/", Some(Selector::Pid(7))),
            ("//proc/./7//root/.", Some(Selector::Pid(7))),
            ("/proc/7/root/..", None),
            ("proc/7/root", None),
            ("/proc/0/root", None),
            ("/proc/self/root", None),
            ("/proc/7/root/srv", None),
            ("/srv/proc/7/root", None),
            ("/proc/99999999999/root", None),
        ] {
            assert_eq!(Selector::of_root(Path::new(path)), selector, "{path}");
        }
    }
}
