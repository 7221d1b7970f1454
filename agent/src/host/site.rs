//! Owns what can be found out about one root: where it lies, what is mounted in it, what of it can be read and watched.
//! Must not own finding the root: it is given opened, however it was reached.

use std::os::fd::BorrowedFd;

use driftlock_common::path::TreePath;
use rustix::fs::{Mode, OFlags, openat};

use super::Known;
use super::file_system::{Kind, is_virtual};
use super::mountinfo::{Mount, containing, points_below, visible};
use super::probe::{Answer, RootProbes};
use super::survey::{Files, MOST_ENTRIES, Survey, Terms, survey};
use crate::baseline::LeftOut;
use crate::scan::Mounts;

/// A root, as this process finds it.
#[derive(Debug)]
pub struct Site {
    /// Where it lies in the mount table it was looked up in: absolute, without links.
    pub at: Vec<u8>,
    /// Whether its names can be read.
    pub readable: Answer,
    /// What the kernel grants on its file system.
    pub probes: RootProbes,
    /// The mount it lies in.
    pub mount: Known<Mount>,
    /// Mounts inside it, relative to it, in order.
    pub inside: Known<Vec<(TreePath, Mount)>>,
    /// What is in it; `None` if it was not looked over: it cannot be read, or that could take for ever.
    pub survey: Option<Survey>,
}

/// How a root is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Approach<'a> {
    /// Where it lies: absolute, without links.
    pub at: &'a [u8],
    /// The mount table in which that is so.
    pub mounts: &'a Known<Vec<Mount>>,
    /// Whether files are asked for their permission.
    pub files: Files,
    /// What does not matter.
    pub left_out: &'a LeftOut,
    /// What is done about mounts inside.
    pub inside: Mounts,
}

impl Site {
    /// Looks at `root`, an opened directory.
    pub fn visit(root: BorrowedFd<'_>, approach: Approach<'_>) -> Self {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let readable = openat(root, c".", flags, Mode::empty()).map(drop);
        let mount = approach.mounts.as_ref().map_err(Clone::clone).and_then(|mounts| {
            let found = containing(&visible(mounts), approach.at).cloned();
            found.ok_or_else(|| "it lies in no mount of this process's table".to_owned())
        });
        let inside = approach.mounts.as_ref().map_err(Clone::clone).and_then(|mounts| inside(mounts, approach.at));
        let hangs = |mount: &Mount| Kind::of(&mount.fs_type).may_hang();
        let entered = |mount: &Mount| approach.inside == Mounts::Cross && !hangs(mount) && !is_virtual(mount);
        let avoided: Vec<TreePath> =
            inside.iter().flatten().filter(|(_, mount)| !entered(mount)).map(|(at, _)| at.clone()).collect();
        let survey = (readable.is_ok() && !mount.as_ref().is_ok_and(hangs)).then(|| {
            let terms = Terms {
                most_entries: MOST_ENTRIES,
                files: approach.files,
                left_out: approach.left_out,
                avoided: &avoided,
            };
            survey(root, terms)
        });
        let file = survey.as_ref().and_then(|survey| survey.file.as_ref());
        let probes = RootProbes::ask(root, file.map(std::os::fd::AsFd::as_fd));
        Self { at: approach.at.to_vec(), readable, probes, mount, inside, survey }
    }
}

fn inside(mounts: &[Mount], at: &[u8]) -> Known<Vec<(TreePath, Mount)>> {
    let points = points_below(mounts, at).map_err(|error| error.to_string())?;
    let visible = visible(mounts);
    let with_mount = |point: TreePath| {
        let absolute = [at.strip_suffix(b"/").unwrap_or(at), b"/", point.as_bytes()].concat();
        let mount = containing(&visible, &absolute).cloned();
        mount.map(|mount| (point, mount)).ok_or_else(|| "a mount point without a mount".to_owned())
    };
    points.into_iter().map(with_mount).collect()
}
