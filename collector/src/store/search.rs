//! Owns lists of findings: which, in what order, and several of one kind as one line. Must not own what a row holds.

use driftlock_common::policy::{Ruling, Severity};
use rusqlite::Connection;
use rusqlite::types::Value;

use super::apply::unsigned;
use super::filter::{Where, page};
use super::read::{FINDING_COLUMNS, finding_of, loudness, rows};
use super::{FOLD, FindingQuery, FindingRecord, Lifetime, Line, Order, Page, StoreError};

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

/// Open findings in the order of the query. Where many are of one kind in one directory, only the newest of them is listed,
/// with their number; what is critical always stands for itself.
pub(super) fn lines(connection: &Connection, query: FindingQuery) -> Result<Page<Line, Order>, StoreError> {
    const NUMBER: usize = 11;
    let (limit, order) = (query.limit, query.order);
    let open = filter(FindingQuery { state: Some(Lifetime::Open), ..query });
    // Not narrowed by where the part begins: a line stands for the same findings in every part.
    let mut quiet = open.clone();
    quiet.and("severity < ?", Some(loudness(Some(Severity::Critical))));
    let mut from_here = open;
    begin(&mut from_here, order);
    from_here.and_all("(newest IS NULL OR newest = id)", []);
    let sql = format!(
        "WITH folds (of_host, of_target, of_severity, of_change, of_directory, of_rule, number, newest) AS MATERIALIZED (
             SELECT host, target, severity, change, directory, rule, count(*), max(id) FROM findings {}
             GROUP BY host, target, severity, change, directory, rule HAVING count(*) >= {FOLD})
         SELECT {FINDING_COLUMNS}, coalesce(number, 1) FROM findings LEFT JOIN folds
             ON of_host = host AND of_target = target AND of_severity = severity AND of_change = change
             AND of_directory = directory AND of_rule = rule
         {} ORDER BY {} LIMIT {}",
        quiet.sql(),
        from_here.sql(),
        by(order),
        limit.saturating_add(1)
    );
    let values = quiet.into_values().into_iter().chain(from_here.into_values()).collect();
    let items = rows(connection, &sql, values, |row| {
        Ok(Line { newest: finding_of(row)?, number: unsigned(row.get(NUMBER)?) })
    })?;
    Ok(page(items, limit, |line| order.behind(&line.newest)))
}

fn filter(query: FindingQuery) -> Where {
    let mut filter = Where::new();
    filter.and_state(query.state);
    filter.and_host(query.host);
    filter.and("target = ?", query.target);
    filter.and("path = ?", query.path);
    filter.and("directory = ?", query.directory);
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
