//! Owns which paths a storm may have made different, and how that is written down. A superset: what was only tried counts.
//! Must not own what came of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

/// The paths that a storm reached for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    entries: BTreeSet<Vec<u8>>,
    subtrees: BTreeSet<Vec<u8>>,
    /// Changed in ways that make no difference.
    harmless: BTreeSet<Vec<u8>>,
}

impl Touched {
    /// A path itself.
    pub fn entry(&mut self, path: &[u8]) {
        if !self.entries.contains(path) {
            self.entries.insert(path.to_owned());
        }
    }

    /// A path and everything below it.
    pub fn subtree(&mut self, path: &[u8]) {
        if !self.subtrees.contains(path) {
            self.subtrees.insert(path.to_owned());
        }
    }

    /// A path that stays as it is in everything that is compared.
    pub fn harmless(&mut self, path: &[u8]) {
        if !self.harmless.contains(path) {
            self.harmless.insert(path.to_owned());
        }
    }

    /// Takes over what another thread reached for.
    pub fn merge(&mut self, other: Self) {
        self.entries.extend(other.entries);
        self.subtrees.extend(other.subtrees);
        self.harmless.extend(other.harmless);
    }

    /// Whether something may have been different at `path`, at some moment.
    pub fn may_differ(&self, path: &[u8]) -> bool {
        let above = |path: &[u8]| path.iter().rposition(|byte| *byte == b'/');
        let mut at = path;
        loop {
            if self.subtrees.contains(at) {
                return true;
            }
            match above(at) {
                Some(end) => at = &at[..end],
                None => return self.entries.contains(path),
            }
        }
    }

    /// Whether something happened to `path` that a look may have met: then it may not have been able to tell what is there.
    pub fn may_be_unstable(&self, path: &[u8]) -> bool {
        self.harmless.contains(path) || self.may_differ(path)
    }

    /// Writes it down.
    ///
    /// # Errors
    /// If that fails.
    pub fn write(&self, file: &Path) -> Result<()> {
        let line = |kind: &'static str| move |path: &Vec<u8>| format!("{kind} {}\n", hex::encode(path));
        let entries = self.entries.iter().map(line("entry"));
        let subtrees = self.subtrees.iter().map(line("subtree"));
        let harmless = self.harmless.iter().map(line("harmless"));
        let text: String = entries.chain(subtrees).chain(harmless).collect();
        fs::write(file, text).with_context(|| file.display().to_string())
    }

    /// Reads it back.
    ///
    /// # Errors
    /// If it is not what [`Touched::write`] wrote.
    pub fn read(file: &Path) -> Result<Self> {
        let mut touched = Self::default();
        for line in fs::read_to_string(file).with_context(|| file.display().to_string())?.lines() {
            let (kind, path) = line.split_once(' ').with_context(|| line.to_owned())?;
            let path = hex::decode(path)?;
            match kind {
                "entry" => touched.entries.insert(path),
                "subtree" => touched.subtrees.insert(path),
                "harmless" => touched.harmless.insert(path),
                _ => anyhow::bail!("{line}"),
            };
        }
        Ok(touched)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_below_counts_and_what_lies_beside_does_not() {
        let mut touched = Touched::default();
        touched.entry(b"a/b");
        touched.subtree(b"d");
        touched.harmless(b"s\n");
        let dir = tempfile::tempdir().unwrap();
        touched.write(&dir.path().join("log")).unwrap();
        let touched = Touched::read(&dir.path().join("log")).unwrap();
        for (path, differs, unstable) in [
            (&b"a/b"[..], true, true),
            (b"a", false, false),
            (b"a/b/c", false, false),
            (b"d", true, true),
            (b"d/e/f", true, true),
            (b"dd", false, false),
            (b"s\n", false, true),
            (b"", false, false),
        ] {
            assert_eq!(touched.may_differ(path), differs, "{}", path.escape_ascii());
            assert_eq!(touched.may_be_unstable(path), unstable, "{}", path.escape_ascii());
        }
    }
}
