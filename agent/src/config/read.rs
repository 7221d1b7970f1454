//! Owns reading what was written: the keys of one file with their places, values in their types. Must not own what
//! the values mean together.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::words::{CONTROL, HOST, LIMITS, REPORT, SINK, TARGET, TOP, WATCH, Words, not_available};
use super::{Endpoint, EndpointError, Facility, Mode, Place, Problem, SyslogTo, Trust, units};
use crate::scan::Mounts;

/// A value and where it was written.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

/// What was written, of one file or of several put together.
#[derive(Debug, Default)]
pub(super) struct Raw {
    /// The first file, to which problems of the whole are ascribed.
    pub(super) file: PathBuf,
    /// Whether a file could not be read at all, so that nothing can be said about what is missing.
    pub(super) broken: bool,
    pub(super) state_dir: Option<At<PathBuf>>,
    pub(super) host_id: Option<At<String>>,
    pub(super) host_name: Option<At<String>>,
    pub(super) labels: Vec<(String, At<String>)>,
    pub(super) ephemeral: Option<At<bool>>,
    pub(super) targets: Vec<RawTarget>,
    pub(super) mode: Option<At<Mode>>,
    pub(super) sweep: Option<At<Option<Duration>>>,
    pub(super) full: Option<At<Duration>>,
    pub(super) threads: Option<At<u64>>,
    pub(super) cpu: Option<At<Option<u64>>>,
    pub(super) read: Option<At<Option<u64>>>,
    pub(super) hash_limit: Option<At<u64>>,
    pub(super) endpoint: Option<At<Result<Option<Endpoint>, EndpointError>>>,
    pub(super) token_file: Option<At<PathBuf>>,
    pub(super) ca_file: Option<At<PathBuf>>,
    pub(super) heartbeat: Option<At<Duration>>,
    pub(super) spool: Option<At<u64>>,
    pub(super) sinks: Vec<RawSink>,
    pub(super) socket: Option<At<String>>,
}

/// One `[[target]]`.
#[derive(Debug)]
pub(super) struct RawTarget {
    pub(super) place: Place,
    pub(super) name: Option<At<String>>,
    pub(super) root: Option<At<PathBuf>>,
    pub(super) process: Option<At<String>>,
    pub(super) manifest: Option<At<Vec<PathBuf>>>,
    pub(super) policy: Option<At<PathBuf>>,
    pub(super) trust: Option<At<Trust>>,
    pub(super) assignment: Option<At<PathBuf>>,
    pub(super) switch_window: Option<At<Duration>>,
    pub(super) allow_unsigned: Option<At<bool>>,
    pub(super) exclude: Option<At<Vec<String>>>,
    pub(super) mounts: Option<At<Mounts>>,
    pub(super) mounts_allowed: Option<At<Vec<String>>>,
    pub(super) id_map: Option<At<String>>,
}

/// One `[[sink]]`.
#[derive(Debug)]
pub(super) struct RawSink {
    pub(super) place: Place,
    pub(super) kind: Option<At<String>>,
    pub(super) path: Option<At<PathBuf>>,
    pub(super) socket: Option<At<PathBuf>>,
    pub(super) to: Option<At<Option<SyslogTo>>>,
    pub(super) facility: Option<At<Facility>>,
    pub(super) enterprise: Option<At<u64>>,
}

/// One table of a file, while it is read.
struct Section<'a> {
    file: &'a Path,
    text: &'a str,
    words: &'static Words,
    table: &'a DeTable<'a>,
    problems: &'a mut Vec<Problem>,
}

impl Raw {
    /// Reads one file. What is wrong goes to `problems`; what could be read is in the result.
    pub(super) fn read(file: &Path, text: &str, problems: &mut Vec<Problem>) -> Self {
        let mut raw = Self { file: file.to_owned(), ..Self::default() };
        let table = match DeTable::parse(text) {
            Ok(table) => table,
            Err(error) => {
                let line = error.span().map_or(0, |span| line_of(text, span.start));
                let what = error.message().lines().collect::<Vec<_>>().join(" ");
                problems.push(Problem::new(Place { file: file.to_owned(), line }, what));
                raw.broken = true;
                return raw;
            }
        };
        let mut top = Section { file, text, words: &TOP, table: table.get_ref(), problems };
        top.check_words();
        raw.state_dir = top.path("state_dir");
        if let Some(mut host) = top.section("host", &HOST) {
            raw.host_id = host.text("id");
            raw.host_name = host.text("name");
            raw.labels = host.labels();
            raw.ephemeral = host.flag("ephemeral");
        }
        raw.targets = top.targets();
        if let Some(mut watch) = top.section("watch", &WATCH) {
            raw.mode = watch.mode();
            raw.sweep = watch.auto_or("sweep", "a time like \"10m\", or \"auto\"", units::duration);
            raw.full = watch.parsed("full", "a time like \"24h\"", units::duration);
        }
        if let Some(mut limits) = top.section("limits", &LIMITS) {
            raw.threads = limits.number("threads");
            raw.cpu = limits.parsed("cpu", "a share of one core like \"20%\", or \"none\"", |text| {
                units::or_none(text, units::percent)
            });
            raw.read =
                limits.parsed("read", "a rate like \"200MB/s\", or \"none\"", |text| units::or_none(text, units::rate));
            raw.hash_limit = limits.parsed("hash_limit", "a size like \"1GiB\"", units::size);
        }
        if let Some(mut report) = top.section("report", &REPORT) {
            raw.endpoint = report.endpoint();
            raw.token_file = report.optional_path("token_file");
            raw.ca_file = report.optional_path("ca_file");
            report.nothing("proxy");
            raw.heartbeat = report.parsed("heartbeat", "a time like \"30s\"", units::duration);
            raw.spool = report.parsed("spool", "a size like \"64MB\"", units::size);
        }
        raw.sinks = top.sinks();
        if let Some(mut control) = top.section("control", &CONTROL) {
            raw.socket = control.text("socket");
        }
        raw
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count()
}

impl<'a> Section<'a> {
    fn place(&self, offset: usize) -> Place {
        Place { file: self.file.to_owned(), line: line_of(self.text, offset) }
    }

    fn complain(&mut self, offset: usize, what: String) {
        let place = self.place(offset);
        self.problems.push(Problem::new(place, what));
    }

    fn check_words(&mut self) {
        for (key, _) in self.table {
            if let Some(what) = self.words.problem(key.get_ref()) {
                self.complain(key.span().start, what);
            }
        }
    }

    fn value(&self, key: &str) -> Option<(usize, &'a DeValue<'a>)> {
        let value: &'a Spanned<DeValue<'a>> = self.table.get(key)?;
        Some((value.span().start, value.get_ref()))
    }

    /// The value of `key` through `convert`, or a problem that says what it should be.
    fn take<T>(
        &mut self,
        key: &str,
        should: &str,
        convert: impl FnOnce(&'a DeValue<'a>) -> Option<T>,
    ) -> Option<At<T>> {
        let (offset, value) = self.value(key)?;
        match convert(value) {
            Some(value) => Some(At { value, place: self.place(offset) }),
            None => {
                let prefix = self.words.prefix;
                self.complain(
                    offset,
                    if should.starts_with("one of") {
                        format!("{prefix}{key} is {should}")
                    } else {
                        format!("{prefix}{key} is not {should}")
                    },
                );
                None
            }
        }
    }

    fn section(&mut self, key: &str, words: &'static Words) -> Option<Section<'_>> {
        let (offset, value) = self.value(key)?;
        let Some(table) = value.as_table() else {
            self.complain(offset, format!("{key} is a table: [{key}]"));
            return None;
        };
        Some(self.enter(table, words))
    }

    fn enter(&mut self, table: &'a DeTable<'a>, words: &'static Words) -> Section<'_> {
        let mut section = Section { file: self.file, text: self.text, words, table, problems: self.problems };
        section.check_words();
        section
    }

    fn text(&mut self, key: &str) -> Option<At<String>> {
        self.take(key, "a text", |value| value.as_str().map(str::to_owned))
    }

    fn flag(&mut self, key: &str) -> Option<At<bool>> {
        self.take(key, "true or false", DeValue::as_bool)
    }

    fn number(&mut self, key: &str) -> Option<At<u64>> {
        self.take(key, "a whole number", |value| {
            value.as_integer().and_then(|n| u64::from_str_radix(n.as_str(), n.radix()).ok())
        })
    }

    fn path(&mut self, key: &str) -> Option<At<PathBuf>> {
        self.text(key).map(|At { value, place }| At { value: PathBuf::from(value), place })
    }

    /// One, or a list of them.
    fn paths(&mut self, key: &str) -> Option<At<Vec<PathBuf>>> {
        self.take(key, "a text or a list of texts", |value| {
            let path = |value: &DeValue<'_>| value.as_str().map(PathBuf::from);
            match value.as_array() {
                Some(list) => list.iter().map(|item| path(item.get_ref())).collect(),
                None => path(value).map(|path| vec![path]),
            }
        })
    }

    /// Keys in a list, or one trust file.
    fn trust(&mut self) -> Option<At<Trust>> {
        self.take("trust", "a trust file, or a list of keys", |value| {
            let path = |value: &DeValue<'_>| value.as_str().filter(|text| !text.is_empty()).map(PathBuf::from);
            match value.as_array() {
                Some(list) => list.iter().map(|item| path(item.get_ref())).collect::<Option<_>>().map(Trust::AnyOf),
                None => path(value).map(Trust::File),
            }
        })
    }

    /// Empty stands for not set.
    fn optional_path(&mut self, key: &str) -> Option<At<PathBuf>> {
        self.path(key).filter(|path| !path.value.as_os_str().is_empty())
    }

    fn parsed<T>(&mut self, key: &str, should: &str, parse: impl Fn(&str) -> Option<T>) -> Option<At<T>> {
        self.take(key, should, |value| value.as_str().and_then(parse))
    }

    fn auto_or<T>(&mut self, key: &str, should: &str, parse: impl Fn(&str) -> Option<T>) -> Option<At<Option<T>>> {
        self.parsed(key, should, |text| if text == "auto" { Some(None) } else { parse(text).map(Some) })
    }

    fn texts(&mut self, key: &str) -> Option<At<Vec<String>>> {
        self.take(key, "a list of texts", |value| {
            value.as_array()?.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
        })
    }

    /// A key whose only value in this version is the empty one.
    fn nothing(&mut self, key: &str) {
        let Some((offset, value)) = self.value(key) else { return };
        let empty = value.as_str().is_some_and(str::is_empty) || value.as_array().is_some_and(|list| list.is_empty());
        if !empty {
            self.complain(offset, not_available(&format!("{}{key}", self.words.prefix)));
        }
    }

    fn mode(&mut self) -> Option<At<Mode>> {
        let At { value, place } = self.text("mode")?;
        let value = match value.as_str() {
            "auto" => Mode::Auto,
            "fanotify" => Mode::Fanotify,
            "inotify" => Mode::Inotify,
            "sweep" => Mode::Sweep,
            _ => {
                self.problems.push(Problem::new(place, "watch.mode is one of auto, fanotify, inotify, sweep"));
                return None;
            }
        };
        Some(At { value, place })
    }

    fn endpoint(&mut self) -> Option<At<Result<Option<Endpoint>, EndpointError>>> {
        let At { value, place } = self.text("endpoint")?;
        let value = if value.is_empty() { Ok(None) } else { value.parse().map(Some) };
        Some(At { value, place })
    }

    fn labels(&mut self) -> Vec<(String, At<String>)> {
        let Some((offset, value)) = self.value("labels") else { return Vec::new() };
        let Some(table) = value.as_table() else {
            self.complain(offset, "host.labels is a table: { role = \"web\" }".to_owned());
            return Vec::new();
        };
        let mut labels = Vec::new();
        for (key, value) in table {
            let name = key.get_ref().to_string();
            match value.get_ref().as_str() {
                Some(text) => labels.push((name, At { value: text.to_owned(), place: self.place(key.span().start) })),
                None => {
                    self.complain(key.span().start, format!("host.labels.{} is not a text", name.escape_default()));
                }
            }
        }
        labels
    }

    /// The tables of `key`, of which there may be several, each through `read`.
    fn tables<T>(&mut self, key: &str, words: &'static Words, read: impl Fn(&mut Section<'_>, Place) -> T) -> Vec<T> {
        let Some((offset, value)) = self.value(key) else { return Vec::new() };
        let tables: Option<Vec<(usize, &'a DeTable<'a>)>> = value
            .as_array()
            .and_then(|list| list.iter().map(|item| Some((item.span().start, item.get_ref().as_table()?))).collect());
        let Some(tables) = tables else {
            self.complain(offset, format!("{key} is written [[{key}]], with two brackets: there may be several"));
            return Vec::new();
        };
        let each = |(offset, table)| {
            let place = self.place(offset);
            read(&mut self.enter(table, words), place)
        };
        tables.into_iter().map(each).collect()
    }

    fn targets(&mut self) -> Vec<RawTarget> {
        self.tables("target", &TARGET, |target, place| target.target(place))
    }

    fn sinks(&mut self) -> Vec<RawSink> {
        self.tables("sink", &SINK, |sink, place| sink.sink(place))
    }

    fn sink(&mut self, place: Place) -> RawSink {
        let one_of = Facility::TABLE.map(|(word, _)| word).join(", ");
        RawSink {
            place,
            kind: self.text("type"),
            path: self.path("path"),
            socket: self.path("socket"),
            to: self.syslog_to(),
            facility: self.parsed("facility", &format!("one of {one_of}"), Facility::named),
            enterprise: self.number("enterprise"),
        }
    }

    /// One that is wrong is there.
    fn syslog_to(&mut self) -> Option<At<Option<SyslogTo>>> {
        let At { value, place } = self.text("to")?;
        let parsed = value.parse();
        if let Err(error) = &parsed {
            self.problems.push(Problem::new(place.clone(), format!("sink.to {error}")));
        }
        Some(At { value: parsed.ok(), place })
    }

    fn target(&mut self, place: Place) -> RawTarget {
        RawTarget {
            place,
            name: self.text("name"),
            root: self.path("root"),
            process: self.text("process"),
            manifest: self.paths("manifest"),
            policy: self.optional_path("policy"),
            trust: self.trust(),
            assignment: self.optional_path("assignment"),
            switch_window: self.parsed("switch_window", "a time like \"10m\"", units::duration),
            allow_unsigned: self.flag("allow_unsigned"),
            exclude: self.texts("exclude"),
            mounts: self.parsed("mounts", "one of report, skip, cross", |word| match word {
                "report" => Some(Mounts::Report),
                "skip" => Some(Mounts::Skip),
                "cross" => Some(Mounts::Cross),
                _ => None,
            }),
            mounts_allowed: self.texts("mounts_allowed"),
            id_map: self.text("id_map"),
        }
    }
}
