//! Owns a baseline of several manifests: what they are together, and which of them each entry is from. Must not own reading
//! one.

use std::path::{Path, PathBuf};

use driftlock_common::digest::{Digest, OciDigest};
use driftlock_common::finding::{ManifestView, PartView};
use driftlock_common::manifest::{Header, MAX_PART_NAME, Manifest, Part};
use driftlock_common::path::Escaped;
use driftlock_common::pattern::Excludes;
use driftlock_common::tree::{EntryId, Origin, Overlay, Places, Tree};
use driftlock_common::trust::Timestamp;

use super::{BaselineError, Provenance};

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

    pub(super) fn provenances(&self) -> &[Provenance] {
        &self.provenances
    }

    /// The number of the part that an entry is from.
    pub(super) fn part(&self, id: EntryId) -> usize {
        self.places.get(id).0
    }

    /// Where an entry of `tree`, what they are together, came from.
    pub(super) fn origin(&self, tree: &Tree, id: EntryId) -> Origin {
        let (part, own) = self.places.get(id);
        self.provenances[part].origin(&self.parts[part].header, own, tree, id)
    }

    /// When the first of them can no longer be trusted.
    pub(super) fn until(&self) -> Option<Timestamp> {
        self.provenances.iter().filter_map(|provenance| provenance.voucher.until).min()
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
            // Each part says who signed it.
            key: None,
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
        key: provenance.voucher.shown(),
        origin: super::origin(&part.header).into(),
        profile: part.header.profile,
    }
}

/// The path as it was given. Of a very long one the end, with its number: no other part has that.
fn name(index: usize, path: &Path) -> String {
    let whole = Escaped(path.as_os_str().as_encoded_bytes()).to_string();
    if whole.len() <= MAX_PART_NAME {
        return whole;
    }
    let number = format!("{}:…", index + 1);
    let end = (whole.len() - (MAX_PART_NAME - number.len())..).find_map(|start| whole.get(start..));
    format!("{number}{}", end.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;

    use driftlock_common::digest::Algorithm;
    use driftlock_common::manifest::{Source, SourceKind};
    use driftlock_common::node::{Kind, Node};
    use driftlock_common::path::TreePath;
    use driftlock_common::profile::Profile;
    use driftlock_common::tree::MAX_PARTS;

    use super::super::kit::{load, manifest, write};
    use super::super::{Accept, Baseline, Terms};
    use super::*;
    use crate::failure::Failure;

    #[test]
    fn one_manifest_is_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let paths = write(dir.path(), &[manifest(Profile::Content, &["a"], &["b"])]);
        let (one, all) = (Baseline::load(&paths[0], &Accept::Unsigned), Baseline::load_all(&paths, &Accept::Unsigned));
        let (one, all) = (one.unwrap(), all.unwrap());
        assert_eq!(one.view(), all.view());
        assert_eq!(one.manifest(), all.manifest());
        assert!(all.view().parts.is_empty() && all.sealed_in().parts.is_empty());
    }

    #[test]
    fn what_several_are_together_is_what_one_of_everything_would_be() {
        let dir = tempfile::tempdir().unwrap();
        let parts = [
            manifest(Profile::Portable, &["x/**"], &["a/", "a/b", "c"]),
            manifest(Profile::Portable, &["y"], &["a/", "a/d", "c/", "c/e"]),
        ];
        let baseline = Baseline::load_all(&write(dir.path(), &parts), &Accept::Unsigned).unwrap();
        let whole = manifest(Profile::Portable, &["x/**", "y"], &["a/", "a/b", "a/d", "c/", "c/e"]);
        assert_eq!(*baseline.manifest(), whole);
        let view = baseline.view();
        assert_eq!((view.tree, view.trust.as_ref(), view.origin.as_ref()), (whole.name(), "unsigned", "other"));
        let names: Vec<String> = (0..2).map(|n| dir.path().join(n.to_string()).display().to_string()).collect();
        assert_eq!(view.parts.iter().map(|part| part.name.clone()).collect::<Vec<_>>(), names);
        for (part, manifest) in view.parts.iter().zip(&parts) {
            assert_eq!((part.tree, part.sha256), (manifest.name(), Digest::sha256(&manifest.encode())));
        }
        let list = format!("{}\n{}\n", view.parts[0].sha256, view.parts[1].sha256);
        assert_eq!(view.sha256, Digest::sha256(list.as_bytes()));
        // In another order it is another.
        let [low, high] = parts;
        let turned = load(&[high, low]).unwrap();
        assert_ne!(turned.view().tree, view.tree);
        assert_ne!(turned.view().sha256, view.sha256);
    }

    #[test]
    fn the_least_profile_is_compared_and_origins_of_several_are_named_so() {
        let source = |kind| Some(Source { kind, manifest: None, config: None, platform: None, layers: Vec::new() });
        let mut parts = [manifest(Profile::Full, &[], &["a"]), manifest(Profile::Content, &[], &["b"])];
        parts[0].header.source = source(SourceKind::Oci);
        parts[1].header.source = source(SourceKind::Dir);
        let node = Node { mtime: Some(1), ..parts[0].tree.node(parts[0].tree.iter().last().unwrap()) };
        parts[0].tree = Tree::from_sorted([(TreePath::new("a").unwrap(), node, Origin::default())]).unwrap();
        let baseline = load(&parts).unwrap();
        assert_eq!(*baseline.manifest(), manifest(Profile::Content, &[], &["a", "b"]));
        let view = baseline.view();
        assert_eq!(view.origin, "several");
        let of_parts: Vec<_> = view.parts.iter().map(|part| (part.origin.as_ref(), part.profile)).collect();
        assert_eq!(of_parts, [("image", Profile::Full), ("dir", Profile::Content)]);
    }

    #[test]
    fn origins_are_those_of_the_part_that_an_entry_is_from() {
        let dir = tempfile::tempdir().unwrap();
        let part = |names: &[&str], layer| {
            let entries = names.iter().map(|name| {
                let content = Some(Digest::blake3(name.as_bytes()));
                let node = Node::bare(Kind::File { size: Some(1), content });
                let sha256 = Some(Digest::sha256(name.as_bytes()));
                (TreePath::new(*name).unwrap(), node, Origin { sha256, layer: Some(layer), meta_layer: None })
            });
            let header = Header::new(Profile::Content, Algorithm::Blake3, Excludes::none());
            Manifest { header, tree: Tree::from_sorted(entries).unwrap() }
        };
        let paths = write(dir.path(), &[part(&["a", "b", "c"], 1), part(&["b", "d"], 2)]);
        let load = || Baseline::load_all(&paths, &Accept::Unsigned).unwrap();
        let (baseline, later) = (load(), load());
        let tree = &baseline.manifest().tree;
        let origins = |baseline: &Baseline| -> Vec<Option<u16>> {
            tree.iter().skip(1).map(|id| baseline.origin(id).layer).collect()
        };
        assert_eq!(origins(&baseline), [Some(1), Some(2), Some(1), Some(2)]);
        let d = tree.find(&TreePath::new("d").unwrap()).unwrap();
        assert_eq!(baseline.origin(d).sha256, Some(Digest::sha256(b"d")));
        assert!(tree.iter().all(|id| tree.origin(id) == Origin::default()), "held in memory");
        // What is no longer what was read says nothing; the other parts still do.
        fs::write(&paths[1], "").unwrap();
        assert_eq!(origins(&later), [Some(1), None, Some(1), None]);
    }

    #[test]
    fn what_cannot_be_laid_over_each_other_is_refused_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let mut other = manifest(Profile::Content, &[], &["c"]);
        other.header.content = Algorithm::Sha256;
        let parts = [manifest(Profile::Content, &[], &["a"]), manifest(Profile::Content, &[], &["b"]), other];
        let mut paths = write(dir.path(), &parts);
        std::os::unix::fs::symlink(&paths[0], dir.path().join("link")).unwrap();
        fs::write(dir.path().join("broken"), "{}\n").unwrap();
        paths.extend(["link", "broken", "absent"].map(|name| dir.path().join(name)));
        for (named, code, words) in [
            (vec![], 64, "no manifest was named"),
            (vec![0; MAX_PARTS + 1], 64, "17 manifests: at most 16 are laid over each other"),
            (vec![0, 1, 0], 64, "/0 are the same file"),
            (vec![0, 1, 3], 64, "/link are the same file"),
            (vec![0, 1, 2], 65, "/0 is sealed with blake3, and "),
            (vec![0, 4], 65, "/broken: no manifest, and not a bundle: "),
            (vec![0, 5], 66, "/absent: No such file"),
        ] {
            let named: Vec<PathBuf> = named.iter().map(|index| paths[*index].clone()).collect();
            let failure = Failure::from(Baseline::load_all(&named, &Accept::Unsigned).unwrap_err());
            let said = failure.to_string();
            assert!(said.contains(words) && !said.contains('\n'), "{said}");
            assert_eq!(failure.exit.code(), code, "{said}");
        }
        let terms = Terms { anchors: Arc::default(), now: Timestamp::EARLIEST, assigned: None };
        let signed = Baseline::load_all(&paths[..2], &Accept::Signed(terms)).unwrap_err();
        assert!(matches!(signed, BaselineError::NotSigned(path) if path == paths[0]));
    }

    #[test]
    fn a_name_is_short_printable_and_its_own() {
        assert_eq!(name(0, Path::new("/etc/driftlock/app.manifest")), "/etc/driftlock/app.manifest");
        assert_eq!(name(0, Path::new("a\n\u{202e}b")), "a\\x0a\\xe2\\x80\\xaeb");
        let long = format!("/{}/é.manifest", "é".repeat(300));
        let (first, second) = (name(0, Path::new(&long)), name(1, Path::new(&long)));
        assert!(first.len() <= MAX_PART_NAME && first.starts_with("1:…é") && first.ends_with("/é.manifest"), "{first}");
        assert_eq!(second, first.replacen('1', "2", 1));
    }
}
