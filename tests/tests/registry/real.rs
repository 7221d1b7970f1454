//! A real registry on loopback, filled by skopeo: an image by its digest is the same manifest as the image on disk.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::image::{Layer, Layout, sha256};
use driftlock_tests::process::{Process, Stream};
use driftlock_tests::require::Requirement::{DockerRegistry, Openssl, Skopeo};
use driftlock_tests::require::trial;
use driftlock_tests::sandbox::{Finished, Sandbox};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::server::{Asked, Image, PASSWORD, Reply, Server, expect_line, expect_same, log_in, seal_source};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("an_image_by_digest_is_the_image_on_disk", &[DockerRegistry, Skopeo], by_digest),
        trial("a_tag_is_refused_with_its_digest", &[DockerRegistry, Skopeo], a_tag_is_refused),
        trial("what_is_not_there_is_said", &[DockerRegistry, Skopeo], what_is_not_there),
        trial("a_password_opens_and_a_wrong_one_does_not", &[DockerRegistry, Skopeo], a_password),
        trial("an_index_is_read_for_a_platform", &[DockerRegistry, Skopeo], an_index),
        trial("two_images_are_compared_in_the_registry", &[DockerRegistry, Skopeo], compared),
        trial("a_redirect_to_https_needs_the_roots", &[DockerRegistry, Skopeo, Openssl], encrypted),
    ]
}

/// Bcrypt of [`PASSWORD`] for the user `u`, as `htpasswd -nbB` writes it.
pub(super) const HTPASSWD: &str = "u:$2b$05$abcdefghijklmnopqrstuuZ0Fx87Pb/Aqb0E90lfvCwzXnaFKUHpS\n";

/// A real registry. Ends when dropped.
pub(super) struct Registry {
    pub(super) address: String,
    _process: Process,
}

impl Registry {
    /// With `more` in its configuration.
    pub(super) fn start(sandbox: &Sandbox, name: &str, http: &str, more: &str) -> Result<Self> {
        let storage = sandbox.path(format!("{name}-storage"));
        let config = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\n\
             http:\n  addr: 127.0.0.1:0\n{http}{more}",
            storage.display()
        );
        let config = sandbox.write(format!("{name}.yml"), config)?;
        let mut command = sandbox.bare_command(Path::new("docker-registry"));
        command.arg("serve").arg(config);
        let process = Process::spawn(name, &mut command)?;
        let address = process.line(Stream::Stderr, |line| {
            let rest = line.split("listening on ").nth(1)?;
            let address: String = rest.chars().take_while(|ch| ch.is_ascii_digit() || ".:".contains(*ch)).collect();
            Some(address)
        })?;
        Ok(Self { address, _process: process })
    }

    pub(super) fn open(sandbox: &Sandbox) -> Result<Self> {
        Self::start(sandbox, "registry", "", "")
    }

    /// Copies a layout into it, indexes whole.
    pub(super) fn push(&self, sandbox: &Sandbox, source: &str, tag: &str, more: &[&str]) -> Result<()> {
        let to = format!("docker://{}/{tag}", self.address);
        let first = ["--insecure-policy", "copy", "--all", "--preserve-digests", "--dest-tls-verify=false"];
        let arguments = first.iter().chain(more).copied().chain([source, to.as_str()]);
        sandbox.command(Path::new("skopeo"), arguments).run()?.expect(0)?;
        Ok(())
    }

    pub(super) fn source(&self, name: &str, digest: &str) -> String {
        format!("registry:{}/{name}@sha256:{digest}", self.address)
    }
}

fn by_digest() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let registry = Registry::open(&sandbox)?;
    // Several layers, of which some are read at a time; one twice.
    let mut layout = Layout::create(sandbox.path("image"))?;
    let layer = |n: usize| Layer::new().dir("d/").file(format!("d/{n}"), vec![b'x'; n * 10_000]).finish();
    for n in (0..7).chain([3]) {
        layout = layout.layer(&layer(n))?;
    }
    let layout = layout.finish()?;
    registry.push(&sandbox, &layout.source(), "some/where/app:v1", &[])?;
    let (image, digest) = (layout.source(), only_manifest(layout.dir())?);
    seal_source(&sandbox, &registry.source("some/where/app", &digest))?.expect(0)?;
    let other = sandbox.seal(&image, "other")?;
    ensure!(fs::read(sandbox.path("sealed"))? == fs::read(&other)?, "another manifest than that of the layout");
    // A tag beside the digest changes nothing.
    seal_source(&sandbox, &registry.source("some/where/app:v9", &digest))?.expect(0)?;
    ensure!(fs::read(sandbox.path("sealed"))? == fs::read(other)?, "the tag made a difference");
    Ok(())
}

fn a_tag_is_refused() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let registry = Registry::open(&sandbox)?;
    let image = Image::create(&sandbox, "image")?;
    registry.push(&sandbox, &image.source, "app:v1", &[])?;
    registry.push(&sandbox, &image.source, "app:latest", &[])?;
    let right = registry.source("app", &image.manifest);
    for written in ["app:v1", "app"] {
        let written = format!("registry:{}/{written}", registry.address);
        let finished = seal_source(&sandbox, &written)?;
        let first = format!("driftlock: {written}: a tag may lead elsewhere tomorrow, so only a digest is taken: ");
        expect_line(&finished, 64, &[&first, &format!("now it is {right}\n")])?;
    }
    let none = seal_source(&sandbox, &format!("registry:{}/app:v2", registry.address))?;
    expect_line(&none, 64, &["is not known"])?;
    expect_same(&sandbox, seal_source(&sandbox, &right)?, &image)
}

fn what_is_not_there() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let registry = Registry::open(&sandbox)?;
    let image = Image::create(&sandbox, "image")?;
    registry.push(&sandbox, &image.source, "app:v1", &[])?;
    let none = "0".repeat(64);
    let there_is_none = format!("there is no image sha256:{none} in it");
    expect_line(&seal_source(&sandbox, &registry.source("app", &none))?, 66, &[&there_is_none])?;
    expect_line(&seal_source(&sandbox, &registry.source("other", &none))?, 66, &["/other: there is no image"])
}

fn a_password() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let users = sandbox.write("users", HTPASSWD)?;
    let auth = format!("auth:\n  htpasswd:\n    realm: \"a, \\\"quoted\\\" realm\"\n    path: {}\n", users.display());
    let registry = Registry::start(&sandbox, "registry", "", &auth)?;
    let image = Image::create(&sandbox, "image")?;
    registry.push(&sandbox, &image.source, "team/app:v1", &["--dest-creds", &format!("u:{PASSWORD}")])?;
    let source = registry.source("team/app", &image.manifest);
    expect_line(&seal_source(&sandbox, &source)?, 77, &["answers 401 Unauthorized (UNAUTHORIZED): not for everybody"])?;
    // For another team, and for nobody else.
    log_in(&sandbox, &[&format!("{}/teams", registry.address), "registry.example"])?;
    expect_line(&seal_source(&sandbox, &source)?, 77, &["not for everybody"])?;
    for key in
        [registry.address.clone(), format!("{}/team", registry.address), format!("https://{}/v1/", registry.address)]
    {
        log_in(&sandbox, &[&key])?;
        expect_same(&sandbox, seal_source(&sandbox, &source)?, &image)?;
        fs::remove_file(sandbox.path("sealed"))?;
    }
    let tag = format!("registry:{}/team/app:v1", registry.address);
    expect_line(&seal_source(&sandbox, &tag)?, 64, &[&format!("now it is {source}\n")])?;
    // u:wrong.
    let wrong = format!("{{\"auths\": {{\"{}\": {{\"auth\": \"dTp3cm9uZw==\"}}}}}}", registry.address);
    sandbox.write(".docker/config.json", wrong)?;
    expect_line(
        &seal_source(&sandbox, &source)?,
        77,
        &["answers 401 Unauthorized (UNAUTHORIZED): the credential is refused"],
    )
}

fn an_index() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let registry = Registry::open(&sandbox)?;
    let layout = sandbox.path("both");
    let images = [Image::create(&sandbox, "amd")?, Image::create(&sandbox, "arm")?, Image::create(&sandbox, "note")?];
    let index = index(&layout, &images, &["linux/amd64", "linux/arm64", "unknown/unknown"])?;
    registry.push(&sandbox, &format!("oci:{}", layout.display()), "app:v1", &[])?;
    let source = registry.source("app", &index);
    let seal = |platform: &str| -> Result<Finished> {
        sandbox.driftlock(["seal", &source, "-o", "sealed", "--platform", platform]).run()
    };
    expect_same(&sandbox, seal("linux/amd64")?, &images[0])?;
    expect_same(&sandbox, seal("linux/arm64")?, &images[1])?;
    // The image for another platform, by its own digest.
    expect_same(&sandbox, seal_source(&sandbox, &registry.source("app", &images[1].manifest))?, &images[1])?;
    fs::remove_file(sandbox.path("sealed"))?;
    let none = seal("linux/s390x")?;
    expect_line(&none, 66, &["no image is for linux/s390x; there are: ", "(linux/amd64), ", "(linux/arm64)"])?;
    ensure!(!none.stderr.contains("unknown"), "an attestation is offered: {none:?}");
    let tag = seal_source(&sandbox, &format!("registry:{}/app:v1", registry.address))?;
    expect_line(&tag, 64, &[&format!("now it is {source}\n")])
}

fn compared() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let registry = Registry::open(&sandbox)?;
    let images = [Image::create(&sandbox, "one")?, Image::create(&sandbox, "two")?];
    registry.push(&sandbox, &images[0].source, "app:v1", &[])?;
    registry.push(&sandbox, &images[1].source, "app:v2", &[])?;
    let [a, b] = images.map(|image| registry.source("app", &image.manifest));
    sandbox.driftlock(["diff", &a, &a]).run()?.expect(0)?;
    let finished = sandbox.driftlock(["diff", &a, &b]).run()?.expect(4)?;
    ensure!(finished.text()?.contains("etc/motd"), "{finished:?}");
    Ok(())
}

/// A registry in plain text on loopback redirects to one with a certificate.
fn encrypted() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (key, certificate) = (sandbox.path("key.pem"), sandbox.path("certificate.pem"));
    make_certificate(&sandbox, &key, &certificate)?;
    let tls = format!("  tls:\n    certificate: {}\n    key: {}\n", certificate.display(), key.display());
    // Both have the same storage: the plain one is filled.
    let image = Arc::new(Image::create(&sandbox, "image")?);
    Registry::open(&sandbox)?.push(&sandbox, &image.source, "app:v1", &[])?;
    let secure = Registry::start(&sandbox, "registry", &tls, "")?;
    let port = secure.address.rsplit_once(':').context("a port")?.1.to_owned();
    let act = move |asked: &Asked<'_>| {
        let location = format!("https://localhost:{port}{}", asked.path);
        Some(Reply::Whole(307, vec![("Location", location)], Vec::new()))
    };
    let server = Server::start(Arc::clone(&image), Box::new(act))?;
    let seal =
        |roots: &Path| sandbox.driftlock(["seal", &server.source(), "-o", "sealed"]).env("SSL_CERT_FILE", roots).run();
    expect_same(&sandbox, seal(&certificate)?, &image)?;
    fs::remove_file(sandbox.path("sealed"))?;
    // Without the certificate nobody is believed.
    let other = sandbox.path("other.pem");
    make_certificate(&sandbox, &sandbox.path("other-key.pem"), &other)?;
    expect_line(
        &seal(&other)?,
        69,
        &[&format!("localhost:{} cannot be reached: ", secure.address.rsplit_once(':').context("a port")?.1)],
    )
}

/// One for localhost, signed by itself. The system's configuration would make it one for signing others.
fn make_certificate(sandbox: &Sandbox, key: &Path, certificate: &Path) -> Result<()> {
    let config = sandbox.write("openssl.cnf", "[req]\ndistinguished_name = name\n[name]\n")?;
    let request = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    let subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-config"].map(OsStr::new);
    let files = [config.as_os_str(), "-keyout".as_ref(), key.as_os_str(), "-out".as_ref(), certificate.as_os_str()];
    let arguments = request.into_iter().map(OsStr::new).chain(subject).chain(files);
    sandbox.command(Path::new("openssl"), arguments).run()?.expect(0)?;
    Ok(())
}

fn only_manifest(layout: &Path) -> Result<String> {
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
    let digest = index["manifests"][0]["digest"].as_str().context("a digest")?;
    Ok(digest.strip_prefix("sha256:").context("sha256")?.to_owned())
}

/// A layout whose only entry is an index of these images; gives its digest.
fn index(layout: &Path, images: &[Image], platforms: &[&str]) -> Result<String> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    fs::write(layout.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let mut manifests = Vec::new();
    for (image, platform) in images.iter().zip(platforms) {
        for blob in [&image.manifest, &image.config, &image.layer] {
            fs::write(blobs.join(blob), image.blob(blob))?;
        }
        let (os, architecture) = platform.split_once('/').context("a platform")?;
        manifests.push(json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "size": image.blob(&image.manifest).len(),
            "digest": format!("sha256:{}", image.manifest), "platform": {"os": os, "architecture": architecture},
        }));
    }
    let media_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests}).to_string();
    let digest = sha256(index.as_bytes());
    fs::write(blobs.join(&digest), &index)?;
    let descriptor = json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": index.len()});
    fs::write(layout.join("index.json"), json!({"schemaVersion": 2, "manifests": [descriptor]}).to_string())?;
    Ok(digest)
}
