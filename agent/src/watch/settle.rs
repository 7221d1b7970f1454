//! Owns the second look at new directories. A hint on a new directory is sent before its watch is there, and what comes
//! into the directory between the two gives no event. So the hint is sent once more, after the watch is known to be there.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Weak};
use std::thread;

use driftlock_common::path::TreePath;
use notify::{INotifyWatcher, Watcher as _};

use super::channel::{HintSender, Seen};
use super::{Hint, Why};

/// New directories that may wait for their second hint.
const MAX_WAITING: usize = 4096;

/// The end that the crate's thread holds. Dropping it ends the thread of the second looks.
#[derive(Debug)]
pub(super) struct Settle {
    sender: SyncSender<TreePath>,
}

/// What waits for the watcher to be there, which needs the other end first.
#[derive(Debug)]
pub(super) struct Unsettled {
    receiver: Receiver<TreePath>,
}

pub(super) fn settle() -> (Settle, Unsettled) {
    let (sender, receiver) = sync_channel(MAX_WAITING);
    (Settle { sender }, Unsettled { receiver })
}

impl Settle {
    /// Asks for a second hint on a new directory. `false` if there was no room for it.
    pub(super) fn later(&self, path: TreePath) -> bool {
        !matches!(self.sender.try_send(path), Err(TrySendError::Full(_)))
    }
}

impl Unsettled {
    /// Sends second hints until the watcher is gone.
    pub(super) fn run(self, target: Arc<str>, watcher: Weak<INotifyWatcher>, hints: HintSender) -> std::io::Result<()> {
        let work = move || {
            while let Ok(first) = self.receiver.recv() {
                let waiting: BTreeSet<TreePath> = std::iter::once(first).chain(self.receiver.try_iter()).collect();
                let Some(watcher) = watcher.upgrade() else { return };
                // The crate's thread answers a question only between two rounds of events, and it adds the watches of
                // new directories at the end of a round. So with the answer, the watches are there.
                if watcher.watched_paths().is_err() {
                    hints.send(&target, Seen::Hint(Hint::Everything(Why::Failed)));
                    return;
                }
                for path in waiting {
                    hints.send(&target, Seen::Hint(Hint::Subtree(path)));
                }
            }
        };
        thread::Builder::new().name("watch-settle".to_owned()).spawn(work).map(drop)
    }
}
