//! Owns reading one table of a TOML text strictly: keys that are known, values of the type that was meant, problems with
//! their places. Must not own what the keys mean.

use std::fmt;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::key;

/// One thing that is wrong with a text, where.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// From 1; 0 if it concerns the whole.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What, and what to do.
    pub what: String,
}

/// A value and where it begins.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) offset: usize,
}

/// Where in a text, and what was wrong with it so far.
#[derive(Debug)]
pub(crate) struct Problems<'a> {
    text: &'a str,
    /// Where each line begins.
    lines: Vec<usize>,
    found: Vec<Problem>,
}

/// One table, while it is read.
#[derive(Debug)]
pub(crate) struct Section<'a> {
    /// Before a key in a problem: `rule.`, or nothing.
    prefix: &'static str,
    table: &'a DeTable<'a>,
}

/// As many problems are said; more help nobody.
const MAX_PROBLEMS: usize = 100;

/// The text of some bytes, if it is one and of at most `max` bytes.
pub(crate) fn text_of(bytes: &[u8], max: usize) -> Result<&str, Problem> {
    if bytes.len() > max {
        return Err(whole(format!("larger than {max} bytes")));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let good = bytes.get(..error.valid_up_to()).and_then(|good| std::str::from_utf8(good).ok()).unwrap_or_default();
        let (line, column) = place(good, good.len());
        Problem { line, column, what: "not UTF-8".to_owned() }
    })
}

/// The table of a text.
pub(crate) fn table_of(text: &str) -> Result<Spanned<DeTable<'_>>, Problem> {
    DeTable::parse(text).map_err(|error| {
        let what = error.message().lines().collect::<Vec<_>>().join(" ");
        let (line, column) = error.span().map_or((0, 0), |span| place(text, span.start));
        Problem { line, column, what: what.escape_debug().take(200).collect() }
    })
}

/// A problem of the whole text.
pub(crate) const fn whole(what: String) -> Problem {
    Problem { line: 0, column: 0, what }
}

fn place(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = 1 + before.bytes().filter(|byte| *byte == b'\n').count();
    let column = 1 + before.rsplit('\n').next().unwrap_or_default().chars().count();
    (line, column)
}

/// A text as problems quote it: shortened, on one line, without anything that acts on a terminal.
pub(crate) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().take(key::MAX_SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("\"{}\"", crate::path::Escaped(shown.as_bytes()))
}

// === impl Problems ===

impl<'a> Problems<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { text, lines: std::iter::once(0).chain(ends).collect(), found: Vec::new() }
    }

    pub(crate) fn add(&mut self, offset: usize, what: impl Into<String>) {
        if self.found.len() < MAX_PROBLEMS {
            let (line, column) = place(self.text, offset);
            self.found.push(Problem { line, column, what: what.into() });
        }
    }

    pub(crate) fn add_whole(&mut self, what: impl Into<String>) {
        self.found.push(whole(what.into()));
    }

    pub(crate) fn line(&self, offset: usize) -> usize {
        self.lines.partition_point(|start| *start <= offset)
    }

    pub(crate) fn finish(self) -> Vec<Problem> {
        self.found
    }
}

// === impl Section ===

impl<'a> Section<'a> {
    pub(crate) fn new(
        prefix: &'static str,
        known: &'static [&'static str],
        table: &'a DeTable<'a>,
        problems: &mut Problems<'_>,
    ) -> Self {
        for (key, _) in table {
            if let Some(what) = key::problem(prefix, known, key.get_ref()) {
                problems.add(key.span().start, what);
            }
        }
        Self { prefix, table }
    }

    /// Where the value of a key begins.
    pub(crate) fn offset(&self, key: &str) -> Option<usize> {
        self.table.get(key).map(|value: &Spanned<_>| value.span().start)
    }

    /// The value of `key` through `convert`, or a problem that says what it is to be.
    pub(crate) fn take<T>(
        &self,
        key: &str,
        problems: &mut Problems<'_>,
        should: &str,
        convert: impl FnOnce(&'a DeValue<'a>) -> Option<T>,
    ) -> Option<At<T>> {
        let value: &'a Spanned<DeValue<'a>> = self.table.get(key)?;
        let offset = value.span().start;
        let converted = convert(value.get_ref());
        if converted.is_none() {
            problems.add(offset, format!("{}{key} is not {should}", self.prefix));
        }
        converted.map(|value| At { value, offset })
    }

    pub(crate) fn text(&self, key: &str, problems: &mut Problems<'_>) -> Option<At<&'a str>> {
        self.take(key, problems, "a text", DeValue::as_str)
    }

    pub(crate) fn number(&self, key: &str, problems: &mut Problems<'_>) -> Option<At<u64>> {
        self.take(key, problems, "a whole number", |value| {
            let number = value.as_integer()?;
            u64::from_str_radix(number.as_str(), number.radix()).ok()
        })
    }

    /// One text, or a list of texts that is not empty.
    pub(crate) fn texts(&self, key: &str, problems: &mut Problems<'_>) -> Option<Vec<At<&'a str>>> {
        let value: &'a Spanned<DeValue<'a>> = self.table.get(key)?;
        let should = "a text, nor a list of texts that is not empty";
        let list = self.take(key, problems, should, |found| {
            if let Some(text) = found.as_str() {
                return Some(vec![At { value: text, offset: value.span().start }]);
            }
            let items = found.as_array().filter(|items| !items.is_empty())?;
            let text = |item: &'a Spanned<DeValue<'a>>| {
                Some(At { value: item.get_ref().as_str()?, offset: item.span().start })
            };
            items.iter().map(text).collect()
        })?;
        Some(list.value)
    }

    /// Words of which each has a value, without repetition.
    pub(crate) fn words<T: PartialEq>(
        &self,
        key: &str,
        problems: &mut Problems<'_>,
        known: &[&str],
        of_name: impl Fn(&str) -> Option<T>,
    ) -> Option<Vec<T>> {
        let mut values = Vec::new();
        for At { value: word, offset } in self.texts(key, problems)? {
            match of_name(word) {
                Some(value) if values.contains(&value) => {
                    problems.add(offset, format!("{}{key} says {word} twice", self.prefix));
                }
                Some(value) => values.push(value),
                None => problems.add(offset, not_one_of(&format!("{}{key}", self.prefix), word, known)),
            }
        }
        Some(values)
    }

    /// One word.
    pub(crate) fn word<T>(
        &self,
        key: &str,
        problems: &mut Problems<'_>,
        known: &[&str],
        of_name: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let At { value: word, offset } = self.text(key, problems)?;
        let value = of_name(word);
        if value.is_none() {
            problems.add(offset, not_one_of(&format!("{}{key}", self.prefix), word, known));
        }
        value
    }

    /// The table of `key`.
    pub(crate) fn table(
        &self,
        key: &str,
        problems: &mut Problems<'_>,
        prefix: &'static str,
        known: &'static [&'static str],
    ) -> Option<Self> {
        let table = self.take(key, problems, &format!("a table: [{}{key}]", self.prefix), DeValue::as_table)?;
        Some(Section::new(prefix, known, table.value, problems))
    }

    /// The tables of `key`, each with where it begins.
    pub(crate) fn tables(&self, key: &str, problems: &mut Problems<'_>) -> Vec<At<&'a DeTable<'a>>> {
        let tables = self.take(key, problems, &format!("written [[{key}]], with two brackets"), |value| {
            let table = |item: &'a Spanned<DeValue<'a>>| {
                Some(At { value: item.get_ref().as_table()?, offset: item.span().start })
            };
            value.as_array()?.iter().map(table).collect()
        });
        tables.map_or_else(Vec::new, |tables| tables.value)
    }
}

fn not_one_of(key: &str, word: &str, known: &[&str]) -> String {
    match key::nearest(known, word) {
        Some(nearest) => format!("{key} is not {}; did you mean {nearest}?", quoted(word)),
        None => format!("{key} is not {}: one of {}", quoted(word), known.join(", ")),
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "{}:{}: ", self.line, self.column)?;
        }
        f.write_str(&self.what)
    }
}
