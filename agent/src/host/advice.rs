//! Owns what follows from a host and its roots for who watches them: what would be missed, why, and what to do about it.
//! Pure: everything it judges was read before. Must not own the form in which it is shown.
//!
//! Missed is whatever falls short of what driftlock promises; what it promises to nobody is no row's matter.

mod rung;
mod target;
mod whole;

use driftlock_common::path::{Escaped, TreePath};
use std::collections::BTreeSet;

use super::mountinfo::Mount;
use super::site::Site;
use super::view::{Cause, Difference};
use super::{Host, Known};
use crate::baseline::LeftOut;
use crate::config::Watch;
use crate::scan::Mounts;

pub use rung::Way;

/// What a row amounts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As it should be.
    Fine,
    /// Good to know; nothing is missed for it.
    Note,
    /// Something would be missed, or found later than promised.
    Missed,
    /// It cannot be told whether something would be missed.
    Unknown,
}

/// One thing that was judged. Its texts are one line each, names in them escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The target's name; `None` is the host.
    pub target: Option<String>,
    /// What it is about, a word or two.
    pub topic: &'static str,
    /// What it amounts to.
    pub state: State,
    /// What is so, and what that means.
    pub text: String,
    /// What to do; empty if there is nothing to do.
    pub remedy: String,
}

/// Whose files a root shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Those of this process, which may be others than PID 1's.
    Ours,
    /// Those of the process that the root belongs to.
    Theirs,
}

/// What is to be watched, and how.
#[derive(Debug)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its root, as configured.
    pub root: String,
    /// Whose mount table the root lies in.
    pub view: View,
    /// Whether its manifest can be used: how many entries are sealed.
    pub manifest: Known<usize>,
    /// The root as it was found.
    pub site: Result<Site, Closed>,
    /// What to do about mounts inside.
    pub mounts: Mounts,
    /// Mount points that are as wanted.
    pub mounts_allowed: BTreeSet<TreePath>,
    /// What is left out, by the manifest and locally.
    pub left_out: LeftOut,
}

/// Why a root could not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// One line.
    pub why: String,
    /// Whether it was for want of a permission.
    pub denied: bool,
}

/// How the agent is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// How targets are to be watched.
    pub watch: Watch,
    /// Hashing threads.
    pub threads: u64,
}

/// Judges the host and every target. Without targets whatever one could lose is missed.
pub fn judge(host: &Host, setting: &Setting, targets: &[Target]) -> Vec<Row> {
    let mut rows = whole::judge(host, setting, targets);
    let mut watched = 0;
    for target in targets {
        target::judge(host, setting, target, &mut watched, &mut rows);
    }
    rows
}

/// What costs a hint: found late, or never if it is put back before.
const UNTIL_SWEEP: &str = "found by the next sweep, and never if it is put back before";

impl Row {
    fn new(topic: &'static str, state: State, text: impl Into<String>) -> Self {
        Self { target: None, topic, state, text: text.into(), remedy: String::new() }
    }

    fn with(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// Whether it takes the verdict away.
    pub const fn counts(&self) -> bool {
        matches!(self.state, State::Missed | State::Unknown)
    }
}

/// Digits in groups of three.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Names for one line: when there are many, only how many more.
fn some_of(mut names: Vec<String>) -> String {
    const MOST: usize = 8;
    let more = names.len().saturating_sub(MOST);
    names.truncate(MOST);
    let names = names.join(", ");
    if more == 0 { names } else { format!("{names} and {} more", grouped(more as u64)) }
}

fn mounted(mount: Option<&Mount>) -> String {
    let Some(mount) = mount else { return "nothing".to_owned() };
    let part = if mount.root == b"/" { String::new() } else { format!(", its {}", Escaped(&mount.root)) };
    format!("{} ({}{part})", Escaped(&mount.fs_type), Escaped(&mount.source))
}

/// A row for a place where this process sees other files than PID 1.
fn differs(difference: &Difference) -> Row {
    let (ours, theirs) = (mounted(difference.ours.as_ref()), mounted(difference.theirs.as_ref()));
    let text = format!("{} is {ours} here, and {theirs} for PID 1: other files are seen", Escaped(&difference.point));
    Row::new("mounts", State::Missed, text).with(match difference.cause {
        Cause::Unit(setting) => format!("take {setting} out of the agent's unit"),
        Cause::Root => "run the agent with the host's root directory, not in a container or chroot".to_owned(),
        Cause::NotPassedOn => {
            "restart the agent; its unit must not keep mounts out (PrivateMounts=, MountFlags=)".to_owned()
        }
    })
}

#[cfg(test)]
mod cases;
