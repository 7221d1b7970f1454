//! Owns the table of a bench: rows of times, by turns measured, in Markdown. Must not own what was measured.

use std::fmt::Write as _;
use std::time::Duration;

use crate::median;

/// How much a row goes through in one run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Amount {
    /// Files.
    pub files: u64,
    /// Bytes of their content.
    pub bytes: u64,
}

/// What was measured of one thing.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// What it is.
    pub name: String,
    /// One for each run.
    pub times: Vec<Duration>,
}

impl Row {
    /// Of no run yet.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), times: Vec::new() }
    }

    /// The median, in seconds; not a number if there was no run.
    pub fn seconds(&self) -> f64 {
        median(&self.times).map_or(f64::NAN, |time| time.as_secs_f64())
    }
}

/// The table. The last column is the first row's median divided by that of each; `first` is what it is called there.
pub fn markdown(first: &str, rows: &[Row], amount: Amount) -> String {
    let mut text = format!("| | median | from | to | runs | files/s | GB/s | {first} ÷ this |\n");
    text.push_str("|---|---:|---:|---:|---:|---:|---:|---:|\n");
    let of_first = rows.first().map_or(f64::NAN, Row::seconds);
    for row in rows.iter().filter(|row| !row.times.is_empty()) {
        let seconds = row.seconds();
        let end = |time: Option<&Duration>| time.map_or(f64::NAN, Duration::as_secs_f64);
        let (from, to) = (end(row.times.iter().min()), end(row.times.iter().max()));
        let Amount { files, bytes } = amount;
        let _infallible = writeln!(
            text,
            "| {} | {seconds:.3} s | {from:.3} | {to:.3} | {} | {:.0} | {:.2} | {:.3} |",
            row.name,
            row.times.len(),
            files as f64 / seconds,
            bytes as f64 / seconds / 1e9,
            of_first / seconds
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_without_a_run_is_left_out() {
        let seconds = |times: &[u64]| times.iter().map(|s| Duration::from_secs(*s)).collect();
        let rows = [
            Row { name: "scan".into(), times: seconds(&[3, 1, 2]) },
            Row { name: "other".into(), times: seconds(&[8]) },
            Row::new("absent"),
        ];
        let text = markdown("scan", &rows, Amount { files: 1000, bytes: 4_000_000_000 });
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "| scan | 2.000 s | 1.000 | 3.000 | 3 | 500 | 2.00 | 1.000 |",
                "| other | 8.000 s | 8.000 | 8.000 | 1 | 125 | 0.50 | 0.250 |",
            ]
        );
    }
}
