//! Owns a control group of a command's own, which counts the memory that is charged to it: its pages, those it brought
//! into the page cache, and the kernel's own for it. Must not own how much that may be.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};

const VERSION_1: &str = "/sys/fs/cgroup/memory";
const VERSION_2: &str = "/sys/fs/cgroup";

/// A group, removed when dropped. It has no limit but one that a test sets.
#[derive(Debug)]
pub struct MemoryGroup {
    directory: PathBuf,
    /// The file that takes the most that may be charged.
    limit: &'static str,
    /// The file that says the most that was charged at any moment since the group was made.
    peak: &'static str,
}

impl MemoryGroup {
    /// A new one, of the memory hierarchy of version 1 where there is one, else of version 2 (Linux 5.19).
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new() -> Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let (top, peak, limit) = if Path::new(VERSION_1).join("memory.usage_in_bytes").exists() {
            (VERSION_1, "memory.max_usage_in_bytes", "memory.limit_in_bytes")
        } else {
            let controllers = fs::read_to_string(Path::new(VERSION_2).join("cgroup.controllers"))
                .context("no control groups are mounted")?;
            ensure!(controllers.split_whitespace().any(|name| name == "memory"), "no controller for memory");
            fs::write(Path::new(VERSION_2).join("cgroup.subtree_control"), "+memory")
                .context("memory is not counted in groups")?;
            (VERSION_2, "memory.peak", "memory.max")
        };
        let name = format!("driftlock-test-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let directory = Path::new(top).join(name);
        fs::create_dir(&directory).with_context(|| directory.display().to_string())?;
        let group = Self { directory, limit, peak };
        group.peak()?;
        Ok(group)
    }

    /// `command` as a command line that first moves into the group.
    pub fn around<A: AsRef<OsStr>>(&self, command: impl IntoIterator<Item = A>) -> Vec<OsString> {
        const SCRIPT: &str = "echo $$ > \"$0\" && exec \"$@\"";
        let mut line: Vec<OsString> = ["sh", "-c", SCRIPT].map(OsString::from).into();
        line.push(self.directory.join("cgroup.procs").into());
        line.extend(command.into_iter().map(|word| word.as_ref().to_owned()));
        line
    }

    /// From now on no more than `bytes` may be charged: what can be written back or dropped is, and if that is not enough
    /// the kernel kills.
    ///
    /// # Errors
    /// If the kernel does not take it.
    pub fn limit(&self, bytes: u64) -> Result<()> {
        let file = self.directory.join(self.limit);
        fs::write(&file, bytes.to_string()).with_context(|| file.display().to_string())
    }

    /// The most that was charged to the group at any moment so far, in bytes.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn peak(&self) -> Result<u64> {
        let file = self.directory.join(self.peak);
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        Ok(text.trim().parse()?)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // What still runs in it keeps it.
        let _kept = fs::remove_dir(&self.directory);
    }
}

/// Why no group can be made; `None` if one can.
pub fn missing() -> Option<String> {
    MemoryGroup::new().err().map(|error| format!("needs a control group for memory: {error:#}"))
}
