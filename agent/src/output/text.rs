//! Owns the form for people: what a difference is as a line, and what the whole amounts to. Must not own which differences
//! have a line, or any file name as it is: every name and target is escaped.

use std::fmt::Write as _;

use driftlock_common::compared::Compared;
use driftlock_common::digest::OciDigest;
use driftlock_common::drift::{Attribute, Attributes, Change, Delta, Drift, Unverified};
use driftlock_common::finding::{ManifestView, PartView, PolicyView, Summary, Unjudged};
use driftlock_common::manifest::{Header, SealedIn};
use driftlock_common::node::{Device, Kind, Node, Presence};
use driftlock_common::path::{Escaped, TreePath};
use driftlock_common::policy::{Judged, SET_ID, Severity};

use crate::gate::not_named;

/// So much of a build step stands in a line, in characters; the whole is in the JSON forms, and in `show`.
const MAX_STEP_IN_LINE: usize = 80;

/// Where others have a severity.
pub(super) const TOLERATED: &str = "tolerated";

/// One difference from what was sealed with these headers as a line with its line feed, for example
/// `changed       usr/bin/app  content, mode 0755 → 4755, layer 3: RUN make install`. Under a policy the severity stands
/// first, and the rule last.
pub(super) fn drift_line(judged: &Judged<'_>, sealed_in: SealedIn<'_>, colour: bool) -> String {
    let path = shown(&judged.drift.path);
    format!("{}  {path}  {}\n", head(judged, colour), details(judged, sealed_in))
}

/// How loudly, under a policy, and what kind of difference.
pub(super) fn head(judged: &Judged<'_>, colour: bool) -> String {
    let change = judged.drift.change();
    let change = coloured(change, &format!("{:<12}", change.name()), colour);
    match judged.verdict {
        Some(_) => format!("{:<9}  {change}", judged.severity().map_or(TOLERATED, Severity::name)),
        None => change,
    }
}

/// A word in the colour of a change, if colour is wanted.
pub(super) fn coloured(change: Change, word: &str, colour: bool) -> String {
    if colour { format!("{}{word}\x1b[0m", sgr(change)) } else { word.to_owned() }
}

/// A path as it is shown: the root has no name of its own.
pub(super) fn shown(path: &TreePath) -> String {
    if path.is_root() { ".".to_owned() } else { path.escaped().to_string() }
}

/// What a difference is, for example `content, mode 0755 → 4755, layer 3: RUN make install`, and why it is an alert or is
/// tolerated, for example `; rule programs: only package installations change them`.
pub(super) fn details(judged: &Judged<'_>, sealed_in: SealedIn<'_>) -> String {
    let drift = &judged.drift;
    let mut details = what(drift);
    details.extend(drift.layer().map(|layer| layer_and_step(layer, sealed_in.header_of(drift))));
    details.extend(sealed_in.name_of(drift).map(|name| format!("sealed in {name}")));
    let details = details.join(", ");
    match (&judged.verdict, judged.rule()) {
        (None, _) => details,
        (Some(verdict), None) => format!("{details}; {verdict}"),
        (Some(verdict), Some(rule)) => format!("{details}; rule {}: {verdict}", rule.id),
    }
}

/// What a difference is, for example `content` and `mode 0755 → 4755`.
pub(super) fn what(drift: &Drift) -> Vec<String> {
    let mut details = Vec::new();
    match &drift.delta {
        Delta::Added { observed, unverified, collapsed } => {
            details.push(describe(observed));
            details.extend(collapsed.map(|n| format!("and {n} more added below it")));
            details.extend(unverified.map(not_verified));
        }
        Delta::Removed { expected } => details.push(expected.node.file_type().name().to_owned()),
        Delta::Changed { attributes, expected, observed, unverified } => {
            details.extend(attributes.iter().map(|attribute| differs(attribute, &expected.node, observed)));
            details.extend(unverified.map(not_verified));
        }
        Delta::Unverifiable { reason, covers, .. } => {
            details.push(reason.name().to_owned());
            if *covers > 1 {
                details.push(format!("stands for {covers} sealed entries"));
            }
        }
    }
    details
}

/// A layer by its index and what made it, for example `layer 3: RUN apt-get install nginx`.
pub fn layer_and_step(layer: u16, header: &Header) -> String {
    let Some(step) = header.step(layer) else { return format!("layer {layer}") };
    match step.char_indices().nth(MAX_STEP_IN_LINE) {
        Some((end, _)) => format!("layer {layer}: {}…", &step[..end]),
        None => format!("layer {layer}: {step}"),
    }
}

/// What a whole result amounts to, as a few lines.
pub fn summary_lines(summary: &Summary) -> String {
    let mut text = String::new();
    let drifted = summary.added + summary.removed + summary.changed > summary.tolerated;
    let word = match (drifted, summary.complete) {
        (true, _) => "drifted",
        (false, true) => "clean",
        (false, false) => "not verified",
    };
    let Summary { added, removed, changed, unverifiable, .. } = summary;
    let _infallible = write!(text, "{word:<12}  {added} added, {removed} removed, {changed} changed");
    if summary.tolerated > 0 {
        let _infallible = write!(text, " ({} of them tolerated)", summary.tolerated);
    }
    if *unverifiable > 0 || !summary.complete {
        let _infallible = write!(text, ", {unverifiable} not verified");
    }
    if !summary.complete {
        text.push_str("; incomplete");
    }
    let _infallible = writeln!(
        text,
        "; {} entries, {}{} files hashed ({}) in {:.2} s",
        summary.entries,
        match summary.remembered {
            0 => String::new(),
            remembered => format!("{remembered} unmoved since they were read, "),
        },
        summary.files_hashed,
        size(summary.bytes_hashed),
        std::time::Duration::from_millis(summary.duration_ms).as_secs_f64()
    );
    text.extend(not_failing(summary));
    text.extend(summary.policy.as_ref().map(|policy| policy_line(policy, summary.unjudged)));
    let ManifestView { tree, trust, key, origin, parts, .. } = &summary.manifest;
    let _infallible = writeln!(text, "manifest      {}", sealed_as(tree, trust, key.as_deref(), origin));
    for (index, PartView { name, tree, trust, key, origin, .. }) in parts.iter().enumerate() {
        let number = format!("part {}", index + 1);
        let _infallible = writeln!(text, "{number:<12}  {}: {name}", sealed_as(tree, trust, key.as_deref(), origin));
    }
    let _infallible = write!(text, "scope         {}, profile {}", summary.scope, summary.profile.name());
    if summary.compared != Compared::all(summary.profile).attributes() {
        let _infallible = write!(text, "; compared only {}", list(summary.compared, ", "));
    }
    let excluded = &summary.excluded;
    for (why, names) in [
        ("by the manifest", &excluded.manifest),
        ("locally", &excluded.local),
        ("as mounted there", &excluded.mounts),
        ("as the kernel's", &excluded.virtual_mounts),
    ] {
        if !names.is_empty() {
            let _infallible = write!(text, "; left out {why}: {}", names.join(" "));
        }
    }
    text.push('\n');
    text
}

/// Which policy, and what it kept from being read.
fn policy_line(policy: &PolicyView, unjudged: Unjudged) -> String {
    let Unjudged { entries, bytes } = unjudged;
    let unread = format!("; {entries} files ({}) not read, because it allows anything there", size(bytes));
    let unread = if unjudged.is_nothing() { "" } else { &unread };
    format!("policy        {}, {}{unread}\n", policy.name, policy.digest)
}

fn sealed_as(tree: &OciDigest, trust: &str, key: Option<&str>, origin: &str) -> String {
    let by = key.map(|key| format!(" by {key}")).unwrap_or_default();
    let learned = if origin == "dir" { ", learned from a directory" } else { "" };
    format!("{tree}, {trust}{by}{learned}, origin {origin}")
}

/// A line about what was found and does not fail, so that nobody takes a passed gate for a clean tree.
fn not_failing(summary: &Summary) -> Option<String> {
    let found: Vec<String> =
        not_named(summary).into_iter().map(|(change, count)| format!("{count} {change}")).collect();
    let fails: Vec<&str> = summary.fail_on.iter().map(|change| change.name()).collect();
    let line = format!("not failing   {}: only {} fails here\n", found.join(", "), fails.join(" or "));
    (!found.is_empty()).then_some(line)
}

const fn sgr(change: Change) -> &'static str {
    match change {
        Change::Added => "\x1b[32m",
        Change::Removed => "\x1b[31m",
        Change::Changed => "\x1b[33m",
        Change::Unverifiable => "\x1b[35m",
    }
}

/// What an added path is.
fn describe(node: &Node) -> String {
    let mut text = node.file_type().name().to_owned();
    match &node.kind {
        Kind::File { size: Some(bytes), .. } => {
            let _infallible = write!(text, " of {}", size(*bytes));
        }
        Kind::Symlink { target } => {
            let _infallible = write!(text, " to {}", Escaped(target));
        }
        Kind::Char(Some(device)) | Kind::Block(Some(device)) => {
            let _infallible = write!(text, " {}", numbers(Some(*device)));
        }
        Kind::File { size: None, .. }
        | Kind::Directory
        | Kind::Char(None)
        | Kind::Block(None)
        | Kind::Fifo
        | Kind::Socket => {}
    }
    // Rights that whoever added it may have wanted.
    if let Some(mode) = node.mode.filter(|mode| mode & SET_ID != 0) {
        let _infallible = write!(text, ", mode {mode:04o}");
    }
    if node.presence().contains(Presence::XATTRS) && node.xattrs.as_ref().is_some_and(|xattrs| !xattrs.is_empty()) {
        text.push_str(", with xattrs");
    }
    text
}

fn differs(attribute: Attribute, expected: &Node, observed: &Node) -> String {
    fn or_unknown<T: ToString>(value: Option<T>) -> String {
        value.map_or_else(|| "?".to_owned(), |value| value.to_string())
    }
    let octal = |node: &Node| or_unknown(node.mode.map(|mode| format!("{mode:04o}")));
    let both = |a: String, b: String| format!("{} {a} → {b}", attribute.name());
    match attribute {
        Attribute::Type => both(expected.file_type().name().into(), observed.file_type().name().into()),
        Attribute::Content => match (&expected.kind, &observed.kind) {
            (Kind::File { size: Some(a), .. }, Kind::File { size: Some(b), .. }) if a != b => {
                both(a.to_string(), format!("{b} bytes"))
            }
            _ => attribute.name().to_owned(),
        },
        Attribute::Target => both(target(expected), target(observed)),
        Attribute::Mode => both(octal(expected), octal(observed)),
        Attribute::Uid => both(or_unknown(expected.uid), or_unknown(observed.uid)),
        Attribute::Gid => both(or_unknown(expected.gid), or_unknown(observed.gid)),
        Attribute::Xattrs => attribute.name().to_owned(),
        Attribute::Device => both(device(expected), device(observed)),
        Attribute::Mtime => both(or_unknown(expected.mtime), or_unknown(observed.mtime)),
    }
}

fn target(node: &Node) -> String {
    match &node.kind {
        Kind::Symlink { target } => Escaped(target).to_string(),
        Kind::File { .. } | Kind::Directory | Kind::Char(_) | Kind::Block(_) | Kind::Fifo | Kind::Socket => "?".into(),
    }
}

fn device(node: &Node) -> String {
    match node.kind {
        Kind::Char(device) | Kind::Block(device) => numbers(device),
        Kind::File { .. } | Kind::Directory | Kind::Symlink { .. } | Kind::Fifo | Kind::Socket => "?".into(),
    }
}

fn numbers(device: Option<Device>) -> String {
    device.map_or_else(|| "?".into(), |device| format!("{}:{}", device.major, device.minor))
}

fn not_verified(unverified: Unverified) -> String {
    format!("{} not verified: {}", list(unverified.attributes, " and "), unverified.reason)
}

fn list(attributes: Attributes, between: &str) -> String {
    attributes.iter().map(Attribute::name).collect::<Vec<_>>().join(between)
}

/// Bytes as a person reads them.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = "bytes";
    // One decimal is shown; in tenths nothing is lost before.
    let mut tenths = u128::from(bytes) * 10;
    for next in UNITS {
        if tenths < 10_240 {
            break;
        }
        tenths /= 1024;
        unit = next;
    }
    if unit == "bytes" { format!("{bytes} bytes") } else { format!("{}.{} {unit}", tenths / 10, tenths % 10) }
}

#[cfg(test)]
mod tests {
    use driftlock_common::digest::Digest;
    use driftlock_common::drift::Sealed;
    use driftlock_common::gap::Reason;
    use driftlock_common::tree::Origin;

    use super::super::sample;
    use super::*;
    use crate::cli::FormatArg;

    fn file(size: u64, mode: u16) -> Node {
        let kind = Kind::File { size: Some(size), content: Some(Digest::blake3(b"")) };
        Node { mode: Some(mode), uid: Some(0), gid: Some(0), ..Node::bare(kind) }
    }

    fn sealed(node: Node) -> Sealed {
        Sealed { node, origin: Origin { layer: Some(2), meta_layer: Some(3), ..Origin::default() }, part: 0 }
    }

    #[test]
    fn each_difference_is_one_readable_line() {
        let link = |to: &str| Node::bare(Kind::Symlink { target: to.as_bytes().into() });
        let denied = Unverified { attributes: Attributes::of(Attribute::Content), reason: Reason::Denied };
        let history = ["", "", "/bin/sh -c make \x1b[31m", "RUN chmod"].map(str::to_owned).into();
        let header = Header { history, ..sample::header() };
        let changed = |attributes: &[Attribute], expected, observed, unverified| Delta::Changed {
            attributes: attributes.iter().copied().collect(),
            expected: sealed(expected),
            observed,
            unverified,
        };
        for (path, delta, line) in [
            (
                "usr/bin/app",
                changed(&[Attribute::Content, Attribute::Mode], file(1, 0o755), file(1, 0o4755), None),
                "changed       usr/bin/app  content, mode 0755 → 4755, layer 2: RUN make \\x1b[31m",
            ),
            (
                "etc",
                changed(&[Attribute::Mode], file(1, 0o755), file(1, 0o777), None),
                "changed       etc  mode 0755 → 0777, layer 3: RUN chmod",
            ),
            (
                "a\x1b[31m",
                changed(&[Attribute::Content], file(10, 0o644), file(12, 0o644), Some(denied)),
                "changed       a\\x1b[31m  content 10 → 12 bytes, content not verified: denied, layer 2: RUN make \\x1b[31m",
            ),
            (
                "l",
                changed(&[Attribute::Target], link("x\n"), link("y"), None),
                "changed       l  target x\\x0a → y, layer 2: RUN make \\x1b[31m",
            ),
            (
                "new",
                Delta::Added { observed: file(2048, 0o4755), unverified: None, collapsed: None },
                "added         new  file of 2.0 KiB, mode 4755",
            ),
            (
                "flood",
                Delta::Added { observed: Node::implicit_directory(), unverified: None, collapsed: Some(20_000) },
                "added         flood  directory, and 20000 more added below it",
            ),
            (
                "gone",
                Delta::Removed { expected: sealed(file(1, 0o644)) },
                "removed       gone  file, layer 2: RUN make \\x1b[31m",
            ),
            (
                "",
                Delta::Unverifiable { reason: Reason::RootLost, covers: 7, expected: None },
                "unverifiable  .  root_lost, stands for 7 sealed entries",
            ),
        ] {
            let drift = Drift { path: TreePath::new(path).unwrap(), delta };
            assert_eq!(drift_line(&drift.into(), (&header).into(), false), format!("{line}\n"));
        }
    }

    #[test]
    fn under_a_policy_severity_and_rule_are_said_and_what_is_tolerated_is_counted() {
        let golden = include_str!("../../golden/policy.txt");
        let (short, all) = golden.split_once("--all:\n").unwrap();
        assert_eq!(sample::judged(FormatArg::Text, false), short);
        assert_eq!(sample::judged(FormatArg::Text, true), all);
    }

    #[test]
    fn a_step_is_cut_to_the_line_and_one_that_is_not_known_is_left_out() {
        let history = vec!["é".repeat(80), "é".repeat(81), String::new()];
        let header = Header { history, ..sample::header() };
        assert_eq!(layer_and_step(0, &header), format!("layer 0: {}", "é".repeat(80)));
        assert_eq!(layer_and_step(1, &header), format!("layer 1: {}…", "é".repeat(80)));
        assert_eq!(layer_and_step(2, &header), "layer 2");
        assert_eq!(layer_and_step(9, &header), "layer 9");
    }

    #[test]
    fn what_does_not_fail_and_what_was_not_compared_is_said() {
        let text = summary_lines(&sample::summary());
        assert!(
            text.contains("\nnot failing   2 added: only removed or changed or unverifiable fails here\n"),
            "{text}"
        );
        assert!(text.contains("scope         full, profile portable; left out"), "{text}");
        let compared = [Attribute::Type, Attribute::Mode].into_iter().collect();
        let all = Summary { fail_on: Vec::new(), compared, ..sample::summary() };
        let text = summary_lines(&all);
        assert!(!text.contains("not failing"), "{text}");
        assert!(text.contains("profile portable; compared only type, mode; left out"), "{text}");
        let mut named = sample::summary();
        named.excluded.mounts = vec!["var/a b".into()];
        named.excluded.virtual_mounts = vec!["dev".into(), "proc".into()];
        let text = summary_lines(&named);
        let places = "; left out as mounted there: var/a b; left out as the kernel's: dev proc\n";
        assert!(text.ends_with(&format!("; left out by the manifest: tmp/**{places}")), "{text}");
    }

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1024, "1.0 KiB"),
            (1_536 * 1024, "1.5 MiB"),
            (u64::MAX, "16383.9 PiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
