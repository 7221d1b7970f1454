//! What mtree files mean, line by line: expectations are written by hand from what the programs write.

use driftlock_common::digest::Digest;
use driftlock_common::node::Kind;
use driftlock_common::path::Escaped;
use driftlock_common::pattern::Excludes;
use driftlock_common::profile::Profile;

use super::*;

fn terms(profile: Profile) -> Terms {
    Terms {
        profile,
        excludes: Excludes::none(),
        exclude_sets: Vec::new(),
        platform: "linux/amd64".into(),
        sha256: true,
        strict: false,
        cache: None,
    }
}

fn described(text: &[u8]) -> Result<Described, Problem> {
    read(text, &terms(Profile::Full))
}

fn refused(text: &[u8]) -> String {
    match described(text) {
        Ok(described) => panic!("{} was taken: {described:?}", Escaped(text)),
        Err(problem) => problem.to_string(),
    }
}

/// Every entry as `path type mode uid gid time size content-or-target-or-device`, `?` for what is unspecified.
fn list(text: &str) -> Vec<String> {
    let described = described(text.as_bytes()).unwrap_or_else(|problem| panic!("{text}: {problem}"));
    let tree = described.tree;
    let shown = |id| {
        fn or<T: ToString>(value: Option<T>) -> String {
            value.map_or_else(|| "?".to_owned(), |value| value.to_string())
        }
        let node: Node = tree.node(id);
        let kind = match &node.kind {
            Kind::File { size, content } => {
                format!("{} {}", or(*size), or(content.map(|d| d.to_hex()[..4].to_owned())))
            }
            Kind::Symlink { target } => Escaped(target).to_string(),
            Kind::Char(device) | Kind::Block(device) => or(device.map(|d| format!("{},{}", d.major, d.minor))),
            Kind::Directory | Kind::Fifo | Kind::Socket => "-".to_owned(),
        };
        let mode = or(node.mode.map(|mode| format!("{mode:04o}")));
        let (uid, gid, time) = (or(node.uid), or(node.gid), or(node.mtime));
        let letter = char::from(node.file_type().byte());
        format!("{} {letter} {mode} {uid} {gid} {time} {kind}", tree.path(id).escaped())
    };
    tree.iter().map(shown).collect()
}

fn notes(text: &str) -> Vec<String> {
    let described = described(text.as_bytes()).unwrap_or_else(|problem| panic!("{text}: {problem}"));
    described.notes.listed().iter().map(ToString::to_string).collect()
}

const SHA256: &str = "98ea6e4f216f2fb4b69fff9b3a44842c38686ca685f3f55dc48c5d3fb1107be4";

#[test]
fn the_nested_form_as_netbsd_writes_it() {
    let text = format!(
        "#\t   user: (null)\n#\t   date: Sun Nov 29 23:38:04 2026\n\n# .\n\
         /set type=file uid=0 gid=0 mode=0644 nlink=1 flags=none\n\
         .               type=dir mode=0755 nlink=4 time=1795995484.851748483\n    \
         hard        mode=04755 nlink=2 size=3 time=1795995484.827748482 \\\n                \
         sha256={SHA256}\n    \
         link        type=link mode=0777 time=-1.500000000 link=d/x\\sy\n    \
         null        type=char device=0x103 time=1\n\n\
         # ./d \x1b[31m\nd               type=dir mode=0755\n    \
         \\^[[31m     size=1 sha256={SHA256}\n    \
         caf\\M-i     size=3 md5=x sha256={SHA256}\n\n\
         # ./d/e\ne               type=dir mode=0700\n# ./d/e\n..\n\n# ./d\n..\n\
         z               type=fifo\n"
    );
    assert_eq!(
        list(&text),
        [
            " d 0755 0 0 ? -",
            "d d 0755 0 0 ? -",
            "d/\\x1b[31m f 0644 0 0 ? 1 98ea",
            "d/caf\\xe9 f 0644 0 0 ? 3 98ea",
            "d/e d 0700 0 0 ? -",
            "hard f 4755 0 0 1795995484 3 98ea",
            "link l ? 0 0 -1 d/x y",
            "null c 0644 0 0 1 1,3",
            "z p 0644 0 0 ? -",
        ]
    );
    assert_eq!(notes(&text), ["pattern-name: d/\\x1b[31m"]);
}

#[test]
fn the_form_with_paths_as_bsdtar_writes_it_in_any_order() {
    let text = format!(
        "#mtree\n\
         ./usr/bin/x time=12.5 mode=755 gid=0 uid=0 type=file size=3 sha256digest={SHA256}\n\
         . gname=root uname=root mode=755 gid=0 uid=0 inode=10 resdevice=native,254,0 type=dir\n\
         ./usr/a\\040\\075\\134 gid=5 type=link link=q\\012\\043\\134\n\
         ./dev/blk type=block device=native,259,70000\n\
         ./dev/old type=char device=freebsd,1,3\n\
         ./usr type=dir mode=0700\n"
    );
    assert_eq!(
        list(&text),
        [
            " d 0755 0 0 ? -",
            "dev d ? ? ? ? -",
            "dev/blk b ? ? ? ? 259,70000",
            "dev/old c ? ? ? ? ?",
            "usr d 0700 ? ? ? -",
            "usr/a =\\\\ l ? ? 5 ? q\\x0a#\\\\",
            "usr/bin d ? ? ? ? -",
            "usr/bin/x f 0755 0 0 12 3 98ea",
        ]
    );
    assert_eq!(notes(&text), ["attribute-dropped: dev/old", "implicit-parent: dev", "implicit-parent: usr/bin"]);
}

#[test]
fn what_set_states_holds_until_it_is_unset_or_set_otherwise() {
    let text =
        "/set type=file mode=0600 uid=1\na\n/set uid=2\nb mode=0640\nc\n/unset mode uid\nd\n/unset all\ne type=dir\n";
    assert_eq!(
        list(text),
        [
            " d ? ? ? ? -",
            "a f 0600 1 ? ? ? ?",
            "b f 0640 2 ? ? ? ?",
            "c f 0600 2 ? ? ? ?",
            "d f ? ? ? ? ? ?",
            "e d ? ? ? ? -",
        ]
    );
}

#[test]
fn every_escape_that_a_writer_writes_and_no_other() {
    for (word, bytes) in [
        (&br"a\sb\tc\nd\re\\f\#g"[..], &b"a b\tc\nd\re\\f#g"[..]),
        (br"\a\b\v\f\E", b"\x07\x08\x0b\x0c\x1b"),
        (br"\040\0401\7\377", b" \x201\x07\xff"),
        (br"\M-C\M-)\M-#\M-\x\M^A\M^?", b"\xc3\xa9\xa3\xdcx\x81\xff"),
        (br"\^A\^[\^_\^?\^@", b"\x01\x1b\x1f\x7f\x00"),
        ("é".as_bytes(), "é".as_bytes()),
    ] {
        let mut pattern = false;
        assert_eq!(unescape(word, &mut pattern).as_deref(), Ok(bytes), "{}", Escaped(word));
        assert!(!pattern);
    }
    for word in [&br"\"[..], br"\x41", br"\$", br"\777", br"\M", br"\Mx", br"\M-", br"\M^", br"\^", br"\^a", br"\M^a"] {
        assert!(matches!(unescape(word, &mut false), Err(LineFault::Escape(_))), "{}", Escaped(word));
    }
    assert_eq!(unescape(b"a#b", &mut false), Err(LineFault::Hash(b"a#b".to_vec())));
    // Every byte, as each of the three families writes it.
    for byte in 1..=255_u8 {
        let octal = format!("\\{byte:03o}");
        let (meta, low) = (byte >= 0x80, byte & 0x7f);
        let vis = match (meta, low) {
            (true, low) if low.is_ascii_control() => format!("\\M^{}", char::from(low ^ 0x40)),
            (true, low) => format!("\\M-{}", char::from(low)),
            (false, low) if low.is_ascii_control() => format!("\\^{}", char::from(low ^ 0x40)),
            (false, _) => octal.clone(),
        };
        for text in [octal, vis] {
            assert_eq!(unescape(text.as_bytes(), &mut false), Ok(vec![byte]), "{text}");
        }
    }
}

#[test]
fn what_is_not_to_be_compared_becomes_an_exclude_that_matches_nothing_else() {
    let text = format!(
        "./log type=dir ignore\n./log/a type=file\n./opt*{{1}} type=dir optional\n./opt*{{1}}/b type=file\n\
         ./optx1 type=file size=1 sha256={SHA256}\n./once type=file mode=0777 size=1 sha256={SHA256} nochange\n"
    );
    let described = described(text.as_bytes()).unwrap();
    assert_eq!(described.excludes.iter().collect::<Vec<_>>(), ["log/**", "opt\\*\\{1\\}"]);
    assert_eq!(list(&text), [" d ? ? ? ? -", "log d ? ? ? ? -", "once f ? ? ? ? ? ?", "optx1 f ? ? ? ? 1 98ea"]);
    assert_eq!(described.notes.count(Code::NotCompared), 3);
    let root = read(&b". type=dir ignore optional\na type=file\n"[..], &terms(Profile::Full)).unwrap();
    assert_eq!((root.excludes.iter().collect::<Vec<_>>(), root.tree.len()), (vec!["**"], 0));
    // With those asked for.
    let asked = Terms { excludes: Excludes::new(["z"], []).unwrap(), ..terms(Profile::Full) };
    let both = read(&b"a type=file optional\nz type=file\n"[..], &asked).unwrap();
    assert_eq!((both.excludes.iter().collect::<Vec<_>>(), both.tree.len()), (vec!["a", "z"], 0));
}

#[test]
fn what_a_manifest_does_not_hold_is_noted_and_left_out() {
    for (line, noted) in [
        ("a type=file md5=x sha512=y", "content-unspecified: a"),
        ("a type=dir flags=schg", "attribute-dropped: a"),
        ("a type=dir uname=root", "attribute-dropped: a"),
        ("a type=dir uid=1 gname=root", "attribute-dropped: a"),
        ("a type=dir link=x", "attribute-dropped: a"),
        ("a type=fifo device=1", "attribute-dropped: a"),
        ("a type=char device=netbsd,1,2,3", "attribute-dropped: a"),
        ("a[b type=dir", "pattern-name: a[b"),
        ("a type=dir xattr.trusted.x=AA==", "xattr-dropped: a"),
    ] {
        assert_eq!(notes(line), [noted], "{line}");
    }
    for line in ["a type=dir flags=none uid=1 uname=x size=4096 nlink=2 tags=x cksum=1 contents=./b", ". type=dir"] {
        assert!(notes(line).is_empty(), "{line}");
    }
}

#[test]
fn extended_attributes_as_go_writes_them() {
    let line = format!(
        "a type=file sha256={SHA256} xattr.security.capability=AQAAAwAgAAAAAAAAAAAAAAAAAAAAAAAA xattr.user.n\\040=eA=="
    );
    for (profile, names, dropped) in [
        (Profile::Full, vec![&b"security.capability"[..], b"user.n "], 0),
        (Profile::Portable, vec![b"security.capability"], 1),
        (Profile::Content, vec![], 1),
    ] {
        let described = read(line.as_bytes(), &terms(profile)).unwrap();
        let id = described.tree.iter().last().unwrap();
        let xattrs = described.tree.node(id).xattrs;
        let found: Vec<Vec<u8>> = xattrs.iter().flat_map(|set| set.iter().map(|(name, _)| name.to_vec())).collect();
        assert_eq!(found, names, "{profile:?}");
        // In the one form that a manifest has.
        assert!(xattrs.iter().flat_map(|set| set.iter()).all(|(_, value)| value.len() < 24));
        assert_eq!(described.notes.count(Code::XattrDropped), dropped, "{profile:?}");
    }
}

#[test]
fn a_profile_holds_what_it_holds() {
    let line = format!("a type=file mode=0644 uid=1 time=5 size=3 sha256={SHA256}");
    for (profile, specified) in [(Profile::Content, [false, false]), (Profile::Portable, [true, false])] {
        let described = read(line.as_bytes(), &terms(profile)).unwrap();
        let node = described.tree.node(described.tree.iter().last().unwrap());
        assert_eq!([node.mode.is_some(), node.mtime.is_some()], specified);
        let content = Some(SHA256.parse::<Digest>().unwrap());
        assert_eq!(node.kind, Kind::File { size: Some(3), content });
    }
}

#[test]
fn what_would_be_believed_in_silence_is_refused_with_its_line() {
    let deep = "d type=dir\n".repeat(2049);
    let cases: &[(&str, &str)] = &[
        (
            "a type=file sha3=x",
            "line 1: the keyword sha3 is not known, so what it says would not be verified: leave it out",
        ),
        ("#\n\na type=file mode=u=rwx", "line 3: mode=u=rwx: only octal is read, up to 07777"),
        ("a type=file mode=010000", "line 1: mode=010000: only octal is read, up to 07777"),
        ("a type=file mode=+7", "line 1: mode=+7: only octal is read, up to 07777"),
        ("a type=file uid=-1", "line 1: uid=-1: not a decimal number up to 4294967294"),
        ("a type=file gid=4294967295", "line 1: gid=4294967295: not a decimal number up to 4294967294"),
        ("a type=file size=0x10", "line 1: size=0x10: not a decimal number of bytes"),
        ("a type=file sha256=12", "line 1: sha256=12: not 64 hexadecimal digits"),
        ("a type=file time=now", "line 1: time=now: not seconds since 1970, or SECONDS.NANOSECONDS"),
        ("a type=file time=1.", "line 1: time=1.: not seconds since 1970, or SECONDS.NANOSECONDS"),
        ("a type=door", "line 1: type=door: none of file, dir, link, char, block, fifo, socket"),
        (
            "a type=char device=plan9,1,2",
            "line 1: device=plan9,1,2: neither a number nor FORMAT,MAJOR,MINOR of a known format",
        ),
        ("a type=link link=\\000", "line 1: link=\\\\000: a target is not empty, without NUL, and at most 65536 bytes"),
        (
            "a type=link",
            "line 1: a symbolic link without link=: where it leads would not be verified; write it, or leave the entry out",
        ),
        (
            "a mode=0644",
            "line 1: no type: without one nothing can be verified; write type=file, or /set type=file above",
        ),
        ("a type=file mode", "line 1: mode has no value"),
        ("a type=file optional=1", "line 1: optional has a value, which it cannot have"),
        ("a type=file sha256=x sha256digest=y", "line 1: sha256=x: not 64 hexadecimal digits"),
        ("a type=file time=1 tar_time=2", "line 1: time stands twice on one line"),
        ("a type=file xattr.user.a=!", "line 1: xattr=!: not base64"),
        ("a type=dir\nb type=file\n..\n..\n..", "line 5: .. leads out of the tree"),
        ("..", "line 1: .. leads out of the tree"),
        ("a type=dir\n.. mode=0644", "line 2: .. stands alone on its line"),
        ("a type=dir\n. type=dir", "line 2: \".\" stands for the root, but another directory was not left by .."),
        (
            "./a/b type=file\nc type=file",
            "line 2: a relative name after paths with slashes: tools disagree on where it belongs; write ./PATH everywhere",
        ),
        (
            "./a/b type=dir\n..",
            "line 2: a relative name after paths with slashes: tools disagree on where it belongs; write ./PATH everywhere",
        ),
        ("/usr/bin type=dir", "line 1: /usr/bin: only /set and /unset begin with a slash; write paths as ./PATH"),
        ("./a/../b type=dir", "line 1: ./a/../b: a path has a component \".\" or \"..\""),
        ("./a/\\056\\056/b type=dir", "line 1: ./a/\\\\056\\\\056/b: a path has a component \".\" or \"..\""),
        ("\\056\\056 type=dir", "line 1: \\\\056\\\\056: a path has a component \".\" or \"..\""),
        ("a\\057b type=dir", "line 1: a\\\\057b: an escaped slash cannot be part of a name"),
        ("./a\\057b type=dir", "line 1: ./a\\\\057b: an escaped slash cannot be part of a name"),
        ("a\\000b type=dir", "line 1: a\\\\000b: a path holds a NUL byte"),
        ("a\\xb type=dir", "line 1: \\\\xb is not an escape that mtree files have: write \\ooo, in octal"),
        ("a#b type=dir", "line 1: a#b has a # inside, where tools disagree on whether a comment begins: write \\043"),
        ("./a type=file\n./a type=file", "line 2: a stands twice, first on line 1"),
        (". type=dir\n..\n. type=dir", "line 3:  stands twice, first on line 1"),
        ("./a/b type=file\n./a type=file", "line 1: a/b lies below something that is not a directory"),
        (". type=file", "the root is not a directory"),
        (
            "a\\M-i type=file optional",
            "line 1: a\\xe9 is optional or ignored, which becomes an exclude, but its name is not UTF-8 or has control characters: leave the entry out",
        ),
        (
            // As NetBSD's mtree, bsdtar and umoci write a directory of this name.
            "# ./x\ny type=file optional\nx\\ny\\stype=file\\soptional type=dir",
            "line 3: x\\x0ay type=file optional: writers of this style put the name into a comment as it is, so that what follows its line feed reads as lines: write the file with full paths (mtree -C, bsdtar --format=mtree)",
        ),
        ("a type=file \\", "line 1: ends in a backslash, but no line follows: the file is truncated"),
        ("a type=dir\r", "line 1: a control character stands in it: write it as \\ooo, in octal"),
        ("a\0 type=dir", "line 1: a control character stands in it: write it as \\ooo, in octal"),
        (
            "/unset colour",
            "line 1: the keyword colour is not known, so what it says would not be verified: leave it out",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(refused(text.as_bytes()), *message, "{text}");
    }
    let message = refused(deep.as_bytes());
    assert_eq!(message, "line 2049: d: a path is deeper than 2048 components");
    let optional = |n: usize| (0..n).map(|i| format!("./{i} type=file optional\n")).collect::<String>();
    assert!(described(optional(MAX_NOT_COMPARED).as_bytes()).is_ok());
    assert_eq!(refused(optional(MAX_NOT_COMPARED + 1).as_bytes()), "more than 4096 entries with optional or ignore");
}

#[test]
fn lines_have_a_limit_with_and_without_continuations() {
    let comment = |len: usize| format!("#{}\na type=dir\n", "x".repeat(len - 1));
    assert!(described(comment(line::MAX_LINE).as_bytes()).is_ok());
    assert_eq!(refused(comment(line::MAX_LINE + 1).as_bytes()), "line 1: longer than 1048576 bytes");
    let endless = format!("a type=dir {}", "\\\n".repeat(line::MAX_LINE + 1));
    assert_eq!(refused(endless.as_bytes()), "line 1: longer than 1048576 bytes");
    // The number is that of the line's beginning, and lines are counted through continuations and comments.
    assert_eq!(
        refused(b"a \\\n \\\n type=dir # x \\\nb\n"),
        "line 4: no type: without one nothing can be verified; write type=file, or /set type=file above"
    );
}
