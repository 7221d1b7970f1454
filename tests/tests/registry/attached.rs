//! Signed manifests beside their image: attached to a real registry, which leaves the list to its clients, and to one that
//! lists referrers; found again by a scan; and whatever a registry, or who may push to it, can do about that.

use std::fs;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::http;
use driftlock_tests::require::Requirement::{DockerRegistry, Skopeo};
use driftlock_tests::require::{trial, trial_with};
use driftlock_tests::sandbox::{Finished, Sandbox};
use libtest_mimic::Trial;
use serde_json::{Value, json};

use super::fake::{INDEX_TYPE, Instead, Store};
use super::real::{HTPASSWD, Registry};
use super::server::{Asked, BASIC, IMAGE_TYPE, Image, PASSWORD, Reply, Server, TOKEN, expect_line, log_in};

const BUNDLE_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const PREDICATE_TYPE: &str = "https://driftlock.dev/attestation/fs-manifest/v1";

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        trial("a_bundle_is_attached_to_a_real_registry_and_found", &[DockerRegistry, Skopeo], in_a_real_registry),
        trial("a_real_registry_with_a_password_is_written_to", &[DockerRegistry, Skopeo], with_a_password),
        trial("a_bundle_is_listed_by_a_registry_that_lists", &[], listed_by_the_registry),
        trial("several_signatures_are_attached_as_an_envelope", &[], several_signatures),
        trial("writing_asks_for_a_token_to_write_and_reading_for_one_to_read", &[], tokens),
        trial("a_writer_that_is_written_over_writes_again", &[], written_over),
        trial("what_is_uploaded_elsewhere_takes_no_credential_there", &[], uploaded_elsewhere),
        trial("another_host_sees_no_credential_when_a_bundle_is_fetched", &[], fetched_elsewhere),
        trial("pages_of_a_list_are_followed", &[], pages),
        trial("what_others_attach_is_passed_over", &[], others),
        trial("what_is_not_about_the_image_is_not_attached", &[], about_another_image),
        trial("an_index_leads_to_the_image_of_the_platform", &[], index),
        trial("what_is_attached_to_an_index_is_found_after_what_is_attached_to_the_image", &[], on_an_index),
        trial("another_index_than_was_named_leads_nowhere", &[], another_index),
    ];
    trials.extend(ATTACKS.iter().map(|attack| named("found", attack.name, || attacked(attack))));
    trials.extend(WRITES.iter().map(|write| named("written", write.name, || written(write))));
    trials
}

fn named(table: &str, name: &str, test: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    trial_with(format!("{table}_{}", name.replace([' ', '-', ',', '\''], "_")), &[], test)
}

/// An image, its tree unpacked, and two keys with a bundle of the image each.
struct Prepared {
    sandbox: Sandbox,
    image: Arc<Image>,
}

impl Prepared {
    fn new() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let image = Arc::new(Image::create(&sandbox, "image")?);
        fs::create_dir(sandbox.path("root"))?;
        let layer = image.blobs.join(&image.layer).display().to_string();
        let root = sandbox.path("root").display().to_string();
        let unpack = ["--no-same-owner", "-xf", &layer, "-C", &root];
        sandbox.command("tar".as_ref(), unpack).run()?.expect(0)?;
        let prepared = Self { sandbox, image };
        for key in ["a", "b"] {
            prepared.run(&["keygen", "-o", key])?.expect(0)?;
            prepared.seal(key, &format!("{key}.bundle"), &[])?;
        }
        Ok(prepared)
    }

    fn run(&self, arguments: &[&str]) -> Result<Finished> {
        let finished = self.sandbox.driftlock(arguments).env("RUST_LOG", "warn").run()?;
        for secret in [PASSWORD, BASIC, TOKEN] {
            ensure!(!finished.stderr.contains(secret), "a secret is said: {finished:?}");
        }
        Ok(finished)
    }

    fn seal(&self, key: &str, bundle: &str, more: &[&str]) -> Result<()> {
        let key = format!("{key}.key");
        let seal = ["seal", self.image.source.as_str(), "--sign", &key, "-o", bundle];
        self.run(&[&seal, more].concat())?.expect(0)?;
        Ok(())
    }

    fn reference(&self, server: &Server) -> String {
        format!("registry:{}/app@sha256:{}", server.address, self.image.manifest)
    }

    fn attach(&self, bundle: &str, reference: &str) -> Result<Finished> {
        self.run(&["attach", bundle, reference])
    }

    fn scan(&self, reference: &str, key: &str) -> Result<Finished> {
        // Who unpacked it owns it.
        self.run(&["scan", "--profile", "content", "--image", reference, "--key", &format!("{key}.pub"), "root"])
    }

    /// A store with the bundle of `a` attached.
    fn attached(&self) -> Result<Arc<Store>> {
        let store = Store::new();
        let server = store.serve(&self.image, Box::new(|_, _| None))?;
        self.attach("a.bundle", &self.reference(&server))?.expect(0)?;
        Ok(store)
    }
}

fn in_a_real_registry() -> Result<()> {
    let prepared = Prepared::new()?;
    let registry = Registry::open(&prepared.sandbox)?;
    registry.push(&prepared.sandbox, &prepared.image.source, "some/app:v1", &[])?;
    let reference = registry.source("some/app", &prepared.image.manifest);
    expect_line(&prepared.scan(&reference, "a")?, 66, &["no signed manifest is attached to it: driftlock attach"])?;
    let attached = prepared.attach("a.bundle", &reference)?.expect(0)?;
    ensure!(attached.stderr.contains("listed under the tag of the image's referrers"), "{attached:?}");

    // What a client without driftlock sees.
    let raw = |name: &str| -> Result<Value> {
        let place = format!("docker://{}/some/app{name}", registry.address);
        let inspect = ["inspect", "--raw", "--tls-verify=false", &place];
        let shown = prepared.sandbox.command("skopeo".as_ref(), inspect).run()?.expect(0)?;
        Ok(serde_json::from_slice(&shown.stdout)?)
    };
    let list = || raw(&format!(":sha256-{}", prepared.image.manifest));
    let entry = list()?["manifests"][0].clone();
    ensure!(entry["artifactType"] == BUNDLE_TYPE, "{entry}");
    ensure!(entry["annotations"]["dev.sigstore.bundle.predicateType"] == PREDICATE_TYPE, "{entry}");
    ensure!(entry["annotations"]["dev.sigstore.bundle.content"] == "dsse-envelope", "{entry}");
    let artifact = raw(&format!("@{}", entry["digest"].as_str().context("a digest")?))?;
    ensure!(artifact["subject"]["digest"] == format!("sha256:{}", prepared.image.manifest), "{artifact}");
    ensure!(artifact["config"]["mediaType"] == "application/vnd.oci.empty.v1+json", "{artifact}");
    ensure!(artifact["layers"][0]["mediaType"] == BUNDLE_TYPE, "{artifact}");
    let bundle = format!("/v2/some/app/blobs/{}", artifact["layers"][0]["digest"].as_str().context("a digest")?);
    let bundle = http::get(registry.address.parse()?, &bundle)?;
    ensure!(bundle.body == fs::read(prepared.sandbox.path("a.bundle"))?, "another bundle: {}", bundle.text());

    // Attaching again changes nothing; another bundle stands beside it.
    let before = list()?;
    prepared.attach("a.bundle", &reference)?.expect(0)?;
    ensure!(list()? == before, "the list changed");
    prepared.attach("b.bundle", &reference)?.expect(0)?;
    ensure!(list()?["manifests"].as_array().is_some_and(|list| list.len() == 2 && list[0] == entry), "{}", list()?);

    for key in ["a", "b"] {
        prepared.scan(&reference, key)?.expect(0)?;
    }
    prepared.run(&["keygen", "-o", "c"])?.expect(0)?;
    expect_line(
        &prepared.scan(&reference, "c")?,
        77,
        &["refused: no bundle that is attached", "signed by 0 of", "(and 1 more)"],
    )?;
    prepared.sandbox.write("root/etc/motd", "changed\n")?;
    let drifted = prepared.scan(&reference, "a")?.expect(4)?;
    ensure!(drifted.text()?.contains("etc/motd"), "{drifted:?}");
    // Nothing of what was fetched is left.
    ensure!(fs::read_dir(prepared.sandbox.path("tmp"))?.next().is_none(), "something is left");
    let none = registry.source("some/app", &"0".repeat(64));
    expect_line(&prepared.scan(&none, "a")?, 66, &["no signed manifest is attached to it"])
}

fn with_a_password() -> Result<()> {
    let prepared = Prepared::new()?;
    let users = prepared.sandbox.write("users", HTPASSWD)?;
    let auth = format!("auth:\n  htpasswd:\n    realm: a realm\n    path: {}\n", users.display());
    let registry = Registry::start(&prepared.sandbox, "registry", "", &auth)?;
    let credentials = ["--dest-creds", &format!("u:{PASSWORD}")];
    registry.push(&prepared.sandbox, &prepared.image.source, "app:v1", &credentials)?;
    let reference = registry.source("app", &prepared.image.manifest);
    expect_line(&prepared.attach("a.bundle", &reference)?, 77, &["answers 401 Unauthorized (UNAUTHORIZED)"])?;
    log_in(&prepared.sandbox, &[&registry.address])?;
    prepared.attach("a.bundle", &reference)?.expect(0)?;
    prepared.scan(&reference, "a")?.expect(0)?;
    fs::remove_file(prepared.sandbox.path(".docker/config.json"))?;
    expect_line(&prepared.scan(&reference, "a")?, 77, &["answers 401 Unauthorized"])
}

fn listed_by_the_registry() -> Result<()> {
    let prepared = Prepared::new()?;
    let store = Store::new();
    let server = store.serve(&prepared.image, Box::new(|_, _| None))?;
    let reference = prepared.reference(&server);
    let attached = prepared.attach("a.bundle", &reference)?.expect(0)?;
    ensure!(attached.stderr.contains("listed by the registry"), "{attached:?}");
    ensure!(!store.has_manifest(&format!("sha256-{}", prepared.image.manifest)), "a tag was written too");
    // The same artifact, whenever it is attached.
    let before = store.artifacts();
    prepared.attach("a.bundle", &reference)?.expect(0)?;
    ensure!(store.artifacts() == before && before.len() == 1, "another artifact");
    prepared.scan(&reference, "a")?.expect(0)?;
    expect_line(&prepared.scan(&reference, "b")?, 77, &["refused: no bundle that is attached to it is believed"])?;
    // Both state one manifest: there is nothing to choose.
    prepared.attach("b.bundle", &reference)?.expect(0)?;
    let both = ["scan", "--profile", "content", "--image", &reference, "--key", "a.pub", "--key", "b.pub", "root"];
    prepared.run(&both)?.expect(0)?;
    Ok(())
}

fn several_signatures() -> Result<()> {
    let prepared = Prepared::new()?;
    prepared.run(&["sign", "a.bundle", "--key", "b.key"])?.expect(0)?;
    let store = prepared.attached()?;
    let (_, artifact) = store.artifacts().pop().context("an artifact")?;
    ensure!(artifact["artifactType"] == "application/vnd.dsse.envelope.v1+json", "{artifact}");
    let server = store.serve(&prepared.image, Box::new(|_, _| None))?;
    for key in ["a", "b"] {
        prepared.scan(&prepared.reference(&server), key)?.expect(0)?;
    }
    Ok(())
}

fn tokens() -> Result<()> {
    let prepared = Prepared::new()?;
    let instead: Instead = Box::new(|_, asked| {
        if asked.path.starts_with("/token") {
            return Some(Reply::Whole(200, Vec::new(), format!("{{\"token\":\"{TOKEN}\"}}").into_bytes()));
        }
        let shown = asked.head.header("authorization") == Some(&format!("Bearer {TOKEN}"));
        let challenge = format!("Bearer realm=\"http://{}/token\",scope=\"repository:other:delete\"", asked.address);
        (!shown).then(|| Reply::Whole(401, vec![("WWW-Authenticate", challenge)], Vec::new()))
    });
    let server = Store::new().serve(&prepared.image, instead)?;
    log_in(&prepared.sandbox, &[&server.address.to_string()])?;
    prepared.attach("a.bundle", &prepared.reference(&server))?.expect(0)?;
    prepared.scan(&prepared.reference(&server), "a")?.expect(0)?;
    let asked = server.requests().into_iter().map(|head| head.first).filter(|first| first.contains("/token"));
    let asked: Vec<String> = asked.collect();
    let scope = |actions: &str| format!("GET /token?scope=repository%3Aapp%3A{actions} HTTP/1.1");
    ensure!(asked == [scope("pull%2Cpush"), scope("pull")], "{asked:?}");
    Ok(())
}

/// Another writer had read the list before this one wrote, and writes after it.
fn written_over() -> Result<()> {
    let prepared = Prepared::new()?;
    let tag = format!("sha256-{}", prepared.image.manifest);
    let theirs = json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 2,
        "digest": format!("sha256:{}", "7".repeat(64)), "artifactType": "text/plain"});
    let list = |entries: &[&Value]| json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries, "x": 1});
    for (times, code) in [(1, 0), (4, 0), (5, 65)] {
        let store = Store::without_referrers();
        let (over, path) = (list(&[&theirs]).to_string().into_bytes(), format!("/v2/app/manifests/{tag}"));
        let name = tag.clone();
        let instead: Instead = Box::new(move |store, asked| {
            if asked.method() == "PUT" && asked.path == path && asked.nth < times {
                store.put_as(Some(&name), over.clone());
                return Some(Reply::Whole(201, Vec::new(), Vec::new()));
            }
            None
        });
        let server = store.serve(&prepared.image, instead)?;
        let attached = prepared.attach("a.bundle", &prepared.reference(&server))?;
        if code != 0 {
            expect_line(&attached, code, &["was written 5 times, and others wrote over it each time: attach again"])?;
            continue;
        }
        attached.expect(0)?;
        let kept = store.manifest(&tag)?;
        let entries = kept["manifests"].as_array().context("a list")?;
        ensure!(entries.len() == 2 && entries[0] == theirs && kept["x"] == 1, "{kept}");
        prepared.scan(&prepared.reference(&server), "a")?.expect(0)?;
    }
    Ok(())
}

fn uploaded_elsewhere() -> Result<()> {
    let prepared = Prepared::new()?;
    let store = Store::new();
    let elsewhere = store.serve(&prepared.image, Box::new(|_, _| None))?;
    let to = elsewhere.address;
    let instead: Instead = Box::new(move |_, asked| {
        if asked.head.header("authorization") != Some(&format!("Basic {BASIC}")) {
            return Some(Reply::Whole(401, vec![("WWW-Authenticate", "Basic realm=\"x\"".into())], Vec::new()));
        }
        // A user name in the address would become a credential.
        let location = format!("http://evil:evil@{to}/v2/app/blobs/uploads/1?state=x%2F");
        (asked.method() == "POST").then(|| Reply::Whole(202, vec![("Location", location)], Vec::new()))
    });
    let server = store.serve(&prepared.image, instead)?;
    log_in(&prepared.sandbox, &[&server.address.to_string(), &to.to_string()])?;
    prepared.attach("a.bundle", &prepared.reference(&server))?.expect(0)?;
    no_credential(&elsewhere, 3)?;
    prepared.scan(&prepared.reference(&server), "a")?.expect(0)?;
    Ok(())
}

fn fetched_elsewhere() -> Result<()> {
    let prepared = Prepared::new()?;
    let store = prepared.attached()?;
    let elsewhere = store.serve(&prepared.image, Box::new(|_, _| None))?;
    let to = elsewhere.address;
    let instead: Instead = Box::new(move |_, asked| {
        if asked.head.header("authorization") != Some(&format!("Basic {BASIC}")) {
            return Some(Reply::Whole(401, vec![("WWW-Authenticate", "Basic realm=\"x\"".into())], Vec::new()));
        }
        let location = format!("http://evil:evil@{to}{}", asked.path);
        asked.path.contains("/blobs/").then(|| Reply::Whole(307, vec![("Location", location)], Vec::new()))
    });
    let server = store.serve(&prepared.image, instead)?;
    log_in(&prepared.sandbox, &[&server.address.to_string(), &to.to_string()])?;
    prepared.scan(&prepared.reference(&server), "a")?.expect(0)?;
    // The bundle and the manifest.
    no_credential(&elsewhere, 2)
}

fn no_credential(server: &Server, requests: usize) -> Result<()> {
    let seen = server.requests();
    ensure!(seen.len() == requests, "{seen:?}");
    for (name, value) in seen.iter().flat_map(|head| &head.headers) {
        ensure!(name != "authorization" && !value.contains(BASIC) && !value.contains(PASSWORD), "{name}: {value}");
    }
    Ok(())
}

/// A page with nothing of ours, and then the one with the bundle.
fn pages() -> Result<()> {
    let prepared = Prepared::new()?;
    let store = prepared.attached()?;
    let server = store.serve(
        &prepared.image,
        Box::new(|_, asked| {
            let first = asked.path.contains("/referrers/") && !asked.path.contains('?');
            let link = format!("<{}?last=x>; rel=\"next\"", asked.path);
            let page = json!({"schemaVersion": 2, "manifests": []}).to_string();
            first.then(|| Reply::Whole(200, vec![("Link", link)], page.into_bytes()))
        }),
    )?;
    prepared.scan(&prepared.reference(&server), "a")?.expect(0)?;
    Ok(())
}

/// Attestations of another kind, signatures of others, what was deleted from a list that clients keep.
fn others() -> Result<()> {
    let prepared = Prepared::new()?;
    let (manifest, image) = (prepared.image.manifest.clone(), Arc::clone(&prepared.image));
    let store = Store::without_referrers();
    let server = store.serve(&image, Box::new(|_, _| None))?;
    prepared.attach("a.bundle", &prepared.reference(&server))?.expect(0)?;
    let mut list = store.manifest(&format!("sha256-{manifest}"))?;
    let entry = |kind: &str, predicate: &str, digit: &str| {
        json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 2, "artifactType": kind,
            "digest": format!("sha256:{}", digit.repeat(64)),
            "annotations": {"dev.sigstore.bundle.predicateType": predicate}})
    };
    let more = [
        entry(BUNDLE_TYPE, "https://slsa.dev/provenance/v1", "1"),
        entry("application/spdx+json", PREDICATE_TYPE, "2"),
        entry(BUNDLE_TYPE, PREDICATE_TYPE, "3"),
    ];
    list["manifests"].as_array_mut().context("a list")?.extend(more);
    store.put_as(Some(&format!("sha256-{manifest}")), list.to_string().into_bytes());
    prepared.scan(&prepared.reference(&server), "a")?.expect(0)?;
    let asked = |digit: &str| server.requests().iter().filter(|head| head.first.contains(&digit.repeat(64))).count();
    ensure!((asked("1"), asked("2"), asked("3")) == (0, 0, 1), "what is not ours was asked for");
    Ok(())
}

fn about_another_image() -> Result<()> {
    let prepared = Prepared::new()?;
    let other = Arc::new(Image::create(&prepared.sandbox, "other")?);
    let server = Store::new().serve(&other, Box::new(|_, _| None))?;
    let reference = format!("registry:{}/app@sha256:{}", server.address, other.manifest);
    let says = format!("/app: refused: the bundle's statement is not about the image sha256:{}", other.manifest);
    expect_line(&prepared.attach("a.bundle", &reference)?, 77, &[&says])?;
    ensure!(server.requests().iter().all(|head| head.first.starts_with("GET ")), "something was written");
    for wrong in ["dir:root", "oci:image", "image"] {
        expect_line(
            &prepared.attach("a.bundle", wrong)?,
            64,
            &["not an image in a registry: write registry:HOST/REPO@"],
        )?;
    }
    Ok(())
}

/// An index of the image, for amd64, and of another one, for arm64; the digests of the index and of the other image.
fn index_of(prepared: &Prepared, store: &Store) -> Result<(String, String)> {
    let other = Image::create(&prepared.sandbox, "arm64")?;
    let entry = |image: &Image, architecture: &str| {
        json!({
            "mediaType": IMAGE_TYPE, "digest": format!("sha256:{}", image.manifest),
            "size": image.blob(&image.manifest).len(), "platform": {"os": "linux", "architecture": architecture},
        })
    };
    let entries = [entry(&prepared.image, "amd64"), entry(&other, "arm64")];
    let index = store.put(&json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries}));
    Ok((index, other.manifest))
}

fn index() -> Result<()> {
    let prepared = Prepared::new()?;
    let store = Store::new();
    let server = store.serve(&prepared.image, Box::new(|_, _| None))?;
    let (index, other) = index_of(&prepared, &store)?;
    let reference = format!("registry:{}/app@{index}", server.address);
    let scan = |platform: &str| {
        let arguments = ["--profile", "content", "--platform", platform, "--key", "a.pub", "root"];
        prepared.run(&[&["scan", "--image", &reference], &arguments[..]].concat())
    };
    expect_line(&scan("linux/amd64")?, 66, &[&index, "no signed manifest is attached to it: driftlock attach"])?;
    let attach = |platform: &str| prepared.run(&["attach", "a.bundle", &reference, "--platform", platform]);
    expect_line(&attach("linux/arm64")?, 77, &[&format!("is not about the image sha256:{other}")])?;
    ensure!(store.artifacts().is_empty(), "something was attached");
    attach("linux/amd64")?.expect(0)?;
    let (_, artifact) = store.artifacts().pop().context("an artifact")?;
    ensure!(artifact["subject"]["digest"] == format!("sha256:{}", prepared.image.manifest), "{artifact}");
    ensure!(artifact["subject"]["mediaType"] == IMAGE_TYPE, "{artifact}");
    // That of amd64, unless another one is named.
    prepared.scan(&reference, "a")?.expect(0)?;
    prepared.scan(&prepared.reference(&server), "a")?.expect(0)?;
    expect_line(&scan("linux/arm64")?, 66, &["no signed manifest is attached to it"])?;
    expect_line(&scan("linux/s390x")?, 66, &["no image is for linux/s390x; there are: sha256:"])?;
    expect_line(&scan("linux")?, 64, &["--platform \"linux\" is not OS/ARCH"])?;
    expect_line(&attach("linux/")?, 64, &["--platform \"linux/\" is not OS/ARCH"])?;
    let alone = prepared.run(&["scan", "--platform", "linux/amd64", "--manifest", "a.bundle", "root"])?.expect(64)?;
    ensure!(alone.stderr.contains("--image"), "{alone:?}");
    Ok(())
}

fn on_an_index() -> Result<()> {
    let prepared = Prepared::new()?;
    let store = prepared.attached()?;
    let server = store.serve(&prepared.image, Box::new(|_, _| None))?;
    let (index, _) = index_of(&prepared, &store)?;
    let reference = format!("registry:{}/app@{index}", server.address);
    // As a tool does it that asks nobody for a platform.
    replace(&store, |artifact| artifact["subject"]["digest"] = index.as_str().into())?;
    prepared.scan(&reference, "a")?.expect(0)?;
    expect_line(&prepared.scan(&prepared.reference(&server), "a")?, 66, &["no signed manifest is attached to it"])?;
    // What is about one of its images says nothing about another.
    let arm64 = ["scan", "--image", &reference, "--platform", "linux/arm64", "--key", "a.pub", "root"];
    expect_line(&prepared.run(&arm64)?, 77, &["its statement is about another image"])?;
    // Another manifest, attached to the image, comes first; what nobody trusts there hides nothing.
    prepared.seal("b", "narrow.bundle", &["--exclude", "etc/**"])?;
    prepared.attach("narrow.bundle", &prepared.reference(&server))?.expect(0)?;
    prepared.scan(&reference, "a")?.expect(0)?;
    let narrow = prepared.scan(&reference, "b")?.expect(0)?;
    ensure!(narrow.text()?.contains("etc/**"), "{narrow:?}");
    let both = ["scan", "--image", &reference, "--profile", "content", "--key", "a.pub", "--key", "b.pub", "root"];
    let both = prepared.run(&both)?.expect(0)?;
    ensure!(both.text()?.contains("etc/**"), "{both:?}");
    Ok(())
}

/// The registry answers with an index of its own.
fn another_index() -> Result<()> {
    let prepared = Prepared::new()?;
    let store = prepared.attached()?;
    let (index, other) = index_of(&prepared, &store)?;
    let path = format!("/v2/app/manifests/{index}");
    let theirs = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [{"mediaType": IMAGE_TYPE,
        "digest": format!("sha256:{other}"), "size": 1, "platform": {"os": "linux", "architecture": "amd64"}}]});
    let instead: Instead = Box::new(move |_, asked| {
        let headers = vec![("Content-Type", INDEX_TYPE.to_owned())];
        (asked.path == path).then(|| Reply::Whole(200, headers, theirs.to_string().into_bytes()))
    });
    let server = store.serve(&prepared.image, instead)?;
    let reference = format!("registry:{}/app@{index}", server.address);
    expect_line(&prepared.scan(&reference, "a")?, 65, &["wrong digest: the bytes have sha256:"])?;
    expect_line(&prepared.attach("a.bundle", &reference)?, 65, &["wrong digest: the bytes have sha256:"])
}

/// What is done to what is attached, or to what the registry answers, and what a scan says then.
struct Attack {
    name: &'static str,
    prepare: fn(&Prepared, &Store) -> Result<()>,
    instead: fn(&Store, &Asked<'_>) -> Option<Reply>,
    code: i32,
    says: &'static [&'static str],
}

/// Puts another artifact in the place of the one that is attached.
fn replace(store: &Store, edit: impl Fn(&mut Value)) -> Result<()> {
    let (digest, mut artifact) = store.artifacts().pop().context("an artifact")?;
    store.remove(&digest);
    edit(&mut artifact);
    store.put(&artifact);
    Ok(())
}

/// As many copies of the artifact, each with another annotation.
fn copies(store: &Store, count: usize) -> Result<()> {
    let (_, artifact) = store.artifacts().pop().context("an artifact")?;
    for number in 0..count {
        let mut copy = artifact.clone();
        copy["annotations"]["number"] = number.to_string().into();
        store.put(&copy);
    }
    Ok(())
}

fn referrers(asked: &Asked<'_>, headers: Vec<(&'static str, String)>, list: &Value) -> Option<Reply> {
    asked.path.contains("/referrers/").then(|| Reply::Whole(200, headers, list.to_string().into_bytes()))
}

fn honest(_: &Store, _: &Asked<'_>) -> Option<Reply> {
    None
}

const ATTACKS: &[Attack] = &[
    Attack {
        name: "a referrer of another image",
        prepare: |_, _| Ok(()),
        instead: |store, asked| {
            // The list says that it is about this image; the artifact says otherwise.
            let (digest, mut artifact) = store.artifacts().pop()?;
            if asked.path.contains("/referrers/") && asked.nth == 0 {
                artifact["subject"]["digest"] = format!("sha256:{}", "5".repeat(64)).into();
                store.remove(&digest);
                let digest = store.put(&artifact);
                return referrers(asked, Vec::new(), &json!({"manifests": [store.entry(&digest, &artifact)]}));
            }
            None
        },
        code: 66,
        says: &["no signed manifest is attached to it"],
    },
    Attack {
        name: "a statement about another image",
        prepare: |prepared, store| {
            let other = Image::create(&prepared.sandbox, "other")?;
            prepared.run(&["seal", &other.source, "--sign", "a.key", "-o", "other.bundle"])?.expect(0)?;
            let bundle = store.put_blob(&fs::read(prepared.sandbox.path("other.bundle"))?);
            replace(store, |artifact| {
                artifact["layers"][0]["digest"] = bundle["digest"].clone();
                artifact["layers"][0]["size"] = bundle["size"].clone();
            })
        },
        instead: honest,
        code: 77,
        says: &["refused: no bundle that is attached to it is believed", "its statement is about another image"],
    },
    Attack {
        name: "another manifest under a good bundle",
        prepare: |prepared, store| {
            prepared.run(&["seal", "dir:root", "-o", "evil.manifest"])?.expect(0)?;
            let evil = zstd::encode_all(&fs::read(prepared.sandbox.path("evil.manifest"))?[..], 3)?;
            let evil = store.put_blob(&evil);
            replace(store, |artifact| {
                artifact["layers"][1]["digest"] = evil["digest"].clone();
                artifact["layers"][1]["size"] = evil["size"].clone();
            })
        },
        instead: honest,
        code: 77,
        says: &["refused, because the manifest beside it is not the one that was signed"],
    },
    Attack {
        name: "two signed manifests that differ",
        prepare: |prepared, store| {
            prepared.seal("a", "narrow.bundle", &["--exclude", "etc/**"])?;
            let (_, mut artifact) = store.artifacts().pop().context("an artifact")?;
            let bundle = store.put_blob(&fs::read(prepared.sandbox.path("narrow.bundle"))?);
            artifact["layers"][0]["digest"] = bundle["digest"].clone();
            artifact["layers"][0]["size"] = bundle["size"].clone();
            store.put(&artifact);
            Ok(())
        },
        instead: honest,
        code: 77,
        says: &["refused: two signed manifests of one image differ, ", "take the right one by --manifest BUNDLE"],
    },
    Attack {
        name: "a list of 10,000 referrers",
        prepare: |_, _| Ok(()),
        instead: |store, asked| {
            let (digest, artifact) = store.artifacts().pop()?;
            let mut entry = store.entry(&digest, &artifact);
            entry["annotations"].take();
            let entries = vec![entry; 10_000];
            referrers(asked, Vec::new(), &json!({"manifests": entries}))
        },
        code: 65,
        says: &["more than 1000 referrers, which are not looked through"],
    },
    Attack {
        name: "a list without end",
        prepare: |_, _| Ok(()),
        instead: |_, asked| {
            asked.path.contains("/referrers/").then(|| Reply::Endless(b"HTTP/1.1 200 OK\r\n\r\n".to_vec()))
        },
        code: 65,
        says: &["larger than the 4194304 bytes allowed for it"],
    },
    Attack {
        name: "65 bundles",
        prepare: |_, store| copies(store, 64),
        instead: honest,
        code: 77,
        says: &["refused: more than 64 bundles are attached to it: take the right one by --manifest BUNDLE"],
    },
    Attack {
        name: "pages in a circle",
        prepare: |_, _| Ok(()),
        instead: |_, asked| {
            let path = asked.path.split('?').next().unwrap_or_default();
            referrers(asked, vec![("Link", format!("<{path}?n=1>; rel=\"next\""))], &json!({"manifests": []}))
        },
        code: 65,
        says: &["its referrers have more than 32 pages"],
    },
    Attack {
        name: "a next page somewhere else",
        prepare: |_, _| Ok(()),
        instead: |_, asked| {
            let link = "<http://127.0.0.1:1/v2/app/referrers/x>; rel=\"next\"".to_owned();
            referrers(asked, vec![("Link", link)], &json!({"manifests": []}))
        },
        code: 65,
        says: &["the next page of its referrers is somewhere else"],
    },
    Attack {
        name: "a list that is none",
        prepare: |_, _| Ok(()),
        instead: |_, asked| referrers(asked, Vec::new(), &json!({"manifests": [{"digest": 7}]})),
        code: 65,
        says: &["not the JSON expected here"],
    },
    Attack {
        name: "another artifact than was listed",
        prepare: |_, _| Ok(()),
        instead: |store, asked| {
            let (digest, artifact) = store.artifacts().pop()?;
            let forged = artifact.to_string().replace("dsse-envelope", "dsse-envelopf").into_bytes();
            asked.path.ends_with(&digest).then(|| Reply::Whole(200, Vec::new(), forged))
        },
        code: 65,
        says: &["wrong digest"],
    },
    Attack {
        name: "another bundle than was listed",
        prepare: |_, _| Ok(()),
        instead: |store, asked| {
            let (_, artifact) = store.artifacts().pop()?;
            let digest = artifact["layers"][0]["digest"].as_str()?.to_owned();
            let mut forged = store.blob(&digest)?;
            forged.reverse();
            asked.path.ends_with(&digest).then(|| Reply::Whole(200, Vec::new(), forged))
        },
        code: 65,
        says: &["wrong digest"],
    },
    Attack {
        name: "another manifest than was listed",
        prepare: |_, _| Ok(()),
        instead: |store, asked| {
            let (_, artifact) = store.artifacts().pop()?;
            let digest = artifact["layers"][1]["digest"].as_str()?.to_owned();
            let mut forged = store.blob(&digest)?;
            forged.reverse();
            asked.path.ends_with(&digest).then(|| Reply::Whole(200, Vec::new(), forged))
        },
        code: 65,
        says: &["wrong digest"],
    },
    Attack {
        name: "a huge bundle",
        prepare: |_, store| replace(store, |artifact| artifact["layers"][0]["size"] = 5_000_000.into()),
        instead: honest,
        code: 65,
        says: &["larger than the 4194304 bytes allowed for it"],
    },
    Attack {
        name: "a huge manifest",
        prepare: |_, store| replace(store, |artifact| artifact["layers"][1]["size"] = (1_u64 << 31).into()),
        instead: honest,
        code: 65,
        says: &["larger than the 1073741824 bytes allowed for it"],
    },
    Attack {
        name: "a bundle that is none",
        prepare: |_, store| {
            let bundle = store.put_blob(b"{\"driftlock\":1}");
            replace(store, |artifact| {
                artifact["layers"][0]["digest"] = bundle["digest"].clone();
                artifact["layers"][0]["size"] = bundle["size"].clone();
            })
        },
        instead: honest,
        code: 77,
        says: &["refused: no bundle that is attached to it is believed", "not a bundle"],
    },
    Attack {
        name: "a bundle without its manifest",
        prepare: |_, store| {
            replace(store, |artifact| {
                let bundle = artifact["layers"][0].clone();
                artifact["layers"] = json!([bundle]);
            })
        },
        instead: honest,
        code: 66,
        says: &["no signed manifest is attached to it"],
    },
    Attack {
        name: "nothing at all",
        prepare: |_, store| replace(store, |artifact| artifact["subject"] = json!({})),
        instead: honest,
        code: 66,
        says: &["no signed manifest is attached to it: driftlock attach puts one there"],
    },
];

fn attacked(attack: &'static Attack) -> Result<()> {
    let prepared = Prepared::new()?;
    let store = prepared.attached()?;
    (attack.prepare)(&prepared, &store)?;
    let server = store.serve(&prepared.image, Box::new(attack.instead))?;
    let scanned = prepared.scan(&prepared.reference(&server), "a")?;
    expect_line(&scanned, attack.code, attack.says)?;
    ensure!(scanned.stdout.is_empty(), "{scanned:?}");
    Ok(())
}

/// What a registry answers to who writes, and what is said then.
struct Write {
    name: &'static str,
    instead: fn(&Store, &Asked<'_>) -> Option<Reply>,
    code: i32,
    says: &'static [&'static str],
}

fn to(asked: &Asked<'_>, method: &str, status: u16, headers: &[(&'static str, &str)]) -> Option<Reply> {
    let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    (asked.method() == method).then(|| Reply::Whole(status, headers, Vec::new()))
}

const WRITES: &[Write] = &[
    Write {
        name: "an image that is not there",
        instead: |_, asked| {
            asked.path.ends_with(&asked.image.manifest).then(|| Reply::Whole(404, Vec::new(), Vec::new()))
        },
        code: 66,
        says: &["there is no image sha256:"],
    },
    Write {
        name: "a redirect of an upload",
        instead: |_, asked| to(asked, "POST", 307, &[("Location", "http://127.0.0.1:1/")]),
        code: 65,
        says: &["redirects what is written to it, which is not followed"],
    },
    Write {
        name: "no place for an upload",
        instead: |_, asked| to(asked, "POST", 202, &[]),
        code: 65,
        says: &["does not say where a blob is to be written"],
    },
    Write {
        name: "a place in plain text elsewhere",
        instead: |_, asked| to(asked, "POST", 202, &[("Location", "http://192.0.2.1/upload")]),
        code: 77,
        says: &["redirects to 192.0.2.1 without encryption, which is refused"],
    },
    Write {
        name: "a registry that may only be read",
        instead: |_, asked| to(asked, "POST", 405, &[]),
        code: 65,
        says: &["answers 405 Method Not Allowed, which makes no sense here"],
    },
    Write {
        name: "who may not write",
        instead: |_, asked| to(asked, "POST", 403, &[]),
        code: 77,
        says: &["answers 403 Forbidden: not for everybody"],
    },
    Write {
        name: "503 for ever",
        instead: |_, asked| to(asked, "PUT", 503, &[("Retry-After", "0")]),
        code: 69,
        says: &["answers 503 Service Unavailable, asked 5 times"],
    },
    Write {
        name: "a tag that leads to an image",
        instead: |_, asked| match asked.path.contains("/manifests/sha256-") {
            true => Some(Reply::Whole(200, Vec::new(), asked.image.blob(&asked.image.manifest))),
            false => {
                asked.path.contains("/referrers/").then(|| Reply::Whole(404, Vec::new(), Vec::new())).or_else(|| {
                    // It takes the artifact, and does not say that it lists it.
                    (asked.method() == "PUT" && asked.path.contains("/manifests/"))
                        .then(|| Reply::Whole(201, Vec::new(), Vec::new()))
                })
            }
        },
        code: 65,
        says: &["the tag of its referrers leads to something that is no list"],
    },
];

fn written(write: &'static Write) -> Result<()> {
    let prepared = Prepared::new()?;
    let server = Store::new().serve(&prepared.image, Box::new(write.instead))?;
    expect_line(&prepared.attach("a.bundle", &prepared.reference(&server))?, write.code, write.says)
}
