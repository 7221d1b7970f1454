//! `driftlock export`: a manifest, or what can be sealed, in a form that other programs check.

use std::io::{self, Write};

use driftlock_common::exit::Exit;
use driftlock_common::manifest::Manifest;
use driftlock_common::node::{FileType, Xattrs};

use super::{diff, seal, sealed};
use crate::cli::{ExportArgs, ExportFormArg};
use crate::failure::{Failure, Outcome};
use crate::output::check_file::{self, Refusal, Sums};
use crate::output::mtree;
use crate::pool::Pool;
use crate::source::Source;

/// Runs the verb.
///
/// # Errors
/// If the source cannot be read, the form cannot hold it, or the output cannot be written.
pub fn run(args: ExportArgs) -> Outcome {
    let source = Source::parse(args.source.as_str())?;
    let terms = seal::terms(&args.terms, true, false)?;
    let pool = Pool::new(None).map_err(|error| Failure::new(Exit::Io, error))?;
    let (manifest, known) = sealed::read(&source, &sealed::accept(&args.keys)?, &terms, &pool)?;
    if known.is_some() {
        diff::check_stated(&args.terms, &terms, &manifest.header, &args.source)?;
    }
    // All of it is looked at before anything is written.
    for line in lines(&manifest, args.to) {
        line.map_err(|refusal| Failure::new(Exit::Usage, anyhow::Error::new(refusal).context(args.source.clone())))?;
    }
    seal::write_whole(&args.output, |output| {
        lines(&manifest, args.to).flatten().try_for_each(|line| output.write_all(&line))
    })?;
    let mut stderr = io::stderr().lock();
    for note in left_out(&manifest, args.to) {
        // Nothing can be said on a closed stream.
        let _closed = writeln!(stderr, "{note}");
    }
    Ok(Exit::Found(0))
}

fn lines(manifest: &Manifest, form: ExportFormArg) -> Box<dyn Iterator<Item = Result<Vec<u8>, Refusal>> + '_> {
    match form {
        ExportFormArg::Mtree => Box::new(mtree::lines(manifest)),
        ExportFormArg::Sha256sum => Box::new(check_file::lines(manifest, Sums::Sha256)),
        ExportFormArg::B3sum => Box::new(check_file::lines(manifest, Sums::Blake3)),
    }
}

/// What the manifest says and the form does not.
fn left_out(manifest: &Manifest, form: ExportFormArg) -> Vec<String> {
    let tree = &manifest.tree;
    let mut notes = Vec::new();
    if form == ExportFormArg::Mtree {
        let with_xattrs = |id| !tree.node(id).xattrs.as_ref().is_none_or(Xattrs::is_empty);
        let count = tree.iter().filter(|id| with_xattrs(*id)).count();
        if count > 0 {
            notes.push(format!("not exported: extended attributes of {count} paths, which mtree has no keyword for"));
        }
    } else {
        let count = tree.iter().skip(1).filter(|id| tree.file_type(*id) != FileType::File).count();
        notes.push(format!(
            "not exported: {count} paths that are not files, modes and owners, and whether something was added"
        ));
    }
    let excludes = manifest.header.excludes.iter().len();
    if form == ExportFormArg::Mtree && excludes > 0 {
        notes.push(format!(
            "not exported: {excludes} excludes; what they leave out is extra to mtree, unless -X names it"
        ));
    }
    notes
}
