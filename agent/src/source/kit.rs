//! Owns making archives and images for the tests of this module, hostile ones included: a raw tar writer that writes
//! whatever it is told.

use std::io::Write as _;
use std::path::Path;

use driftlock_common::digest::Digest;
use serde_json::{Value, json};

/// A tar archive in the making.
#[derive(Clone, Default)]
pub(super) struct Tar(pub(super) Vec<u8>);

/// The fields of one header, to be changed at will.
#[derive(Clone)]
pub(super) struct Raw {
    pub(super) name: Vec<u8>,
    pub(super) flag: u8,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) mtime: u64,
    pub(super) link: Vec<u8>,
    pub(super) device: (u32, u32),
    /// If not the length of the body.
    pub(super) size: Option<u64>,
    pub(super) body: Vec<u8>,
    /// Bytes written over the header, before the checksum.
    pub(super) patches: Vec<(usize, Vec<u8>)>,
}

pub(super) fn raw(flag: u8, name: impl AsRef<[u8]>) -> Raw {
    Raw {
        name: name.as_ref().to_vec(),
        flag,
        mode: if flag == b'5' { 0o755 } else { 0o644 },
        uid: 0,
        gid: 0,
        mtime: 1_600_000_000,
        link: Vec::new(),
        device: (0, 0),
        size: None,
        body: Vec::new(),
        patches: Vec::new(),
    }
}

impl Raw {
    pub(super) fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    pub(super) fn owner(mut self, uid: u64, gid: u64) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    pub(super) fn patch(mut self, at: usize, bytes: &[u8]) -> Self {
        self.patches.push((at, bytes.to_vec()));
        self
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        fn put(header: &mut [u8], at: usize, bytes: &[u8]) {
            header[at..at + bytes.len()].copy_from_slice(bytes);
        }
        let octal = |value: u64, digits: usize| format!("{value:0digits$o}\0").into_bytes();
        let mut header = vec![0; 512];
        put(&mut header, 0, &self.name[..self.name.len().min(100)]);
        put(&mut header, 100, &octal(self.mode.into(), 7));
        put(&mut header, 108, &octal(self.uid, 7));
        put(&mut header, 116, &octal(self.gid, 7));
        put(&mut header, 124, &octal(self.size.unwrap_or(self.body.len() as u64), 11));
        put(&mut header, 136, &octal(self.mtime, 11));
        header[156] = self.flag;
        put(&mut header, 157, &self.link[..self.link.len().min(100)]);
        put(&mut header, 257, b"ustar\x0000");
        put(&mut header, 329, &octal(self.device.0.into(), 7));
        put(&mut header, 337, &octal(self.device.1.into(), 7));
        for (at, bytes) in &self.patches {
            put(&mut header, *at, bytes);
        }
        put(&mut header, 148, b"        ");
        let sum: u64 = header.iter().map(|b| u64::from(*b)).sum();
        put(&mut header, 148, format!("{sum:06o}\0 ").as_bytes());
        header.extend_from_slice(&self.body);
        header.resize(header.len().next_multiple_of(512), 0);
        header
    }
}

impl Tar {
    pub(super) fn add(mut self, entry: Raw) -> Self {
        self.0.extend(entry.bytes());
        self
    }

    pub(super) fn file(self, name: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Self {
        let mut entry = raw(b'0', name);
        entry.body = body.as_ref().to_vec();
        self.add(entry)
    }

    pub(super) fn dir(self, name: impl AsRef<[u8]>) -> Self {
        self.add(raw(b'5', name))
    }

    pub(super) fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        let mut entry = raw(b'2', name);
        entry.link = target.as_ref().to_vec();
        self.add(entry)
    }

    pub(super) fn hardlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        let mut entry = raw(b'1', name);
        entry.link = target.as_ref().to_vec();
        self.add(entry)
    }

    /// A PAX header for the next entry.
    pub(super) fn pax(self, records: &[(&[u8], &[u8])]) -> Self {
        let mut entry = raw(b'x', "PaxHeaders/x");
        entry.body = pax(records);
        self.add(entry)
    }

    pub(super) fn padded(mut self) -> Self {
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// The archive with its end.
    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

pub(super) fn pax(records: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        out.extend(format!("{length} ").bytes());
        out.extend_from_slice(key);
        out.push(b'=');
        out.extend_from_slice(value);
        out.push(b'\n');
    }
    out
}

/// A sparse file in the old GNU format, or PAX 0.0, 0.1, 1.0, as GNU tar writes them.
pub(super) fn sparse(format: u8, name: &str, chunks: &[(u64, &[u8])], real: u64) -> Tar {
    let mut map: Vec<(u64, u64)> = chunks.iter().map(|(offset, data)| (*offset, data.len() as u64)).collect();
    map.push((real, 0));
    let data: Vec<u8> = chunks.iter().flat_map(|(_, data)| data.to_vec()).collect();
    sparse_map(format, name, &map, &data, real)
}

/// The same with a map that need not fit.
pub(super) fn sparse_map(format: u8, name: &str, map: &[(u64, u64)], data: &[u8], real: u64) -> Tar {
    let mut entry = raw(if format == 0 { b'S' } else { b'0' }, name);
    let numbers = |separator: &str| {
        map.iter().map(|(offset, length)| format!("{offset}{separator}{length}")).collect::<Vec<_>>().join(separator)
    };
    let number = |value: u64| value.to_string().into_bytes();
    let mut records: Vec<(&[u8], Vec<u8>)> = Vec::new();
    entry.body = data.to_vec();
    match format {
        0 => {
            let descriptor = |(offset, length): &(u64, u64)| format!("{offset:011o}\0{length:011o}\0").into_bytes();
            let (first, rest) = map.split_at(map.len().min(4));
            entry = entry.patch(257, b"ustar  \0").patch(386, &first.iter().flat_map(descriptor).collect::<Vec<_>>());
            entry = entry.patch(482, &[u8::from(!rest.is_empty())]).patch(483, format!("{real:011o}\0").as_bytes());
            let mut more = Vec::new();
            for (index, chunks) in rest.chunks(21).enumerate() {
                let mut block: Vec<u8> = chunks.iter().flat_map(descriptor).collect();
                block.resize(512, 0);
                block[504] = u8::from((index + 1) * 21 < rest.len());
                more.extend(block);
            }
            let (size, data) = (entry.body.len() as u64, std::mem::take(&mut entry.body));
            entry.size = Some(size);
            return Tar([entry.bytes(), more, data].concat()).padded();
        }
        1 => {
            records.push((b"GNU.sparse.size", number(real)));
            records.push((b"GNU.sparse.numblocks", number(map.len() as u64)));
            for (offset, length) in map {
                records.push((b"GNU.sparse.offset", number(*offset)));
                records.push((b"GNU.sparse.numbytes", number(*length)));
            }
        }
        2 => {
            records.push((b"GNU.sparse.size", number(real)));
            records.push((b"GNU.sparse.numblocks", number(map.len() as u64)));
            records.push((b"GNU.sparse.name", name.into()));
            records.push((b"GNU.sparse.map", numbers(",").into_bytes()));
        }
        _ => {
            records.push((b"GNU.sparse.major", b"1".to_vec()));
            records.push((b"GNU.sparse.minor", b"0".to_vec()));
            records.push((b"GNU.sparse.name", name.into()));
            records.push((b"GNU.sparse.realsize", number(real)));
            let mut text = format!("{}\n{}\n", map.len(), numbers("\n")).into_bytes();
            text.resize(text.len().next_multiple_of(512), 0);
            entry.body = [text, data.to_vec()].concat();
        }
    }
    let records: Vec<(&[u8], &[u8])> = records.iter().map(|(key, value)| (*key, value.as_slice())).collect();
    Tar::default().pax(&records).add(entry)
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// An image in the making: blobs by digest, and the documents that name them.
#[derive(Clone, Debug, Default)]
pub(super) struct ImageKit {
    /// Name in the layout, bytes.
    pub(super) files: Vec<(String, Vec<u8>)>,
    pub(super) diff_ids: Vec<String>,
    pub(super) layers: Vec<Value>,
    pub(super) history: Vec<Value>,
    pub(super) config: String,
    pub(super) manifest: String,
}

impl ImageKit {
    /// A whole image of these uncompressed layers, every second one stored as gzip.
    pub(super) fn new(layers: &[Vec<u8>]) -> Self {
        let mut image = Self::default();
        for (index, tar) in layers.iter().enumerate() {
            image.layer(tar, index % 2 == 1);
        }
        image.seal();
        image
    }

    pub(super) fn blob(&mut self, bytes: Vec<u8>) -> String {
        let hex = Digest::sha256(&bytes).to_hex();
        self.files.push((format!("blobs/sha256/{hex}"), bytes));
        format!("sha256:{hex}")
    }

    pub(super) fn layer(&mut self, tar: &[u8], compressed: bool) {
        self.stored_layer(tar, if compressed { gzip(tar) } else { tar.to_vec() }, compressed);
    }

    /// A layer whose stored bytes need not be what they should be.
    pub(super) fn stored_layer(&mut self, tar: &[u8], stored: Vec<u8>, compressed: bool) {
        self.typed_layer(tar, stored, if compressed { "+gzip" } else { "" });
    }

    /// The same, with any suffix to its media type.
    pub(super) fn typed_layer(&mut self, tar: &[u8], stored: Vec<u8>, suffix: &str) {
        self.diff_ids.push(format!("sha256:{}", Digest::sha256(tar)));
        self.history.push(json!({ "created_by": format!("step\t{}", self.layers.len()) }));
        self.history.push(json!({ "created_by": "ENV x", "empty_layer": true }));
        let size = stored.len();
        let digest = self.blob(stored);
        self.layers.push(json!({
            "mediaType": format!("application/vnd.oci.image.layer.v1.tar{suffix}"), "digest": digest, "size": size
        }));
    }

    /// Writes configuration, manifest and index for the layers so far.
    pub(super) fn seal(&mut self) {
        let descriptor = self.image_for("amd64");
        self.index(&[descriptor]);
    }

    /// Writes configuration and manifest; gives the manifest's descriptor, without a platform.
    pub(super) fn image_for(&mut self, architecture: &str) -> Value {
        let config = json!({
            "os": "linux", "architecture": architecture,
            "rootfs": { "type": "layers", "diff_ids": self.diff_ids }, "history": self.history
        })
        .to_string();
        let config_size = config.len();
        self.config = self.blob(config.into_bytes());
        let manifest = json!({
            "schemaVersion": 2, "layers": self.layers,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json", "digest": self.config, "size": config_size
            },
        })
        .to_string();
        let size = manifest.len();
        self.manifest = self.blob(manifest.into_bytes());
        json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": self.manifest, "size": size })
    }

    pub(super) fn index(&mut self, manifests: &[Value]) {
        self.files.retain(|(name, _)| name != "index.json" && name != "oci-layout");
        self.files.push(("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
        self.files
            .push(("index.json".into(), json!({ "schemaVersion": 2, "manifests": manifests }).to_string().into()));
    }

    pub(super) fn replace(&mut self, digest: &str, bytes: Option<Vec<u8>>) {
        let name = format!("blobs/sha256/{}", digest.strip_prefix("sha256:").unwrap());
        self.files.retain(|(other, _)| *other != name);
        if let Some(bytes) = bytes {
            self.files.push((name, bytes));
        }
    }

    pub(super) fn layer_digest(&self, index: usize) -> String {
        self.layers[index]["digest"].as_str().unwrap().to_owned()
    }

    pub(super) fn write_layout(&self, root: &Path) {
        std::fs::create_dir_all(root.join("blobs/sha256")).unwrap();
        for (name, bytes) in &self.files {
            std::fs::write(root.join(name), bytes).unwrap();
        }
    }

    /// The layout as an OCI archive; documents come last if `late`.
    pub(super) fn oci_archive(&self, late: bool) -> Vec<u8> {
        let mut files: Vec<_> = self.files.iter().collect();
        if !late {
            files.reverse();
        }
        files.into_iter().fold(Tar::default(), |tar, (name, bytes)| tar.file(name, bytes)).end()
    }

    fn stored(&self, digest: &str) -> &[u8] {
        let name = format!("blobs/sha256/{}", digest.strip_prefix("sha256:").unwrap());
        &self.files.iter().find(|(other, _)| *other == name).unwrap().1
    }

    /// As `docker save` before 25: layers under their own directories, one of them a link as skopeo writes it.
    pub(super) fn docker_archive(&self) -> Vec<u8> {
        let config = self.config.strip_prefix("sha256:").unwrap();
        let mut names = Vec::new();
        let mut tar = Tar::default();
        for index in 0..self.layers.len() {
            let stored = self.stored(&self.layer_digest(index));
            let name = format!("{index:064x}/layer.tar");
            tar = if index == 0 {
                tar.symlink(&name, "../first.tar").file("first.tar", stored)
            } else {
                tar.file(&name, stored)
            };
            names.push(name);
        }
        let manifest = json!([{ "Config": format!("{config}.json"), "RepoTags": ["app:1"], "Layers": names }]);
        tar.file(format!("{config}.json"), self.stored(&self.config))
            .file("manifest.json", manifest.to_string())
            .file("repositories", "{}")
            .end()
    }
}
