//! Owns comparing what two mount tables show below a path: the agent's own and that of PID 1. Must not own reading them,
//! or what a difference costs.
//!
//! Not the mounts are compared but where the files come from: a part of the same file system that is mounted again, to be
//! read-only for example, shows the same files.

use std::collections::BTreeSet;

use super::file_system::Kind;
use super::mountinfo::{Mount, containing, relative, visible};

/// A place where one table shows other files than the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Absolute.
    pub point: Vec<u8>,
    /// What is mounted there for this process: the mount in which the place lies.
    pub ours: Option<Mount>,
    /// The same for PID 1.
    pub theirs: Option<Mount>,
    /// The setting of a systemd unit that makes just this.
    pub cause: Cause,
}

/// What makes such a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A setting of a systemd unit, as it is spelled there.
    Unit(&'static str),
    /// The process has another root directory: a container, or `chroot`.
    Root,
    /// Mounted for PID 1 only, since this process got a mount table of its own that nothing is passed on to.
    NotPassedOn,
}

/// Where systemd mounts what concerns itself, in the table of a unit that has one of its own.
const OF_SYSTEMD: [&[u8]; 2] = [b"/run/systemd", b"/run/credentials"];

/// Everywhere at and below `root` where other files are seen, in order; nothing below a place that is listed already.
pub fn differences(ours: &[Mount], theirs: &[Mount], root: &[u8]) -> Vec<Difference> {
    let (ours, theirs) = (visible(ours), visible(theirs));
    let below = ours.iter().chain(&theirs).filter(|mount| relative(&mount.point, root).is_some());
    let mut points: Vec<&[u8]> =
        below.map(|mount| mount.point.as_slice()).collect::<BTreeSet<_>>().into_iter().collect();
    points.insert(0, root);
    points.sort_by(|a, b| driftlock_common::path::compare_paths(&a[1..], &b[1..]));
    points.dedup();
    let mut found: Vec<Difference> = Vec::new();
    for point in points {
        let (our, their) = (containing(&ours, point), containing(&theirs, point));
        if our.map(|mount| origin(mount, point)) == their.map(|mount| origin(mount, point))
            || harmless(point, our, their)
        {
            continue;
        }
        if found.last().is_some_and(|last| relative(point, &last.point).is_some()) {
            continue;
        }
        let (ours, theirs) = (our.cloned(), their.cloned());
        found.push(Difference { point: point.to_vec(), cause: cause(our, their), ours, theirs });
    }
    found
}

/// Where the file at `point` comes from: device, and path within the file system.
fn origin(mount: &Mount, point: &[u8]) -> ((u32, u32), Vec<u8>) {
    let mut path = mount.root.clone();
    let below = relative(point, &mount.point).unwrap_or_default();
    if !below.is_empty() {
        if !path.ends_with(b"/") {
            path.push(b'/');
        }
        path.extend_from_slice(below);
    }
    (mount.device, path)
}

/// Where there are no files to be missed: the kernel's own, and systemd's.
fn harmless(point: &[u8], ours: Option<&Mount>, theirs: Option<&Mount>) -> bool {
    let kernel = |mount: &Mount| Kind::of(&mount.fs_type) == Kind::Kernel;
    // What hides a part of the kernel's own hides no file; what the kernel's own hides, does.
    theirs.is_some_and(kernel) || OF_SYSTEMD.iter().any(|top| relative(point, top).is_some()) && ours.is_some()
}

fn cause(ours: Option<&Mount>, theirs: Option<&Mount>) -> Cause {
    let Some(ours) = ours else { return Cause::Root };
    let point = ours.point.as_slice();
    if theirs.is_some_and(|mount| mount.point != point && relative(&mount.point, point).is_some()) {
        return Cause::NotPassedOn;
    }
    if point == b"/" {
        return Cause::Root;
    }
    let at_home = matches!(point, b"/home" | b"/root" | b"/run/user");
    let inaccessible = ours.root.windows(21).any(|part| part == b"/systemd/inaccessible");
    match point {
        _ if inaccessible && at_home => Cause::Unit("ProtectHome="),
        b"/usr/lib/modules" | b"/lib/modules" if inaccessible => Cause::Unit("ProtectKernelModules="),
        b"/dev/kmsg" if inaccessible => Cause::Unit("ProtectKernelLogs="),
        _ if inaccessible => Cause::Unit("InaccessiblePaths="),
        b"/tmp" | b"/var/tmp" if ours.root.windows(17).any(|part| part == b"/systemd-private-") => {
            Cause::Unit("PrivateTmp=")
        }
        b"/tmp" | b"/var/tmp" if ours.fs_type == b"tmpfs" => Cause::Unit("PrivateTmp= or TemporaryFileSystem="),
        b"/dev" if ours.fs_type == b"tmpfs" => Cause::Unit("PrivateDevices="),
        _ if ours.fs_type == b"tmpfs" && at_home => Cause::Unit("ProtectHome= or TemporaryFileSystem="),
        _ if ours.fs_type == b"tmpfs" && ours.root == b"/" => Cause::Unit("TemporaryFileSystem="),
        _ => Cause::Unit("BindPaths= or BindReadOnlyPaths="),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::mountinfo::parse;

    const FIRST: &str = "27 1 254:0 / / rw - ext4 /dev/vda1 rw\n\
        22 27 0:21 / /proc rw - proc proc rw\n\
        24 27 0:6 / /dev rw - devtmpfs udev rw\n\
        25 24 0:24 / /dev/pts rw - devpts devpts rw\n\
        26 27 0:25 / /run rw - tmpfs tmpfs rw\n\
        28 27 254:1 / /home rw - ext4 /dev/vda2 rw\n\
        29 28 0:50 / /home/ann/remote rw - nfs4 server:/ann rw\n\
        30 27 254:2 / /srv rw - xfs /dev/vdb rw\n";

    /// What `lines` beside [`FIRST`] make of it, as `point: cause`.
    fn compared(lines: &str, root: &str) -> Vec<String> {
        let ours = parse(format!("{FIRST}{lines}").as_bytes()).unwrap();
        shown(&differences(&ours, &parse(FIRST.as_bytes()).unwrap(), root.as_bytes()))
    }

    fn shown(found: &[Difference]) -> Vec<String> {
        let row =
            |difference: &Difference| format!("{}: {:?}", String::from_utf8_lossy(&difference.point), difference.cause);
        found.iter().map(row).collect()
    }

    #[test]
    fn what_a_unit_hides_is_found_and_named() {
        for (lines, expected) in [
            ("", vec![]),
            // ProtectSystem=strict and its exceptions, ProtectKernelTunables=, ProtectControlGroups=.
            ("60 27 254:0 /usr /usr ro - ext4 /dev/vda1 rw\n", vec![]),
            ("60 27 254:0 /var/lib/x /var/lib/x rw - ext4 /dev/vda1 rw\n", vec![]),
            ("60 30 254:2 /a /srv/a ro - xfs /dev/vdb rw\n", vec![]),
            ("60 22 0:21 /sys /proc/sys ro - proc proc rw\n", vec![]),
            ("60 22 0:25 /systemd/inaccessible/reg /proc/kallsyms ro - tmpfs tmpfs rw\n", vec![]),
            // ProtectProc=, and systemd's own.
            ("60 22 0:90 / /proc rw - proc proc rw,hidepid=invisible\n", vec![]),
            ("60 26 0:25 /systemd/propagate/x.service /run/systemd/incoming ro - tmpfs tmpfs rw\n", vec![]),
            ("60 26 0:91 / /run/credentials/x.service ro - ramfs ramfs rw\n", vec![]),
            (
                "60 27 254:0 /tmp/systemd-private-1-x.service-2/tmp /tmp rw - ext4 /dev/vda1 rw\n",
                vec!["/tmp: Unit(\"PrivateTmp=\")"],
            ),
            ("60 27 0:91 / /tmp rw - tmpfs tmpfs rw\n", vec!["/tmp: Unit(\"PrivateTmp= or TemporaryFileSystem=\")"]),
            // What PID 1 has mounted below is told once.
            ("60 28 0:25 /systemd/inaccessible/dir /home ro - tmpfs tmpfs rw\n", vec!["/home: Unit(\"ProtectHome=\")"]),
            ("60 28 0:91 / /home ro - tmpfs tmpfs rw\n", vec!["/home: Unit(\"ProtectHome= or TemporaryFileSystem=\")"]),
            ("60 24 0:91 / /dev rw - tmpfs tmpfs rw\n", vec!["/dev: Unit(\"PrivateDevices=\")"]),
            (
                "60 27 0:25 /systemd/inaccessible/dir /opt/x ro - tmpfs tmpfs rw\n",
                vec!["/opt/x: Unit(\"InaccessiblePaths=\")"],
            ),
            (
                "60 27 0:25 /systemd/inaccessible/dir /usr/lib/modules ro - tmpfs tmpfs rw\n",
                vec!["/usr/lib/modules: Unit(\"ProtectKernelModules=\")"],
            ),
            (
                "60 27 254:0 /other /opt rw - ext4 /dev/vda1 rw\n",
                vec!["/opt: Unit(\"BindPaths= or BindReadOnlyPaths=\")"],
            ),
            // The kernel's own in the way of files.
            ("60 30 0:90 / /srv/x rw - proc proc rw\n", vec!["/srv/x: Unit(\"BindPaths= or BindReadOnlyPaths=\")"]),
        ] {
            assert_eq!(compared(lines, "/"), expected, "{lines}");
        }
    }

    #[test]
    fn what_is_seen_the_same_below_a_difference_is_no_difference() {
        let lines = "60 30 0:91 / /srv ro - tmpfs tmpfs rw\n61 60 254:2 /app /srv/app rw - xfs /dev/vdb rw\n";
        assert_eq!(compared(lines, "/"), ["/srv: Unit(\"TemporaryFileSystem=\")"]);
        assert_eq!(compared(lines, "/srv/app"), [""; 0]);
        assert_eq!(compared(lines, "/srv/application"), ["/srv/application: Unit(\"TemporaryFileSystem=\")"]);
        assert_eq!(compared(lines, "/var"), [""; 0]);
    }

    #[test]
    fn what_only_pid_1_has_is_a_difference() {
        let ours: String =
            FIRST.lines().filter(|line| !line.contains("/home")).map(|line| format!("{line}\n")).collect();
        let (ours, theirs) = (parse(ours.as_bytes()).unwrap(), parse(FIRST.as_bytes()).unwrap());
        assert_eq!(shown(&differences(&ours, &theirs, b"/")), ["/home: NotPassedOn"]);
        assert_eq!(shown(&differences(&ours, &theirs, b"/home/ann/remote")), ["/home/ann/remote: NotPassedOn"]);
    }

    #[test]
    fn another_root_is_one_difference() {
        let theirs = parse(FIRST.as_bytes()).unwrap();
        let container =
            parse(b"90 80 0:60 / / rw - overlay overlay rw\n91 90 0:61 / /proc rw - proc proc rw\n").unwrap();
        assert_eq!(shown(&differences(&container, &theirs, b"/")), ["/: Root"]);
        // Below a directory that is no mount point there is nothing at the root itself.
        let chroot = parse(b"91 27 0:61 / /proc rw - proc proc rw\n").unwrap();
        assert_eq!(shown(&differences(&chroot, &theirs, b"/")), ["/: Root"]);
    }
}
