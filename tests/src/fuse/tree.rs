//! Owns what is in the test's file system, and the ways to change it as programs do: each moves the times that a
//! change moves. Must not own answering the kernel.

use std::collections::BTreeMap;

use fuser::FileType;

/// Everything by the number of its inode.
#[derive(Debug)]
pub struct Tree {
    nodes: BTreeMap<u64, Node>,
    next: u64,
    /// Seconds since 1970: every change has a time of its own.
    now: u64,
}

/// One inode.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is.
    pub kind: Kind,
    /// Permissions.
    pub mode: u16,
    /// The time of the last change of content, in seconds since 1970.
    pub mtime: u64,
    /// The time of the last change of anything.
    pub ctime: u64,
    /// How many names it claims to have.
    pub nlink: u32,
    /// The inode number it claims to have, if another than its own.
    pub claimed_number: Option<u64>,
    /// The size it claims to have, if another than its own.
    pub claimed_size: Option<u64>,
    /// The most that one read gives, in bytes.
    pub most: Option<usize>,
    /// Whether the kernel keeps read pages. If not, each read of a scan is a read here.
    pub cached: bool,
    /// Where it was made; a script knows it by that.
    pub(super) path: Vec<u8>,
}

/// What an inode is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// With content.
    File(Vec<u8>),
    /// With names.
    Directory {
        /// What can be looked up.
        names: BTreeMap<Vec<u8>, u64>,
        /// What is listed, if it is something else: names, and the types they claim to have.
        listed: Option<Vec<(Vec<u8>, FileType)>>,
        /// How often the list is given before it ends.
        times: u64,
    },
    /// With a target.
    Symlink(Vec<u8>),
}

const ROOT: u64 = 1;

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// An empty one.
    pub fn new() -> Self {
        let mut tree = Self { nodes: BTreeMap::new(), next: ROOT, now: 1_700_000_000 };
        tree.insert(b"", empty_directory(), 0o755);
        tree
    }

    /// Adds a file, with the directories above it.
    pub fn file(&mut self, path: &str, content: impl Into<Vec<u8>>) -> &mut Self {
        self.add(path, Kind::File(content.into()), 0o644)
    }

    /// Adds a directory, with those above it.
    pub fn directory(&mut self, path: &str) -> &mut Self {
        self.add(path, empty_directory(), 0o755)
    }

    /// Adds a symlink, with the directories above it.
    pub fn symlink(&mut self, path: &str, target: &str) -> &mut Self {
        self.add(path, Kind::Symlink(target.into()), 0o777)
    }

    /// Other content for a file, as a program writes it.
    pub fn write(&mut self, path: &str, content: impl Into<Vec<u8>>) {
        self.store(path, content);
        let now = self.tick();
        let node = self.at(path);
        (node.mtime, node.ctime) = (now, now);
    }

    /// Other content for a file, and no time tells.
    pub fn store(&mut self, path: &str, content: impl Into<Vec<u8>>) {
        self.at(path).kind = Kind::File(content.into());
    }

    /// Another file under the same name, as a rename puts it there.
    pub fn replace(&mut self, path: &str, content: impl Into<Vec<u8>>) {
        self.remove(path);
        self.file(path, content);
    }

    /// Removes a name. What is open stays readable, and its time of change moves.
    pub fn remove(&mut self, path: &str) {
        let now = self.tick();
        let node = self.at(path);
        (node.ctime, node.nlink) = (now, 0);
        let (parent, name) = split(path.as_bytes());
        let parent = self.number(parent);
        self.names(parent).remove(name);
    }

    /// Another mode.
    pub fn chmod(&mut self, path: &str, mode: u16) {
        let now = self.tick();
        let node = self.at(path);
        (node.mode, node.ctime) = (mode, now);
    }

    /// Whether anything is at `path`.
    pub fn exists(&self, path: &str) -> bool {
        self.find(path.as_bytes()).is_some()
    }

    /// What is at `path`.
    pub fn at(&mut self, path: &str) -> &mut Node {
        let number = self.number(path.as_bytes());
        self.nodes.get_mut(&number).expect("every name has its inode")
    }

    pub(super) fn get(&self, number: u64) -> Option<&Node> {
        self.nodes.get(&number)
    }

    /// The inode at `path`, if there is one.
    pub(super) fn find(&self, path: &[u8]) -> Option<u64> {
        path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).try_fold(ROOT, |at, name| {
            match &self.nodes.get(&at)?.kind {
                Kind::Directory { names, .. } => names.get(name).copied(),
                Kind::File(_) | Kind::Symlink(_) => None,
            }
        })
    }

    fn number(&self, path: &[u8]) -> u64 {
        self.find(path).unwrap_or_else(|| panic!("the test has no {}", path.escape_ascii()))
    }

    fn names(&mut self, number: u64) -> &mut BTreeMap<Vec<u8>, u64> {
        match &mut self.nodes.get_mut(&number).expect("every name has its inode").kind {
            Kind::Directory { names, .. } => names,
            Kind::File(_) | Kind::Symlink(_) => panic!("the test takes a file for a directory"),
        }
    }

    fn add(&mut self, path: &str, kind: Kind, mode: u16) -> &mut Self {
        let (parent, name) = split(path.as_bytes());
        let above = match self.find(parent) {
            Some(number) => number,
            None => {
                self.directory(std::str::from_utf8(parent).expect("a part of a string"));
                self.number(parent)
            }
        };
        let number = self.insert(path.as_bytes(), kind, mode);
        self.names(above).insert(name.to_owned(), number);
        self
    }

    fn insert(&mut self, path: &[u8], kind: Kind, mode: u16) -> u64 {
        let (number, now) = (self.next, self.tick());
        self.next += 1;
        let node = Node {
            kind,
            mode,
            mtime: now,
            ctime: now,
            nlink: 1,
            claimed_number: None,
            claimed_size: None,
            most: None,
            cached: false,
            path: path.to_owned(),
        };
        self.nodes.insert(number, node);
        number
    }

    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }
}

const fn empty_directory() -> Kind {
    Kind::Directory { names: BTreeMap::new(), listed: None, times: 1 }
}

/// The directory and the name in it.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}
