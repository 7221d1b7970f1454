//! Owns the limits that the kernel sets a process: inotify's, open files, the memory of its control group. Must not own
//! what is enough.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

use super::mountinfo::{Mount, relative, visible};
use super::{Known, read, refused};

/// The limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// `fs.inotify.max_user_watches`, or `user.max_inotify_watches` of this user name space if that is less: for all
    /// programs of a user together.
    pub watches: Known<u64>,
    /// `fs.inotify.max_user_instances`, or `user.max_inotify_instances`: as above.
    pub instances: Known<u64>,
    /// `RLIMIT_NOFILE`, the soft one; `None` is no limit.
    pub files: Option<u64>,
    /// The least of what the process's control group and those above it allow, in bytes; `None` is no limit.
    pub memory: Known<Option<u64>>,
}

impl Limits {
    /// Those of this process. `mounts` is its mount table.
    pub fn read(mounts: &Known<Vec<Mount>>) -> Self {
        Self {
            watches: least("fs/inotify/max_user_watches", "user/max_inotify_watches"),
            instances: least("fs/inotify/max_user_instances", "user/max_inotify_instances"),
            files: getrlimit(Resource::Nofile).current,
            memory: memory(mounts),
        }
    }
}

/// The host's limit, or that of a user name space, which not every kernel has.
fn least(of_host: &str, of_users: &str) -> Known<u64> {
    let of_host = sysctl(of_host)?;
    Ok(sysctl(of_users).map_or(of_host, |of_users| of_host.min(of_users)))
}

fn sysctl(name: &str) -> Known<u64> {
    let path = Path::new("/proc/sys").join(name);
    number(&path)?.ok_or_else(|| format!("{} has no number", path.display()))
}

/// A file with one number; `max` is none.
fn number(path: &Path) -> Known<Option<u64>> {
    let text = fs::read_to_string(path).map_err(|error| refused(path, error))?;
    match text.trim() {
        "max" => Ok(None),
        digits => digits.parse().map(Some).map_err(|_| format!("{}: not a number", path.display())),
    }
}

fn memory(mounts: &Known<Vec<Mount>>) -> Known<Option<u64>> {
    let own = read("/proc/self/cgroup")?;
    let mounts = mounts.as_ref().map_err(Clone::clone)?;
    let groups = groups(&own, mounts);
    if groups.is_empty() {
        return Err("no control group that could limit it is mounted here".to_owned());
    }
    let mut least = None;
    for group in groups {
        for directory in group.directories() {
            for file in group.version.files() {
                let path = directory.join(file);
                // The top group of a hierarchy has no limits, and a controller need not be switched on.
                let limit = if path.exists() { number(&path)? } else { None };
                // Without a limit version 1 has the largest number of whole pages.
                let limit = limit.filter(|bytes| *bytes < u64::MAX / 2 - 64 * 1024);
                least = least.into_iter().chain(limit).min();
            }
        }
    }
    Ok(least)
}

/// Which interface a hierarchy of control groups has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl Version {
    const fn files(self) -> &'static [&'static str] {
        match self {
            Self::One => &["memory.limit_in_bytes"],
            Self::Two => &["memory.max", "memory.high"],
        }
    }
}

/// A control group of this process in a hierarchy that can limit memory.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    version: Version,
    /// Where the hierarchy is mounted.
    top: PathBuf,
    /// Below it; empty if the group is the top, or is out of sight of this process.
    below: PathBuf,
}

impl Group {
    /// The group's directory and those above it, whose limits count too.
    fn directories(&self) -> impl Iterator<Item = PathBuf> {
        self.below.ancestors().map(|below| self.top.join(below))
    }
}

/// Reads `/proc/self/cgroup` against the mount table.
fn groups(own: &[u8], mounts: &[Mount]) -> Vec<Group> {
    let visible = visible(mounts);
    let lines = own.split(|byte| *byte == b'\n');
    lines
        .filter_map(|line| {
            let mut fields = line.splitn(3, |byte| *byte == b':');
            let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
            let version = match controllers {
                b"" => Version::Two,
                names => names.split(|byte| *byte == b',').any(|name| name == b"memory").then_some(Version::One)?,
            };
            let mount = visible.iter().find(|mount| match version {
                Version::One => {
                    let mut options = mount.super_options.split(|byte| *byte == b',');
                    mount.fs_type == b"cgroup" && options.any(|option| option == b"memory")
                }
                Version::Two => mount.fs_type == b"cgroup2",
            })?;
            let as_path = |bytes: &[u8]| PathBuf::from(std::ffi::OsStr::from_bytes(bytes));
            let below = relative(path, &mount.root).unwrap_or_default();
            // A group outside of its own name space is written with dots.
            let below = if below.starts_with(b"..") { Vec::new() } else { below.to_vec() };
            Some(Group { version, top: as_path(&mount.point), below: as_path(&below) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::mountinfo::parse;

    const MOUNTS: &str = "27 1 254:0 / / rw - ext4 /dev/vda rw\n\
        31 27 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
        35 31 0:32 /docker /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        34 31 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

    #[test]
    fn groups_are_found_where_they_are_mounted() {
        let mounts = parse(MOUNTS.as_bytes()).unwrap();
        for (own, expected) in [
            ("4:memory:/docker/c0/x\n2:cpu,cpuacct:/a\n", vec![(Version::One, "/sys/fs/cgroup/memory", "c0/x")]),
            ("4:cpu,memory:/docker\n", vec![(Version::One, "/sys/fs/cgroup/memory", "")]),
            // Out of sight: only what is mounted can be read.
            ("4:memory:/elsewhere\n", vec![(Version::One, "/sys/fs/cgroup/memory", "")]),
            ("0::/system.slice/x.service\n", vec![(Version::Two, "/sys/fs/cgroup/unified", "system.slice/x.service")]),
            ("0::/../other\n", vec![(Version::Two, "/sys/fs/cgroup/unified", "")]),
            ("0::/\n", vec![(Version::Two, "/sys/fs/cgroup/unified", "")]),
            ("2:cpu:/a\n\n", vec![]),
        ] {
            let found = groups(own.as_bytes(), &mounts);
            let found: Vec<(Version, &str, &str)> = found
                .iter()
                .map(|group| (group.version, group.top.to_str().unwrap(), group.below.to_str().unwrap()))
                .collect();
            assert_eq!(found, expected, "{own:?}");
        }
        assert_eq!(groups(b"0::/\n", &[]), []);
    }

    #[test]
    fn every_group_up_to_the_mount_counts() {
        let group = Group { version: Version::Two, top: "/cg".into(), below: "a/b".into() };
        let directories: Vec<PathBuf> = group.directories().collect();
        assert_eq!(directories, [Path::new("/cg/a/b"), Path::new("/cg/a"), Path::new("/cg/")]);
    }

    #[test]
    fn files_of_one_number() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, expected) in [("8192\n", Some(Some(8192))), ("max\n", Some(None)), ("x\n", None), ("", None)] {
            fs::write(file.path(), text).unwrap();
            assert_eq!(number(file.path()).ok(), expected, "{text:?}");
        }
        assert!(number(Path::new("/nonexistent/x")).unwrap_err().contains("/nonexistent/x: No such file"));
    }

    #[test]
    fn this_process_has_limits() {
        let limits = Limits::read(&Err("no table".into()));
        assert!(limits.watches.is_ok() && limits.instances.is_ok(), "{limits:?}");
        // Without a mount table the control group cannot be found: not known, not unlimited.
        assert_eq!(limits.memory, Err("no table".into()));
    }
}
