//! Whom a target believes: trust files with everything that can be wrong with them, and judging by roles, thresholds, times
//! and sources, against an oracle; assignments.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use driftlock_common::digest::Digest;
use driftlock_common::manifest::Manifest;
use driftlock_common::trust::{
    Anchors, Assignment, Envelope, MAX_SERIAL, Mark, PAYLOAD_TYPE, PrivateKey, Refusal, Role, Scheme, Statement,
    StatementError, Timestamp, Unassigned,
};
use proptest::prelude::*;

/// Of which a trust file in these tests has each by its name.
const NAMES: [&str; 4] = ["build", "release", "ops", "old"];

fn key(name: &str) -> PrivateKey {
    let number = u8::try_from(name.bytes().map(u32::from).sum::<u32>() % 251).unwrap();
    PrivateKey::from_random(Scheme::Ed25519, &[number; 32]).unwrap()
}

fn pem(name: &str) -> String {
    key(name).public().to_pem()
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn entry(name: &str, more: &str) -> String {
    format!("[[key]]\nname = \"{name}\"\npem = \"\"\"\n{}\"\"\"\n{more}\n", pem(name))
}

fn anchors(text: &str) -> Anchors {
    Anchors::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn problems(text: &str) -> String {
    Anchors::parse(text.as_bytes()).map(|anchors| format!("accepted: {anchors:?}")).unwrap_or_else(|e| e.to_string())
}

/// Two of three build a manifest, one assigns; `old` is revoked.
fn roots() -> String {
    let mut text = "version = 1\n".to_owned();
    for (name, more) in [
        ("build", "not_before = 2026-06-01T00:00:00Z\nexpires = 2027-06-01T00:00:00Z"),
        ("release", "expires = 2027-01-01T00:00:00+02:00"),
        ("ops", ""),
        ("old", "revoked = true"),
    ] {
        text.push_str(&entry(name, more));
    }
    text + "[role.manifest]\nkeys = [\"build\", \"release\", \"old\"]\nthreshold = 2\n[role.assignment]\nkeys = [\"ops\"]\n"
}

fn statement(image: &str) -> Statement {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/parents.ndjson");
    let bytes = std::fs::read(path).unwrap();
    let manifest = Manifest::decode(&bytes).unwrap();
    Statement::of(&manifest, Digest::sha256(&bytes), image, "2026-11-30T00:00:00Z".to_owned())
}

/// As anybody could write it, duplicates and false hints too.
fn envelope(payload: &[u8], signers: &[&str], hint: &str) -> Envelope {
    let message = Envelope::new(PAYLOAD_TYPE, payload.to_vec()).to_sign();
    let signatures: Vec<String> = signers
        .iter()
        .map(|name| format!("{{\"sig\":\"{}\",\"keyid\":\"{hint}\"}}", STANDARD.encode(key(name).sign(&message))))
        .collect();
    let json = format!(
        "{{\"payload\":\"{}\",\"payloadType\":\"{PAYLOAD_TYPE}\",\"signatures\":[{}]}}",
        STANDARD.encode(payload),
        signatures.join(",")
    );
    Envelope::parse(json.as_bytes()).unwrap()
}

fn judge(anchors: &Anchors, role: Role, signers: &[&str], now: &str) -> Result<Option<Timestamp>, Refusal> {
    let envelope = envelope(b"{}", signers, &key("build").public().id().to_string());
    anchors.judge(role, &envelope, at(now)).map(|trusted| {
        assert_eq!(trusted.claim.by(), &trusted.by);
        trusted.until
    })
}

#[test]
fn every_attack_is_refused_by_its_name() {
    let anchors = anchors(&roots());
    let now = "2026-11-30T00:00:00Z";
    let good = judge(&anchors, Role::Manifest, &["build", "release"], now).unwrap();
    assert_eq!(good, Some(at("2026-12-31T22:00:00Z")), "the first of two to end, in UTC");
    for (attack, role, signers, now, says) in [
        (
            "key-of-another-role",
            Role::Manifest,
            &["build", "ops"][..],
            now,
            "signed by 1 of the 2 trusted key(s) that it takes: ops may not sign manifests",
        ),
        ("key-of-another-role-assigns", Role::Assignment, &["build", "release"], now, "may not sign assignments"),
        ("duplicate-signature", Role::Manifest, &["build", "build"], now, "signed by 1 of the 2"),
        ("unknown-key", Role::Manifest, &["build", "stranger"], now, "signed by 1 of the 2"),
        ("revoked", Role::Manifest, &["build", "old"], now, "takes: old is revoked"),
        (
            "expired",
            Role::Manifest,
            &["build", "release"],
            "2026-12-31T22:00:00Z",
            "release counted until 2026-12-31T22:00:00Z; judged at 2026-12-31T22:00:00Z",
        ),
        (
            "not-yet-valid",
            Role::Manifest,
            &["build", "release"],
            "2026-05-31T23:59:59Z",
            "build counts only from 2026-06-01T00:00:00Z; judged at 2026-05-31T23:59:59Z",
        ),
        ("clock-at-1970", Role::Assignment, &["ops"], "1970-01-01T00:00:00Z", "clock says 1970-01-01T00:00:00Z"),
    ] {
        let refusal = judge(&anchors, role, signers, now).expect_err(attack);
        assert!(refusal.to_string().contains(says), "{attack}: {refusal}");
        assert_eq!(refusal.is_expiry(), attack == "expired", "{attack}");
    }
}

#[test]
fn any_of_some_keys_is_enough_and_none_is_nobody() {
    let any = Anchors::any_of(["build", "ops"].map(|name| (name.to_owned(), key(name).public().clone())));
    for role in Role::ALL {
        assert_eq!(judge(&any, role, &["ops"], "2026-11-30T00:00:00Z"), Ok(None));
        assert!(judge(&any, role, &["release"], "2026-11-30T00:00:00Z").is_err());
        assert_eq!(judge(&Anchors::default(), role, &["ops"], "2026-11-30T00:00:00Z"), Err(Refusal::NoKeys(role)));
    }
    assert_eq!(Anchors::any_of([]), Anchors::default());
}

proptest! {
    /// Against counting by hand.
    #[test]
    fn it_takes_as_many_keys_as_are_wanted_at_that_time(
        windows in prop::array::uniform4((0i64..6, 0i64..6)),
        revoked in prop::array::uniform4(prop::bool::weighted(0.2)),
        member in prop::array::uniform4(prop::bool::weighted(0.8)),
        threshold in 1usize..4,
        signers in prop::collection::vec(0usize..4, 1..8),
        now in 0i64..7,
    ) {
        let day = |day: i64| Timestamp::from_unix(Timestamp::EARLIEST.unix() + day * 86400);
        let mut text = "version = 1\n".to_owned();
        for index in 0..4 {
            let (begin, length) = windows[index];
            let more = format!(
                "not_before = {}\nexpires = {}\nrevoked = {}",
                day(begin), day(begin + length + 1), revoked[index],
            );
            text.push_str(&entry(NAMES[index], &more));
        }
        let members: Vec<usize> = (0..4).filter(|index| member[*index]).collect();
        let alive = members.iter().filter(|index| !revoked[**index]).count();
        let names: Vec<&str> = members.iter().map(|index| NAMES[*index]).collect();
        writeln!(text, "[role.manifest]\nkeys = {names:?}\nthreshold = {threshold}").unwrap();
        let parsed = Anchors::parse(text.as_bytes());
        prop_assert_eq!(parsed.is_ok(), threshold <= alive, "{:?}", text);
        let Ok(anchors) = parsed else { return Ok(()) };
        let counts = |at: i64| {
            let distinct: BTreeSet<usize> = signers.iter().copied().collect();
            distinct.into_iter().filter(|index| {
                let (begin, length) = windows[*index];
                member[*index] && !revoked[*index] && begin <= at && at <= begin + length
            }).count()
        };
        let signed = envelope(b"x", &signers.iter().map(|index| NAMES[*index]).collect::<Vec<_>>(), "");
        let judged = anchors.judge(Role::Manifest, &signed, day(now));
        prop_assert_eq!(judged.is_ok(), counts(now) >= threshold);
        if let Ok(trusted) = judged {
            // The first day on which those that count now are too few, without any that begin later.
            let until = trusted.until.unwrap();
            let left = |at: i64| {
                let distinct: BTreeSet<usize> = signers.iter().copied().collect();
                distinct.into_iter().filter(|index| {
                    let (begin, length) = windows[*index];
                    member[*index] && !revoked[*index] && begin <= now && at <= begin + length
                }).count()
            };
            let end = (now..20).find(|at| left(*at) < threshold).unwrap();
            prop_assert_eq!(until, day(end));
        }
    }
}

#[test]
fn a_statement_is_about_an_image_that_is_pinned() {
    let pinned = |source: &str| anchors(&format!("{}[source]\n{source}\n", roots()));
    let statement = |name: &str| {
        let mut statement = statement(name);
        let image = driftlock_common::trust::Subject { name: name.to_owned(), sha256: Digest::sha256(b"image") };
        statement.subjects.retain(|subject| subject.sha256 == statement.manifest);
        statement.subjects.insert(0, image);
        statement
    };
    let named = pinned("repository = \"registry.example:5000/app\"");
    for (name, is_it) in [
        ("registry.example:5000/app", true),
        ("registry.example:5000/app:1.2", true),
        ("registry.example:5000/app@sha256:00", true),
        ("registry.example:5000/app:1.2@sha256:00", true),
        ("registry.example:5000/app/evil", false),
        ("registry.example:5000/apps", false),
        ("registry.example/app", false),
        ("", false),
    ] {
        assert_eq!(named.check_source(&statement(name)).is_ok(), is_it, "{name}");
    }
    let image = pinned(&format!("image = \"sha256:{}\"", Digest::sha256(b"image")));
    image.check_source(&statement("any")).unwrap();
    let other = pinned(&format!("image = [\"sha256:{}\"]", Digest::sha256(b"another")));
    assert!(other.check_source(&statement("any")).is_err(), "statement-for-another-image");
    // The manifest itself is no image, whatever it is called.
    let mut own = statement("x");
    own.subjects =
        vec![driftlock_common::trust::Subject { name: "registry.example:5000/app".to_owned(), sha256: own.manifest }];
    assert!(named.check_source(&own).is_err());
    anchors(&roots()).check_source(&own).unwrap();
}

#[test]
fn everything_that_is_wrong_with_a_trust_file_is_said_at_once_with_its_line() {
    for (text, says) in [
        ("", "version is missing"),
        ("", "there is no [[key]]"),
        ("", "there is no [role.manifest]"),
        ("version = 2", "1:11: version 2 is not known"),
        ("version = 1\nkeys = []", "2:1: unknown key keys; did you mean key?"),
        ("version = 1\n\"!strict\" = true", "2:1: unknown key !strict"),
        ("version = ", "1:"),
        ("[[key]]\nname = 'a'\npen = ''", "3:1: unknown key key.pen; did you mean key.pem?"),
        ("[[key]]\nname = 'a'\npem = 'x'", "3:7: key.pem: not a key"),
        ("[[key]]\nname = 'a'\npem = '''\n-----BEGIN PUBLIC KEY-----\nMCo=\n-----END PUBLIC KEY-----\n'''", "damaged"),
        ("[[key]]\nname = 'a'\npem = '''-----BEGIN PRIVATE KEY-----\n'''", "give its public key"),
        ("[[key]]\nname = ''", "key.name is 1 to 128"),
        ("[[key]]\nname = 'a'\nexpires = '2027'", "key.expires is not a time like"),
        ("[[key]]\nname = 'a'\nexpires = 2027-01-01", "key.expires is not a time like"),
        ("[[key]]\nname = 'a'\nexpires = 2027-01-01T00:00:00", "key.expires is not a time like"),
        (
            "[role.manifest]\nkeys = ['nobody']",
            "2:9: role.manifest.keys names \"nobody\", and there is no such [[key]]",
        ),
        ("[role.manifest]\nkeys = []", "role.manifest.keys is not a text, nor a list of texts that is not empty"),
        ("[role.manifest]\nthreshold = 1", "role.manifest.keys is missing"),
        ("[role.build]\nkeys = ['x']", "unknown key role.build"),
        ("[source]\nrepository = 'a@b'", "without a tag or a digest"),
        ("[source]\nimage = 'sha256:00'", "source.image is a digest"),
    ] {
        let found = problems(text);
        assert!(found.contains(says), "{text:?}: {found}");
    }
    let with = |roles: &str| {
        problems(&format!("version = 1\n{}{}{roles}", entry("build", ""), entry("old", "revoked = true")))
    };
    for (roles, says) in [
        ("[role.manifest]\nkeys = ['build', 'build']", "names \"build\" twice"),
        ("[role.manifest]\nkeys = ['build']\nthreshold = 2", "between 1 and the number of its keys"),
        ("[role.manifest]\nkeys = ['build']\nthreshold = 0", "between 1 and the number of its keys"),
        ("[role.manifest]\nkeys = ['build', 'old']\nthreshold = 2", "only 1 of its keys are not revoked"),
        ("[role.assignment]\nkeys = ['build']", "no manifest would be trusted"),
    ] {
        assert!(with(roles).contains(says), "{roles}: {}", with(roles));
    }
    let twice = format!("version = 1\n{}{}", entry("build", ""), entry("build", "").replace("\"build\"", "\"other\""));
    assert!(problems(&twice).contains("\"build\" and \"other\" are one key"), "{}", problems(&twice));
    let never = entry("build", "not_before = 2027-01-01T00:00:00Z\nexpires = 2027-01-01T00:00:00Z");
    assert!(problems(&never).contains("never does"), "{}", problems(&never));
}

fn assignment() -> Assignment {
    Assignment {
        target: Some("app".to_owned()),
        labels: BTreeMap::from([("role".to_owned(), "web".to_owned())]),
        manifest: Digest::sha256(b"manifest"),
        serial: 7,
        not_before: Some(at("2026-11-30T12:00:00Z")),
        expires: Some(at("2027-11-30T12:00:00Z")),
    }
}

fn read(payload: &[u8]) -> Result<(Assignment, Mark), StatementError> {
    let envelope = envelope(payload, &["ops"], "");
    Assignment::read(&envelope.verify([key("ops").public()]))
}

#[test]
fn an_assignment_has_these_bytes_and_is_read_from_them() {
    let digest = Digest::sha256(b"manifest");
    let golden = format!(
        "{{\"_type\":\"https://in-toto.io/Statement/v1\",\"subject\":[{{\"digest\":{{\"sha256\":\"{digest}\"}}}}],\
         \"predicateType\":\"https://driftlock.dev/attestation/assignment/v1\",\"predicate\":{{\"target\":\"app\",\
         \"labels\":{{\"role\":\"web\"}},\"manifest\":{{\"sha256\":\"{digest}\"}},\"serial\":7,\
         \"notBefore\":\"2026-11-30T12:00:00Z\",\"expires\":\"2027-11-30T12:00:00Z\"}}}}"
    );
    assert_eq!(String::from_utf8(assignment().encode()).unwrap(), golden);
    let mark = Mark { serial: 7, sha256: Digest::sha256(golden.as_bytes()) };
    assert_eq!(read(golden.as_bytes()).unwrap(), (assignment(), mark));
    for (from, to, says) in [
        ("\"serial\":7", "\"serial\":0", "its serial is not between"),
        ("\"serial\":7", "\"serial\":9007199254740992", "its serial is not between"),
        ("\"serial\":7", "\"serial\":-1", "invalid value"),
        ("\"serial\":7", "\"serial\":7,\"serial\":8", "duplicate key"),
        ("\"serial\":7", "\"serial\":7,\"!only\":1", "unknown critical key"),
        ("\"target\":\"app\",\"labels\":{\"role\":\"web\"},", "", "it is for no target"),
        ("\"target\":\"app\"", "\"target\":null", "null"),
        ("2026-11-30T12:00:00Z", "yesterday", "not a time like"),
        ("assignment/v1", "fs-manifest/v1", "not an assignment"),
        ("Statement/v1", "Statement/v2", "a statement of type"),
    ] {
        let changed = golden.replace(from, to);
        assert_ne!(changed, golden);
        let error = read(changed.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(says), "{to}: {error}");
    }
    let other = golden.replacen(&digest.to_string(), &Digest::sha256(b"other").to_string(), 1);
    assert!(matches!(read(other.as_bytes()), Err(StatementError::NotASubject)));
    // One is not taken for the other.
    let claim = statement("x").encode();
    assert!(matches!(read(&claim), Err(StatementError::NotAssignment(_))));
    let envelope = envelope(golden.as_bytes(), &["ops"], "");
    assert!(matches!(Statement::read(&envelope.verify([])), Err(StatementError::Predicate(_))));
}

#[test]
fn an_assignment_counts_for_its_target_and_host_in_its_time() {
    let web = BTreeMap::from([("role".to_owned(), "web".to_owned()), ("zone".to_owned(), "a".to_owned())]);
    let check =
        |target: &str, labels: &BTreeMap<String, String>, now: &str| assignment().check(target, labels, at(now));
    let now = "2026-12-01T00:00:00Z";
    assert_eq!(check("app", &web, now), Ok(()));
    assert!(matches!(check("db", &web, now), Err(Unassigned::Elsewhere(_))));
    assert!(matches!(check("app", &BTreeMap::new(), now), Err(Unassigned::Elsewhere(_))));
    let db = BTreeMap::from([("role".to_owned(), "db".to_owned())]);
    assert!(check("app", &db, now).unwrap_err().to_string().contains("\"role\" = \"web\""));
    assert!(matches!(check("app", &web, "2026-11-30T11:59:59Z"), Err(Unassigned::NotYet { .. })));
    assert_eq!(check("app", &web, "2026-11-30T12:00:00Z"), Ok(()));
    assert!(matches!(check("app", &web, "2027-11-30T12:00:00Z"), Err(Unassigned::Expired { .. })));
}

#[test]
fn serials_only_rise() {
    let mark = |serial, content: &[u8]| Mark { serial, sha256: Digest::sha256(content) };
    assert_eq!(mark(1, b"a").follows(None), Ok(()));
    assert_eq!(mark(8, b"a").follows(Some(mark(7, b"b"))), Ok(()));
    assert_eq!(mark(7, b"a").follows(Some(mark(7, b"a"))), Ok(()));
    assert_eq!(mark(7, b"a").follows(Some(mark(7, b"b"))), Err(Unassigned::Twice(7)));
    assert_eq!(
        mark(MAX_SERIAL - 1, b"a").follows(Some(mark(MAX_SERIAL, b"a"))),
        Err(Unassigned::Replayed { found: MAX_SERIAL - 1, known: MAX_SERIAL })
    );
}
