//! Owns sealing a directory: what the scanner observes, if it observed everything. Must not own walking.

use std::path::Path;

use driftlock_common::digest::Algorithm;
use driftlock_common::manifest::{self, SourceKind};
use driftlock_common::tree::Tree;

use super::notes::{Code, Notes};
use super::problem::{Problem, SourceError, place};
use super::{Origin, Terms};
use crate::pool::Pool;
use crate::scan::{ObserveTerms, Root, observe};

/// Takes everything below `root`. What could not be read cannot be sealed, so any gap is an error.
pub(super) fn read(root: &Path, terms: &Terms, pool: &Pool) -> Result<(Tree, Notes, Origin), SourceError> {
    let at = |problem: Problem| problem.at(place(root));
    let opened = Root::open(root).map_err(|error| at(Problem::Root(error)))?;
    opened.check_readable().map_err(|error| at(Problem::Root(error)))?;
    let wanted = ObserveTerms {
        profile: terms.profile,
        content: Algorithm::Blake3,
        excludes: terms.excludes.clone(),
        sha256: terms.sha256,
    };
    let observation = observe(&opened, &wanted, pool);
    if let Some((first, reason)) = observation.gaps.first() {
        let (first, reason, count) = (first.clone(), *reason, observation.gaps.len());
        return Err(at(Problem::Gaps { first, reason, count }));
    }
    let source =
        manifest::Source { kind: SourceKind::Dir, manifest: None, config: None, platform: None, layers: Vec::new() };
    let mut notes = Notes::default();
    observation.virtual_mounts.iter().for_each(|path| notes.add(Code::VirtualMount, path, None));
    Ok((observation.tree, notes, Origin { source, history: Vec::new() }))
}
