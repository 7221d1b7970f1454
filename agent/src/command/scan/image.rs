//! Owns getting the signed manifest of an image out of its registry, into a directory that is gone after the scan. Must not own
//! believing it for good: the bundle then goes through the same door as one that was there.

use std::path::PathBuf;

use driftlock_common::trust::{Anchors, Role, Statement, Timestamp};
use tempfile::TempDir;

use crate::command::attach::pinned;
use crate::command::seal::check_platform;
use crate::failure::Failure;
use crate::source::registry;

/// What was found.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) bundle: PathBuf,
    _directory: TempDir,
}

/// Finds the manifest of `registry:HOST/REPO@sha256:DIGEST`, of an index for the platform, that is signed by enough of the
/// keys.
pub(super) fn fetch(text: &str, platform: &str, anchors: &Anchors, now: Timestamp) -> Result<Fetched, Failure> {
    let (repository, named) = pinned(text)?;
    check_platform(platform)?;
    let directory = tempfile::Builder::new().prefix("driftlock-").tempdir();
    let directory = directory.map_err(|error| Failure::output("a directory for what is fetched", error))?;
    let is_believed = |envelope: &_, image| {
        let trusted = anchors.judge(Role::Manifest, envelope, now).map_err(|refusal| refusal.to_string())?;
        let statement = Statement::read(&trusted.claim).map_err(|error| error.to_string())?;
        anchors.check_source(&statement).map_err(|refusal| refusal.to_string())?;
        if statement.is_about(image) { Ok(statement) } else { Err("its statement is about another image".to_owned()) }
    };
    let found = registry::find(&repository, named, platform, is_believed, directory.path())?;
    tracing::info!(artifact = %found.artifact, "found the signed manifest of the image");
    Ok(Fetched { bundle: found.bundle, _directory: directory })
}
