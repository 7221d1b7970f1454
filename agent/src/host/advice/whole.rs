//! Owns judging what concerns the whole host. Must not own what concerns one root.

use driftlock_common::coverage::WatchMode;
use driftlock_common::path::Escaped;
use rustix::io::Errno;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::rung::{self, Way};
use super::{Row, Setting, State, Target, UNTIL_SWEEP, differs, grouped, some_of};
use crate::host::capability::Capability;
use crate::host::probe::words;
use crate::host::view::differences;
use crate::host::{Host, Namespace};
use crate::output::size;
use crate::scan::FILES_FOR_EACH_THREAD;

/// Descriptors that the agent holds whatever it watches: its journal, signals, connections to the collector and for
/// finding it.
const OWN_FILES: u64 = 24;
/// Descriptors for each target: the root, and the watching thread's.
const FILES_FOR_EACH_TARGET: u64 = 4;

pub(super) fn judge(host: &Host, setting: &Setting, targets: &[Target]) -> Vec<Row> {
    let mut rows = vec![
        rung::fanotify(host, setting),
        inotify(host, setting, targets),
        rung::sweep(setting),
        reading(host, targets),
    ];
    rows.extend(mounts(host, targets));
    rows.extend([crossing(host), files(host, setting, targets), memory(host), pressure(host), clock(host)]);
    rows
}

fn inotify(host: &Host, setting: &Setting, targets: &[Target]) -> Row {
    let row = |state, text: String| Row::new("inotify", state, text);
    if !setting.watch.mode.wants(WatchMode::Inotify) {
        return row(State::Note, "not used, as configured (watch.mode)".to_owned());
    }
    let ways: Vec<Way> = targets.iter().filter_map(|target| Way::of(setting, target)).collect();
    if !targets.is_empty() && ways.len() == targets.len() && ways.iter().all(|way| way.mode == WatchMode::Fanotify) {
        return row(State::Note, "not needed: every target can have fanotify".to_owned());
    }
    if let Err(error) = host.probes.inotify {
        let text = format!("cannot be used ({}): a change is {UNTIL_SWEEP}", words(error));
        return row(State::Missed, text).with(match error {
            Errno::MFILE => "raise fs.inotify.max_user_instances, or the limit of open files",
            _ => "let the kernel, or the container's seccomp filter, allow inotify",
        });
    }
    match (&host.limits.watches, &host.limits.instances) {
        (Ok(_), Ok(instances)) if targets.len() as u64 > *instances => {
            let text = format!("{} instances for {} targets: one is needed for each", instances, targets.len());
            row(State::Missed, text).with("raise fs.inotify.max_user_instances")
        }
        (Ok(watches), Ok(_)) => row(
            State::Fine,
            format!("in use; {} watches for all programs of a user, one a directory", grouped(*watches)),
        ),
        (Err(why), _) | (_, Err(why)) => row(State::Unknown, format!("in use; its limits are not known: {why}")),
    }
}

fn reading(host: &Host, targets: &[Target]) -> Row {
    let row = |state, text: String, remedy: &str| {
        // For a target it was tried, and is said there.
        if targets.is_empty() || state == State::Fine {
            Row::new("reading", state, text).with(remedy)
        } else {
            Row::new("reading", State::Note, text)
        }
    };
    let sets = match &host.capabilities {
        Ok(sets) => sets,
        Err(why) => return row(State::Unknown, format!("whether every file can be read is not known: {why}"), ""),
    };
    let held = [Capability::DAC_READ_SEARCH, Capability::DAC_OVERRIDE];
    let held = held.into_iter().find(|capability| sets.effective.has(*capability));
    match (held, &host.users) {
        (Some(held), Ok(Namespace::Host)) => row(State::Fine, format!("every file can be read ({held})"), ""),
        (Some(held), Ok(Namespace::Own)) => {
            let text = format!("{held} counts only for files of users that this user name space has");
            row(State::Missed, text, "run the agent outside of a user name space")
        }
        (Some(_), Err(why)) => row(State::Unknown, format!("whether capabilities count here is not known: {why}"), ""),
        (None, _) => {
            let text = format!("without CAP_DAC_READ_SEARCH: what user {} may not read is not verified", host.user);
            let allowed = sets.bounding.has(Capability::DAC_READ_SEARCH);
            row(State::Missed, text, if allowed { GRANT } else { GRANT_AND_ALLOW })
        }
    }
}

/// What helps against files that cannot be read.
pub(super) const GRANT: &str = "give the agent CAP_DAC_READ_SEARCH (AmbientCapabilities= in its unit)";
const GRANT_AND_ALLOW: &str =
    "give the agent CAP_DAC_READ_SEARCH (AmbientCapabilities= and CapabilityBoundingSet= in its unit)";

fn mounts(host: &Host, targets: &[Target]) -> Vec<Row> {
    let row = |state, text: String| vec![Row::new("mounts", state, text)];
    let (ours, theirs) = match (&host.ours, &host.theirs) {
        (Ok(ours), Ok(theirs)) => (ours, theirs),
        (Err(why), _) | (_, Err(why)) => {
            let text = format!("whether PID 1 sees other files than this process cannot be known: {why}");
            let mut rows = row(State::Unknown, text);
            rows[0].remedy =
                "run it with the host's /proc, where nothing hides /proc/1 (ProtectProc=, hidepid)".to_owned();
            return rows;
        }
    };
    let found = differences(ours, theirs, b"/");
    if found.is_empty() {
        return row(State::Fine, format!("{}, the same files as PID 1 sees", grouped(ours.len() as u64)));
    }
    if targets.is_empty() {
        return found.iter().map(differs).collect();
    }
    let points = some_of(found.iter().map(|difference| Escaped(&difference.point).to_string()).collect());
    row(State::Note, format!("other files than PID 1 sees at {}: see below if a target lies there", points))
}

fn crossing(host: &Host) -> Row {
    let row = |state, text: &str| Row::new("mount points", state, text);
    match (host.probes.openat2, host.probes.mount_ids) {
        (Ok(()), Ok(())) => row(State::Fine, "told from the root's own directories (openat2, mount ids)"),
        (Ok(()), Err(_)) => row(State::Fine, "told from the root's own directories (openat2)"),
        (Err(_), Ok(())) => row(State::Fine, "told from the root's own directories (mount ids)"),
        (Err(_), Err(_)) => {
            let text = "a part of the same file system mounted inside a root passes for the root's own files";
            row(State::Missed, text).with("Linux 5.8, or a seccomp filter that allows openat2")
        }
    }
}

fn files(host: &Host, setting: &Setting, targets: &[Target]) -> Row {
    let own = OWN_FILES + FILES_FOR_EACH_TARGET * targets.len().max(1) as u64;
    let needed = own + setting.threads * FILES_FOR_EACH_THREAD as u64;
    let row = |state, text: String| Row::new("open files", state, text);
    match host.limits.files {
        None => row(State::Fine, "no limit".to_owned()),
        Some(files) if files >= needed => row(State::Fine, format!("{}, {needed} are needed", grouped(files))),
        Some(files) => {
            let text = format!("{files} are allowed, {needed} are needed: what cannot be opened is not verified");
            row(State::Missed, text).with(format!("LimitNOFILE={needed} or more in the agent's unit"))
        }
    }
}

/// Whatever it is, nothing is missed for it: an agent that is killed is missed itself.
fn memory(host: &Host) -> Row {
    match &host.limits.memory {
        Ok(None) => Row::new("memory", State::Fine, "no limit by a control group"),
        Ok(Some(bytes)) => {
            Row::new("memory", State::Note, format!("{} by control group, page cache included", size(*bytes)))
        }
        Err(why) => Row::new("memory", State::Note, format!("limit not known: {why}")),
    }
}

fn pressure(host: &Host) -> Row {
    match host.probes.pressure {
        Ok(()) => Row::new("pressure", State::Fine, "measured by the kernel (PSI): scans make room for others"),
        Err(error) => {
            let text = format!("not measured here ({}): scans do not make room for others", words(error));
            Row::new("pressure", State::Note, text).with(match error {
                Errno::OPNOTSUPP => "start the kernel with psi=1",
                _ => "",
            })
        }
    }
}

fn clock(host: &Host) -> Row {
    let shown = |time| OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_else(|_| "a time out of range".to_owned());
    // To the second: nobody reads on.
    let second = |time| {
        let text = shown(time);
        text.split('.').next().map_or_else(|| text.clone(), |whole| format!("{}Z", whole.trim_end_matches('Z')))
    };
    let now = second(host.clock.now);
    if let Ok(program) = host.clock.program
        && program > host.clock.now
    {
        let text =
            format!("{now} is before this program was made ({}): reports will carry wrong times", second(program));
        return Row::new("clock", State::Unknown, text).with("set the clock, and keep it (systemd-timesyncd, chrony)");
    }
    let source = host
        .clock
        .source
        .as_ref()
        .map_or_else(|_| String::new(), |source| format!(", by {}", Escaped(source.as_bytes())));
    Row::new("clock", State::Fine, format!("{now}{source}"))
}
