//! Owns what a store promises: a batch is applied whole or not at all, and is on disk before the answer. Must not own
//! HTTP. [`sqlite`] is the one that keeps it in a file.

mod apply;
mod arrival;
mod hole;
mod effect;
mod filter;
mod fold;
mod group;
mod finding;
mod condition;
mod snapshot;
mod read;
mod readers;
mod run;
mod facts;
mod search;
mod schema;
pub mod identity;
mod trim;
pub mod copy;
pub mod sqlite;
mod writer;

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use driftlock_common::condition::ConditionReason;
use driftlock_common::coverage::Coverage;
use driftlock_common::drift::Change;
use driftlock_common::event::{Answer, Running};
use driftlock_common::finding::{Finding, ManifestView, PolicyView};
use driftlock_common::policy::{Ruling, Severity};
use serde::Serialize;
use tokio::sync::broadcast;

pub use self::identity::IdentityStore;
use crate::batch::Batch;
use crate::clock::Timestamp;
use crate::fleet::Facts;
use crate::fleet::hearing::Hearing;
use crate::tally::Tally;

pub use arrival::ArrivalRecord;
pub use group::{GroupKey, GroupOrder, GroupQuery, GroupRecord};

/// What an asynchronous method gives.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Where reports are kept.
pub trait Store: IdentityStore + Send + Sync + fmt::Debug {
    /// Applies a batch; when this answers, it is on disk.
    fn apply(&self, delivery: Delivery) -> Pending<'_, Applied>;
    /// Hosts in order of their key.
    fn hosts(&self, query: HostQuery) -> Pending<'_, Page<HostRecord, String>>;
    /// Findings in the order of the query.
    fn findings(&self, query: FindingQuery) -> Pending<'_, Page<FindingRecord, Order>>;
    /// Open findings in the order of the query, many of one kind below one directory as one line, whatever state it asks
    /// for.
    fn lines(&self, query: FindingQuery) -> Pending<'_, Page<Line, Order>>;
    /// Conditions, the newest first.
    fn conditions(&self, query: ConditionQuery) -> Pending<'_, Page<ConditionRecord, i64>>;
    /// Open findings that are the same drift, in the order of the query.
    fn groups(&self, query: GroupQuery) -> Pending<'_, Page<GroupRecord, GroupOrder>>;
    /// What came between the reports of a host, the newest first.
    fn arrivals(&self, host: String) -> Pending<'_, Vec<ArrivalRecord>>;
    /// When a collector was there to be reported to.
    fn hearing(&self) -> Pending<'_, Hearing>;
    /// Holes, the newest first.
    fn holes(&self, query: HoleQuery) -> Pending<'_, Page<HoleRecord, i64>>;
    /// What is to be known to judge every host, in order of their keys.
    fn facts(&self) -> Pending<'_, Vec<HostFacts>>;
    /// How many of each.
    fn totals(&self) -> Pending<'_, Totals>;
    /// Forgets a little of what `keep` no longer keeps at `now`, the oldest first. What is open stays, and so does which
    /// sequences were taken.
    fn trim(&self, keep: Keep, now: Timestamp) -> Pending<'_, Trimmed>;
    /// What is committed from now on, in order. Bounded: who is too slow is told how much was missed.
    fn changes(&self) -> broadcast::Receiver<Arc<Changed>>;
}

/// A batch of a host.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The host whose credential it came with.
    pub host: String,
    /// When it came, by the collector's clock.
    pub received_at: Timestamp,
    /// From where, if that is known.
    pub from: Option<IpAddr>,
    /// The events.
    pub batch: Batch,
}

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Committed.
    Answer(Answer),
    /// Nothing of it was kept, as another agent reports with this identity; that was noted.
    Conflict,
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The directory or a file in it cannot be made or opened.
    #[error("{}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another collector has it open.
    #[error("{}: another collector uses this directory", .0.display())]
    InUse(PathBuf),
    /// Written by a later version.
    #[error("the store has schema {found}, this collector knows up to {known}: use the later version that wrote it")]
    Newer {
        /// What is there.
        found: i64,
        /// What is known.
        known: i64,
    },
    /// The engine refused: full disk, failing disk, ….
    #[error("store")]
    Engine(#[source] Box<dyn Error + Send + Sync>),
    /// What is there is no store, or a broken one.
    #[error("{}: not a store that can be read", path.display())]
    NoStore {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// Something is there already, which is not written over.
    #[error("{}: is there already; move it away first", .0.display())]
    Exists(PathBuf),
    /// A stored value is not what was stored.
    #[error("a stored {what} cannot be read")]
    Damaged {
        /// Of what.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Another batch of the same commit failed.
    #[error("the commit failed: {0}")]
    Commit(String),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// A part of a list, and where the next part begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T, C> {
    /// This part.
    pub items: Vec<T>,
    /// Cursor of the next part; absent at the end.
    pub next: Option<C>,
}

/// Whether something is so now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Lifetime {
    /// It is.
    Open,
    /// It was.
    Resolved,
}

/// Which hosts.
#[derive(Clone, Debug, Default)]
pub struct HostQuery {
    /// Only this one.
    pub host: Option<String>,
    /// Only those of these that there are.
    pub keys: Option<Vec<String>>,
    /// Key after which to begin.
    pub after: Option<String>,
    /// The most to give.
    pub limit: usize,
}

/// Which findings. An absent field does not narrow.
#[derive(Clone, Debug, Default)]
pub struct FindingQuery {
    /// Only this one.
    pub id: Option<i64>,
    /// Open or resolved.
    pub state: Option<Lifetime>,
    /// Key or name of the host.
    pub host: Option<String>,
    /// Name of the target.
    pub target: Option<String>,
    /// The exact path.
    pub path: Option<Vec<u8>>,
    /// The directory that the path is in; empty: the root.
    pub directory: Option<Vec<u8>>,
    /// The directory that the path is below; empty: the root.
    pub below: Option<Vec<u8>>,
    /// What kind of difference.
    pub change: Option<Change>,
    /// Whether somebody is to know.
    pub verdict: Option<Ruling>,
    /// How loudly it is said. What is tolerated is never within.
    pub severity: Option<RangeInclusive<Severity>>,
    /// The rule that covers it, or [`NO_RULE`].
    pub rule: Option<String>,
    /// What it has in common with others, of open ones.
    pub group: Option<GroupKey>,
    /// Which first, and where to begin.
    pub order: Order,
    /// The most to give. A part may be shorter and yet not the last.
    pub limit: usize,
}

/// In which order findings are listed, and where a part of the list begins: behind the one that is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The newest first: by id.
    Newest(Option<i64>),
    /// The loudest first, what is tolerated last; of one severity the newest first.
    Loudest(Option<(Option<Severity>, i64)>),
}

/// Which conditions. An absent field does not narrow.
#[derive(Clone, Debug, Default)]
pub struct ConditionQuery {
    /// Open or resolved.
    pub state: Option<Lifetime>,
    /// Key or name of the host.
    pub host: Option<String>,
    /// Id before which to begin.
    pub before: Option<i64>,
    /// The most to give.
    pub limit: usize,
}

/// Which holes. An absent field does not narrow.
#[derive(Clone, Debug, Default)]
pub struct HoleQuery {
    /// Key or name of the host.
    pub host: Option<String>,
    /// Id before which to begin.
    pub before: Option<i64>,
    /// The most to give.
    pub limit: usize,
}

/// Sequences of an epoch that never came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoleRecord {
    /// Grows with every hole.
    pub id: i64,
    /// The host's key.
    pub host: String,
    /// The epoch.
    pub epoch: String,
    /// From this one to that, both included.
    pub sequences: RangeInclusive<u64>,
    /// Why they are missing.
    pub kind: HoleKind,
    /// When that was found, by the collector's clock.
    pub noted_at: Timestamp,
}

/// Why sequences are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HoleKind {
    /// They never came.
    Lost,
    /// They came after the backup was made that the store was restored from, or never: that nobody knows.
    Restore,
}

/// What is kept, of what is over. An absent field sets no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// So many days, by the collector's clock.
    pub days: Option<u32>,
    /// So many bytes of the store, as long as there is something that is over.
    pub bytes: Option<u64>,
}

/// What a step of [`Store::trim`] forgot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// Events.
    pub events: u64,
    /// Resolved findings.
    pub findings: u64,
    /// Resolved conditions.
    pub conditions: u64,
    /// Holes.
    pub holes: u64,
    /// Whether there is more to forget.
    pub more: bool,
}

/// What is known of a host, as little of it as judging takes.
#[derive(Clone, Debug, Default)]
pub struct HostFacts {
    /// Its key.
    pub host: String,
    /// Its name as its agent says.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What its state depends on.
    pub facts: Facts,
}

/// A host and its last reports.
#[derive(Clone, Debug, Default)]
pub struct HostRecord {
    /// Its key: the name that its credential has.
    pub host: String,
    /// Its name as the agent says.
    pub name: String,
    /// Its id as the agent says.
    pub claimed: String,
    /// Labels, as JSON.
    pub labels: serde_json::Value,
    /// Version of its agent.
    pub version: String,
    /// Whether a clean stop retires it.
    pub ephemeral: bool,
    /// Seconds between heartbeats; 0 before the first.
    pub interval_s: u64,
    /// Its agent's epoch.
    pub epoch: String,
    /// Highest sequence taken.
    pub ack: u64,
    /// Sequences that never came, in this epoch; those before a restore are not counted.
    pub lost: u64,
    /// First seen.
    pub first_seen: Timestamp,
    /// Last seen.
    pub last_seen: Timestamp,
    /// When its agent was stopped as asked, if it was not heard of since.
    pub stopped_at: Option<Timestamp>,
    /// What runs there, as its agent says.
    pub agent: Option<Running>,
    /// Its targets by name.
    pub targets: Vec<TargetRecord>,
    /// Reasons of its open conditions.
    pub conditions: Vec<ConditionReason>,
}

/// A target and what is known of it.
#[derive(Clone, Debug)]
pub struct TargetRecord {
    /// Its name.
    pub target: String,
    /// Its root, escaped by the agent; empty before the first heartbeat.
    pub root: String,
    /// What it is compared with.
    pub manifest: Option<ManifestView>,
    /// What may change there; absent if nothing may.
    pub policy: Option<PolicyView>,
    /// What the agent vouches for.
    pub coverage: Option<Coverage>,
    /// When the last complete look that a heartbeat told of ended.
    pub swept_at: Option<Timestamp>,
    /// When a look at it that left nothing open was last reported in this epoch.
    pub verified_at: Option<Timestamp>,
    /// Its open findings.
    pub open: Tally,
    /// Whether all of its findings are to be sent again.
    pub resync: bool,
}

/// A finding with its lifetime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FindingRecord {
    /// Grows with every opening.
    pub id: i64,
    /// The host's key.
    pub host: String,
    /// The target's name.
    pub target: String,
    /// The exact path.
    pub path: Vec<u8>,
    /// The difference.
    pub finding: Finding,
    /// Whether it is so now.
    pub state: Lifetime,
    /// By the agent's clock.
    pub opened_at: Timestamp,
    /// By the agent's clock.
    pub updated_at: Timestamp,
    /// By the agent's clock.
    pub resolved_at: Option<Timestamp>,
    /// How often the path was found different.
    pub count: u64,
    /// How often it opened or resolved without being said, if it flaps.
    pub flapping: Option<u64>,
    /// When the collector last heard of it, by its own clock.
    pub received_at: Timestamp,
}

/// One finding, or the newest of many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The finding.
    pub newest: FindingRecord,
    /// What the line stands for, if it is not that finding alone.
    pub fold: Option<Fold>,
}

/// Many findings of one host, target, change, severity and rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fold {
    /// The directory that they are below; empty: the root, and they are directly in it.
    pub directory: Vec<u8>,
    /// How many they are: [`FOLD`] or more.
    pub number: u64,
}

/// Where a rule is named, for what none covers: no rule has this id.
pub const NO_RULE: &str = "-";

/// So many findings of one kind below one directory are one line.
pub const FOLD: u64 = 20;

/// A condition with its lifetime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionRecord {
    /// Grows with every opening.
    pub id: i64,
    /// The host's key.
    pub host: String,
    /// The target's name; absent if it concerns the whole agent.
    pub target: Option<String>,
    /// Why.
    pub reason: ConditionReason,
    /// A path it concerns, escaped by the agent.
    pub path: Option<String>,
    /// One line for a person.
    pub detail: String,
    /// Whether it is so now.
    pub state: Lifetime,
    /// By the agent's clock, or the collector's for what it found itself.
    pub opened_at: Timestamp,
    /// As `opened_at`.
    pub updated_at: Timestamp,
    /// As `opened_at`.
    pub resolved_at: Option<Timestamp>,
}

/// How many of each there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Open findings by change and severity, which only what is tolerated has not.
    pub findings: Vec<(Change, Option<Severity>, u64)>,
    /// Open conditions by reason.
    pub conditions: Vec<(ConditionReason, u64)>,
    /// Holes by kind: how many, and how many sequences they are together.
    pub holes: Vec<(HoleKind, u64, u64)>,
    /// Events kept.
    pub events: u64,
}

/// Something that was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// A finding opened, changed or resolved.
    Finding(Box<FindingRecord>),
    /// A condition opened, changed or resolved.
    Condition(Box<ConditionRecord>),
    /// A host's reports changed in another way.
    Host(String),
}

/// The directory that a path is in; empty: the root, which is in itself.
fn directory_of(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    path.get(..end).unwrap_or_default()
}

impl Default for Order {
    fn default() -> Self {
        Self::Newest(None)
    }
}

impl Order {
    /// Where the list goes on behind the finding of this severity and id.
    const fn behind(self, severity: Option<Severity>, id: i64) -> Self {
        match self {
            Self::Newest(_) => Self::Newest(Some(id)),
            Self::Loudest(_) => Self::Loudest(Some((severity, id))),
        }
    }
}

impl HoleKind {
    /// Each of them.
    pub const ALL: [Self; 2] = [Self::Lost, Self::Restore];

    /// The word of API and store.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Restore => "restore",
        }
    }
}

impl Lifetime {
    /// The word of API and store.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Resolved => "resolved",
        }
    }

    /// The state of that word.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Open, Self::Resolved].into_iter().find(|state| state.name() == name)
    }
}
