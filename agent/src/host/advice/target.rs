//! Owns judging one root. Must not own what concerns the whole host.

use driftlock_common::path::{Escaped, TreePath};
use rustix::io::Errno;

use super::rung::{self, Way};
use super::whole::GRANT;
use super::{Row, Setting, State, Target, UNTIL_SWEEP, View, differs, grouped, some_of};
use crate::host::file_system::{Kind, is_virtual};
use crate::host::mountinfo::Mount;
use crate::host::probe::words;
use crate::host::site::Site;
use crate::host::survey::{End, MOST_ENTRIES, Survey};
use crate::host::view::differences;
use crate::host::{Host, Namespace};
use crate::scan::Mounts;

/// Adds the rows of `target`. `watched` counts the directories of the targets before it.
pub(super) fn judge(host: &Host, setting: &Setting, target: &Target, watched: &mut u64, rows: &mut Vec<Row>) {
    let mut found = vec![manifest(target)];
    match &target.site {
        Err(closed) => {
            let row = Row::new("root", State::Missed, format!("cannot be opened: {}", closed.why));
            found.push(if closed.denied { row.with(GRANT) } else { row });
        }
        Ok(site) => {
            found.push(root(target, site));
            let way = Way::of(setting, target);
            found.extend(way.iter().flat_map(|way| rung::judge(host, setting, way)));
            if site.readable.is_ok() {
                found.extend(way.map(|way| directories(host, &way, site, watched)));
                found.extend(reading(host, site));
            }
            found.extend(inside(target, site));
            if target.view == View::Ours {
                found.extend(view(host, site));
            }
            found.extend(page_cache(site));
        }
    }
    rows.extend(found.into_iter().map(|row| Row { target: Some(target.name.clone()), ..row }));
}

fn manifest(target: &Target) -> Row {
    match &target.manifest {
        Ok(entries) => Row::new("manifest", State::Fine, format!("{} entries are sealed", grouped(*entries as u64))),
        Err(why) => Row::new("manifest", State::Missed, format!("cannot be used, so nothing is compared: {why}"))
            .with("driftlock check-config says everything that the agent would refuse"),
    }
}

fn root(target: &Target, site: &Site) -> Row {
    if let Err(error) = site.readable {
        let row = Row::new("root", State::Missed, format!("{} cannot be read: {}", target.root, words(error)));
        return if matches!(error, Errno::ACCESS | Errno::PERM) { row.with(GRANT) } else { row };
    }
    let mount = match &site.mount {
        Ok(mount) => mount,
        Err(why) => {
            let text = format!("{}, on a file system that is not known: {why}", target.root);
            return Row::new("root", State::Unknown, text);
        }
    };
    let on = format!("{}, on {} ({})", target.root, Escaped(&mount.fs_type), Escaped(&mount.source));
    let (state, what) = kind(mount);
    let row = Row::new("root", state, format!("{on}{what}"));
    if state == State::Missed { row.with("watch it on the machine that holds it") } else { row }
}

/// What the kind of a file system costs.
fn kind(mount: &Mount) -> (State, String) {
    match Kind::of(&mount.fs_type) {
        Kind::Local => (State::Fine, String::new()),
        Kind::Overlay => (State::Note, format!("; a change made in its layers gives no event: {UNTIL_SWEEP}")),
        Kind::Network => (State::Missed, format!("; a change made elsewhere gives no event: {UNTIL_SWEEP}")),
        Kind::User => (State::Missed, format!("; its program may change it without an event: {UNTIL_SWEEP}")),
        Kind::Kernel => (State::Note, "; the kernel makes what is there".to_owned()),
    }
}

fn directories(host: &Host, way: &Way, site: &Site, watched: &mut u64) -> Row {
    let row = |state, text: String| Row::new("directories", state, text);
    let Some(survey) = &site.survey else {
        return row(State::Unknown, "not counted, and not tried for reading: that may take for ever there".to_owned());
    };
    let count = count(survey);
    if let Some(row) = rung::unwatched(way, &count) {
        return row;
    }
    if host.probes.inotify.is_ok() && site.probes.inotify == Err(Errno::NOENT) {
        // The probe names the directory by way of /proc.
        return row(State::Unknown, format!("{count}; whether they can be watched is not known without /proc"));
    }
    if let Err(error) = site.probes.inotify {
        return row(State::Missed, format!("{count}, not watched ({}): a change is {UNTIL_SWEEP}", words(error)))
            .with("see inotify above");
    }
    let Ok(limit) = &host.limits.watches else {
        return row(State::Unknown, format!("{count}; whether all of them can be watched is not known"));
    };
    let before = std::mem::replace(watched, watched.saturating_add(survey.directories));
    if *watched > *limit {
        let others = if before > 0 { format!(" and {} of the targets above", grouped(before)) } else { String::new() };
        let text = format!("{count}{others}, but {} watches: a change beyond them is {UNTIL_SWEEP}", grouped(*limit));
        let enough = watched.saturating_mul(2).checked_next_power_of_two().unwrap_or(u64::MAX);
        return row(State::Missed, text).with(match host.users {
            Ok(Namespace::Own) => format!("raise user.max_inotify_watches in its user name space to {enough}"),
            Ok(Namespace::Host) | Err(_) => format!("sysctl fs.inotify.max_user_watches={enough}"),
        });
    }
    match survey.end {
        End::Whole => row(State::Fine, format!("{count}, a watch each, of {}", grouped(*limit))),
        End::Bound => row(State::Unknown, format!("{count}; whether all of them can be watched is not known")),
    }
}

fn count(survey: &Survey) -> String {
    match survey.end {
        End::Whole => grouped(survey.directories),
        End::Bound => format!("more than {}", grouped(survey.directories)),
    }
}

fn reading(host: &Host, site: &Site) -> Vec<Row> {
    let Some(survey) = &site.survey else { return Vec::new() };
    let mut rows = Vec::new();
    let mut row = |state, text: String, remedy: &str| rows.push(Row::new("reading", state, text).with(remedy));
    if survey.unreadable > 0 {
        let mut names: Vec<String> = survey.examples.iter().map(shown).collect();
        if survey.unreadable > names.len() as u64 {
            names.push("…".to_owned());
        }
        let text =
            format!("{} of its paths cannot be read or verified: {}", grouped(survey.unreadable), names.join(", "));
        // Where every permission is held something else refuses: a file system of a user, a security module.
        row(State::Missed, text, if host.reads_everything() { "" } else { GRANT });
    }
    if survey.failed > 0 {
        let text = format!("{} directories could not be looked at: failing, or too deep", grouped(survey.failed));
        row(State::Unknown, text, "");
    }
    if survey.end == End::Bound {
        let text = format!("only {} entries were tried", grouped(MOST_ENTRIES));
        row(State::Unknown, text, "");
    }
    if rows.is_empty() {
        rows.push(Row::new("reading", State::Fine, "every path can be read"));
    }
    rows
}

fn shown(path: &TreePath) -> String {
    if path.is_root() { ".".to_owned() } else { path.escaped().to_string() }
}

fn inside(target: &Target, site: &Site) -> Vec<Row> {
    let row = |state, text: String| Row::new("mounts inside", state, text);
    let mounts = match &site.inside {
        Ok(mounts) => mounts,
        Err(why) => return vec![row(State::Unknown, format!("not known: {why}"))],
    };
    let (mut lost, mut left_out, mut virtuals, mut walked) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut top: Option<&TreePath> = None;
    for (path, mount) in mounts {
        if top.is_some_and(|top| path.is_within(top)) {
            // Never come to: the one that it lies on is not entered.
            continue;
        }
        if target.mounts != Mounts::Cross || is_virtual(mount) {
            top = Some(path);
        }
        let text = format!("{} ({})", path.escaped(), Escaped(&mount.fs_type));
        if is_virtual(mount) {
            virtuals.push(text);
            continue;
        }
        let excluded = target.left_out.has(path);
        match target.mounts {
            _ if excluded || target.mounts_allowed.contains(path) => left_out.push(text),
            Mounts::Skip => left_out.push(text),
            Mounts::Report => lost.push(text),
            Mounts::Cross => walked.push((text, mount)),
        }
    }
    let mut rows = Vec::new();
    if !lost.is_empty() {
        let text = format!("{}: what lies there cannot be verified", some_of(lost));
        rows.push(
            row(State::Missed, text).with("name them in mounts_allowed, or set mounts = \"cross\", for this target"),
        );
    }
    if !left_out.is_empty() {
        rows.push(row(State::Note, format!("{}: left out, as configured", some_of(left_out))));
    }
    if !virtuals.is_empty() {
        rows.push(row(State::Note, format!("{}: left out, as what the kernel makes", some_of(virtuals))));
    }
    for (text, mount) in walked {
        let (state, what) = kind(mount);
        rows.push(row(state, format!("{text}: walked, as configured{what}")));
    }
    if rows.is_empty() {
        rows.push(row(State::Fine, "none".to_owned()));
    }
    rows
}

fn view(host: &Host, site: &Site) -> Vec<Row> {
    let row = |state, text: String| vec![Row::new("mounts", state, text)];
    match (&host.ours, &host.theirs) {
        (Ok(ours), Ok(theirs)) => {
            let found = differences(ours, theirs, &site.at);
            let same = || row(State::Fine, "the same files as PID 1 sees".to_owned());
            if found.is_empty() { same() } else { found.iter().map(differs).collect() }
        }
        (Err(_), _) | (_, Err(_)) => {
            row(State::Unknown, "whether PID 1 sees other files there cannot be known".to_owned())
        }
    }
}

fn page_cache(site: &Site) -> Option<Row> {
    let text = match site.probes.dontcache? {
        Ok(()) => "what is read does not stay in it (RWF_DONTCACHE)".to_owned(),
        Err(error) => format!(
            "no RWF_DONTCACHE ({}): what was not there before is let go of after, if the agent may see that",
            words(error)
        ),
    };
    Some(Row::new("page cache", State::Note, text))
}
