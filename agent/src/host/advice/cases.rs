//! Made-up hosts and roots, and the words that must be said of them. Owns one case for each thing that can be wrong.

use std::time::{Duration, SystemTime};

use driftlock_common::path::TreePath;
use driftlock_common::pattern::Excludes;
use rustix::io::Errno;

use super::*;
use crate::config::Mode;
use crate::host::capability::{Capabilities, Capability, Set};
use crate::host::limit::Limits;
use crate::host::mountinfo::parse;
use crate::host::probe::{Probes, RootProbes};
use crate::host::survey::{End, Survey};
use crate::host::{Clock, Namespace};

const TABLE: &str = "27 1 254:0 / / rw - ext4 /dev/vda1 rw\n22 27 0:21 / /proc rw - proc proc rw\n";

fn setting(mode: Mode) -> Setting {
    Setting { watch: Watch { mode, ..Watch::default() }, threads: 2 }
}

/// With the watches that most hosts have to make do with.
fn inotify() -> Setting {
    setting(Mode::Inotify)
}

fn table(more: &str) -> Known<Vec<Mount>> {
    Ok(parse(format!("{TABLE}{more}").as_bytes()).unwrap())
}

/// A host on which nothing is missed.
fn good_host() -> Host {
    let all = Set::of([Capability::DAC_READ_SEARCH, Capability::SYS_ADMIN]);
    Host {
        kernel: Ok("6.18.0".into()),
        user: 0,
        capabilities: Ok(Capabilities { effective: all, permitted: all, bounding: all }),
        users: Ok(Namespace::Host),
        limits: Limits { watches: Ok(100_000), instances: Ok(128), files: Some(1024), memory: Ok(None) },
        ours: table(""),
        theirs: table(""),
        probes: Probes { inotify: Ok(()), fanotify: Ok(()), openat2: Ok(()), mount_ids: Ok(()), pressure: Ok(()) },
        clock: Clock {
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            program: Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000)),
            source: Ok("tsc".into()),
        },
    }
}

fn good_site() -> Site {
    Site {
        at: b"/srv/shop".to_vec(),
        readable: Ok(()),
        probes: RootProbes { fanotify: Ok(()), inotify: Ok(()), dontcache: Some(Ok(())) },
        mount: Ok(table("").unwrap()[0].clone()),
        inside: Ok(Vec::new()),
        survey: Some(Survey { directories: 4000, ..Survey::default() }),
    }
}

fn target(site: Result<Site, Closed>) -> Target {
    Target {
        view: View::Ours,
        name: "shop".into(),
        root: "/srv/shop".into(),
        manifest: Ok(5000),
        site,
        mounts: Mounts::Report,
        mounts_allowed: BTreeSet::new(),
        left_out: LeftOut::default(),
    }
}

/// The rows that take the verdict away, as `topic missed|unknown: text → remedy`.
fn bad(rows: &[Row]) -> Vec<String> {
    let shown = |row: &Row| {
        let word = if row.state == State::Missed { "missed" } else { "unknown" };
        let remedy = if row.remedy.is_empty() { String::new() } else { format!(" → {}", row.remedy) };
        format!("{} {word}: {}{remedy}", row.topic, row.text)
    };
    rows.iter().filter(|row| row.counts()).map(shown).collect()
}

#[test]
fn on_a_good_host_nothing_is_missed() {
    let rows = judge(&good_host(), &inotify(), &[target(Ok(good_site()))]);
    assert_eq!(bad(&rows), [""; 0]);
    assert_eq!(bad(&judge(&good_host(), &inotify(), &[])), [""; 0]);
    let topics = |of: Option<&str>| -> Vec<&str> {
        rows.iter().filter(|row| row.target.as_deref() == of).map(|row| row.topic).collect()
    };
    let of_host = [
        "fanotify",
        "inotify",
        "sweep",
        "reading",
        "mounts",
        "mount points",
        "open files",
        "memory",
        "pressure",
        "clock",
    ];
    assert_eq!(topics(None), of_host);
    let of_target = [
        "manifest",
        "root",
        "watching",
        "blind spots",
        "bounds",
        "directories",
        "reading",
        "mounts inside",
        "mounts",
        "page cache",
    ];
    assert_eq!(topics(Some("shop")), of_target);
}

/// A change of a good host, and the one row that it costs: topic, state, and words of its text and remedy.
type HostCase = (&'static str, fn(&mut Host), &'static str);

#[test]
fn what_a_host_lacks_is_said_with_what_to_do() {
    let cases: [HostCase; 18] = [
        (
            "no inotify instances left",
            |host| host.probes.inotify = Err(Errno::MFILE),
            "inotify missed: cannot be used (Too many open files): a change is found by the next sweep, and never if it \
             is put back before → raise fs.inotify.max_user_instances, or the limit of open files",
        ),
        (
            "inotify forbidden",
            |host| host.probes.inotify = Err(Errno::PERM),
            "inotify missed: cannot be used (Operation not permitted): a change is found by the next sweep, and never \
             if it is put back before → let the kernel, or the container's seccomp filter, allow inotify",
        ),
        (
            "unknown limit",
            |host| host.limits.watches = Err("/proc is not mounted".into()),
            "inotify unknown: in use; its limits are not known: /proc is not mounted",
        ),
        (
            "no capability, but allowed to get it",
            |host| {
                host.user = 7;
                host.capabilities.as_mut().unwrap().effective = Set::default();
            },
            "reading missed: without CAP_DAC_READ_SEARCH: what user 7 may not read is not verified → give the agent \
             CAP_DAC_READ_SEARCH (AmbientCapabilities= in its unit)",
        ),
        (
            "no capability, nor ever",
            |host| host.capabilities = Ok(Capabilities::default()),
            "reading missed: without CAP_DAC_READ_SEARCH: what user 0 may not read is not verified → give the agent \
             CAP_DAC_READ_SEARCH (AmbientCapabilities= and CapabilityBoundingSet= in its unit)",
        ),
        (
            "a user name space",
            |host| host.users = Ok(Namespace::Own),
            "reading missed: CAP_DAC_READ_SEARCH counts only for files of users that this user name space has → run the \
             agent outside of a user name space",
        ),
        (
            "an unknown user name space",
            |host| host.users = Err("no map".into()),
            "reading unknown: whether capabilities count here is not known: no map",
        ),
        (
            "unknown capabilities",
            |host| host.capabilities = Err("no CapEff in the process's status".into()),
            "reading unknown: whether every file can be read is not known: no CapEff in the process's status",
        ),
        (
            "PID 1 out of sight",
            |host| host.theirs = Err("/proc/1/mountinfo: No such file or directory".into()),
            "mounts unknown: whether PID 1 sees other files than this process cannot be known: /proc/1/mountinfo: No \
             such file or directory → run it with the host's /proc, where nothing hides /proc/1 (ProtectProc=, hidepid)",
        ),
        (
            "a private /tmp",
            |host| {
                host.ours = table("60 27 254:0 /tmp/systemd-private-1-x.service-2/tmp /tmp rw - ext4 /dev/vda1 rw\n");
            },
            "mounts missed: /tmp is ext4 (/dev/vda1, its /tmp/systemd-private-1-x.service-2/tmp) here, and ext4 \
             (/dev/vda1) for PID 1: other files are seen → take PrivateTmp= out of the agent's unit",
        ),
        (
            "a mount with a hostile name",
            |host| host.ours = table("60 27 0:9 / /x\\012\x1b[31m rw - tmpfs a\\040b rw\n"),
            "mounts missed: /x\\x0a\\x1b[31m is tmpfs (a b) here, and ext4 (/dev/vda1) for PID 1: other files are seen \
             → take TemporaryFileSystem= out of the agent's unit",
        ),
        (
            "a mount that only PID 1 has",
            |host| host.theirs = table("60 27 254:5 / /srv rw - xfs /dev/vdb rw\n"),
            "mounts missed: /srv is ext4 (/dev/vda1) here, and xfs (/dev/vdb) for PID 1: other files are seen → restart \
             the agent; its unit must not keep mounts out (PrivateMounts=, MountFlags=)",
        ),
        (
            "a container with the host's processes",
            |host| host.ours = Ok(parse(b"90 80 0:60 / / rw - overlay overlay rw\n").unwrap()),
            "mounts missed: / is overlay (overlay) here, and ext4 (/dev/vda1) for PID 1: other files are seen → run the \
             agent with the host's root directory, not in a container or chroot",
        ),
        (
            "nothing tells mounts apart",
            |host| (host.probes.openat2, host.probes.mount_ids) = (Err(Errno::NOSYS), Err(Errno::NOTSUP)),
            "mount points missed: a part of the same file system mounted inside a root passes for the root's own files \
             → Linux 5.8, or a seccomp filter that allows openat2",
        ),
        (
            "few open files",
            |host| host.limits.files = Some(20),
            "open files missed: 20 are allowed, 38 are needed: what cannot be opened is not verified → LimitNOFILE=38 or \
             more in the agent's unit",
        ),
        (
            "a clock that is behind",
            |host| host.clock.now = SystemTime::UNIX_EPOCH,
            "clock unknown: 1970-01-01T00:00:00Z is before this program was made (2023-11-14T22:13:20Z): reports will \
             carry wrong times → set the clock, and keep it (systemd-timesyncd, chrony)",
        ),
        ("openat2 alone tells mounts", |host| host.probes.mount_ids = Err(Errno::NOTSUP), ""),
        ("no limit of open files", |host| host.limits.files = None, ""),
    ];
    for (name, change, expected) in cases {
        let mut host = good_host();
        change(&mut host);
        let found = bad(&judge(&host, &inotify(), &[]));
        let expected: Vec<&str> = Some(expected).filter(|text| !text.is_empty()).into_iter().collect();
        assert_eq!(found, expected, "{name}");
    }
}

/// A change of a good host or target, the mode that is configured, and the rows that follow from it for fanotify, for watching
/// and for the directories.
type RungCase = (&'static str, Mode, fn(&mut Host, &mut Target), [&'static str; 3]);

#[test]
fn every_rung_is_explained_with_what_would_enable_the_next() {
    let cases: [RungCase; 11] = [
        (
            "everything is possible",
            Mode::Auto,
            |_, _| {},
            [
                "ok: possible: one mark for a whole file system, no watches, and it names who wrote",
                "ok: by fanotify",
                "ok: 4,000, under one mark for their file system",
            ],
        ),
        (
            "no capability",
            Mode::Auto,
            |host, target| {
                host.capabilities = Ok(Capabilities::default());
                host.probes.fanotify = Err(Errno::PERM);
                site_of(target).probes.fanotify = Err(Errno::PERM);
            },
            [
                "note: not possible for whole file systems (Operation not permitted) → give the agent CAP_SYS_ADMIN \
                 (fanotify.conf of the package's examples; securityContext.capabilities)",
                "note: by inotify; not by fanotify (Operation not permitted) → give the agent CAP_SYS_ADMIN (fanotify.conf of \
                 the package's examples; securityContext.capabilities)",
                "ok: 4,000, a watch each, of 100,000",
            ],
        ),
        (
            "a group without marks of file systems",
            Mode::Auto,
            |host, target| {
                host.capabilities = Ok(Capabilities::default());
                site_of(target).probes.fanotify = Err(Errno::PERM);
            },
            [
                "note: not possible for whole file systems (Operation not permitted) → give the agent CAP_SYS_ADMIN \
                 (fanotify.conf of the package's examples; securityContext.capabilities)",
                "note: by inotify; not by fanotify (Operation not permitted) → give the agent CAP_SYS_ADMIN (fanotify.conf of \
                 the package's examples; securityContext.capabilities)",
                "ok: 4,000, a watch each, of 100,000",
            ],
        ),
        (
            "a user name space",
            Mode::Auto,
            |host, target| {
                host.users = Ok(Namespace::Own);
                host.probes.fanotify = Err(Errno::PERM);
                site_of(target).probes.fanotify = Err(Errno::PERM);
            },
            [
                "note: not possible for whole file systems (Operation not permitted) → run the agent outside of a user name \
                 space: CAP_SYS_ADMIN counts only there",
                "note: by inotify; not by fanotify (Operation not permitted) → run the agent outside of a user name space: \
                 CAP_SYS_ADMIN counts only there",
                "ok: 4,000, a watch each, of 100,000",
            ],
        ),
        (
            "a filter of system calls",
            Mode::Auto,
            |host, target| {
                host.probes.fanotify = Err(Errno::PERM);
                site_of(target).probes.fanotify = Err(Errno::PERM);
            },
            [
                "note: not possible for whole file systems (Operation not permitted) → let the filter of system calls of its \
                 unit or container allow fanotify_init and fanotify_mark",
                "note: by inotify; not by fanotify (Operation not permitted) → let the filter of system calls of its unit or \
                 container allow fanotify_init and fanotify_mark",
                "ok: 4,000, a watch each, of 100,000",
            ],
        ),
        (
            "an overlay",
            Mode::Auto,
            |_, target| {
                site_of(target).mount = on("overlay");
                site_of(target).probes.fanotify = Err(Errno::OPNOTSUPP);
            },
            [
                "ok: possible: one mark for a whole file system, no watches, and it names who wrote",
                "note: by inotify; not by fanotify (Operation not supported) → its file system has no lasting names of \
                 directories; an overlay has them when mounted with nfs_export=on",
                "ok: 4,000, a watch each, of 100,000",
            ],
        ),
        (
            "nothing is possible",
            Mode::Auto,
            |host, target| {
                (host.probes.fanotify, host.probes.inotify) = (Err(Errno::NOSYS), Err(Errno::MFILE));
                let probes = &mut site_of(target).probes;
                (probes.fanotify, probes.inotify) = (Err(Errno::NOSYS), Err(Errno::MFILE));
            },
            [
                "note: not possible for whole file systems (Function not implemented) → the kernel is too old for it, or made \
                 without it",
                "note: by sweep; not by fanotify (Function not implemented) → the kernel is too old for it, or made without it",
                "missed: 4,000, not watched (Too many open files): a change is found by the next sweep, and never if it is put \
                 back before → see inotify above",
            ],
        ),
        (
            "a named one that cannot be had",
            Mode::Fanotify,
            |_, target| site_of(target).probes.fanotify = Err(Errno::XDEV),
            [
                "ok: possible: one mark for a whole file system, no watches, and it names who wrote",
                "missed: not by fanotify (Invalid cross-device link), as watch.mode wants it: the agent ends at its start with \
                 78 → it is a btrfs subvolume, which cannot be marked",
                "note: 4,000",
            ],
        ),
        (
            "a named one",
            Mode::Inotify,
            |_, target| site_of(target).probes.fanotify = Err(Errno::XDEV),
            [
                "note: not used, as configured (watch.mode)",
                "ok: by inotify, as configured",
                "ok: 4,000, a watch each, of 100,000",
            ],
        ),
        (
            "none, as configured",
            Mode::Sweep,
            |_, _| {},
            [
                "note: not used, as configured (watch.mode)",
                "note: by sweeps alone, as configured",
                "note: 4,000, none watched, as configured: a change is found by the next sweep, and never if it is put back \
                 before",
            ],
        ),
        (
            "unknown capabilities",
            Mode::Auto,
            |host, _| host.capabilities = Err("no /proc".into()),
            [
                "note: whether it is possible for whole file systems is not known",
                "ok: by fanotify",
                "ok: 4,000, under one mark for their file system",
            ],
        ),
    ];
    for (name, mode, change, expected) in cases {
        let (mut host, mut target) = (good_host(), target(Ok(good_site())));
        change(&mut host, &mut target);
        let rows = judge(&host, &setting(mode), &[target]);
        for (topic, expected) in ["fanotify", "watching", "directories"].into_iter().zip(expected) {
            let row = rows.iter().find(|row| row.topic == topic).unwrap();
            let word = match row.state {
                State::Fine => "ok",
                State::Note => "note",
                State::Missed => "missed",
                State::Unknown => "unknown",
            };
            let remedy = if row.remedy.is_empty() { String::new() } else { format!(" → {}", row.remedy) };
            assert_eq!(format!("{word}: {}{remedy}", row.text), expected, "{name}: {topic}");
        }
    }
}

#[test]
fn the_three_bounds_are_said_of_each_target() {
    let text = |watch: Watch, fs_type: &str, entries: usize| {
        let mut target = target(Ok(good_site()));
        target.manifest = Ok(entries);
        site_of(&mut target).mount = on(fs_type);
        let rows = judge(&good_host(), &Setting { watch, threads: 2 }, &[target]);
        let of = |topic: &str| rows.iter().find(|row| row.topic == topic).unwrap().text.clone();
        (of("bounds"), of("blind spots"))
    };
    let watch = |mode| Watch { mode, ..Watch::default() };
    let (bounds, blind) = text(watch(Mode::Auto), "ext4", 1000);
    assert_eq!(bounds, "event within 1s; sweep every 10m, give or take a tenth; everything read within 24h");
    let full = "when everything was read once more: stored through a shared mapping, written to the device below the file system";
    let truncated = "written through a descriptor that stays open, truncated by its path";
    assert_eq!(blind, format!("found by the next sweep: {truncated}; {full}"));
    let (bounds, blind) = text(watch(Mode::Inotify), "overlay", 200_001);
    assert_eq!(bounds, "event within 1s; sweep every 1m, give or take a tenth; everything read within 24h");
    let overlay = "changed through a hard link outside of the root, changed in the layers below an overlay";
    assert_eq!(blind, format!("found by the next sweep: {overlay}; {full}"));
    let (bounds, _) = text(watch(Mode::Inotify), "ext4", 200_002);
    assert!(bounds.contains("sweep every 5m"), "{bounds}");
    let configured =
        Watch { sweep: Some(Duration::from_secs(90)), full: Duration::from_hours(3), ..watch(Mode::Sweep) };
    let (bounds, blind) = text(configured, "ext4", 1000);
    assert_eq!(bounds, "event none; sweep every 90s, give or take a tenth; everything read within 3h");
    assert_eq!(blind, format!("found by the next sweep: nothing tells of a change; {full}"));
}

#[test]
fn without_a_measure_of_pressure_nothing_is_missed_but_no_room_is_made() {
    let row = |answer| {
        let host = Host { probes: Probes { pressure: answer, ..good_host().probes }, ..good_host() };
        judge(&host, &inotify(), &[]).into_iter().find(|row| row.topic == "pressure").unwrap()
    };
    let measured = row(Ok(()));
    assert_eq!(measured.state, State::Fine);
    assert!(measured.text.contains("scans make room"), "{measured:?}");
    for (error, remedy) in [(Errno::NOENT, ""), (Errno::OPNOTSUPP, "start the kernel with psi=1")] {
        let Row { state, text, remedy: said, .. } = row(Err(error));
        assert_eq!((state, said.as_str()), (State::Note, remedy));
        assert!(text.contains("not measured here") && text.contains("do not make room"), "{text}");
    }
}

/// A change of a good target, and the rows that it costs.
type TargetCase = (&'static str, fn(&mut Target), &'static [&'static str]);

fn site_of(target: &mut Target) -> &mut Site {
    target.site.as_mut().unwrap()
}

fn survey_of(target: &mut Target) -> &mut Survey {
    site_of(target).survey.as_mut().unwrap()
}

fn on(fs_type: &str) -> Known<Mount> {
    Ok(parse(format!("60 27 0:50 / /srv rw - {fs_type} src rw\n").as_bytes()).unwrap().remove(0))
}

fn mounted_inside(target: &mut Target, path: &str, fs_type: &str) {
    site_of(target).inside = Ok(vec![(TreePath::new(path).unwrap(), on(fs_type).unwrap())]);
}

#[test]
fn what_a_root_lacks_is_said_with_what_to_do() {
    let cases: [TargetCase; 23] = [
        (
            "no manifest",
            |target| target.manifest = Err("/m: No such file".into()),
            &[
                "manifest missed: cannot be used, so nothing is compared: /m: No such file → driftlock check-config says \
               everything that the agent would refuse",
            ],
        ),
        (
            "a closed root",
            |target| target.site = Err(Closed { why: "/srv/shop: Permission denied".into(), denied: true }),
            &["root missed: cannot be opened: /srv/shop: Permission denied → give the agent CAP_DAC_READ_SEARCH \
               (AmbientCapabilities= in its unit)"],
        ),
        (
            "no root",
            |target| target.site = Err(Closed { why: "/srv/shop: No such file".into(), denied: false }),
            &["root missed: cannot be opened: /srv/shop: No such file"],
        ),
        (
            "a root whose names cannot be read",
            |target| (site_of(target).readable, site_of(target).survey) = (Err(Errno::ACCESS), None),
            &["root missed: /srv/shop cannot be read: Permission denied → give the agent CAP_DAC_READ_SEARCH \
               (AmbientCapabilities= in its unit)"],
        ),
        (
            "a network file system",
            |target| (site_of(target).mount, site_of(target).survey) = (on("nfs4"), None),
            &[
                "root missed: /srv/shop, on nfs4 (src); a change made elsewhere gives no event: found by the next \
                 sweep, and never if it is put back before → watch it on the machine that holds it",
                "directories unknown: not counted, and not tried for reading: that may take for ever there",
            ],
        ),
        (
            "a file system that is not known",
            |target| site_of(target).mount = Err("no table".into()),
            &["root unknown: /srv/shop, on a file system that is not known: no table"],
        ),
        ("an overlay", |target| site_of(target).mount = on("overlay"), &[]),
        (
            "more directories than watches",
            |target| survey_of(target).directories = 100_001,
            &[
                "directories missed: 100,001, but 100,000 watches: a change beyond them is found by the next sweep, and \
               never if it is put back before → sysctl fs.inotify.max_user_watches=262144",
            ],
        ),
        ("as many directories as watches", |target| survey_of(target).directories = 100_000, &[]),
        (
            "more directories than can be counted",
            |target| survey_of(target).end = End::Bound,
            &[
                "directories unknown: more than 4,000; whether all of them can be watched is not known",
                "reading unknown: only 10,000,000 entries were tried",
            ],
        ),
        (
            "a watch that is refused",
            |target| site_of(target).probes.inotify = Err(Errno::ACCESS),
            &["directories missed: 4,000, not watched (Permission denied): a change is found by the next sweep, and \
               never if it is put back before → see inotify above"],
        ),
        (
            "a watch that cannot be tried",
            |target| site_of(target).probes.inotify = Err(Errno::NOENT),
            &["directories unknown: 4,000; whether they can be watched is not known without /proc"],
        ),
        (
            "paths that cannot be read with every permission",
            |target| {
                survey_of(target).unreadable = 1234;
                survey_of(target).examples = vec![TreePath::new("etc/a\nb").unwrap()];
            },
            &["reading missed: 1,234 of its paths cannot be read or verified: etc/a\\x0ab, …"],
        ),
        (
            "directories that fail",
            |target| survey_of(target).failed = 2,
            &["reading unknown: 2 directories could not be looked at: failing, or too deep"],
        ),
        (
            "a mount inside",
            |target| mounted_inside(target, "var/data", "xfs"),
            &[
                "mounts inside missed: var/data (xfs): what lies there cannot be verified → name them in mounts_allowed, \
               or set mounts = \"cross\", for this target",
            ],
        ),
        (
            "a mount that is allowed",
            |target| {
                mounted_inside(target, "var/data", "xfs");
                target.mounts_allowed.insert(TreePath::new("var/data").unwrap());
            },
            &[],
        ),
        (
            "a mount that is excluded",
            |target| {
                mounted_inside(target, "var/data", "xfs");
                target.left_out = LeftOut::new(None, Excludes::new(["var/**"], []).unwrap());
            },
            &[],
        ),
        (
            "mounts skipped",
            |target| {
                mounted_inside(target, "var/data", "xfs");
                target.mounts = Mounts::Skip;
            },
            &[],
        ),
        (
            "mounts crossed",
            |target| {
                mounted_inside(target, "var/data", "xfs");
                target.mounts = Mounts::Cross;
            },
            &[],
        ),
        (
            "a network mount crossed",
            |target| {
                mounted_inside(target, "var/data", "nfs");
                target.mounts = Mounts::Cross;
            },
            &["mounts inside missed: var/data (nfs): walked, as configured; a change made elsewhere gives no event: \
               found by the next sweep, and never if it is put back before"],
        ),
        ("what the kernel makes", |target| mounted_inside(target, "proc", "proc"), &[]),
        (
            "what the kernel makes, mounts crossed",
            |target| {
                mounted_inside(target, "net", "autofs");
                target.mounts = Mounts::Cross;
            },
            &[],
        ),
        (
            "unknown mounts inside",
            |target| site_of(target).inside = Err("too deep".into()),
            &["mounts inside unknown: not known: too deep"],
        ),
    ];
    for (name, change, expected) in cases {
        let mut target = target(Ok(good_site()));
        change(&mut target);
        assert_eq!(bad(&judge(&good_host(), &inotify(), &[target])), expected, "{name}");
    }
}

#[test]
fn a_place_that_differs_costs_only_the_target_that_has_it() {
    let mut host = good_host();
    let judged = |host: &Host, at: &str| {
        let mut site = good_site();
        site.at = at.into();
        bad(&judge(host, &inotify(), &[target(Ok(site))]))
    };
    host.ours = table("60 27 0:9 / /srv/shop/tmp rw - tmpfs none rw\n");
    let text = "mounts missed: /srv/shop/tmp is tmpfs (none) here, and ext4 (/dev/vda1) for PID 1: other files are seen \
                → take TemporaryFileSystem= out of the agent's unit";
    assert_eq!(judged(&host, "/srv/shop"), [text]);
    assert_eq!(judged(&host, "/srv/other"), [""; 0]);
    // Everything above counts too: the target is in it.
    host.ours = table("60 27 0:9 / /srv rw - tmpfs none rw\n");
    assert!(judged(&host, "/srv/shop")[0].starts_with("mounts missed: /srv/shop is tmpfs (none) here"));
    host.theirs = Err("hidden".into());
    assert_eq!(judged(&host, "/srv/shop").len(), 2);
}

#[test]
fn what_was_tried_for_a_target_is_not_missed_for_the_host_too() {
    let mut host = good_host();
    host.capabilities = Ok(Capabilities::default());
    let rows = judge(&host, &inotify(), &[target(Ok(good_site()))]);
    assert_eq!(bad(&rows), [""; 0]);
    let row = rows.iter().find(|row| row.topic == "reading" && row.target.is_none()).unwrap();
    assert_eq!((row.state, row.remedy.as_str()), (State::Note, ""));
}

#[test]
fn targets_share_the_watches_of_a_host() {
    let mut host = good_host();
    host.limits.watches = Ok(9000);
    let three = [target(Ok(good_site())), target(Ok(good_site())), target(Ok(good_site()))];
    let found = bad(&judge(&host, &inotify(), &three));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("directories missed: 4,000 and 8,000 of the targets above, but 9,000 watches"));
    for mode in [Mode::Sweep, Mode::Auto, Mode::Fanotify] {
        assert_eq!(bad(&judge(&host, &setting(mode), &three)), [""; 0], "no directory is watched");
    }
    host.limits.instances = Ok(2);
    let found = bad(&judge(&host, &inotify(), &three));
    assert!(found[0].starts_with("inotify missed: 2 instances for 3 targets"), "{found:?}");
}

#[test]
fn permissions_are_asked_for_where_they_are_not_held() {
    let mut host = good_host();
    host.capabilities = Ok(Capabilities::default());
    let mut target = target(Ok(good_site()));
    survey_of(&mut target).unreadable = 1;
    survey_of(&mut target).examples = vec![TreePath::new("etc/key").unwrap()];
    let text = "reading missed: 1 of its paths cannot be read or verified: etc/key → give the agent CAP_DAC_READ_SEARCH \
                (AmbientCapabilities= in its unit)";
    assert_eq!(bad(&judge(&host, &inotify(), &[target])), [text]);
}

#[test]
fn a_mount_on_a_mount_that_is_not_entered_is_not_told() {
    let mut target = target(Ok(good_site()));
    let mount = |path: &str| (TreePath::new(path).unwrap(), on("tmpfs").unwrap());
    site_of(&mut target).inside = Ok(vec![mount("dev"), mount("dev/pts"), mount("devices")]);
    let found = bad(&judge(&good_host(), &inotify(), &[target]));
    assert!(found[0].starts_with("mounts inside missed: dev (tmpfs), devices (tmpfs): what"), "{found:?}");
}

#[test]
fn many_names_are_cut_short() {
    let names = |count: usize| some_of((0..count).map(|n| n.to_string()).collect());
    assert_eq!(names(8), "0, 1, 2, 3, 4, 5, 6, 7");
    assert_eq!(names(1009), "0, 1, 2, 3, 4, 5, 6, 7 and 1,001 more");
}

#[test]
fn numbers_are_grouped() {
    for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (12_345, "12,345"), (1_234_567, "1,234,567")] {
        assert_eq!(grouped(number), text);
    }
}
