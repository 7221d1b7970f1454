//! Owns showing how far a scan is, on a terminal, once it takes longer than a second. Must not own the counting.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use driftlock_common::drift::Attribute;
use driftlock_common::manifest::Manifest;
use driftlock_common::node::{FileType, Kind};
use driftlock_common::tree::EntryId;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::size;
use crate::scan::{Options, Progress};

/// An entry takes about as long as reading so many bytes: a few microseconds either way.
const ENTRY: u64 = 16 * 1024;
/// Rates are those of the last seconds: large files, and directories of small ones, come together.
const RATE: Duration = Duration::from_secs(5);
/// What is still to come is more like a longer while.
const LEFT: Duration = Duration::from_secs(30);

/// Does `work`, and shows how far it is meanwhile, if stderr is a terminal and `options` have something counted.
pub(super) fn during<T>(manifest: &Manifest, options: &Options, work: impl FnOnce() -> T) -> T {
    let Some(progress) = options.progress.as_deref().filter(|_| std::io::stderr().is_terminal()) else {
        return work();
    };
    // Closing it is the word to stop.
    let (stop, stopped) = sync_channel(0);
    thread::scope(|scope| {
        let draw = move || draw(&stopped, progress, || Amount::of(manifest, options));
        // Without the thread there is no progress to see, which no scan should fail for.
        let _drawing = thread::Builder::new().name("progress".into()).spawn_scoped(scope, draw);
        let done = work();
        drop(stop);
        done
    })
}

/// Draws until stopped, then clears its line.
fn draw(stopped: &Receiver<()>, progress: &Progress, whole: impl FnOnce() -> Amount) {
    const PATIENCE: Duration = Duration::from_secs(1);
    const REFRESH: Duration = Duration::from_millis(100);
    let waits = |time| matches!(stopped.recv_timeout(time), Err(RecvTimeoutError::Timeout));
    let now = || Amount { entries: progress.entries(), bytes: progress.bytes() };
    let started = Instant::now();
    let mut pace = Pace::new(now());
    if !waits(PATIENCE) {
        return;
    }
    let whole = whole();
    let bar = ProgressBar::with_draw_target(Some(whole.weight()), ProgressDrawTarget::stderr());
    // Short of the terminal's width: what it writes for the keys that interrupt must not begin another line.
    let style = ProgressStyle::with_template("{bar:10} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    loop {
        pace.add(started.elapsed(), now());
        bar.set_message(pace.line(whole));
        bar.set_position(pace.done().within(whole).weight());
        if !waits(REFRESH) {
            break;
        }
    }
    bar.finish_and_clear();
}

/// So much of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct Amount {
    entries: u64,
    bytes: u64,
}

/// How much was done by when, over the last seconds.
#[derive(Debug)]
struct Pace(VecDeque<(Duration, Amount)>);

// === impl Amount ===

impl Amount {
    /// What a scan has to look at and to read, as far as it was sealed. One pass over the tree.
    fn of(manifest: &Manifest, options: &Options) -> Self {
        let reads = options.compared(manifest.header.profile).attributes().contains(Attribute::Content);
        let tree = &manifest.tree;
        let left_out = |id| !options.local_excludes.is_empty() && options.local_excludes.excludes(&tree.path(id));
        let looked_at = tree.iter().filter(|id| *id != EntryId::ROOT && !left_out(*id));
        let is_read = |id| {
            reads && !options.policy.as_ref().is_some_and(|p| p.leaves_unread(&tree.path(id), Some(FileType::File)))
        };
        looked_at.fold(Self::default(), |sum, id| {
            let bytes = match tree.node(id).kind {
                Kind::File { size, .. } if is_read(id) => size.unwrap_or(0),
                _ => 0,
            };
            Self { entries: sum.entries + 1, bytes: sum.bytes.saturating_add(bytes) }
        })
    }

    /// What there is beyond the whole, being added or read twice, is no part of it.
    fn within(self, whole: Self) -> Self {
        Self { entries: self.entries.min(whole.entries), bytes: self.bytes.min(whole.bytes) }
    }

    /// Entries and bytes in one number, by the time that they take.
    const fn weight(self) -> u64 {
        self.bytes.saturating_add(self.entries.saturating_mul(ENTRY))
    }
}

// === impl Pace ===

impl Pace {
    fn new(done: Amount) -> Self {
        Self(VecDeque::from([(Duration::ZERO, done)]))
    }

    fn add(&mut self, at: Duration, done: Amount) {
        self.0.push_back((at, done));
        // The first is at least as old as the longest while, once there is one.
        while self.0.get(1).is_some_and(|(second, _)| at.saturating_sub(*second) >= LEFT) {
            self.0.pop_front();
        }
    }

    fn done(&self) -> Amount {
        self.0.back().map(|(_, done)| *done).unwrap_or_default()
    }

    /// Per second, during the last `window`; `None` while no time has passed.
    fn rate(&self, window: Duration, of: impl Fn(Amount) -> u64) -> Option<f64> {
        let (to, after) = self.0.back()?;
        let (from, before) =
            self.0.iter().rev().find(|(at, _)| to.saturating_sub(*at) >= window).or_else(|| self.0.front())?;
        let seconds = to.saturating_sub(*from).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
        (seconds > 0.0).then(|| of(*after).saturating_sub(of(*before)) as f64 / seconds)
    }

    /// Until all of it is done, if it goes on so; `None` if it stands still.
    fn left(&self, whole: Amount) -> Option<Duration> {
        let rest = whole.weight().saturating_sub(self.done().within(whole).weight());
        #[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
        let seconds = rest as f64 / self.rate(LEFT, Amount::weight).filter(|rate| *rate > 0.0)?;
        Duration::try_from_secs_f64(seconds).ok()
    }

    /// For example `48210/119220 entries, 2.1 of 5.6 GiB, 41022/s, 1.2 GiB/s, 3s left`.
    fn line(&self, whole: Amount) -> String {
        let done = self.done().within(whole);
        let mut text = format!("{}/{} entries", done.entries, whole.entries);
        let entries = self.rate(RATE, |amount| amount.entries).unwrap_or(0.0);
        // Writing to a string cannot fail.
        let _infallible = if whole.bytes > 0 {
            let bytes = self.rate(RATE, |amount| amount.bytes).unwrap_or(0.0);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "saturates, and is not negative"
            )]
            let bytes = size(bytes as u64);
            write!(text, ", {}, {entries:.0}/s, {bytes}/s", of_size(done.bytes, whole.bytes))
        } else {
            write!(text, ", {entries:.0}/s")
        };
        match self.left(whole) {
            Some(left) => {
                let _infallible = write!(text, ", {} left", time(left));
            }
            None => text.push_str(", stalled"),
        }
        text
    }
}

/// `2.1 of 5.6 GiB`, or `512.0 KiB of 5.6 GiB`.
fn of_size(done: u64, whole: u64) -> String {
    let (done, whole) = (size(done), size(whole));
    match (done.split_once(' '), whole.split_once(' ')) {
        (Some((number, unit)), Some((_, other))) if unit == other => format!("{number} of {whole}"),
        _ => format!("{done} of {whole}"),
    }
}

/// To the nearest second: `3s`, `2m05s`, `1h07m`.
fn time(left: Duration) -> String {
    let seconds = left.as_secs() + u64::from(left.subsec_millis() >= 500);
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s:02}s"),
        (h, m, _) => format!("{h}h{m:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use driftlock_common::digest::{Algorithm, Digest};
    use driftlock_common::drift::Attributes;
    use driftlock_common::manifest::Header;
    use driftlock_common::node::Node;
    use driftlock_common::path::TreePath;
    use driftlock_common::pattern::Excludes;
    use driftlock_common::profile::Profile;
    use driftlock_common::tree::{Origin, Tree};

    use super::*;

    const MIB: u64 = 1024 * 1024;
    const WHOLE: Amount = Amount { entries: 1000, bytes: 1000 * MIB };

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn the_line_says_how_far_how_fast_and_how_long_still() {
        let mut pace = Pace::new(Amount::default());
        assert!(pace.line(WHOLE).ends_with("0/s, 0 bytes/s, stalled"), "{}", pace.line(WHOLE));
        pace.add(seconds(2.0), Amount { entries: 200, bytes: 200 * MIB });
        assert_eq!(pace.line(WHOLE), "200/1000 entries, 200.0 of 1000.0 MiB, 100/s, 100.0 MiB/s, 8s left");
        // What was added or read twice is no part of the whole.
        pace.add(seconds(4.0), Amount { entries: 1200, bytes: 900 * MIB });
        assert_eq!(pace.line(WHOLE), "1000/1000 entries, 900.0 of 1000.0 MiB, 300/s, 225.0 MiB/s, 0s left");
        let nothing_read = Amount { bytes: 0, ..WHOLE };
        assert_eq!(pace.line(nothing_read), "1000/1000 entries, 300/s, 0s left");
    }

    #[test]
    fn rates_are_of_the_last_seconds_and_the_time_left_of_a_longer_while() {
        let mut pace = Pace::new(Amount::default());
        let until = |pace: &mut Pace, end: u32, amount: fn(u64) -> Amount| {
            let from = pace.0.back().map_or(0, |(at, _)| at.as_secs());
            (from + 1..=end.into()).for_each(|second| pace.add(Duration::from_secs(second), amount(second)));
        };
        until(&mut pace, 10, |second| Amount { entries: second * 10, bytes: 0 });
        // Then one large file.
        until(&mut pace, 20, |second| Amount { entries: 100, bytes: (second - 10) * 50 * MIB });
        assert_eq!(pace.line(WHOLE), "100/1000 entries, 500.0 of 1000.0 MiB, 0/s, 50.0 MiB/s, 20s left");
        // Then nothing for a while.
        until(&mut pace, 30, |_| Amount { entries: 100, bytes: 500 * MIB });
        assert_eq!(pace.line(WHOLE), "100/1000 entries, 500.0 of 1000.0 MiB, 0/s, 0 bytes/s, 31s left");
        until(&mut pace, 60, |_| Amount { entries: 100, bytes: 500 * MIB });
        assert!(pace.line(WHOLE).ends_with(", stalled"), "{}", pace.line(WHOLE));
        assert!(pace.0.len() <= 32, "what is older is let go: {pace:?}");
    }

    #[test]
    fn times_and_sizes_are_short() {
        for (left, text) in
            [(0.0, "0s"), (0.4, "0s"), (59.9, "1m00s"), (125.0, "2m05s"), (3599.5, "1h00m"), (90_000.0, "25h00m")]
        {
            assert_eq!(time(seconds(left)), text);
        }
        assert_eq!(of_size(0, 10), "0 of 10 bytes");
        assert_eq!(of_size(512, 3 * MIB), "512 bytes of 3.0 MiB");
        assert_eq!(of_size(3 * MIB / 2, 3 * MIB), "1.5 of 3.0 MiB");
    }

    #[test]
    fn the_whole_is_what_was_sealed_and_is_looked_at() {
        let file = |size| Node::bare(Kind::File { size: Some(size), content: Some(Digest::blake3(b"")) });
        let directory = Node::bare(Kind::Directory);
        let entries =
            [("a", directory.clone()), ("a/x", file(5)), ("b", directory), ("b/y", file(7)), ("c", file(u64::MAX))];
        let entries = entries.map(|(path, node)| (TreePath::new(path).unwrap(), node, Origin::default()));
        let header = Header::new(Profile::Portable, Algorithm::Blake3, Excludes::none());
        let manifest = Manifest { header, tree: Tree::from_sorted(entries).unwrap() };
        let amount = |options: &Options| {
            let Amount { entries, bytes } = Amount::of(&manifest, options);
            (entries, bytes)
        };
        assert_eq!(amount(&Options::default()), (5, u64::MAX));
        let local_excludes = Excludes::new(["a", "c"], []).unwrap();
        assert_eq!(amount(&Options { local_excludes, ..Options::default() }), (2, 7));
        let only = Some([Attribute::Mode].into_iter().collect::<Attributes>());
        assert_eq!(amount(&Options { only, ..Options::default() }), (5, 0));
        assert_eq!(Amount { entries: u64::MAX, bytes: u64::MAX }.weight(), u64::MAX);
    }
}
