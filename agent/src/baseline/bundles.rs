//! Attacks on the one door, each by its name with the refusal that it meets, for what of a bundle is in files.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use driftlock_common::digest::Digest;
use driftlock_common::manifest::Manifest;
use driftlock_common::profile::Profile;
use driftlock_common::trust::{Anchors, Assignment, Envelope, PAYLOAD_TYPE, PrivateKey, Scheme, Statement, Timestamp};
use tempfile::TempDir;

use super::kit::manifest;
use super::{Accept, Baseline, Terms};
use crate::admit::{self, AdmitError};
use crate::assigned::Serials;
use crate::bundle;
use crate::config::{Target, Trust};
use crate::failure::Failure;

const NOW: Timestamp = Timestamp::EARLIEST;

fn key(number: u8) -> PrivateKey {
    PrivateKey::from_random(Scheme::Ed25519, &[number; 32]).unwrap()
}

fn anchors(keys: &[u8]) -> Anchors {
    Anchors::any_of(keys.iter().map(|number| (format!("key {number}"), key(*number).public().clone())))
}

fn signed(anchors: Anchors) -> Accept {
    Accept::Signed(Terms { anchors: Arc::new(anchors), now: NOW, assigned: None })
}

fn sealed(content: &[&str]) -> Manifest {
    manifest(Profile::Portable, &["tmp/**"], content)
}

/// A bundle with its manifest beside it.
fn bundle_of(dir: &Path, name: &str, manifest: &Manifest, by: &[u8], change: impl FnOnce(&mut Statement)) -> PathBuf {
    let bytes = manifest.encode();
    let sha256 = Digest::sha256(&bytes);
    let mut statement = Statement::of(manifest, sha256, "", "2026-11-30T00:00:00Z".to_owned());
    change(&mut statement);
    fs::write(dir.join(bundle::file_name(sha256)), bytes).unwrap();
    let mut envelope = Envelope::new(PAYLOAD_TYPE, statement.encode());
    by.iter().for_each(|number| envelope.sign(&key(*number)));
    let path = dir.join(name);
    fs::write(&path, envelope.encode()).unwrap();
    path
}

fn refusal(path: &Path, accept: &Accept) -> (u8, String) {
    let failure = Failure::from(Baseline::load(path, accept).unwrap_err());
    let said = failure.to_string();
    assert!(!said.contains('\n'), "{said}");
    (failure.exit.code(), said)
}

#[test]
fn what_is_signed_by_a_key_is_a_baseline_and_says_by_which() {
    let dir = TempDir::new().unwrap();
    let manifest = sealed(&["a", "b/", "b/c"]);
    let path = bundle_of(dir.path(), "app.bundle", &manifest, &[1, 2], |_| {});
    let baseline = Baseline::load(&path, &signed(anchors(&[2, 3]))).unwrap();
    assert_eq!(*baseline.manifest(), manifest);
    let view = baseline.view();
    assert_eq!((view.trust.as_ref(), view.key), ("signed", Some(key(2).public().id().to_string())));
    assert_eq!(view.sha256, Digest::sha256(&manifest.encode()));
    assert_eq!(baseline.until(), None);
    let both = Baseline::load(&path, &signed(anchors(&[1, 2]))).unwrap().view().key.unwrap();
    assert_eq!(both.split(' ').count(), 2);
    // Nobody verified it: it is what it is called.
    let unseen = Baseline::load(&path, &Accept::Unsigned).unwrap().view();
    assert_eq!((unseen.trust.as_ref(), unseen.key), ("unsigned", None));
    // Compressed it is the same.
    let plain = dir.path().join(bundle::file_name(view.sha256));
    let compressed = zstd::encode_all(&fs::read(&plain).unwrap()[..], 3).unwrap();
    fs::write(dir.path().join(format!("{}.zst", bundle::file_name(view.sha256))), compressed).unwrap();
    fs::remove_file(plain).unwrap();
    let again = Baseline::load(&path, &signed(anchors(&[2]))).unwrap();
    assert_eq!(*again.manifest(), manifest);
}

#[test]
fn attacks_on_a_bundle_are_refused() {
    let dir = TempDir::new().unwrap();
    let good = sealed(&["a"]);
    let other = sealed(&["b"]);
    let make = |name: &str, by: &[u8], change: fn(&mut Statement)| bundle_of(dir.path(), name, &good, by, change);
    let key_1 = signed(anchors(&[1]));
    let bare = dir.path().join("bare.manifest");
    fs::write(&bare, good.encode()).unwrap();
    let swapped = {
        let apart = dir.path().join("swapped");
        fs::create_dir(&apart).unwrap();
        let path = bundle_of(&apart, "app.bundle", &good, &[1], |_| {});
        fs::write(apart.join(bundle::file_name(Digest::sha256(&good.encode()))), other.encode()).unwrap();
        path
    };
    let damaged = {
        let apart = dir.path().join("damaged");
        fs::create_dir(&apart).unwrap();
        let path = bundle_of(&apart, "app.bundle", &good, &[1], |_| {});
        let beside = apart.join(bundle::file_name(Digest::sha256(&good.encode())));
        let text = String::from_utf8(good.encode()).unwrap().replacen("\"p\":\"a\"", "\"p\":\"x\"", 1);
        fs::write(beside, text).unwrap();
        path
    };
    let absent = {
        let apart = dir.path().join("absent");
        fs::create_dir(&apart).unwrap();
        let path = bundle_of(&apart, "app.bundle", &good, &[1], |_| {});
        fs::remove_file(apart.join(bundle::file_name(Digest::sha256(&good.encode())))).unwrap();
        path
    };
    let truncated = dir.path().join("truncated.bundle");
    let whole = fs::read(make("whole.bundle", &[1], |_| {})).unwrap();
    fs::write(&truncated, &whole[..whole.len() - 2]).unwrap();
    for (attack, path, accept, code, says) in [
        ("bare-manifest-where-a-bundle-was", bare.clone(), &key_1, 77, "nobody signed it"),
        ("another-key", make("1", &[2], |_| {}), &key_1, 77, "signed by 0 of the 1 trusted key(s)"),
        ("no-key-given", make("2", &[1], |_| {}), &Accept::Bare, 77, "--key FILE, or --allow-unsigned"),
        ("nobody-trusted", make("3", &[1], |_| {}), &signed(Anchors::default()), 77, "no key is trusted"),
        ("manifest-swapped", swapped, &key_1, 77, "is not the one that was signed"),
        ("manifest-damaged", damaged, &key_1, 65, "the manifest beside it cannot be used: line 3"),
        ("manifest-absent", absent, &key_1, 66, "is not beside it"),
        ("truncated", truncated, &key_1, 65, "not a bundle"),
        ("another-tree", make("4", &[1], |said| said.tree = sealed(&["b"]).name()), &key_1, 77, "another tree"),
        ("another-profile", make("5", &[1], |said| said.profile = Profile::Content), &key_1, 77, "another profile"),
        ("more-excludes", make("6", &[1], |said| said.excludes.push("a".into())), &key_1, 77, "list of excludes"),
        ("other-counts", make("7", &[1], |said| said.counts.entries += 1), &key_1, 77, "number of entries"),
    ] {
        let (found, said) = refusal(&path, accept);
        assert!(found == code && said.contains(says), "{attack}: {found} {said}");
    }
    // Without the wish for a signature a bare manifest is one.
    assert_eq!(Baseline::load(&bare, &Accept::Bare).unwrap().view().trust, "unsigned");
}

#[test]
fn of_several_manifests_each_has_its_own_door() {
    let dir = TempDir::new().unwrap();
    let one = bundle_of(dir.path(), "one", &sealed(&["a"]), &[1], |_| {});
    let two = bundle_of(dir.path(), "two", &sealed(&["b"]), &[2], |_| {});
    let bare = dir.path().join("bare");
    fs::write(&bare, sealed(&["c"]).encode()).unwrap();
    let accept = signed(anchors(&[1, 2]));
    let view = Baseline::load_all(&[one.clone(), two.clone()], &accept).unwrap().view();
    assert_eq!((view.trust.as_ref(), view.key), ("signed", None));
    let keys: Vec<_> = view.parts.into_iter().map(|part| part.key.unwrap()).collect();
    assert_eq!(keys, [1, 2].map(|number| key(number).public().id().to_string()));
    for (paths, accept) in
        [(vec![one.clone(), two.clone()], signed(anchors(&[1]))), (vec![one.clone(), bare.clone()], accept)]
    {
        assert_eq!(Failure::from(Baseline::load_all(&paths, &accept).unwrap_err()).exit.code(), 77);
    }
    let weakest = Baseline::load_all(&[one, bare], &Accept::Unsigned).unwrap().view();
    assert_eq!(weakest.trust, "unsigned");
}

/// A target with an assignment beside a directory of bundles.
struct Assigning {
    dir: TempDir,
    target: Target,
    serials: Serials,
    labels: BTreeMap<String, String>,
}

impl Assigning {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("bundles")).unwrap();
        fs::write(dir.path().join("k1.pub"), key(1).public().to_pem()).unwrap();
        let mut target = Target::new("app", "/srv/app", dir.path().join("bundles"));
        target.trust = Trust::AnyOf(vec![dir.path().join("k1.pub")]);
        target.assignment = Some(dir.path().join("app.assignment"));
        let serials = Serials::of("app", dir.path());
        Self { dir, target, serials, labels: BTreeMap::new() }
    }

    fn build(&self, content: &str) -> Digest {
        let manifest = sealed(&[content]);
        let sha256 = Digest::sha256(&manifest.encode());
        bundle_of(&self.dir.path().join("bundles"), &format!("{sha256}.bundle"), &manifest, &[1], |_| {});
        sha256
    }

    fn assign(&self, by: u8, serial: u64, manifest: Digest, change: impl FnOnce(&mut Assignment)) -> Vec<u8> {
        let mut assignment = Assignment {
            target: Some("app".to_owned()),
            labels: BTreeMap::new(),
            manifest,
            serial,
            not_before: None,
            expires: None,
        };
        change(&mut assignment);
        let mut envelope = Envelope::new(PAYLOAD_TYPE, assignment.encode());
        envelope.sign(&key(by));
        let bytes = envelope.encode();
        self.put(&bytes);
        bytes
    }

    fn put(&self, bytes: &[u8]) {
        fs::write(self.dir.path().join("app.assignment"), bytes).unwrap();
    }

    /// As the agent does: kept before it counts.
    fn admit(&mut self) -> Result<Baseline, AdmitError> {
        let admitted = admit::admit(&self.target, &self.labels, &mut self.serials, NOW)?;
        self.serials.keep(admitted.mark.unwrap())?;
        Ok(admitted.baseline)
    }

    fn refused(&mut self) -> String {
        let error = self.admit().unwrap_err();
        let failure = Failure::from(error);
        assert_eq!(failure.exit.code(), 77, "{failure}");
        failure.to_string()
    }
}

#[test]
fn going_back_is_a_new_assignment_and_an_old_one_is_refused() {
    let mut host = Assigning::new();
    let (old, new) = (host.build("old"), host.build("new"));
    let first = host.assign(1, 1, old, |_| {});
    assert_eq!(host.admit().unwrap().view().sha256, old);
    host.assign(1, 2, new, |_| {});
    assert_eq!(host.admit().unwrap().view().sha256, new);
    assert_eq!(host.admit().unwrap().view().sha256, new, "the same again");
    host.put(&first);
    assert!(host.refused().contains("its serial is 1, and 2 was accepted before"), "assignment-replayed");
    // A restart forgets nothing.
    host.serials = Serials::of("app", host.dir.path());
    assert!(host.refused().contains("its serial is 1, and 2"), "assignment-replayed after a restart");
    host.assign(1, 2, old, |_| {});
    assert!(host.refused().contains("another assignment with the serial 2"), "assignment of the same serial");
    host.assign(1, 3, old, |_| {});
    assert_eq!(host.admit().unwrap().view().sha256, old);
}

#[test]
fn attacks_on_an_assignment_are_refused() {
    let mut host = Assigning::new();
    let manifest = host.build("x");
    let later = Timestamp::from_unix(NOW.unix() + 60);
    host.assign(2, 1, manifest, |_| {});
    assert!(host.refused().contains("the assignment is refused: signed by 0 of the 1"), "another key");
    host.assign(1, 1, manifest, |said| said.target = Some("db".to_owned()));
    assert!(host.refused().contains("it is for the target \"db\""), "another target");
    host.assign(1, 1, manifest, |said| said.labels = BTreeMap::from([("role".to_owned(), "web".to_owned())]));
    assert!(host.refused().contains("it is for hosts with the label \"role\" = \"web\""), "another host");
    host.assign(1, 1, manifest, |said| said.not_before = Some(later));
    assert!(host.refused().contains("it counts only from "), "not yet valid");
    host.assign(1, 1, manifest, |said| said.expires = Some(NOW));
    let error = host.admit().unwrap_err();
    assert!(error.is_expiry(), "{error}");
    // None of them counts against the one that is good.
    host.assign(1, 1, manifest, |said| said.expires = Some(later));
    assert_eq!(host.admit().unwrap().until(), Some(later));
    // A bundle of its own that is about another manifest.
    let own = bundle_of(host.dir.path(), "own.bundle", &sealed(&["y"]), &[1], |_| {});
    host.target.manifests = crate::config::Manifests::Files(vec![own]);
    assert!(host.refused().contains("the assignment names another manifest"));
    // A manifest is no assignment.
    let bundle = host.target.manifests.files()[0].clone();
    host.target.assignment = Some(bundle);
    let failure = Failure::from(host.admit().unwrap_err());
    assert_eq!(failure.exit.code(), 65, "{failure}");
    assert!(failure.to_string().contains("not an assignment"), "{failure}");
}
