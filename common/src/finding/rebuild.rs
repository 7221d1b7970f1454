//! Owns the way back from the JSON of a finding to the difference that it was made of. Must not own what is read: a
//! finding may come from anywhere, so whatever contradicts itself is refused.

use super::{Finding, NodeView};
use crate::drift::{Attribute, Attributes, Change, Delta, Drift, Sealed, Unverified};
use crate::node::{Device, FileType, Kind, Node, Xattrs};
use crate::path::{Escaped, MAX_PATH, from_base64};
use crate::tree::Origin;

/// Why a finding is none: a key, and what is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} {what}")]
pub struct Contradiction {
    /// As in the JSON.
    pub key: &'static str,
    /// What is wrong.
    pub what: &'static str,
}

type Rebuilt<T> = Result<T, Contradiction>;

/// What one who has no such attribute cannot have.
const FOREIGN: &str = "goes with another type";

const fn contradiction<T>(key: &'static str, what: &'static str) -> Rebuilt<T> {
    Err(Contradiction { key, what })
}

/// Refuses a key where it has no place.
const fn only(holds: bool, key: &'static str, what: &'static str) -> Rebuilt<()> {
    if holds { Ok(()) } else { contradiction(key, what) }
}

impl Finding {
    /// The difference that the finding was made of: a policy says the same of both. Of several manifests it does not
    /// know which one sealed the path.
    ///
    /// # Errors
    /// The first thing in which the finding contradicts itself or the format.
    pub fn drift(&self) -> Rebuilt<Drift> {
        let Some(path) = self.tree_path() else {
            return contradiction("path", "is no path of a tree, in its one spelling");
        };
        only(self.collapsed.is_none() || self.change == Change::Added, "collapsed", "goes with added only")?;
        only(self.covers.is_none() || self.change == Change::Unverifiable, "covers", "goes with unverifiable only")?;
        only(self.attributes.is_empty() || self.change == Change::Changed, "attributes", "go with changed only")?;
        let expected = self.expected.as_ref().map(|view| self.sealed(view)).transpose()?;
        let observed = self.observed.as_ref().map(NodeView::node).transpose()?;
        let delta = match (self.change, expected, observed) {
            (Change::Added, None, Some(observed)) => {
                Delta::Added { observed, unverified: self.unverified()?, collapsed: self.collapsed }
            }
            (Change::Removed, Some(expected), None) => {
                only(self.unverified()?.is_none(), "reason", "does not go with removed")?;
                Delta::Removed { expected }
            }
            (Change::Changed, Some(expected), Some(observed)) => {
                let attributes = self.differing(expected.node.file_type(), observed.file_type())?;
                Delta::Changed { attributes, expected, observed, unverified: self.unverified()? }
            }
            (Change::Unverifiable, expected, None) => {
                only(self.unverified.is_empty(), "unverified", "does not go with unverifiable, which is all")?;
                let Some(reason) = self.reason else { return contradiction("reason", "is missing") };
                let Some(covers) = self.covers else { return contradiction("covers", "is missing") };
                Delta::Unverifiable { reason, covers, expected }
            }
            (Change::Added | Change::Changed, _, None) => return contradiction("observed", "is missing"),
            (Change::Removed | Change::Changed, None, _) => return contradiction("expected", "is missing"),
            (Change::Added, Some(_), _) => return contradiction("expected", "does not go with added"),
            (Change::Removed | Change::Unverifiable, _, Some(_)) => {
                return contradiction("observed", "is there although nothing was");
            }
        };
        Ok(Drift { path, delta })
    }

    fn sealed(&self, view: &NodeView) -> Rebuilt<Sealed> {
        let node = view.node()?;
        // Beside BLAKE3 it is told besides; alone it is the content.
        let sha256 = view.blake3.and(view.sha256);
        let origin = Origin { layer: self.layer, meta_layer: self.meta_layer, sha256 };
        Ok(Sealed { node, origin, part: 0 })
    }

    fn unverified(&self) -> Rebuilt<Option<Unverified>> {
        match (self.unverified, self.reason) {
            (attributes, None) if attributes.is_empty() => Ok(None),
            (attributes, Some(_)) if attributes.is_empty() => contradiction("unverified", "is missing beside reason"),
            (attributes, Some(reason)) => Ok(Some(Unverified { attributes, reason })),
            (_, None) => contradiction("reason", "is missing beside unverified"),
        }
    }

    /// What differs between two sides of these types.
    fn differing(&self, expected: FileType, observed: FileType) -> Rebuilt<Attributes> {
        let attributes = self.attributes;
        if expected != observed {
            only(attributes == Attributes::of(Attribute::Type), "attributes", "of two types are type alone")?;
            return Ok(attributes);
        }
        only(!attributes.is_empty(), "attributes", "are missing")?;
        only(!attributes.contains(Attribute::Type), "attributes", "have type, and both types are the same")?;
        let of_types: [(Attribute, &[FileType]); 3] = [
            (Attribute::Content, &[FileType::File]),
            (Attribute::Target, &[FileType::Symlink]),
            (Attribute::Device, &[FileType::Char, FileType::Block]),
        ];
        for (attribute, types) in of_types {
            let fits = !attributes.contains(attribute) || types.contains(&expected);
            only(fits, "attributes", "have one that the type does not have")?;
        }
        Ok(attributes)
    }
}

impl NodeView {
    /// The node that the view was made of.
    fn node(&self) -> Rebuilt<Node> {
        let Some(file_type) = FileType::ALL.into_iter().find(|file_type| file_type.name() == self.file_type) else {
            return contradiction("type", "is none of the types");
        };
        let is = |types: &[FileType]| types.contains(&file_type);
        let file = is(&[FileType::File]);
        only(
            file || (self.size.is_none() && self.blake3.is_none() && self.sha256.is_none()),
            "size or digest",
            FOREIGN,
        )?;
        let link = is(&[FileType::Symlink]);
        only(link || (self.target.is_none() && self.target_b64.is_none()), "target", FOREIGN)?;
        only(is(&[FileType::Char, FileType::Block]) || self.device.is_none(), "device", FOREIGN)?;
        only(!link || self.mode.is_none(), "mode", FOREIGN)?;
        let device = self.device.map(|[major, minor]| Device { major, minor });
        let kind = match file_type {
            FileType::File => Kind::File { size: self.size, content: self.blake3.or(self.sha256) },
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink { target: self.link_target()? },
            FileType::Char => Kind::Char(device),
            FileType::Block => Kind::Block(device),
            FileType::Fifo => Kind::Fifo,
            FileType::Socket => Kind::Socket,
        };
        let ids_are_ids = self.uid != Some(u32::MAX) && self.gid != Some(u32::MAX);
        only(ids_are_ids, "uid or gid", "is 4294967295, which is nobody")?;
        let (uid, gid, mtime) = (self.uid, self.gid, self.mtime);
        Ok(Node { kind, mode: self.permissions()?, uid, gid, mtime, xattrs: self.attribute_values()? })
    }

    fn permissions(&self) -> Rebuilt<Option<u16>> {
        let Some(text) = &self.mode else { return Ok(None) };
        let octal = text.len() == 4 && text.bytes().all(|byte| (b'0'..b'8').contains(&byte));
        match u16::from_str_radix(text, 8) {
            Ok(mode) if octal => Ok(Some(mode)),
            _ => contradiction("mode", "is not four octal digits"),
        }
    }

    fn link_target(&self) -> Rebuilt<Box<[u8]>> {
        let Some(shown) = &self.target else { return contradiction("target", "is missing") };
        let bytes = match &self.target_b64 {
            None => Some(shown.clone().into_bytes()),
            Some(base64) => from_base64(base64),
        };
        let one_spelling = |bytes: &Vec<u8>| super::path_fields(bytes) == (shown.clone(), self.target_b64.clone());
        match bytes.filter(one_spelling) {
            Some(bytes) if bytes.len() <= MAX_PATH && !bytes.contains(&0) => Ok(bytes.into()),
            _ => contradiction("target", "is no target of a link, in its one spelling"),
        }
    }

    fn attribute_values(&self) -> Rebuilt<Option<Xattrs>> {
        let Some(views) = &self.xattrs else { return Ok(None) };
        let raw = |view: &super::XattrView| Some((unescaped(&view.name)?.into(), from_base64(&view.value)?.into()));
        match views.iter().map(raw).collect::<Option<Vec<_>>>().and_then(Xattrs::new) {
            Some(xattrs) => Ok(Some(xattrs)),
            None => contradiction("xattrs", "are not names, each once, with values in base64"),
        }
    }
}

/// The bytes that [`Escaped`] shows so; `None` if it shows none so.
fn unescaped(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let (byte, left) = match (first, after) {
            (b'\\', [b'\\', left @ ..]) => (b'\\', left),
            (b'\\', [b'x', high, low, left @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                (digit(high)? << 4 | digit(low)?, left)
            }
            (b'\\', _) => return None,
            (byte, left) => (*byte, left),
        };
        bytes.push(byte);
        rest = left;
    }
    (Escaped(&bytes).to_string() == text).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn refused(finding: &Value) -> String {
        match serde_json::from_value::<Finding>(finding.clone()).unwrap().drift() {
            Ok(drift) => panic!("{finding} is {drift:?}"),
            Err(contradiction) => contradiction.to_string(),
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused_with_its_key() {
        let file = json!({"type": "file", "size": 1, "mode": "0644"});
        let link = json!({"type": "symlink", "target": "a"});
        let changed =
            json!({"path": "a", "change": "changed", "attributes": ["mode"], "expected": file, "observed": file});
        let gap = json!({"path": "a", "change": "unverifiable", "reason": "denied", "covers": 1, "expected": file});
        let added = json!({"path": "a", "change": "added", "observed": file});
        for good in [&changed, &gap, &added] {
            serde_json::from_value::<Finding>(good.clone()).unwrap().drift().unwrap();
        }
        let with = |base: &Value, key: &str, value: Value| {
            let mut finding = base.clone();
            if value.is_null() {
                finding.as_object_mut().unwrap().remove(key);
            } else {
                finding[key] = value;
            }
            finding
        };
        for (finding, why) in [
            (with(&added, "path", json!("../a")), "path is no path of a tree, in its one spelling"),
            (with(&added, "path", json!("a\n")), "path is no path of a tree, in its one spelling"),
            (with(&added, "path_b64", json!("YQ==")), "path is no path of a tree, in its one spelling"),
            (with(&added, "expected", file.clone()), "expected does not go with added"),
            (with(&added, "observed", Value::Null), "observed is missing"),
            (with(&added, "covers", json!(2)), "covers goes with unverifiable only"),
            (with(&added, "attributes", json!(["mode"])), "attributes go with changed only"),
            (with(&added, "reason", json!("denied")), "unverified is missing beside reason"),
            (with(&added, "unverified", json!(["content"])), "reason is missing beside unverified"),
            (with(&changed, "change", json!("removed")), "attributes go with changed only"),
            (with(&changed, "attributes", json!([])), "attributes are missing"),
            (with(&changed, "attributes", json!(["type"])), "attributes have type, and both types are the same"),
            (with(&changed, "attributes", json!(["target"])), "attributes have one that the type does not have"),
            (with(&changed, "observed", link.clone()), "attributes of two types are type alone"),
            (with(&changed, "collapsed", json!(3)), "collapsed goes with added only"),
            (with(&changed, "expected", Value::Null), "expected is missing"),
            (with(&gap, "observed", file.clone()), "observed is there although nothing was"),
            (with(&gap, "covers", Value::Null), "covers is missing"),
            (with(&gap, "reason", Value::Null), "reason is missing"),
            (with(&gap, "unverified", json!(["content"])), "unverified does not go with unverifiable, which is all"),
        ] {
            assert_eq!(refused(&finding), why, "{finding}");
        }
        for (node, why) in [
            (json!({"type": "door"}), "type is none of the types"),
            (json!({"type": "directory", "size": 1}), "size or digest goes with another type"),
            (json!({"type": "file", "target": "a"}), "target goes with another type"),
            (json!({"type": "file", "device": [1, 3]}), "device goes with another type"),
            (json!({"type": "symlink", "target": "a", "mode": "0777"}), "mode goes with another type"),
            (json!({"type": "symlink"}), "target is missing"),
            (
                json!({"type": "symlink", "target": "\\x00", "target_b64": "AA=="}),
                "target is no target of a link, in its one spelling",
            ),
            (json!({"type": "file", "mode": "644"}), "mode is not four octal digits"),
            (json!({"type": "file", "mode": "+644"}), "mode is not four octal digits"),
            (json!({"type": "file", "uid": u32::MAX}), "uid or gid is 4294967295, which is nobody"),
            (
                json!({"type": "file", "xattrs": [{"name": "a\\", "value": ""}]}),
                "xattrs are not names, each once, with values in base64",
            ),
            (
                json!({"type": "file", "xattrs": [{"name": "a", "value": ""}, {"name": "a", "value": ""}]}),
                "xattrs are not names, each once, with values in base64",
            ),
        ] {
            assert_eq!(refused(&with(&added, "observed", node.clone())), why, "{node}");
        }
    }

    #[test]
    fn a_name_is_unescaped_to_what_was_escaped_and_has_one_spelling() {
        for bytes in [&b"security.capability"[..], b"user.\xff\\x41\n", "user.\u{202e}é".as_bytes(), b""] {
            assert_eq!(unescaped(&Escaped(bytes).to_string()).as_deref(), Some(bytes));
        }
        for text in ["\\x41", "\\", "\\x4", "\\q", "\\xFF", "\n"] {
            assert_eq!(unescaped(text), None, "{text:?}");
        }
    }
}
