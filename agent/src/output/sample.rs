//! A result with everything in it, for the tests of the forms: all changes under hostile names, gaps, what does not
//! fail, and an interruption. Its forms are in `agent/golden`.

use driftlock_common::compared::Compared;
use driftlock_common::digest::{Algorithm, Digest, OciDigest};
use driftlock_common::drift::{Attribute, Attributes, Change, Delta, Drift, Sealed, Unverified};
use driftlock_common::finding::{ExcludedView, ManifestView, PolicyView, Summary, Unjudged};
use driftlock_common::gap::Reason;
use driftlock_common::manifest::Header;
use driftlock_common::node::{Kind, Node};
use driftlock_common::path::TreePath;
use driftlock_common::pattern::Excludes;
use driftlock_common::policy::{Judged, Policy};
use driftlock_common::profile::Profile;
use driftlock_common::tree::Origin;

use super::{Output, Whole};
use crate::cli::FormatArg;
use crate::gate::Gate;
use crate::judge::Judge;

/// A name that every form has to do something about: control characters, quotes, brackets and braces, the end of a CDATA
/// section, what no XML document may hold, a character that turns the text around, a byte that is none, a percent sign.
const HOSTILE: &[u8] = b"etc/\x1b[31m\n[x](http:e) {0} ]]>\"'&<\xef\xbf\xbf\xe2\x80\xae\xff %41:";

fn file(content: &[u8], mode: u16) -> Node {
    let kind = Kind::File { size: Some(content.len() as u64), content: Some(Digest::blake3(content)) };
    Node { mode: Some(mode), uid: Some(0), gid: Some(0), ..Node::bare(kind) }
}

fn sealed(node: Node) -> Sealed {
    Sealed { node, origin: Origin { layer: Some(1), ..Origin::default() }, part: 0 }
}

/// In path order.
pub(super) fn drifts() -> Vec<Drift> {
    let denied = Some(Unverified { attributes: Attributes::of(Attribute::Content), reason: Reason::Denied });
    let link = |target: &str| Node::bare(Kind::Symlink { target: target.as_bytes().into() });
    let added = |unverified| Delta::Added { observed: file(b"new", 0o4755), unverified, collapsed: None };
    let changed = |attributes: &[Attribute], expected, observed, unverified| Delta::Changed {
        attributes: attributes.iter().copied().collect(),
        expected: sealed(expected),
        observed,
        unverified,
    };
    let cut =
        Delta::Unverifiable { reason: Reason::Mount, covers: 3, expected: Some(sealed(Node::implicit_directory())) };
    [
        (&b""[..], changed(&[Attribute::Mode], file(b"", 0o755), file(b"", 0o777), None)),
        (b"added", added(None)),
        (b"added-closed", added(denied)),
        (HOSTILE, changed(&[Attribute::Content], file(b"a", 0o644), file(b"bc", 0o644), denied)),
        (b"etc/link", changed(&[Attribute::Target], link("a\n"), link("]]>{0}"), None)),
        (b"gone", Delta::Removed { expected: sealed(file(b"", 0o644)) }),
        (b"mnt", cut),
    ]
    .map(|(path, delta)| Drift { path: TreePath::new(path).unwrap(), delta })
    .into()
}

/// Of what was sealed: the build step that they are from is hostile too.
pub(super) fn header() -> Header {
    let steps = [
        "ADD rootfs.tar /",
        "RUN |1 K=v /bin/sh -c echo \x1b[31m \u{202e}{0} ]]>\"'&<\u{ffff} > /x",
        "COPY app / # buildkit",
    ];
    let history = steps.map(str::to_owned).into();
    Header { history, ..Header::new(Profile::Portable, Algorithm::Blake3, Excludes::none()) }
}

/// A golden form with the one thing in it that a release changes.
pub(super) fn of_this_version(golden: &str) -> String {
    golden.replace("VERSION", env!("CARGO_PKG_VERSION"))
}

/// Of those.
pub(super) fn summary() -> Summary {
    Summary {
        complete: false,
        scope: "full".into(),
        profile: Profile::Portable,
        compared: Compared::all(Profile::Portable).attributes(),
        fail_on: vec![Change::Removed, Change::Changed, Change::Unverifiable],
        added: 2,
        removed: 1,
        changed: 3,
        unverifiable: 10,
        tolerated: 0,
        policy: None,
        unjudged: Unjudged::default(),
        entries: 20,
        remembered: 0,
        files_hashed: 9,
        bytes_hashed: 4096,
        duration_ms: 1234,
        manifest: ManifestView {
            tree: OciDigest::blake3(Digest::blake3(b"tree")),
            sha256: Digest::sha256(b"manifest"),
            trust: "unsigned".into(),
            key: None,
            origin: "image".into(),
            parts: Vec::new(),
        },
        excluded: ExcludedView { manifest: vec!["tmp/**".into()], local: Vec::new(), ..ExcludedView::default() },
        observed_tree: None,
    }
}

/// Which tolerates two of those, for a reason that is as hostile as a reason can be.
pub(super) fn policy() -> Policy {
    let hostile = r#"\u202e{0} [x](http:e) ]]>\"'&<\uffff\\"#;
    let rule = |id: &str, path: &str, rest: &str| {
        format!("[[rule]]\nid = \"{id}\"\npath = \"{path}\"\n{rest}\nreason = \"{hostile}\"\n")
    };
    let rules = [
        rule("may-be-anything", "added", "allow = \"any\"\nseverity = \"low\""),
        rule("links", "etc/*", "allow = \"content\"\nseverity = \"critical\""),
        rule("may-be-gone", "gone", "allow = \"absent\""),
        rule("data", "mnt", "allow = \"any\"\nseverity = \"info\""),
    ];
    let text = format!("version = 1\nname = \"sample\"\n{}", rules.concat());
    Policy::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}"))
}

/// The result under the policy in a form, as text.
pub(super) fn judged(form: FormatArg, all: bool) -> String {
    let (header, policy) = (header(), policy());
    let judge = Judge::new(Some(&policy));
    let findings: Vec<Judged<'_>> = drifts().into_iter().map(|drift| judge.judged(drift)).collect();
    let summary = Summary {
        fail_on: Vec::new(),
        unverifiable: 3,
        tolerated: 2,
        policy: Some(PolicyView::from(&policy)),
        unjudged: Unjudged { entries: 2, bytes: 2048 },
        ..summary()
    };
    let whole = Whole {
        verb: "scan",
        findings: &findings,
        sealed_in: (&header).into(),
        summary: &summary,
        gate: Gate::default(),
        exit: 13,
        unreached: None,
        root: Some("/srv/a b".as_ref()),
        all,
    };
    write(form, &whole)
}

/// The result in a form, as text.
pub(super) fn written(form: FormatArg) -> String {
    let (header, summary) = (header(), summary());
    let findings: Vec<Judged<'_>> = drifts().into_iter().map(Judged::from).collect();
    let whole = Whole {
        verb: "scan",
        findings: &findings,
        sealed_in: (&header).into(),
        summary: &summary,
        gate: Gate::parse("removed,changed").unwrap(),
        exit: 14,
        unreached: Some(7),
        root: Some("/srv/a b".as_ref()),
        all: false,
    };
    write(form, &whole)
}

/// The result of a clean tree in a form, as text.
pub(super) fn clean(form: FormatArg) -> String {
    let header = header();
    let summary =
        Summary { complete: true, fail_on: Vec::new(), added: 0, removed: 0, changed: 0, unverifiable: 0, ..summary() };
    let whole = Whole {
        verb: "diff",
        findings: &[],
        sealed_in: (&header).into(),
        summary: &summary,
        gate: Gate::default(),
        exit: 0,
        unreached: None,
        root: None,
        all: false,
    };
    write(form, &whole)
}

fn write(form: FormatArg, whole: &Whole<'_>) -> String {
    let mut bytes = Vec::new();
    Output::new(&mut bytes).whole(form, whole, false).unwrap();
    String::from_utf8(bytes).unwrap()
}
