//! Owns writing a tree as mtree(5), in the words that NetBSD's and FreeBSD's mtree and libarchive all read. Must not own
//! reading it, or where it is written.

use std::fmt::Write as _;

use driftlock_common::manifest::Manifest;
use driftlock_common::node::{Kind, Node};
use driftlock_common::tree::EntryId;

use super::check_file::{Refusal, Why, sha256};

/// The lines, each with its line feed: full paths in the order of the manifest, so that every directory stands before
/// what is in it; no `/set`, and no keyword that one of the readers lacks. What is not specified is not said.
///
/// NetBSD's mtree ends at a keyword that it does not know, so there is no BLAKE3 and there are no extended attributes.
pub fn lines(manifest: &Manifest) -> impl Iterator<Item = Result<Vec<u8>, Refusal>> + '_ {
    let head = std::iter::once(Ok(b"#mtree\n".to_vec()));
    head.chain(manifest.tree.iter().map(|id| line(manifest, id)))
}

fn line(manifest: &Manifest, id: EntryId) -> Result<Vec<u8>, Refusal> {
    let (path, node) = (manifest.tree.path(id), manifest.tree.node(id));
    if is_pattern(path.name()) {
        return Err(Refusal { path, why: Why::Pattern });
    }
    let mut line = String::from(".");
    if !path.is_root() {
        line.push('/');
        put_escaped(&mut line, path.as_bytes());
    }
    put_node(&mut line, &node);
    if let Kind::File { content: Some(_), .. } = node.kind {
        put(&mut line, "sha256", sha256(manifest, id, &path)?);
    }
    line.push('\n');
    Ok(line.into_bytes())
}

/// NetBSD's mtree undoes escapes first and then looks for wildcards. An entry for `*` would stand for whatever else is in
/// its directory, and hide what was added there. A bracket that is not closed is itself.
fn is_pattern(name: &[u8]) -> bool {
    let open = name.iter().position(|byte| *byte == b'[');
    let closed = open.is_some_and(|open| name[open..].contains(&b']'));
    closed || name.iter().any(|byte| matches!(byte, b'*' | b'?'))
}

fn put_node(line: &mut String, node: &Node) {
    let word = match node.kind {
        Kind::File { .. } => "file",
        Kind::Directory => "dir",
        Kind::Symlink { .. } => "link",
        Kind::Char(_) => "char",
        Kind::Block(_) => "block",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
    };
    put(line, "type", word);
    if let Some(mode) = node.mode {
        put(line, "mode", format_args!("{mode:04o}"));
    }
    if let Some(uid) = node.uid {
        put(line, "uid", uid);
    }
    if let Some(gid) = node.gid {
        put(line, "gid", gid);
    }
    if let Some(mtime) = node.mtime {
        put(line, "time", format_args!("{mtime}.000000000"));
    }
    match &node.kind {
        Kind::File { size: Some(size), .. } => put(line, "size", size),
        Kind::Symlink { target } => {
            line.push_str(" link=");
            put_escaped(line, target);
        }
        Kind::Char(Some(device)) | Kind::Block(Some(device)) => {
            put(line, "device", format_args!("native,{},{}", device.major, device.minor));
        }
        Kind::File { size: None, .. }
        | Kind::Directory
        | Kind::Char(None)
        | Kind::Block(None)
        | Kind::Fifo
        | Kind::Socket => {}
    }
}

fn put(line: &mut String, keyword: &str, value: impl std::fmt::Display) {
    // Writing to a string cannot fail.
    let _infallible = write!(line, " {keyword}={value}");
}

/// In octal all that a reader could take for something else: spaces, comments, escapes, wildcards, other bytes than
/// ASCII.
fn put_escaped(line: &mut String, bytes: &[u8]) {
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"/._-+,:@%".contains(byte) {
            line.push(char::from(*byte));
        } else {
            let _infallible = write!(line, "\\{byte:03o}");
        }
    }
}

#[cfg(test)]
mod tests {
    use driftlock_common::digest::{Algorithm, Digest};
    use driftlock_common::manifest::Header;
    use driftlock_common::node::{Device, Xattrs};
    use driftlock_common::path::TreePath;
    use driftlock_common::pattern::Excludes;
    use driftlock_common::profile::Profile;
    use driftlock_common::tree::{Origin, Tree};

    use super::*;

    fn written(content: Algorithm, entries: Vec<(&[u8], Node, Origin)>) -> Result<String, Refusal> {
        let tree = Tree::from_sorted(
            entries.into_iter().map(|(path, node, origin)| (TreePath::new(path).unwrap(), node, origin)),
        );
        let manifest = Manifest { header: Header::new(Profile::Full, content, Excludes::none()), tree: tree.unwrap() };
        let lines: Vec<Vec<u8>> = lines(&manifest).collect::<Result<_, _>>()?;
        Ok(String::from_utf8(lines.concat()).unwrap())
    }

    fn file(content: Option<Digest>) -> Node {
        Node::bare(Kind::File { size: content.map(|_| 3), content })
    }

    #[test]
    fn every_type_and_attribute_and_nothing_that_is_unspecified() {
        let (blake3, sha256) = (Digest::blake3(b"abc"), Digest::sha256(b"abc"));
        let target = b"a b\\\n".as_slice().into();
        let entries = vec![
            (b"".as_slice(), Node { mode: Some(0o755), ..Node::implicit_directory() }, Origin::default()),
            (b"[#=\xff", file(None), Origin::default()),
            (
                b"a",
                Node {
                    mode: Some(0o4755),
                    uid: Some(1),
                    gid: Some(2),
                    mtime: Some(-1),
                    xattrs: Some(Xattrs::none()),
                    ..file(Some(blake3))
                },
                Origin { sha256: Some(sha256), ..Origin::default() },
            ),
            (b"d", Node::bare(Kind::Block(Some(Device { major: 259, minor: 70_000 }))), Origin::default()),
            (b"l", Node::bare(Kind::Symlink { target }), Origin::default()),
            (b"p", Node::bare(Kind::Fifo), Origin::default()),
            (b"s", Node::bare(Kind::Socket), Origin::default()),
            (b"z", Node::bare(Kind::Char(None)), Origin::default()),
        ];
        let text = written(Algorithm::Blake3, entries).unwrap();
        assert_eq!(
            text,
            "#mtree\n\
             . type=dir mode=0755\n\
             ./\\133\\043\\075\\377 type=file\n\
             ./a type=file mode=4755 uid=1 gid=2 time=-1.000000000 size=3 \
             sha256=ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n\
             ./d type=block device=native,259,70000\n\
             ./l type=link link=a\\040b\\134\\012\n\
             ./p type=fifo\n\
             ./s type=socket\n\
             ./z type=char\n"
        );
    }

    #[test]
    fn a_name_that_mtree_takes_for_a_pattern_is_refused() {
        for (name, taken) in [("[", true), ("]a[b", true), ("[slug].js", false), ("*", false), ("a?", false)] {
            let written = written(Algorithm::Sha256, vec![(name.as_bytes(), file(None), Origin::default())]);
            let refused = Refusal { path: TreePath::new(name).unwrap(), why: Why::Pattern };
            assert_eq!(written.err(), (!taken).then_some(refused), "{name}");
        }
    }

    #[test]
    fn a_file_without_its_sha256_is_refused_by_name() {
        let only = || vec![(b"a".as_slice(), file(Some(Digest::blake3(b"abc"))), Origin::default())];
        let refusal = written(Algorithm::Blake3, only()).unwrap_err();
        assert_eq!(refusal.to_string(), "a: it was sealed without SHA-256: seal again without --no-sha256");
        assert!(written(Algorithm::Sha256, only()).is_ok());
    }
}
