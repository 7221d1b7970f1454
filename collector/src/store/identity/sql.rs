//! Owns the statements that keep who may connect. Must not own what a value allows, but for what has to be decided in the
//! commit that changes it: whether a token may be used, and a name taken.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use driftlock_common::host_name::{HostName, HostPattern};
use rusqlite::types::Type;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::{
    AccessToken, EnrolmentToken, Identity, IdentityQuery, Issue, Join, JoinRefused, Joined, Renewal, Renewed, Scope,
    Standing, Used,
};
use crate::clock::Timestamp;
use crate::store::{Changed, Page, StoreError};

/// How long a token is kept when it can no longer be used, so that a list shows what became of it.
const KEPT: Duration = Duration::from_hours(24 * 30);

type Result<T> = std::result::Result<T, StoreError>;

pub(in crate::store) fn add_enrolment_token(connection: &Connection, token: &EnrolmentToken) -> Result<()> {
    forget_old(connection, token.created_at)?;
    connection
        .prepare_cached(
            "INSERT INTO enrolment_tokens (digest, pattern, labels, replaces, created_at, expires_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            token.digest.to_hex(),
            token.pattern.as_str(),
            labels_text(&token.labels),
            token.replace,
            token.created_at.millis(),
            token.expires_at.millis(),
        ])?;
    Ok(())
}

pub(in crate::store) fn add_access_token(connection: &Connection, token: &AccessToken) -> Result<()> {
    forget_old(connection, token.created_at)?;
    let (pattern, pushes) = match &token.scope {
        Scope::Report(pattern) => (Some(pattern.as_str()), false),
        Scope::Read => (None, false),
        Scope::Push => (None, true),
    };
    connection
        .prepare_cached(
            "INSERT INTO access_tokens (digest, pattern, pushes, created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            token.digest.to_hex(),
            pattern,
            pushes,
            token.created_at.millis(),
            token.expires_at.millis(),
        ])?;
    Ok(())
}

fn forget_old(connection: &Connection, now: Timestamp) -> Result<()> {
    let before = now.minus(KEPT).millis();
    connection.execute("DELETE FROM enrolment_tokens WHERE expires_at < ?1", [before])?;
    connection.execute("DELETE FROM access_tokens WHERE expires_at < ?1", [before])?;
    Ok(())
}

pub(in crate::store) fn join(connection: &Connection, join: &Join, changes: &mut Vec<Changed>) -> Result<Joined> {
    let Join { host, at, .. } = join;
    let token = connection
        .prepare_cached(&format!("{ENROLMENT_TOKENS} WHERE digest = ?1"))?
        .query_row([join.secret.to_hex()], enrolment_token)
        .optional()?;
    let Some(token) = token else { return Ok(Joined::Refused(JoinRefused::Unknown)) };
    if token.expires_at <= *at {
        return Ok(Joined::Refused(JoinRefused::Expired));
    }
    if !token.pattern.matches(host) {
        return Ok(Joined::Refused(JoinRefused::Name));
    }
    let known = identity(connection, host)?;
    let again = match &token.used {
        Some(used) if used.host == *host && used.keys == join.keys => true,
        Some(_) => return Ok(Joined::Refused(JoinRefused::Used)),
        None => false,
    };
    // Who was revoked since, or replaced by another, does not come back by the token of then.
    let still = |known: &Identity| !known.is_revoked() && known.receipt_key == join.receipt_key;
    if again && !known.as_ref().is_some_and(still) {
        return Ok(Joined::Refused(JoinRefused::Used));
    }
    if !again && !token.replace && is_taken(connection, &token, host, known.as_ref())? {
        return Ok(Joined::Refused(JoinRefused::Taken));
    }
    if !again && token.replace && known.is_some() {
        revoke_at(connection, host, *at)?;
    }
    let issue = issue(connection, host, *at, join.lifetime, join.receipt_key.clone())?;
    let enrolled_at = known.filter(|_| again).map_or(*at, |known| known.enrolled_at);
    connection
        .prepare_cached(
            "INSERT INTO identities (host, labels, receipt_key, enrolled_at, issued_at, expires_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT (host) DO UPDATE SET labels = ?2, receipt_key = ?3, enrolled_at = ?4, issued_at = ?5,
                 expires_at = ?6",
        )?
        .execute(params![
            host.as_str(),
            labels_text(&token.labels),
            issue.receipt_key,
            enrolled_at.millis(),
            issue.issued_at.millis(),
            issue.expires_at.millis(),
        ])?;
    connection
        .prepare_cached("UPDATE enrolment_tokens SET used_at = ?2, used_by = ?3, used_keys = ?4 WHERE digest = ?1")?
        .execute(params![join.secret.to_hex(), at.millis(), host.as_str(), join.keys.to_hex()])?;
    changes.push(Changed::Host(host.to_string()));
    Ok(Joined::Issue(issue))
}

/// A name is free if nobody has it. Who has reported by a token, or was revoked, gives way to a token for exactly this
/// name; that a pattern covers it says nothing.
fn is_taken(
    connection: &Connection,
    token: &EnrolmentToken,
    host: &HostName,
    known: Option<&Identity>,
) -> Result<bool> {
    if known.is_some_and(|known| !known.is_revoked()) {
        return Ok(true);
    }
    if token.pattern.one_name().is_some() {
        return Ok(false);
    }
    let reported = connection.prepare_cached("SELECT 1 FROM hosts WHERE host = ?1")?.exists([host.as_str()])?;
    Ok(reported || known.is_some())
}

/// The times of a certificate: later than whatever was revoked or issued, also if the clock went back.
fn issue(
    connection: &Connection,
    host: &HostName,
    at: Timestamp,
    lifetime: Duration,
    receipt_key: String,
) -> Result<Issue> {
    let last: Option<i64> = connection
        .prepare_cached(
            "SELECT max(time) FROM (SELECT revoked_at AS time FROM revocations WHERE host = ?1
                 UNION ALL SELECT issued_at FROM identities WHERE host = ?1)",
        )?
        .query_row([host.as_str()], |row| row.get(0))?;
    let earliest = last.map_or(at, |last| Timestamp::from_millis(last.saturating_add(1)));
    let issued_at = at.max(earliest);
    Ok(Issue { host: host.clone(), issued_at, expires_at: issued_at.plus(lifetime), receipt_key })
}

pub(in crate::store) fn renew(connection: &Connection, renewal: &Renewal) -> Result<Renewed> {
    let Renewal { host, at, lifetime, pause } = renewal;
    let Some(known) = identity(connection, host)? else { return Ok(Renewed::Unknown) };
    let earliest = known.issued_at.plus(*pause);
    // A clock that went back holds nobody up.
    if known.issued_at <= *at && earliest > *at {
        return Ok(Renewed::TooSoon(earliest));
    }
    let issue = issue(connection, host, *at, *lifetime, known.receipt_key)?;
    connection
        .prepare_cached("UPDATE identities SET issued_at = ?2, expires_at = ?3 WHERE host = ?1")?
        .execute(params![host.as_str(), issue.issued_at.millis(), issue.expires_at.millis()])?;
    Ok(Renewed::Issue(issue))
}

pub(in crate::store) fn revoke(
    connection: &Connection,
    host: &HostName,
    at: Timestamp,
    changes: &mut Vec<Changed>,
) -> Result<bool> {
    let known = identity(connection, host)?;
    // Also what was issued by a clock that was ahead.
    revoke_at(connection, host, known.as_ref().map_or(at, |known| at.max(known.issued_at)))?;
    changes.push(Changed::Host(host.to_string()));
    Ok(known.is_some())
}

fn revoke_at(connection: &Connection, host: &HostName, at: Timestamp) -> Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO revocations (host, revoked_at) VALUES (?1, ?2)
             ON CONFLICT (host) DO UPDATE SET revoked_at = max(revoked_at, ?2)",
        )?
        .execute(params![host.as_str(), at.millis()])?;
    Ok(())
}

pub(in crate::store) fn lift(connection: &Connection, host: &HostName, changes: &mut Vec<Changed>) -> Result<bool> {
    changes.push(Changed::Host(host.to_string()));
    let lifted = connection.execute("DELETE FROM revocations WHERE host = ?1", [host.as_str()])?;
    Ok(lifted > 0)
}

pub(in crate::store) fn revocations(connection: &Connection, (): ()) -> Result<Vec<(HostName, Timestamp)>> {
    let mut statement = connection.prepare("SELECT host, revoked_at FROM revocations")?;
    let rows = statement.query_map([], |row| Ok((parsed(row, 0)?, time(row, 1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

const IDENTITIES: &str =
    "SELECT i.host, i.labels, i.receipt_key, i.enrolled_at, i.issued_at, i.expires_at, r.revoked_at
    FROM identities i LEFT JOIN revocations r ON r.host = i.host";

fn identity(connection: &Connection, host: &HostName) -> Result<Option<Identity>> {
    let sql = format!("{IDENTITIES} WHERE i.host = ?1");
    Ok(connection.prepare_cached(&sql)?.query_row([host.as_str()], identity_of).optional()?)
}

pub(in crate::store) fn identities(connection: &Connection, query: IdentityQuery) -> Result<Page<Identity, HostName>> {
    let IdentityQuery { host, standing, after, limit } = query;
    let stands = match standing {
        None => "?4 IS NULL",
        Some((Standing::Valid, _)) => "NOT coalesce(i.issued_at <= r.revoked_at, 0) AND i.expires_at > ?4",
        Some((Standing::Expired, _)) => "NOT coalesce(i.issued_at <= r.revoked_at, 0) AND i.expires_at <= ?4",
        Some((Standing::Revoked, _)) => "i.issued_at <= r.revoked_at AND ?4 IS NOT NULL",
    };
    let sql = format!(
        "{IDENTITIES} WHERE (?1 IS NULL OR i.host = ?1) AND (?2 IS NULL OR i.host > ?2) AND {stands}
         ORDER BY i.host LIMIT ?3"
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let most = i64::try_from(limit.saturating_add(1)).unwrap_or(i64::MAX);
    let name = |name: &Option<HostName>| name.as_ref().map(|name| name.as_str().to_owned());
    let at = standing.map(|(_, at)| at.millis());
    let rows = statement.query_map(params![name(&host), name(&after), most, at], identity_of)?;
    let mut items = rows.collect::<rusqlite::Result<Vec<_>>>()?;
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(|last| last.host.clone());
    Ok(Page { items, next })
}

fn identity_of(row: &Row<'_>) -> rusqlite::Result<Identity> {
    Ok(Identity {
        host: parsed(row, 0)?,
        labels: labels(row, 1)?,
        receipt_key: row.get(2)?,
        enrolled_at: time(row, 3)?,
        issued_at: time(row, 4)?,
        expires_at: time(row, 5)?,
        revoked_at: row.get::<_, Option<i64>>(6)?.map(Timestamp::from_millis),
    })
}

const ENROLMENT_TOKENS: &str =
    "SELECT digest, pattern, labels, replaces, created_at, expires_at, used_at, used_by, used_keys
    FROM enrolment_tokens";

pub(in crate::store) fn enrolment_tokens(connection: &Connection, (): ()) -> Result<Vec<EnrolmentToken>> {
    let sql = format!("{ENROLMENT_TOKENS} ORDER BY created_at DESC, digest");
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_map([], enrolment_token)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn enrolment_token(row: &Row<'_>) -> rusqlite::Result<EnrolmentToken> {
    let used = match row.get::<_, Option<i64>>(6)? {
        Some(at) => Some(Used { at: Timestamp::from_millis(at), host: parsed(row, 7)?, keys: parsed(row, 8)? }),
        None => None,
    };
    Ok(EnrolmentToken {
        digest: parsed(row, 0)?,
        pattern: parsed(row, 1)?,
        labels: labels(row, 2)?,
        replace: row.get(3)?,
        created_at: time(row, 4)?,
        expires_at: time(row, 5)?,
        used,
    })
}

pub(in crate::store) fn access_tokens(connection: &Connection, (): ()) -> Result<Vec<AccessToken>> {
    let sql = "SELECT digest, pattern, created_at, expires_at, ended_at, pushes FROM access_tokens
        ORDER BY created_at DESC, digest";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| {
        let scope = match row.get::<_, Option<String>>(1)? {
            Some(_) => Scope::Report(parsed::<HostPattern>(row, 1)?),
            None if row.get(5)? => Scope::Push,
            None => Scope::Read,
        };
        Ok(AccessToken {
            digest: parsed(row, 0)?,
            scope,
            created_at: time(row, 2)?,
            expires_at: time(row, 3)?,
            ended_at: row.get::<_, Option<i64>>(4)?.map(Timestamp::from_millis),
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(in crate::store) fn end_token(connection: &Connection, id: &str, at: Timestamp) -> Result<usize> {
    let begins = |table: &str| -> Result<Vec<String>> {
        let mut statement =
            connection.prepare(&format!("SELECT digest FROM {table} WHERE substr(digest, 1, ?2) = ?1"))?;
        let length = i64::try_from(id.len()).unwrap_or(i64::MAX);
        let rows = statement.query_map(params![id, length], |row| row.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    };
    let (joining, access) = (begins("enrolment_tokens")?, begins("access_tokens")?);
    match (&joining[..], &access[..]) {
        // What was used already stays, with who used it; it cannot be used again, not by who did either.
        ([digest], []) => {
            connection.execute(
                "UPDATE enrolment_tokens SET expires_at = min(expires_at, ?2) WHERE digest = ?1",
                params![digest, at.millis()],
            )?;
        }
        ([], [digest]) => {
            connection.execute(
                "UPDATE access_tokens SET ended_at = coalesce(ended_at, ?2) WHERE digest = ?1",
                params![digest, at.millis()],
            )?;
        }
        _ => {}
    }
    Ok(joining.len() + access.len())
}

fn labels_text(labels: &BTreeMap<String, String>) -> String {
    serde_json::Value::from_iter(labels.iter().map(|(key, value)| (key.clone(), value.clone()))).to_string()
}

fn labels(row: &Row<'_>, column: usize) -> rusqlite::Result<BTreeMap<String, String>> {
    serde_json::from_str(row.get_ref(column)?.as_str()?).map_err(|error| damaged(column, error))
}

fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    row.get(column).map(Timestamp::from_millis)
}

fn parsed<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    row: &Row<'_>,
    column: usize,
) -> rusqlite::Result<T> {
    row.get_ref(column)?.as_str()?.parse().map_err(|error| damaged(column, error))
}

fn damaged(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}

/// Kept as text, so that a person can look them up in the file.
#[cfg(test)]
mod tests {
    use super::*;
    use driftlock_common::digest::Digest;

    #[test]
    fn labels_are_kept_as_json() {
        let labels = BTreeMap::from([("role".to_owned(), "w\"eb".to_owned())]);
        assert_eq!(labels_text(&labels), r#"{"role":"w\"eb"}"#);
        assert_eq!(labels_text(&BTreeMap::new()), "{}");
    }

    #[test]
    fn a_digest_that_is_none_is_an_error() {
        let connection = Connection::open_in_memory().unwrap();
        let read = |sql| connection.query_row(sql, [], |row| parsed::<Digest>(row, 0));
        assert!(read("SELECT 'x'").is_err());
        assert!(read(&format!("SELECT '{}'", "a".repeat(64))).is_ok());
    }
}
