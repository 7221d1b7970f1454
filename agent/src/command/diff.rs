//! `driftlock diff`: compares two trees that are manifests, or that can be sealed, under the same terms.

use std::cmp::Ordering;
use std::time::Instant;

use anyhow::anyhow;
use driftlock_common::compared::Compared;
use driftlock_common::digest::Digest;
use driftlock_common::drift::diff;
use driftlock_common::exit::Exit;
use driftlock_common::finding::{ExcludedView, ManifestView, Summary, Unjudged};
use driftlock_common::manifest::{Header, Manifest};
use driftlock_common::policy::Judged;
use driftlock_common::profile::Profile;

use super::{seal, sealed};
use crate::cli::{DiffArgs, FormatArg, TermsArgs};
use crate::failure::{Failure, Outcome};
use crate::gate::Gate;
use crate::output::{self, Changes, Output, Whole};
use crate::pool::Pool;
use crate::scan::Tally;
use crate::source::{Source, Terms};

/// Runs the verb.
///
/// # Errors
/// If a side cannot be read, or the two cannot be compared under the same terms.
pub fn run(args: DiffArgs) -> Outcome {
    let started = Instant::now();
    let pool = Pool::new(None).map_err(|error| Failure::new(Exit::Io, error))?;
    let (Side { manifest: a, known }, Side { manifest: b, .. }) = read_both(&args, &pool)?;
    let profile = a.header.profile.min(b.header.profile);
    let compared = Compared::all(profile);
    let drifts = diff(&a.tree, &b.tree).into_iter().filter_map(|drift| compared.narrow(drift));
    let findings: Vec<Judged<'_>> = drifts.map(Judged::from).collect();
    let mut tally = Tally::default();
    findings.iter().for_each(|judged| tally.count(judged, &a.tree));
    let summary = Summary {
        complete: true,
        scope: if a.header.profile == b.header.profile { "full" } else { "partial" }.into(),
        profile,
        compared: compared.attributes(),
        fail_on: Vec::new(),
        added: tally.added,
        removed: tally.removed,
        changed: tally.changed,
        unverifiable: 0,
        tolerated: 0,
        policy: None,
        unjudged: Unjudged::default(),
        entries: b.tree.len() as u64,
        remembered: 0,
        files_hashed: 0,
        bytes_hashed: 0,
        duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        manifest: view(&a, known),
        excluded: ExcludedView {
            manifest: a.header.excludes.iter().map(str::to_owned).collect(),
            ..ExcludedView::default()
        },
        observed_tree: Some(b.name()),
    };
    let changes = Changes { old: &a, new: &b, findings: &findings, summary: &summary };
    let whole = Whole {
        verb: "diff",
        findings: &findings,
        sealed_in: (&a.header).into(),
        summary: &summary,
        gate: Gate::default(),
        exit: tally.bits,
        unreached: None,
        root: None,
        all: true,
    };
    let colour = output::colour();
    match args.format {
        FormatArg::Text => Output::stdout().changes(&changes, colour)?,
        form @ (FormatArg::Json | FormatArg::Ndjson | FormatArg::Sarif | FormatArg::Junit) => {
            Output::stdout().whole(form, &whole, colour)?
        }
    };
    Ok(Exit::Found(tally.bits))
}

/// Reads both sides. A manifest states the terms; what is not one is read under them. An mtree file states what it leaves
/// out.
fn read_both(args: &DiffArgs, pool: &Pool) -> Result<(Side, Side), Failure> {
    let accept = sealed::accept(&args.keys)?;
    let stated = seal::terms(&args.terms, true, false)?;
    let (a, b) = (Source::parse(args.a.as_str())?, Source::parse(args.b.as_str())?);
    let read = |source: &Source, name: &str, terms: &Terms| {
        let (manifest, known) = sealed::read(source, &accept, terms, pool)?;
        if known.is_some() {
            check_stated(&args.terms, &stated, &manifest.header, name)?;
        }
        Ok::<_, Failure>(Side { manifest, known })
    };
    let under = |first: &Side| Terms::of(&first.manifest.header, &stated);
    let (mut read_a, mut read_b) = match says(&a).cmp(&says(&b)) {
        Ordering::Less => {
            let read_b = read(&b, &args.b, &stated)?;
            (read(&a, &args.a, &under(&read_b))?, read_b)
        }
        Ordering::Equal => (read(&a, &args.a, &stated)?, read(&b, &args.b, &stated)?),
        Ordering::Greater => {
            let read_a = read(&a, &args.a, &stated)?;
            let read_b = read(&b, &args.b, &under(&read_a))?;
            (read_a, read_b)
        }
    };
    let (header_a, header_b) = (&read_a.manifest.header, &read_b.manifest.header);
    if header_a.excludes != header_b.excludes {
        return Err(usage(anyhow!("the two leave out different paths: seal both with the same excludes")));
    }
    if header_a.content != header_b.content {
        read_a.manifest = by_sha256(read_a.manifest, &args.a)?;
        read_b.manifest = by_sha256(read_b.manifest, &args.b)?;
    }
    Ok((read_a, read_b))
}

/// One of the two.
struct Side {
    manifest: Manifest,
    /// What is known of its file, if it was sealed before.
    known: Option<ManifestView>,
}

/// How much of the terms a source states itself.
const fn says(source: &Source) -> u8 {
    match source {
        Source::Manifest(_) => 2,
        Source::Mtree(_) => 1,
        _ => 0,
    }
}

/// Where one side has nothing but SHA-256, the other is compared by its SHA-256 too.
fn by_sha256(manifest: Manifest, name: &str) -> Result<Manifest, Failure> {
    manifest.by_sha256().map_err(|path| {
        let path = path.escaped().to_string();
        usage(anyhow!(
            "{name}: {path} has no SHA-256, and the other side has nothing else: seal it without --no-sha256"
        ))
    })
}

/// What the command line states must not contradict a manifest.
pub(super) fn check_stated(args: &TermsArgs, stated: &Terms, header: &Header, name: &str) -> Result<(), Failure> {
    // The default profile cannot be told from one that was typed; it gives way.
    if stated.profile != Profile::default() && stated.profile != header.profile {
        let (asked, sealed) = (stated.profile.name(), header.profile.name());
        return Err(usage(anyhow!("--profile {asked} contradicts {name}, which was sealed with {sealed}")));
    }
    let excludes = !(args.exclude.is_empty() && args.exclude_set.is_empty());
    if excludes && stated.excludes != header.excludes {
        return Err(usage(anyhow!(
            "the excludes given contradict {name}, which was sealed with others: leave them out"
        )));
    }
    Ok(())
}

/// Compared by SHA-256, it is another than its file holds.
fn view(manifest: &Manifest, known: Option<ManifestView>) -> ManifestView {
    let tree = manifest.name();
    let unsigned = || ManifestView {
        tree,
        sha256: Digest::sha256(&manifest.encode()),
        trust: "unsigned".into(),
        key: None,
        origin: manifest.header.source.as_ref().map_or("other", |source| source.kind.origin()).into(),
        parts: Vec::new(),
    };
    known.filter(|known| known.tree == tree).unwrap_or_else(unsigned)
}

fn usage(error: anyhow::Error) -> Failure {
    Failure::new(Exit::Usage, error)
}
