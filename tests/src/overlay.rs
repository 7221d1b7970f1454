//! Owns running a command in a mount namespace in which an overlay is mounted, as a container's root is: it is gone
//! with the command. Must not own what the command does there.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::page_cache::ON_DISK;

/// Which layer of an overlay a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// That of the image.
    Lower,
    /// That of the container, which is written to.
    Upper,
}

/// An overlay of a directory of files and an empty one.
#[derive(Clone, Debug)]
pub struct Overlay {
    options: String,
    merged: PathBuf,
}

impl Overlay {
    /// Of `tree` as its `layer`; what else it needs is made in `place`, which must be on the file system of `tree`. No
    /// path may have a comma or a colon.
    ///
    /// # Errors
    /// If the directories cannot be made.
    pub fn new(tree: &Path, layer: Layer, place: &Path) -> Result<Self> {
        let [empty, work, merged] = ["empty", "work", "merged"].map(|name| place.join(name));
        for directory in [&empty, &work, &merged] {
            std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        }
        let (lower, upper) = match layer {
            Layer::Lower => (tree, empty.as_path()),
            Layer::Upper => (empty.as_path(), tree),
        };
        let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
        Ok(Self { options, merged })
    }

    /// Where the command sees it.
    pub fn root(&self) -> &Path {
        &self.merged
    }

    /// `command` as a command line that first mounts the overlay where only it sees it.
    pub fn around<A: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = A>) -> Vec<OsString> {
        const SCRIPT: &str = "mount -t overlay -o \"$0\" overlay \"$1\" && shift && exec \"$@\"";
        let mut line: Vec<OsString> = ["unshare", "--mount", "sh", "-c", SCRIPT].map(OsString::from).into();
        line.push(self.options.clone().into());
        line.push(self.merged.clone().into());
        line.extend(command.into_iter().map(|word| word.as_ref().to_owned()));
        line
    }
}

/// Why no overlay can be mounted on [`ON_DISK`]; `None` if one can.
pub fn missing() -> Option<String> {
    let attempt = || -> Result<()> {
        let place = tempfile::tempdir_in(ON_DISK)?;
        let tree = place.path().join("tree");
        std::fs::create_dir(&tree)?;
        let line = Overlay::new(&tree, Layer::Lower, place.path())?.around(["true"]);
        let output = Command::new(&line[0]).args(&line[1..]).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    };
    attempt().err().map(|error| format!("needs to mount an overlay: {error:#}"))
}
