//! Files with more than one name, inside the root and outside of it.

use std::fs;

use anyhow::Result;
use driftlock_tests::require;
use driftlock_tests::tamper;
use libtest_mimic::Trial;

use super::case::Case;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        require::trial("hardlink::what_changes_under_one_name_is_found_under_each", &[], within),
        require::trial("hardlink::what_changes_under_a_name_outside_is_found_inside", &[], across),
        require::trial("hardlink::another_name_is_not_a_change_of_the_file", &[], names_alone),
    ]
}

fn within() -> Result<()> {
    let case = Case::new()?;
    case.tree.file("one/name", "sealed")?.dir("two")?.file("steady", "sealed")?;
    fs::hard_link(case.tree.path("one/name"), case.tree.path("two/name"))?;
    case.seal()?;
    tamper::content_under_old_size_and_time(case.root(), "one/name")?;
    case.scan()?.expect(["changed one/name content", "changed two/name content"])?;
    tamper::chmod(case.root(), "two/name", 0o600)?;
    case.scan()?.expect(["changed one/name content,mode", "changed two/name content,mode"])?;
    // One of the names becomes a file of its own, as it was sealed.
    fs::remove_file(case.tree.path("two/name"))?;
    case.tree.file("two/name", "sealed")?;
    case.scan()?.expect(["changed one/name content,mode"])
}

fn across() -> Result<()> {
    let case = Case::new()?;
    let outside = case.sandbox.tree("outside")?;
    case.tree.file("linked", "sealed")?.file("steady", "sealed")?;
    fs::hard_link(case.tree.path("linked"), outside.path("alias"))?;
    case.seal()?;
    tamper::content_under_old_size_and_time(outside.root(), "alias")?;
    case.scan()?.expect(["changed linked content"])?;
    // A file from outside under a sealed name, and under a new one.
    outside.file("other", "sealed")?.file("evil", "evil")?;
    fs::remove_file(case.tree.path("linked"))?;
    fs::hard_link(outside.path("evil"), case.tree.path("linked"))?;
    fs::hard_link(outside.path("evil"), case.tree.path("added"))?;
    case.scan()?.expect(["changed linked content", "added added"])?;
    fs::remove_file(case.tree.path("linked"))?;
    fs::hard_link(outside.path("other"), case.tree.path("linked"))?;
    case.scan()?.expect(["added added"])
}

fn names_alone() -> Result<()> {
    let case = Case::new()?;
    let outside = case.sandbox.tree("outside")?;
    case.tree.file("one", "sealed")?.file("two", "sealed")?;
    let modified = case.tree.path("two").metadata()?.modified()?;
    fs::File::options().append(true).open(case.tree.path("one"))?.set_modified(modified)?;
    case.seal_under("full")?;
    for number in 0..50 {
        fs::hard_link(case.tree.path("one"), outside.path(format!("{number}")))?;
    }
    case.scan()?.expect([""; 0])?;
    // Two equal files become one: nothing that was sealed differs.
    fs::remove_file(case.tree.path("two"))?;
    fs::hard_link(case.tree.path("one"), case.tree.path("two"))?;
    case.scan()?.expect([""; 0])
}
