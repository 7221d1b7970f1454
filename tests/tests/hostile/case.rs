//! A tree that is sealed and scanned by the command itself.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::binaries::binaries;
use driftlock_tests::fuse::{self, Fuse};
use driftlock_tests::namespace;
use driftlock_tests::sandbox::{Finished, Invocation, Sandbox};
use driftlock_tests::told::Told;
use driftlock_tests::tree::Tree;
use driftlock_tests::wait::pass;

/// A place with the tree `root` in it, and later its manifest.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) sandbox: Sandbox,
    pub(crate) tree: Tree,
}

impl Case {
    /// An empty tree.
    pub(crate) fn new() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let tree = sandbox.tree("root")?;
        Ok(Self { sandbox, tree })
    }

    pub(crate) fn root(&self) -> &Path {
        self.tree.root()
    }

    pub(crate) fn manifest(&self) -> PathBuf {
        self.sandbox.path("manifest")
    }

    /// Seals the tree as it is, and sees that it then is clean.
    pub(crate) fn seal(&self) -> Result<()> {
        self.seal_under("portable")?;
        self.scan()?.expect([""; 0]).context("as sealed")
    }

    /// Seals the tree under a profile.
    pub(crate) fn seal_under(&self, profile: &str) -> Result<()> {
        self.try_seal(profile)?.expect(0)?;
        Ok(())
    }

    /// The same, and takes any end of it.
    pub(crate) fn try_seal(&self, profile: &str) -> Result<Finished> {
        let (source, manifest) = (self.source(), self.manifest());
        let args: [&OsStr; 6] =
            ["seal".as_ref(), "--profile".as_ref(), profile.as_ref(), &source, "-o".as_ref(), manifest.as_ref()];
        self.sandbox.driftlock(args).run()
    }

    /// The tree as `seal` wants it named.
    pub(crate) fn source(&self) -> OsString {
        let mut source = OsString::from("dir:");
        source.push(self.root());
        source
    }

    /// The arguments of a scan of the tree.
    pub(crate) fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = ["scan", "--format", "ndjson", "--manifest"].map(OsString::from).into();
        arguments.push(self.manifest().into());
        arguments.push(self.root().into());
        arguments
    }

    /// Scans, and takes any end of it.
    pub(crate) fn finish(&self) -> Result<Finished> {
        self.sandbox.driftlock(self.arguments()).run()
    }

    /// Scans the tree to its end.
    pub(crate) fn scan(&self) -> Result<Told> {
        Told::of(&self.finish()?)
    }

    /// Scans as nobody, and takes any end of it.
    pub(crate) fn finish_as_nobody(&self) -> Result<Finished> {
        let program = self.sandbox.path("driftlock");
        if !program.exists() {
            self.sandbox.driftlock_for_everyone()?;
        }
        self.sandbox.command(&program, self.arguments()).unprivileged().run()
    }

    /// A scan that `words` start: another program in front of it, with its own arguments.
    pub(crate) fn behind<A: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = A>) -> Invocation {
        let mut line: Vec<OsString> = words.into_iter().map(|word| word.as_ref().to_owned()).collect();
        line.push(binaries().driftlock.clone().into());
        line.extend(self.arguments());
        self.sandbox.command(Path::new(&line[0]), &line[1..])
    }
}

/// Removes a tree whose paths are too long for most programs.
#[derive(Debug)]
pub(crate) struct RemovedByLegs<'a>(pub(crate) &'a Path);

impl Drop for RemovedByLegs<'_> {
    fn drop(&mut self) {
        let _left = Command::new("rm").arg("-rf").arg(self.0).status();
    }
}

/// Between two attacks.
const PAUSE: Duration = Duration::from_micros(50);

/// Runs `attack` over and over while `watched` runs to its end.
pub(crate) fn during<T>(
    mut attack: impl FnMut() -> Result<()> + Send,
    watched: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let attacker = scope.spawn(|| {
            let mut times = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                attack()?;
                times += 1;
                // Often enough to meet a scan many times, and the scan has to get on too.
                pass(PAUSE);
            }
            ensure!(times > 1, "the attack did not happen");
            Ok(())
        });
        let result = {
            // However `watched` ends, or the scope would wait for ever.
            let _stopped = Stop(&stop);
            watched()
        };
        attacker.join().ok().context("the attacker panicked")??;
        result
    })
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A sealed tree in the test's own file system, handed to `test` where only it sees it.
pub(crate) fn in_fuse(
    fill: impl FnOnce(&mut fuse::Tree),
    test: impl FnOnce(&Case, &Fuse) -> Result<()> + Send,
) -> Result<()> {
    let case = Case::new()?;
    let mut tree = fuse::Tree::new();
    fill(&mut tree);
    namespace::within(|| {
        let fuse = Fuse::mount(case.root(), tree)?;
        case.seal()?;
        test(&case, &fuse)
    })
}
