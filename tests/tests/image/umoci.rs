//! Random layers against another reader of images: what umoci unpacks scans clean, and what umoci says that it unpacked is
//! what driftlock sealed, attribute by attribute. Belongs here: what engines agree on.

use std::collections::BTreeSet;
use std::env;
use std::ops::Range;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::drift::Report;
use driftlock_tests::image::{Layout, TAG};
use driftlock_tests::random_image::RandomImage;
use driftlock_tests::require::Requirement::{self, Root, Umoci};
use driftlock_tests::require::trial_with;
use driftlock_tests::sandbox::Sandbox;
use libtest_mimic::Trial;

use crate::described::{ensure_same, sealed, unpack};

const NEEDS: &[Requirement] = &[Root, Umoci];

/// Trees in one image, each in a directory of its own.
const TOGETHER: u64 = 20;

/// Seeds of one test: enough for everything of [`all_that_is_done`].
const PART: u64 = 200;

pub(crate) fn trials() -> Vec<Trial> {
    let seeds = env::var("DRIFTLOCK_TEST_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(3 * PART);
    let part = |first: u64| {
        let name = format!("what_umoci_unpacks_is_what_is_sealed_from_seed_{first}");
        trial_with(name, NEEDS, move || {
            let done = images(first..first + PART, TOGETHER)?;
            let never: Vec<_> = all_that_is_done().into_iter().filter(|what| !done.contains(what)).collect();
            ensure!(never.is_empty(), "never done: {never:?}");
            Ok(())
        })
    };
    let parts = seeds.div_ceil(PART);
    let mut trials: Vec<Trial> = (0..parts).map(|index| part(index * PART)).collect();
    trials.push(trial_with("what_umoci_unpacks_where_layers_reach_the_root", NEEDS, move || {
        images(parts * PART..parts * PART + seeds / 10, 1).map(drop)
    }));
    trials
}

/// So that no way of laying layers over each other goes untested in silence.
fn all_that_is_done() -> Vec<String> {
    let mut all: Vec<String> = [
        "attribute",
        "capability",
        "fraction of a second",
        "opaque after an entry below it",
        "opaque over lower ones",
        "set-user-id or set-group-id",
        "whiteout",
        "whiteout after the entry, lower ones below",
        "whiteout after the entry, nothing below",
    ]
    .map(str::to_owned)
    .to_vec();
    for when in ["its own", "a lower"] {
        for was in ["directory", "file", "symlink", "other"] {
            all.extend((was != "directory").then(|| format!("hard link to {was} of {when} layer")));
            for is in ["directory", "file", "symlink", "fifo", "device"] {
                all.push(format!("{is} over {was} of {when} layer"));
            }
        }
    }
    all
}

fn images(seeds: Range<u64>, together: u64) -> Result<BTreeSet<String>> {
    let mut done = BTreeSet::new();
    for first in seeds.clone().step_by(usize::try_from(together)?) {
        let some = first..(first + together).min(seeds.end);
        done.append(&mut one_image(some.clone()).with_context(|| format!("seeds {some:?}"))?);
    }
    Ok(done)
}

fn one_image(seeds: Range<u64>) -> Result<BTreeSet<String>> {
    let sandbox = Sandbox::new()?;
    let image = RandomImage::new(seeds);
    let done = image.done().clone();
    let mut layout = Layout::create(sandbox.path("layout"))?;
    for layer in image.layers() {
        layout = layout.layer(&layer)?;
    }
    let layout = layout.finish()?;
    let unpacked = unpack(&sandbox, layout.dir(), TAG, "bundle")?;

    let manifest = sandbox.seal(layout.source(), "portable")?;
    let arguments = ["scan".as_ref(), "--format".as_ref(), "ndjson".as_ref(), "--manifest".as_ref()];
    let arguments = arguments.into_iter().chain([manifest.as_os_str(), unpacked.root.as_os_str()]);
    let report = Report::from_ndjson(&sandbox.driftlock(arguments).run()?)?;
    ensure!(report.findings.is_empty() && report.summary["complete"] == true, "{:?}", report.drifts);

    // All that driftlock can seal, so that all of it is compared.
    let full = sandbox.path("full");
    let source = layout.source();
    let seal =
        ["seal".as_ref(), source.as_ref(), "--profile".as_ref(), "full".as_ref(), "-o".as_ref(), full.as_os_str()];
    sandbox.driftlock(seal).run()?.expect(0)?;
    ensure_same(&unpacked.described, &sealed(&full)?)?;
    Ok(done)
}
