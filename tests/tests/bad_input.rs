//! Bad input, through the real binaries: each row ends with its exit code of the table and says on one line what is
//! wrong and where. Belongs here: what a person can hand to a command. Hostile bytes in every corner of a format are
//! tested beside its reader.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use driftlock_common::exit::TABLE;
use driftlock_tests::agent::AgentHome;
use driftlock_tests::binaries::workspace;
use driftlock_tests::image::{Layer, Layout, gzip};
use driftlock_tests::require::{run, trial, trial_with};
use driftlock_tests::sandbox::{Finished, Sandbox};
use driftlock_tests::tree::Tree;
use libtest_mimic::Trial;

fn main() -> ExitCode {
    let mut trials = vec![
        trial("help_shows_the_table_of_exit_codes", &[], help_shows_the_table),
        trial("the_readme_has_the_table_of_exit_codes", &[], the_readme_has_the_table),
        trial("a_seal_that_fails_leaves_no_manifest", &[], a_seal_that_fails_leaves_no_manifest),
        trial("an_empty_root_is_everything_removed", &[], an_empty_root),
        trial("an_unreadable_directory_is_a_gap", &[], an_unreadable_directory),
        trial("an_absolute_name_is_below_the_root", &[], an_absolute_name),
        trial("every_problem_of_a_configuration_has_its_line", &[], every_problem_has_its_line),
    ];
    trials.extend(MANIFESTS.iter().map(|row| trial_of("manifest", row.name, || a_bad_manifest(row))));
    trials.extend(IMAGES.iter().map(|row| trial_of("image", row.name, || a_bad_image(row))));
    trials.extend(COMMANDS.iter().map(|row| trial_of("command", row.name, || a_bad_command(row))));
    trials.extend(CONFIGURATIONS.iter().map(|row| trial_of("configuration", row.name, || a_bad_configuration(row))));
    run(trials)
}

fn trial_of(table: &str, name: &str, test: impl FnOnce() -> Result<()> + Send + 'static) -> Trial {
    trial_with(format!("{table}_{}", name.replace([' ', '-', '.', ','], "_")), &[], test)
}

/// The line on stderr of a command that ends with `code`: one, by the command's name, that holds every part of `says`.
fn one_line(finished: &Finished, code: i32, says: &[&str]) -> Result<()> {
    ensure!(finished.code == Some(code), "expected {code}\n{finished:?}");
    ensure!(finished.stdout.is_empty(), "an error is no result\n{finished:?}");
    let mut lines = finished.stderr.lines();
    let line = lines.next().with_context(|| format!("nothing was said\n{finished:?}"))?;
    ensure!(lines.next().is_none(), "one line\n{finished:?}");
    ensure!(line.starts_with("driftlock: ") || line.starts_with("driftlock-collector: "), "{line}");
    for part in says {
        ensure!(line.contains(part), "{part:?} is not said: {line}");
    }
    Ok(())
}

fn small_tree(sandbox: &Sandbox) -> Result<Tree> {
    let tree = sandbox.tree("tree")?;
    tree.file("etc/app.toml", "level = 1\n")?.file("etc/motd", "hello\n")?.symlink("etc/link", "motd")?;
    Ok(tree)
}

fn small_manifest(sandbox: &Sandbox, tree: &Tree) -> Result<PathBuf> {
    sandbox.seal(format!("dir:{}", tree.root().display()), "good.manifest")
}

// Manifests.

struct BadManifest {
    name: &'static str,
    damage: fn(&mut Vec<String>),
    says: &'static [&'static str],
}

/// The lines of a good manifest, damaged; a line without its line feed at the end is a truncated one.
const MANIFESTS: &[BadManifest] = &[
    BadManifest { name: "empty", damage: |lines| lines.clear(), says: &["not a driftlock manifest"] },
    BadManifest { name: "something else", damage: |lines| lines[0] = "root:x:0:0::/:\n".into(), says: &["line 1"] },
    BadManifest {
        name: "truncated within a line",
        damage: |lines| {
            lines.truncate(3);
            lines[2].truncate(9);
        },
        says: &["line 3", "truncated"],
    },
    BadManifest {
        name: "truncated between lines",
        damage: |lines| lines.truncate(4),
        says: &["line 4", "truncated", "no trailer"],
    },
    BadManifest {
        name: "a bit of a digest flipped",
        damage: |lines| {
            let line = line_with(lines, "etc/motd");
            let at = line.find("\"b3\":\"").expect("a digest") + 6;
            let digit = if line.as_bytes()[at] == b'0' { "1" } else { "0" };
            line.replace_range(at..=at, digit);
        },
        says: &["the trailer states tree", "the lines have"],
    },
    BadManifest {
        name: "a bit of a size flipped",
        damage: |lines| replace(lines, "etc/motd", "\"s\":6", "\"s\":7"),
        says: &["bytes", "the trailer states"],
    },
    BadManifest {
        name: "a bit of a mode flipped",
        damage: |lines| replace(lines, "etc/motd", "\"m\":\"0644\"", "\"m\":\"4644\""),
        says: &["the trailer states tree"],
    },
    BadManifest {
        name: "a bit of a name flipped",
        damage: |lines| replace(lines, "etc/motd", "etc/motd", "etc/nope"),
        says: &["the trailer states tree"],
    },
    BadManifest {
        name: "unsorted",
        damage: |lines| {
            let at = lines.iter().position(|line| line.contains("etc/motd")).expect("a line");
            lines.swap(at, at - 1);
        },
        says: &["etc/link", "not in order"],
    },
    BadManifest {
        name: "a path twice",
        damage: |lines| {
            let line = line_with(lines, "etc/motd").clone();
            let at = lines.iter().position(|other| *other == line).expect("a line");
            lines.insert(at, line);
        },
        says: &["etc/motd", "twice"],
    },
    BadManifest {
        name: "a key twice",
        damage: |lines| replace(lines, "etc/motd", "\"u\":", "\"u\":0,\"u\":"),
        says: &["duplicate"],
    },
    BadManifest {
        name: "an oversized line",
        damage: |lines| replace(lines, "etc/motd", "{", &format!("{{\"future\":\"{}\",", "x".repeat(1 << 20))),
        says: &["longer than 1 MiB"],
    },
    BadManifest {
        name: "an oversized name",
        damage: |lines| replace(lines, "etc/motd", "motd", &"m".repeat(4097)),
        says: &["longer than the format allows"],
    },
    BadManifest {
        name: "a path that leads out",
        damage: |lines| replace(lines, "etc/motd", "etc/motd", "etc/../../motd"),
        says: &["\"..\""],
    },
    BadManifest {
        name: "a child without its directory",
        damage: |lines| lines.retain(|line| !line.contains("\"p\":\"etc\"")),
        says: &["no directory entry above it"],
    },
    BadManifest {
        name: "a newer version",
        damage: |lines| lines[0] = lines[0].replace("{\"driftlock\":1,", "{\"driftlock\":2,"),
        says: &["line 1", "version 2"],
    },
    BadManifest {
        name: "a critical key that is not known",
        damage: |lines| replace(lines, "etc/motd", "{", "{\"!verity\":1,"),
        says: &["!verity", "newer driftlock"],
    },
    BadManifest {
        name: "something after the trailer",
        damage: |lines| lines.push("{}\n".into()),
        says: &["after the trailer"],
    },
    BadManifest {
        name: "Windows line ends",
        damage: |lines| lines.iter_mut().for_each(|line| *line = line.replace('\n', "\r\n")),
        says: &["line 1", "carriage return"],
    },
];

fn line_with<'a>(lines: &'a mut [String], part: &str) -> &'a mut String {
    lines.iter_mut().find(|line| line.contains(part)).expect("the line is there")
}

fn replace(lines: &mut [String], part: &str, from: &str, to: &str) {
    let line = line_with(lines, part);
    assert!(line.contains(from), "{line}");
    *line = line.replacen(from, to, 1);
}

fn a_bad_manifest(row: &BadManifest) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let tree = small_tree(&sandbox)?;
    let good = fs::read_to_string(small_manifest(&sandbox, &tree)?)?;
    let mut lines: Vec<String> = good.split_inclusive('\n').map(str::to_owned).collect();
    (row.damage)(&mut lines);
    let bad = sandbox.write("bad.manifest", lines.concat())?;
    ensure!(lines.concat() != good, "nothing was damaged");

    let scan = ["scan".as_ref(), "--manifest".as_ref(), bad.as_os_str(), tree.root().as_os_str()];
    let says = [&["bad.manifest"], row.says].concat();
    one_line(&sandbox.driftlock(scan).run()?, 65, &says)?;
    one_line(&sandbox.driftlock(["show".as_ref(), bad.as_os_str()]).run()?, 65, &says)?;
    one_line(&sandbox.driftlock(["diff".as_ref(), bad.as_os_str(), bad.as_os_str()]).run()?, 65, &says)
}

// Images.

struct BadImage {
    name: &'static str,
    /// Makes it in the sandbox; the source for `seal`.
    make: fn(&Sandbox) -> Result<String>,
    code: i32,
    says: &'static [&'static str],
}

const IMAGES: &[BadImage] = &[
    BadImage {
        name: "wrong digest",
        make: |sandbox| {
            let layout = good_layout(sandbox)?;
            let blob = &layout.layers()[0].path;
            let mut bytes = fs::read(blob)?;
            // The time in the head of a gzip stream: it still unpacks to the same layer.
            bytes[4] ^= 1;
            fs::write(blob, bytes)?;
            Ok(layout.source())
        },
        code: 65,
        says: &["blob sha256:", "wrong digest"],
    },
    BadImage {
        name: "wrong size",
        make: |sandbox| {
            let layout = good_layout(sandbox)?;
            let blob = &layout.layers()[0].path;
            fs::write(blob, [fs::read(blob)?, vec![0]].concat())?;
            Ok(layout.source())
        },
        code: 65,
        says: &["blob sha256:", "wrong size"],
    },
    BadImage {
        name: "missing blob",
        make: |sandbox| {
            let layout = good_layout(sandbox)?;
            fs::remove_file(&layout.layers()[0].path)?;
            Ok(layout.source())
        },
        code: 65,
        says: &["blob sha256:", "missing"],
    },
    BadImage {
        name: "missing blob of an archive",
        make: |sandbox| {
            let layout = good_layout(sandbox)?;
            fs::remove_file(&layout.layers()[0].path)?;
            let archive = sandbox.path("image.tar");
            layout.archive(&archive)?;
            Ok(format!("archive:{}", archive.display()))
        },
        code: 65,
        says: &["image.tar", "missing"],
    },
    BadImage {
        name: "wrong diff_id",
        make: |sandbox| {
            let other = gzip(&Layer::new().file("etc/motd", b"bye\n").finish())?;
            let layer = Layer::new().file("etc/motd", b"hello\n").finish();
            Ok(Layout::create(sandbox.path("layout"))?.layer_as(&layer, &other)?.finish()?.source())
        },
        code: 65,
        says: &["wrong diff_id"],
    },
    BadImage {
        name: "truncated gzip",
        make: |sandbox| {
            let layer = Layer::new().file("etc/motd", [7; 5000]).finish();
            let packed = gzip(&layer)?;
            let layout = Layout::create(sandbox.path("layout"))?.layer_as(&layer, &packed[..packed.len() / 2])?;
            Ok(layout.finish()?.source())
        },
        code: 65,
        says: &["gzip", "truncated"],
    },
    BadImage {
        name: "truncated tar",
        make: |sandbox| {
            let layer = Layer::new().file("etc/motd", [7; 5000]).finish();
            let layer = &layer[..2000];
            Ok(Layout::create(sandbox.path("layout"))?.layer(layer)?.finish()?.source())
        },
        code: 65,
        says: &["tar archive is truncated"],
    },
    BadImage {
        name: "a name that leads out",
        make: |sandbox| {
            let layer = Layer::new().dir("etc").file("etc/../../evil", b"x").finish();
            Ok(Layout::create(sandbox.path("layout"))?.layer(&layer)?.finish()?.source())
        },
        code: 65,
        says: &["etc/../../evil", "\"..\""],
    },
    BadImage {
        name: "a layer that is no tar",
        make: |sandbox| Ok(Layout::create(sandbox.path("layout"))?.layer(&[b'x'; 4096])?.finish()?.source()),
        code: 65,
        says: &["tar header"],
    },
    BadImage {
        name: "an index that is no JSON",
        make: |sandbox| {
            let layout = good_layout(sandbox)?;
            fs::write(layout.dir().join("index.json"), "{")?;
            Ok(layout.source())
        },
        code: 65,
        says: &["index.json", "JSON"],
    },
    BadImage {
        name: "no index",
        make: |sandbox| {
            let layout = good_layout(sandbox)?;
            fs::remove_file(layout.dir().join("index.json"))?;
            Ok(layout.source())
        },
        code: 66,
        says: &["index.json", "No such file"],
    },
    BadImage {
        name: "a truncated archive",
        make: |sandbox| {
            let archive = good_archive(sandbox)?;
            let bytes = fs::read(&archive)?;
            fs::write(&archive, &bytes[..bytes.len() / 2])?;
            Ok(format!("archive:{}", archive.display()))
        },
        code: 65,
        says: &["image.tar", "truncated"],
    },
    BadImage {
        name: "an archive that is none",
        make: |sandbox| {
            let file = sandbox.write("image.tar", "not an archive\n".repeat(200))?;
            Ok(format!("archive:{}", file.display()))
        },
        code: 65,
        says: &["image.tar"],
    },
    BadImage {
        name: "a tar with a name that leads out",
        make: |sandbox| {
            let file = sandbox.write("release.tar", Layer::new().file("../evil", b"x").finish())?;
            Ok(format!("tar:{}", file.display()))
        },
        code: 65,
        says: &["release.tar", "../evil", "\"..\""],
    },
    BadImage {
        name: "a truncated tar.gz",
        make: |sandbox| {
            let packed = gzip(&Layer::new().file("etc/motd", [7; 5000]).finish())?;
            let file = sandbox.write("release.tar.gz", &packed[..packed.len() / 2])?;
            Ok(format!("tar:{}", file.display()))
        },
        code: 65,
        says: &["release.tar.gz", "truncated"],
    },
    BadImage {
        name: "an archive that is not there",
        make: |sandbox| Ok(format!("archive:{}", sandbox.path("image.tar").display())),
        code: 66,
        says: &["image.tar"],
    },
    BadImage {
        name: "a layout that is not there",
        make: |sandbox| Ok(format!("oci:{}", sandbox.path("layout").display())),
        code: 66,
        says: &["layout"],
    },
    BadImage {
        name: "an image that is not in the layout",
        make: |sandbox| Ok(format!("{}@sha256:{}", good_layout(sandbox)?.source(), "0".repeat(64))),
        code: 66,
        says: &["layout", "0000000"],
    },
    BadImage {
        name: "a directory that is not there",
        make: |sandbox| Ok(format!("dir:{}", sandbox.path("tree").display())),
        code: 66,
        says: &["tree"],
    },
    BadImage {
        name: "an empty standard input",
        make: |_| Ok("archive:-".to_owned()),
        code: 65,
        says: &["standard input"],
    },
];

fn good_layout(sandbox: &Sandbox) -> Result<Layout> {
    let layer = Layer::new().dir("etc").file("etc/motd", b"hello\n").finish();
    Layout::create(sandbox.path("layout"))?.layer(&layer)?.finish()
}

fn good_archive(sandbox: &Sandbox) -> Result<PathBuf> {
    let archive = sandbox.path("image.tar");
    good_layout(sandbox)?.archive(&archive)?;
    Ok(archive)
}

fn a_bad_image(row: &BadImage) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let source = (row.make)(&sandbox)?;
    let output = sandbox.path("image.manifest");
    let finished = sandbox.driftlock(["seal".as_ref(), source.as_ref(), "-o".as_ref(), output.as_os_str()]).run()?;
    one_line(&finished, row.code, row.says)?;
    ensure!(!output.exists(), "a manifest of a source that was refused");
    Ok(())
}

fn an_absolute_name() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let layer = Layer::new().file("/etc/motd", b"hello\n").finish();
    let source = Layout::create(sandbox.path("layout"))?.layer(&layer)?.finish()?.source();
    let manifest = sandbox.path("image.manifest");
    let seal = ["seal".as_ref(), source.as_ref(), "-o".as_ref(), manifest.as_os_str()];
    // As every engine unpacks it, all alike; that it is odd can be seen.
    let options = ["-v".as_ref(), "--strict".as_ref()];
    let finished = sandbox.driftlock(seal.into_iter().chain(options)).run()?.expect(0)?;
    ensure!(finished.stderr.contains("absolute-name"), "{finished:?}");
    ensure!(fs::read_to_string(&manifest)?.contains("\"p\":\"etc/motd\""), "below the root");
    Ok(())
}

fn a_seal_that_fails_leaves_no_manifest() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let archive = good_archive(&sandbox)?;
    let manifest = sandbox.seal(format!("archive:{}", archive.display()), "image.manifest")?;
    let before = fs::read(&manifest)?;
    let bytes = fs::read(&archive)?;
    fs::write(&archive, &bytes[..bytes.len() / 2])?;
    let source = format!("archive:{}", archive.display());
    let seal = ["seal".as_ref(), source.as_ref(), "-o".as_ref(), manifest.as_os_str()];
    sandbox.driftlock(seal).run()?.expect(65)?;
    ensure!(fs::read(&manifest)? == before, "the old manifest stays");
    let left: Vec<_> = fs::read_dir(sandbox.path(""))?.flatten().map(|entry| entry.file_name()).collect();
    ensure!(left.len() == 4, "only tmp, layout, image.tar and image.manifest: {left:?}");
    Ok(())
}

// Commands and roots.

struct BadCommand {
    name: &'static str,
    /// `{}` is the sandbox, which has `good.manifest`, `tree`, `file`, `locked` and `locked/inside`.
    arguments: &'static [&'static str],
    unprivileged: bool,
    code: i32,
    says: &'static [&'static str],
}

const SCAN: BadCommand = BadCommand { name: "", arguments: &[], unprivileged: false, code: 66, says: &[] };

const COMMANDS: &[BadCommand] = &[
    BadCommand {
        name: "a key over one that is there",
        arguments: &["keygen", "-o", "{}/k"],
        code: 73,
        says: &["/k.key: there is such a file already, and a key is never written over it"],
        ..SCAN
    },
    BadCommand {
        name: "a key in a directory that is not there",
        arguments: &["keygen", "-o", "{}/nowhere/k"],
        code: 73,
        says: &["/nowhere/k.key", "No such file"],
        ..SCAN
    },
    BadCommand {
        name: "a manifest signed by a key that is not there",
        arguments: &["sign", "{}/good.manifest", "--key", "{}/no.key", "-o", "{}/b"],
        says: &["/no.key", "No such file"],
        ..SCAN
    },
    BadCommand {
        name: "a manifest signed by no key",
        arguments: &["sign", "{}/good.manifest", "--key", "{}/file", "-o", "{}/b"],
        code: 65,
        says: &["/file: not a key: a PEM file begins with -----BEGIN"],
        ..SCAN
    },
    BadCommand {
        name: "a manifest signed by a public key",
        arguments: &["sign", "{}/good.manifest", "--key", "{}/k.pub", "-o", "{}/b"],
        code: 65,
        says: &["/k.pub: a public key where a private one is needed"],
        ..SCAN
    },
    BadCommand {
        name: "a manifest signed without a bundle named",
        arguments: &["sign", "{}/good.manifest", "--key", "{}/k.key"],
        code: 64,
        says: &["/good.manifest is a manifest", "-o BUNDLE"],
        ..SCAN
    },
    BadCommand {
        name: "something signed that is nothing",
        arguments: &["sign", "{}/file", "--key", "{}/k.key", "-o", "{}/b"],
        code: 65,
        says: &["/file: ", "line 1"],
        ..SCAN
    },
    BadCommand {
        name: "a bundle verified by no key",
        arguments: &["verify", "{}/good.bundle", "--key", "{}/file"],
        code: 65,
        says: &["/file: not a key"],
        ..SCAN
    },
    BadCommand {
        name: "a manifest verified",
        arguments: &["verify", "{}/good.manifest", "--key", "{}/k.pub"],
        code: 77,
        says: &["/good.manifest: refused, because nobody signed it"],
        ..SCAN
    },
    BadCommand {
        name: "a bundle that is not there verified",
        arguments: &["verify", "{}/no.bundle", "--key", "{}/k.pub"],
        says: &["/no.bundle", "No such file"],
        ..SCAN
    },
    BadCommand {
        name: "a bundle verified by an impossible number of keys",
        arguments: &["verify", "{}/good.bundle", "--key", "{}/k.pub", "--threshold", "2"],
        code: 64,
        says: &["--threshold 2: only 1 different key(s) were given"],
        ..SCAN
    },
    BadCommand {
        name: "a bundle verified by a trust file that is a key",
        arguments: &["verify", "{}/good.bundle", "--trust", "{}/k.pub"],
        code: 65,
        says: &["/k.pub: a key, not a trust file"],
        ..SCAN
    },
    BadCommand {
        name: "a bundle attached to a directory",
        arguments: &["attach", "{}/good.bundle", "dir:{}/tree"],
        code: 64,
        says: &["not an image in a registry: write registry:HOST/REPO@sha256:DIGEST"],
        ..SCAN
    },
    BadCommand {
        name: "a bundle that is not there attached",
        arguments: &[
            "attach",
            "{}/no.bundle",
            "registry:127.0.0.1:1/app@sha256:0000000000000000000000000000000000000000000000000000000000000000",
        ],
        says: &["/no.bundle", "No such file"],
        ..SCAN
    },
    BadCommand {
        name: "a scan of an image nobody serves",
        arguments: &[
            "scan",
            "--key",
            "{}/k.pub",
            "--image",
            "registry:127.0.0.1:1/app@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            "{}/tree",
        ],
        code: 69,
        says: &["127.0.0.1:1 cannot be reached"],
        ..SCAN
    },
    BadCommand {
        name: "a manifest assigned",
        arguments: &[
            "assign",
            "{}/good.manifest",
            "--target",
            "app",
            "--serial",
            "1",
            "--key",
            "{}/k.key",
            "-o",
            "{}/a",
        ],
        code: 64,
        says: &["/good.manifest: a manifest, which no agent with an assignment takes"],
        ..SCAN
    },
    BadCommand {
        name: "a root that does not exist",
        arguments: &["scan", "--manifest", "{}/good.manifest", "{}/nowhere"],
        says: &["/nowhere", "No such file"],
        ..SCAN
    },
    BadCommand {
        name: "a root that is a file",
        arguments: &["scan", "--manifest", "{}/good.manifest", "{}/file"],
        says: &["/file", "not a directory"],
        ..SCAN
    },
    BadCommand {
        name: "a root that is unreadable",
        arguments: &["scan", "--manifest", "{}/good.manifest", "{}/locked"],
        unprivileged: true,
        code: 77,
        says: &["/locked", "Permission denied"],
    },
    BadCommand {
        name: "a root below an unreadable directory",
        arguments: &["scan", "--manifest", "{}/good.manifest", "{}/locked/inside"],
        unprivileged: true,
        code: 77,
        says: &["/locked/inside", "Permission denied"],
    },
    BadCommand {
        name: "an unreadable directory to seal",
        arguments: &["seal", "dir:{}/locked", "-o", "-"],
        unprivileged: true,
        code: 77,
        says: &["/locked", "Permission denied"],
    },
    BadCommand {
        name: "a manifest that does not exist",
        arguments: &["scan", "--manifest", "{}/no.manifest", "{}/tree"],
        says: &["/no.manifest", "No such file"],
        ..SCAN
    },
    BadCommand {
        name: "a manifest that is a directory",
        arguments: &["scan", "--manifest", "{}/tree", "{}/tree"],
        says: &["/tree"],
        ..SCAN
    },
    BadCommand {
        name: "a manifest that is unreadable",
        arguments: &["scan", "--manifest", "{}/locked/inside", "{}/tree"],
        unprivileged: true,
        code: 77,
        says: &["/locked/inside", "Permission denied"],
    },
    BadCommand {
        name: "an output that cannot be created",
        arguments: &["seal", "dir:{}/tree", "-o", "{}/nowhere/out"],
        code: 73,
        says: &["/nowhere/out"],
        ..SCAN
    },
    BadCommand {
        name: "a pattern that is none",
        arguments: &["scan", "--manifest", "{}/good.manifest", "--exclude", "a[bc]", "{}/tree"],
        code: 64,
        says: &["a[bc]", "unescaped"],
        ..SCAN
    },
    BadCommand {
        name: "an exclude set that is not known",
        arguments: &["seal", "dir:{}/tree", "--exclude-set", "oci-runtime-9", "-o", "-"],
        code: 64,
        says: &["oci-runtime-9", "oci-runtime-1"],
        ..SCAN
    },
    BadCommand {
        name: "a profile wider than the seal",
        arguments: &["scan", "--manifest", "{}/good.manifest", "--profile", "full", "{}/tree"],
        code: 64,
        says: &["full", "portable"],
        ..SCAN
    },
    BadCommand {
        name: "a kind of source of a later version",
        arguments: &["seal", "registry:example.test/app@sha256:00", "-o", "-"],
        code: 64,
        says: &["registry:"],
        ..SCAN
    },
    BadCommand {
        name: "a configuration that does not exist",
        arguments: &["check-config", "--config", "{}/no.toml"],
        code: 78,
        says: &["/no.toml", "No such file"],
        ..SCAN
    },
    BadCommand {
        name: "a status without an agent",
        arguments: &["status", "--socket", "{}/none.sock"],
        code: 69,
        says: &["/none.sock", "no agent is running"],
        ..SCAN
    },
    BadCommand {
        name: "a status of a file",
        arguments: &["status", "--socket", "{}/file"],
        code: 69,
        says: &["/file", "no agent is running"],
        ..SCAN
    },
    BadCommand {
        name: "a status that is not permitted",
        arguments: &["status", "--socket", "{}/locked/agent.sock"],
        unprivileged: true,
        code: 77,
        says: &["/locked/agent.sock", "its group and root only"],
    },
    BadCommand {
        name: "a rescan without an agent",
        arguments: &["rescan", "app", "--socket", "{}/none.sock"],
        code: 69,
        says: &["/none.sock", "no agent is running"],
        ..SCAN
    },
    BadCommand {
        name: "a wait without an agent",
        arguments: &["wait", "--target", "app", "--socket", "{}/none.sock"],
        code: 69,
        says: &["/none.sock", "no agent is running"],
        ..SCAN
    },
    BadCommand {
        name: "a wait for a manifest that does not exist",
        arguments: &["wait", "--target", "app", "--manifest", "{}/no.manifest", "--socket", "{}/none.sock"],
        says: &["/no.manifest", "No such file"],
        ..SCAN
    },
    BadCommand {
        name: "a status without its configuration",
        arguments: &["status", "--config", "{}/no.toml"],
        code: 78,
        says: &["/no.toml", "No such file"],
        ..SCAN
    },
    BadCommand {
        name: "an agent without a configuration",
        arguments: &["agent", "--config", "{}/no.toml"],
        code: 78,
        says: &["/no.toml", "No such file"],
        ..SCAN
    },
];

fn a_bad_command(row: &BadCommand) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let tree = small_tree(&sandbox)?;
    small_manifest(&sandbox, &tree)?;
    if row.arguments.iter().any(|argument| argument.contains("/k.") || argument.ends_with("/k")) {
        let path = |name: &str| sandbox.path(name).display().to_string();
        sandbox.driftlock(["keygen", "-o", &path("k")]).run()?.expect(0)?;
        let sign = ["sign", &path("good.manifest"), "--key", &path("k.key"), "-o", &path("good.bundle")];
        sandbox.driftlock(sign).run()?.expect(0)?;
    }
    sandbox.write("file", "a file\n")?;
    sandbox.write("locked/inside", "nobody may read this\n")?;
    fs::set_permissions(sandbox.path("locked"), fs::Permissions::from_mode(0o000))?;
    let place = sandbox.path("").display().to_string();
    let arguments = row.arguments.iter().map(|argument| argument.replace("{}", place.trim_end_matches('/')));
    let finished = match row.unprivileged {
        true => sandbox.command(&sandbox.driftlock_for_everyone()?, arguments).unprivileged().run()?,
        false => sandbox.driftlock(arguments).run()?,
    };
    fs::set_permissions(sandbox.path("locked"), fs::Permissions::from_mode(0o755))?;
    one_line(&finished, row.code, row.says)
}

fn an_empty_root() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let tree = small_tree(&sandbox)?;
    let manifest = small_manifest(&sandbox, &tree)?;
    let empty = sandbox.tree("empty")?;
    let finished = scan(&sandbox, &manifest, empty.root())?.expect(2)?;
    let said = finished.text()?;
    for path in ["etc", "etc/app.toml", "etc/motd", "etc/link"] {
        ensure!(said.contains(path), "{path} is gone\n{said}");
    }
    // An empty directory is a tree like any other.
    let manifest = sandbox.seal(format!("dir:{}", empty.root().display()), "empty.manifest")?;
    scan(&sandbox, &manifest, empty.root())?.expect(0)?;
    scan(&sandbox, &manifest, tree.root())?.expect(1)?;
    Ok(())
}

fn scan(sandbox: &Sandbox, manifest: &Path, root: &Path) -> Result<Finished> {
    sandbox.driftlock(["scan".as_ref(), "--manifest".as_ref(), manifest.as_os_str(), root.as_os_str()]).run()
}

fn an_unreadable_directory() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let tree = small_tree(&sandbox)?;
    tree.mode("etc", 0o700)?.dir("open")?;
    let manifest = small_manifest(&sandbox, &tree)?;
    let driftlock = sandbox.driftlock_for_everyone()?;
    tree.mode("etc", 0o000)?;
    let arguments = ["scan", "--format", "json", "--manifest"].map(AsRef::as_ref).into_iter();
    let arguments = arguments.chain([manifest.as_os_str(), tree.root().as_os_str()]);
    let finished = sandbox.command(&driftlock, arguments).unprivileged().run()?;
    tree.mode("etc", 0o700)?;
    // 4: its mode is seen to be another. Never 2: what cannot be seen is not gone.
    ensure!(finished.code == Some(12), "{finished:?}");
    let result: serde_json::Value = serde_json::from_slice(&finished.stdout)?;
    ensure!(result["summary"]["removed"] == 0 && result["summary"]["complete"] == false, "{result:#}");
    ensure!(result["summary"]["unverifiable"].as_u64() >= Some(3), "three entries are below it: {result:#}");
    ensure!(result["summary"].get("observed_tree").is_none(), "no digest of what was not seen: {result:#}");
    let findings = result["findings"].as_array().context("findings")?;
    ensure!(findings.iter().any(|finding| finding["path"] == "etc" && finding["reason"] == "denied"), "{result:#}");
    Ok(())
}

// Configurations.

struct BadConfiguration {
    name: &'static str,
    from: &'static str,
    to: &'static str,
    says: &'static [&'static str],
}

/// A good configuration with one thing replaced.
const CONFIGURATIONS: &[BadConfiguration] = &[
    BadConfiguration {
        name: "an unknown key",
        from: "heartbeat",
        to: "hartbeat",
        says: &["agent.toml:", "report.hartbeat", "report.heartbeat"],
    },
    BadConfiguration {
        name: "an unknown section",
        from: "[watch]",
        to: "[watsh]",
        says: &["agent.toml:", "watsh", "watch"],
    },
    BadConfiguration { name: "no TOML", from: "[watch]", to: "[watch", says: &["agent.toml:"] },
    BadConfiguration {
        name: "a key twice",
        from: "[watch]",
        to: "[watch]\nmode = \"sweep\"",
        says: &["agent.toml:", "duplicate key"],
    },
    BadConfiguration {
        name: "an unsigned manifest that is not allowed",
        from: "allow_unsigned = true",
        to: "allow_unsigned = false",
        says: &["agent.toml:", "allow_unsigned"],
    },
    BadConfiguration {
        name: "keys to trust, and the wish for none",
        from: "allow_unsigned = true",
        to: "allow_unsigned = true\ntrust = [\"/etc/driftlock/build.pub\"]",
        says: &["agent.toml:", "trust", "leave allow_unsigned out"],
    },
    BadConfiguration {
        name: "a token without an endpoint",
        from: "endpoint = ",
        to: "# endpoint = ",
        says: &["agent.toml:", "token_file", "endpoint"],
    },
    BadConfiguration {
        name: "no encryption over a network",
        from: "http://127.0.0.1",
        to: "http://192.0.2.1",
        says: &["agent.toml:", "endpoint", "loopback"],
    },
    BadConfiguration {
        name: "one name for two targets",
        from: "[watch]",
        to: "[[target]]\nname = \"app\"\nroot = \"/srv/b\"\nmanifest = \"/srv/b.manifest\"\nallow_unsigned = true\n\
             [watch]",
        says: &["agent.toml:", "app"],
    },
    BadConfiguration {
        name: "one root for two targets",
        from: "name = \"app\"\n",
        to: "name = \"app\"\nroot = \"/srv/b\"\nmanifest = \"/srv/b.manifest\"\nallow_unsigned = true\n\n[[target]]\n\
             name = \"b\"\nroot = \"/srv/b/\"\nmanifest = \"/srv/b.manifest\"\nallow_unsigned = true\n\n[[target]]\n\
             name = \"c\"\n",
        says: &["agent.toml:", "/srv/b"],
    },
    BadConfiguration {
        name: "a root that is relative",
        from: "root = \"/",
        to: "root = \"./",
        says: &["agent.toml:", "target.root", "absolute"],
    },
    BadConfiguration {
        name: "a mode that nobody knows",
        from: "mode = \"auto\"",
        to: "mode = \"fsevents\"",
        says: &["agent.toml:", "auto, fanotify, inotify, sweep"],
    },
    BadConfiguration {
        name: "a time without a unit",
        from: "sweep = \"600s\"",
        to: "sweep = 600",
        says: &["agent.toml:", "sweep"],
    },
    BadConfiguration {
        name: "an exclude that is no pattern",
        from: "allow_unsigned = true",
        to: "allow_unsigned = true\nexclude = [\"a[bc]\"]",
        says: &["agent.toml:", "exclude", "a[bc]"],
    },
    BadConfiguration {
        name: "a token file that is not there",
        from: "/token\"",
        to: "/tokn\"",
        says: &["agent.toml:", "token_file", "No such file"],
    },
];

fn good_configuration(sandbox: &Sandbox) -> Result<AgentHome> {
    let tree = small_tree(sandbox)?;
    let manifest = small_manifest(sandbox, &tree)?;
    let home = AgentHome::new(sandbox, "web-1")?.target("app", tree.root(), &manifest);
    let home = home.reports_to("127.0.0.1:9".parse()?);
    fs::write(home.config_file(), home.config())?;
    Ok(home)
}

fn a_bad_configuration(row: &BadConfiguration) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let home = good_configuration(&sandbox)?;
    let config = home.config_file();
    sandbox.driftlock(["check-config".as_ref(), "--config".as_ref(), config.as_os_str()]).run()?.expect(0)?;
    let good = home.config();
    ensure!(good.contains(row.from), "{good}");
    fs::write(&config, good.replacen(row.from, row.to, 1))?;
    for verb in ["check-config", "agent"] {
        let finished = sandbox.driftlock([verb.as_ref(), "--config".as_ref(), config.as_os_str()]).run()?;
        one_line(&finished, 78, row.says).context(verb)?;
    }
    ensure!(!home.state_dir().exists(), "an agent that is refused makes no state");
    Ok(())
}

fn every_problem_has_its_line() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let home = good_configuration(&sandbox)?;
    let bad = home.config().replace("mode = \"auto\"", "mode = \"fast\"").replace("heartbeat", "hartbeat");
    fs::write(home.config_file(), bad)?;
    let config = home.config_file();
    let finished = sandbox.driftlock(["check-config".as_ref(), "--config".as_ref(), config.as_os_str()]).run()?;
    let finished = finished.expect(78)?;
    for (line, part) in finished.stderr.lines().zip(["watch.mode", "hartbeat"]) {
        ensure!(line.contains("agent.toml:") && line.contains(part), "{part}: {finished:?}");
    }
    ensure!(finished.stderr.lines().count() == 2, "{finished:?}");
    Ok(())
}

// The table.

fn help_shows_the_table() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let agent = sandbox.driftlock(["--help"]).run()?.expect(0)?;
    let collector = sandbox.collector(["--help"]).run()?.expect(0)?;
    for (code, meaning) in TABLE {
        let row = |line: &str| line.trim_start().strip_prefix(&code.to_string()).map(str::trim) == Some(*meaning);
        ensure!(agent.text()?.lines().any(row), "driftlock --help does not show {code}\n{agent:?}");
        ensure!(*code < 64 || collector.text()?.lines().any(row), "driftlock-collector --help: {code}\n{collector:?}");
    }
    for arguments in [&["bogus"][..], &["scan"], &["scan", "--bogus"], &[]] {
        let finished = sandbox.driftlock(arguments).run()?.expect(64)?;
        ensure!(finished.stdout.is_empty() && !finished.stderr.is_empty(), "{finished:?}");
        sandbox.collector(arguments).run()?.expect(64)?;
    }
    Ok(())
}

fn the_readme_has_the_table() -> Result<()> {
    let Ok(readme) = fs::read_to_string(workspace().join("README.md")) else { return Ok(()) };
    let rows: Vec<(String, String)> = readme
        .lines()
        .filter_map(|line| line.strip_prefix('|')?.strip_suffix('|')?.split_once('|'))
        .map(|(code, meaning)| (code.trim().trim_matches('`').to_owned(), meaning.trim().to_owned()))
        .filter(|(code, _)| code.parse::<u8>().is_ok())
        .collect();
    let table: Vec<_> = TABLE.iter().map(|(code, meaning)| (code.to_string(), (*meaning).to_owned())).collect();
    ensure!(rows == table, "README.md has {rows:?}");
    Ok(())
}
