//! Owns mtree(5) files, nested and with full paths: where each entry belongs, and the tree that they make. Must not own
//! the spelling of lines (`line`) or what keywords mean (`keyword`).
//!
//! Where NetBSD's, FreeBSD's and libarchive's readers make different trees of the same file, it is refused; what an
//! entry does not state is unspecified, and what it says but a manifest does not hold is noted.

mod fault;
mod keyword;
mod line;

use std::io::BufRead;

use driftlock_common::node::{FileType, Node};
use driftlock_common::path::{TreePath, plain_text};
use driftlock_common::pattern::Excludes;
use driftlock_common::tree::{Origin, Tree, TreeBuilder, TreeError, archive_path};

pub use self::fault::LineFault;
use self::keyword::Keywords;
use self::line::{Lines, unescape};
use super::Terms;
use super::budget::Budget;
use super::notes::{Code, Notes};
use super::problem::Problem;

/// The most entries that are described as `optional` or `ignore`: each is an exclude.
pub const MAX_NOT_COMPARED: usize = 4096;

/// What an mtree file describes.
#[derive(Debug)]
pub struct Described {
    /// Its entries; content digests are SHA-256.
    pub tree: Tree,
    /// The excludes asked for, and those for what the file says is not to be compared.
    pub excludes: Excludes,
    /// What was odd, or is not held by a manifest.
    pub notes: Notes,
}

/// Reads an mtree file; directories that it does not name are implied.
///
/// # Errors
/// If it cannot be read, is not one, is over a limit, says something that would not be verified, or describes something
/// that is not one tree.
pub fn read(input: impl BufRead, terms: &Terms) -> Result<Described, Problem> {
    let mut reader = Reader::new(terms);
    let mut lines = Lines::new(input);
    while let Some(number) = lines.next()? {
        let words = lines.words();
        reader.line(number, &words).map_err(|refusal| refusal.on(number))?;
    }
    reader.finish()
}

/// Why a line cannot be used, before it is known on which line it stands.
enum Refusal {
    Fault(LineFault),
    Limit(Problem),
}

struct Entry {
    path: TreePath,
    line: u64,
    node: Node,
}

struct Reader<'a> {
    terms: &'a Terms,
    /// What `/set` said.
    defaults: Keywords,
    /// The directory that relative names belong to; `None` before `.` and after the `..` that leaves it.
    open: Option<TreePath>,
    /// Whether a path with a slash stood, after which tools disagree on relative names.
    full_paths: bool,
    entries: Vec<Entry>,
    not_compared: Vec<String>,
    budget: Budget,
    notes: Notes,
}

impl<'a> Reader<'a> {
    fn new(terms: &'a Terms) -> Self {
        Self {
            terms,
            defaults: Keywords::default(),
            open: None,
            full_paths: false,
            entries: Vec::new(),
            not_compared: Vec::new(),
            budget: Budget::default(),
            notes: Notes::default(),
        }
    }

    fn line(&mut self, number: u64, words: &[&[u8]]) -> Result<(), Refusal> {
        let Some((name, keywords)) = words.split_first() else { return Ok(()) };
        match *name {
            b"/set" => self.defaults.set_all(keywords)?,
            b"/unset" => self.defaults.unset_all(keywords)?,
            [b'/', ..] => return Err(LineFault::Special(name.to_vec()).into()),
            b".." => self.up(keywords)?,
            name => self.entry(number, name, keywords)?,
        }
        Ok(())
    }

    fn up(&mut self, keywords: &[&[u8]]) -> Result<(), LineFault> {
        if !keywords.is_empty() {
            return Err(LineFault::UpWithMore);
        }
        if self.full_paths {
            return Err(LineFault::Mixed);
        }
        self.open = self.open.as_ref().ok_or(LineFault::UpTooFar)?.parent();
        Ok(())
    }

    fn entry(&mut self, line: u64, name: &[u8], keywords: &[&[u8]]) -> Result<(), Refusal> {
        let mut stated = self.defaults.clone();
        stated.set_all(keywords)?;
        let path = self.place(name)?;
        let (node, left_out) = stated.node(self.terms.profile)?;
        self.budget.spend(path.as_bytes().len() + keyword::metadata(&node)).map_err(Refusal::Limit)?;
        // A relative name that is a directory is where the next ones belong.
        if !name.contains(&b'/') && node.file_type() == FileType::Directory {
            if path.name().contains(&b'\n') {
                return Err(LineFault::NameInComment(path.as_bytes().to_vec()).into());
            }
            self.open = Some(path.clone());
        }
        left_out.into_iter().for_each(|code| self.notes.add(code, &path, None));
        self.exclude(&stated, &path)?;
        self.entries.push(Entry { path, line, node });
        Ok(())
    }

    /// Where a name belongs.
    fn place(&mut self, name: &[u8]) -> Result<TreePath, Refusal> {
        let in_path = |error| LineFault::Path { name: name.to_vec(), error };
        if name == b"." {
            return match &self.open {
                Some(open) if !open.is_root() => Err(LineFault::NestedRoot.into()),
                _ => Ok(TreePath::root()),
            };
        }
        let mut pattern = false;
        let path = if name.contains(&b'/') {
            self.full_paths = true;
            let mut components = Vec::new();
            // Each for itself: an escaped slash is no separator.
            for raw in name.split(|b| *b == b'/') {
                let component = unescape(raw, &mut pattern)?;
                if component.contains(&b'/') {
                    return Err(LineFault::EscapedSlash(name.to_vec()).into());
                }
                components.push(component);
            }
            archive_path(&components.join(&b'/')).map_err(in_path)?
        } else if self.full_paths {
            return Err(LineFault::Mixed.into());
        } else {
            let component = unescape(name, &mut pattern)?;
            if component.contains(&b'/') {
                return Err(LineFault::EscapedSlash(name.to_vec()).into());
            }
            self.open.clone().unwrap_or_default().join(&component).map_err(in_path)?
        };
        if pattern {
            self.notes.add(Code::PatternName, &path, None);
        }
        Ok(path)
    }

    /// Leaves out what the file says is not to be compared.
    fn exclude(&mut self, stated: &Keywords, path: &TreePath) -> Result<(), Refusal> {
        if !stated.is_narrowed() {
            return Ok(());
        }
        self.notes.add(Code::NotCompared, path, None);
        // A root that need not be there is there all the same.
        let itself = (stated.optional && !path.is_root()).then_some("");
        let below = stated.ignore.then_some(if path.is_root() { "**" } else { "/**" });
        if let Some(end) = itself.or(below) {
            let text = pattern_of(path).ok_or_else(|| LineFault::NoPattern(path.as_bytes().to_vec()))?;
            self.not_compared.push(text + end);
        }
        if self.not_compared.len() > MAX_NOT_COMPARED {
            return Err(Refusal::Limit(Problem::TooMuch("more than 4096 entries with optional or ignore")));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Described, Problem> {
        let patterns = self.terms.excludes.iter().chain(self.not_compared.iter().map(String::as_str));
        let excludes = Excludes::new(patterns, []).map_err(|error| Problem::Unusable(error.to_string()))?;
        // Stable: of two that are equal the second one stands on the later line.
        self.entries.sort_by(|a, b| a.path.cmp(&b.path));
        for pair in self.entries.windows(2) {
            if pair[0].path == pair[1].path {
                let fault = LineFault::Twice { path: pair[1].path.as_bytes().to_vec(), first: pair[0].line };
                return Err(Problem::Line { line: pair[1].line, fault });
            }
        }
        let mut tree = Growing { builder: TreeBuilder::new(), last: TreePath::root() };
        for Entry { path, line, node } in self.entries {
            if excludes.excludes(&path) {
                continue;
            }
            for parent in tree.missing_parents(&path) {
                self.budget.spend(parent.as_bytes().len())?;
                self.notes.add(Code::ImplicitParent, &parent, None);
                tree.push(parent, Node::implicit_directory())?;
            }
            let shown = path.clone();
            tree.push(path, node).map_err(|error| match error {
                Problem::Tree(TreeError::NoParent(_)) => {
                    Problem::Line { line, fault: LineFault::NotDirectory(shown.as_bytes().to_vec()) }
                }
                other => other,
            })?;
        }
        Ok(Described { tree: tree.builder.finish(), excludes, notes: self.notes })
    }
}

/// A tree to which entries are added in order.
struct Growing {
    builder: TreeBuilder,
    last: TreePath,
}

impl Growing {
    /// The directories above `path` that the last entry neither is nor lies below.
    fn missing_parents(&self, path: &TreePath) -> Vec<TreePath> {
        let (last, bytes) = (self.last.as_bytes(), path.as_bytes());
        let common = last.iter().zip(bytes).take_while(|(a, b)| a == b).count();
        let is_known = |end: usize| end <= common && last.get(end).is_none_or(|next| *next == b'/');
        let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| end);
        ends.filter(|end| !is_known(*end)).filter_map(|end| TreePath::new(&bytes[..end]).ok()).collect()
    }

    fn push(&mut self, path: TreePath, node: Node) -> Result<(), Problem> {
        self.builder.push(&path, node, Origin::default())?;
        self.last = path;
        Ok(())
    }
}

/// The exclude that matches this path and no other; `None` if no pattern can hold it.
fn pattern_of(path: &TreePath) -> Option<String> {
    let text = plain_text(path.as_bytes())?;
    let escape = |ch: char| if r"*?[]{}!\".contains(ch) { vec!['\\', ch] } else { vec![ch] };
    Some(text.chars().flat_map(escape).collect())
}

// === impl Refusal ===

impl Refusal {
    fn on(self, line: u64) -> Problem {
        match self {
            Self::Fault(fault) => Problem::Line { line, fault },
            Self::Limit(problem) => problem,
        }
    }
}

impl From<LineFault> for Refusal {
    fn from(fault: LineFault) -> Self {
        Self::Fault(fault)
    }
}

#[cfg(test)]
mod tests;
