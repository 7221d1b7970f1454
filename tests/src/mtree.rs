//! Owns another program's opinion: NetBSD `mtree`, which describes a tree and compares a tree with a description. Must
//! not own what driftlock says of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use walkdir::WalkDir;

use crate::drift::Drift;
use crate::sandbox::Sandbox;

/// What is compared beside the type, for each profile of driftlock.
const KEYWORDS: [(&str, &str); 3] = [
    ("content", "size,sha256,link,device"),
    ("portable", "size,sha256,link,device,mode,uid,gid"),
    ("full", "size,sha256,link,device,mode,uid,gid,time"),
];

/// Names that both programs write in the same way: `mtree` takes some characters of a name for a pattern, prints others
/// as they are, and ends a path in its answer with a colon.
pub const NAMES: &[&[u8]] = &[
    b"a",
    b"b",
    b"c",
    b"a-b",
    b"a.b",
    b"A",
    b" ",
    b"a b",
    b"...",
    b"-rf",
    b"~",
    b"'\"$(id)`",
    b"#",
    b"a=b",
    b"type=file",
    b".hidden",
    b"a name that is longer than the column that mtree has for it",
];

/// Describes what is at `root` as far as `profile` compares it.
///
/// # Errors
/// If `mtree` fails.
pub fn describe(sandbox: &Sandbox, root: &Path, profile: &str) -> Result<PathBuf> {
    let (_, keywords) = KEYWORDS.iter().find(|(name, _)| *name == profile).context("a profile")?;
    let root = root.to_str().context("a path of the test")?;
    let finished = sandbox.command("mtree".as_ref(), ["-c", "-k", keywords, "-p", root]).run()?.expect(0)?;
    sandbox.write("description", finished.stdout)
}

/// What of `root` is not as described.
///
/// # Errors
/// If `mtree` fails, or says something that is not understood.
pub fn compare(sandbox: &Sandbox, root: &Path, description: &Path) -> Result<BTreeSet<Drift>> {
    let (root_text, file) = (root.to_str().context("a path")?, description.to_str().context("a path")?);
    let finished = sandbox.command("mtree".as_ref(), ["-f", file, "-p", root_text]).run()?;
    ensure!(matches!(finished.code, Some(0 | 2)), "{finished:?}");
    // The code says nothing of what is missing or extra.
    let said = Said::read(finished.text()?).with_context(|| format!("{finished:?}"))?;
    said.drifts(root)
}

/// What it printed, sorted out.
#[derive(Debug, Default)]
struct Said {
    extra: Vec<String>,
    missing: Vec<String>,
    changed: BTreeMap<String, BTreeSet<&'static str>>,
}

impl Said {
    /// Each difference is a line. The first of a path begins with the path, further ones with a tab.
    fn read(text: &str) -> Result<Self> {
        let mut said = Self::default();
        let mut path = None;
        for line in text.lines() {
            let difference = if let Some(extra) = line.strip_prefix("extra: ") {
                said.extra.push(extra.to_owned());
                continue;
            } else if let Some(missing) = line.strip_prefix("missing: ") {
                said.missing.push(missing.strip_prefix("./").unwrap_or(missing).to_owned());
                continue;
            } else if let Some(difference) = line.strip_prefix('\t') {
                difference
            } else {
                let (of, difference) = line.split_once(':').with_context(|| format!("not understood: {line:?}"))?;
                path = Some(if of == "." { String::new() } else { of.to_owned() });
                difference
            };
            // A path that is wider than its column has a line for itself.
            if difference.trim().is_empty() {
                continue;
            }
            let path = path.clone().with_context(|| format!("of no path: {line:?}"))?;
            if let Some(attribute) = attribute(difference.trim())? {
                said.changed.entry(path).or_default().insert(attribute);
            }
        }
        Ok(said)
    }

    fn drifts(self, root: &Path) -> Result<BTreeSet<Drift>> {
        let mut drifts: BTreeSet<Drift> = self.missing.iter().map(Drift::removed).collect();
        let below = |path: &str, depth: usize| {
            WalkDir::new(root.join(path)).follow_root_links(false).min_depth(depth).into_iter().map(|entry| {
                let entry = entry?;
                Ok::<_, anyhow::Error>(Drift::added(entry.path().strip_prefix(root)?.as_os_str().as_encoded_bytes()))
            })
        };
        for path in &self.extra {
            // What is below an extra directory it leaves out.
            drifts.extend(below(path, 0).collect::<Result<Vec<_>>>()?);
        }
        for (path, mut attributes) in self.changed {
            if attributes.contains("type") {
                // It says nothing of what is in a directory where something else was, or not always.
                drifts.extend(below(&path, 1).collect::<Result<Vec<_>>>()?);
            }
            // Of a directory no time is sealed, because everything in it moves it.
            if fs::symlink_metadata(root.join(&path)).is_ok_and(|meta| meta.is_dir()) {
                attributes.remove("mtime");
            }
            if !attributes.is_empty() {
                drifts.insert(Drift::changed(&path, &attributes.into_iter().collect::<Vec<_>>()));
            }
        }
        Ok(drifts)
    }
}

/// The word of a finding for a line of an answer; `None` if two times are the same but for a part of a second.
fn attribute(difference: &str) -> Result<Option<&'static str>> {
    let (what, values) = difference.split_once(" (").with_context(|| format!("not understood: {difference:?}"))?;
    Ok(Some(match what {
        "type" => "type",
        "size" | "sha256" => "content",
        "link ref" => "target",
        "device" => "device",
        "permissions" => "mode",
        "user" => "uid",
        "gid" => "gid",
        "modification time" => {
            let (was, is) = values.trim_end_matches(')').split_once(", ").context("two times")?;
            return Ok((was != is).then_some("mtime"));
        }
        _ => bail!("not understood: {difference:?}"),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_answer_is_read_line_by_line() {
        let said = Said::read(
            ".:      modification time (Wed Nov 25 01:53:00 2026, Wed Nov 25 01:53:00 2026)\n\
             fifo:   \ttype (fifo, char)\n\
             extra: n\n\
             a:      size (2, 4)\n\
             \tsha256 (0x87, 0x7a)\n\
             d/b c:  permissions (0644, 0600)\n\
             missing: ./d/-rf\n\
             longer name: \n\
             \tuser (0, 1)\n",
        )
        .expect("an answer");
        let changed: Vec<_> = said.changed.iter().map(|(path, what)| (path.as_str(), what.len())).collect();
        assert_eq!(changed, [("a", 1), ("d/b c", 1), ("fifo", 1), ("longer name", 1)]);
        assert_eq!((said.extra, said.missing), (vec!["n".to_owned()], vec!["d/-rf".to_owned()]));
        assert!(Said::read("what is this").is_err());
    }
}
