//! A tree, and the verbs of this folder in it.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use driftlock_tests::drift::{Drift, Report};
use driftlock_tests::sandbox::{Finished, Sandbox};
use driftlock_tests::tree::Tree;
use walkdir::WalkDir;

/// How many random trees; each costs several processes.
pub(crate) const SEEDS: u64 = 20;
pub(crate) const PROFILES: [&str; 3] = ["content", "portable", "full"];

pub(crate) struct Place {
    pub(crate) sandbox: Sandbox,
    pub(crate) tree: Tree,
}

/// `kind:path` as the command line takes it.
pub(crate) fn source(kind: &str, path: &Path) -> OsString {
    let mut source = OsString::from(kind);
    source.push(path);
    source
}

impl Place {
    pub(crate) fn new() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let tree = sandbox.tree("root")?;
        Ok(Self { sandbox, tree })
    }

    pub(crate) fn root(&self) -> &Path {
        self.tree.root()
    }

    pub(crate) fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Finished> {
        self.sandbox.driftlock(arguments).run()
    }

    /// Seals a source into the file `name`.
    pub(crate) fn seal(&self, source: &OsStr, profile: &str, name: &str) -> Result<PathBuf> {
        let output = self.sandbox.path(name);
        let arguments: [&OsStr; 6] =
            ["seal".as_ref(), source, "--profile".as_ref(), profile.as_ref(), "-o".as_ref(), output.as_ref()];
        self.run(arguments)?.expect(0)?;
        Ok(output)
    }

    /// Seals the tree into `manifest`.
    pub(crate) fn seal_tree(&self, profile: &str) -> Result<PathBuf> {
        self.seal(&source("dir:", self.root()), profile, "manifest")
    }

    /// Exports to the file `name`.
    pub(crate) fn export(&self, form: &str, from: &Path, name: &str) -> Result<PathBuf> {
        let output = self.sandbox.path(name);
        let arguments: [&OsStr; 6] =
            ["export".as_ref(), "--to".as_ref(), form.as_ref(), from.as_ref(), "-o".as_ref(), output.as_ref()];
        let finished = self.run(arguments)?.expect(0)?;
        ensure!(finished.stdout.is_empty(), "{finished:?}");
        Ok(output)
    }

    /// What a scan of the tree finds, but for extended attributes, which mtree does not know.
    pub(crate) fn scan(&self, manifest: &Path) -> Result<BTreeSet<Drift>> {
        scan(&self.sandbox, manifest, self.root())
    }

    /// Compares two sources, and gives the output if they are not the same.
    pub(crate) fn diff(&self, a: &OsStr, b: &OsStr, profile: &str) -> Result<Finished> {
        let arguments: [&OsStr; 5] = ["diff".as_ref(), "--profile".as_ref(), profile.as_ref(), a, b];
        self.run(arguments)
    }

    /// Removes the sockets, which no archive holds.
    pub(crate) fn without_sockets(&self) -> Result<()> {
        for entry in WalkDir::new(self.root()) {
            let entry = entry?;
            if entry.file_type().is_socket() {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Removes the directories with a line feed in their names, which writers of nested files put into comments.
    pub(crate) fn without_lines_in_comments(&self) -> Result<()> {
        let all: Vec<_> = WalkDir::new(self.root()).contents_first(true).into_iter().collect::<Result<_, _>>()?;
        let lines = |entry: &&walkdir::DirEntry| entry.file_name().as_encoded_bytes().contains(&b'\n');
        for entry in all.iter().filter(|entry| entry.file_type().is_dir()).filter(lines) {
            fs::remove_dir_all(entry.path())?;
        }
        Ok(())
    }

    /// Removes what an export to mtree refuses.
    pub(crate) fn without_wildcards(&self) -> Result<()> {
        remove_wildcards(self.root())
    }

    /// How many paths there are, the root not counted.
    pub(crate) fn count(&self) -> usize {
        WalkDir::new(self.root()).min_depth(1).into_iter().count()
    }
}

/// Removes what has a wildcard in its name; of those that random trees have, that is `*`.
pub(crate) fn remove_wildcards(root: &Path) -> Result<()> {
    let all: Vec<_> = WalkDir::new(root).contents_first(true).into_iter().collect::<Result<_, _>>()?;
    for entry in all.iter().filter(|entry| entry.file_name() == "*") {
        if entry.file_type().is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

pub(crate) fn scan(sandbox: &Sandbox, manifest: &Path, root: &Path) -> Result<BTreeSet<Drift>> {
    let arguments: [&OsStr; 6] = [
        "scan".as_ref(),
        "--format".as_ref(),
        "ndjson".as_ref(),
        "--manifest".as_ref(),
        manifest.as_ref(),
        root.as_ref(),
    ];
    let report = Report::from_ndjson(&sandbox.driftlock(arguments).run()?)?;
    ensure!(report.summary["complete"] == true, "{}", report.summary);
    let known = |mut drift: Drift| {
        drift.attributes.remove("xattrs");
        (drift.change != "changed" || !drift.attributes.is_empty()).then_some(drift)
    };
    Ok(report.drifts.into_iter().filter_map(known).collect())
}
