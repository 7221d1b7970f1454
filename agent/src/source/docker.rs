//! Owns the index of a Docker archive, `manifest.json` (Docker Image Specification v1.2, "Combined Image JSON +
//! Filesystem Changeset Format"). Must not own reading the archive.

use driftlock_common::digest::Digest;
use driftlock_common::path::Escaped;
use serde::Deserialize;

use super::image::{MAX_LAYERS, parse};
use super::problem::{Problem, SourceError};

/// An image of a Docker archive, by names inside the archive.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Saved {
    pub(super) config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    pub(super) layers: Vec<String>,
}

/// The image of the archive, if there is only one.
pub(super) fn only_image(bytes: &[u8], place: &str) -> Result<Saved, SourceError> {
    let mut images: Vec<Saved> = parse(bytes, place)?;
    // The same image under several tags is one.
    images.dedup_by(|a, b| a.config == b.config && a.layers == b.layers);
    if images.len() > 1 {
        let tags: Vec<&str> = images.iter().flat_map(|i| i.repo_tags.iter().flatten()).map(String::as_str).collect();
        let shown: String = tags.join(", ").chars().take(400).collect();
        let text =
            format!("it holds {} images ({}); save the one to seal alone", images.len(), Escaped(shown.as_bytes()));
        return Err(Problem::Choice(text).at(place));
    }
    let image = images.pop().ok_or_else(|| Problem::NoImage("there is no image in it".into()).at(place))?;
    if image.layers.len() > MAX_LAYERS {
        return Err(Problem::TooMuch("more than 512 layers").at(place));
    }
    Ok(image)
}

/// The digest that a configuration's name states: `<64 hex>.json` or `blobs/sha256/<64 hex>`.
pub(super) fn digest_in_name(name: &str) -> Option<Digest> {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.strip_suffix(".json").unwrap_or(last).parse().ok()
}
