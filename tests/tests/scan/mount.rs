//! File systems mounted inside a root, in a mount namespace of the test's own.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use driftlock_common::profile::Profile;
use libtest_mimic::{Completion, Trial};

use super::{child, subject};

pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::ignorable_test("mount::what_is_below_a_mount_is_not_verified_and_never_removed", || match missing() {
        Some(reason) => Ok(Completion::ignored_with(reason)),
        None => inside().map(|()| Completion::Completed).map_err(|error| format!("{error:#}").into()),
    })]
}

fn missing() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root: the user id is not 0".into());
    }
    let allowed = Command::new("unshare").args(["--mount", "true"]).output().is_ok_and(|ran| ran.status.success());
    (!allowed).then(|| "needs unshare --mount".into())
}

fn inside() -> Result<()> {
    let temp = tempfile::tempdir()?;
    let root = temp.path().join("root");
    fs::create_dir_all(root.join("mounted/below"))?;
    fs::write(root.join("mounted/below/file"), "sealed")?;
    fs::write(root.join("file"), "sealed")?;
    fs::write(root.join("steady"), "sealed")?;
    let manifest = temp.path().join("manifest");
    fs::write(&manifest, subject::seal(&root, Profile::Portable)?.encode())?;
    fs::create_dir(root.join("new"))?;
    fs::write(temp.path().join("other"), "other!")?;
    // A directory of another file system, a file of the same one, and a mount where nothing was sealed.
    for (mounts, expected) in [
        (
            "report",
            &[
                "unverifiable file mount 1",
                "unverifiable mounted mount 3",
                "added new mount",
                "incomplete full [file mounted new]",
            ][..],
        ),
        ("skip", &["complete partial [file mounted new]"]),
        ("mounted", &["unverifiable file mount 1", "added new mount", "incomplete partial [file mounted new]"]),
        (
            "cross",
            &[
                "changed file",
                "changed mounted",
                "removed mounted/below",
                "removed mounted/below/file",
                "added mounted/inside",
                "added new",
                "complete full []",
            ],
        ),
    ] {
        let found =
            child::output(&mut in_namespace(&root, temp.path(), &child::scanning(&root, &manifest, 0, mounts))?)?;
        ensure!(found == expected, "mounts = {mounts}: {found:#?}");
    }
    Ok(())
}

/// `child`, with file systems mounted below `root`, which only it sees.
fn in_namespace(root: &Path, temp: &Path, child: &Command) -> Result<Command> {
    const SCRIPT: &str = "set -e; root=$1; temp=$2; shift 2
        mount -t tmpfs none \"$root/mounted\"; touch \"$root/mounted/inside\"; mount -t tmpfs none \"$root/new\"
        mount --bind \"$temp/other\" \"$root/file\"
        exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", SCRIPT, "sh"]).arg(root).arg(temp);
    // The shell would find itself behind the child's own name for this binary.
    command.arg(std::env::current_exe().context("this binary")?).args(child.get_args());
    Ok(command)
}
