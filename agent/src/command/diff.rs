//! `driftlock diff`: compares two trees that are manifests, or that can be sealed, under the same terms.

use std::time::Instant;

use anyhow::anyhow;
use driftlock_common::compared::Compared;
use driftlock_common::digest::{Algorithm, Digest};
use driftlock_common::drift::{Drift, diff};
use driftlock_common::exit::Exit;
use driftlock_common::finding::{ExcludedView, ManifestView, Summary};
use driftlock_common::manifest::{Header, Manifest};
use driftlock_common::profile::Profile;

use super::seal;
use crate::cli::{DiffArgs, FormatArg, TermsArgs};
use crate::failure::{Failure, Outcome};
use crate::gate::Gate;
use crate::output::{self, Changes, Output, Whole};
use crate::pool::Pool;
use crate::scan::Tally;
use crate::source::{self, Source, Terms};

/// Runs the verb.
///
/// # Errors
/// If a side cannot be read, or the two cannot be compared under the same terms.
pub fn run(args: DiffArgs) -> Outcome {
    let started = Instant::now();
    let pool = Pool::new(None).map_err(|error| Failure::new(Exit::Io, error))?;
    let (a, b) = read_both(&args, &pool)?;
    let profile = a.header.profile.min(b.header.profile);
    let compared = Compared::all(profile);
    let drifts: Vec<Drift> = diff(&a.tree, &b.tree).into_iter().filter_map(|drift| compared.narrow(drift)).collect();
    let mut tally = Tally::default();
    drifts.iter().for_each(|drift| tally.count(drift, &a.tree));
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
        entries: b.tree.len() as u64,
        remembered: 0,
        files_hashed: 0,
        bytes_hashed: 0,
        duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        manifest: view(&a),
        excluded: ExcludedView {
            manifest: a.header.excludes.iter().map(str::to_owned).collect(),
            ..ExcludedView::default()
        },
        observed_tree: Some(b.name()),
    };
    let changes = Changes { old: &a, new: &b, drifts: &drifts, summary: &summary };
    let whole = Whole {
        verb: "diff",
        drifts: &drifts,
        header: &a.header,
        summary: &summary,
        gate: Gate::default(),
        exit: tally.bits,
        unreached: None,
        root: None,
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

/// Reads both sides. A manifest states the terms; what is not one is read under them.
fn read_both(args: &DiffArgs, pool: &Pool) -> Result<(Manifest, Manifest), Failure> {
    let stated = seal::terms(&args.terms, true, false)?;
    let sources = (Source::parse(args.a.as_str())?, Source::parse(args.b.as_str())?);
    let read = |source: &Source, terms: &Terms| Ok::<_, Failure>(source::read(source, terms, pool)?.manifest);
    let under = |manifest: &Manifest, name: &str| {
        check_stated(&args.terms, &stated, &manifest.header, name)?;
        if manifest.header.content != Algorithm::Blake3 {
            return Err(usage(anyhow!("{name} has SHA-256 digests only; a source cannot be read under these terms")));
        }
        Ok(Terms::of(&manifest.header, &stated.platform))
    };
    match &sources {
        (a @ Source::Manifest(_), b @ Source::Manifest(_)) => {
            let (a, b) = (read(a, &stated)?, read(b, &stated)?);
            check_stated(&args.terms, &stated, &a.header, &args.a)?;
            check_same(&a.header, &b.header)?;
            Ok((a, b))
        }
        (a @ Source::Manifest(_), b) => {
            let a = read(a, &stated)?;
            let b = read(b, &under(&a, &args.a)?)?;
            Ok((a, b))
        }
        (a, b @ Source::Manifest(_)) => {
            let b = read(b, &stated)?;
            let a = read(a, &under(&b, &args.b)?)?;
            Ok((a, b))
        }
        (a, b) => Ok((read(a, &stated)?, read(b, &stated)?)),
    }
}

/// What the command line states must not contradict a manifest.
fn check_stated(args: &TermsArgs, stated: &Terms, header: &Header, name: &str) -> Result<(), Failure> {
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

/// Two manifests can be compared if neither leaves out what the other holds.
fn check_same(a: &Header, b: &Header) -> Result<(), Failure> {
    if a.excludes != b.excludes {
        return Err(usage(anyhow!("the two manifests leave out different paths: seal both with the same excludes")));
    }
    if a.content != b.content {
        return Err(usage(anyhow!("the two manifests have digests of different algorithms")));
    }
    Ok(())
}

fn view(manifest: &Manifest) -> ManifestView {
    let origin = manifest.header.source.as_ref().map_or("other", |source| source.kind.origin());
    ManifestView {
        tree: manifest.name(),
        sha256: Digest::sha256(&manifest.encode()),
        trust: "unsigned".into(),
        origin: origin.into(),
    }
}

fn usage(error: anyhow::Error) -> Failure {
    Failure::new(Exit::Usage, error)
}
