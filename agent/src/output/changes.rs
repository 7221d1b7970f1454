//! Owns the form of `diff` for people: what the new side changes, by the layer that changes it, and there by directory. What
//! is gone stands last, by the layers that had it. Must not own what differs, or any file name as it is.

use std::io::Write;

use driftlock_common::drift::{Change, Delta, Drift};
use driftlock_common::finding::Summary;
use driftlock_common::manifest::Manifest;
use driftlock_common::path::TreePath;
use driftlock_common::policy::Judged;
use driftlock_common::tree::Tree;

use super::listing::Counts;
use super::text::{coloured, layer_and_step, shown, summary_lines, what};
use super::{Output, Reader};
use crate::failure::Failure;

/// Two sides, and what they differ in.
#[derive(Clone, Copy, Debug)]
pub struct Changes<'a> {
    /// What was.
    pub old: &'a Manifest,
    /// What is.
    pub new: &'a Manifest,
    /// Every difference, in path order.
    pub findings: &'a [Judged<'a>],
    /// What they amount to.
    pub summary: &'a Summary,
}

/// Where a difference stands, in the order of sections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Section {
    /// A layer of the new side gave it.
    Given(u16),
    /// No layer is known: a directory, for example, has none.
    NoLayer,
    /// A layer of the old side had it.
    Gone(u16),
}

/// A difference in its place.
struct Placed<'a> {
    section: Section,
    directory: TreePath,
    drift: &'a Drift,
}

/// Writes all of it.
pub(super) fn write<W: Write>(output: &mut Output<W>, changes: &Changes<'_>, colour: bool) -> Result<Reader, Failure> {
    let mut placed: Vec<Placed<'_>> =
        changes.findings.iter().map(|judged| Placed::new(&judged.drift, &changes.new.tree)).collect();
    // What has the same place stays in path order.
    placed.sort_by(|a, b| (a.section, &a.directory).cmp(&(b.section, &b.directory)));
    let no_layers = placed.iter().all(|placed| placed.section == Section::NoLayer);
    let indent = if no_layers { "" } else { "  " };
    for section in placed.chunk_by(|a, b| a.section == b.section) {
        if !no_layers {
            let line = format!("{}  ({})\n", section[0].section.heading(changes), counts(section));
            output.write(line.as_bytes())?;
        }
        for directory in section.chunk_by(|a, b| a.directory == b.directory) {
            let line = format!("{indent}{}/  ({})\n", shown(&directory[0].directory), counts(directory));
            output.write(line.as_bytes())?;
            for Placed { drift, .. } in directory {
                let sign = coloured(drift.change(), sign(drift.change()), colour);
                let line = format!("{indent}  {sign} {}  {}\n", shown(&drift.path), what(drift).join(", "));
                output.write(line.as_bytes())?;
            }
        }
    }
    output.write(summary_lines(changes.summary).as_bytes())?;
    output.finish()
}

const fn sign(change: Change) -> &'static str {
    match change {
        Change::Added => "+",
        Change::Removed => "-",
        Change::Changed => "~",
        Change::Unverifiable => "?",
    }
}

fn counts(placed: &[Placed<'_>]) -> Counts {
    let mut counts = Counts::default();
    counts.extend(placed.iter().map(|placed| placed.drift.change()));
    counts
}

// === impl Section ===

impl Section {
    fn heading(self, changes: &Changes<'_>) -> String {
        match self {
            Self::Given(layer) => layer_and_step(layer, &changes.new.header),
            Self::NoLayer => "no layer".to_owned(),
            Self::Gone(layer) => format!("gone from {}", layer_and_step(layer, &changes.old.header)),
        }
    }
}

// === impl Placed ===

impl<'a> Placed<'a> {
    fn new(drift: &'a Drift, new: &Tree) -> Self {
        let section = match &drift.delta {
            Delta::Added { .. } | Delta::Changed { .. } => {
                let layer = new.find(&drift.path).and_then(|id| drift.layer_of(&new.origin(id)));
                layer.map_or(Section::NoLayer, Section::Given)
            }
            Delta::Removed { .. } | Delta::Unverifiable { .. } => drift.layer().map_or(Section::NoLayer, Section::Gone),
        };
        Self { section, directory: drift.path.parent().unwrap_or_default(), drift }
    }
}

#[cfg(test)]
mod tests {
    use driftlock_common::digest::Digest;
    use driftlock_common::drift::diff;
    use driftlock_common::manifest::Header;
    use driftlock_common::node::{Kind, Node};
    use driftlock_common::tree::Origin;

    use super::super::sample;
    use super::*;

    /// Path, mode, content of a file, and the layers of content and attributes.
    type Entry<'a> = (&'a [u8], u16, Option<&'a str>, &'a [u16]);

    /// A tree out of paths with a mode, content (a directory has none), and the layers of content and attributes.
    fn manifest(steps: &[&str], entries: &[Entry<'_>]) -> Manifest {
        let node = |mode, content: Option<&str>| {
            let file = |text: &str| Kind::File {
                size: Some(text.len() as u64),
                content: Some(Digest::blake3(text.as_bytes())),
            };
            Node { mode: Some(mode), uid: Some(0), gid: Some(0), ..Node::bare(content.map_or(Kind::Directory, file)) }
        };
        let origin = |layers: &[u16]| Origin {
            layer: layers.first().copied(),
            meta_layer: layers.get(1).copied(),
            ..Origin::default()
        };
        let entries = entries.iter().map(|(path, mode, content, layers)| {
            (TreePath::new(*path).unwrap(), node(*mode, *content), origin(layers))
        });
        let history = steps.iter().map(|step| (*step).to_owned()).collect();
        Manifest { header: Header { history, ..sample::header() }, tree: Tree::from_sorted(entries).unwrap() }
    }

    fn text(old: &Manifest, new: &Manifest) -> String {
        let findings: Vec<Judged<'_>> = diff(&old.tree, &new.tree).into_iter().map(Judged::from).collect();
        let summary = sample::summary();
        let mut bytes = Vec::new();
        let changes = Changes { old, new, findings: &findings, summary: &summary };
        Output::new(&mut bytes).changes(&changes, false).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        text.strip_suffix(&summary_lines(&summary)).unwrap().to_owned()
    }

    #[test]
    fn what_an_image_changes_stands_under_its_layers_and_what_is_gone_under_the_old_ones() {
        let old = manifest(
            &["/bin/sh -c #(nop) ADD rootfs.tar /", "RUN /bin/sh -c make \x1b[31m # buildkit"],
            &[
                (b"", 0o755, None, &[0]),
                (b"bin", 0o755, None, &[0]),
                (b"bin/app", 0o755, Some("one"), &[1]),
                (b"bin/old", 0o755, Some("old"), &[1]),
                (b"etc", 0o755, None, &[0]),
                (b"etc/a", 0o755, None, &[0]),
                (b"etc/a/x", 0o644, Some("x"), &[0]),
                (b"etc/a-b", 0o644, Some("x"), &[0]),
                (b"etc/kept", 0o644, Some("kept"), &[0]),
            ],
        );
        let new = manifest(
            &["ADD rootfs.tar / # buildkit", "COPY app /bin/", "", "RUN chmod"],
            &[
                (b"", 0o755, None, &[0]),
                (b"bin", 0o711, None, &[0, 3]),
                (b"bin/\n[x]\xff", 0o4755, Some("new"), &[1]),
                (b"bin/app", 0o700, Some("two!"), &[1, 3]),
                (b"etc", 0o755, None, &[0]),
                (b"etc/a", 0o644, Some("x"), &[2]),
                (b"etc/kept", 0o600, Some("kept"), &[0, 3]),
                (b"var", 0o755, None, &[1]),
                (b"var/x", 0o755, None, &[1]),
            ],
        );
        assert_eq!(text(&old, &new), include_str!("../../golden/changes.txt"));
    }

    #[test]
    fn without_layers_there_are_directories_alone_and_equal_sides_have_none() {
        let old = manifest(&[], &[(b"", 0o755, None, &[]), (b"a", 0o644, Some("x"), &[]), (b"d", 0o755, None, &[])]);
        let new = manifest(&[], &[(b"", 0o700, None, &[]), (b"d", 0o755, None, &[]), (b"d/b", 0o644, Some("x"), &[])]);
        assert_eq!(
            text(&old, &new),
            "./  (1 removed, 1 changed)\n  ~ .  mode 0755 → 0700\n  - a  file\nd/  (1 added)\n  + d/b  file of 1 bytes\n"
        );
        assert_eq!(text(&old, &old), "");
        // Layers on one side only.
        let layered = manifest(&["ADD"], &[(b"", 0o755, None, &[0]), (b"a", 0o644, Some("y"), &[0])]);
        assert_eq!(
            text(&old, &layered),
            "layer 0: ADD  (1 changed)\n  ./  (1 changed)\n    ~ a  content\nno layer  (1 removed)\n  ./  (1 removed)\n    - d  directory\n"
        );
        assert_eq!(
            text(&layered, &new),
            "no layer  (2 added, 1 changed)\n  ./  (1 added, 1 changed)\n    ~ .  mode 0755 → 0700\n    + d  directory\n  d/  (1 added)\n    + d/b  file of 1 bytes\ngone from layer 0: ADD  (1 removed)\n  ./  (1 removed)\n    - a  file\n"
        );
    }
}
