//! Owns answering the kernel out of the tree, after the script was asked. Must not own either.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry, ReplyOpen, ReplyXattr, Request,
};

use super::tree::{Kind, Node, Tree};
use super::{Call, Op, State, lock};

/// The kernel keeps nothing of what it was told.
const AT_ONCE: Duration = Duration::ZERO;

pub(super) struct Server {
    state: Arc<Mutex<State>>,
}

impl Server {
    pub(super) fn new(state: Arc<Mutex<State>>) -> Self {
        Self { state }
    }

    /// Asks the script about `path`, then answers.
    fn answer<T>(
        &self,
        op: Op,
        path: &[u8],
        offset: u64,
        answer: impl FnOnce(&Tree) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let mut state = lock(&self.state);
        let State { tree, script, asked } = &mut *state;
        let nth = asked.entry((op, path.to_owned())).or_default();
        *nth += 1;
        if let Some(script) = script {
            script(&Call { op, path, offset, nth: *nth }, tree)?;
        }
        answer(tree)
    }

    /// The same about an inode.
    fn answer_of<T>(
        &self,
        op: Op,
        number: INodeNo,
        offset: u64,
        answer: impl FnOnce(&Node) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let path = lock(&self.state).tree.get(number.0).map(|node| node.path.clone()).ok_or(Errno::ENOENT)?;
        self.answer(op, &path, offset, |tree| answer(tree.get(number.0).ok_or(Errno::ENOENT)?))
    }

    fn path_of(&self, parent: INodeNo, name: &OsStr) -> Option<Vec<u8>> {
        let state = lock(&self.state);
        let parent = &state.tree.get(parent.0)?.path;
        let slash: &[u8] = if parent.is_empty() { b"" } else { b"/" };
        Some([parent, slash, name.as_bytes()].concat())
    }
}

impl Filesystem for Server {
    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let Some(path) = self.path_of(parent, name) else { return reply.error(Errno::ENOENT) };
        let found = self.answer(Op::Lookup, &path, 0, |tree| {
            let number = tree.find(&path).ok_or(Errno::ENOENT)?;
            // The number in this answer is also the kernel's own, which has to stay.
            Ok(attributes(number, tree.get(number).ok_or(Errno::ENOENT)?, number))
        });
        match found {
            Ok(attributes) => reply.entry(&AT_ONCE, &attributes, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let shown = |node: &Node| Ok(attributes(ino.0, node, node.claimed_number.unwrap_or(ino.0)));
        match self.answer_of(Op::Attributes, ino, 0, shown) {
            Ok(attributes) => reply.attr(&AT_ONCE, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let target = |node: &Node| match &node.kind {
            Kind::Symlink(target) => Ok(target.clone()),
            Kind::File(_) | Kind::Directory { .. } => Err(Errno::EINVAL),
        };
        match self.answer_of(Op::ReadLink, ino, 0, target) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.answer_of(Op::Open, ino, 0, |node| Ok(node.cached)) {
            Ok(true) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Ok(false) => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let part = |node: &Node| {
            let Kind::File(content) = &node.kind else { return Err(Errno::EINVAL) };
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(content.len());
            let len = (size as usize).min(content.len() - from).min(node.most.unwrap_or(usize::MAX));
            Ok(content[from..from + len].to_owned())
        };
        match self.answer_of(Op::Read, ino, offset, part) {
            Ok(part) => reply.data(&part),
            Err(error) => reply.error(error),
        }
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.answer_of(Op::OpenDirectory, ino, 0, |_| Ok(())) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let path = lock(&self.state).tree.get(ino.0).map(|node| node.path.clone());
        let Some(path) = path else { return reply.error(Errno::ENOENT) };
        let names = self.answer(Op::ReadDirectory, &path, offset, |tree| {
            let Some(Node { kind: Kind::Directory { names, listed, times }, .. }) = tree.get(ino.0) else {
                return Err(Errno::ENOTDIR);
            };
            let file_type = |number: &u64| tree.get(*number).map_or(FileType::RegularFile, |node| type_of(&node.kind));
            let own = || names.iter().map(|(name, number)| (name.clone(), file_type(number))).collect();
            Ok((listed.clone().unwrap_or_else(own), *times))
        });
        match names {
            Ok((names, times)) => {
                let end = names.len() as u64 * times;
                for at in offset..end {
                    let (name, file_type) = &names[usize::try_from(at).unwrap_or(0) % names.len()];
                    // What the number is of an entry nobody has to know before it is looked up.
                    if reply.add(INodeNo(u64::MAX - at), at + 1, *file_type, OsStr::from_bytes(name)) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(error),
        }
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        let none = self.answer_of(Op::Xattr, ino, 0, |_| Err::<(), _>(Errno::ENODATA));
        reply.error(none.err().unwrap_or(Errno::ENODATA));
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        match self.answer_of(Op::Xattr, ino, 0, |_| Ok(())) {
            Ok(()) if size == 0 => reply.size(0),
            Ok(()) => reply.data(b""),
            Err(error) => reply.error(error),
        }
    }
}

const fn type_of(kind: &Kind) -> FileType {
    match kind {
        Kind::File(_) => FileType::RegularFile,
        Kind::Directory { .. } => FileType::Directory,
        Kind::Symlink(_) => FileType::Symlink,
    }
}

fn attributes(number: u64, node: &Node, shown: u64) -> FileAttr {
    let own = match &node.kind {
        Kind::File(content) | Kind::Symlink(content) => content.len() as u64,
        Kind::Directory { .. } => 0,
    };
    debug_assert!(shown == number || node.claimed_number.is_some(), "only a claim differs");
    FileAttr {
        ino: INodeNo(shown),
        size: node.claimed_size.unwrap_or(own),
        // It has none, as on many a file system that keeps small files elsewhere.
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: time(node.mtime),
        ctime: time(node.ctime),
        crtime: UNIX_EPOCH,
        kind: type_of(&node.kind),
        perm: node.mode,
        nlink: node.nlink,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}
