//! Owns the sample: a small image of two layers as an OCI layout (image-spec v1.1, image-layout.md), and its tree
//! deployed to a directory as a runtime would. Written here by hand, so that what is sealed is read by other code than
//! what deploys it. Must not own sealing.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use driftlock_common::digest::Digest;
use serde_json::json;

/// One thing that a layer does.
struct Step {
    path: &'static str,
    what: What,
}

enum What {
    Directory(u32),
    File(u32, &'static str),
    Link(&'static str),
    /// Takes away what a lower layer gave.
    Whiteout,
}

const fn directory(path: &'static str) -> Step {
    Step { path, what: What::Directory(0o755) }
}

const fn file(path: &'static str, mode: u32, content: &'static str) -> Step {
    Step { path, what: What::File(mode, content) }
}

/// The base.
const BASE: &[Step] = &[
    directory("etc"),
    file("etc/os-release", 0o644, "NAME=\"driftlock sample\"\nID=sample\nVERSION_ID=1\n"),
    file("etc/motd", 0o644, "This file is in the base layer and taken away by the next one.\n"),
    directory("etc/shop"),
    file("etc/shop/shop.conf", 0o644, "listen = 127.0.0.1:8080\nworkers = 4\n"),
    directory("usr"),
    directory("usr/bin"),
    file("usr/bin/shop", 0o755, "#!/bin/sh\necho \"shop 1.0\"\n"),
    directory("usr/lib"),
    file("usr/lib/libshop.so.1", 0o644, "pretend that this is code\n"),
    Step { path: "usr/lib/libshop.so", what: What::Link("libshop.so.1") },
    directory("var"),
    Step { path: "var/cache", what: What::Directory(0o1777) },
];

/// The application: replaces, takes away, adds.
const APPLICATION: &[Step] = &[
    file("etc/shop/shop.conf", 0o640, "listen = 0.0.0.0:8080\nworkers = 8\n"),
    Step { path: "etc/motd", what: What::Whiteout },
    file("usr/bin/shop", 0o755, "#!/bin/sh\necho \"shop 1.1\"\n"),
    file("usr/bin/shop-admin", 0o750, "#!/bin/sh\necho \"shop 1.1, for its keeper\"\n"),
];

const LAYERS: [(&str, &[Step]); 2] = [("COPY base /", BASE), ("COPY application /", APPLICATION)];

/// Writes the image's layout to `layout` and deploys its tree to `root`; both are made. The image's owner is whoever
/// runs this, since only root may give files away.
///
/// # Errors
/// If something cannot be written.
pub(super) fn make(layout: &Path, root: &Path) -> io::Result<()> {
    fs::create_dir(root)?;
    let owner = fs::metadata(root)?;
    deploy(root)?;
    write_layout(layout, owner.uid(), owner.gid())
}

fn deploy(root: &Path) -> io::Result<()> {
    for Step { path, what } in LAYERS.iter().flat_map(|(_, steps)| *steps) {
        let path = root.join(path);
        let mode = |mode| fs::set_permissions(&path, Permissions::from_mode(mode));
        match what {
            What::Directory(bits) => {
                fs::create_dir(&path)?;
                mode(*bits)?;
            }
            What::File(bits, content) => {
                fs::write(&path, content)?;
                mode(*bits)?;
            }
            What::Link(target) => symlink(target, &path)?,
            What::Whiteout => fs::remove_file(&path)?,
        }
    }
    Ok(())
}

fn write_layout(layout: &Path, uid: u32, gid: u32) -> io::Result<()> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let put = |media_type: &str, bytes: &[u8]| {
        let digest = Digest::sha256(bytes);
        fs::write(blobs.join(digest.to_hex()), bytes)?;
        let descriptor = json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes.len()});
        io::Result::Ok(descriptor)
    };
    let mut layers = Vec::new();
    for (_, steps) in LAYERS {
        layers.push(put("application/vnd.oci.image.layer.v1.tar", &archive(steps, uid, gid))?);
    }
    // An uncompressed layer is its own diff.
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer["digest"].clone()).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": LAYERS.map(|(command, _)| json!({"created_by": command})),
    });
    let config = put("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes())?;
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers});
    let manifest = put(media_type, manifest.to_string().as_bytes())?;
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest],
    });
    fs::write(layout.join("index.json"), index.to_string())?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
}

/// A layer as a tar archive in the ustar format (POSIX.1-1988).
fn archive(steps: &[Step], uid: u32, gid: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for Step { path, what } in steps {
        let (name, mode, kind, target, content) = match what {
            What::Directory(mode) => (format!("{path}/"), *mode, b'5', "", ""),
            What::File(mode, content) => ((*path).to_owned(), *mode, b'0', "", *content),
            What::Link(target) => ((*path).to_owned(), 0o777, b'2', *target, ""),
            What::Whiteout => {
                let (directory, name) = path.rsplit_once('/').unwrap_or_default();
                (format!("{directory}/.wh.{name}"), 0, b'0', "", "")
            }
        };
        let mut header = [0; 512];
        let mut put = |at: usize, field: &[u8]| header[at..at + field.len()].copy_from_slice(field);
        put(0, name.as_bytes());
        put(100, octal(mode).as_bytes());
        put(108, &id(uid));
        put(116, &id(gid));
        put(124, format!("{:011o}\0", content.len()).as_bytes());
        put(136, b"00000000000\0");
        put(148, b"        ");
        put(156, &[kind]);
        put(157, target.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        bytes.extend_from_slice(&header);
        bytes.extend_from_slice(content.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn octal(value: u32) -> String {
    format!("{value:07o}\0")
}

/// An owner; one that octal digits do not hold is written as GNU tar writes it, in base 256.
fn id(value: u32) -> [u8; 8] {
    let mut field = [0; 8];
    if value < 1 << 21 {
        field.copy_from_slice(octal(value).as_bytes());
    } else {
        field[0] = 0x80;
        field[4..].copy_from_slice(&value.to_be_bytes());
    }
    field
}
