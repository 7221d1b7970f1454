//! Owns lists of findings: which, in what order, by which index, and several of one kind as one line. Must not own what a
//! row holds.
//!
//! SQLite's own choice of an index knows nothing of what is frequent: it would sort a million findings because their
//! target is named. So each condition that has an index is tried first: what few have is looked up and sorted, and where
//! all are frequent the list is walked in its order. A walk ends after a number of rows, and the part is shorter then.

use std::collections::HashMap;

use driftlock_common::policy::{Ruling, Severity};
use rusqlite::types::Value;
use rusqlite::{Connection, Row, params_from_iter};

use super::apply::unsigned;
use super::filter::hosts_named;
use super::fold::{Folds, Group, Kind, Place};
use super::read::{FINDING_COLUMNS, finding_of, loudness, severity, to_json};
use super::{FindingQuery, FindingRecord, Lifetime, Line, Order, Page, StoreError};

/// The most bytes of directories, once for each kind, that are looked at to find lines; what is in others stands for
/// itself. Enough for a hundred thousand.
const GROUPS: usize = 32 * 1024 * 1024;
/// What fewer findings have than this is looked up and sorted.
const FEW: i64 = 2000;
/// Rows that are looked at for one part of a list.
const ROWS: usize = 20_000;

/// What [`finding_of`] does not read, behind what it does. The last is whether the row is in the list.
const MORE_COLUMNS: &str = "severity, change, rule, directory, alone";
const SEVERITY: usize = 12;
const TAKEN: usize = 17;

/// A condition of a query.
#[derive(Debug)]
struct Clause {
    sql: &'static str,
    values: Vec<Value>,
    index: Option<Index>,
}

/// An index by which the findings are found that a condition holds for.
#[derive(Clone, Copy, Debug)]
struct Index {
    name: &'static str,
    /// Whether it has them in the order of their ids.
    in_order: bool,
}

/// A query as SQLite is asked.
#[derive(Debug)]
struct Plan {
    sql: String,
    values: Vec<Value>,
}

/// Findings in the order of the query.
pub(super) fn findings(connection: &Connection, query: FindingQuery) -> Result<Page<FindingRecord, Order>, StoreError> {
    let plan = Plan::new(connection, &query)?;
    walk(connection, plan, &query, |row| finding_of(row).map(Some))
}

/// Open findings in the order of the query. Where many are of one kind below one directory, only the newest of them is
/// listed, for all of them.
pub(super) fn lines(connection: &Connection, query: FindingQuery) -> Result<Page<Line, Order>, StoreError> {
    let query = FindingQuery { state: Some(Lifetime::Open), ..query };
    let plan = Plan::new(connection, &query)?;
    let mut known: HashMap<Kind, Folds> = HashMap::new();
    let mut room = GROUPS;
    walk(connection, plan, &query, |row| {
        let fold = match place(connection, row, &query, &mut known, &mut room)? {
            Place::Within => return Ok(None),
            Place::Newest(fold) => Some(fold),
            Place::Alone => None,
        };
        Ok(Some(Line { newest: finding_of(row)?, fold }))
    })
}

/// Takes from the rows of a plan what `take` makes of them, as many as the query asks for.
fn walk<T>(
    connection: &Connection,
    plan: Plan,
    query: &FindingQuery,
    mut take: impl FnMut(&Row<'_>) -> Result<Option<T>, StoreError>,
) -> Result<Page<T, Order>, StoreError> {
    let mut statement = connection.prepare_cached(&plan.sql)?;
    let mut rows = statement.query(params_from_iter(plan.values))?;
    let mut items = Vec::new();
    let mut last = None;
    let mut looked_at = 0;
    while let Some(row) = rows.next()? {
        looked_at += 1;
        let here = query.order.behind(severity(row, SEVERITY)?, row.get(0)?);
        if row.get(TAKEN)?
            && let Some(item) = take(row)?
        {
            if items.len() >= query.limit {
                return Ok(Page { items, next: last });
            }
            items.push(item);
            last = Some(here);
        }
        if looked_at >= ROWS {
            return Ok(Page { items, next: Some(here) });
        }
    }
    Ok(Page { items, next: None })
}

/// Where a row of [`lines`] stands. The findings of its kind are only looked at when the first of them is met.
fn place(
    connection: &Connection,
    row: &Row<'_>,
    query: &FindingQuery,
    known: &mut HashMap<Kind, Folds>,
    room: &mut usize,
) -> Result<Place, StoreError> {
    if row.get("alone")? {
        return Ok(Place::Alone);
    }
    let kind = Kind {
        host: row.get("host")?,
        target: row.get("target")?,
        severity: row.get("severity")?,
        change: row.get("change")?,
        rule: row.get("rule")?,
    };
    let (id, directory): (i64, Vec<u8>) = (row.get("id")?, row.get("directory")?);
    if let Some(folds) = known.get(&kind) {
        return Ok(folds.place(id, &directory));
    }
    // Not narrowed by where the part begins: a line stands for the same findings in every part.
    let groups = groups(connection, &kind, query, room)?;
    let folds = Folds::new(&groups, query.below.as_deref());
    let place = folds.place(id, &directory);
    known.insert(kind, folds);
    Ok(place)
}

fn groups(
    connection: &Connection,
    kind: &Kind,
    query: &FindingQuery,
    room: &mut usize,
) -> Result<Vec<Group>, StoreError> {
    let within = within(query);
    let mut sql = "SELECT directory, count(*), max(id) FROM findings INDEXED BY findings_open_of_kind
         WHERE state = 'open' AND host = ? AND target = ? AND severity = ? AND change = ? AND rule = ? AND alone = 0"
        .to_owned();
    let Kind { host, target, severity, change, rule } = kind.clone();
    let mut values: Vec<Value> = vec![host.into(), target.into(), severity.into(), change.into(), rule.into()];
    for clause in within {
        sql.push_str(" AND ");
        sql.push_str(clause.sql);
        values.extend(clause.values);
    }
    sql.push_str(" GROUP BY directory");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut found = statement.query(params_from_iter(values))?;
    let mut groups = Vec::new();
    while let Some(row) = found.next()? {
        let group = Group { directory: row.get(0)?, number: unsigned(row.get(1)?), newest: row.get(2)? };
        if !group.is_reasonable() {
            continue;
        }
        let Some(left) = room.checked_sub(group.size()) else {
            tracing::warn!("too many directories with findings to find all that could be one line");
            break;
        };
        *room = left;
        groups.push(group);
    }
    Ok(groups)
}

impl Plan {
    fn new(connection: &Connection, query: &FindingQuery) -> Result<Self, StoreError> {
        let clauses = clauses(connection, query)?;
        let state = match query.state {
            // Literals, because a partial index is only used when its own words are in the query.
            Some(Lifetime::Open) => "state = 'open'",
            Some(Lifetime::Resolved) => "state = 'resolved'",
            None => "1",
        };
        if let Some(id) = query.id {
            let id = Clause::new("id = ?", [id.into()], None);
            return Ok(Self::of("", state, clauses.into_iter().chain([id]).collect(), Vec::new(), query.order));
        }
        if let Some(group) = query.group {
            let drift = Clause::new("drift = ?", [group.as_bytes().to_vec().into()], None);
            // What is the same drift has one severity: either order is that of the ids.
            let order = match query.order {
                Order::Loudest(behind) => Order::Newest(behind.map(|(_, id)| id)),
                newest @ Order::Newest(_) => newest,
            };
            // Kept of open ones only.
            if query.state == Some(Lifetime::Resolved) {
                return Ok(Self::of("", "0", Vec::new(), Vec::new(), order));
            }
            let state = "state = 'open'";
            return Ok(if query.host.is_some() {
                let found_by = clauses.into_iter().chain([drift]).collect();
                Self::of("findings_open_of_drift", state, found_by, Vec::new(), order)
            } else {
                Self::of("findings_open_of_drift_newest", state, vec![drift], clauses, order)
            });
        }
        let mut fewest = FEW;
        let mut by = None;
        for (place, clause) in clauses.iter().enumerate() {
            let Some(index) = clause.index else { continue };
            let sql = probe(state, clause, index);
            let number =
                connection.prepare_cached(&sql)?.query_row(params_from_iter(&clause.values), |row| row.get(0))?;
            if number < fewest {
                (fewest, by) = (number, Some(place));
            }
        }
        if let Some(few) = by.and_then(|place| clauses.get(place)?.index) {
            return Ok(Self::of(few.name, state, clauses, Vec::new(), query.order));
        }
        let newest = matches!(query.order, Order::Newest(_));
        let (index, found_by, others) = if newest {
            let frequent = |clause: &Clause| clause.index.is_some_and(|index| index.in_order);
            let (mut found_by, mut others) = (Vec::new(), clauses);
            if let Some(place) = others.iter().position(frequent) {
                found_by.push(others.remove(place));
            }
            let index = found_by.first().and_then(|clause| clause.index).map(|index| index.name);
            (index, found_by, others)
        } else {
            // The severity is what the order begins with.
            let (found_by, others) = clauses.into_iter().partition(|clause| clause.sql.starts_with("severity "));
            (None, found_by, others)
        };
        let index = index.unwrap_or(match (query.state, newest) {
            (Some(Lifetime::Open), true) => "findings_open",
            (Some(Lifetime::Open), false) => "findings_open_loudest",
            (Some(Lifetime::Resolved), true) => "findings_resolved_newest",
            (None, true) => "",
            (_, false) => "findings_loudest",
        });
        Ok(Self::of(index, state, found_by, others, query.order))
    }

    /// By this index; `others` only say what is in the list, so that rows that are not are looked at one by one.
    fn of(index: &str, state: &str, found_by: Vec<Clause>, others: Vec<Clause>, order: Order) -> Self {
        let indexed = match index {
            "" => "NOT INDEXED".to_owned(),
            index => format!("INDEXED BY {index}"),
        };
        let mut values = Vec::new();
        let mut taken = "1".to_owned();
        for clause in others {
            taken.push_str(" AND ");
            taken.push_str(clause.sql);
            values.extend(clause.values);
        }
        let mut found = state.to_owned();
        for clause in found_by.into_iter().chain(begin(order)) {
            found.push_str(" AND ");
            found.push_str(clause.sql);
            values.extend(clause.values);
        }
        let by = match order {
            Order::Newest(_) => "id DESC",
            Order::Loudest(_) => "severity DESC, id DESC",
        };
        let sql = format!(
            "SELECT {FINDING_COLUMNS}, {MORE_COLUMNS}, ({taken}) FROM findings {indexed} WHERE {found} ORDER BY {by}"
        );
        Self { sql, values }
    }
}

/// How many findings a condition holds for, if they are few.
fn probe(state: &str, clause: &Clause, index: Index) -> String {
    let (name, sql) = (index.name, clause.sql);
    format!("SELECT count(*) FROM (SELECT 1 FROM findings INDEXED BY {name} WHERE {state} AND {sql} LIMIT {FEW})")
}

impl Clause {
    fn new(sql: &'static str, values: impl IntoIterator<Item = Value>, index: Option<Index>) -> Self {
        Self { sql, values: values.into_iter().collect(), index }
    }
}

/// The conditions of a query, but its state and where the part begins.
fn clauses(connection: &Connection, query: &FindingQuery) -> Result<Vec<Clause>, StoreError> {
    let open = query.state == Some(Lifetime::Open);
    let of_open = |name: &'static str, in_order: bool| open.then_some(Index { name, in_order });
    let mut clauses = Vec::new();
    if let Some(path) = &query.path {
        let index = Index { name: "findings_of_path", in_order: true };
        clauses.push(Clause::new("path = ?", [path.clone().into()], Some(index)));
    }
    if let Some(host) = &query.host {
        let keys = hosts_named(connection, host)?;
        // The index that makes a path unique begins with the host.
        let of_any = |in_order| {
            of_open("findings_open_of_host", in_order)
                .or(Some(Index { name: "sqlite_autoindex_findings_1", in_order: false }))
        };
        clauses.push(match <[String; 1]>::try_from(keys) {
            Ok([key]) => Clause::new("host = ?", [key.into()], of_any(true)),
            Err(keys) => {
                let keys = to_json(&keys)?;
                Clause::new("host IN (SELECT value FROM json_each(?))", [keys.into()], of_any(false))
            }
        });
    }
    clauses.extend(within(query));
    if let Some(rule) = &query.rule {
        clauses.push(Clause::new("rule = ?", [rule.clone().into()], of_open("findings_open_of_rule", true)));
    }
    if let Some(change) = query.change {
        let name = change.name().to_owned();
        clauses.push(Clause::new("change = ?", [name.into()], of_open("findings_open_of_change", true)));
    }
    if let Some(target) = &query.target {
        clauses.push(Clause::new("target = ?", [target.clone().into()], of_open("findings_open_of_target", true)));
    }
    let of_severity = of_open("findings_open_loudest", false);
    match query.verdict {
        Some(Ruling::Alert) => clauses.push(Clause::new("severity > 0", [], of_severity)),
        Some(Ruling::Tolerated) => clauses.push(Clause::new("severity = 0", [], of_severity)),
        None => {}
    }
    if let Some(severities) = &query.severity {
        let ends = [severities.start(), severities.end()].map(|severity| Value::from(loudness(Some(*severity))));
        clauses.push(Clause::new("severity BETWEEN ? AND ?", ends, of_severity));
    }
    Ok(clauses)
}

/// The conditions of where a finding is.
fn within(query: &FindingQuery) -> Vec<Clause> {
    let index = |in_order| {
        (query.state == Some(Lifetime::Open)).then_some(Index { name: "findings_open_of_directory", in_order })
    };
    let mut clauses = Vec::new();
    if let Some(directory) = &query.directory {
        clauses.push(Clause::new("directory = ?", [directory.clone().into()], index(true)));
    }
    if let Some(above) = query.below.as_ref().filter(|above| !above.is_empty()) {
        // From itself to the byte behind the slash: one stretch of the index, which two with OR would not be. Between are
        // those whose names only begin like it, `usr-local` for `usr`.
        let followed_by = |byte| Value::from([above.as_slice(), &[byte]].concat());
        let (itself, below, behind) = (Value::from(above.clone()), followed_by(b'/'), followed_by(b'/' + 1));
        clauses.push(Clause::new("directory >= ? AND directory < ?", [itself.clone(), behind], index(false)));
        clauses.push(Clause::new("(directory = ? OR directory >= ?)", [itself, below], None));
    }
    clauses
}

/// The condition of where a part begins.
fn begin(order: Order) -> Option<Clause> {
    match order {
        Order::Newest(before) => before.map(|id| Clause::new("id < ?", [id.into()], None)),
        Order::Loudest(behind) => behind.map(|(severity, id): (Option<Severity>, i64)| {
            Clause::new("(severity, id) < (?, ?)", [loudness(severity).into(), id.into()], None)
        }),
    }
}

#[cfg(test)]
mod tests {
    use driftlock_common::drift::Change;
    use rusqlite::StatementStatus;

    use super::*;
    use crate::store::schema::migrate;

    /// A store with more findings than are few: of two hosts by turns, of one path in ten directories.
    fn connection() -> Connection {
        let mut connection = Connection::open_in_memory().unwrap();
        migrate(&mut connection).unwrap();
        connection
            .execute_batch(
                "WITH RECURSIVE n(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n < 5999)
                 INSERT INTO findings (host, target, path, directory, change, severity, rule, alone, finding, state,
                     opened_at, updated_at, count, received_at, drift)
                 SELECT 'h' || (n % 2), 't' || (n % 2), CAST('d' || (n % 10) || '/' || n AS BLOB),
                     CAST('d' || (n % 10) AS BLOB), iif(n % 2, 'added', 'changed'), n % 2, 'r' || (n % 2), 0,
                     '{\"path\":\"d\",\"change\":\"added\"}', iif(n % 3 = 2, 'resolved', 'open'), 1, 1, 1, 1,
                     iif(n % 2, x'00000000000000000000000000000001', x'00000000000000000000000000000000')
                 FROM n;
                 INSERT INTO hosts (host, name, first_seen, last_seen) VALUES ('h0', 'x', 1, 1), ('h1', 'x', 1, 1);",
            )
            .unwrap();
        connection
    }

    /// Every combination of conditions, each in one of the orders.
    fn queries() -> impl Iterator<Item = FindingQuery> {
        let orders = [
            Order::Newest(None),
            Order::Newest(Some(5000)),
            Order::Loudest(None),
            Order::Loudest(Some((Some(Severity::Info), 5000))),
        ];
        let states = [None, Some(Lifetime::Open), Some(Lifetime::Resolved), Some(Lifetime::Open)];
        (0..1_usize << 11).map(move |bits| {
            let on = |bit: usize| bits & (1 << bit) != 0;
            FindingQuery {
                state: states[bits % 4],
                host: on(2).then(|| if on(3) { "h0".to_owned() } else { "x".to_owned() }),
                target: on(4).then(|| "t0".to_owned()),
                rule: on(5).then(|| "r0".to_owned()),
                change: on(6).then_some(Change::Changed),
                directory: (on(7) && !on(8)).then(|| b"d0".to_vec()),
                below: (on(8) && !on(7)).then(|| b"d0".to_vec()),
                path: (on(7) && on(8)).then(|| b"d0/0".to_vec()),
                verdict: on(9).then_some(Ruling::Tolerated),
                group: on(10).then(|| format!("{:0>32}", 1).parse().unwrap()),
                // Without a pattern in the bits.
                order: orders[(bits * 7919 / 31) % 4],
                limit: 50,
                ..FindingQuery::default()
            }
        })
    }

    /// What SQLite says of how it would do it.
    fn explain(connection: &Connection, sql: &str, values: &[Value]) -> Vec<String> {
        let mut explained = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        explained.query_map(params_from_iter(values), |row| row.get(3)).unwrap().collect::<Result<_, _>>().unwrap()
    }

    #[test]
    fn no_query_looks_at_all_findings_and_none_sorts_more_than_few() {
        let connection = connection();
        for query in queries() {
            for clause in clauses(&connection, &query).unwrap() {
                let state = query.state.map_or_else(|| "1".to_owned(), |state| format!("state = '{}'", state.name()));
                let Some(index) = clause.index else { continue };
                let details = explain(&connection, &probe(&state, &clause, index), &clause.values);
                assert!(!details.iter().any(|detail| detail.starts_with("SCAN findings")), "{query:?}: {details:?}");
            }
            let plan = Plan::new(&connection, &query).unwrap();
            let details = explain(&connection, &plan.sql, &plan.values);
            let by_rowid = plan.sql.contains("NOT INDEXED");
            for detail in details.iter().filter(|detail| detail.starts_with("SCAN findings")) {
                assert!(detail.contains("USING INDEX") || by_rowid, "{query:?}: {details:?}");
            }
            let mut statement = connection.prepare(&plan.sql).unwrap();
            let mut rows = statement.query(params_from_iter(&plan.values)).unwrap();
            rows.next().unwrap();
            drop(rows);
            // To the first row: all that are sorted are looked at before, and of a walk only what is not in the list.
            if details.iter().any(|detail| detail.contains("TEMP B-TREE FOR ORDER BY")) {
                assert!(!details.iter().any(|detail| detail.starts_with("SCAN findings")), "{query:?}: {details:?}");
                let steps = statement.get_status(StatementStatus::VmStep);
                assert!(steps < 40 * i32::try_from(FEW).unwrap(), "{query:?}: {steps} steps, {details:?}");
            }
        }
    }

    #[test]
    fn every_plan_gives_what_a_naive_query_does() {
        let connection = connection();
        for query in queries() {
            let mut naive = format!("SELECT {FINDING_COLUMNS}, {MORE_COLUMNS}, 1 FROM findings NOT INDEXED WHERE 1");
            let mut values = Vec::new();
            if let Some(state) = query.state {
                naive.push_str(" AND state || '' = ?");
                values.push(Value::from(state.name().to_owned()));
            }
            if let Some(group) = query.group {
                naive.push_str(" AND state || '' = 'open' AND drift = ?");
                values.push(group.as_bytes().to_vec().into());
            }
            for clause in clauses(&connection, &query).unwrap().into_iter().chain(begin(query.order)) {
                naive.push_str(" AND ");
                naive.push_str(clause.sql);
                values.extend(clause.values);
            }
            naive.push_str(match query.order {
                Order::Newest(_) => " ORDER BY id DESC",
                Order::Loudest(_) => " ORDER BY severity DESC, id DESC",
            });
            let naive = walk(&connection, Plan { sql: naive, values }, &query, |row| Ok(Some(row.get::<_, i64>(0)?)));
            let planned = walk(&connection, Plan::new(&connection, &query).unwrap(), &query, |row| {
                Ok(Some(row.get::<_, i64>(0)?))
            });
            assert_eq!(planned.unwrap(), naive.unwrap(), "{query:?}");
        }
    }
}
