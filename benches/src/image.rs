//! Owns the image that a bench seals: files of this machine in one layer, as umoci packs it and as skopeo compresses it
//! again. Must not own what is measured with it.

use std::fs::{self, File};
use std::io::BufWriter;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::peer;
use crate::program::timed;
use crate::table::Amount;

/// An image of one layer, twice.
#[derive(Debug)]
pub struct Image {
    /// OCI layout with a gzip layer, under the tag `image`.
    pub gzip: PathBuf,
    /// The same with zstd.
    pub zstd: PathBuf,
    /// What the layer holds.
    pub amount: Amount,
}

/// The tag of every image.
pub const TAG: &str = "image";

/// Makes an image in `place` of about `bytes` bytes of the regular files below `root`: every so many-th, so that it has of
/// everything what `root` has of it.
///
/// # Errors
/// If a file cannot be read, or umoci or skopeo fail.
pub fn make(root: &Path, bytes: u64, place: &Path) -> Result<Image> {
    let (tar, gzip, zstd) = (place.join("layer.tar"), place.join("gzip"), place.join("zstd"));
    let amount = pack(root, bytes, &tar)?;
    let (umoci, skopeo) = (peer("umoci", "DRIFTLOCK_UMOCI")?, peer("skopeo", "DRIFTLOCK_SKOPEO")?);
    timed(Command::new(&umoci).args(["init", "--layout"]).arg(&gzip))?;
    timed(Command::new(&umoci).args(["new", "--image"]).arg(tagged(&gzip)))?;
    timed(Command::new(&umoci).args(["raw", "add-layer", "--image"]).arg(tagged(&gzip)).arg(&tar))?;
    fs::remove_file(&tar)?;
    let mut copy = Command::new(skopeo);
    copy.args(["--insecure-policy", "copy", "--dest-compress", "--dest-compress-format", "zstd"]);
    timed(copy.arg(format!("oci:{}", tagged(&gzip))).arg(format!("oci:{}", tagged(&zstd))))?;
    Ok(Image { gzip, zstd, amount })
}

/// A layout with the tag of its image, as umoci and skopeo want it.
pub fn tagged(layout: &Path) -> String {
    format!("{}:{TAG}", layout.display())
}

/// The blob of the only layer, which must be of this media type.
///
/// # Errors
/// If the layout is another.
pub fn layer(layout: &Path, media_type: &str) -> Result<PathBuf> {
    let read = |path: &Path| -> Result<Value> { Ok(serde_json::from_slice(&fs::read(path)?)?) };
    let blob = |descriptor: &Value| -> Result<PathBuf> {
        let digest = descriptor["digest"].as_str().context("a digest")?;
        Ok(layout.join("blobs").join(digest.replace(':', "/")))
    };
    let index = read(&layout.join("index.json"))?;
    let manifest = read(&blob(&index["manifests"][0])?)?;
    let layers = manifest["layers"].as_array().context("layers")?;
    ensure!(layers.len() == 1 && layers[0]["mediaType"] == media_type, "{layers:?}");
    blob(&layers[0])
}

fn pack(root: &Path, bytes: u64, tar: &Path) -> Result<Amount> {
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(root).sort_by_file_name() {
        let entry = entry?;
        if entry.file_type().is_file() {
            files.push((entry.metadata()?.size(), entry.into_path()));
        }
    }
    let every = usize::try_from(files.iter().map(|(size, _)| size).sum::<u64>() / bytes)?.max(1);
    let mut archive = tar::Builder::new(BufWriter::with_capacity(1 << 20, File::create(tar)?));
    let mut amount = Amount::default();
    for (size, path) in files.iter().step_by(every) {
        archive.append_path_with_name(path, path.strip_prefix("/")?).with_context(|| path.display().to_string())?;
        amount.files += 1;
        amount.bytes += size;
    }
    archive.into_inner()?.into_inner()?.sync_all()?;
    Ok(amount)
}
