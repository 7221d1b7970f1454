//! Owns establishing one node: what stat says, and what only the opened file says, between two looks at it. Must not own
//! comparing, or directories' contents.

use std::ffi::CStr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::atomic::AtomicBool;

use driftlock_common::compared::Compared;
use driftlock_common::digest::Digest;
use driftlock_common::drift::{Attribute, Attributes, Unverified};
use driftlock_common::gap::Reason;
use driftlock_common::node::{FileType, Kind, Node, Presence, Xattrs};
use driftlock_common::policy::{Privilege, SET_ID};

use super::content::{self, Content, Wanted};
use super::growing::{Grower, Read};
use super::ids::IdMap;
use super::mount_table::MountTable;
use super::open::{Crossing, Stat, Trouble, open_file, read_link, stat_at, stat_fd};
use super::pace::Pace;
use super::progress::Progress;
use super::reader::Source;
use super::xattr;

/// A node as far as it was established.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// What is there; what could not be established is unspecified.
    pub(super) node: Node,
    /// SHA-256 of the content, if asked for beside the digest.
    pub(super) sha256: Option<Digest>,
    /// What could not be established, and why.
    pub(super) unverified: Option<Unverified>,
    /// Bytes hashed; `None` if no content was.
    pub(super) hashed: Option<u64>,
    /// Bytes of content that was left unread as wished; `None` if none was.
    pub(super) unread: Option<u64>,
    /// When the inode is like this again, it was not changed since; `None` if nobody looked at one.
    pub(super) stat: Option<Stat>,
    /// What is in the page cache is as it was to be, and what the device has is not, or cannot be read.
    pub(super) apart: bool,
}

/// What is to be established of a name beyond what stat says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    /// Which attributes are needed.
    pub(super) want: Presence,
    /// Content beyond so many bytes is left out.
    pub(super) limit: Option<u64>,
    /// Content is left unread, unless the file gives rights or it is not known whether it does.
    pub(super) unread: bool,
    /// The device is asked too, if the page cache has content of this digest.
    pub(super) device: Option<Digest>,
}

/// How nodes are looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look<'a> {
    pub(super) compared: Compared,
    pub(super) digests: Wanted,
    pub(super) crossing: Crossing,
    /// What the root is, for telling mount points.
    pub(super) top: &'a Stat,
    /// How fast it may go.
    pub(super) pace: Option<&'a Pace>,
    pub(super) mounts: &'a MountTable,
    pub(super) ids: &'a IdMap,
    pub(super) cancel: &'a AtomicBool,
    pub(super) progress: Option<&'a Progress>,
}

impl Look<'_> {
    /// Whether an inode belongs to a mount that is not to be entered.
    pub(super) fn is_mount(&self, stat: &Stat) -> bool {
        !stat.same_mount(self.top) && (self.crossing == Crossing::Refused || self.mounts.is_virtual(stat))
    }

    /// What stat alone says.
    pub(super) fn of_stat(&self, stat: &Stat) -> Seen {
        let kind = match stat.file_type {
            FileType::File => Kind::File { size: Some(stat.size), content: None },
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink { target: Box::default() },
            FileType::Char => Kind::Char(Some(stat.device)),
            FileType::Block => Kind::Block(Some(stat.device)),
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
        };
        let node = Node {
            kind,
            mode: Some(stat.mode),
            uid: Some(self.ids.user(stat.uid)),
            gid: Some(self.ids.group(stat.gid)),
            mtime: Some(stat.mtime.0),
            xattrs: None,
        };
        let node = node.masked(self.compared.allows(stat.file_type));
        Seen { node, sha256: None, unverified: None, hashed: None, unread: None, stat: Some(*stat), apart: false }
    }

    /// What an opened directory is.
    pub(super) fn directory(&self, fd: BorrowedFd<'_>, stat: &Stat, want: Presence) -> Seen {
        let mut seen = self.of_stat(stat);
        if want.contains(Presence::XATTRS) {
            seen.take_xattrs(xattr::read(fd, self.compared.profile(), self.ids).map_err(Trouble::from));
        }
        seen
    }

    /// What `name` is, which is not a directory; `grower` reads it if it may grow.
    pub(super) fn entry(
        &self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
        wish: Wish,
        grower: Option<&Grower<'_>>,
    ) -> Result<Seen, Trouble> {
        match stat.file_type {
            FileType::File => self.file(directory, name, stat, wish, grower),
            FileType::Symlink => {
                let mut seen = self.of_stat(stat);
                seen.node.kind = Kind::Symlink { target: read_link(directory, name)? };
                // The target is of whatever had the name then.
                if stat_at(directory, name)?.same_moment(stat) { Ok(seen) } else { Err(Trouble::Moved) }
            }
            FileType::Directory | FileType::Char | FileType::Block | FileType::Fifo | FileType::Socket => {
                Ok(self.of_stat(stat))
            }
        }
    }

    fn file(
        &self,
        directory: BorrowedFd<'_>,
        name: &CStr,
        stat: &Stat,
        wish: Wish,
        grower: Option<&Grower<'_>>,
    ) -> Result<Seen, Trouble> {
        let Wish { mut want, limit, .. } = wish;
        // What was read before is not new, however much it is.
        let before = grower.map_or(0, Grower::length);
        let too_large = limit.is_some_and(|limit| stat.size > limit.saturating_add(before));
        let want_content = want.contains(Presence::CONTENT);
        let unread = wish.unread && want_content && stat.mode & SET_ID == 0;
        if unread {
            // It may have capabilities, whatever was sealed.
            want = want.union(self.compared.allows(FileType::File).intersection(Presence::XATTRS));
        }
        let want_xattrs = want.contains(Presence::XATTRS);
        let mut seen = self.of_stat(stat);
        if want_xattrs || (want_content && !too_large && !unread) {
            let fd = match open_file(directory, name, self.crossing) {
                Ok(fd) => fd,
                Err(error) => return seen.without_opening(want, error.into()),
            };
            let before = stat_fd(fd.as_fd())?;
            if self.is_mount(&before) {
                return Err(Trouble::Mount);
            }
            if !before.same_inode(stat) {
                return Err(Trouble::Moved);
            }
            seen = self.of_stat(&before);
            if want_xattrs {
                seen.take_xattrs(xattr::read(fd.as_fd(), self.compared.profile(), self.ids).map_err(Trouble::from));
            }
            if unread && !seen.may_give_rights(&before) {
                // Nothing was read that could have moved meanwhile.
                return Ok(Seen { unread: Some(before.size), ..seen });
            }
            if want_content && !too_large {
                let source = Source {
                    fd: fd.as_fd(),
                    stat: &before,
                    pace: self.pace,
                    progress: self.progress,
                    cancel: self.cancel,
                };
                match grower {
                    Some(grower) => seen.take_read(before.size, grower.read(source))?,
                    None => seen.take_content(content::hash(source, self.digests))?,
                }
                if wish.device.is_some() && wish.device == seen.content() {
                    seen.take_device(content::hash_device(source, self.digests))?;
                }
            }
            let after = stat_fd(fd.as_fd())?;
            if !(if grower.is_some() { after.only_grew(&before) } else { after.same_moment(&before) }) {
                return Err(Trouble::Moved);
            }
        } else if unread {
            return Ok(Seen { unread: Some(stat.size), ..seen });
        }
        if want_content && too_large {
            seen.miss(Attribute::Content, Reason::TooLarge);
        }
        Ok(seen)
    }
}

impl Seen {
    /// Records that `attribute` could not be established. The first reason stands.
    pub(super) fn miss(&mut self, attribute: Attribute, reason: Reason) {
        self.unverified.get_or_insert(Unverified { attributes: Attributes::NONE, reason }).attributes.insert(attribute);
    }

    /// Records that nothing of `want` could be established.
    pub(super) fn miss_all(&mut self, want: Presence, reason: Reason) {
        for (bit, attribute) in [(Presence::CONTENT, Attribute::Content), (Presence::XATTRS, Attribute::Xattrs)] {
            if want.contains(bit) {
                self.miss(attribute, reason);
            }
        }
    }

    /// Whether it gives rights, or that is not known.
    fn may_give_rights(&self, stat: &Stat) -> bool {
        stat.mode & SET_ID != 0 || self.unverified.is_some() || Privilege::Capabilities.is_given_by(&self.node)
    }

    fn without_opening(mut self, want: Presence, trouble: Trouble) -> Result<Self, Trouble> {
        let Trouble::Gap(reason) = trouble else { return Err(trouble) };
        self.miss_all(want, reason);
        Ok(self)
    }

    fn take_xattrs(&mut self, xattrs: Result<Xattrs, Trouble>) {
        match xattrs {
            Ok(xattrs) => self.node.xattrs = Some(xattrs),
            Err(Trouble::Gap(reason)) => self.miss(Attribute::Xattrs, reason),
            Err(Trouble::Gone | Trouble::Moved | Trouble::Mount | Trouble::Interrupted) => {
                self.miss(Attribute::Xattrs, Reason::Io);
            }
        }
    }

    fn take_read(&mut self, size: u64, read: Result<Read, Trouble>) -> Result<(), Trouble> {
        let bytes = read.as_ref().map_or(0, |read| read.bytes);
        self.take_content(read.map(|read| Content { digest: read.content, sha256: None, bytes: size }))?;
        self.hashed = self.hashed.map(|_| bytes);
        Ok(())
    }

    fn content(&self) -> Option<Digest> {
        match self.node.kind {
            Kind::File { content, .. } => content,
            _ => None,
        }
    }

    /// What the device has counts where it is another thing: the next boot reads that.
    fn take_device(&mut self, content: Result<Option<Content>, Trouble>) -> Result<(), Trouble> {
        let Some(content) = content.transpose() else { return Ok(()) };
        self.apart = content.as_ref().map(|content| content.digest).ok() != self.content();
        if self.apart {
            self.node.kind = Kind::File { size: self.stat.map(|stat| stat.size), content: None };
        }
        let cached = self.hashed.take().unwrap_or(0);
        self.take_content(content)?;
        self.hashed = Some(cached + self.hashed.unwrap_or(0));
        Ok(())
    }

    fn take_content(&mut self, content: Result<Content, Trouble>) -> Result<(), Trouble> {
        match content {
            Ok(Content { digest, sha256, bytes }) => {
                self.node.kind = Kind::File { size: Some(bytes), content: Some(digest) };
                self.sha256 = sha256;
                self.hashed = Some(bytes);
            }
            Err(Trouble::Gap(reason)) => self.miss(Attribute::Content, reason),
            Err(trouble) => return Err(trouble),
        }
        Ok(())
    }
}
