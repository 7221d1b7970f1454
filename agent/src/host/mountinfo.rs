//! Owns reading a mount table as `/proc/PID/mountinfo` has it (proc_pid_mountinfo(5)): lines to [`Mount`]s, and which of
//! them a path can reach. Must not own opening the file, or judging what a mount means.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};

use driftlock_common::path::{PathError, TreePath, compare_paths};

/// One mount. Names are raw bytes, their octal escapes resolved.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mount {
    /// Unique among the mounts of one moment; a later mount may get it again.
    pub id: u64,
    /// The mount on which this one lies. It is not in the table for the mount of `/`, or if it is out of reach.
    pub parent: u64,
    /// Major and minor number of the file system's device.
    pub device: (u32, u32),
    /// Which part of the file system is mounted: `/`, or the path of a bind mount's origin. Some file systems write
    /// something else, such as `mnt:[4026531841]`.
    pub root: Vec<u8>,
    /// Where, seen from the process whose table it is: absolute.
    pub point: Vec<u8>,
    /// The mount's own options, as written: `rw,nosuid`.
    pub options: Vec<u8>,
    /// Such as `ext4` or `fuse.sshfs`.
    pub fs_type: Vec<u8>,
    /// What was mounted; may be empty.
    pub source: Vec<u8>,
    /// The file system's options, as written, escapes included: each file system has its own.
    pub super_options: Vec<u8>,
}

/// A line that is not a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the mount table: {problem}")]
pub struct MountinfoError {
    /// From 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What a line lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// It ends too early.
    #[error("it has no {0}")]
    Missing(&'static str),
    /// A number is none.
    #[error("its {0} is not a number")]
    Number(&'static str),
    /// The mount point is relative.
    #[error("its mount point does not begin with a slash")]
    Relative,
}

/// Reads a whole table, in its order.
///
/// # Errors
/// At the first line that is not a mount. Part of a table is worth nothing: what is missing would pass for not mounted.
pub fn parse(table: &[u8]) -> Result<Vec<Mount>, MountinfoError> {
    let lines = table.strip_suffix(b"\n").unwrap_or(table);
    if lines.is_empty() {
        return Ok(Vec::new());
    }
    let numbered = lines.split(|byte| *byte == b'\n').enumerate();
    numbered.map(|(index, line)| mount(line).map_err(|problem| MountinfoError { line: index + 1, problem })).collect()
}

/// The mounts that a path lookup can end in: not covered by another mount, neither themselves nor on their way.
/// In order of their mount points, at most one for each.
pub fn visible(mounts: &[Mount]) -> Vec<&Mount> {
    let mut children: BTreeMap<u64, Vec<&Mount>> = BTreeMap::new();
    for mount in mounts.iter().filter(|mount| mount.parent != mount.id) {
        children.entry(mount.parent).or_default().push(mount);
    }
    let listed: BTreeMap<u64, &Mount> = mounts.iter().map(|mount| (mount.id, mount)).collect();
    let mut found = Vec::new();
    // What lies on no listed mount is where a lookup begins: the mount of `/`, or mounts below a root that is none.
    let outside = children.iter().filter(|(parent, _)| !listed.contains_key(parent)).map(|(parent, _)| *parent);
    let mut waiting: VecDeque<&Mount> =
        outside.collect::<Vec<_>>().into_iter().flat_map(|parent| uncovered(children.remove(&parent))).collect();
    waiting.extend(mounts.iter().filter(|mount| mount.parent == mount.id));
    while let Some(mount) = waiting.pop_front() {
        // Taken out, so that a table with a circle of parents ends too.
        let above = uncovered(children.remove(&mount.id));
        if !above.iter().any(|child| child.point == mount.point) {
            found.push(mount);
        }
        waiting.extend(above);
    }
    found.sort_by(|a, b| by_point(a, b));
    found.dedup_by(|later, earlier| later.point == earlier.point);
    found
}

/// The mount in which the absolute path `path` lies, which must hold no link: the innermost of [`visible`] ones.
pub fn containing<'a>(visible: &[&'a Mount], path: &[u8]) -> Option<&'a Mount> {
    visible.iter().rev().find(|mount| relative(path, &mount.point).is_some()).copied()
}

/// Where other file systems begin below the absolute path `root`, which must hold no link: the mount points of
/// [`visible`] mounts, relative to it and in order. The root itself is not among them.
///
/// # Errors
/// If a mount point is no path in a tree: too deep, too long. A list without it would be wrong.
pub fn points_below(mounts: &[Mount], root: &[u8]) -> Result<Vec<TreePath>, PathError> {
    let below = visible(mounts).into_iter().filter_map(|mount| relative(&mount.point, root));
    below.filter(|path| !path.is_empty()).map(TreePath::new).collect()
}

/// Those of the mounts on one parent that no other of them covers. One on the parent's own root covers all others.
fn uncovered(siblings: Option<Vec<&Mount>>) -> Vec<&Mount> {
    let mut siblings = siblings.unwrap_or_default();
    // Stable: of several at one point the last in the table stays, being the one mounted last.
    siblings.reverse();
    siblings.sort_by(|a, b| by_point(a, b));
    let mut top: Vec<&Mount> = Vec::with_capacity(siblings.len());
    for mount in siblings {
        // In this order all that lies below a point follows it directly.
        if top.last().is_none_or(|cover| relative(&mount.point, &cover.point).is_none()) {
            top.push(mount);
        }
    }
    top
}

fn by_point(a: &Mount, b: &Mount) -> Ordering {
    compare_paths(&a.point[1..], &b.point[1..])
}

/// `path` below `root`, both absolute; empty if they are the same, `None` if it lies elsewhere.
pub(crate) fn relative<'a>(path: &'a [u8], root: &[u8]) -> Option<&'a [u8]> {
    let mut root = root;
    while let Some(shorter) = root.strip_suffix(b"/") {
        root = shorter;
    }
    match path.strip_prefix(root)? {
        b"" | b"/" => Some(b""),
        rest => rest.strip_prefix(b"/"),
    }
}

fn mount(line: &[u8]) -> Result<Mount, Problem> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut next = |name| fields.next().ok_or(Problem::Missing(name));
    let id = number(next("mount id")?, "mount id")?;
    let parent = number(next("parent id")?, "parent id")?;
    let device = next("device")?;
    let colon = device.iter().position(|byte| *byte == b':').ok_or(Problem::Number("device"))?;
    let device = (number(&device[..colon], "device")?, number(&device[colon + 1..], "device")?);
    let root = unescape(next("root")?);
    let point = unescape(next("mount point")?);
    if !point.starts_with(b"/") {
        return Err(Problem::Relative);
    }
    let options = next("mount options")?.to_vec();
    // Any number of optional fields, ended by a hyphen. Unknown ones are to be ignored.
    while next("hyphen before the file system's type")? != b"-" {}
    let fs_type = unescape(next("file system type")?);
    let source = unescape(next("source")?);
    // Not every file system escapes the spaces in its options.
    let rest: Vec<&[u8]> = fields.collect();
    if rest.is_empty() {
        return Err(Problem::Missing("options of the file system"));
    }
    let super_options = rest.join(&b' ');
    Ok(Mount { id, parent, device, root, point, options, fs_type, source, super_options })
}

fn number<N: std::str::FromStr>(field: &[u8], name: &'static str) -> Result<N, Problem> {
    // The parser of the language would take a sign.
    let digits = field.first().is_some_and(u8::is_ascii_digit).then_some(field);
    digits
        .and_then(|field| std::str::from_utf8(field).ok())
        .and_then(|text| text.parse().ok())
        .ok_or(Problem::Number(name))
}

/// Three octal digits after a backslash are a byte; any other backslash is one.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        match (first, after) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use driftlock_common::path::Escaped;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// As the kernel's `mangle` writes a name.
    fn mangle(name: &[u8]) -> Vec<u8> {
        let escape = |byte: &u8| match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => format!("\\{byte:03o}").into_bytes(),
            _ => vec![*byte],
        };
        name.iter().flat_map(escape).collect()
    }

    fn line(mount: &Mount) -> Vec<u8> {
        let (major, minor) = mount.device;
        let head = format!("{} {} {major}:{minor}", mount.id, mount.parent).into_bytes();
        let fields: [&[u8]; 9] = [
            &head,
            &mangle(&mount.root),
            &mangle(&mount.point),
            &mount.options,
            b"shared:7 master:1",
            b"-",
            &mangle(&mount.fs_type),
            &mangle(&mount.source),
            &mount.super_options,
        ];
        fields.join(&b' ')
    }

    fn at(id: u64, parent: u64, point: &str) -> Mount {
        Mount {
            id,
            parent,
            device: (0, 40),
            root: b"/".to_vec(),
            point: point.into(),
            options: b"rw".to_vec(),
            fs_type: b"tmpfs".to_vec(),
            source: b"none".to_vec(),
            super_options: b"rw,size=1k".to_vec(),
        }
    }

    #[test]
    fn lines_as_the_kernel_writes_them() {
        let plain = at(36, 35, "/mnt");
        for (line, expected) in [
            (&b"36 35 0:40 / /mnt rw - tmpfs none rw,size=1k"[..], plain.clone()),
            (b"36 35 0:40 / /mnt rw shared:1 master:2 unbindable new - tmpfs none rw,size=1k", plain.clone()),
            (b"36 35 0:40 / /mnt rw - tmpfs  rw,size=1k", Mount { source: Vec::new(), ..plain.clone() }),
            (
                b"36 35 0:4 mnt:[4026531841] /run/ns rw - nsfs nsfs rw",
                Mount {
                    device: (0, 4),
                    root: b"mnt:[4026531841]".to_vec(),
                    point: b"/run/ns".to_vec(),
                    fs_type: b"nsfs".to_vec(),
                    source: b"nsfs".to_vec(),
                    super_options: b"rw".to_vec(),
                    ..plain.clone()
                },
            ),
            (
                b"36 35 0:40 /x//deleted /mnt\\040a\\011\\012\\134b\xff rw - fuse.a\\040b a\\043b rw,x=a b",
                Mount {
                    root: b"/x//deleted".to_vec(),
                    point: b"/mnt a\t\n\\b\xff".to_vec(),
                    fs_type: b"fuse.a b".to_vec(),
                    source: b"a#b".to_vec(),
                    super_options: b"rw,x=a b".to_vec(),
                    ..plain.clone()
                },
            ),
            // Not an escape: too large for a byte, too short, no octal digits.
            (
                b"36 35 0:40 / /\\400\\04\\xyz\\ rw - tmpfs none rw,size=1k",
                Mount { point: b"/\\400\\04\\xyz\\".to_vec(), ..plain.clone() },
            ),
        ] {
            assert_eq!(parse(line), Ok(vec![expected]), "{}", Escaped(line));
        }
        assert_eq!(parse(b""), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_mount_is_refused_with_its_line() {
        for (line, problem) in [
            (&b""[..], Problem::Number("mount id")),
            (b"36", Problem::Missing("parent id")),
            (b"36 35", Problem::Missing("device")),
            (b"36 35 0:40", Problem::Missing("root")),
            (b"36 35 0:40 /", Problem::Missing("mount point")),
            (b"36 35 0:40 / /mnt", Problem::Missing("mount options")),
            (b"36 35 0:40 / /mnt rw", Problem::Missing("hyphen before the file system's type")),
            (b"36 35 0:40 / /mnt rw shared:1", Problem::Missing("hyphen before the file system's type")),
            (b"36 35 0:40 / /mnt rw -", Problem::Missing("file system type")),
            (b"36 35 0:40 / /mnt rw - tmpfs", Problem::Missing("source")),
            (b"36 35 0:40 / /mnt rw - tmpfs none", Problem::Missing("options of the file system")),
            (b"+36 35 0:40 / /mnt rw - tmpfs none rw", Problem::Number("mount id")),
            (b"36 -1 0:40 / /mnt rw - tmpfs none rw", Problem::Number("parent id")),
            (b"36 35 040 / /mnt rw - tmpfs none rw", Problem::Number("device")),
            (b"36 35 0:4294967296 / /mnt rw - tmpfs none rw", Problem::Number("device")),
            (b"36 35 0:40 / mnt rw - tmpfs none rw", Problem::Relative),
        ] {
            let table = [b"1 1 0:1 / / rw - rootfs rootfs rw\n", line, b"\n"].concat();
            assert_eq!(parse(&table), Err(MountinfoError { line: 2, problem }), "{}", Escaped(line));
        }
    }

    #[test]
    fn only_what_a_path_can_reach_is_visible() {
        for (name, mounts, expected) in [
            ("a plain table", vec![at(2, 1, "/"), at(3, 2, "/b"), at(4, 2, "/a"), at(5, 4, "/a/x")], vec![2, 4, 5, 3]),
            ("the root is its own parent", vec![at(1, 1, "/"), at(2, 1, "/a")], vec![1, 2]),
            ("mounted over", vec![at(2, 1, "/"), at(3, 2, "/a"), at(4, 3, "/a")], vec![2, 4]),
            ("mounted over, with mounts below", vec![at(2, 1, "/"), at(3, 2, "/a/b"), at(4, 2, "/a")], vec![2, 4]),
            (
                "what lies on a covered mount",
                vec![at(2, 1, "/"), at(3, 2, "/a/b"), at(5, 3, "/a/b/c"), at(4, 2, "/a")],
                vec![2, 4],
            ),
            ("mounted over the root", vec![at(2, 1, "/"), at(3, 2, "/a"), at(4, 2, "/")], vec![4]),
            ("a prefix of the name is no parent", vec![at(2, 1, "/"), at(3, 2, "/a"), at(4, 2, "/ab")], vec![2, 3, 4]),
            ("two at one point", vec![at(2, 1, "/"), at(3, 2, "/a"), at(4, 2, "/a")], vec![2, 4]),
            ("no mount of the root", vec![at(3, 2, "/a"), at(4, 2, "/b"), at(5, 4, "/b/c")], vec![3, 4, 5]),
            ("a circle", vec![at(2, 3, "/a"), at(3, 2, "/a/b")], vec![]),
        ] {
            let ids: Vec<u64> = visible(&mounts).iter().map(|mount| mount.id).collect();
            assert_eq!(ids, expected, "{name}");
        }
    }

    #[test]
    fn mount_points_below_a_root_are_paths_of_its_tree() {
        let mounts = [
            at(2, 1, "/"),
            at(3, 2, "/srv/app"),
            at(4, 3, "/srv/app/var/log"),
            at(5, 3, "/srv/app/var/hidden/deep"),
            at(6, 3, "/srv/app/var/hidden"),
            at(7, 2, "/srv/application"),
        ];
        let below = |root: &str| -> Vec<String> {
            points_below(&mounts, root.as_bytes()).unwrap().iter().map(|path| path.escaped().to_string()).collect()
        };
        assert_eq!(below("/srv/app"), ["var/hidden", "var/log"]);
        assert_eq!(below("/srv/app/"), ["var/hidden", "var/log"]);
        assert_eq!(below("/srv/app/var"), ["hidden", "log"]);
        assert_eq!(below("/srv/app/var/log"), [""; 0]);
        let all = ["srv/app", "srv/app/var/hidden", "srv/app/var/log", "srv/application"];
        assert_eq!(below("/"), all);
        let visible = visible(&mounts);
        let point = |path: &str| containing(&visible, path.as_bytes()).map(|mount| mount.id);
        assert_eq!(point("/srv/app/var/log/x"), Some(4));
        assert_eq!(point("/srv/app"), Some(3));
        assert_eq!(point("/srv/appendix"), Some(2));
        let deep = format!("/{}", vec!["d"; 3000].join("/"));
        assert_eq!(points_below(&[at(2, 1, "/"), at(3, 2, &deep)], b"/"), Err(PathError::TooDeep));
    }

    /// The rule itself, without regard to time: a lookup goes down from the root, by each component into what is
    /// mounted there last.
    fn ends_in<'a>(mounts: &'a [Mount], path: &[u8]) -> Option<&'a Mount> {
        let settle = |mut current: Option<&'a Mount>, outside: u64, point: &[u8]| loop {
            let parent = current.map_or(outside, |mount| mount.id);
            match mounts.iter().rfind(|mount| mount.parent == parent && mount.point == point) {
                Some(next) => current = Some(next),
                None => return current,
            }
        };
        let mut current = settle(None, 0, b"/");
        for end in (1..=path.len()).filter(|end| path.get(*end).is_none_or(|byte| *byte == b'/')) {
            current = settle(current, 0, &path[..end]);
        }
        current
    }

    proptest! {
        #[test]
        fn what_the_kernel_writes_is_read_back(
            names in vec(vec(1..=u8::MAX, 0..20), 4),
            numbers in any::<(u64, u64, u32, u32)>(),
            options in "[a-z=,]{1,10}",
        ) {
            let [root, mut point, fs_type, source] = <[Vec<u8>; 4]>::try_from(names).unwrap();
            point.insert(0, b'/');
            let (id, parent, major, minor) = numbers;
            let (options, super_options) = (options.clone().into_bytes(), options.into_bytes());
            let mount = Mount { id, parent, device: (major, minor), root, point, options, fs_type, source, super_options };
            let table = [line(&mount), line(&mount), Vec::new()].join(&b'\n');
            prop_assert_eq!(parse(&table), Ok(vec![mount.clone(), mount]));
        }

        #[test]
        fn no_bytes_break_it(table in vec(prop_oneof![Just(b' '), Just(b'\n'), Just(b'/'), Just(b'\\'), Just(b'-'), b'0'..=b'9', any::<u8>()], 0..200)) {
            if let Ok(mounts) = parse(&table) {
                prop_assert!(visible(&mounts).len() <= mounts.len());
            }
        }

        /// Mounted one after the other, each where a lookup of its point ends at that time.
        #[test]
        fn a_mount_is_visible_where_a_lookup_ends_in_it(points in vec("(/[ab]){1,3}|/", 1..12)) {
            let mut mounts = vec![at(1, 0, "/")];
            for (id, point) in (2..).zip(&points) {
                let parent = ends_in(&mounts, point.as_bytes()).map_or(0, |mount| mount.id);
                mounts.push(at(id, parent, point));
            }
            let seen = visible(&mounts);
            for mount in &mounts {
                let reached = ends_in(&mounts, &mount.point) == Some(mount);
                prop_assert_eq!(seen.contains(&mount), reached, "{:?} of {:?}", mount, mounts);
            }
        }
    }
}
