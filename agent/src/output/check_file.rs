//! Owns check files, as `sha256sum` and `b3sum` write and check them, and why something cannot stand in one. Must not own
//! where they are written.

use driftlock_common::digest::{Algorithm, Digest};
use driftlock_common::manifest::Manifest;
use driftlock_common::node::Kind;
use driftlock_common::path::TreePath;
use driftlock_common::tree::EntryId;

/// Whose check file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sums {
    /// coreutils' `sha256sum --check`.
    Sha256,
    /// `b3sum --check`.
    Blake3,
}

/// Why a path cannot be exported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {why}", .path.escaped())]
pub struct Refusal {
    /// The path.
    pub path: TreePath,
    /// What is wrong with it.
    pub why: Why,
}

/// What a form lacks, or a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// A file of which nobody said what is in it.
    #[error(
        "nothing says what its content is, so a check file would not check it; export --to mtree can leave it open"
    )]
    NoContent,
    /// Sealed with `--no-sha256`.
    #[error("it was sealed without SHA-256: seal again without --no-sha256")]
    NoSha256,
    /// Out of an mtree file.
    #[error("only its SHA-256 is known: use --to sha256sum or --to mtree")]
    NoBlake3,
    /// A name that NetBSD's mtree cannot say, however it is escaped.
    #[error(
        "mtree takes the name for a pattern, which others match too: use --to sha256sum, or seal with an --exclude for it"
    )]
    Pattern,
    /// A name that `b3sum` cannot read.
    #[error("b3sum cannot check a name that is not UTF-8 or holds U+FFFD: use --to sha256sum or --to mtree")]
    Name,
}

/// The lines, each with its line feed: every regular file, in the order of the manifest, below `./`, so that no name is
/// taken for standard input.
pub fn lines(manifest: &Manifest, sums: Sums) -> impl Iterator<Item = Result<Vec<u8>, Refusal>> + '_ {
    manifest.tree.iter().filter_map(move |id| line(manifest, id, sums).transpose())
}

fn line(manifest: &Manifest, id: EntryId, sums: Sums) -> Result<Option<Vec<u8>>, Refusal> {
    let Kind::File { content, .. } = manifest.tree.node(id).kind else { return Ok(None) };
    let path = manifest.tree.path(id);
    let refuse = |why| Refusal { path: path.clone(), why };
    let content = content.ok_or_else(|| refuse(Why::NoContent))?;
    let digest = match sums {
        Sums::Sha256 => sha256(manifest, id, &path)?,
        Sums::Blake3 if manifest.header.content != Algorithm::Blake3 => return Err(refuse(Why::NoBlake3)),
        Sums::Blake3 => content,
    };
    let is_readable = |name: &str| !name.contains(char::REPLACEMENT_CHARACTER);
    if sums == Sums::Blake3 && !std::str::from_utf8(path.as_bytes()).is_ok_and(is_readable) {
        return Err(refuse(Why::Name));
    }
    let name = escaped(path.as_bytes(), sums);
    let mark: &[u8] = if name.len() > path.as_bytes().len() { b"\\" } else { b"" };
    Ok(Some([mark, digest.to_hex().as_bytes(), b"  ./", &name, b"\n"].concat()))
}

/// A name that holds one of these is escaped, and its line begins with a backslash.
fn escaped(name: &[u8], sums: Sums) -> Vec<u8> {
    let escape = |byte: &u8| match byte {
        b'\\' => b"\\\\".to_vec(),
        b'\n' => b"\\n".to_vec(),
        // b3sum knows no such escape, and needs none.
        b'\r' if sums == Sums::Sha256 => b"\\r".to_vec(),
        byte => vec![*byte],
    };
    name.iter().flat_map(escape).collect()
}

/// SHA-256 of a file that has a content.
///
/// # Errors
/// If only its BLAKE3 is known.
pub(super) fn sha256(manifest: &Manifest, id: EntryId, path: &TreePath) -> Result<Digest, Refusal> {
    let verified = match manifest.tree.node(id).kind {
        Kind::File { content, .. } if manifest.header.content == Algorithm::Sha256 => content,
        _ => None,
    };
    let beside = || manifest.tree.origin(id).sha256;
    verified.or_else(beside).ok_or_else(|| Refusal { path: path.clone(), why: Why::NoSha256 })
}

#[cfg(test)]
mod tests {
    use driftlock_common::manifest::Header;
    use driftlock_common::node::Node;
    use driftlock_common::pattern::Excludes;
    use driftlock_common::profile::Profile;
    use driftlock_common::tree::{Origin, Tree};

    use super::*;

    fn one(
        content: Algorithm,
        name: &[u8],
        digest: Option<Digest>,
        sha256: Option<Digest>,
        sums: Sums,
    ) -> Result<String, Why> {
        let node = Node::bare(Kind::File { size: None, content: digest });
        let origin = Origin { sha256, ..Origin::default() };
        let tree = Tree::from_sorted([(TreePath::new(name).unwrap(), node, origin)]).unwrap();
        let manifest = Manifest { header: Header::new(Profile::Content, content, Excludes::none()), tree };
        let lines: Vec<Vec<u8>> = lines(&manifest, sums).collect::<Result<_, _>>().map_err(|refusal| refusal.why)?;
        Ok(String::from_utf8_lossy(&lines.concat()).into_owned())
    }

    #[test]
    fn lines_as_the_programs_write_them_or_a_refusal() {
        let (blake3, sha256) = (Digest::blake3(b"x"), Digest::sha256(b"x"));
        let by_both = |name: &[u8], sums| one(Algorithm::Blake3, name, Some(blake3), Some(sha256), sums);
        assert_eq!(by_both(b"a b", Sums::Sha256), Ok(format!("{sha256}  ./a b\n")));
        assert_eq!(by_both(b"a b", Sums::Blake3), Ok(format!("{blake3}  ./a b\n")));
        assert_eq!(by_both(b"-", Sums::Sha256), Ok(format!("{sha256}  ./-\n")));
        assert_eq!(by_both(b"\\\n\r", Sums::Sha256), Ok(format!("\\{sha256}  ./\\\\\\n\\r\n")));
        assert_eq!(by_both(b"\\\n\r", Sums::Blake3), Ok(format!("\\{blake3}  ./\\\\\\n\r\n")));
        assert_eq!(by_both(b"\xff", Sums::Sha256), Ok(format!("{sha256}  ./\u{fffd}\n")));
        assert_eq!(by_both(b"\xff", Sums::Blake3), Err(Why::Name));
        assert_eq!(by_both("\u{fffd}".as_bytes(), Sums::Blake3), Err(Why::Name));
        for sums in [Sums::Sha256, Sums::Blake3] {
            assert_eq!(one(Algorithm::Blake3, b"a", None, None, sums), Err(Why::NoContent));
        }
        assert_eq!(one(Algorithm::Blake3, b"a", Some(blake3), None, Sums::Sha256), Err(Why::NoSha256));
        assert_eq!(one(Algorithm::Sha256, b"a", Some(sha256), None, Sums::Sha256), Ok(format!("{sha256}  ./a\n")));
        assert_eq!(one(Algorithm::Sha256, b"a", Some(sha256), None, Sums::Blake3), Err(Why::NoBlake3));
    }
}
