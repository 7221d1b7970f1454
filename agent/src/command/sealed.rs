//! Owns reading what a verb is given: a manifest or a bundle by the keys of the command line, anything else as it is sealed.
//! Must not own what is done with it.

use std::path::PathBuf;
use std::sync::Arc;

use driftlock_common::finding::ManifestView;
use driftlock_common::manifest::Manifest;

use crate::anchor_file;
use crate::baseline::{Accept, Baseline, Terms as TrustTerms};
use crate::cli::KeyArgs;
use crate::failure::Failure;
use crate::known_time;
use crate::pool::Pool;
use crate::source::{self, Source, Terms};

/// What is accepted of a manifest.
///
/// # Errors
/// If a key cannot be read or is none.
pub(super) fn accept(args: &KeyArgs) -> Result<Accept, Failure> {
    match (args.allow_unsigned, args.keys.as_slice()) {
        (true, _) => Ok(Accept::Unsigned),
        (false, []) => Ok(Accept::Bare),
        (false, keys) => signed_by(keys),
    }
}

/// Only what one of these keys signed, by what the clock says now.
///
/// # Errors
/// If a key cannot be read or is none.
pub(super) fn signed_by(keys: &[PathBuf]) -> Result<Accept, Failure> {
    let anchors = Arc::new(anchor_file::any_of(keys)?);
    Ok(Accept::Signed(TrustTerms { anchors, now: known_time::now(), assigned: None }))
}

/// Reads a source; what is known of the file, if it is a manifest.
///
/// # Errors
/// If it cannot be read or is not accepted.
pub(super) fn read(
    source: &Source,
    accept: &Accept,
    terms: &Terms,
    pool: &Pool,
) -> Result<(Manifest, Option<ManifestView>), Failure> {
    if let Source::Manifest(path) = source {
        let (manifest, view) = Baseline::load_with_origins(path, accept)?;
        return Ok((manifest, Some(view)));
    }
    Ok((source::read(source, terms, pool)?.manifest, None))
}
