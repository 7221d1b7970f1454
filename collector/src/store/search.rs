//! Owns lists of findings: which, in what order, and several of one kind as one line. Must not own what a row holds.

use driftlock_common::policy::Ruling;
use rusqlite::types::Value;
use rusqlite::{Connection, Row, params_from_iter};

use super::apply::unsigned;
use super::filter::{Where, page};
use super::fold::{Folds, Group, Kind, Place};
use super::read::{FINDING_COLUMNS, finding_of, loudness, rows};
use super::{FindingQuery, FindingRecord, Lifetime, Line, Order, Page, StoreError};

/// The most bytes of directories, once for each kind, that are looked at to find lines; what is in others stands for
/// itself. Enough for a hundred thousand.
const GROUPS: usize = 32 * 1024 * 1024;

/// Findings in the order of the query.
pub(super) fn findings(connection: &Connection, query: FindingQuery) -> Result<Page<FindingRecord, Order>, StoreError> {
    let (limit, order) = (query.limit, query.order);
    let mut filter = filter(query);
    begin(&mut filter, order);
    let sql = format!(
        "SELECT {FINDING_COLUMNS} FROM findings {} ORDER BY {} LIMIT {}",
        filter.sql(),
        by(order),
        limit.saturating_add(1)
    );
    let items = rows(connection, &sql, filter.into_values(), finding_of)?;
    Ok(page(items, limit, |record| order.behind(record)))
}

/// Open findings in the order of the query. Where many are of one kind below one directory, only the newest of them is
/// listed, for all of them.
pub(super) fn lines(connection: &Connection, query: FindingQuery) -> Result<Page<Line, Order>, StoreError> {
    let (limit, order, floor) = (query.limit, query.order, query.below.clone());
    let mut filter = filter(FindingQuery { state: Some(Lifetime::Open), ..query });
    // Not narrowed by where the part begins: a line stands for the same findings in every part.
    let folds = Folds::new(groups(connection, filter.clone())?, floor.as_deref());
    begin(&mut filter, order);
    let sql = format!(
        "SELECT {FINDING_COLUMNS}, severity, change, rule, directory, alone FROM findings {} ORDER BY {}",
        filter.sql(),
        by(order)
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut found = statement.query(params_from_iter(filter.into_values()))?;
    let mut items = Vec::new();
    while items.len() <= limit
        && let Some(row) = found.next()?
    {
        let fold = match place(&folds, row)? {
            Place::Within => continue,
            Place::Newest(fold) => Some(fold),
            Place::Alone => None,
        };
        items.push(Line { newest: finding_of(row)?, fold });
    }
    Ok(page(items, limit, |line| order.behind(&line.newest)))
}

fn groups(connection: &Connection, mut filter: Where) -> Result<Vec<Group>, StoreError> {
    filter.and_all("alone = 0", []);
    let sql = format!(
        "SELECT host, target, severity, change, rule, directory, count(*) AS number, max(id) AS newest FROM findings {}
         GROUP BY host, target, severity, change, rule, directory",
        filter.sql()
    );
    let mut statement = connection.prepare_cached(&sql)?;
    let mut found = statement.query(params_from_iter(filter.into_values()))?;
    let mut groups = Vec::new();
    let mut size = 0;
    while let Some(row) = found.next()? {
        let group = Group {
            kind: kind_of(row)?,
            directory: row.get("directory")?,
            number: unsigned(row.get("number")?),
            newest: row.get("newest")?,
        };
        if !group.is_reasonable() {
            continue;
        }
        size += group.size();
        if size > GROUPS {
            tracing::warn!("too many directories with findings to find all that could be one line");
            break;
        }
        groups.push(group);
    }
    Ok(groups)
}

fn kind_of(row: &Row<'_>) -> rusqlite::Result<Kind> {
    Ok(Kind {
        host: row.get("host")?,
        target: row.get("target")?,
        severity: row.get("severity")?,
        change: row.get("change")?,
        rule: row.get("rule")?,
    })
}

/// Where a row of [`lines`] stands. The finding itself is only read where it is shown.
fn place(folds: &Folds, row: &Row<'_>) -> Result<Place, StoreError> {
    if row.get("alone")? {
        return Ok(Place::Alone);
    }
    Ok(folds.place(row.get("id")?, kind_of(row)?, row.get("directory")?))
}

fn filter(query: FindingQuery) -> Where {
    let mut filter = Where::new();
    filter.and_state(query.state);
    filter.and_host(query.host);
    filter.and("target = ?", query.target);
    filter.and("path = ?", query.path);
    filter.and("directory = ?", query.directory);
    if let Some(above) = query.below.filter(|above| !above.is_empty()) {
        // From the slash behind it to the byte behind the slash.
        let ends = [b'/', b'/' + 1].map(|end| Value::from([above.as_slice(), &[end]].concat()));
        filter.and_all(
            "(directory = ? OR (directory >= ? AND directory < ?))",
            [Value::from(above)].into_iter().chain(ends),
        );
    }
    filter.and("change = ?", query.change.map(|change| change.name().to_owned()));
    match query.verdict {
        Some(Ruling::Alert) => filter.and_all("severity > 0", []),
        Some(Ruling::Tolerated) => filter.and_all("severity = 0", []),
        None => {}
    }
    if let Some(severities) = query.severity {
        let ends = [severities.start(), severities.end()].map(|severity| Value::from(loudness(Some(*severity))));
        filter.and_all("severity BETWEEN ? AND ?", ends);
    }
    filter.and("rule = ?", query.rule);
    filter.and("id = ?", query.id);
    if let Some(group) = query.group {
        // Kept of open ones only, and the index is one of those.
        filter.and_state(Some(Lifetime::Open));
        filter.and("drift = ?", Some(group.as_bytes().to_vec()));
    }
    filter
}

const fn by(order: Order) -> &'static str {
    match order {
        Order::Newest(_) => "id DESC",
        Order::Loudest(_) => "severity DESC, id DESC",
    }
}

fn begin(filter: &mut Where, order: Order) {
    match order {
        Order::Newest(before) => filter.and("id < ?", before),
        Order::Loudest(Some((severity, id))) => {
            filter.and_all("(severity, id) < (?, ?)", [loudness(severity).into(), id.into()]);
        }
        Order::Loudest(None) => {}
    }
}
