//! Owns the way of hints from watching threads to the loop that decides: bounded, never blocking a thread that must keep
//! up with the kernel, and never losing more than the exact place of a hint.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, mpsc};

use super::{Actor, Armed, Cover, Hint, Why};

/// Hints that may wait. A hint costs its path and some 60 bytes.
const MAX_WAITING: usize = 16 * 1024;

/// What a watcher saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Something may have changed, and who may have done it, where that is told.
    Hint(Hint, Option<Actor>),
    /// Less is watched than before.
    Degraded(Armed),
    /// All that is mounted over a part of the root now, in order of paths.
    Mounted(Vec<Cover>),
}

/// Makes the channel, for all targets together.
pub fn channel() -> (HintSender, Hints) {
    let (sender, receiver) = mpsc::channel(MAX_WAITING);
    let lost = Arc::new(Lost::default());
    (HintSender { sender, lost: lost.clone() }, Hints { receiver, lost })
}

/// The end that watching threads hold.
#[derive(Clone, Debug)]
pub struct HintSender {
    sender: mpsc::Sender<(Arc<str>, Seen)>,
    lost: Arc<Lost>,
}

/// The end that the loop holds.
#[derive(Debug)]
pub struct Hints {
    receiver: mpsc::Receiver<(Arc<str>, Seen)>,
    lost: Arc<Lost>,
}

/// The targets of which hints found no room.
#[derive(Debug, Default)]
struct Lost {
    targets: Mutex<BTreeSet<Arc<str>>>,
    news: Notify,
}

impl HintSender {
    /// Hands over what was seen. If there is no room, everything of the target is to be looked at.
    pub fn send(&self, target: &Arc<str>, seen: Seen) {
        match self.sender.try_send((target.clone(), seen)) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.lost.targets.lock().unwrap_or_else(PoisonError::into_inner).insert(target.clone());
                self.lost.news.notify_one();
            }
            // Nobody listens any more: the agent is stopping.
            Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
    }
}

impl Hints {
    /// The next one, with its target. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<(Arc<str>, Seen)> {
        loop {
            if let Some(target) = self.lost.targets.lock().unwrap_or_else(PoisonError::into_inner).pop_first() {
                return Some((target, Seen::Hint(Hint::Everything(Why::Overflow), None)));
            }
            tokio::select! {
                biased;
                () = self.lost.news.notified() => {}
                seen = self.receiver.recv() => return seen,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use driftlock_common::path::TreePath;

    #[tokio::test]
    async fn what_finds_no_room_becomes_everything() {
        let (sender, mut hints) = channel();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let touched = || Seen::Hint(Hint::Touched(TreePath::new("x").unwrap()), None);
        for _ in 0..MAX_WAITING + 5 {
            sender.send(&a, touched());
        }
        sender.send(&b, touched());
        let everything = Seen::Hint(Hint::Everything(Why::Overflow), None);
        assert_eq!(hints.next().await, Some((a.clone(), everything.clone())));
        assert_eq!(hints.next().await, Some((b, everything)));
        for _ in 0..MAX_WAITING {
            assert_eq!(hints.next().await, Some((a.clone(), touched())));
        }
        drop(sender);
        assert_eq!(hints.next().await, None);
    }
}
