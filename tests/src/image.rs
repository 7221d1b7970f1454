//! Owns images made by hand, right or wrong on purpose: layers, an OCI layout, an archive of it. Must not own what is
//! to be said about them. Format: OCI image-spec v1.1, image-layout.md, manifest.md, config.md.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::Digest as _;

use crate::archive::Entry;

/// The image's tag in the layout, for tools that want one.
pub const TAG: &str = "made";

/// A layer in the making.
#[derive(Clone, Debug, Default)]
pub struct Layer {
    tar: Vec<u8>,
}

/// An OCI layout in a directory.
#[derive(Clone, Debug)]
pub struct Layout {
    dir: PathBuf,
    layers: Vec<Blob>,
    /// The build step of each layer; all have one, or none.
    history: Vec<String>,
}

/// A document of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Document {
    /// What names the layers' uncompressed digests.
    Config,
    /// What names the layers.
    Manifest,
    /// What names the manifest.
    Index,
}

/// A blob of a layout.
#[derive(Clone, Debug)]
pub struct Blob {
    /// Lower hexadecimal digits.
    pub sha256: String,
    /// Where it is.
    pub path: PathBuf,
    size: usize,
    diff_id: String,
}

impl Layer {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// An entry.
    #[must_use]
    pub fn entry(mut self, entry: &Entry) -> Self {
        self.tar.extend(entry.bytes());
        self
    }

    /// A file, mode 0644, owner root. The name is written as it is.
    #[must_use]
    pub fn file(self, name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        self.entry(&Entry::file(name, content))
    }

    /// A program: a file with mode 0755.
    #[must_use]
    pub fn program(self, name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        self.entry(&Entry::file(name, content).mode(0o755))
    }

    /// A directory, mode 0755, owner root.
    #[must_use]
    pub fn dir(self, name: impl AsRef<[u8]>) -> Self {
        self.entry(&Entry::dir(name))
    }

    /// The archive with its two empty blocks at the end.
    pub fn finish(mut self) -> Vec<u8> {
        self.tar.resize(self.tar.len() + 1024, 0);
        self.tar
    }
}

impl Layout {
    /// An empty layout in a new directory.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn create(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(dir.join("blobs/sha256"))?;
        fs::write(dir.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(Self { dir, layers: Vec::new(), history: Vec::new() })
    }

    /// Adds a layer, compressed with gzip.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn layer(self, tar: &[u8]) -> Result<Self> {
        let packed = gzip(tar)?;
        self.layer_as(tar, &packed)
    }

    /// Adds a layer whose blob is `packed`, whatever that is.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn layer_as(mut self, tar: &[u8], packed: &[u8]) -> Result<Self> {
        let blob = Blob { diff_id: sha256(tar), ..self.blob(packed)? };
        self.layers.push(blob);
        Ok(self)
    }

    /// Says what made the layer that was added last.
    #[must_use]
    pub fn made_by(mut self, step: &str) -> Self {
        self.history.push(step.to_owned());
        self
    }

    /// Writes configuration, manifest and index: the layout is then complete.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn finish(self) -> Result<Self> {
        self.finish_as(|_, _| ())
    }

    /// As [`Self::finish`], but each document is edited before it is written and referred to.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn finish_as(self, edit: impl Fn(Document, &mut Value)) -> Result<Self> {
        let diff_ids: Vec<String> = self.layers.iter().map(|layer| format!("sha256:{}", layer.diff_id)).collect();
        let mut config = json!({
            "architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        if !self.history.is_empty() {
            config["history"] = self.history.iter().map(|step| json!({"created_by": step})).collect();
        }
        edit(Document::Config, &mut config);
        let config = self.document("application/vnd.oci.image.config.v1+json", &config)?;
        let layers: Vec<Value> = self.layers.iter().map(Blob::descriptor).collect();
        let mut manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": layers,
        });
        edit(Document::Manifest, &mut manifest);
        let mut manifest = self.document("application/vnd.oci.image.manifest.v1+json", &manifest)?;
        manifest["annotations"] = json!({"org.opencontainers.image.ref.name": TAG});
        let mut index = json!({"schemaVersion": 2, "manifests": [manifest]});
        edit(Document::Index, &mut index);
        fs::write(self.dir.join("index.json"), index.to_string())?;
        Ok(self)
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// As the source that `seal` takes.
    pub fn source(&self) -> String {
        format!("oci:{}", self.dir.display())
    }

    /// The blobs of the layers, lowest first.
    pub fn layers(&self) -> &[Blob] {
        &self.layers
    }

    /// The layout as an archive.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn archive(&self, to: &Path) -> Result<()> {
        let mut archive = tar::Builder::new(fs::File::create(to)?);
        archive.append_dir_all("", &self.dir)?;
        archive.finish().context("an archive")
    }

    fn blob(&self, bytes: &[u8]) -> Result<Blob> {
        let sha256 = sha256(bytes);
        let path = self.dir.join("blobs/sha256").join(&sha256);
        fs::write(&path, bytes)?;
        Ok(Blob { sha256, path, size: bytes.len(), diff_id: String::new() })
    }

    /// Writes a document as a blob; the descriptor of it.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn document(&self, media_type: &str, document: &Value) -> Result<Value> {
        let blob = self.blob(document.to_string().as_bytes())?;
        Ok(json!({"mediaType": media_type, "digest": format!("sha256:{}", blob.sha256), "size": blob.size}))
    }
}

impl Blob {
    fn descriptor(&self) -> Value {
        json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": format!("sha256:{}", self.sha256), "size": self.size,
        })
    }
}

/// `bytes`, compressed.
///
/// # Errors
/// If that fails, which memory does not.
pub fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

/// In lower hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(sha2::Sha256::digest(bytes))
}
