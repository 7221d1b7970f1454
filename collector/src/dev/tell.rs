//! Owns what `dev` says: where to look, what to try, and a line for each change. Must not own what changed.

use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use driftlock_common::drift::Attribute;
use driftlock_common::manifest::Totals;
use driftlock_common::path::{Escaped, plain_text};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::store::{Changed, FindingRecord, Lifetime};

/// Where to look and what to try.
pub(super) fn welcome(page: &str, root: &Path, totals: &Totals, is_sample: bool) {
    let shown = Escaped(root.as_os_str().as_bytes());
    let kind = if is_sample { "a sample image of two layers, sealed and deployed" } else { "sealed as it is now" };
    let mut text = format!(
        "\n  page    {page}\n  tree    {shown}\n          {kind}: {} entries, blake3:{}\n",
        totals.entries, totals.tree
    );
    let commands = commands(root, is_sample);
    if !commands.is_empty() {
        text.push_str("\nTry, in another terminal:\n\n");
        for command in commands {
            text.push_str("  ");
            text.push_str(&command);
            text.push('\n');
        }
    }
    text.push_str("\nCtrl-C ends everything and leaves nothing behind. What is found:\n\n");
    say(&text);
}

/// Commands to copy; none if the path cannot be typed. Only the sample's own files are touched.
fn commands(root: &Path, is_sample: bool) -> Vec<String> {
    let path = |name: &str| plain_text(root.join(name).as_os_str().as_bytes()).map(quoted);
    let steps: &[(&str, &str)] = if is_sample {
        &[
            ("echo tampered >>", "usr/bin/shop"),
            ("chmod u+s", "usr/bin/shop-admin"),
            ("touch", "usr/bin/backdoor"),
            ("rm", "usr/bin/backdoor"),
        ]
    } else {
        &[("touch", "driftlock-was-here"), ("chmod 4755", "driftlock-was-here"), ("rm", "driftlock-was-here")]
    };
    steps.iter().filter_map(|(command, name)| Some(format!("{command} {}", path(name)?))).collect()
}

/// As a shell takes it, in quotes where it must be.
fn quoted(text: &str) -> String {
    let plain = |ch: char| ch.is_ascii_alphanumeric() || "/._-+:@%".contains(ch);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

/// A line for each change, until the store is closed.
pub(super) async fn changes(mut changes: Receiver<Arc<Changed>>) {
    loop {
        match changes.recv().await {
            Ok(changed) => match &*changed {
                Changed::Finding(record) => say(&finding(record)),
                Changed::Condition(record) => {
                    let word = if record.state == Lifetime::Open { "condition" } else { "over" };
                    let detail = Escaped(record.detail.as_bytes());
                    say(&line(record.updated_at, word, &format!("{} {detail}", record.reason.name())));
                }
                Changed::Host(_) => {}
            },
            Err(RecvError::Lagged(missed)) => say(&format!("  … {missed} changes more; the page has them\n")),
            Err(RecvError::Closed) => return,
        }
    }
}

fn finding(record: &FindingRecord) -> String {
    let path: &[u8] = if record.path.is_empty() { b"." } else { &record.path };
    let path = Escaped(path);
    if record.state == Lifetime::Resolved {
        return line(record.updated_at, "resolved", &path.to_string());
    }
    let attributes: Vec<&str> = record.finding.attributes.iter().map(Attribute::name).collect();
    let what = if attributes.is_empty() { path.to_string() } else { format!("{path}  ({})", attributes.join(", ")) };
    line(record.updated_at, record.finding.change.name(), &what)
}

fn line(at: crate::clock::Timestamp, word: &str, what: &str) -> String {
    let time = at.to_string();
    format!("  {}  {word:<12}  {what}\n", time.get(11..19).unwrap_or(&time))
}

fn say(text: &str) {
    let mut stdout = std::io::stdout().lock();
    // Nobody may be reading any more; the page still shows it.
    let _closed = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_can_be_copied() {
        let of = |root: &str| commands(Path::new(root), false)[0].clone();
        assert_eq!(of("/tmp/x"), "touch /tmp/x/driftlock-was-here");
        assert_eq!(of("/tmp/a b"), "touch '/tmp/a b/driftlock-was-here'");
        assert_eq!(of("/tmp/$(id)'"), "touch '/tmp/$(id)'\\''/driftlock-was-here'");
        assert!(commands(Path::new("/tmp/a\nb"), false).is_empty());
    }
}
