//! Owns reading what lies beside a growing file: the names of its directory, and the beginnings of rotated files, packed
//! ones too. Must not own what became of the file: [`explain`](driftlock_common::policy::rotation::explain) decides.
//!
//! Whoever may write into the directory can put anything there. Nothing outside it is opened, no link followed, only
//! regular files are read; what is packed is unpacked only as far as a log could go on, and in little memory.
//!
//! gzip and zstd are read. xz is not: no distribution's logrotate packs with it unless told to, and an agent that may read
//! everything should not parse another format for the rare host where it is; there a packed log is an alert.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use driftlock_common::digest::Digest;
use driftlock_common::path::TreePath;
use driftlock_common::pattern::Pattern;
use driftlock_common::policy::rotation::{Beginning, Packing, Sibling, Siblings};
use flate2::bufread::MultiGzDecoder;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;

/// The most siblings of one file. Nobody keeps more, and each is read.
pub const MAX_SIBLINGS: usize = 1024;
/// The most names that are looked at in one directory.
pub const MAX_NAMES: usize = 100_000;
/// A packed log unpacks to at most this many bytes more than were read of it: what was written since the last look.
pub const MAX_TAIL: u64 = 1024 * 1024 * 1024;
/// The largest window of zstd, as a power of two: 8 MiB, which is what its highest ordinary level uses.
const ZSTD_WINDOW_LOG: u32 = 23;

/// The directory of a growing file.
#[derive(Debug)]
pub struct Beside {
    /// `None` if it cannot be entered: then nothing lies there.
    directory: Option<OwnedFd>,
    name: TreePath,
}

impl Beside {
    /// What lies beside the file `name` in an opened directory.
    pub const fn new(directory: OwnedFd, name: TreePath) -> Self {
        Self { directory: Some(directory), name }
    }

    /// What lies beside the file `name` in a directory below an opened one.
    pub fn below(from: BorrowedFd<'_>, directory: &TreePath, name: TreePath) -> Self {
        Self { directory: open_directory(from, directory).ok(), name }
    }

    /// Whether there is a regular file of that name itself.
    pub fn is_there(&self) -> bool {
        let Some(directory) = self.name.parent().and_then(|parent| self.directory(&parent).ok()) else { return false };
        let stat = statat(&directory, self.name.name(), AtFlags::SYMLINK_NOFOLLOW);
        stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
    }

    fn directory(&self, below: &TreePath) -> rustix::io::Result<OwnedFd> {
        open_directory(self.directory.as_ref().ok_or(Errno::NOENT)?.as_fd(), below)
    }

    /// The regular files of a directory below that a pattern names.
    fn find(&self, below: &TreePath, names: &[&Pattern], found: &mut Vec<Sibling>) -> rustix::io::Result<()> {
        let directory = self.directory(below)?;
        for entry in Dir::read_from(&directory)?.take(MAX_NAMES) {
            let entry = entry?;
            let Ok(name) = below.join(entry.file_name().to_bytes()) else { continue };
            if name == self.name || !names.iter().any(|pattern| pattern.matches(&name)) {
                continue;
            }
            let stat = match statat(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => stat,
                _ => continue,
            };
            let length = u64::try_from(stat.st_size).unwrap_or(0);
            found.push(Sibling { name, inode: stat.st_ino, length, modified: stat.st_mtime });
            if found.len() == MAX_SIBLINGS {
                break;
            }
        }
        Ok(())
    }

    /// The sibling, opened; `None` if it is another file by now.
    fn open(&self, sibling: &Sibling) -> Option<File> {
        let parent = sibling.name.parent()?;
        let directory = self.directory(&parent).ok()?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        // What is no regular file is not opened: a device could act on it.
        let stat = statat(&directory, sibling.name.name(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_ino != sibling.inode {
            return None;
        }
        let file = openat(&directory, sibling.name.name(), flags, Mode::empty()).ok()?;
        let opened = rustix::fs::fstat(&file).ok()?;
        (opened.st_ino == stat.st_ino && opened.st_dev == stat.st_dev).then(|| file.into())
    }
}

/// A directory below another, one name after the other and through no link.
fn open_directory(from: BorrowedFd<'_>, below: &TreePath) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut directory = openat(from, c".", flags, Mode::empty())?;
    for name in below.components() {
        directory = openat(&directory, name, flags, Mode::empty())?;
    }
    Ok(directory)
}

impl Siblings for Beside {
    fn named(&mut self, names: &[Pattern]) -> Vec<Sibling> {
        // A policy has stars in the last name of a rotated file only.
        let directory = |pattern: &Pattern| match pattern.as_str().rsplit_once('/') {
            Some((directory, _)) => TreePath::new(directory).ok(),
            None => Some(TreePath::root()),
        };
        let mut found = Vec::new();
        for below in names.iter().filter_map(directory).collect::<BTreeSet<_>>() {
            let here: Vec<&Pattern> =
                names.iter().filter(|pattern| directory(pattern).as_ref() == Some(&below)).collect();
            // A directory that cannot be read has nothing that explains anything.
            let _unreadable = self.find(&below, &here, &mut found);
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }

    fn beginning(&mut self, sibling: &Sibling, length: u64) -> Option<Beginning> {
        if sibling.length < length {
            return None;
        }
        let digest = hash(&mut self.open(sibling)?, length)?;
        Some(Beginning { digest, length: sibling.length })
    }

    fn unpacked(&mut self, sibling: &Sibling, length: u64) -> Option<(Packing, Beginning)> {
        let file = BufReader::with_capacity(64 * 1024, self.open(sibling)?);
        unpack(file, length)
    }
}

/// The first `length` bytes that packed bytes unpack to, and how many there are in all.
fn unpack(mut packed: impl io::BufRead, length: u64) -> Option<(Packing, Beginning)> {
    const GZIP: &[u8] = &[0x1f, 0x8b];
    const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
    let first = packed.fill_buf().ok()?;
    if first.starts_with(GZIP) {
        Some((Packing::Gzip, beginning(MultiGzDecoder::new(packed), length)?))
    } else if first.starts_with(ZSTD) {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(packed).ok()?;
        decoder.window_log_max(ZSTD_WINDOW_LOG).ok()?;
        Some((Packing::Zstd, beginning(decoder, length)?))
    } else {
        None
    }
}

fn beginning(mut reader: impl Read, length: u64) -> Option<Beginning> {
    let digest = hash(&mut reader, length)?;
    let more = io::copy(&mut reader.take(MAX_TAIL.saturating_add(1)), &mut io::sink()).ok()?;
    (more <= MAX_TAIL).then(|| Beginning { digest, length: length + more })
}

/// BLAKE3 of the next `length` bytes; `None` if there are fewer, or they cannot be read.
fn hash(reader: &mut impl Read, length: u64) -> Option<Digest> {
    let mut hasher = blake3::Hasher::new();
    let read = io::copy(&mut reader.take(length), &mut hasher).ok()?;
    (read == length).then(|| hasher.finalize().into())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::{MetadataExt as _, symlink};
    use std::path::Path;

    use driftlock_common::policy::rotation::{Cut, Fate, Now, Remembered, Rotated, explain};
    use driftlock_common::policy::{Allow, Policy, Rotation};

    use super::*;

    const LOG: &str = "app.log";

    fn rotation() -> Rotation {
        let text = "version = 1\nname = 'p'\n[[rule]]\nid = 'r'\nreason = 'x'\npath = 'app.log'\nallow = 'append'\n\
                    rotate = ['app.log.{1..3}', 'app.log.{1..3}.*', 'old/app.log-*']\nkeep = 3\n";
        let policy = Policy::parse(text.as_bytes()).unwrap();
        let Allow::Append(rotation) = &policy.rules()[0].allow else { panic!() };
        rotation.clone()
    }

    fn remember(place: &Path) -> Remembered {
        let (bytes, stat) = (fs::read(place.join(LOG)).unwrap(), fs::metadata(place.join(LOG)).unwrap());
        let length = stat.len();
        let prefix = Digest::blake3(&bytes);
        Remembered { inode: stat.ino(), length, prefix, seen: length, modified: stat.mtime() }
    }

    fn fate(place: &Path, then: &Remembered) -> Fate {
        let name = TreePath::new(LOG).unwrap();
        let now = fs::symlink_metadata(place.join(LOG)).ok().filter(fs::Metadata::is_file).map(|stat| Now {
            inode: stat.ino(),
            length: stat.len(),
            prefix: hash(&mut File::open(place.join(LOG)).unwrap(), then.length),
        });
        let directory = OwnedFd::from(File::open(place).unwrap());
        explain(&name, then, now.as_ref(), &rotation(), &mut Beside::new(directory, name.clone()))
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 3).unwrap()
    }

    /// A directory with a log of 100,000 bytes, and what is remembered of it.
    fn logged() -> (tempfile::TempDir, Vec<u8>, Remembered) {
        let temp = tempfile::tempdir().unwrap();
        let lines: Vec<u8> = (0..100_000_u32).map(|at| b'a' + u8::try_from(at * 7 / 3 % 26).unwrap()).collect();
        fs::write(temp.path().join(LOG), &lines).unwrap();
        let then = remember(temp.path());
        (temp, lines, then)
    }

    /// What is done to the log, and where it is found then.
    #[test]
    fn a_rotated_log_is_found_however_it_is_packed() {
        type Rotate = fn(&Path, &[u8]);
        let packed = |to: &str, packing| Rotated::Packed { to: TreePath::new(to).unwrap(), packing, lost: 0 };
        let to = |name: &str| TreePath::new(name).unwrap();
        let cases: [(Rotate, Rotated); 6] = [
            (|at, _| fs::rename(at.join(LOG), at.join("app.log.1")).unwrap(), Rotated::Renamed { to: to("app.log.1") }),
            (
                |at, lines| {
                    fs::write(at.join("app.log.1"), [lines, b"more"].concat()).unwrap();
                    fs::write(at.join(LOG), "").unwrap();
                },
                Rotated::Copied { to: to("app.log.1"), lost: 0 },
            ),
            (
                |at, lines| {
                    fs::write(at.join("app.log.2.gz"), gzip(&[lines, b"more"].concat())).unwrap();
                    fs::remove_file(at.join(LOG)).unwrap();
                },
                packed("app.log.2.gz", Packing::Gzip),
            ),
            (
                // Two members, as gzip itself appends.
                |at, lines| {
                    fs::write(at.join("app.log.2.gz"), [gzip(&lines[..50_000]), gzip(&lines[50_000..])].concat())
                        .unwrap();
                    fs::write(at.join(LOG), "").unwrap();
                },
                packed("app.log.2.gz", Packing::Gzip),
            ),
            (
                |at, lines| {
                    fs::write(at.join("app.log.1.anything"), zstd(lines)).unwrap();
                    fs::write(at.join(LOG), "").unwrap();
                },
                packed("app.log.1.anything", Packing::Zstd),
            ),
            (
                |at, _| {
                    fs::create_dir(at.join("old")).unwrap();
                    fs::rename(at.join(LOG), at.join("old/app.log-20260101")).unwrap();
                },
                Rotated::Renamed { to: to("old/app.log-20260101") },
            ),
        ];
        for (rotate, expected) in cases {
            let (temp, lines, then) = logged();
            assert_eq!(fate(temp.path(), &then), Fate::Grown);
            rotate(temp.path(), &lines);
            assert_eq!(fate(temp.path(), &then), Fate::Rotated(expected));
        }
    }

    #[test]
    fn what_only_looks_like_a_rotation_is_a_cut() {
        type Attack = fn(&Path, &[u8]);
        let attacks: [(&str, Attack); 9] = [
            ("one line less", |at, lines| fs::write(at.join("app.log.1"), &lines[10..]).unwrap()),
            ("one byte else", |at, lines| {
                fs::write(at.join("app.log.1.gz"), gzip(&[&lines[..999], b"!", &lines[1000..]].concat())).unwrap();
            }),
            ("a damaged archive", |at, lines| {
                let mut bytes = gzip(lines);
                let last = bytes.len() - 9;
                bytes.truncate(last);
                fs::write(at.join("app.log.1.gz"), bytes).unwrap();
            }),
            ("a link to the copy", |at, lines| {
                fs::write(at.join("elsewhere"), lines).unwrap();
                symlink("elsewhere", at.join("app.log.1")).unwrap();
            }),
            ("a directory that is a link", |at, lines| {
                fs::create_dir(at.join("hidden")).unwrap();
                fs::write(at.join("hidden/app.log-1"), lines).unwrap();
                symlink("hidden", at.join("old")).unwrap();
            }),
            ("a fifo", |at, _| {
                rustix::fs::mknodat(
                    rustix::fs::CWD,
                    at.join("app.log.1"),
                    FileType::Fifo,
                    Mode::from_raw_mode(0o600),
                    0,
                )
                .unwrap();
            }),
            ("a name that is not named", |at, lines| fs::write(at.join("app.log.4"), lines).unwrap()),
            ("a window larger than any log needs", |at, lines| {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
                encoder.window_log(27).unwrap();
                // Without its size, so that the window is what the frame asks for.
                encoder.write_all(lines).unwrap();
                fs::write(at.join("app.log.1.zst"), encoder.finish().unwrap()).unwrap();
            }),
            ("nothing", |_, _| {}),
        ];
        for (name, attack) in attacks {
            let (temp, lines, then) = logged();
            fs::write(temp.path().join(LOG), "").unwrap();
            attack(temp.path(), &lines);
            assert_eq!(fate(temp.path(), &then), Fate::Cut(Cut::Shrunk), "{name}");
        }
    }

    /// What unpacks to more than a log could have grown is none, and reading it ends.
    #[test]
    fn a_decompression_bomb_is_no_rotated_log() {
        let (_temp, lines, then) = logged();
        let bomb = |more: u64| {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            encoder.write_all(&lines).unwrap();
            io::copy(&mut io::repeat(0).take(more), &mut encoder).unwrap();
            encoder.finish().unwrap()
        };
        let packed = bomb(MAX_TAIL + 1);
        assert!(packed.len() < 1024 * 1024, "{}", packed.len());
        assert_eq!(unpack(packed.as_slice(), then.length), None);
        let (_, found) = unpack(bomb(1000).as_slice(), then.length).unwrap();
        assert_eq!((found.digest, found.length), (then.prefix, then.length + 1000));
    }

    #[test]
    fn a_log_that_was_swapped_for_a_link_is_gone() {
        let (temp, lines, then) = logged();
        fs::write(temp.path().join("copy"), lines).unwrap();
        fs::remove_file(temp.path().join(LOG)).unwrap();
        symlink("copy", temp.path().join(LOG)).unwrap();
        assert_eq!(fate(temp.path(), &then), Fate::Cut(Cut::Gone));
    }
}
