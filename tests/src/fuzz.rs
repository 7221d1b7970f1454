//! Owns what must hold for any bytes at all, one function for each kind of input that strangers write. Must not own the
//! fuzzer: `fuzz/` calls these functions with bytes that libFuzzer makes up, `tests/fuzz_corpus.rs` with the committed ones.
//!
//! An error is fine, a panic is a bug. Whatever is accepted must be written back as the same value, lead back to the same
//! bytes, and be shown without anything that acts on a terminal; no input may take time out of proportion to its length.

use driftlock_agent::host::mountinfo::{self as mount_table, Mount};
use driftlock_agent::output::mtree::lines;
use driftlock_agent::scan::{Identity, State};
use driftlock_agent::source::budget::Budget;
use driftlock_agent::source::layer::{Dialect, Layer, Options, index};
use driftlock_agent::source::merge::Merge;
use driftlock_agent::source::registry::challenge::{self, Challenge, MAX_CHALLENGES};
use driftlock_agent::source::registry::credentials::{Entry, File};
use driftlock_agent::source::registry::{Reference, range};
use driftlock_agent::source::{SourceError, Terms, archive as image_archive, mtree as description};
use driftlock_agent::watch::fanotify::decode::{Entry as Named, Event as Told, Events, Object};
use driftlock_common::compared::Compared;
use driftlock_common::digest::{Algorithm, Digest};
use driftlock_common::drift::{Attribute, Attributes, Delta, Drift, diff};
use driftlock_common::event::{Body, Event};
use driftlock_common::finding::{Finding, path_fields};
use driftlock_common::gap::Reason;
use driftlock_common::manifest::{Header, Manifest};
use driftlock_common::node::{Kind, Node};
use driftlock_common::path::{Escaped, TreePath, to_base64};
use driftlock_common::pattern::{Excludes, Pattern};
use driftlock_common::policy::case::Cases;
use driftlock_common::policy::simulate::Simulation;
use driftlock_common::policy::{Context, Moment, Policy};
use driftlock_common::profile::Profile;
use driftlock_common::tree::archive_path;
use driftlock_common::trust::{Assignment, Envelope, PAYLOAD_TYPE, Statement};

use crate::request::{CertificateRequest, MAX_REQUEST};

/// Checks some bytes; panics if an invariant does not hold.
pub type Target = fn(&[u8]);

/// Every target by its name, which is also the name of its corpus and of its file in `fuzz/fuzz_targets`.
pub const TARGETS: &[(&str, Target)] = &[
    ("manifest", manifest),
    ("pattern", pattern),
    ("path", path),
    ("event", event),
    ("layer", layer),
    ("archive", archive),
    ("mountinfo", mountinfo),
    ("state", state),
    ("policy", policy),
    ("history", history),
    ("registry", registry),
    ("mtree", mtree),
    ("bundle", bundle),
    ("fanotify", fanotify),
    ("csr", csr),
];

/// A request for a certificate, as PEM or as the bytes within: what is accepted is the same once more, and nothing that
/// its key did not sign is.
pub fn csr(data: &[u8]) {
    let pem = |der: &[u8]| {
        let base64 = to_base64(der);
        let lines: String = base64.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line) + "\n").collect();
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{lines}-----END CERTIFICATE REQUEST-----\n")
    };
    for text in [std::str::from_utf8(data).map(str::to_owned).ok(), Some(pem(data))].into_iter().flatten() {
        let request = match CertificateRequest::read(&text) {
            Ok(request) => request,
            Err(error) => {
                assert_shown(&error.to_string());
                continue;
            }
        };
        assert!(text.len() <= MAX_REQUEST, "a request longer than any");
        let again = CertificateRequest::read(&pem(request.der())).expect("what was read can be read");
        assert!(again.key() == request.key() && again.der() == request.der(), "reading twice gives another key");
        let mut forged = request.der().to_vec();
        if let Some(last) = forged.last_mut() {
            *last ^= 1;
        }
        assert!(CertificateRequest::read(&pem(&forged)).is_err(), "a signature that is none");
    }
}

/// A manifest: what is read is written and read again as the same value, under the same digest.
pub fn manifest(data: &[u8]) {
    let manifest = match Manifest::decode(data) {
        Ok(manifest) => manifest,
        Err(error) => return assert_shown(&error.to_string()),
    };
    let bytes = manifest.encode();
    let again = Manifest::decode(&bytes).expect("what was written can be read");
    assert!(again == manifest, "reading and writing changed a manifest");
    assert!(again.encode() == bytes, "one manifest was written in two ways");
    assert!(again.tree_digest() == manifest.tree_digest(), "one tree has two digests");
    assert!(diff(&manifest.tree, &manifest.tree).is_empty(), "a tree differs from itself");
}

/// A bundle, and whatever it states: what is read is written and read again as the same value.
pub fn bundle(data: &[u8]) {
    let envelope = match Envelope::parse(data) {
        Ok(envelope) => envelope,
        Err(error) => return assert_shown(&error.to_string()),
    };
    let bytes = envelope.encode();
    let again = Envelope::parse(&bytes).expect("what was written can be read");
    assert!(again == envelope && again.encode() == bytes, "reading and writing changed a bundle");
    let claim = envelope.verify([]);
    assert!(claim.by().is_empty(), "nobody verified it");
    let written = |payload| Envelope::new(PAYLOAD_TYPE, payload);
    match Statement::read(&claim) {
        Ok(statement) => {
            let again = written(statement.encode());
            let again = Statement::read(&again.verify([])).expect("what was written can be read");
            assert!(again == statement, "reading and writing changed a statement");
            assert!(!statement.is_about(statement.manifest), "a manifest is no image");
        }
        Err(error) => assert_shown(&error.to_string()),
    }
    match Assignment::read(&claim) {
        Ok((assignment, _)) => {
            let again = written(assignment.encode());
            let (again, _) = Assignment::read(&again.verify([])).expect("what was written can be read");
            assert!(again == assignment, "reading and writing changed an assignment");
        }
        Err(error) => assert_shown(&error.to_string()),
    }
}

/// An exclude pattern, a line feed, and a path.
pub fn pattern(data: &[u8]) {
    let (text, path) = data.split_at(data.iter().position(|b| *b == b'\n').unwrap_or(data.len()));
    let Ok(text) = std::str::from_utf8(text) else { return };
    let pattern: Pattern = match text.parse() {
        Ok(pattern) => pattern,
        Err(error) => return assert_shown(&error.to_string()),
    };
    assert!(pattern.as_str() == text, "a pattern has another text than was parsed");
    let excludes = Excludes::new([text], []).expect("what is a pattern can be an exclude");
    let Ok(path) = TreePath::new(path.get(1..).unwrap_or_default()) else { return };
    assert!(excludes.excludes_entry(&path) == pattern.matches(&path), "an exclude matches as its pattern does");
    let above = std::iter::successors(Some(path.clone()), TreePath::parent).any(|above| pattern.matches(&above));
    assert!(excludes.excludes(&path) == above, "a path is excluded if it or an ancestor matches");
    assert!(!excludes.excludes(&TreePath::root()), "the root is never excluded");
}

/// A path, as a manifest's and as an archive's.
pub fn path(data: &[u8]) {
    let escaped = Escaped(data).to_string();
    assert_shown(&escaped);
    if let Ok(path) = TreePath::new(data) {
        assert!(path.as_bytes() == data, "a path has other bytes than were given");
        assert!(path.components().collect::<Vec<_>>().join(&b'/') == data, "components lead back to the path");
        assert!(path.components().count() == path.depth(), "the depth is the number of components");
        let rejoined = path.parent().map(|parent| parent.join(path.name()));
        assert!(rejoined.is_none_or(|again| again.as_ref() == Ok(&path)), "parent and name lead back to the path");
        let (shown, exact) = path_fields(data);
        assert!(
            exact.is_none() == (shown.as_bytes() == data),
            "a path is shown as it is or has its exact bytes beside"
        );
    }
    if let Ok(path) = archive_path(data) {
        assert!(path.components().all(|name| name != b".." && name != b"."), "a path of an archive leaves its root");
        assert!(archive_path(path.as_bytes()).as_ref() == Ok(&path), "a normal path is not normal");
    }
}

/// A layer: it is laid over itself, as an image may, and as a release archive.
pub fn layer(data: &[u8]) {
    for dialect in [Dialect::Image, Dialect::Release] {
        match index(data, &options(dialect)) {
            Ok(layer) => check_layers(vec![layer.clone(), layer]),
            Err(problem) => assert_shown(&problem.to_string()),
        }
    }
}

/// An image archive.
pub fn archive(data: &[u8]) {
    match image_archive::read(data, "archive", None, "linux/amd64", &options(Dialect::Image)) {
        Ok(image) => check_layers(image.layers),
        Err(SourceError { place, problem }) => {
            assert_shown(&place);
            assert_shown(&problem.to_string());
        }
    }
}

/// A mount table, of a process that may have mounted whatever it liked.
pub fn mountinfo(data: &[u8]) {
    let mounts = match mount_table::parse(data) {
        Ok(mounts) => mounts,
        Err(error) => return assert_shown(&error.to_string()),
    };
    let table: Vec<u8> = mounts.iter().flat_map(mount_line).collect();
    assert!(mount_table::parse(&table).as_ref() == Ok(&mounts), "reading and writing changed a mount table");
    let visible = mount_table::visible(&mounts);
    let seen = |point: &[u8]| visible.iter().any(|mount| mount.point.strip_prefix(b"/") == Some(point));
    match mount_table::points_below(&mounts, b"/") {
        Ok(points) => {
            assert!(points.is_sorted_by(|a, b| a < b), "mount points are in order, each once");
            assert!(points.iter().all(|point| seen(point.as_bytes())), "a mount point without a mount");
        }
        Err(error) => assert_shown(&error.to_string()),
    }
}

/// As the kernel writes a mount.
fn mount_line(mount: &Mount) -> Vec<u8> {
    let mangle = |name: &[u8]| -> Vec<u8> {
        let escape = |byte: &u8| match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => format!("\\{byte:03o}").into_bytes(),
            _ => vec![*byte],
        };
        name.iter().flat_map(escape).collect()
    };
    let (major, minor) = mount.device;
    let numbers = format!("{} {} {major}:{minor}", mount.id, mount.parent).into_bytes();
    let (root, point) = (mangle(&mount.root), mangle(&mount.point));
    let (fs_type, source) = (mangle(&mount.fs_type), mangle(&mount.source));
    let fields: [&[u8]; 8] = [&numbers, &root, &point, &mount.options, b"-", &fs_type, &source, &mount.super_options];
    [fields.join(&b' '), vec![b'\n']].concat()
}

const PROFILE: Profile = Profile::Full;

fn options(dialect: Dialect) -> Options {
    Options { dialect, profile: PROFILE, sha256: true, budget: Budget::default() }
}

/// Whatever can be sealed must be a manifest that can be read.
fn check_layers(layers: Vec<Layer>) {
    let mut merge = Merge::default();
    for layer in layers {
        if let Err(problem) = merge.push(layer) {
            return assert_shown(&problem.to_string());
        }
    }
    let (tree, notes) =
        merge.finish(&Excludes::none(), true).expect("layers that could be laid over each other are a tree");
    notes.listed().iter().for_each(|note| assert_shown(&note.to_string()));
    let mut header = Header::new(PROFILE, Algorithm::Blake3, Excludes::none());
    header.diagnostics = notes.diagnostics();
    let sealed = Manifest { header, tree };
    let again = Manifest::decode(&sealed.encode()).expect("what was sealed can be read");
    assert!(again == sealed, "sealing and reading changed a manifest");
}

/// An mtree file: what is read can be sealed, and its export is read as the same tree.
pub fn mtree(data: &[u8]) {
    let terms = Terms {
        profile: PROFILE,
        excludes: Excludes::none(),
        exclude_sets: Vec::new(),
        platform: "linux/amd64".into(),
        sha256: true,
        strict: false,
        cache: None,
    };
    let described = match description::read(data, &terms) {
        Ok(described) => described,
        Err(problem) => return assert_shown(&problem.to_string()),
    };
    described.notes.listed().iter().for_each(|note| assert_shown(&note.to_string()));
    let mut header = Header::new(PROFILE, Algorithm::Sha256, described.excludes);
    header.diagnostics = described.notes.diagnostics();
    let sealed = Manifest { header, tree: described.tree };
    let again = Manifest::decode(&sealed.encode()).expect("what was sealed can be read");
    assert!(again == sealed, "sealing and reading changed a manifest");
    let exported: Vec<u8> = match lines(&sealed).collect::<Result<Vec<_>, _>>() {
        Ok(lines) => lines.concat(),
        Err(refusal) => return assert_shown(&refusal.to_string()),
    };
    let back = description::read(exported.as_slice(), &terms).expect("what was exported can be read");
    let narrower = |drift| Compared::all(PROFILE).only(all_but_xattrs()).narrow(drift);
    let differences = diff(&sealed.tree, &back.tree).into_iter().filter_map(narrower).count();
    assert!(differences == 0 && back.tree.len() == sealed.tree.len(), "an export is another tree");
}

fn all_but_xattrs() -> Attributes {
    Attribute::ALL.into_iter().filter(|attribute| *attribute != Attribute::Xattrs).collect()
}

/// A state file of a scan, as one that it claims to be.
pub fn state(data: &[u8]) {
    /// More than any input has.
    const MOST: usize = 1 << 16;
    let entries = data.get(20..24).and_then(<[u8]>::first_chunk).map_or(0, |count| u32::from_le_bytes(*count) as usize);
    let whose = data.get(24..56).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
    let identity = Identity::from_digest(Digest::from_bytes(whose));
    match State::parse(data, identity, entries.min(MOST)) {
        Ok(state) => assert!(state.known() <= entries, "more is remembered than there is"),
        Err(why) => assert_shown(&why.to_string()),
    }
}

/// A policy, and behind a NUL a path that it judges. The same bytes as cases.
pub fn policy(data: &[u8]) {
    let (text, path) = data.split_at(data.iter().position(|b| *b == 0).unwrap_or(data.len()));
    if let Err(error) = Cases::parse(text) {
        error.problems.iter().for_each(|problem| assert_shown(&problem.to_string()));
    }
    let policy = match Policy::parse(text) {
        Ok(policy) => policy,
        Err(error) => return error.problems.iter().for_each(|problem| assert_shown(&problem.to_string())),
    };
    policy.check(None).iter().for_each(|warning| assert_shown(&warning.to_string()));
    let Ok(path) = TreePath::new(path.get(1..).unwrap_or_default()) else { return };
    let setuid = Node { mode: Some(0o4755), ..Node::bare(Kind::File { size: None, content: None }) };
    let names = policy.rules().iter().any(|rule| !rule.privileged.is_empty());
    for delta in [
        Delta::Added { observed: setuid, unverified: None, collapsed: None },
        Delta::Unverifiable { reason: Reason::Denied, covers: 1, expected: None },
    ] {
        let drift = Drift { path: path.clone(), delta };
        let verdict = policy.judge(&drift, &Context::default(), Moment::default());
        assert!(verdict.is_alert() || (names && !drift.has_gap()), "a gap or a set-id file is tolerated");
        // The rule that decides is the first that is not passed over.
        let passed = policy.passed(&drift);
        let matching = policy.rules().iter().filter(|rule| rule.patterns().any(|pattern| pattern.matches(&path)));
        assert!(matching.skip(passed.len()).map(|rule| &rule.id).next() == verdict.rule().map(|rule| &rule.id));
    }
}

/// A history of findings: whatever is handed over is a drift, and the finding of that drift is the same drift again.
pub fn history(data: &[u8]) {
    let policy = Policy::parse(
        b"version = 1\nname = \"p\"\n[[rule]]\nid = \"r\"\npath = \"**\"\nallow = \"append\"\nreason = \"x\"\n",
    );
    let policy = policy.expect("this is a policy");
    let mut simulation = Simulation::new(Some(&policy), &policy);
    let header = Header::new(PROFILE, Algorithm::Blake3, Excludes::none());
    let mut handed = 0;
    let gone = driftlock_agent::history::replay(&mut &*data, &mut |found| {
        let drift = found.finding.drift().inspect_err(|error| assert_shown(&error.to_string()))?;
        check_finding(found.finding);
        assert!(Finding::new(&drift, &header).drift().as_ref() == Ok(&drift), "a finding of a drift is another drift");
        handed += 1;
        simulation.replay(found)
    });
    let gone = gone.expect("what is in memory can be read");
    gone.said.iter().for_each(|line| assert_shown(line));
    assert!(gone.known + gone.unreadable > 0, "a history of nothing is no history");
    assert!(simulation.replayed() == handed, "a finding is not judged");
    let lists = [simulation.silent(), simulation.unknown(), simulation.loud()].map(|list| list.count());
    assert!(lists == [0; 3] && simulation.moved() == [0; 2], "the same policy says two things");
}

/// What the kernel writes to a fanotify group: what is read is written and read again as the same events.
pub fn fanotify(data: &[u8]) {
    // The metadata, and what describes an object, as fanotify(7) has it.
    fn object(object: &Object<'_>, name: Option<&[u8]>) -> Vec<u8> {
        let mut record = object.fsid.to_ne_bytes().to_vec();
        record.extend(u32::try_from(object.handle.len()).expect("a record has a length in 16 bits").to_ne_bytes());
        record.extend(object.kind.to_ne_bytes());
        record.extend(object.handle);
        if let Some(name) = name {
            record.extend(name);
            record.push(0);
        }
        record
    }
    fn bytes(event: &Told<'_>) -> Vec<u8> {
        let named = |entry: &Named<'_>| object(&entry.directory, Some(entry.name));
        let records = [
            (1_u8, event.object.as_ref().map(|it| object(it, None))),
            (2, event.entry.as_ref().map(named)),
            (10, event.old.as_ref().map(named)),
            (12, event.new.as_ref().map(named)),
        ];
        let mut rest = Vec::new();
        for (kind, record) in records.into_iter().filter_map(|(kind, record)| Some((kind, record?))) {
            let len = u16::try_from(record.len() + 4).expect("a record of a name that was ended already");
            rest.extend([kind, 0]);
            rest.extend(len.to_ne_bytes());
            rest.extend(record);
        }
        let mut bytes = u32::try_from(24 + rest.len()).expect("four records").to_ne_bytes().to_vec();
        bytes.extend([3, 0]);
        bytes.extend(24_u16.to_ne_bytes());
        bytes.extend(event.mask.to_ne_bytes());
        bytes.extend((-1_i32).to_ne_bytes());
        bytes.extend(event.pid.to_ne_bytes());
        bytes.extend(rest);
        bytes
    }
    let mut ended = false;
    let mut events = 0;
    for event in Events::new(data) {
        assert!(!ended, "something is read behind what is malformed");
        let Ok(event) = event else {
            ended = true;
            continue;
        };
        events += 1;
        for entry in [event.entry, event.old, event.new].into_iter().flatten() {
            assert!(!entry.name.contains(&0), "a name with a NUL");
        }
        let written = bytes(&event);
        assert!(Events::new(&written).eq([Ok(event)]), "reading and writing changed an event");
    }
    assert!(events <= data.len() / 24, "more events than there is room for");
}

/// What a registry says, and what is written about one: a reference, a challenge, a range, a file of credentials.
pub fn registry(data: &[u8]) {
    credentials(data);
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Reference::parse(text) {
        Ok(reference) => check_reference(&reference),
        Err(error) => assert_shown(&error.to_string()),
    }
    if let Some(challenges) = challenge::parse(text) {
        assert!(challenges.len() <= MAX_CHALLENGES, "more challenges than are allowed");
        let written: Vec<String> = challenges.iter().map(challenge_line).collect();
        // Quoting makes it longer, and there is a bound.
        if let Some(again) = challenge::parse(&written.join(", ")) {
            assert!(again == challenges, "reading and writing changed a challenge");
        }
    }
    if let Some(range) = range::parse(text) {
        assert!(range.range.is_some() || range.length.is_some(), "a range that says nothing");
        let within = range.range.is_none_or(|(first, last)| first <= last && range.length.is_none_or(|all| last < all));
        assert!(within, "a range that contradicts itself");
    }
}

fn credentials(data: &[u8]) {
    const ASKED: &str = "registry.example:5000/team/app";
    let Ok(Reference::Tagged(repository, _)) = Reference::parse(ASKED) else { panic!("{ASKED} is a reference") };
    let entry = File::parse(data).and_then(|file| file.entry(&repository));
    match entry {
        Ok(Entry::Helper { name, server, .. }) => {
            assert!(!name.contains(['/', '\0']) && !name.is_empty(), "a helper that is a path");
            assert!(server == "registry.example:5000", "a helper is asked for another registry");
        }
        Ok(_) => {}
        Err(error) => assert_shown(&error.to_string()),
    }
}

/// A reference leads to the one host that it names, and to nothing but its repository.
fn check_reference(reference: &Reference) {
    let (Reference::Pinned(repository, _) | Reference::Tagged(repository, _)) = reference;
    let written = reference.to_string();
    assert_shown(&written);
    assert!(Reference::parse(&written).as_ref() == Ok(reference), "reading and writing changed a reference");
    let url = repository.url("manifests/x").expect("what is a reference has an address");
    assert!(url.username().is_empty() && url.query().is_none() && url.fragment().is_none(), "more than host and path");
    assert!(url.path() == format!("/v2/{}/manifests/x", repository.name()), "an address of something else");
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let here = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    assert!(url.scheme() == "https" || here, "plain text to another host");
}

fn challenge_line(challenge: &Challenge) -> String {
    let quote = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    let parameters: Vec<String> =
        challenge.parameters.iter().map(|(name, value)| format!("{name}=\"{}\"", quote(value))).collect();
    format!("{} {}", challenge.scheme, parameters.join(", "))
}

/// A batch of events, as a collector receives it.
pub fn event(data: &[u8]) {
    let Ok(events) = serde_json::from_slice::<Vec<Event>>(data) else { return };
    let bytes = serde_json::to_vec(&events).expect("events always have a JSON form");
    let again: Vec<Event> = serde_json::from_slice(&bytes).expect("what was written can be read");
    assert!(again == events, "reading and writing changed an event");
    for event in &events {
        assert!(
            event.sequence_number().is_err()
                || event.sequence_number().is_ok_and(|n| n.is_some()) == event.sequence.is_some()
        );
        assert!(event.host_id().is_none_or(|id| !id.is_empty()), "a host without an id");
        findings(&event.body).for_each(check_finding);
    }
}

fn findings(body: &Body) -> Box<dyn Iterator<Item = &Finding> + '_> {
    match body {
        Body::FindingOpened(body) | Body::FindingUpdated(body) => Box::new(std::iter::once(&body.finding)),
        Body::TargetSnapshot(snapshot) => Box::new(snapshot.findings.iter().map(|body| &body.finding)),
        Body::FindingResolved(_)
        | Body::ConditionOpened(_)
        | Body::ConditionResolved(_)
        | Body::TargetVerified(_)
        | Body::Heartbeat(_)
        | Body::Stopped(_) => Box::new(std::iter::empty()),
    }
}

/// A path has one spelling, and what is displayed is what is meant.
fn check_finding(finding: &Finding) {
    if let Some(path) = finding.tree_path() {
        assert!(
            path_fields(path.as_bytes()) == (finding.path.clone(), finding.path_b64.clone()),
            "a path of two spellings"
        );
        assert!(!finding.path.chars().any(char::is_control), "a path with control characters");
    }
}

/// One line, without characters that act on a terminal.
fn assert_shown(text: &str) {
    let acts = |ch: char| ch.is_control() || ('\u{2028}'..='\u{202e}').contains(&ch);
    assert!(!text.chars().any(acts), "{text:?} cannot be printed");
}
