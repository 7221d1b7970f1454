//! What became of a growing file, told by `explain`, against a directory that a simulated logrotate works in (the modes of
//! logrotate(8): create, copytruncate, compress, delaycompress, dateext) while a program writes. Then the same with one
//! thing cut.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::BTreeMap;

use driftlock_common::digest::Digest;
use driftlock_common::path::TreePath;
use driftlock_common::pattern::Pattern;
use driftlock_common::policy::rotation::{
    Beginning, Cut, Fate, Now, Packing, Remembered, Rotated, Sibling, Siblings, explain,
};
use driftlock_common::policy::{Allow, Policy, Rotation};
use proptest::prelude::*;

const LOG: &str = "app.log";

#[derive(Clone, Debug)]
struct File {
    inode: u64,
    bytes: Vec<u8>,
    modified: i64,
}

/// A directory. What is packed begins with a mark, behind which the bytes lie as they were.
#[derive(Clone, Debug, Default)]
struct Directory {
    files: BTreeMap<String, File>,
    next: u64,
    clock: i64,
}

const MARK: &[u8] = b"\x1f\x8bpacked";

#[derive(Clone, Copy, Debug)]
struct Mode {
    copy_truncate: bool,
    compress: bool,
    delay: bool,
    date: bool,
    keep: usize,
}

impl Directory {
    fn make(&mut self, name: &str, bytes: Vec<u8>) {
        self.next += 1;
        let file = File { inode: self.next, bytes, modified: self.clock };
        self.files.insert(name.to_owned(), file);
    }

    fn write(&mut self, line: &[u8]) {
        self.clock += 1;
        if !self.files.contains_key(LOG) {
            self.make(LOG, Vec::new());
        }
        let (file, clock) = (self.files.get_mut(LOG).unwrap(), self.clock);
        file.bytes.extend_from_slice(line);
        file.modified = clock;
    }

    fn rename(&mut self, from: &str, to: &str) {
        let file = self.files.remove(from).unwrap();
        self.files.insert(to.to_owned(), file);
    }

    /// A new file with the time of the old one, as logrotate and gzip leave it.
    fn pack(&mut self, name: &str) {
        let File { bytes, modified, .. } = self.files.remove(name).unwrap();
        self.next += 1;
        let packed = File { inode: self.next, bytes: [MARK, &bytes].concat(), modified };
        self.files.insert(format!("{name}.gz"), packed);
    }

    /// Oldest first.
    fn rotated(&self) -> Vec<String> {
        let mut names: Vec<String> = self.files.keys().filter(|name| *name != LOG).cloned().collect();
        names.sort_by_key(|name| self.files[name].modified);
        names
    }

    fn rotate(&mut self, mode: Mode, lost: &[u8]) {
        self.clock += 1;
        if !self.files.contains_key(LOG) {
            return;
        }
        let first = if mode.date { format!("app.log-{:08}", 20_260_000 + self.clock) } else { "app.log.1".to_owned() };
        if !mode.date {
            for number in (1..=mode.keep).rev() {
                for end in ["", ".gz"] {
                    let from = format!("app.log.{number}{end}");
                    if self.files.contains_key(&from) {
                        self.rename(&from, &format!("app.log.{}{end}", number + 1));
                    }
                }
            }
        }
        if mode.compress && mode.delay {
            let waiting: Vec<String> = self.rotated().into_iter().filter(|name| !name.ends_with(".gz")).collect();
            waiting.iter().for_each(|name| self.pack(name));
        }
        if mode.copy_truncate {
            let File { bytes, modified, .. } = self.files[LOG].clone();
            self.next += 1;
            self.files.insert(first.clone(), File { inode: self.next, bytes, modified });
            self.write(lost);
            self.files.get_mut(LOG).unwrap().bytes.clear();
        } else {
            self.rename(LOG, &first);
            self.make(LOG, Vec::new());
        }
        if mode.compress && !mode.delay {
            self.pack(&first);
        }
        let rotated = self.rotated();
        for name in &rotated[..rotated.len().saturating_sub(mode.keep)] {
            self.files.remove(name);
        }
    }

    fn remember(&self) -> BTreeMap<String, Remembered> {
        let remember = |(name, file): (&String, &File)| {
            let length = file.bytes.len() as u64;
            let prefix = Digest::blake3(&file.bytes);
            let (inode, modified) = (file.inode, file.modified);
            (name.clone(), Remembered { inode, length, prefix, seen: length, modified })
        };
        self.files.iter().map(remember).collect()
    }

    /// What became of each file that was there.
    fn fates(&self, then: &BTreeMap<String, Remembered>, rotation: &Rotation) -> BTreeMap<String, Fate> {
        let fate = |(name, old): (&String, &Remembered)| {
            let now = self.files.get(name).map(|file| Now {
                inode: file.inode,
                length: file.bytes.len() as u64,
                prefix: file.bytes.get(..usize::try_from(old.length).unwrap()).map(Digest::blake3),
            });
            let mut siblings = Beside { directory: self, itself: name };
            let path = TreePath::new(name.as_str()).unwrap();
            (name.clone(), explain(&path, old, now.as_ref(), rotation, &mut siblings))
        };
        then.iter().map(fate).collect()
    }
}

struct Beside<'a> {
    directory: &'a Directory,
    itself: &'a str,
}

fn beginning(bytes: &[u8], length: u64) -> Option<Beginning> {
    let first = bytes.get(..usize::try_from(length).ok()?)?;
    Some(Beginning { digest: Digest::blake3(first), length: bytes.len() as u64 })
}

impl Siblings for Beside<'_> {
    fn named(&mut self, names: &[Pattern]) -> Vec<Sibling> {
        let all = self.directory.files.iter().filter(|(name, _)| *name != self.itself);
        let siblings = all.map(|(name, file)| Sibling {
            name: TreePath::new(name.as_str()).unwrap(),
            inode: file.inode,
            length: file.bytes.len() as u64,
            modified: file.modified,
        });
        siblings.filter(|sibling| names.iter().any(|pattern| pattern.matches(&sibling.name))).collect()
    }

    fn beginning(&mut self, sibling: &Sibling, length: u64) -> Option<Beginning> {
        beginning(&self.directory.files[&sibling.name.escaped().to_string()].bytes, length)
    }

    fn unpacked(&mut self, sibling: &Sibling, length: u64) -> Option<(Packing, Beginning)> {
        let bytes = &self.directory.files[&sibling.name.escaped().to_string()].bytes;
        Some((Packing::Gzip, beginning(bytes.strip_prefix(MARK)?, length)?))
    }
}

/// As a policy says it.
fn rotation(mode: Mode) -> Rotation {
    let names = if mode.date {
        "['app.log-*', 'app.log-*.gz']".to_owned()
    } else {
        format!("['app.log.{{1..{0}}}', 'app.log.{{1..{0}}}.gz']", mode.keep)
    };
    let text = format!(
        "version = 1\nname = 'p'\n[[rule]]\nid = 'logs'\nreason = 'x'\npath = '{LOG}'\nallow = 'append'\nrotate = {names}\nkeep = {}\n",
        mode.keep
    );
    let policy = Policy::parse(text.as_bytes()).unwrap();
    let Allow::Append(rotation) = &policy.rules()[0].allow else { panic!() };
    rotation.clone()
}

fn modes() -> impl Strategy<Value = Mode> {
    (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), 1..5_usize)
        .prop_map(|(copy_truncate, compress, delay, date, keep)| Mode { copy_truncate, compress, delay, date, keep })
}

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<u8>),
    Rotate(Vec<u8>),
    Look,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let line = proptest::collection::vec(any::<u8>(), 8..20);
    let step = prop_oneof![
        3 => line.clone().prop_map(Step::Write),
        2 => line.prop_map(Step::Rotate),
        2 => Just(Step::Look),
    ];
    proptest::collection::vec(step, 1..30)
}

proptest! {
    /// However it is rotated, between any two looks with at most one rotation, nothing is cut.
    #[test]
    fn a_rotation_is_never_a_cut(mode in modes(), steps in steps()) {
        let (mut directory, rotation) = (Directory::default(), rotation(mode));
        directory.write(b"first line\n");
        let mut then = directory.remember();
        for step in steps {
            match step {
                Step::Write(line) => directory.write(&line),
                Step::Rotate(lost) => {
                    directory.rotate(mode, &lost);
                    let fates = directory.fates(&then, &rotation);
                    for (name, fate) in &fates {
                        prop_assert!(!matches!(fate, Fate::Cut(_)), "{name}: {fate:?} in {mode:?}: {directory:?}");
                    }
                    then = directory.remember();
                }
                Step::Look => {
                    let fates = directory.fates(&then, &rotation);
                    prop_assert!(fates.values().all(|fate| !matches!(fate, Fate::Cut(_))), "{fates:?}");
                    then = directory.remember();
                }
            }
        }
    }

    /// One byte of one file cut out, changed, or the file taken away: that file is cut, and no other.
    #[test]
    fn one_cut_is_one_finding(mode in modes(), steps in steps(), which in any::<prop::sample::Index>(),
                              place in any::<prop::sample::Index>(), how in 0..4_u8, then_rotate in any::<bool>()) {
        let (mut directory, rotation) = (Directory::default(), rotation(mode));
        directory.write(b"first line\n");
        for step in steps {
            match step {
                Step::Write(line) => directory.write(&line),
                Step::Rotate(lost) => directory.rotate(mode, &lost),
                Step::Look => {}
            }
        }
        directory.write(b"last line\n");
        let then = directory.remember();
        // The log itself if it is rotated afterwards: then its damage goes with it.
        let names: Vec<String> = directory.files.keys().cloned().collect();
        let name = if then_rotate { LOG.to_owned() } else { which.get(&names).clone() };
        // What another file holds as well is not lost.
        let held = directory.files[&name].bytes.clone();
        prop_assume!(directory.files.values().filter(|file| file.bytes.starts_with(&held)).count() == 1);
        let bytes = &mut directory.files.get_mut(&name).unwrap().bytes;
        prop_assume!(!bytes.is_empty());
        let at = place.index(bytes.len());
        match how {
            0 => { bytes.remove(at); }
            1 => bytes[at] ^= 1,
            2 => bytes.truncate(at),
            _ if then_rotate => bytes.clear(),
            _ => { directory.files.remove(&name); }
        }
        if then_rotate {
            directory.rotate(mode, b"");
        }
        let fates = directory.fates(&then, &rotation);
        let cut: Vec<&String> = fates.iter().filter(|(_, fate)| matches!(fate, Fate::Cut(_))).map(|(name, _)| name).collect();
        prop_assert_eq!(cut, vec![&name], "{:?} in {:?}", fates, mode);
    }
}

fn remembered(bytes: &[u8], inode: u64) -> Remembered {
    let length = bytes.len() as u64;
    Remembered { inode, length, prefix: Digest::blake3(bytes), seen: length, modified: 5 }
}

fn now(bytes: &[u8], inode: u64, old: usize) -> Now {
    Now { inode, length: bytes.len() as u64, prefix: bytes.get(..old).map(Digest::blake3) }
}

#[test]
fn each_way_has_its_name() {
    let old = remembered(b"0123456789", 1);
    let mode = Mode { copy_truncate: false, compress: false, delay: false, date: false, keep: 2 };
    let rotation = rotation(mode);
    let file = |inode, bytes: &[u8], modified| File { inode, bytes: bytes.to_vec(), modified };
    let to = || TreePath::new("app.log.1").unwrap();
    let packed = [MARK, b"0123456789"].concat();
    for (files, at, expected) in [
        (vec![], Some(now(b"0123456789ab", 1, 10)), Fate::Grown),
        (vec![], Some(Now { inode: 1, length: 12, prefix: None }), Fate::Grown),
        // Another file that was not read could hold anything.
        (vec![], Some(Now { inode: 2, length: 12, prefix: None }), Fate::Cut(Cut::Rewritten)),
        (vec![], Some(now(b"0123456789ab", 2, 10)), Fate::Grown),
        (vec![], Some(now(b"x123456789ab", 1, 10)), Fate::Cut(Cut::Rewritten)),
        (vec![], Some(now(b"01234", 1, 10)), Fate::Cut(Cut::Shrunk)),
        (vec![], None, Fate::Cut(Cut::Gone)),
        (
            vec![("app.log.1", file(1, b"0123456789ab", 6))],
            Some(now(b"", 2, 10)),
            Fate::Rotated(Rotated::Renamed { to: to() }),
        ),
        (
            vec![("app.log.1", file(3, b"0123456789", 6))],
            Some(now(b"", 1, 10)),
            Fate::Rotated(Rotated::Copied { to: to(), lost: 0 }),
        ),
        // A name that the rule does not have is no rotation.
        (vec![("app.log.3", file(3, b"0123456789", 6))], Some(now(b"", 1, 10)), Fate::Cut(Cut::Shrunk)),
        // A copy that lacks the end, or is damaged, is none.
        (vec![("app.log.1", file(3, b"012345678", 6))], Some(now(b"", 1, 10)), Fate::Cut(Cut::Shrunk)),
        (vec![("app.log.1", file(1, b"x123456789", 6))], Some(now(b"", 2, 10)), Fate::Cut(Cut::Shrunk)),
        (
            vec![("app.log.1", file(3, &packed, 6))],
            None,
            Fate::Rotated(Rotated::Packed { to: to(), packing: Packing::Gzip, lost: 0 }),
        ),
        // The log itself is never the oldest that may go.
        (vec![("app.log.1", file(3, b"a", 6)), ("app.log.2", file(4, b"b", 5))], None, Fate::Cut(Cut::Gone)),
        (vec![("app.log.1", file(3, b"a", 6))], None, Fate::Cut(Cut::Gone)),
    ] {
        let files = files.into_iter().map(|(name, file)| (name.to_owned(), file)).collect();
        let directory = Directory { files, ..Directory::default() };
        let mut siblings = Beside { directory: &directory, itself: LOG };
        assert_eq!(
            explain(&TreePath::new(LOG).unwrap(), &old, at.as_ref(), &rotation, &mut siblings),
            expected,
            "{directory:?} {at:?}"
        );
    }
}

#[test]
fn the_oldest_may_go() {
    let mode = Mode { copy_truncate: false, compress: false, delay: false, date: false, keep: 2 };
    let (old, rotation) = (remembered(b"0123456789", 1), rotation(mode));
    let file = |inode, modified| File { inode, bytes: b"a".to_vec(), modified };
    let gone = || Fate::Rotated(Rotated::OldestGone);
    for (name, files, at, expected) in [
        ("app.log.2", vec![("app.log.1", file(2, 6)), ("app.log.2.gz", file(3, 5))], None, gone()),
        // Another file has its name.
        ("app.log.2", vec![("app.log.1", file(2, 6))], Some(now(b"b", 3, 10)), gone()),
        // It was cut where it lay.
        ("app.log.2", vec![("app.log.1", file(2, 6))], Some(now(b"b", 1, 10)), Fate::Cut(Cut::Shrunk)),
        // Fewer than are kept are left.
        ("app.log.2", vec![("app.log.1", file(2, 6))], None, Fate::Cut(Cut::Gone)),
        // It was not the oldest.
        ("app.log.1", vec![("app.log.2", file(2, 4)), ("app.log.2.gz", file(3, 5))], None, Fate::Cut(Cut::Gone)),
        // It is no rotated file.
        ("app.log.7", vec![("app.log.1", file(2, 6)), ("app.log.2", file(3, 6))], None, Fate::Cut(Cut::Gone)),
    ] {
        let files = files.into_iter().map(|(name, file)| (name.to_owned(), file)).collect();
        let directory = Directory { files, ..Directory::default() };
        let mut siblings = Beside { directory: &directory, itself: name };
        let path = TreePath::new(name).unwrap();
        assert_eq!(
            explain(&path, &old, at.as_ref(), &rotation, &mut siblings),
            expected,
            "{name} {directory:?} {at:?}"
        );
    }
}

/// Names with stars are those of every log of a directory.
#[test]
fn the_oldest_is_the_oldest_of_its_own_log() {
    let text = "version = 1\nname = 'p'\n[[rule]]\nid = 'r'\nreason = 'x'\npath = '*.log'\nallow = 'append'\n\
                rotate = ['*.{1..3}', '*.{1..3}.gz', '*-20*']\nkeep = 2\n";
    let policy = Policy::parse(text.as_bytes()).unwrap();
    let Allow::Append(rotation) = &policy.rules()[0].allow else { panic!() };
    let old = remembered(b"0123456789", 1);
    let file = |inode, modified| File { inode, bytes: b"a".to_vec(), modified };
    for (name, files, expected) in [
        // Another log was rotated for the last time before this one.
        (
            "app.log.2.gz",
            vec![("app.log.1", file(2, 6)), ("other.log.1", file(3, 1))],
            Fate::Rotated(Rotated::OldestGone),
        ),
        (
            "app.log-20260101",
            vec![("app.log-20260102.gz", file(2, 6)), ("other.log-20250101", file(3, 1))],
            Fate::Rotated(Rotated::OldestGone),
        ),
        // What is kept of another log is not kept of this one.
        ("app.log.2.gz", vec![("other.log.1", file(2, 6)), ("other.log.2", file(3, 6))], Fate::Cut(Cut::Shrunk)),
        ("app.log.2.gz", vec![("app.log.1", file(2, 1)), ("other.log.1", file(3, 6))], Fate::Cut(Cut::Shrunk)),
    ] {
        let files = files.into_iter().map(|(name, file)| (name.to_owned(), file)).collect();
        let directory = Directory { files, ..Directory::default() };
        let mut siblings = Beside { directory: &directory, itself: name };
        let now = now(b"b", 9, 10);
        let fate = explain(&TreePath::new(name).unwrap(), &old, Some(&now), rotation, &mut siblings);
        assert_eq!(fate, expected, "{name} {directory:?}");
    }
}

#[test]
fn a_tail_lost_between_copy_and_truncation_is_counted() {
    let mode = Mode { copy_truncate: true, compress: false, delay: false, date: false, keep: 2 };
    let mut directory = Directory::default();
    directory.write(b"0123456789");
    let mut old = directory.remember().remove(LOG).unwrap();
    directory.write(b"more");
    // Stat said 20 bytes at last, and the copy was made of 14.
    old.seen = 20;
    directory.rotate(mode, b"tail..");
    let then = BTreeMap::from([(LOG.to_owned(), old)]);
    let to = TreePath::new("app.log.1").unwrap();
    assert_eq!(directory.fates(&then, &rotation(mode))[LOG], Fate::Rotated(Rotated::Copied { to, lost: 6 }));
}
