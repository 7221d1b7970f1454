//! What an identity is on disk, whatever is interrupted, replaced from outside, or given by a collector that errs.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use driftlock_common::digest::Digest;
use driftlock_common::enrolment::Issued;
use driftlock_common::exit::Exit;
use driftlock_common::trust::Scheme;
use proptest::prelude::*;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::request::CertReq;

use super::directory::Origin;
use super::kit::Authority;
use super::request::Request;
use super::{Certificate, CertificateError, Directory, Identity, IdentityError};
use crate::failure::Failure;
use crate::key_file;

fn load(state_dir: &Path) -> Option<Identity> {
    Directory::of(state_dir).load().unwrap()
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn what_was_given_is_read_again_and_is_the_agents_alone() {
    let dir = tempfile::tempdir().unwrap();
    let state_dir = dir.path().join("state");
    assert_eq!(load(&state_dir), None);
    let authority = Authority::new();
    let token = Digest::sha256(b"secret");
    let origin = Origin { endpoint: Some("https://c.example:8443".parse().unwrap()), token: Some(token) };
    let change = Directory::of(&state_dir).lock().unwrap().begin().unwrap();
    assert_eq!(load(&state_dir), None, "a key alone is no identity");
    let issued = authority.issue(&change, "web-1");
    let kept = change.keep(&issued, &origin).unwrap();
    assert_eq!(load(&state_dir), Some(kept.clone()));
    assert_eq!((kept.name(), kept.token), ("web-1", Some(token)));
    assert_eq!(kept.endpoint.unwrap().to_string(), "https://c.example:8443");
    assert_eq!(kept.authorities.unwrap(), authority.pem().as_bytes());
    assert_eq!(kept.until.since(kept.from), Duration::from_hours(24 * 30));
    let mut names = Vec::new();
    for file in fs::read_dir(state_dir.join("identity")).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o600, "{file:?}");
        names.push(file.file_name().into_string().unwrap());
    }
    names.sort();
    let expected = ["ca.pem", "certificate.pem", "endpoint", "key.pem", "receipt.key", "receipt.pem", "token.sha256"];
    assert_eq!(names, expected);
    assert_eq!(fs::metadata(state_dir.join("identity")).unwrap().mode() & 0o7777, 0o700);
    let left: Vec<_> = fs::read_dir(&state_dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_renewal_has_another_key_and_the_same_receipt_key() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (first, receipt) = (authority.join(dir.path(), "web-1"), text(&dir.path().join("identity/receipt.key")));
    let key = text(&dir.path().join("identity/key.pem"));
    let second = authority.join(dir.path(), "web-1");
    assert_ne!(first.credential, second.credential);
    assert_ne!(key, text(&dir.path().join("identity/key.pem")));
    assert_eq!(receipt, text(&dir.path().join("identity/receipt.key")));
}

/// Every moment at which a process may be killed while one identity takes the place of another, or is the first.
#[test]
fn whatever_is_interrupted_there_is_the_one_before_or_the_next() {
    for has_one_before in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let authority = Authority::new();
        let before = has_one_before.then(|| authority.join(dir.path(), "web-1"));
        let begin = || Directory::of(dir.path()).lock().unwrap().begin().unwrap();
        // The key was made.
        let key = begin().key().public().to_pem();
        assert_eq!(load(dir.path()), before);
        // Half a file was written, and some that come before the certificate.
        fs::write(at("identity.next/key.draft"), "-----BEGIN").unwrap();
        fs::write(at("identity.next/ca.pem"), authority.pem()).unwrap();
        let change = begin();
        assert_eq!(change.key().public().to_pem(), key, "who is asked again is asked the same");
        assert_eq!(load(dir.path()), before);
        // The certificate was written too.
        let issued = authority.issue(&change, "web-1");
        drop(change);
        fs::write(at("identity.next/receipt.pem"), &issued.receipt_certificate).unwrap();
        fs::write(at("identity.next/certificate.pem"), &issued.certificate).unwrap();
        if has_one_before {
            assert_eq!(load(dir.path()), before);
            // It is on its way.
            fs::rename(at("identity"), at("identity.old")).unwrap();
        }
        let next = load(dir.path()).unwrap();
        assert_ne!(Some(&next), before.as_ref());
        assert_eq!(next.host.as_ref().unwrap().as_str(), "web-1");
        // Whoever comes next ends it.
        assert_eq!(Directory::of(dir.path()).settled().unwrap(), Some(next.clone()));
        assert!(!at("identity.next").exists() && !at("identity.old").exists());
        assert_eq!(load(dir.path()), Some(next.clone()));
        // It was there, and the one before not yet gone.
        fs::create_dir(at("identity.old")).unwrap();
        fs::write(at("identity.old/key.pem"), "old").unwrap();
        drop(Directory::of(dir.path()).lock().unwrap());
        assert!(!at("identity.old").exists());
        assert_eq!(load(dir.path()), Some(next));
    }
}

#[test]
fn what_others_put_there_is_taken_if_it_fits_together() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join("identity").join(name);
    let authority = Authority::new();
    let first = authority.join(dir.path(), "web-1");
    // Another CA may make keys of other kinds, and names of its own.
    let other = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let params = rcgen::CertificateParams::new(["web-1.example".to_owned()]).unwrap();
    let certificate = params.self_signed(&other).unwrap().pem();
    let key = text(&at("key.pem"));
    fs::write(at("certificate.pem"), &certificate).unwrap();
    let error = Directory::of(dir.path()).load().unwrap_err();
    assert!(matches!(&error, IdentityError::Mismatch(path) if *path == at("certificate.pem")), "{error:?}");
    assert_eq!(Failure::from(error).exit, Exit::Malformed);
    fs::write(at("key.pem"), other.serialize_pem()).unwrap();
    fs::remove_file(at("ca.pem")).unwrap();
    let second = load(dir.path()).unwrap();
    assert_eq!((&second.host, second.name(), &second.authorities), (&None, "this host", &None));
    assert_ne!(second.credential, first.credential);

    let exit = |name: &str, bytes: &[u8]| {
        fs::write(at(name), bytes).unwrap();
        Failure::from(Directory::of(dir.path()).load().unwrap_err())
    };
    for (name, bytes, says) in [
        ("key.pem", &b"nothing"[..], "not the PEM of a private key"),
        ("key.pem", key.as_bytes(), "not that of the key in key.pem"),
        ("certificate.pem", b"", "not the PEM of an X.509 certificate"),
        ("ca.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "not the PEM of"),
        ("endpoint", b"\xff", "not text"),
        ("endpoint", b"http://collector.example", "use https"),
    ] {
        let kept = fs::read(at(name)).ok();
        let failure = exit(name, bytes);
        assert_eq!(failure.exit, Exit::Malformed, "{failure}");
        assert!(failure.to_string().contains(says) && failure.to_string().contains(name), "{failure}");
        match kept {
            Some(kept) => fs::write(at(name), kept).unwrap(),
            None => fs::remove_file(at(name)).unwrap(),
        }
    }
    fs::set_permissions(at("key.pem"), Permissions::from_mode(0o644)).unwrap();
    let failure = Failure::from(Directory::of(dir.path()).load().unwrap_err());
    assert_eq!(failure.exit, Exit::Refused);
    assert!(failure.to_string().ends_with("chmod 0600 it"), "{failure}");
    fs::remove_file(at("key.pem")).unwrap();
    assert_eq!(Failure::from(Directory::of(dir.path()).load().unwrap_err()).exit, Exit::NoInput);
    fs::remove_file(at("certificate.pem")).unwrap();
    assert_eq!(load(dir.path()), None, "without a certificate there is none");
}

#[test]
fn an_answer_that_is_not_about_the_keys_of_this_host_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let before = authority.join(dir.path(), "web-1");
    let stranger = key_file::random(Scheme::EcdsaP256).unwrap();
    let day = Duration::from_hours(24);
    type Spoil<'a> = &'a dyn Fn(&mut Issued);
    let spoils: [(&str, Spoil<'_>); 6] = [
        ("not for the key", &|issued| {
            issued.certificate = authority.certify(stranger.public(), "spiffe://driftlock/host/web-1", day);
        }),
        ("another host", &|issued| issued.host = "web-2".parse().unwrap()),
        ("another key", &|issued| {
            issued.receipt_certificate = authority.certify(stranger.public(), "spiffe://driftlock/receipt/web-1", day);
        }),
        ("no certificate", &|issued| issued.certificate = String::new()),
        ("no certificate", &|issued| issued.ca = "no".to_owned()),
        ("no certificate", &|issued| issued.receipt_certificate = issued.certificate.replace("MI", "IM")),
    ];
    for (says, spoil) in spoils {
        let change = Directory::of(dir.path()).lock().unwrap().begin().unwrap();
        let mut issued = authority.issue(&change, "web-1");
        spoil(&mut issued);
        let failure = Failure::from(change.keep(&issued, &Origin::default()).unwrap_err());
        assert_eq!(failure.exit, Exit::Malformed);
        assert!(failure.to_string().contains(says), "{says}: {failure}");
        assert_eq!(load(dir.path()), Some(before.clone()));
    }
    // With the same key, and this time with what is right.
    assert_ne!(authority.join(dir.path(), "web-1"), before);
}

#[test]
fn two_do_not_change_it_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let first = Directory::of(dir.path()).lock().unwrap();
    let path = dir.path().to_owned();
    let (sender, receiver) = std::sync::mpsc::channel();
    let second = std::thread::spawn(move || {
        let locked = Directory::of(&path).lock().unwrap();
        sender.send(()).unwrap();
        drop(locked);
    });
    assert!(receiver.try_recv().is_err());
    drop(first);
    second.join().unwrap();
    receiver.try_recv().unwrap();
}

/// What OpenSSL says of it stands in the tests of the whole program.
#[test]
fn a_request_is_one_for_its_key_and_signed_by_it() {
    let key = key_file::random(Scheme::EcdsaP256).unwrap();
    let request = Request::by(&key).unwrap();
    let read = CertReq::from_der(&request.der).unwrap();
    assert_eq!(read.info.public_key.to_der().unwrap(), key.public().to_der());
    assert!(key.public().verifies(&read.info.to_der().unwrap(), read.signature.raw_bytes()));
    let pem = request.to_pem();
    let lines: Vec<&str> = pem.lines().collect();
    let (first, body, last) = (lines[0], &lines[1..lines.len() - 1], lines[lines.len() - 1]);
    assert_eq!((first, last), ("-----BEGIN CERTIFICATE REQUEST-----", "-----END CERTIFICATE REQUEST-----"));
    assert!(body.iter().rev().skip(1).all(|line| line.len() == 64) && body.iter().all(|line| !line.is_empty()));
    assert_eq!(STANDARD.decode(body.concat()).unwrap(), request.der);
}

proptest! {
    #[test]
    fn no_bytes_make_reading_a_certificate_panic(bytes: Vec<u8>) {
        let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", STANDARD.encode(&bytes));
        prop_assert_eq!(Certificate::of_pem(pem.as_bytes()), Err(CertificateError));
        prop_assert_eq!(Certificate::of_pem(&bytes), Err(CertificateError));
    }
}
