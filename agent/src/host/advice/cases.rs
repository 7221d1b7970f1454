//! Made-up hosts and roots, and the words that must be said of them. Owns one case for each thing that can be wrong.

use std::time::{Duration, SystemTime};

use driftlock_common::path::TreePath;
use driftlock_common::pattern::Excludes;
use rustix::io::Errno;

use super::*;
use crate::host::capability::{Capabilities, Capability, Set};
use crate::host::limit::Limits;
use crate::host::mountinfo::parse;
use crate::host::probe::{Probes, RootProbes};
use crate::host::survey::{End, Survey};
use crate::host::{Clock, Namespace};

const TABLE: &str = "27 1 254:0 / / rw - ext4 /dev/vda1 rw\n22 27 0:21 / /proc rw - proc proc rw\n";

const SETTING: Setting = Setting { events: Events::Inotify, sweep: Duration::from_mins(10), threads: 2 };

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
    let rows = judge(&good_host(), SETTING, &[target(Ok(good_site()))]);
    assert_eq!(bad(&rows), [""; 0]);
    assert_eq!(bad(&judge(&good_host(), SETTING, &[])), [""; 0]);
    let topics = |of: Option<&str>| -> Vec<&str> {
        rows.iter().filter(|row| row.target.as_deref() == of).map(|row| row.topic).collect()
    };
    let of_host = [
        "inotify",
        "fanotify",
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
    let of_target = ["manifest", "root", "directories", "reading", "mounts inside", "mounts", "fanotify", "page cache"];
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
        let found = bad(&judge(&host, SETTING, &[]));
        let expected: Vec<&str> = Some(expected).filter(|text| !text.is_empty()).into_iter().collect();
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn what_is_not_used_is_never_missed_and_said_to_be_unused() {
    let text = |change: fn(&mut Host), topic: &str| {
        let mut host = good_host();
        change(&mut host);
        let rows = judge(&host, SETTING, &[]);
        assert_eq!(bad(&rows).iter().filter(|row| !row.starts_with("reading")).count(), 0, "{rows:?}");
        let row = rows.into_iter().find(|row| row.topic == topic).unwrap();
        assert_eq!(row.state, State::Note);
        assert!(row.text.contains("not used by this version"), "{}", row.text);
        row.text
    };
    for (change, words) in [
        ((|_| {}) as fn(&mut Host), "possible, not used"),
        (|host| host.capabilities = Ok(Capabilities::default()), "without CAP_SYS_ADMIN"),
        (
            |host| {
                host.capabilities = Ok(Capabilities::default());
                host.probes.fanotify = Err(Errno::PERM);
            },
            "not possible without CAP_SYS_ADMIN",
        ),
        (|host| host.probes.fanotify = Err(Errno::PERM), "in spite of CAP_SYS_ADMIN"),
        (|host| host.probes.fanotify = Err(Errno::INVAL), "with this kernel (Invalid argument)"),
        (|host| host.capabilities = Err("no /proc".into()), "not known"),
    ] {
        let found = text(change, "fanotify");
        assert!(found.contains(words), "{found}");
    }
}

#[test]
fn without_a_measure_of_pressure_nothing_is_missed_but_no_room_is_made() {
    let row = |answer| {
        let host = Host { probes: Probes { pressure: answer, ..good_host().probes }, ..good_host() };
        judge(&host, SETTING, &[]).into_iter().find(|row| row.topic == "pressure").unwrap()
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
        assert_eq!(bad(&judge(&good_host(), SETTING, &[target])), expected, "{name}");
    }
}

#[test]
fn a_place_that_differs_costs_only_the_target_that_has_it() {
    let mut host = good_host();
    let judged = |host: &Host, at: &str| {
        let mut site = good_site();
        site.at = at.into();
        bad(&judge(host, SETTING, &[target(Ok(site))]))
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
    let rows = judge(&host, SETTING, &[target(Ok(good_site()))]);
    assert_eq!(bad(&rows), [""; 0]);
    let row = rows.iter().find(|row| row.topic == "reading" && row.target.is_none()).unwrap();
    assert_eq!((row.state, row.remedy.as_str()), (State::Note, ""));
}

#[test]
fn targets_share_the_watches_of_a_host() {
    let mut host = good_host();
    host.limits.watches = Ok(9000);
    let three = [target(Ok(good_site())), target(Ok(good_site())), target(Ok(good_site()))];
    let found = bad(&judge(&host, SETTING, &three));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("directories missed: 4,000 and 8,000 of the targets above, but 9,000 watches"));
    let sweep = Setting { events: Events::Unwanted, ..SETTING };
    assert_eq!(bad(&judge(&host, sweep, &three)), [""; 0], "nothing is watched");
    host.limits.instances = Ok(2);
    let found = bad(&judge(&host, SETTING, &three));
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
    assert_eq!(bad(&judge(&host, SETTING, &[target])), [text]);
}

#[test]
fn a_mount_on_a_mount_that_is_not_entered_is_not_told() {
    let mut target = target(Ok(good_site()));
    let mount = |path: &str| (TreePath::new(path).unwrap(), on("tmpfs").unwrap());
    site_of(&mut target).inside = Ok(vec![mount("dev"), mount("dev/pts"), mount("devices")]);
    let found = bad(&judge(&good_host(), SETTING, &[target]));
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
