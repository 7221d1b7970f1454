//! `driftlock policy explain`: what a policy says of everything that can happen at a path, and which rules it passed over.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use driftlock_common::drift::{Attribute, Attributes, Delta, Drift, Sealed};
use driftlock_common::exit::Exit;
use driftlock_common::gap::Reason;
use driftlock_common::node::{FileType, Kind, Node};
use driftlock_common::path::{Escaped, TreePath};
use driftlock_common::policy::rotation::{Cut, Fate, Rotated};
use driftlock_common::policy::{Context, Moment, Policy, Rule, Verdict};
use driftlock_common::tree::Origin;

use super::{answer, load, shown};
use crate::cli::PolicyExplainArgs;
use crate::failure::{Failure, Outcome};

pub(super) fn run(args: &PolicyExplainArgs) -> Outcome {
    let bytes = args.path.as_os_str().as_encoded_bytes();
    let path = TreePath::new(bytes.strip_prefix(b"/").unwrap_or(bytes))
        .map_err(|error| Failure::new(Exit::Usage, anyhow::Error::new(error).context(shown(&args.path))))?;
    let policy = load(&args.policy)?;
    answer(&explain(&policy, &path, args.r#type.into()))?;
    Ok(Exit::Found(0))
}

fn explain(policy: &Policy, path: &TreePath, file_type: FileType) -> String {
    let mut text = format!("{} as a {}, by policy {}\n", path.escaped(), file_type.name(), policy.name());
    let mut rules: BTreeMap<usize, (&Rule, &str)> = BTreeMap::new();
    // Writing to a string cannot fail.
    for (what, delta, fate) in everything(file_type) {
        let drift = Drift { path: path.clone(), delta };
        for passed in policy.passed(&drift) {
            rules.entry(passed.rule.line).or_insert((passed.rule, passed.key));
        }
        let verdict = policy.judge(&drift, &Context { fate }, Moment::default());
        let rule = verdict.rule().map_or("-", |rule| rule.id.as_str());
        if let Some(rule) = verdict.rule() {
            rules.insert(rule.line, (rule, ""));
        }
        let _infallible = match verdict {
            Verdict::Tolerated { .. } => writeln!(text, "  {what:<24} tolerated  {rule}"),
            Verdict::Alert { severity, cause, .. } => {
                writeln!(text, "  {what:<24} {:<9}  {rule}: {cause}", severity.name())
            }
        };
    }
    if rules.is_empty() {
        text.push_str("no rule has a pattern that matches\n");
    }
    for (line, (rule, passed)) in rules {
        let reason = Escaped(rule.reason.as_bytes());
        let _infallible = write!(text, "rule {} on line {line} allows {}: {reason}", rule.id, rule.allow.name());
        let matching = rule.patterns().find(|pattern| pattern.matches(path));
        if let Some(pattern) = matching {
            let _infallible = write!(text, "; matches by {}", Escaped(pattern.as_str().as_bytes()));
        }
        if !passed.is_empty() {
            let _infallible = write!(text, "; passed over by its {passed}");
        }
        text.push('\n');
    }
    text
}

/// What can happen at a path, in words and as a drift.
fn everything(file_type: FileType) -> Vec<(String, Delta, Option<Fate>)> {
    let node = |mode: u16| {
        let kind = match file_type {
            FileType::File => Kind::File { size: None, content: None },
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink { target: Box::new([]) },
            FileType::Char => Kind::Char(None),
            FileType::Block => Kind::Block(None),
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
        };
        Node { mode: (file_type != FileType::Symlink).then_some(mode), ..Node::bare(kind) }
    };
    let plain = || node(0o644);
    let sealed = |node| Sealed { node, origin: Origin::default(), part: 0 };
    let added = |observed| Delta::Added { observed, unverified: None, collapsed: None };
    let changed = |attribute: Attribute, observed| Delta::Changed {
        attributes: Attributes::of(attribute),
        expected: sealed(plain()),
        observed,
        unverified: None,
    };
    let mut all = vec![("added".to_owned(), added(plain()), None)];
    let mut say = |what: &str, delta, fate| all.push((what.to_owned(), delta, fate));
    say("removed", Delta::Removed { expected: sealed(plain()) }, None);
    match file_type {
        FileType::File => {
            let content = || changed(Attribute::Content, plain());
            say("changed content", content(), None);
            say("  that only grew", content(), Some(Fate::Grown));
            say("  that was rotated", content(), Some(Fate::Rotated(Rotated::OldestGone)));
            say("  that was cut", content(), Some(Fate::Cut(Cut::Rewritten)));
            say("added, set-user-id", added(node(0o4755)), None);
        }
        FileType::Symlink => say("changed target", changed(Attribute::Target, plain()), None),
        FileType::Char | FileType::Block => say("changed device", changed(Attribute::Device, plain()), None),
        FileType::Directory | FileType::Fifo | FileType::Socket => {}
    }
    for attribute in [Attribute::Mode, Attribute::Uid, Attribute::Gid, Attribute::Xattrs, Attribute::Mtime] {
        if attribute != Attribute::Mode || file_type != FileType::Symlink {
            say(&format!("changed {}", attribute.name()), changed(attribute, plain()), None);
        }
    }
    let other = if file_type == FileType::Symlink { Kind::Directory } else { Kind::Symlink { target: Box::new([]) } };
    let other = Node::bare(other);
    say(&format!("becomes a {}", other.file_type().name()), changed(Attribute::Type, other), None);
    let gap = Delta::Unverifiable { reason: Reason::Denied, covers: 1, expected: Some(sealed(plain())) };
    say("not established", gap, None);
    all
}
