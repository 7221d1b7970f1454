//! Owns which open findings are one line: many of one kind below one directory. Must not own reading them, or what a line
//! looks like.

use std::collections::{BTreeMap, HashMap};

use driftlock_common::finding::{Finding, NodeView};
use driftlock_common::policy::Severity;

use super::{FOLD, Fold, directory_of};

/// The longest directory in bytes, and the deepest, that has findings in a line.
const LONGEST: usize = 4096;
const DEEPEST: usize = 64;

/// What findings have in common that are one line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    pub(super) host: String,
    pub(super) target: String,
    pub(super) severity: i64,
    pub(super) change: String,
    pub(super) rule: String,
}

/// The findings of one kind directly in one directory.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) directory: Vec<u8>,
    pub(super) number: u64,
    /// The highest id.
    pub(super) newest: i64,
}

/// What of one kind is one line, by directory.
#[derive(Debug, Default)]
pub(super) struct Folds {
    folds: Vec<(Fold, i64)>,
    of: HashMap<Vec<u8>, usize>,
}

/// What a finding is in a list.
pub(super) enum Place {
    /// A line of its own.
    Alone,
    /// The newest of a line.
    Newest(Fold),
    /// In a line that is another's.
    Within,
}

impl Group {
    /// About what it takes in memory, in bytes.
    pub(super) const fn size(&self) -> usize {
        size_of::<Self>() + 2 * self.directory.len()
    }

    /// Whether people have directories like this one. Others would be climbed up for ever.
    pub(super) fn is_reasonable(&self) -> bool {
        self.directory.len() <= LONGEST && depth(&self.directory) <= DEEPEST
    }
}

impl Folds {
    /// The lowest directory with enough of a kind at and below it is a line; what it takes is not counted further up. In
    /// the root only what is directly in it is one line: what is scattered over everything has no place. Nor is `floor`
    /// a line, which the list is narrowed to.
    pub(super) fn new(groups: &[Group], floor: Option<&[u8]>) -> Self {
        let mut folds = Vec::new();
        let of = fold(groups, floor, &mut folds);
        let folded = groups.iter().zip(of).filter_map(|(group, of)| Some((group.directory.clone(), of?)));
        Self { of: folded.collect(), folds }
    }

    /// Where the finding `id` of the kind in this directory stands.
    pub(super) fn place(&self, id: i64, directory: &[u8]) -> Place {
        match self.of.get(directory).and_then(|at| self.folds.get(*at)) {
            None => Place::Alone,
            Some((fold, newest)) if *newest == id => Place::Newest(fold.clone()),
            Some(_) => Place::Within,
        }
    }
}

/// For each group of one kind the line that it is in; new lines are appended to `folds`.
fn fold(alike: &[Group], floor: Option<&[u8]>, folds: &mut Vec<(Fold, i64)>) -> Vec<Option<usize>> {
    let mut of = vec![None; alike.len()];
    // By depth first, so that the last is always a lowest one.
    let mut below: BTreeMap<(usize, &[u8]), Vec<usize>> = BTreeMap::new();
    for (at, group) in alike.iter().enumerate() {
        below.entry((depth(&group.directory), &group.directory)).or_default().push(at);
    }
    while let Some(((_, directory), mut these)) = below.pop_last() {
        if floor == Some(directory) {
            continue;
        }
        let groups = || these.iter().map(|at| &alike[*at]);
        let number = groups().map(|group| group.number).sum();
        if number >= FOLD {
            let newest = groups().map(|group| group.newest).max().unwrap_or_default();
            for at in these {
                of[at] = Some(folds.len());
            }
            folds.push((Fold { directory: directory.to_vec(), number }, newest));
            continue;
        }
        let above = directory_of(directory);
        if !above.is_empty() {
            below.entry((depth(above), above)).or_default().append(&mut these);
        }
    }
    of
}

fn depth(directory: &[u8]) -> usize {
    directory.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).count()
}

/// Whether a finding is always a line of its own: it is critical, or about what gives rights, which whoever made it could
/// else hide among others, or it stands for others itself.
pub(super) fn stands_alone(finding: &Finding) -> bool {
    finding.severity() == Some(Severity::Critical)
        || finding.collapsed.is_some()
        || finding.covers.is_some_and(|covers| covers > 1)
        || [&finding.expected, &finding.observed].into_iter().flatten().any(gives_rights)
}

fn gives_rights(node: &NodeView) -> bool {
    const SET_ID: u16 = 0o6000;
    const CAPABILITY: &str = "security.capability";
    let mode = node.mode.as_deref().and_then(|mode| u16::from_str_radix(mode, 8).ok());
    match node.file_type.as_ref() {
        "char" | "block" => true,
        "file" => {
            mode.is_some_and(|mode| mode & SET_ID != 0)
                || node.xattrs.iter().flatten().any(|xattr| xattr.name == CAPABILITY)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_made_to_be_climbed_up_for_ever_are_left_alone() {
        for (directory, lines) in [
            (vec!["d"; DEEPEST].join("/"), 1),
            (vec!["d"; DEEPEST + 1].join("/"), 0),
            ("d".repeat(LONGEST), 1),
            ("d".repeat(LONGEST + 1), 0),
        ] {
            let group = Group { directory: directory.into(), number: FOLD, newest: 1 };
            let groups: Vec<Group> = Some(group).filter(Group::is_reasonable).into_iter().collect();
            assert_eq!(Folds::new(&groups, None).folds.len(), lines);
        }
    }

    #[test]
    fn what_somebody_could_hide_among_others_stands_alone() {
        for (keys, alone) in [
            (r#""change":"changed","observed":{"type":"file","mode":"0755"}"#, false),
            (r#""change":"changed","severity":"high""#, false),
            (r#""change":"changed","severity":"critical""#, true),
            (r#""change":"changed","severity":"critical","verdict":"tolerated""#, false),
            (r#""change":"changed","observed":{"type":"file","mode":"4755"}"#, true),
            (r#""change":"removed","expected":{"type":"file","mode":"2755"}"#, true),
            (r#""change":"added","observed":{"type":"directory","mode":"2755"}"#, false),
            (r#""change":"added","observed":{"type":"file","mode":"x"}"#, false),
            (r#""change":"added","observed":{"type":"char"}"#, true),
            (r#""change":"added","observed":{"type":"block"}"#, true),
            (r#""change":"added","observed":{"type":"file","xattrs":[{"name":"user.x","value":""}]}"#, false),
            (
                r#""change":"added","observed":{"type":"file","xattrs":[{"name":"security.capability","value":""}]}"#,
                true,
            ),
            (r#""change":"unverifiable","reason":"io","covers":1"#, false),
            (r#""change":"unverifiable","reason":"io","covers":2"#, true),
            (r#""change":"added","collapsed":20000"#, true),
        ] {
            let finding: Finding = serde_json::from_str(&format!(r#"{{"path":"a",{keys}}}"#)).unwrap();
            assert_eq!(stands_alone(&finding), alone, "{keys}");
        }
    }
}
