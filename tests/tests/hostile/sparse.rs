//! A file that claims a terabyte and holds nothing: reading it all would take an hour, and nobody asked for it.

use std::fs::File;

use anyhow::{Result, ensure};
use driftlock_tests::require;
use libtest_mimic::Trial;

use super::case::Case;

pub(crate) fn trials() -> Vec<Trial> {
    vec![require::trial("sparse::a_terabyte_that_was_not_sealed_is_told_and_not_read", &[], terabyte)]
}

const TERABYTE: u64 = 1 << 40;

fn terabyte() -> Result<()> {
    let case = Case::new()?;
    case.tree.file("sealed", "small")?.file("with-mode", "small")?.file("steady", "small")?;
    case.seal()?;
    case.tree.dir("dir")?;
    for name in ["sealed", "with-mode", "added", "dir/added"] {
        let path = case.tree.path(name);
        File::options().create(true).append(true).open(&path)?.set_len(TERABYTE)?;
        ensure!(path.metadata()?.len() == TERABYTE);
    }
    case.tree.mode("with-mode", 0o600)?;
    let told = case.scan()?;
    told.expect([
        "changed sealed content ? content too_large",
        "changed with-mode content,mode ? content too_large",
        "added added ? content too_large",
        "added dir",
        "added dir/added ? content too_large",
    ])?;
    ensure!(told.report.summary["bytes_hashed"] == 5, "{}", told.report.summary);
    Ok(())
}
