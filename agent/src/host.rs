//! What the kernel says of the host that the agent runs on, and what follows from it. Owns reading it once, as a
//! [`Host`] and a [`Site`] for each root; must not own how it is shown, or the agent's own decisions.
//!
//! `mountinfo`, `capability` and `limit` read what the kernel writes, `probe` asks it by calling, `survey` looks over a
//! tree, `view` compares two mount tables. `advice` judges all of that: it is pure.

pub mod advice;
pub mod capability;
pub mod file_system;
pub mod limit;
pub mod mountinfo;
pub mod probe;
pub mod site;
pub mod survey;
pub mod view;

use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::{PROC_SUPER_MAGIC, statfs};

use capability::{Capabilities, Capability};
use limit::Limits;
use mountinfo::Mount;
use probe::Probes;

pub use site::Site;

/// Something that is known, or one line of why it is not.
pub type Known<T> = Result<T, String>;

/// The host as this process finds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The kernel's release, such as `6.18.44`.
    pub kernel: Known<String>,
    /// The effective user id.
    pub user: u32,
    /// What the process may do.
    pub capabilities: Known<Capabilities>,
    /// Whether capabilities count for the whole host.
    pub users: Known<Namespace>,
    /// What it may use.
    pub limits: Limits,
    /// Its own mount table.
    pub ours: Known<Vec<Mount>>,
    /// The mount table of PID 1 of the whole host.
    pub theirs: Known<Vec<Mount>>,
    /// What the kernel answers.
    pub probes: Probes,
    /// The time.
    pub clock: Clock,
}

/// Which part of the host a process is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// The host itself.
    Host,
    /// A part of its own: a container's.
    Own,
}

/// The host's time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clock {
    /// What it says.
    pub now: SystemTime,
    /// When this program was built or installed: it cannot be earlier.
    pub program: Known<SystemTime>,
    /// What the kernel counts by, such as `tsc`.
    pub source: Known<String>,
}

/// The inode of the first name space of process ids is the same on every host (linux/proc_ns.h).
const FIRST_PIDS: &str = "pid:[4026531836]";

impl Host {
    /// Reads and asks everything. What cannot be found out is said in its place.
    pub fn read() -> Self {
        let (ours, theirs) = mount_tables();
        Self {
            kernel: text("/proc/sys/kernel/osrelease"),
            user: rustix::process::geteuid().as_raw(),
            capabilities: proc().and_then(|()| {
                let status = read("/proc/self/status")?;
                Capabilities::parse(&status).map_err(|error| error.to_string())
            }),
            users: users(),
            limits: Limits::read(&ours),
            ours,
            theirs,
            probes: Probes::ask(),
            clock: Clock {
                now: SystemTime::now(),
                program: fs::metadata("/proc/self/exe")
                    .and_then(|metadata| metadata.modified())
                    .map_err(|error| refused("/proc/self/exe", error)),
                source: text("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            },
        }
    }
}

impl Host {
    /// Whether no permission of any file can keep this process from reading it, as far as is known.
    pub fn reads_everything(&self) -> bool {
        let held = |sets: &Capabilities| {
            sets.effective.has(Capability::DAC_READ_SEARCH) || sets.effective.has(Capability::DAC_OVERRIDE)
        };
        self.users == Ok(Namespace::Host) && self.capabilities.as_ref().is_ok_and(held)
    }
}

/// Whether there is a `/proc` of the kernel's: anything else there could say what it likes.
fn proc() -> Known<()> {
    match statfs("/proc") {
        Ok(found) if found.f_type == PROC_SUPER_MAGIC => Ok(()),
        Ok(_) => Err("/proc is not mounted".to_owned()),
        Err(error) => Err(format!("/proc: {}", probe::words(error))),
    }
}

fn refused(path: impl AsRef<Path>, error: io::Error) -> String {
    format!("{}: {}", path.as_ref().display(), probe::words(error))
}

fn read(path: &str) -> Known<Vec<u8>> {
    fs::read(path).map_err(|error| refused(path, error))
}

fn text(path: &str) -> Known<String> {
    let text = fs::read_to_string(path).map_err(|error| refused(path, error))?;
    Ok(text.trim().to_owned())
}

/// The mount table in a file of `/proc`, if that is the kernel's.
pub fn mount_table(path: &str) -> Known<Vec<Mount>> {
    proc()?;
    table(path)
}

fn table(path: &str) -> Known<Vec<Mount>> {
    mountinfo::parse(&read(path)?).map_err(|error| format!("{path}: {error}"))
}

/// The mount tables of this process and of PID 1, as they were at one moment.
fn mount_tables() -> (Known<Vec<Mount>>, Known<Vec<Mount>>) {
    /// A host that mounts something all the time must not keep this going.
    const TRIES: usize = 5;
    if let Err(why) = proc() {
        return (Err(why.clone()), Err(why));
    }
    let own = || table("/proc/self/mountinfo");
    let mut ours = own();
    for _ in 0..TRIES {
        let theirs = first_mounts();
        let again = own();
        if again == ours {
            return (ours, theirs);
        }
        ours = again;
    }
    (ours, Err("mounts come and go all the time".to_owned()))
}

fn first_mounts() -> Known<Vec<Mount>> {
    let own = fs::read_link("/proc/self/ns/pid").map_err(|error| refused("/proc/self/ns/pid", error))?;
    if own != Path::new(FIRST_PIDS) {
        return Err("this process is in a name space of process ids: PID 1 there is not the host's".to_owned());
    }
    table("/proc/1/mountinfo")
}

fn users() -> Known<Namespace> {
    proc()?;
    let map = text("/proc/self/uid_map")?;
    let whole = map.split_whitespace().eq(["0", "0", "4294967295"]);
    Ok(if whole { Namespace::Host } else { Namespace::Own })
}
