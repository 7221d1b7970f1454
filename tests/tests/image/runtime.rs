//! An image as large as those of real applications: sealed, unpacked by umoci, scanned, compared file by file, tampered
//! with. Belongs here: what shows only on many files.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, ensure};
use driftlock_tests::drift::{Report, ensure_same};
use driftlock_tests::language::{self, FILES, TAG};
use driftlock_tests::require::Requirement::{self, DebianMirror, Debootstrap, DpkgDeb, Root, Skopeo, Umoci};
use driftlock_tests::require::trial;
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::tamper;
use libtest_mimic::Trial;

use crate::described::{self, sealed, unpack};

const NEEDS: &[Requirement] = &[Root, Debootstrap, DebianMirror, DpkgDeb, Umoci, Skopeo];

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("fifty_thousand_files_are_what_umoci_unpacks", NEEDS, fifty_thousand_files)]
}

fn fifty_thousand_files() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let layout = language::layout()?;
    let unpacked = unpack(&sandbox, &layout, TAG, "bundle")?;
    let source = format!("oci:{}", layout.display());

    let full = sandbox.path("full");
    let seal = ["seal", &source, "--profile", "full", "-o"].map(AsRef::as_ref);
    sandbox.driftlock(seal.into_iter().chain([full.as_os_str()])).run()?.expect(0)?;
    let described = sealed(&full)?;
    let files = described.values().filter(|all| all["type"] == "file").count();
    ensure!(files >= FILES, "only {files} files");
    described::ensure_same(&unpacked.described, &described)?;

    let manifest = sandbox.seal(&source, "manifest")?;
    let report = scan(&sandbox, &manifest, &unpacked.root, 0)?;
    ensure!(report.findings.is_empty() && report.summary["complete"] == true, "{:?}", report.drifts);
    ensure!(report.summary["entries"].as_u64() == Some(described.len() as u64), "{}", report.summary);

    let root = &unpacked.root;
    // A place of each layer.
    let expected = BTreeSet::from([
        tamper::content_under_old_size_and_time(root, "usr/bin/dpkg")?,
        tamper::append(root, "etc/issue")?,
        tamper::content_under_old_size_and_time(root, "usr/lib/python3.11/json/decoder.py")?,
        tamper::remove(root, "usr/share/perl/5.36.0/strict.pm")?,
        tamper::setuid(root, "usr/bin/node")?,
        tamper::content_under_old_size_and_time(root, "usr/share/nodejs/lodash/lodash.js")?,
        tamper::append(root, "usr/lib/python3/dist-packages/django/__init__.py")?,
        tamper::chmod(root, "usr/lib/python3/dist-packages/plotly/version.py", 0o666)?,
        tamper::add(root, "usr/share/nodejs/core-js/internals/implant.js")?,
        tamper::add_directory(root, "usr/share/nodejs/npm/node_modules/.hidden")?,
        tamper::add(root, "usr/share/nodejs/npm/node_modules/.hidden/it")?,
    ]);
    let report = scan(&sandbox, &manifest, root, 7)?;
    ensure_same(&expected, &report.drifts)?;
    ensure!(report.summary["complete"] == true, "{}", report.summary);
    Ok(())
}

fn scan(sandbox: &Sandbox, manifest: &Path, root: &Path, code: i32) -> Result<Report> {
    let arguments = ["scan", "--format", "ndjson", "--manifest"].map(AsRef::as_ref);
    let arguments = arguments.into_iter().chain([manifest.as_os_str(), root.as_os_str()]);
    Report::from_ndjson(&sandbox.driftlock(arguments).run()?.expect(code)?)
}
