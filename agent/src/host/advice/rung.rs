//! Owns which way of watching a target can have here, why no better one, what that does not see, and by when it is found.
//! Must not own what else a root lacks.

use std::time::Duration;

use driftlock_common::coverage::{BlindSpot, Bound, WatchMode};
use rustix::io::Errno;

use super::{Row, Setting, State, Target, UNTIL_SWEEP};
use crate::config::{Mode, Watch};
use crate::host::capability::Capability;
use crate::host::file_system::Kind;
use crate::host::probe::words;
use crate::host::site::Site;
use crate::host::{Host, Known, Namespace};
use crate::watch::{EVENT_BOUND, blind_spots, remedy};

/// How a target would be watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// By what.
    pub mode: WatchMode,
    /// What that does not see at once there.
    pub blind: Vec<BlindSpot>,
    /// Better ways that are wanted and cannot be had, the best first, each with what the kernel says.
    pub refused: Vec<(WatchMode, Errno)>,
    /// By when what gives an event is found; `None` if nothing does.
    pub event: Option<Duration>,
    /// Time between two sweeps.
    pub sweep: Duration,
    /// In this time everything is read once.
    pub full: Duration,
}

impl Way {
    /// The one that `target` would get; `None` if its root cannot be opened.
    pub fn of(setting: &Setting, target: &Target) -> Option<Self> {
        let site = target.site.as_ref().ok()?;
        let Watch { mode: wanted, full, .. } = setting.watch;
        let mut refused = Vec::new();
        let steps = [(WatchMode::Fanotify, site.probes.fanotify), (WatchMode::Inotify, site.probes.inotify)];
        let taken = steps.into_iter().filter(|(mode, _)| wanted.wants(*mode)).find(|(mode, answer)| match answer {
            Ok(()) => true,
            Err(error) => {
                refused.push((*mode, *error));
                false
            }
        });
        let mode = taken.map_or(WatchMode::Sweep, |(mode, _)| mode);
        // The root is counted too.
        let entries = target.manifest.as_ref().map_or(0, |entries| entries.saturating_sub(1));
        Some(Self {
            mode,
            blind: blind_spots(mode).iter().copied().filter(|spot| is_there(*spot, site)).collect(),
            refused,
            event: (mode != WatchMode::Sweep).then_some(EVENT_BOUND),
            sweep: setting.watch.sweeps(entries).usual(mode),
            full,
        })
    }
}

/// Whether the file system can be changed in such a way.
fn is_there(spot: BlindSpot, site: &Site) -> bool {
    let kind = site.mount.as_ref().ok().map(|mount| Kind::of(&mount.fs_type));
    match spot {
        BlindSpot::LowerLayer => kind.is_none_or(|kind| kind == Kind::Overlay),
        BlindSpot::Remote => kind.is_none_or(Kind::may_hang),
        _ => true,
    }
}

/// The rows of a target.
pub(super) fn judge(host: &Host, setting: &Setting, way: &Way) -> Vec<Row> {
    vec![watching(host, setting, way), blind(way), bounds(way)]
}

fn watching(host: &Host, setting: &Setting, way: &Way) -> Row {
    let row = |state, text: String| Row::new("watching", state, text);
    let name = way.mode.name();
    let Some((better, error)) = way.refused.first() else {
        return match setting.watch.mode {
            Mode::Auto => row(State::Fine, format!("by {name}")),
            Mode::Sweep => row(State::Note, "by sweeps alone, as configured".to_owned()),
            Mode::Fanotify | Mode::Inotify => row(State::Fine, format!("by {name}, as configured")),
        };
    };
    let refused = format!("not by {} ({})", better.name(), words(*error));
    let help = help(host, *better, *error);
    match setting.watch.mode {
        Mode::Fanotify => {
            let text = format!("{refused}, as watch.mode wants it: the agent ends at its start with 78");
            row(State::Missed, text).with(if help.is_empty() { "watch.mode = \"auto\"" } else { help })
        }
        // What that costs is said of the directories.
        _ => row(State::Note, format!("by {name}; {refused}")).with(help),
    }
}

fn blind(way: &Way) -> Row {
    let of = |bound: Bound| -> Vec<&str> {
        way.blind.iter().filter(|spot| spot.bound() == bound).map(|spot| spot.meaning()).collect()
    };
    let parts = [(Bound::Sweep, "by the next sweep"), (Bound::Full, "when everything was read once more")];
    let text: Vec<String> = parts
        .into_iter()
        .filter(|(bound, _)| !of(*bound).is_empty())
        .map(|(bound, when)| format!("{when}: {}", of(bound).join(", ")))
        .collect();
    Row::new("blind spots", State::Note, format!("found {}", text.join("; ")))
}

fn bounds(way: &Way) -> Row {
    let event = way.event.map_or_else(|| "none".to_owned(), |bound| format!("within {}", time(bound)));
    let (sweep, full) = (time(way.sweep), time(way.full));
    let text = format!("event {event}; sweep every {sweep}, give or take a tenth; everything read within {full}");
    Row::new("bounds", State::Fine, text)
}

/// What the host allows, whatever is watched.
pub(super) fn fanotify(host: &Host, setting: &Setting) -> Row {
    let row = |state, text: &str| Row::new("fanotify", state, text);
    let forced = setting.watch.mode == Mode::Fanotify;
    if !setting.watch.mode.wants(WatchMode::Fanotify) {
        return row(State::Note, "not used, as configured (watch.mode)");
    }
    let admin = has_admin(host);
    match (host.probes.fanotify, &admin) {
        (Ok(()), Ok(true)) => {
            row(State::Fine, "possible: one mark for a whole file system, no watches, and it names who wrote")
        }
        (Ok(()), Err(_)) => row(State::Note, "whether it is possible for whole file systems is not known"),
        (answer, _) => {
            let error = answer.err().unwrap_or(Errno::PERM);
            let state = if forced { State::Missed } else { State::Note };
            let text = format!("not possible for whole file systems ({})", words(error));
            Row::new("fanotify", state, text).with(help(host, WatchMode::Fanotify, error))
        }
    }
}

fn has_admin(host: &Host) -> Known<bool> {
    host.capabilities.as_ref().map(|sets| sets.effective.has(Capability::SYS_ADMIN)).map_err(Clone::clone)
}

/// What would help against `error`, with what is known of the process.
fn help(host: &Host, mode: WatchMode, error: Errno) -> &'static str {
    match (mode, error, has_admin(host), host.users.as_ref()) {
        (WatchMode::Fanotify, Errno::PERM, _, Ok(Namespace::Own)) => {
            "run the agent outside of a user name space: CAP_SYS_ADMIN counts only there"
        }
        (WatchMode::Fanotify, Errno::PERM, Ok(false), _) => {
            "give the agent CAP_SYS_ADMIN (fanotify.conf of the package's examples; securityContext.capabilities)"
        }
        (WatchMode::Fanotify, Errno::PERM, Ok(true), Ok(Namespace::Host)) => {
            "let the filter of system calls of its unit or container allow fanotify_init and fanotify_mark"
        }
        _ => remedy(mode, error),
    }
}

/// How often is looked, for targets that are not known.
pub(super) fn sweep(setting: &Setting) -> Row {
    let every = |mode, entries| time(setting.watch.sweeps(entries).usual(mode));
    let (marked, few, many) =
        (every(WatchMode::Fanotify, 0), every(WatchMode::Inotify, 0), every(WatchMode::Inotify, usize::MAX));
    let text = match setting.watch.sweep {
        Some(_) => format!("every {marked}, as configured"),
        None => format!("every {marked} on fanotify, else every {few}, or {many} for a large target"),
    };
    Row::new("sweep", State::Fine, format!("{text}; finds what gives no event"))
}

/// What is to be said of directories that a mark covers, or that nothing watches although it was wanted.
pub(super) fn unwatched(way: &Way, count: &str) -> Option<Row> {
    let row = |state, text: String| Some(Row::new("directories", state, text));
    match way.mode {
        WatchMode::Fanotify => row(State::Fine, format!("{count}, under one mark for their file system")),
        WatchMode::Sweep if way.refused.is_empty() => {
            row(State::Note, format!("{count}, none watched, as configured: a change is {UNTIL_SWEEP}"))
        }
        WatchMode::Sweep if way.refused.iter().all(|(mode, _)| *mode == WatchMode::Fanotify) => {
            row(State::Note, count.to_owned())
        }
        WatchMode::Inotify | WatchMode::Sweep | WatchMode::Away => None,
    }
}

/// In the words of the configuration.
pub(super) fn time(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match () {
        () if seconds >= 3600 && seconds.is_multiple_of(3600) => format!("{}h", seconds / 3600),
        () if seconds > 0 && seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        () => format!("{duration:?}"),
    }
}
