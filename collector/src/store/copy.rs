//! Owns copies of a collector's directory in one file: an SQLite database, and in a table of it the other files that lie
//! there (keys, manifests). A copy is made while a collector writes, of one state; from a copy a new directory is made,
//! never over another. Must not own when, or where to.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::Backup;
use rusqlite::{Connection, OpenFlags, params};
use tempfile::NamedTempFile;

use super::StoreError;
use super::apply::unsigned;
use super::schema::{self, migrate};
use super::sqlite::{FILE, LOCK, at, lock};
use crate::clock::Timestamp;

/// Pages of 4 KiB that are copied at a time.
const PAGES: i32 = 1024;
/// Bytes of a file in a row.
const PART: usize = 1024 * 1024;
/// What is not yet what it is going to be.
const PARTIAL: &str = "partial";

/// What lies beside the database, in parts of at most [`PART`] bytes.
const FILES: &str = "CREATE TABLE files_beside (
    path BLOB NOT NULL, part INTEGER NOT NULL, mode INTEGER NOT NULL, content BLOB NOT NULL, PRIMARY KEY (path, part)
) STRICT";

/// What a copy holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Hosts.
    pub hosts: u64,
    /// Open findings.
    pub open: u64,
    /// Files beside the database.
    pub files: u64,
    /// What lies in the directory and is neither a file nor a directory, sockets aside: not in the copy.
    pub left_out: u64,
}

/// Copies the store in `directory` into a new `file`, whether a collector uses it or not. What is committed meanwhile is in
/// none of it or behind it; nobody waits for this.
///
/// # Errors
/// If there is no store, `file` is there, or something cannot be read or written. Then no file is left.
pub fn backup(directory: &Path, file: &Path) -> Result<Copied, StoreError> {
    let from = directory.join(FILE);
    let source = open_to_read(&from)?;
    if fs::symlink_metadata(file).is_ok() {
        return Err(StoreError::Exists(file.to_owned()));
    }
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let temporary = tempfile::Builder::new().prefix(".backup-").tempfile_in(parent).map_err(at(parent))?;
    let copied = fill(&source, directory, temporary.path()).map_err(|error| error.of_file(&from))?;
    drop(source);
    temporary.as_file().sync_all().map_err(at(file))?;
    temporary.persist_noclobber(file).map_err(|error| at(file)(error.error))?;
    sync(parent)?;
    Ok(copied)
}

/// Makes a store of a copy, in a `directory` that has none. It begins a new generation: what hosts acknowledged after the
/// copy was made is no hole, and every host is asked for everything.
///
/// # Errors
/// If the copy is not one, is broken or of a later version, a collector uses the directory, or there is a store already.
/// Then there is none.
pub fn restore(file: &Path, directory: &Path, now: Timestamp) -> Result<Copied, StoreError> {
    let source = open_to_read(file)?;
    check(&source).map_err(|error| error.of_file(file))?;
    let _lock = lock(directory)?;
    let target = directory.join(FILE);
    if fs::symlink_metadata(&target).is_ok() {
        return Err(StoreError::Exists(target));
    }
    let partial = target.with_extension(PARTIAL);
    // Of a restore that did not come to its end.
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(at(&partial)(error)),
        _ => {}
    }
    OpenOptions::new().create_new(true).write(true).mode(0o600).open(&partial).map_err(at(&partial))?;
    let copied = unfold(&source, directory, &partial, now)?;
    File::open(&partial).and_then(|file| file.sync_all()).map_err(at(&partial))?;
    // From here on it is a store.
    fs::rename(&partial, &target).map_err(at(&target))?;
    sync(directory)?;
    Ok(copied)
}

/// Opens what has the tables of a version that is known.
fn open_to_read(file: &Path) -> Result<Connection, StoreError> {
    fs::metadata(file).map_err(at(file))?;
    let open = || {
        let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "trusted_schema", false)?;
        // The first look also decides which state is copied.
        connection.execute_batch("BEGIN")?;
        let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let tables: i64 = connection.query_row(
            "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name IN ('hosts', 'epochs', 'findings')",
            [],
            |row| row.get(0),
        )?;
        Ok((connection, version, tables))
    };
    let (connection, version, tables) = open().map_err(|error: StoreError| error.of_file(file))?;
    if version > schema::newest() {
        return Err(StoreError::Newer { found: version, known: schema::newest() });
    }
    if version < 1 || tables != 3 {
        return Err(no_store(file, "it has not the tables of a collector"));
    }
    Ok(connection)
}

fn no_store(file: &Path, why: &str) -> StoreError {
    StoreError::NoStore { path: file.to_owned(), source: why.into() }
}

fn copy(source: &Connection, target: &mut Connection) -> Result<(), StoreError> {
    // Nobody else reads it before it is complete, and then it is written out at once.
    target.pragma_update(None, "synchronous", "OFF")?;
    Backup::new(source, target)?.run_to_completion(PAGES, Duration::ZERO, None)?;
    // One file, without a log beside it.
    target.pragma_update(None, "journal_mode", "MEMORY")?;
    Ok(())
}

fn fill(source: &Connection, directory: &Path, file: &Path) -> Result<Copied, StoreError> {
    let mut target = Connection::open(file)?;
    copy(source, &mut target)?;
    let transaction = target.transaction()?;
    transaction.execute_batch(FILES)?;
    let mut copied = count(&transaction)?;
    put_files(&transaction, directory, Path::new(""), &mut copied)?;
    transaction.commit()?;
    let found: String = target.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found == "ok" { Ok(copied) } else { Err(no_store(&directory.join(FILE), &found)) }
}

fn count(connection: &Connection) -> Result<Copied, StoreError> {
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map(unsigned);
    Ok(Copied {
        hosts: number("SELECT count(*) FROM hosts")?,
        open: number("SELECT count(*) FROM findings WHERE state = 'open'")?,
        ..Copied::default()
    })
}

/// Puts the files in and below `within` into the table. They are replaced by renaming, so each is whole.
fn put_files(connection: &Connection, directory: &Path, within: &Path, copied: &mut Copied) -> Result<(), StoreError> {
    let place = directory.join(within);
    for entry in fs::read_dir(&place).map_err(at(&place))? {
        let entry = entry.map_err(at(&place))?;
        let path = within.join(entry.file_name());
        let kind = entry.file_type().map_err(at(&entry.path()))?;
        if kind.is_dir() {
            put_files(connection, directory, &path, copied)?;
        } else if kind.is_file() {
            if !is_of_the_store(&path) && put_file(connection, directory, &path)? {
                copied.files += 1;
            }
        } else if !std::os::unix::fs::FileTypeExt::is_socket(&kind) {
            copied.left_out += 1;
        }
    }
    Ok(())
}

/// Whether a file is the database, its log, or what says who uses it.
fn is_of_the_store(path: &Path) -> bool {
    let name = path.as_os_str().as_bytes();
    name == LOCK.as_bytes() || name.starts_with(FILE.as_bytes()) || path.extension().is_some_and(|end| end == PARTIAL)
}

/// Whether it is still there.
fn put_file(connection: &Connection, directory: &Path, path: &Path) -> Result<bool, StoreError> {
    let full = directory.join(path);
    let file = match File::open(&full) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        file => file.map_err(at(&full))?,
    };
    let mode = file.metadata().map_err(at(&full))?.permissions().mode() & 0o777;
    let mut insert =
        connection.prepare_cached("INSERT INTO files_beside (path, part, mode, content) VALUES (?1, ?2, ?3, ?4)")?;
    for part in 0_i64.. {
        let mut content = Vec::new();
        (&file).take(PART as u64).read_to_end(&mut content).map_err(at(&full))?;
        // An empty file has one part, which is empty.
        if content.is_empty() && part > 0 {
            break;
        }
        insert.execute(params![path.as_os_str().as_bytes(), part, mode, content])?;
    }
    Ok(true)
}

/// Looks at every page and every index.
fn check(source: &Connection) -> Result<(), StoreError> {
    let found: String = source.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if found == "ok" {
        return Ok(());
    }
    let broken = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    Err(rusqlite::Error::SqliteFailure(broken, Some(found)).into())
}

fn unfold(source: &Connection, directory: &Path, file: &Path, now: Timestamp) -> Result<Copied, StoreError> {
    let mut target = Connection::open(file)?;
    copy(source, &mut target)?;
    let files = take_files(&target, directory)?;
    target.execute_batch("DROP TABLE IF EXISTS files_beside")?;
    migrate(&mut target)?;
    let transaction = target.transaction()?;
    transaction
        .execute("UPDATE store SET generation = lower(hex(randomblob(16))), restored_at = ?1", [now.millis()])?;
    transaction.execute_batch("UPDATE targets SET resync = 1, snapshot_next = NULL; DELETE FROM snapshot_paths;")?;
    let copied = count(&transaction)?;
    transaction.commit()?;
    Ok(Copied { files, ..copied })
}

/// Makes the files that lay beside the database; how many.
fn take_files(connection: &Connection, directory: &Path) -> Result<u64, StoreError> {
    let there: bool =
        connection.query_row("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'files_beside')", [], |row| {
            row.get(0)
        })?;
    if !there {
        return Ok(0);
    }
    let mut statement = connection.prepare("SELECT path, part, mode, content FROM files_beside ORDER BY path, part")?;
    let mut rows = statement.query([])?;
    let mut number = 0;
    let mut under_way: Option<(PathBuf, NamedTempFile)> = None;
    while let Some(row) = rows.next()? {
        let path = PathBuf::from(std::ffi::OsString::from_vec(row.get(0)?));
        if row.get::<_, i64>(1)? == 0 {
            keep(under_way.take())?;
            number += 1;
            under_way = Some(begin(directory, &path, row.get(2)?)?);
        }
        if let Some((path, file)) = &mut under_way {
            let content = row.get_ref(3)?.as_blob().map_err(rusqlite::Error::from)?;
            file.write_all(content).map_err(at(path))?;
        }
    }
    keep(under_way)?;
    Ok(number)
}

fn begin(directory: &Path, path: &Path, mode: u32) -> Result<(PathBuf, NamedTempFile), StoreError> {
    let within = path.components().all(|component| matches!(component, Component::Normal(_)));
    let full = directory.join(path);
    let parent = full.parent().filter(|_| within && !is_of_the_store(path));
    let parent = parent.ok_or_else(|| no_store(path, "a file of that name has no place beside a store"))?;
    DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(at(parent))?;
    let file = tempfile::Builder::new()
        .permissions(Permissions::from_mode(mode & 0o777))
        .tempfile_in(parent)
        .map_err(at(parent))?;
    Ok((full, file))
}

fn keep(file: Option<(PathBuf, NamedTempFile)>) -> Result<(), StoreError> {
    let Some((path, file)) = file else { return Ok(()) };
    file.as_file().sync_all().map_err(at(&path))?;
    file.persist(&path).map_err(|error| at(&path)(error.error))?;
    path.parent().map_or(Ok(()), sync)
}

/// Makes the names in a directory last.
fn sync(directory: &Path) -> Result<(), StoreError> {
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(at(directory))
}
