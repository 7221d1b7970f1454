//! Owns what goes wrong with the collector while a fleet reports to it. Must not own what must hold all the same.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use driftlock_tests::fleet::endpoint::Endpoint;
use driftlock_tests::namespace::{tmpfs_of, unmount};
use driftlock_tests::random::Random;
use driftlock_tests::wait::{eventually, pass};
use nix::sys::signal::Signal;

use crate::fleet::Counts;

/// Deliveries after which an outage is one, whether it was noticed or not.
const ENOUGH: u64 = 100;

/// A file system in memory for a collector's data. Unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Disk {
    at: tempfile::TempDir,
}

/// What takes the room on it.
#[derive(Debug)]
struct Filler(PathBuf);

impl Disk {
    pub(crate) fn new() -> Result<Self> {
        let at = tempfile::Builder::new().prefix("driftlock-test-").tempdir()?;
        tmpfs_of(at.path(), "size=1g,mode=700")?;
        Ok(Self { at })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.at.path().join(name)
    }

    fn fill(&self) -> Result<Filler> {
        let path = self.path("filler");
        let mut file = File::create(&path)?;
        let block = vec![0; 1 << 20];
        for size in [block.len(), 4096] {
            while file.write_all(&block[..size]).is_ok() {}
        }
        Ok(Filler(path))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It is gone with the namespace otherwise.
        let _gone = unmount(self.at.path());
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.0);
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outage {
    /// It is killed, and started again after a while.
    Killed,
    /// There is no room for what it keeps.
    Full,
    /// It is killed while there is no room.
    KilledFull,
    /// It stands still.
    Still,
}

impl Outage {
    /// Each at least once in a storm.
    pub(crate) const ALL: [Self; 4] = [Self::Killed, Self::Full, Self::KilledFull, Self::Still];

    /// Lets it happen and be over.
    ///
    /// # Errors
    /// If the collector does not come back, or is not hit.
    pub(crate) fn strike(
        self,
        endpoint: &mut Endpoint,
        disk: &Disk,
        random: &mut Random,
        counts: &Counts,
    ) -> Result<()> {
        let mut moment = |most: u64| Duration::from_millis(random.below(most));
        match self {
            Self::Killed => {
                endpoint.kill()?;
                pass(moment(500));
                endpoint.again()?;
            }
            Self::Full | Self::KilledFull => {
                let filler = disk.fill()?;
                // Until something was to be kept for which there is none, however slow the machine is; once that was so, or
                // until much was for which what had grown before did not have to grow.
                let (before, (taken, _)) = (counts.full(), counts.deliveries());
                eventually("a batch for which there was no room", || {
                    let is_hit = counts.full() > before || before > 0 && counts.deliveries().0 > taken + ENOUGH;
                    is_hit.then_some(()).context("none was refused")
                })?;
                pass(moment(300));
                if self == Self::KilledFull {
                    endpoint.kill()?;
                }
                drop(filler);
                if self == Self::KilledFull {
                    endpoint.again()?;
                }
            }
            Self::Still => {
                let process = endpoint.process().context("it runs")?;
                process.signal(Signal::SIGSTOP)?;
                pass(moment(700));
                process.signal(Signal::SIGCONT)?;
            }
        }
        endpoint.check_running()
    }
}

/// Where copies of the store may lie.
pub(crate) fn scratch(endpoint: &Endpoint) -> &Path {
    endpoint.data().parent().expect("a directory in the file system")
}
