//! Owns a baseline of several manifests: what they are together, and which of them each entry is from. Must not own reading
//! one.

use std::path::{Path, PathBuf};

use driftlock_common::digest::{Digest, OciDigest};
use driftlock_common::finding::{ManifestView, PartView};
use driftlock_common::manifest::{Header, Manifest, Part};
use driftlock_common::path::Escaped;
use driftlock_common::pattern::Excludes;
use driftlock_common::tree::{EntryId, Origin, Overlay, Places, Tree};

use super::{BaselineError, Provenance};

/// A longer path is a name that is cut, in bytes.
const MAX_NAME: usize = 255;

/// What several manifests are from.
#[derive(Debug)]
pub(super) struct Laid {
    /// In order, the last on top.
    parts: Vec<Part>,
    /// Of each part.
    provenances: Vec<Provenance>,
    places: Places,
}

/// Lays manifests over each other, the last on top.
pub(super) fn lay(read: Vec<(PathBuf, Manifest, Provenance)>) -> Result<(Manifest, Laid), BaselineError> {
    let header = together(&read)?;
    let trees: Vec<&Tree> = read.iter().map(|(_, manifest, _)| &manifest.tree).collect();
    let Overlay { tree, places } = Overlay::of(&trees, header.profile).map_err(BaselineError::TooLarge)?;
    let mut laid = Laid { parts: Vec::new(), provenances: Vec::new(), places };
    for (index, (path, manifest, provenance)) in read.into_iter().enumerate() {
        laid.parts.push(Part { name: name(index, &path), header: manifest.header });
        laid.provenances.push(provenance);
    }
    Ok((Manifest { header, tree }, laid))
}

/// The terms that all of them can be compared under: the least of the profiles, and what any of them leaves out.
fn together(read: &[(PathBuf, Manifest, Provenance)]) -> Result<Header, BaselineError> {
    let headers = || read.iter().map(|(path, manifest, _)| (path, &manifest.header));
    let Some((first, Header { content, .. })) = headers().next() else { return Err(BaselineError::None) };
    if let Some((other, header)) = headers().find(|(_, header)| header.content != *content) {
        return Err(BaselineError::Algorithms(first.clone(), *content, other.clone(), header.content));
    }
    let profile = headers().map(|(_, header)| header.profile).min().unwrap_or_default();
    Ok(Header::new(profile, *content, Excludes::union(headers().map(|(_, header)| &header.excludes))))
}

impl Laid {
    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// The number of the part that an entry is from.
    pub(super) fn part(&self, id: EntryId) -> usize {
        self.places.get(id).0
    }

    /// Where an entry of `tree`, what they are together, came from.
    pub(super) fn origin(&self, tree: &Tree, id: EntryId) -> Origin {
        let (part, own) = self.places.get(id);
        match &self.provenances[part].origins {
            Some(origins) => origins.get(&self.parts[part].header, own),
            None => tree.origin(id),
        }
    }

    pub(super) fn view(&self, tree: OciDigest) -> ManifestView {
        let parts: Vec<PartView> = self.parts.iter().zip(&self.provenances).map(view).collect();
        let digests: String = parts.iter().map(|part| format!("{}\n", part.sha256)).collect();
        // One that is not signed makes the whole so.
        let weakest = self.provenances.iter().map(|provenance| provenance.trust).min();
        let origin = parts.first().map(|first| first.origin.clone());
        let origin = origin.filter(|origin| parts.iter().all(|part| part.origin == *origin));
        ManifestView {
            tree,
            sha256: Digest::sha256(digests.as_bytes()),
            trust: weakest.map_or("unsigned", super::Trust::name).into(),
            origin: origin.unwrap_or_else(|| "several".into()),
            parts,
        }
    }
}

fn view((part, provenance): (&Part, &Provenance)) -> PartView {
    PartView {
        name: part.name.clone(),
        tree: provenance.tree,
        sha256: provenance.sha256,
        trust: provenance.trust.name().into(),
        origin: super::origin(&part.header).into(),
        profile: part.header.profile,
    }
}

/// The path as it was given. Of a very long one the end, with its number: no other part has that.
fn name(index: usize, path: &Path) -> String {
    let whole = Escaped(path.as_os_str().as_encoded_bytes()).to_string();
    if whole.len() <= MAX_NAME {
        return whole;
    }
    let number = format!("{}:…", index + 1);
    let end = (whole.len() - (MAX_NAME - number.len())..).find_map(|start| whole.get(start..));
    format!("{number}{}", end.unwrap_or_default())
}
