//! Owns the store in a file: how it is opened, and to whom work goes, the thread that writes or those that read. Must not
//! own SQL.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use driftlock_common::host_name::HostName;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio::sync::{broadcast, mpsc};

use super::apply::apply;
use super::identity::{
    self, AccessToken, EnrolmentToken, Identity, IdentityQuery, IdentityStore, Join, Joined, Renewal, Renewed,
};
use super::readers::Readers;
use super::writer::{self, Job, Work};
use super::{
    Applied, ArrivalRecord, Changed, ConditionQuery, ConditionRecord, Delivery, FindingQuery, FindingRecord,
    GroupOrder, GroupQuery, GroupRecord, HoleQuery, HoleRecord, HostFacts, HostQuery, HostRecord, Keep, Line, Order,
    Page, Pending, Store, StoreError, Totals, Trimmed, arrival, facts, group, hole, read, run, schema, search, trim,
};
use crate::clock::Timestamp;
use crate::fleet::hearing::Hearing;

/// Changes that a listener may be behind before it misses some.
const CHANGES: usize = 1024;
/// Statements that a connection keeps prepared.
const STATEMENTS: usize = 128;
/// Memory for pages of each connection: negative, in KiB.
const CACHE: i64 = -16 * 1024;
/// What is left of the log after it was written into the file, in bytes.
const LOG: i64 = 64 * 1024 * 1024;
/// Name of the file in the directory.
pub(super) const FILE: &str = "collector.sqlite3";
/// Name of the file that is locked while a collector uses the directory.
pub(super) const LOCK: &str = "lock";

/// The store in a directory. Dropping it ends the writer after what was accepted.
#[derive(Debug)]
pub struct SqliteStore {
    jobs: Option<mpsc::Sender<Box<dyn Job>>>,
    writer: Option<JoinHandle<()>>,
    /// Absent while it is dropped.
    readers: Option<Readers>,
    changes: broadcast::Sender<Arc<Changed>>,
    /// Held as long as the store is open.
    lock: File,
}

/// How a store is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// The most pages of 4 KiB that the file may have; absent: no limit but the disk's.
    pub max_pages: Option<u32>,
}

impl SqliteStore {
    /// Opens the store in `directory`, making both if they are not there.
    ///
    /// # Errors
    /// If it cannot be made or opened, is in use, or was written by a later version.
    pub fn open(directory: &Path, limits: Limits) -> Result<Self, StoreError> {
        let lock = lock(directory)?;
        let file = directory.join(FILE);
        // Made by us, so that it never has wider permissions, not even for a moment.
        OpenOptions::new().create(true).append(true).mode(0o600).open(&file).map_err(at(&file))?;
        let mut connection = Connection::open(&file)?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS);
        connection.busy_timeout(Duration::from_secs(5))?;
        let prepared = prepare(&mut connection);
        prepared.map_err(|error| error.of_file(&file))?;
        run::begin(&connection, Timestamp::now())?;
        if let Some(pages) = limits.max_pages {
            connection.pragma_update(None, "max_page_count", pages)?;
        }

        let (jobs, queue) = mpsc::channel(writer::QUEUE);
        let (changes, _) = broadcast::channel(CHANGES);
        let published = changes.clone();
        let writer = thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer::run(connection, queue, &published))
            .map_err(at(&file))?;
        let readers = Readers::new(&file).map_err(at(&file))?;
        Ok(Self { jobs: Some(jobs), writer: Some(writer), readers: Some(readers), changes, lock })
    }

    /// Runs `work` in a transaction of the one connection that writes, perhaps together with others. When this answers,
    /// what it wrote is on disk; on an error nothing of it is.
    fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection, &mut Vec<Changed>) -> Result<T, StoreError> + Send + 'static,
    ) -> Pending<'_, T> {
        Box::pin(async move {
            let (work, result) = Work::new(work);
            let jobs = self.jobs.as_ref().ok_or(StoreError::Closed)?;
            jobs.send(Box::new(work)).await.map_err(|_| StoreError::Closed)?;
            result.await.map_err(|_| StoreError::Closed)?
        })
    }

    /// Runs a query on a connection that cannot write, off the threads that serve requests.
    fn query<Q: Send + 'static, T: Send + 'static>(
        &self,
        query: Q,
        run: fn(&Connection, Q) -> Result<T, StoreError>,
    ) -> Pending<'_, T> {
        Box::pin(async move {
            let readers = self.readers.as_ref().ok_or(StoreError::Closed)?;
            readers.ask(move |connection| run(connection, query)).await
        })
    }
}

/// Locks a directory for one collector, making it if it is not there. The evidence is nobody else's to read.
pub(super) fn lock(directory: &Path) -> Result<File, StoreError> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(at(directory))?;
    let path = directory.join(LOCK);
    let lock =
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(at(&path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(directory.to_owned())),
        Err(TryLockError::Error(error)) => Err(at(&path)(error)),
    }
}

pub(super) fn at(path: &Path) -> impl FnOnce(std::io::Error) -> StoreError + use<> {
    let path = path.to_owned();
    move |source| StoreError::Open { path, source }
}

fn prepare(connection: &mut Connection) -> Result<(), StoreError> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cache_size", CACHE)?;
    // What grew in a burst, or while a long look held it, is given back.
    connection.pragma_update(None, "journal_size_limit", LOG)?;
    schema::migrate(connection)?;
    // What a job changed, until it is known that it stays: at most what a group of jobs touches. Not for migrations, which
    // may have all of the store to sort.
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(())
}

/// A connection to the store in `file` that cannot write.
pub(super) fn open_to_read(file: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.pragma_update(None, "cache_size", CACHE)?;
    Ok(connection)
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Engine(Box::new(error))
    }
}

impl StoreError {
    /// Says which file it is, if the file is what is wrong.
    pub(super) fn of_file(self, path: &Path) -> Self {
        let code = |error: &rusqlite::Error| error.sqlite_error_code();
        match self {
            Self::Engine(source)
                if source
                    .downcast_ref()
                    .and_then(code)
                    .is_some_and(|code| matches!(code, ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt)) =>
            {
                Self::NoStore { path: path.to_owned(), source }
            }
            error => error,
        }
    }
}

impl Store for SqliteStore {
    fn apply(&self, delivery: Delivery) -> Pending<'_, Applied> {
        self.write(move |connection, changes| apply(connection, &delivery, changes))
    }

    fn hosts(&self, query: HostQuery) -> Pending<'_, Page<HostRecord, String>> {
        self.query(query, read::hosts)
    }

    fn findings(&self, query: FindingQuery) -> Pending<'_, Page<FindingRecord, Order>> {
        self.query(query, search::findings)
    }

    fn lines(&self, query: FindingQuery) -> Pending<'_, Page<Line, Order>> {
        self.query(query, search::lines)
    }

    fn conditions(&self, query: ConditionQuery) -> Pending<'_, Page<ConditionRecord, i64>> {
        self.query(query, read::conditions)
    }

    fn groups(&self, query: GroupQuery) -> Pending<'_, Page<GroupRecord, GroupOrder>> {
        self.query(query, group::groups)
    }

    fn arrivals(&self, host: String) -> Pending<'_, Vec<ArrivalRecord>> {
        self.query(host, arrival::arrivals)
    }

    fn hearing(&self) -> Pending<'_, Hearing> {
        self.query((), |connection, ()| run::hearing(connection))
    }

    fn holes(&self, query: HoleQuery) -> Pending<'_, Page<HoleRecord, i64>> {
        self.query(query, hole::holes)
    }

    fn facts(&self) -> Pending<'_, Vec<HostFacts>> {
        self.query((), |connection, ()| facts::facts(connection))
    }

    fn totals(&self) -> Pending<'_, Totals> {
        self.query((), |connection, ()| read::totals(connection))
    }

    fn trim(&self, keep: Keep, now: Timestamp) -> Pending<'_, Trimmed> {
        self.write(move |connection, _| trim::step(connection, keep, now))
    }

    fn changes(&self) -> broadcast::Receiver<Arc<Changed>> {
        self.changes.subscribe()
    }
}

impl IdentityStore for SqliteStore {
    fn add_enrolment_token(&self, token: EnrolmentToken) -> Pending<'_, ()> {
        self.write(move |connection, _| identity::add_enrolment_token(connection, &token))
    }

    fn join(&self, join: Join) -> Pending<'_, Joined> {
        self.write(move |connection, changes| identity::join(connection, &join, changes))
    }

    fn renew(&self, renewal: Renewal) -> Pending<'_, Renewed> {
        self.write(move |connection, _| identity::renew(connection, &renewal))
    }

    fn revoke(&self, host: HostName, at: Timestamp) -> Pending<'_, bool> {
        self.write(move |connection, changes| identity::revoke(connection, &host, at, changes))
    }

    fn lift(&self, host: HostName) -> Pending<'_, bool> {
        self.write(move |connection, changes| identity::lift(connection, &host, changes))
    }

    fn identities(&self, query: IdentityQuery) -> Pending<'_, Page<Identity, HostName>> {
        self.query(query, identity::identities)
    }

    fn revocations(&self) -> Pending<'_, Vec<(HostName, Timestamp)>> {
        self.query((), identity::revocations)
    }

    fn add_access_token(&self, token: AccessToken) -> Pending<'_, ()> {
        self.write(move |connection, _| identity::add_access_token(connection, &token))
    }

    fn access_tokens(&self) -> Pending<'_, Vec<AccessToken>> {
        self.query((), identity::access_tokens)
    }

    fn enrolment_tokens(&self) -> Pending<'_, Vec<EnrolmentToken>> {
        self.query((), identity::enrolment_tokens)
    }

    fn end_token(&self, id: String, at: Timestamp) -> Pending<'_, usize> {
        self.write(move |connection, _| identity::end_token(connection, &id, at))
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            // It only ends otherwise by a panic, which has been reported.
            let _ended = writer.join();
        }
        // The last connection that is closed writes the log into the file, so all are before another may be opened.
        self.readers = None;
        // Closing is not enough: a child that another thread just forked holds the descriptor until it executes.
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(%error, "the store's lock stays until the process ends");
        }
    }
}
