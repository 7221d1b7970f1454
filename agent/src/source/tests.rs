//! Images and archives as a whole, and everything bad that can be put in their place.

use std::io::Write as _;

use driftlock_common::digest::Digest;
use driftlock_common::manifest::Manifest;
use serde_json::json;

use super::kit::{ImageKit, Tar, gzip, pax, raw, zstd};
use super::*;
use crate::failure::Failure;

fn terms() -> Terms {
    Terms {
        profile: Profile::Portable,
        excludes: Excludes::none(),
        exclude_sets: Vec::new(),
        platform: "linux/amd64".into(),
        sha256: true,
        strict: false,
        cache: None,
    }
}

fn pool() -> Pool {
    Pool::new(std::num::NonZeroUsize::new(2)).unwrap()
}

fn tar() -> Tar {
    Tar::default()
}

fn layers() -> Vec<Vec<u8>> {
    vec![
        tar().dir("etc").file("etc/hosts", "h").file("etc/passwd", "root").dir("usr").file("usr/app", "one").end(),
        tar()
            .file("usr/.wh.app", "")
            .add(raw(b'0', "usr/tool").mode(0o4755).owner(0, 5))
            .symlink("usr/l", "tool")
            .end(),
    ]
}

/// Seals an archive that lies in a file.
fn archive(bytes: &[u8], terms: &Terms) -> Result<Sealed, SourceError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    read(&Source::Archive { input: Input::File(file.path().into()), digest: None }, terms, &pool())
}

fn layout(image: &ImageKit, terms: &Terms) -> Result<Sealed, SourceError> {
    let dir = tempfile::tempdir().unwrap();
    image.write_layout(dir.path());
    read(&Source::Oci { layout: dir.path().into(), digest: None }, terms, &pool())
}

/// The line and the exit code that the command would end with, without the temporary path.
fn refused(result: Result<Sealed, SourceError>) -> (String, u8) {
    let failure = Failure::from(result.unwrap_err());
    let line = failure.to_string();
    assert!(!line.contains('\n'));
    let from = line.find("/tmp").map_or(0, |at| line[at..].find(": ").map_or(0, |colon| at + colon + 2));
    (line[from..].to_owned(), failure.exit.code())
}

/// The bad image as a layout and as an archive must give the same line.
fn refused_both(image: &ImageKit) -> (String, u8) {
    let as_layout = refused(layout(image, &terms()));
    for late in [false, true] {
        assert_eq!(refused(archive(&image.oci_archive(late), &terms())), as_layout, "late: {late}");
    }
    as_layout
}

#[test]
fn one_image_in_every_form_is_one_tree() {
    let image = ImageKit::new(&layers());
    let from_layout = layout(&image, &terms()).unwrap().manifest;
    let docker_25 = {
        let config = image.config.replace("sha256:", "blobs/sha256/");
        let names: Vec<_> = (0..2).map(|i| image.layer_digest(i).replace("sha256:", "blobs/sha256/")).collect();
        let mut both = image.clone();
        both.files
            .insert(0, ("manifest.json".into(), json!([{ "Config": config, "Layers": names }]).to_string().into()));
        both
    };
    for bytes in
        [image.oci_archive(false), image.oci_archive(true), gzip(&image.oci_archive(true)), docker_25.oci_archive(true)]
    {
        assert_eq!(archive(&bytes, &terms()).unwrap().manifest, from_layout);
    }
    let docker = archive(&image.docker_archive(), &terms()).unwrap().manifest;
    assert_eq!(docker.tree, from_layout.tree);
    assert_eq!(docker.header.source.as_ref().unwrap().kind, SourceKind::Docker);
    // Docker 25 without the OCI half.
    let mut classic = docker_25;
    classic.files.retain(|(name, _)| name != "index.json" && name != "oci-layout");
    assert_eq!(archive(&classic.oci_archive(true), &terms()).unwrap().manifest.tree, from_layout.tree);
}

#[test]
fn compression_is_seen_in_the_bytes_and_makes_no_difference() {
    let plain = layout(&ImageKit::new(&layers()), &terms()).unwrap().manifest;
    // In halves, between them a frame that says nothing about the tar.
    let halves = |tar: &[u8]| {
        let (a, b) = tar.split_at(tar.len() / 2);
        [zstd(a), vec![0x5e, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3], zstd(b)].concat()
    };
    for image in [zstd_image(zstd), zstd_image(halves)] {
        assert_eq!(layout(&image, &terms()).unwrap().manifest.tree, plain.tree);
        for bytes in [image.oci_archive(true), zstd(&image.oci_archive(false)), image.docker_archive()] {
            assert_eq!(archive(&bytes, &terms()).unwrap().manifest.tree, plain.tree);
        }
    }
    let release = |bytes: &[u8]| {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        read(&Source::Tar(Input::File(file.path().into())), &terms(), &pool()).unwrap().manifest
    };
    let tar = &layers()[0];
    assert_eq!(release(&zstd(tar)), release(tar));
    assert_eq!(release(&gzip(tar)), release(tar));
}

#[test]
fn the_sealed_image_says_where_it_comes_from() {
    let image = ImageKit::new(&layers());
    let Sealed { manifest, notes } = layout(&image, &terms()).unwrap();
    let source = manifest.header.source.as_ref().unwrap();
    assert_eq!(source.kind, SourceKind::Oci);
    assert_eq!(source.manifest.unwrap().to_string(), image.manifest);
    assert_eq!(source.config.unwrap().to_string(), image.config);
    assert_eq!(source.platform.as_deref(), Some("linux/amd64"));
    assert_eq!(source.layers.iter().map(ToString::to_string).collect::<Vec<_>>(), image.diff_ids);
    assert_eq!(manifest.header.history, ["step 0", "step 1"]);
    assert_eq!(notes.count(Code::Setid), 1);
    assert_eq!(Manifest::decode(&manifest.encode()).unwrap(), manifest);
}

/// Another digest for the same bytes would be a break of the format.
#[test]
fn golden_tree_digest() {
    let manifest = layout(&ImageKit::new(&layers()), &terms()).unwrap().manifest;
    let text = String::from_utf8(manifest.encode()).unwrap();
    let lines: Vec<&str> = text.lines().skip(1).collect();
    let b3 = |body: &str| Digest::blake3(body.as_bytes());
    let s2 = |body: &str| Digest::sha256(body.as_bytes());
    let file = |path: &str, mode: &str, gid: u32, body: &str, layer: u32| {
        let (size, b3, s2) = (body.len(), b3(body), s2(body));
        format!(
            r#"{{"p":"{path}","t":"f","m":"{mode}","u":0,"g":{gid},"s":{size},"b3":"{b3}","s2":"{s2}","x":[],"L":{layer}}}"#
        )
    };
    assert_eq!(
        lines,
        [
            r#"{"p":"etc","t":"d","m":"0755","u":0,"g":0,"L":0}"#,
            &file("etc/hosts", "0644", 0, "h", 0),
            &file("etc/passwd", "0644", 0, "root", 0),
            r#"{"p":"usr","t":"d","m":"0755","u":0,"g":0,"L":0}"#,
            r#"{"p":"usr/l","t":"l","u":0,"g":0,"to":"tool","L":1}"#,
            &file("usr/tool", "4755", 5, "", 1),
            r#"{"end":{"entries":6,"bytes":5,"tree":"blake3:247107a0fe3ddf5ebc7838811512a686dc3a4a227c37f345fa08354f58b4d461"}}"#,
        ]
    );
}

#[test]
fn profiles_excludes_and_attributes() {
    let capability_3 = [&[1, 0, 0, 3][..], &[7; 16], &[0; 4]].concat();
    let capability_2 = [&[1, 0, 0, 2][..], &[7; 16]].concat();
    let tar = tar()
        .dir("etc")
        .file("etc/hosts", "h")
        .dir("dev")
        .file("dev/x", "")
        .pax(&[
            (b"SCHILY.xattr.security.capability", &capability_3),
            (b"SCHILY.xattr.user.note", b"n"),
            (b"SCHILY.xattr.security.selinux", b"s"),
            (b"LIBARCHIVE.xattr.user.more", b"bQ"),
        ])
        .file("app", "a")
        .end();
    let image = ImageKit::new(std::slice::from_ref(&tar));
    let at = |sealed: &Sealed, path: &str| {
        let tree = &sealed.manifest.tree;
        tree.find(&driftlock_common::path::TreePath::new(path).unwrap()).map(|id| tree.node(id))
    };
    let names = |sealed: &Sealed| {
        let node = at(sealed, "app").unwrap();
        node.xattrs.map(|all| all.iter().map(|(n, v)| (n.to_vec(), v.to_vec())).collect::<Vec<_>>())
    };
    let capability = (b"security.capability".to_vec(), capability_2);
    let portable = layout(&image, &terms()).unwrap();
    assert_eq!(names(&portable), Some(vec![capability.clone()]));
    assert_eq!(portable.notes.count(Code::XattrDropped), 3);
    assert_eq!(at(&portable, "app").unwrap().mtime, None);
    let full = layout(&image, &Terms { profile: Profile::Full, ..terms() }).unwrap();
    assert_eq!(names(&full), Some(vec![capability.clone(), (b"user.note".to_vec(), b"n".to_vec())]));
    assert_eq!(at(&full, "app").unwrap().mtime, Some(1_600_000_000));
    let content = layout(&image, &Terms { profile: Profile::Content, sha256: false, ..terms() }).unwrap();
    assert_eq!(names(&content), None);
    assert_eq!(at(&content, "app").unwrap().mode, None);
    assert!(content.manifest.tree.iter().all(|id| content.manifest.tree.origin(id).sha256.is_none()));

    // What GNU tar or libarchive unpack from a release is more than what engines unpack from a layer.
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&gzip(&tar)).unwrap();
    let release = Source::Tar(Input::File(file.path().into()));
    let release = read(&release, &Terms { profile: Profile::Full, ..terms() }, &pool()).unwrap();
    assert_eq!(
        names(&release),
        Some(vec![capability, (b"user.more".to_vec(), b"m".to_vec()), (b"user.note".to_vec(), b"n".to_vec())])
    );

    let excludes = Excludes::new([], ["oci-runtime-1"]).unwrap();
    let excluded = layout(&image, &Terms { excludes, ..terms() }).unwrap();
    assert_eq!(at(&excluded, "etc/hosts"), None);
    assert_eq!(at(&excluded, "dev/x"), None);
    assert!(at(&excluded, "dev").is_some() && at(&excluded, "etc").is_some());
    assert_eq!(Manifest::decode(&excluded.manifest.encode()).unwrap(), excluded.manifest);
}

#[test]
fn a_release_archive_is_one_layer_without_whiteouts() {
    let bytes = tar().dir("./").file("./a", "1").file("./.wh.a", "2").end();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    let sealed = read(&Source::Tar(Input::File(file.path().into())), &terms(), &pool()).unwrap();
    let source = sealed.manifest.header.source.as_ref().unwrap();
    assert_eq!(source.kind, SourceKind::Tar);
    assert_eq!(source.layers, [OciDigest::sha256(Digest::sha256(&bytes))]);
    assert_eq!(sealed.manifest.tree.len(), 2);
    assert!(sealed.manifest.tree.iter().all(|id| sealed.manifest.tree.origin(id).layer.is_none()));
}

#[test]
fn bytes_behind_the_end_are_noted() {
    let mut bytes = tar().file("a", "1").end();
    bytes.extend_from_slice(&[0; 512]);
    let image =
        |bytes: &[u8]| layout(&ImageKit::new(&[bytes.to_vec()]), &terms()).unwrap().notes.count(Code::TrailingData);
    assert_eq!(image(&bytes), 0);
    bytes.extend_from_slice(b"more");
    assert_eq!(image(&bytes), 1);
}

#[test]
fn strict_refuses_what_engines_disagree_on() {
    let bytes = tar().file("a", "1").file("a", "2").end();
    let strict = Terms { strict: true, ..terms() };
    let (line, exit) = refused(layout(&ImageKit::new(&[bytes]), &strict));
    assert_eq!(line, "duplicate-entry at a: container engines make different trees of this, and --strict refuses it");
    assert_eq!(exit, 65);
    assert!(layout(&ImageKit::new(&layers()), &strict).is_ok());
}

#[test]
fn an_absolute_name_is_taken_as_relative_to_the_root() {
    let image = ImageKit::new(&[tar().dir("/").file("/ko-app/app", "a").end()]);
    let sealed = layout(&image, &terms()).unwrap();
    assert!(sealed.manifest.tree.find(&driftlock_common::path::TreePath::new("ko-app/app").unwrap()).is_some());
    assert_eq!(sealed.notes.count(Code::AbsoluteName), 1);
}

// === bad input ===

#[test]
fn dot_dot_in_a_layer() {
    let image = ImageKit::new(&[tar().file("a/../../etc/shadow", "x").end()]);
    let (line, exit) = refused_both(&image);
    let digest = image.layer_digest(0);
    assert_eq!(line, format!("blob {digest}: entry a/../../etc/shadow: a path has a component \".\" or \"..\""));
    assert_eq!(exit, 65);
}

#[test]
fn dot_dot_in_an_archive() {
    let bytes = tar().file("../index.json", "{}").end();
    assert_eq!(
        refused(archive(&bytes, &terms())),
        ("entry ../index.json: a path has a component \".\" or \"..\"".into(), 65)
    );
}

#[test]
fn a_blob_with_a_wrong_digest() {
    let mut image = ImageKit::new(&layers());
    for digest in [image.layer_digest(0), image.config.clone(), image.manifest.clone()] {
        let mut bad = image.clone();
        let name = digest.replace("sha256:", "blobs/sha256/");
        let file = bad.files.iter_mut().find(|(other, _)| *other == name).unwrap();
        // Within a body or a string: nothing else gives it away.
        let at = file.1.iter().position(|b| *b == b'h').unwrap();
        file.1[at] = b'H';
        let found = Digest::sha256(&file.1);
        assert_eq!(refused_both(&bad), (format!("blob {digest}: wrong digest: the bytes have sha256:{found}"), 65));
    }
    image.seal();
}

#[test]
fn a_blob_with_a_wrong_size() {
    let mut image = ImageKit::default();
    image.layer(&layers()[0], false);
    let size = layers()[0].len();
    image.layers[0]["size"] = json!(size + 1);
    image.seal();
    let digest = image.layer_digest(0);
    let text = format!("blob {digest}: wrong size: the descriptor says {} bytes, there are {size}", size + 1);
    assert_eq!(refused_both(&image), (text, 65));
}

#[test]
fn a_missing_blob() {
    let image = ImageKit::new(&layers());
    for digest in [image.layer_digest(1), image.config.clone(), image.manifest.clone()] {
        let mut bad = image.clone();
        bad.replace(&digest, None);
        let text = format!("blob {digest}: missing: something refers to it, but it is not there");
        assert_eq!(refused_both(&bad), (text, 65));
    }
}

#[test]
fn a_layer_that_is_not_the_one_of_the_configuration() {
    let mut image = ImageKit::default();
    image.stored_layer(&layers()[0], layers()[1].clone(), false);
    image.seal();
    let (digest, wanted, found) = (image.layer_digest(0), &image.diff_ids[0], Digest::sha256(&layers()[1]));
    let text =
        format!("blob {digest}: wrong diff_id: the configuration has {wanted}, the uncompressed layer sha256:{found}");
    assert_eq!(refused_both(&image), (text, 65));
}

#[test]
fn a_truncated_gzip_stream() {
    let tar = &layers()[0];
    let whole = gzip(tar);
    for cut in [3, 12, whole.len() / 2, whole.len() - 9, whole.len() - 1] {
        let mut image = ImageKit::default();
        image.stored_layer(tar, whole[..cut].to_vec(), true);
        image.seal();
        let text = format!("blob {}: the gzip stream is truncated", image.layer_digest(0));
        assert_eq!(refused_both(&image), (text, 65), "{cut}");
    }
}

#[test]
fn a_damaged_gzip_stream() {
    let tar = &layers()[0];
    let mut stored = gzip(tar);
    let checksum = stored.len() - 8;
    stored[checksum] ^= 1;
    let mut image = ImageKit::default();
    image.stored_layer(tar, stored, true);
    image.seal();
    let (line, exit) = refused_both(&image);
    assert!(line.starts_with(&format!("blob {}: the gzip stream is damaged: ", image.layer_digest(0))), "{line}");
    assert_eq!(exit, 65);
}

#[test]
fn a_truncated_layer() {
    let whole = layers()[0].clone();
    // In the last header: between entries a layer may end, where its digest proves it whole.
    let cut = whole.len() - 1024 - 512 - 100;
    let image = ImageKit::new(&[whole[..cut].to_vec()]);
    let text = format!("blob {}: the tar archive is truncated at byte {cut}", image.layer_digest(0));
    assert_eq!(refused_both(&image), (text, 65));
}

#[test]
fn a_layer_without_its_end_is_noted() {
    let whole = layers()[0].clone();
    let tree = |layer: &[u8]| layout(&ImageKit::new(&[layer.to_vec()]), &terms()).unwrap();
    let (closed, open) = (tree(&whole), tree(&whole[..whole.len() - 1024]));
    assert_eq!(closed.manifest.tree, open.manifest.tree);
    assert_eq!((closed.notes.count(Code::Unterminated), open.notes.count(Code::Unterminated)), (0, 1));
}

#[test]
fn a_truncated_archive() {
    let whole = ImageKit::new(&layers()).oci_archive(true);
    for cut in (0..whole.len()).step_by(97) {
        let (line, exit) = refused(archive(&whole[..cut], &terms()));
        assert_eq!((line, exit), (format!("the tar archive is truncated at byte {cut}"), 65));
    }
    let packed = gzip(&whole);
    let (line, exit) = refused(archive(&packed[..packed.len() / 2], &terms()));
    assert_eq!((line.as_str(), exit), ("the gzip stream is truncated", 65));
}

/// Every blob is verified, so a changed bit is an error or was in no part of the image.
#[test]
fn no_flipped_bit_makes_another_tree() {
    let image = ImageKit::new(&layers());
    let (sealed, pool) = (layout(&image, &terms()).unwrap().manifest.tree, pool());
    for (whole, step) in
        [(image.oci_archive(true), 61), (image.docker_archive(), 127), (gzip(&image.oci_archive(false)), 13)]
    {
        for bit in (0..whole.len() * 8).step_by(step) {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(&bytes).unwrap();
            let source = Source::Archive { input: Input::File(file.path().into()), digest: None };
            match read(&source, &terms(), &pool) {
                Ok(other) => assert_eq!(other.manifest.tree, sealed, "bit {bit}"),
                Err(error) => assert!((64..78).contains(&Failure::from(error).exit.code()), "bit {bit}"),
            }
        }
    }
}

fn zstd_image(stored: impl Fn(&[u8]) -> Vec<u8>) -> ImageKit {
    let mut image = ImageKit::default();
    for tar in layers() {
        image.typed_layer(&tar, stored(&tar), "+zstd");
    }
    image.seal();
    image
}

#[test]
fn a_truncated_zstd_layer() {
    let cut = |tar: &[u8], length: usize| zstd(tar)[..length].to_vec();
    let whole = zstd(&layers()[0]).len();
    for length in (4..whole).step_by(7).chain([whole - 1]) {
        let image = zstd_image(|tar| cut(tar, length.min(zstd(tar).len())));
        let text = format!("blob {}: the zstd stream is truncated", image.layer_digest(0));
        assert_eq!(refused_both(&image), (text, 65), "{length}");
    }
}

#[test]
fn more_than_frames_in_a_zstd_layer() {
    let image = zstd_image(|tar| [zstd(tar), b"more".to_vec()].concat());
    let text = "the zstd stream is damaged: what stands behind its last frame is no frame";
    assert_eq!(refused_both(&image), (format!("blob {}: {text}", image.layer_digest(0)), 65));
}

#[test]
fn a_digest_of_another_algorithm() {
    let mut image = ImageKit::default();
    image.layer(&layers()[0], false);
    let digest = format!("sha512:{}", "ab".repeat(64));
    image.layers[0]["digest"] = json!(digest);
    image.seal();
    let (line, exit) = refused(layout(&image, &terms()));
    assert!(line.contains("only sha256 is supported"), "{line}");
    assert_eq!(exit, 65);
}

#[test]
fn something_that_is_no_image() {
    let dir = tempfile::tempdir().unwrap();
    let oci = |path: &std::path::Path| read(&Source::Oci { layout: path.into(), digest: None }, &terms(), &pool());
    let text = "not an OCI image layout: there is no file oci-layout in it";
    assert_eq!(refused(oci(dir.path())), (text.into(), 65));
    let (line, exit) = refused(oci(&dir.path().join("none")));
    assert_eq!((line.as_str(), exit), ("No such file or directory (os error 2)", 66));
    let (line, exit) = refused(archive(&tar().file("usr/bin/app", "a").end(), &terms()));
    assert!(line.starts_with("not an image archive: "), "{line}");
    assert_eq!(exit, 65);
    let (line, exit) =
        refused(archive(b"this is not a tar archive, whatever its name says".repeat(20).as_slice(), &terms()));
    assert!(line.starts_with("tar header at byte 0: "), "{line}");
    assert_eq!(exit, 65);
    let text = "the tar archive is truncated at byte 0";
    assert_eq!(refused(archive(b"", &terms())), (text.into(), 65));
    for (json, text) in [
        ("{", "index.json: not the JSON expected here: EOF while parsing an object at line 1 column 1"),
        ("{}", "index.json: not the JSON expected here: there is no \"manifests\""),
        (
            "{\"manifests\":[],\"manifests\":[]}",
            "index.json: not the JSON expected here: duplicate field `manifests` at line 1 column 27",
        ),
        ("{\"manifests\":[]}", "index.json: there is no image in it"),
    ] {
        let bytes = tar().file("oci-layout", "{}").file("index.json", json).end();
        let (line, exit) = refused(archive(&bytes, &terms()));
        assert_eq!((line.as_str(), exit), (text, if text.ends_with("no image in it") { 66 } else { 65 }));
    }
}

#[test]
fn a_stream_within_a_stream_has_the_factor_once() {
    let layer = gzip(&tar().file("zeros", vec![0; 30_000_000]).end());
    let plain = tar().file("layer.tar", &layer).end();
    let packed = gzip(&plain);
    assert!(packed.len() * 5 < layer.len());
    // Whether nothing was counted; the layer belongs to no image, so that nothing is said about it.
    let untouched = |bytes: &[u8]| {
        let budget = Budget::inflating(1 << 40);
        let options = Options { dialect: Dialect::Image, profile: Profile::Content, sha256: false, budget };
        assert!(archive::read(bytes, "archive", None, "linux/amd64", &options).is_err());
        options.budget.inflate(1 << 40).is_ok()
    };
    assert!(untouched(&plain));
    assert!(!untouched(&packed));
}

#[test]
fn documents_are_bounded() {
    let mut image = ImageKit::new(&layers());
    image.files.retain(|(name, _)| name != "index.json");
    image.files.push(("index.json".into(), vec![b' '; 4 * 1024 * 1024 + 1]));
    assert_eq!(refused(layout(&image, &terms())), ("larger than the 4194304 bytes allowed for it".into(), 65));
    let mut image = ImageKit::default();
    for _ in 0..513 {
        image.layer(&layers()[0], false);
    }
    image.seal();
    assert_eq!(refused(layout(&image, &terms())), (format!("manifest {}: more than 512 layers", image.manifest), 65));
    let mut image = ImageKit::new(&layers());
    for _ in 0..4 {
        let nested = image.files.iter().find(|(name, _)| name == "index.json").unwrap().1.clone();
        let size = nested.len();
        let digest = image.blob(nested);
        image.index(&[
            json!({ "mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest, "size": size }),
        ]);
    }
    let (line, exit) = refused_both(&image);
    assert!(line.ends_with("indexes stand in indexes more than 3 deep"), "{line}");
    assert_eq!(exit, 65);
}

#[test]
fn one_image_is_chosen_among_several() {
    let mut image = ImageKit::default();
    image.layer(&layers()[0], false);
    let mut amd = image.image_for("amd64");
    amd["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    let amd_digest = image.manifest.clone();
    let mut arm = image.image_for("arm64");
    arm["platform"] = json!({ "os": "linux", "architecture": "arm64", "variant": "v8" });
    let arm_digest = image.manifest.clone();
    let mut attestation = arm.clone();
    attestation["platform"] = json!({ "os": "unknown", "architecture": "unknown" });
    image.index(&[amd.clone(), arm.clone(), attestation]);
    let chosen = |platform: &str| {
        let terms = Terms { platform: platform.into(), ..terms() };
        layout(&image, &terms).map(|sealed| sealed.manifest.header.source.unwrap().manifest.unwrap().to_string())
    };
    assert_eq!(chosen("linux/amd64").unwrap(), amd_digest);
    assert_eq!(chosen("linux/arm64").unwrap(), arm_digest);
    assert_eq!(chosen("linux/arm64/v8").unwrap(), arm_digest);
    let (line, exit) = refused(layout(&image, &Terms { platform: "linux/riscv64".into(), ..terms() }));
    let list = format!("{amd_digest} (linux/amd64), {arm_digest} (linux/arm64/v8)");
    assert_eq!((line, exit), (format!("no image is for linux/riscv64; there are: {list}"), 66));

    // Two for one platform: only a digest can say which.
    arm["platform"] = amd["platform"].clone();
    image.index(&[amd, arm]);
    let (line, exit) = refused(layout(&image, &terms()));
    let list = format!("{amd_digest} (linux/amd64), {arm_digest} (linux/amd64)");
    assert_eq!((line, exit), (format!("several images fit; use @sha256:… to say which: {list}"), 64));
    let dir = tempfile::tempdir().unwrap();
    image.write_layout(dir.path());
    let wanted = Source::Oci { layout: dir.path().into(), digest: Some(arm_digest.parse().unwrap()) };
    let sealed = read(&wanted, &terms(), &pool()).unwrap();
    assert_eq!(sealed.manifest.header.source.unwrap().platform.as_deref(), Some("linux/arm64"));
}

#[test]
fn a_docker_archive_with_a_wrong_configuration_or_layer() {
    let image = ImageKit::new(&layers());
    let hex = image.config.strip_prefix("sha256:").unwrap();
    let config = image.files.iter().find(|(name, _)| name.ends_with(hex)).unwrap().1.clone();
    let changed = [config.as_slice(), b" "].concat();
    let saved = |layers: &[&str], config: &[u8]| {
        let index = json!([{ "Config": format!("{hex}.json"), "Layers": layers }]).to_string();
        tar().file("manifest.json", index).file(format!("{hex}.json"), config)
    };
    let text = format!("{hex}.json: wrong digest: the bytes have sha256:{}", Digest::sha256(&changed));
    assert_eq!(refused(archive(&saved(&["a.tar", "b.tar"], &changed).end(), &terms())), (text, 65));
    let text = format!("configuration sha256:{hex}: it has 2 diff_ids, the manifest 1 layers");
    assert_eq!(refused(archive(&saved(&["a.tar"], &config).end(), &terms())), (text, 65));
    let text = "a.tar: missing: something refers to it, but it is not there";
    assert_eq!(refused(archive(&saved(&["a.tar", "b.tar"], &config).end(), &terms())), (text.into(), 65));
    let swapped = saved(&["a.tar", "b.tar"], &config).file("a.tar", &layers()[1]).file("b.tar", &layers()[0]).end();
    let (line, exit) = refused(archive(&swapped, &terms()));
    assert!(line.starts_with("a.tar: wrong diff_id: "), "{line}");
    assert_eq!(exit, 65);
    let circle = saved(&["a", "b"], &config).symlink("a", "b").symlink("b", "a").end();
    assert_eq!(refused(archive(&circle, &terms())), ("a: links lead around in a circle".into(), 65));
    let outside = saved(&["a", "b"], &config).symlink("a", "../../etc/passwd").end();
    let text = "a: entry /../../etc/passwd: a path has a component \".\" or \"..\"";
    assert_eq!(refused(archive(&outside, &terms())), (text.into(), 65));
}

#[test]
fn an_extended_attribute_cannot_forge_a_path() {
    let records: &[(&[u8], &[u8])] = &[(b"SCHILY.xattr.user.x", b"\n20 path=etc/shadow\n"), (b"path", b"usr/bin/app")];
    assert!(pax(records).len() > 40);
    let sealed = layout(&ImageKit::new(&[tar().pax(records).file("x", "a").end()]), &terms()).unwrap();
    let tree = &sealed.manifest.tree;
    let paths: Vec<String> = tree.iter().skip(1).map(|id| tree.path(id).escaped().to_string()).collect();
    assert_eq!(paths, ["usr", "usr/bin", "usr/bin/app"]);
}

// === directories ===

#[test]
fn a_directory_is_sealed_with_its_root_and_what_it_holds() {
    use std::os::unix::ffi::OsStrExt as _;
    let dir = tempfile::tempdir().unwrap();
    let name = std::ffi::OsStr::from_bytes(b"odd\xff");
    std::fs::write(dir.path().join(name), "x").unwrap();
    std::os::unix::fs::symlink("nowhere", dir.path().join("l")).unwrap();
    let sealed = read(&Source::Dir(dir.path().into()), &terms(), &pool()).unwrap();
    let manifest = &sealed.manifest;
    assert_eq!(manifest.header.source.as_ref().unwrap().kind, SourceKind::Dir);
    assert!(manifest.tree.node(driftlock_common::tree::EntryId::ROOT).mode.is_some());
    assert_eq!(manifest.totals().entries, 3);
    assert_eq!(sealed.notes.count(Code::NonUtf8Path), 1);
    assert_eq!(Manifest::decode(&manifest.encode()).unwrap(), *manifest);
}

#[test]
fn a_directory_that_is_not_there_or_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    for path in [dir.path().join("none"), file] {
        assert_eq!(refused(read(&Source::Dir(path.clone()), &terms(), &pool())).1, 66, "{}", path.display());
    }
}

#[test]
fn what_could_not_be_read_cannot_be_sealed() {
    let gaps =
        |reason| Problem::Gaps { first: driftlock_common::path::TreePath::new("a\n").unwrap(), reason, count: 3 };
    let (line, exit) = refused(Err(gaps(driftlock_common::gap::Reason::Denied).at("dir")));
    let text = "dir: a\\x0a: denied; 3 paths could not be read, and what was not read cannot be sealed";
    assert_eq!((line.as_str(), exit), (text, 77));
    assert_eq!(refused(Err(gaps(driftlock_common::gap::Reason::Io).at("dir"))).1, 74);
}
