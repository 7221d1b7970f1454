//! Owners as the image has them, in the root of a process whose user namespace calls them so: what is there is what was
//! built, and what is called otherwise is found. What is seen inside is asked of programs inside.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, lchown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::agent::AgentHome;
use driftlock_tests::debian;
use driftlock_tests::drift::{Drift, Report, ensure_same};
use driftlock_tests::fake::{FakeCollector, Then};
use driftlock_tests::podman::{Driver, Podman};
use driftlock_tests::require::Requirement::{
    self, Buildah, DebianMirror, Debootstrap, Namespaces, Root, Runc, Skopeo, Umoci,
};
use driftlock_tests::require::trial;
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::tree::Tree;
use driftlock_tests::wait::eventually;
use libtest_mimic::Trial;
use rustix::fs::XattrFlags;
use serde_json::json;
use walkdir::WalkDir;

use super::held::{Held, scan};

const NEEDS: &[Requirement] = &[Root, Namespaces];
const CONTAINERS: &[Requirement] =
    &[Root, Debootstrap, DebianMirror, Umoci, Skopeo, Buildah, Requirement::Podman, Runc];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("ids::owners_are_compared_as_they_are_called_inside", NEEDS, shifted),
        trial("ids::who_has_no_name_inside_is_found", NEEDS, nameless),
        trial("ids::in_one_user_namespace_both_call_them_the_same", NEEDS, one_namespace),
        trial("ids::an_agent_takes_the_map_of_the_process_unless_told_otherwise", NEEDS, agent),
        trial("ids::a_container_of_podman_is_as_its_image", CONTAINERS, podman),
        trial("ids::what_is_no_map_is_refused", &[], refused),
    ]
}

const SHIFT: u32 = 100_000;
const MAP: &str = "0 100000 65536";
const RANGES: &str = "0:100000:65536";

const CAPABILITY: &str = "security.capability";
const ACCESS: &str = "system.posix_acl_access";

/// `CAP_NET_RAW`, effective; bound to `root` (linux/capability.h, revision 3) or to none (revision 2).
fn capability(root: Option<u32>) -> Vec<u8> {
    let sets = [1_u32 << 13, 0, 0, 0].map(u32::to_le_bytes).concat();
    let (revision, root) =
        root.map_or((0x0200_0001_u32, Vec::new()), |root| (0x0300_0001, root.to_le_bytes().to_vec()));
    [&revision.to_le_bytes()[..], &sets, &root].concat()
}

/// An access list that also lets a user and a group read (linux/posix_acl_xattr.h).
fn access(user: u32, group: u32) -> Vec<u8> {
    let entries =
        [(1_u16, 6_u16, u32::MAX), (2, 4, user), (4, 4, u32::MAX), (8, 4, group), (16, 4, u32::MAX), (32, 0, u32::MAX)];
    let entry = |(tag, allowed, id): (u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &allowed.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    [&2_u32.to_le_bytes()[..], &entries.map(entry).concat()].concat()
}

fn set(path: &Path, name: &str, value: &[u8]) -> Result<()> {
    rustix::fs::setxattr(path, name, value, XattrFlags::empty())
        .with_context(|| format!("{name} of {}", path.display()))
}

/// What an image holds: files of several users, with capabilities and an access list.
fn image(sandbox: &Sandbox) -> Result<(Tree, PathBuf)> {
    let tree = sandbox.tree("container")?;
    tree.file("etc/conf", "level = 1\n")?.file("srv/www/page", "hello\n")?.file("home/user/note", "mine\n")?;
    tree.symlink("srv/www/current", "page")?.file("bin/ping", "program\n")?.file("bin/old", "program\n")?;
    tree.file("home/user/shared", "ours\n")?;
    for (name, id) in [("srv/www", 33), ("srv/www/page", 33), ("srv/www/current", 33), ("home/user", 1000)] {
        lchown(tree.path(name), Some(id), Some(id))?;
    }
    for name in ["home/user/note", "home/user/shared"] {
        lchown(tree.path(name), Some(1000), Some(100))?;
    }
    set(&tree.path("bin/ping"), CAPABILITY, &capability(None))?;
    set(&tree.path("bin/old"), CAPABILITY, &capability(None))?;
    set(&tree.path("home/user/shared"), ACCESS, &access(33, 100))?;
    let manifest = sandbox.path("manifest");
    let source = format!("dir:{}", tree.root().display());
    let seal =
        ["seal".as_ref(), source.as_ref(), "--profile".as_ref(), "full".as_ref(), "-o".as_ref(), manifest.as_os_str()];
    sandbox.driftlock(seal).run()?.expect(0)?;
    Ok((tree, manifest))
}

/// Gives everything to the users of a container, as a runtime does with the layers of an image.
fn shift(tree: &Tree) -> Result<()> {
    for entry in WalkDir::new(tree.root()) {
        let entry = entry?;
        let found = entry.path().symlink_metadata()?;
        lchown(entry.path(), Some(found.uid() + SHIFT), Some(found.gid() + SHIFT))?;
    }
    // Changing the owner took them. One as it is set inside, one as it is set outside for everybody.
    set(&tree.path("bin/ping"), CAPABILITY, &capability(Some(SHIFT)))?;
    set(&tree.path("bin/old"), CAPABILITY, &capability(None))?;
    set(&tree.path("home/user/shared"), ACCESS, &access(SHIFT + 33, SHIFT + 100))
}

/// Sets a time by which nothing is to differ.
fn with_times<T>(tree: &Tree, change: impl FnOnce(&Tree) -> Result<T>) -> Result<T> {
    let times = |path: &Path| Ok::<_, anyhow::Error>(path.symlink_metadata()?.mtime());
    let paths: Vec<PathBuf> =
        WalkDir::new(tree.root()).into_iter().map(|entry| Ok(entry?.into_path())).collect::<Result<_>>()?;
    let before = paths.iter().map(|path| times(path)).collect::<Result<Vec<i64>>>()?;
    let changed = change(tree)?;
    for (path, time) in paths.iter().zip(before) {
        ensure!(times(path)? == time, "{}: owners and attributes are no content", path.display());
    }
    Ok(changed)
}

fn report(sandbox: &Sandbox, manifest: &Path, root: &Path, more: &[&str], code: i32) -> Result<Report> {
    Report::from_ndjson(&sandbox.driftlock(scan(manifest, root, more)).run()?.expect(code)?)
}

/// Owner and group of everything, as find(1) says them in the user namespace of `held`.
fn owners(sandbox: &Sandbox, held: &Held, tree: &Tree) -> Result<BTreeMap<Vec<u8>, (u32, u32)>> {
    let find = ["find".as_ref(), tree.root().as_os_str(), "-printf".as_ref(), "%U %G %P\\n".as_ref()];
    let said = held.inside(sandbox, find)?;
    let line = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let mut number = || words.next().and_then(|word| word.parse::<u32>().ok());
        let ids = (number()?, number()?);
        Some((words.next()?.as_bytes().to_vec(), ids))
    };
    said.text()?.lines().map(|text| line(text).with_context(|| text.to_owned())).collect()
}

fn shifted() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (tree, manifest) = image(&sandbox)?;
    let built: BTreeMap<Vec<u8>, (u32, u32)> = WalkDir::new(tree.root())
        .into_iter()
        .map(|entry| {
            let entry = entry?;
            let found = entry.path().symlink_metadata()?;
            let path = entry.path().strip_prefix(tree.root())?.as_os_str().as_bytes().to_vec();
            Ok((path, (found.uid(), found.gid())))
        })
        .collect::<Result<_>>()?;
    with_times(&tree, shift)?;
    let held = Held::start_mapped(&sandbox, tree.root(), MAP, "true")?;
    // What is seen inside is what was built.
    ensure!(owners(&sandbox, &held, &tree)? == built, "{:?}", owners(&sandbox, &held, &tree));
    let hex = |value: Vec<u8>| value.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    for (name, attribute, value) in [
        ("bin/ping", CAPABILITY, capability(None)),
        ("bin/old", CAPABILITY, capability(None)),
        ("home/user/shared", ACCESS, access(33, 100)),
    ] {
        let seen = held.attribute(&sandbox, &tree.path(name), attribute)?;
        ensure!(seen == hex(value), "{name}: {seen}");
    }

    // And so it is scanned, in the root of the process and, when told, in the directory of its files.
    for (root, more) in [
        (held.root(), &[][..]),
        (held.root(), &["--id-map", "auto"]),
        (held.root(), &["--id-map", RANGES]),
        (tree.root().to_owned(), &["--id-map", RANGES]),
        (tree.root().to_owned(), &["--id-map", "0:100000:1000,1000:101000:64536"]),
    ] {
        let report = report(&sandbox, &manifest, &root, more, 0)?;
        ensure!(report.findings.is_empty(), "{} {more:?}: {:?}", root.display(), report.findings);
        ensure!(report.summary["scope"] == "full" && report.summary["observed_tree"].is_string(), "{}", report.summary);
    }
    // Without the map there is nothing that is owned as it was built.
    for (root, more) in [
        (held.root(), &["--id-map", "none"][..]),
        (tree.root().to_owned(), &[]),
        (tree.root().to_owned(), &["--id-map", "auto"]),
    ] {
        let report = report(&sandbox, &manifest, &root, more, 4)?;
        let expected: BTreeSet<Drift> = built
            .keys()
            .map(|path| {
                let has_ids = path == b"bin/ping" || path == b"home/user/shared";
                Drift::changed(path, if has_ids { &["uid", "gid", "xattrs"] } else { &["uid", "gid"] })
            })
            .collect();
        ensure_same(&expected, &report.drifts)?;
    }
    // In this map 1000 is nobody's.
    let report = report(&sandbox, &manifest, tree.root(), &["--id-map", "0:100000:1000"], 4)?;
    let nobodys = ["home/user", "home/user/note", "home/user/shared"];
    let paths: Vec<&[u8]> = report.drifts.iter().map(|drift| drift.path.as_slice()).collect();
    ensure!(paths == nobodys.map(str::as_bytes), "{:?}", report.drifts);
    ensure!(report.findings.iter().all(|finding| finding["observed"]["uid"] == 65534), "{:?}", report.findings);
    Ok(())
}

fn nameless() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (tree, manifest) = image(&sandbox)?;
    shift(&tree)?;
    let held = Held::start_mapped(&sandbox, tree.root(), MAP, "true")?;
    // The machine's own root, and users of its own and of another container.
    lchown(tree.path("etc/conf"), Some(0), Some(0))?;
    lchown(tree.path("srv/www/current"), Some(SHIFT + 33), Some(33))?;
    lchown(tree.path("home/user/note"), Some(200_000), Some(SHIFT + 100))?;
    set(&tree.path("bin/ping"), CAPABILITY, &capability(Some(200_000)))?;
    set(&tree.path("bin/old"), CAPABILITY, &capability(Some(SHIFT + 5)))?;
    set(&tree.path("home/user/shared"), ACCESS, &access(33, SHIFT + 100))?;
    let report = report(&sandbox, &manifest, &held.root(), &[], 4)?;
    let expected = [
        Drift::changed("etc/conf", &["uid", "gid"]),
        Drift::changed("srv/www/current", &["gid"]),
        Drift::changed("home/user/note", &["uid"]),
        Drift::changed("bin/ping", &["xattrs"]),
        Drift::changed("bin/old", &["xattrs"]),
        Drift::changed("home/user/shared", &["xattrs"]),
    ];
    ensure_same(&BTreeSet::from(expected), &report.drifts)?;

    // Everything of it is said as it is seen inside.
    let inside = owners(&sandbox, &held, &tree)?;
    for finding in &report.findings {
        let path = Drift::path_of(finding)?;
        let (uid, gid) = inside.get(&path).with_context(|| format!("{finding}"))?;
        ensure!(json!([uid, gid]) == json!([finding["observed"]["uid"], finding["observed"]["gid"]]), "{finding}");
    }
    ensure!(inside.get(&b"etc/conf"[..]) == Some(&(65534, 65534)), "{inside:?}");
    for (name, attribute, seen) in
        [("bin/old", CAPABILITY, Some(capability(Some(5)))), ("home/user/shared", ACCESS, None)]
    {
        let finding = report.findings.iter().find(|finding| finding["path"] == name).context(name)?;
        let said = finding["observed"]["xattrs"][0]["value"].as_str().context("a value")?;
        let said = driftlock_common::path::from_base64(said).context("base64")?;
        let hex = said.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        ensure!(held.attribute(&sandbox, &tree.path(name), attribute)? == hex, "{name}: {finding}");
        ensure!(seen.is_none_or(|seen| seen == said), "{name}: {finding}");
    }
    // Bound to somebody who has no name there it is of no use inside, and cannot be read.
    let said = held.attribute(&sandbox, &tree.path("bin/ping"), CAPABILITY)?;
    ensure!(said.contains("75") || said.contains("too large"), "{said}");
    Ok(())
}

fn one_namespace() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (tree, manifest) = image(&sandbox)?;
    shift(&tree)?;
    let held = Held::start_mapped(&sandbox, tree.root(), MAP, "true")?;
    let driftlock = sandbox.driftlock_for_everyone()?;
    let root = held.root();
    let inside = |more: &[&str]| {
        let arguments = scan(&manifest, &root, more);
        held.inside(&sandbox, [driftlock.as_os_str()].into_iter().chain(arguments))
    };
    for more in [&[][..], &["--id-map", "none"]] {
        let report = Report::from_ndjson(&inside(more)?)?;
        ensure!(report.findings.is_empty(), "{more:?}: {:?}", report.findings);
    }
    Ok(())
}

fn agent() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (tree, manifest) = image(&sandbox)?;
    shift(&tree)?;
    let held = Held::start_mapped(&sandbox, tree.root(), MAP, "true")?;
    let wire = FakeCollector::start([], Then::Accept)?;
    let mut home = AgentHome::new(&sandbox, "host")?.target("container", &held.root(), &manifest);
    home = home.reports_to(wire.address());
    let agent = home.start(&sandbox)?;
    let beat = |open: usize| {
        eventually(&format!("{open} open findings"), || {
            let beat = wire.events().into_iter().rfind(|event| event["type"] == "dev.driftlock.agent.heartbeat.v1");
            let target = beat.context("no heartbeat")?["data"]["targets"][0].clone();
            let looked = target["coverage"]["last_full"].is_string() && target["open_findings"] == open;
            ensure!(looked && target["coverage"]["unverifiable"] == 0, "{target}");
            Ok::<_, anyhow::Error>(())
        })
    };
    beat(0)?;
    ensure!(wire.history()?.raised()?.is_empty(), "{:?}", wire.history()?.raised());
    // Told otherwise it looks anew.
    let entries = WalkDir::new(tree.root()).into_iter().count();
    for (keys, open) in [("id_map = \"none\"", entries), (&format!("id_map = \"{RANGES}\""), 0)] {
        home.keys = keys.to_owned();
        fs::write(home.config_file(), home.config())?;
        let config = home.config_file();
        let check = ["check-config".as_ref(), "--config".as_ref(), config.as_os_str()];
        let said = sandbox.driftlock(check).run()?.expect(0)?;
        let shown = format!("\n{:<18} {}\n", "  id_map", keys.split('"').nth(1).unwrap_or_default());
        ensure!(said.text()?.contains(&shown), "no {shown:?}: {said:?}");
        agent.reload()?;
        beat(open)?;
    }
    // What comes in by watching goes through the map too.
    lchown(tree.path("etc/conf"), Some(0), Some(0))?;
    beat(1)?;
    ensure!(agent.stop()? == 0, "a clean end");
    Ok(())
}

fn podman() -> Result<()> {
    const IMAGE: &str = "localhost/debian:latest";
    let podman = Podman::new(Driver::Overlay)?;
    let sandbox = podman.sandbox();
    let image = debian::image()?;
    podman.load(&image.oci_archive, IMAGE)?;
    let manifest = sandbox.path("manifest");
    let source = format!("oci:{}", image.layout.display());
    let seal = ["seal".as_ref(), source.as_ref(), "--exclude-set".as_ref(), "oci-runtime-1".as_ref(), "-o".as_ref()];
    sandbox.driftlock(seal.into_iter().chain([manifest.as_os_str()])).run()?.expect(0)?;
    let options = ["--network=none", "--uidmap=0:100000:65536", "--gidmap=0:100000:65536"];
    let container = podman.start("mapped", &options, IMAGE, &["sleep", "infinity"])?;
    let root = PathBuf::from(format!("/proc/{}/root", container.pid()?));
    ensure!(root.join("etc/passwd").metadata()?.uid() == SHIFT, "the map is not in use");

    let clean = report(sandbox, &manifest, &root, &[], 0)?;
    ensure!(clean.findings.is_empty() && clean.summary["complete"] == true, "{:?}", clean.findings);
    ensure!(clean.summary["excluded"]["virtual"] == json!(["proc", "sys"]), "{}", clean.summary);
    let entries = clean.summary["entries"].as_u64().context("entries")?;
    let none = report(sandbox, &manifest, &root, &["--id-map", "none"], 4)?;
    let other = |drift: &&Drift| !drift.attributes.contains("uid") || !drift.attributes.contains("gid");
    ensure!(none.drifts.iter().find(other).is_none(), "{:?}", none.drifts.iter().find(other));
    // Of what only other entries need, and so is there without an owner, none is compared.
    ensure!(none.drifts.len() as u64 + 10 > entries, "{} of {entries}", none.drifts.len());

    // By somebody who is root of the machine, and by root of the container.
    fs::write(root.join("usr/bin/implant"), "evil")?;
    lchown(root.join("etc/issue"), Some(0), Some(0))?;
    container.exec(&["sh", "-c", "touch /usr/bin/own && chown 33 /etc/passwd"])?;
    let found = report(sandbox, &manifest, &root, &[], 5)?;
    let expected = [
        Drift::added("usr/bin/implant"),
        Drift::added("usr/bin/own"),
        Drift::changed("etc/issue", &["uid", "gid"]),
        Drift::changed("etc/passwd", &["uid"]),
    ];
    ensure_same(&BTreeSet::from(expected), &found.drifts)?;
    let seen = |path: &str| {
        let finding = found.findings.iter().find(|finding| finding["path"] == path).with_context(|| path.to_owned())?;
        Ok::<_, anyhow::Error>(json!([finding["observed"]["uid"], finding["observed"]["gid"]]))
    };
    for (path, ids) in [
        ("usr/bin/implant", [65534, 65534]),
        ("usr/bin/own", [0, 0]),
        ("etc/issue", [65534, 65534]),
        ("etc/passwd", [33, 0]),
    ] {
        ensure!(seen(path)? == json!(ids), "{path}: {}", seen(path)?);
    }
    Ok(())
}

fn refused() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (tree, manifest) = (sandbox.tree("tree")?, sandbox.path("manifest"));
    for (map, says) in [
        ("", "\"\" is not INSIDE:OUTSIDE:COUNT"),
        ("0:100000", "\"0:100000\" is not INSIDE:OUTSIDE:COUNT"),
        ("0:100000:65536,65535:300000:10", "0:100000:65536 and 65535:300000:10 overlap"),
        ("0:100000:65536,70000:165535:10", "0:100000:65536 and 70000:165535:10 overlap"),
        ("0:4294967000:1000", "0:4294967000:1000 goes beyond the last id, 4294967294"),
    ] {
        let map_flag = format!("--id-map={map}");
        let finished = sandbox.driftlock(scan(&manifest, tree.root(), &[&map_flag])).run()?.expect(64)?;
        ensure!(finished.stdout.is_empty() && finished.stderr.contains(says), "{map}: {finished:?}");

        let mut home = AgentHome::new(&sandbox, "host")?.target("app", tree.root(), &manifest);
        home.keys = format!("id_map = {map:?}");
        fs::write(home.config_file(), home.config())?;
        let config = home.config_file();
        let check = ["check-config".as_ref(), "--config".as_ref(), config.as_os_str()];
        let finished = sandbox.driftlock(check).run()?.expect(78)?;
        let said: Vec<&str> = finished.stderr.lines().filter(|line| line.contains("target.id_map: ")).collect();
        ensure!(said.len() == 1 && said[0].contains(says), "{map}: {finished:?}");
    }
    Ok(())
}
