//! Owns asking the collector for what targets must match, again and again, beside the loop. Must not own what it has, or
//! whether that is accepted.

use std::path::Path;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Done, spool};
use crate::config::Config;
use crate::deliver::Client;
use crate::supply::fetch::Fetch;

/// The longest time between two questions.
const PERIOD: Duration = Duration::from_mins(1);

/// Somebody who asks. Stops when it is dropped.
#[derive(Debug)]
pub(super) struct Collected(JoinHandle<()>);

impl Collected {
    /// For the targets of a configuration whose manifests the collector has; `None` if there are none, or no collector.
    pub(super) fn ask(
        config: &Config,
        client: Option<&Client>,
        state_dir: &Path,
        done: &mpsc::Sender<Done>,
    ) -> Option<Self> {
        let client = client?;
        let fetch = |target| Fetch::of(client, target, &config.host.labels, state_dir);
        let fetches: Vec<Fetch> = config.targets.iter().filter_map(fetch).collect();
        let period = config.report.heartbeat.min(PERIOD);
        (!fetches.is_empty()).then(|| Self(tokio::spawn(ask(fetches, period, done.clone()))))
    }
}

impl Drop for Collected {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn ask(mut fetches: Vec<Fetch>, period: Duration, done: mpsc::Sender<Done>) {
    loop {
        for fetch in &mut fetches {
            let Some(had) = fetch.look().await else { continue };
            let target = fetch.target().to_owned();
            // If nobody listens any more, the agent is stopping.
            if done.send(Done::Had { target, had }).await.is_err() {
                return;
            }
        }
        // A tenth of it at random: many agents may have begun together.
        let jitter = period.mul_f64(f64::from(spool::random()) / f64::from(u32::MAX) / 10.0);
        tokio::time::sleep(period + jitter).await;
    }
}
