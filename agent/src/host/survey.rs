//! Owns a bounded look over a whole tree: how many directories it has, and what in it this process cannot read. Must not
//! own reading content, or comparing.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use driftlock_common::path::TreePath;
use rustix::fs::{Access, AtFlags, Dir, FileType, Mode, OFlags, accessat, openat, statat};
use rustix::io::Errno;

use crate::baseline::LeftOut;

/// Entries after which a survey ends, whatever else there is.
pub const MOST_ENTRIES: u64 = 10_000_000;
/// Paths that are named of those that cannot be read.
pub const EXAMPLES: usize = 3;

/// How a survey is made.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// Entries after which it ends; [`MOST_ENTRIES`] but for tests.
    pub most_entries: u64,
    /// Whether permissions of files are looked at: not if this process may read everything anyway.
    pub files: Files,
    /// What is neither scanned nor watched.
    pub left_out: &'a LeftOut,
    /// Directories that are not entered: mounts that are not part of the tree, or may hang.
    pub avoided: &'a [TreePath],
}

/// Whether files are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Files {
    /// Each is asked for its permission.
    Checked,
    /// Taken to be readable.
    Trusted,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Survey {
    /// Directories, the root and those that cannot be read included.
    pub directories: u64,
    /// What ended it early.
    pub end: End,
    /// Directories and files that this process cannot read.
    pub unreadable: u64,
    /// Some of them, in the order they were met.
    pub examples: Vec<TreePath>,
    /// Directories that could not be looked at for another reason, the path too long among them.
    pub failed: u64,
    /// A regular file that can be read, opened.
    pub file: Option<OwnedFd>,
}

/// How far a survey got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum End {
    /// Everything was met.
    #[default]
    Whole,
    /// Its bound was reached: there may be more.
    Bound,
}

/// Looks over everything below `root`, links not followed, as watching does.
pub fn survey(root: BorrowedFd<'_>, terms: Terms<'_>) -> Survey {
    let mut survey = Survey::default();
    let mut entries = 0;
    // Paths, not descriptors: as many directories as there are beside each other may wait.
    let mut waiting = vec![TreePath::root()];
    while let Some(path) = waiting.pop() {
        survey.directories += 1;
        if entries >= terms.most_entries {
            survey.end = End::Bound;
            return survey;
        }
        let opened = open(root, &path).and_then(|fd| Ok((Dir::read_from(&fd)?, fd)));
        let (mut listing, fd) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                survey.refused(&path, error, terms);
                continue;
            }
        };
        while let Some(entry) = listing.read() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    survey.refused(&path, error, terms);
                    break;
                }
            };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            entries += 1;
            survey.entry(fd.as_fd(), &path, name, entry.file_type(), &mut waiting, terms);
        }
    }
    survey
}

impl Survey {
    fn entry(
        &mut self,
        directory: BorrowedFd<'_>,
        path: &TreePath,
        name: &CStr,
        listed: FileType,
        waiting: &mut Vec<TreePath>,
        terms: Terms<'_>,
    ) {
        let file_type = match listed {
            FileType::Unknown => statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
                .map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode)),
            known => known,
        };
        match file_type {
            FileType::Directory => match path.join(name.to_bytes()) {
                Ok(child) if terms.avoided.contains(&child) || terms.left_out.has(&child) => {}
                Ok(child) => waiting.push(child),
                Err(_) => self.failed += 1,
            },
            FileType::RegularFile => {
                if terms.files == Files::Checked
                    && let Err(error) = accessat(directory, name, Access::READ_OK, AtFlags::EACCESS)
                    && let Ok(child) = path.join(name.to_bytes())
                {
                    self.refused(&child, error, terms);
                } else if self.file.is_none() {
                    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                    self.file = openat(directory, name, flags, Mode::empty()).ok();
                }
            }
            _ => {}
        }
    }

    fn refused(&mut self, path: &TreePath, error: Errno, terms: Terms<'_>) {
        match error {
            // It went meanwhile.
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP => {}
            _ if terms.left_out.has(path) => {}
            Errno::ACCESS | Errno::PERM => {
                self.unreadable += 1;
                if self.examples.len() < EXAMPLES {
                    self.examples.push(path.clone());
                }
            }
            _ => self.failed += 1,
        }
    }
}

fn open(root: BorrowedFd<'_>, path: &TreePath) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let name = if path.is_root() { b"." } else { path.as_bytes() };
    // A path of a tree holds no NUL.
    let name = CString::new(name).map_err(|_| Errno::INVAL)?;
    openat(root, name.as_c_str(), flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    use driftlock_common::pattern::Excludes;

    fn look(dir: &std::path::Path, terms: Terms<'_>) -> Survey {
        survey(File::open(dir).unwrap().as_fd(), terms)
    }

    static NOTHING: LeftOut = LeftOut::new(None, Excludes::none());
    const ALL: Terms<'_> = Terms { most_entries: 1000, files: Files::Checked, left_out: &NOTHING, avoided: &[] };

    fn local(pattern: &str) -> LeftOut {
        LeftOut::new(None, Excludes::new([pattern], []).unwrap())
    }

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a/b", "a/c", "d"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        std::os::unix::fs::symlink("/", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("dangling")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("fifo"), Mode::RUSR).unwrap();
        dir
    }

    #[test]
    fn directories_are_counted_and_links_are_not_followed() {
        let dir = tree();
        let found = look(dir.path(), ALL);
        assert_eq!((found.directories, found.end, found.unreadable, found.failed), (5, End::Whole, 0, 0));
        assert!(found.file.is_none(), "a fifo is no file to be opened");
        fs::write(dir.path().join("a/b/f"), "x").unwrap();
        assert!(look(dir.path(), ALL).file.is_some());
    }

    #[test]
    fn it_ends_at_its_bound_and_leaves_out_what_is_avoided() {
        let dir = tree();
        let found = look(dir.path(), Terms { most_entries: 1, ..ALL });
        assert_eq!((found.directories, found.end), (2, End::Bound));
        let found = look(dir.path(), Terms { avoided: &[TreePath::new("a").unwrap()], ..ALL });
        assert_eq!((found.directories, found.end), (2, End::Whole));
        let left_out = local("a/**");
        let found = look(dir.path(), Terms { left_out: &left_out, ..ALL });
        assert_eq!((found.directories, found.end), (3, End::Whole));
    }

    /// Root reads everything: that the kernel refuses is tried by the black-box tests.
    #[test]
    fn what_cannot_be_read_is_counted_and_some_of_it_named() {
        let mut found = Survey::default();
        let path = |text: &str| TreePath::new(text).unwrap();
        let left_out = local("log/**");
        let terms = Terms { left_out: &left_out, ..ALL };
        for (at, error) in [
            ("a", Errno::ACCESS),
            ("gone", Errno::NOENT),
            ("log/x", Errno::ACCESS),
            ("b", Errno::PERM),
            ("deep", Errno::NAMETOOLONG),
            ("c", Errno::ACCESS),
            ("d", Errno::ACCESS),
        ] {
            found.refused(&path(at), error, terms);
        }
        assert_eq!((found.unreadable, found.failed), (4, 1));
        assert_eq!(found.examples, [path("a"), path("b"), path("c")]);
    }
}
