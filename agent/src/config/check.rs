//! Owns what written values mean together: defaults, ranges, contradictions.

use std::collections::{BTreeMap, BTreeSet};
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use driftlock_common::path::TreePath;
use driftlock_common::pattern::Excludes;
use driftlock_common::tree::MAX_PARTS;

use super::read::{At, Raw, RawSink, RawTarget};
use super::{
    Asked, Config, ConfigError, DEFAULT_CPU, DEFAULT_HASH_LIMIT, DEFAULT_HEARTBEAT, DEFAULT_MEMORY_SPOOL, DEFAULT_READ,
    DEFAULT_SPOOL, DEFAULT_STATE_DIR, Host, JOURNAL_SOCKET, Limits, Location, MAX_SWITCH_WINDOW, MIN_READ, MIN_SPOOL,
    Manifests, Place, Problem, Report, SYSLOG_SOCKET, Sink, Socket, State, Syslog, SyslogTo, Target, Trust, Watch,
    default_threads,
};
use crate::process::Selector;
use crate::scan::FULL;

/// More hashing threads than this are a mistake.
const MAX_THREADS: u64 = 256;
/// In percent of one core: all of as many cores.
const MAX_CPU: u64 = 100 * MAX_THREADS;
/// The longest name of a host, a target or a label, in bytes.
const MAX_NAME: usize = 128;
/// In the place of a file: what the collector has.
const COLLECTOR: &str = "collector";
const MIN_SWEEP: Duration = Duration::from_secs(1);
const MIN_FULL: Duration = Duration::from_secs(10);
const MIN_HEARTBEAT: Duration = Duration::from_secs(1);
const MAX_PERIOD: Duration = Duration::from_hours(24 * 30);

/// Makes a configuration of what was written, unless anything is wrong.
pub(super) fn check(raw: Raw, problems: Vec<Problem>) -> Result<Config, ConfigError> {
    let mut check = Check { problems };
    let config = check.config(raw);
    if check.problems.is_empty() { Ok(config) } else { Err(ConfigError::new(check.problems)) }
}

/// Makes of what was written what tells where the agent can be asked, unless anything is wrong.
pub(super) fn asked(raw: Raw, problems: Vec<Problem>) -> Result<Asked, ConfigError> {
    let mut check = Check { problems };
    let (state, socket) = (check.state(raw.state_dir), check.socket(raw.socket));
    if check.problems.is_empty() { Ok(Asked { state, socket }) } else { Err(ConfigError::new(check.problems)) }
}

/// Whether a text can be the name of a target.
pub(crate) fn is_name(text: &str) -> bool {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:@".contains(&byte);
    !text.is_empty() && text.len() <= MAX_NAME && text.bytes().all(good)
}

struct Check {
    problems: Vec<Problem>,
}

impl Check {
    fn complain(&mut self, place: &Place, what: impl Into<String>) {
        self.problems.push(Problem::new(place.clone(), what));
    }

    fn config(&mut self, raw: Raw) -> Config {
        let state = self.state(raw.state_dir);
        let socket = self.socket(raw.socket);
        let default_spool = if state == State::Memory { DEFAULT_MEMORY_SPOOL } else { DEFAULT_SPOOL };
        let host = Host {
            id: self.name("host.id", raw.host_id).filter(|id| id != "auto"),
            name: self.name("host.name", raw.host_name).filter(|name| name != "auto"),
            labels: self.labels(raw.labels),
            ephemeral: raw.ephemeral.is_some_and(|at| at.value),
        };
        if raw.targets.is_empty() && !raw.broken {
            self.problems.push(Problem::about(&raw.file, "there is no [[target]]: nothing would be watched"));
        }
        let targets = self.targets(raw.targets);
        let watch = Watch {
            mode: raw.mode.map(|at| at.value).unwrap_or_default(),
            sweep: raw.sweep.and_then(|at| {
                let place = at.place;
                at.value.map(|value| self.period("watch.sweep", At { value, place }, MIN_SWEEP))
            }),
            full: raw.full.map_or(FULL, |at| self.period("watch.full", at, MIN_FULL)),
        };
        let limits = Limits {
            threads: raw.threads.and_then(|at| self.threads(&at)).unwrap_or_else(default_threads),
            cpu: raw.cpu.map_or(Some(DEFAULT_CPU), |at| self.cpu(&at)),
            read: raw.read.map_or(Some(DEFAULT_READ), |at| self.read(&at)),
            hash_limit: raw.hash_limit.map_or(DEFAULT_HASH_LIMIT, |at| at.value),
        };
        // One that is wrong is there: what belongs to it is not said to be too much.
        let is_there = raw.endpoint.as_ref().is_some_and(|at| !matches!(at.value, Ok(None)));
        let endpoint = raw.endpoint.and_then(|At { value, place }| {
            value.unwrap_or_else(|error| {
                self.complain(&place, format!("report.endpoint: {error}"));
                None
            })
        });
        if !is_there {
            for (key, path) in [("token_file", &raw.token_file), ("ca_file", &raw.ca_file)] {
                if let Some(at) = path {
                    self.complain(&at.place, format!("report.{key} is set, but report.endpoint is not"));
                }
            }
        }
        let report = Report {
            token_file: raw.token_file.map(|at| self.absolute("report.token_file", at)),
            ca_file: raw.ca_file.map(|at| self.absolute("report.ca_file", at)),
            heartbeat: raw.heartbeat.map_or(DEFAULT_HEARTBEAT, |at| self.period("report.heartbeat", at, MIN_HEARTBEAT)),
            spool: raw.spool.map_or(default_spool, |at| self.spool(&at)),
            endpoint,
        };
        let sinks = self.sinks(raw.sinks);
        Config { state, host, targets, watch, limits, report, sinks, socket, digest: None }
    }

    fn state(&mut self, raw: Option<At<PathBuf>>) -> State {
        match raw {
            Some(At { value, .. }) if value == Path::new("memory") => State::Memory,
            Some(At { value, place }) if !value.is_absolute() => {
                self.complain(&place, "state_dir is not an absolute path, nor \"memory\"");
                State::Memory
            }
            Some(path) => State::Directory(self.absolute("state_dir", path)),
            None => State::Directory(PathBuf::from(DEFAULT_STATE_DIR)),
        }
    }

    fn socket(&mut self, raw: Option<At<String>>) -> Socket {
        let Some(At { value, place }) = raw else { return Socket::Auto };
        match value.as_str() {
            "auto" => Socket::Auto,
            "off" => Socket::Off,
            path if Path::new(path).is_absolute() && Path::new(path).file_name().is_some() => {
                Socket::At(self.absolute("control.socket", At { value: value.into(), place }))
            }
            _ => {
                self.complain(&place, "control.socket is the absolute path of a socket, \"auto\" or \"off\"");
                Socket::Off
            }
        }
    }

    fn absolute(&mut self, key: &str, At { value, place }: At<PathBuf>) -> PathBuf {
        if !value.is_absolute() {
            self.complain(&place, format!("{key} is not an absolute path"));
        } else if value.components().any(|part| part == Component::ParentDir) {
            self.complain(&place, format!("{key} has a component \"..\""));
        }
        value
    }

    /// Names go into URLs, logs and pages: they are kept to what is the same everywhere.
    fn name(&mut self, key: &str, at: Option<At<String>>) -> Option<String> {
        let At { value, place } = at?;
        if !is_name(&value) {
            self.complain(&place, format!("{key} is 1 to {MAX_NAME} of letters, digits and . _ - : @"));
        }
        Some(value)
    }

    fn labels(&mut self, raw: Vec<(String, At<String>)>) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::new();
        for (name, At { value, place }) in raw {
            let too_long = name.is_empty() || name.len() > MAX_NAME || value.len() > MAX_NAME;
            if too_long || name.chars().chain(value.chars()).any(char::is_control) {
                let name = name.escape_default();
                self.complain(
                    &place,
                    format!("host.labels.{name}: names and values are at most {MAX_NAME} bytes of text"),
                );
            }
            labels.insert(name, value);
        }
        labels
    }

    fn targets(&mut self, raw: Vec<RawTarget>) -> Vec<Target> {
        let mut targets: Vec<Target> = Vec::with_capacity(raw.len());
        for one in raw {
            let place = one.place.clone();
            let name_place = one.name.as_ref().map_or_else(|| place.clone(), |at| at.place.clone());
            let Some(target) = self.target(one) else { continue };
            if targets.iter().any(|other| other.name == target.name) {
                self.complain(&name_place, format!("a target {} is there already", target.name));
            }
            if targets.iter().any(|other| same_location(&other.root, &target.root)) {
                self.complain(&place, format!("another target has the root {} already", target.root));
            }
            targets.push(target);
        }
        targets
    }

    fn target(&mut self, raw: RawTarget) -> Option<Target> {
        let location = raw.root.is_none() && raw.process.is_none();
        for (key, missing) in
            [("name", raw.name.is_none()), ("root or target.process", location), ("manifest", raw.manifest.is_none())]
        {
            if missing {
                self.complain(&raw.place, format!("target.{key} is missing"));
            }
        }
        let allow_unsigned = raw.allow_unsigned.as_ref().is_some_and(|at| at.value);
        let name = self.name("target.name", raw.name);
        let root = self.location(&raw.place, raw.root, raw.process);
        let from_collector = |path: &Path| path == Path::new(COLLECTOR);
        let collected = raw.manifest.as_ref().is_some_and(|at| matches!(&at.value[..], [one] if from_collector(one)));
        let assigned = raw.assignment.as_ref().is_some_and(|at| from_collector(&at.value));
        let manifests = raw.manifest.map(|at| {
            let place = at.place.clone();
            let manifests =
                if collected { Manifests::Collector { assigned } } else { Manifests::Files(self.manifests(at)) };
            (manifests, place)
        });
        let trust = raw.trust.map(|at| self.trust(at));
        if let Some((Manifests::Collector { .. }, place)) = &manifests
            && trust.is_none()
        {
            let what = "target.manifest = \"collector\" needs target.trust: the collector is not trusted with what must be \
                        there, name the keys that sign it";
            self.complain(place, what);
        }
        if let (Some(at), true) = (&raw.allow_unsigned, trust.is_some() && allow_unsigned) {
            let what = "target.trust and target.allow_unsigned are both set: what is trusted is signed, leave \
                        allow_unsigned out";
            self.complain(&at.place, what);
        }
        if let Some((_, place)) = &manifests
            && trust.is_none()
            && !allow_unsigned
            && !collected
        {
            self.complain(
                place,
                "nobody is trusted with this manifest: name the keys that sign it, target.trust = [\"…\"], or \
                     set target.allow_unsigned = true",
            );
        }
        let assignment = raw.assignment.and_then(|at| {
            if trust.is_none() {
                self.complain(&at.place, "target.assignment needs target.trust: somebody must have signed it");
            }
            match (&manifests, assigned) {
                (Some((Manifests::Files(files), _)), false) if files.len() > 1 => {
                    let what =
                        "target.manifest is a list, and target.assignment is set: an assignment names one manifest";
                    self.complain(&at.place, what);
                }
                (Some((Manifests::Collector { .. }, _)), true) => return None,
                (_, true) => {
                    let what = "target.assignment is \"collector\" only where target.manifest is";
                    self.complain(&at.place, what);
                    return None;
                }
                (Some((Manifests::Collector { .. }, _)), false) => {
                    let what = "target.assignment is \"collector\" too, or left out, where target.manifest is";
                    self.complain(&at.place, what);
                }
                (Some((Manifests::Files(_), _)) | None, false) => {}
            }
            Some(self.absolute("target.assignment", at))
        });
        let switch_window = raw.switch_window.map(|At { value, place }| {
            if value > MAX_SWITCH_WINDOW {
                self.complain(&place, "target.switch_window is at most 1h");
            }
            value
        });
        let policy = raw.policy.map(|policy| self.absolute("target.policy", policy));
        let exclude = match raw.exclude {
            None => Excludes::none(),
            Some(At { value, place }) => Excludes::new(value.iter().map(String::as_str), []).unwrap_or_else(|error| {
                self.complain(&place, format!("target.exclude: {error}"));
                Excludes::none()
            }),
        };
        let mounts = raw.mounts.map(|at| at.value).unwrap_or_default();
        let mounts_allowed =
            raw.mounts_allowed.map(|at| self.tree_paths("target.mounts_allowed", at)).unwrap_or_default();
        let id_map = raw.id_map.and_then(|At { value, place }| {
            value.parse().map_err(|error| self.complain(&place, format!("target.id_map: {error}"))).ok()
        });
        Some(Target {
            name: name?,
            root: root?,
            manifests: manifests?.0,
            policy,
            trust: trust.unwrap_or_default(),
            assignment,
            switch_window: switch_window.unwrap_or_default(),
            allow_unsigned,
            exclude,
            mounts,
            mounts_allowed,
            id_map: id_map.unwrap_or_default(),
        })
    }

    fn trust(&mut self, At { value, place }: At<Trust>) -> Trust {
        match value {
            Trust::Nobody => Trust::Nobody,
            Trust::File(value) => Trust::File(self.absolute("target.trust", At { value, place })),
            Trust::AnyOf(keys) => {
                if keys.is_empty() {
                    self.complain(&place, "target.trust is an empty list: nobody would be trusted");
                }
                let mut files: Vec<PathBuf> = Vec::with_capacity(keys.len());
                for value in keys {
                    let file = self.absolute("target.trust", At { value, place: place.clone() });
                    if files.contains(&file) {
                        self.complain(&place, format!("target.trust names {} twice", file.display()));
                    }
                    files.push(file);
                }
                Trust::AnyOf(files)
            }
        }
    }

    fn manifests(&mut self, At { value, place }: At<Vec<PathBuf>>) -> Vec<PathBuf> {
        if value.is_empty() || value.len() > MAX_PARTS {
            self.complain(&place, format!("target.manifest is one file, or a list of at most {MAX_PARTS}"));
        }
        let mut manifests: Vec<PathBuf> = Vec::with_capacity(value.len());
        for value in value {
            let manifest = self.absolute("target.manifest", At { value, place: place.clone() });
            if manifests.iter().any(|other| other.components().eq(manifest.components())) {
                let what = format!("target.manifest names {} twice: leave one of them out", manifest.display());
                self.complain(&place, what);
            }
            manifests.push(manifest);
        }
        manifests
    }

    /// A root that a path names, or one of a process.
    fn location(&mut self, target: &Place, root: Option<At<PathBuf>>, process: Option<At<String>>) -> Option<Location> {
        if root.is_some() && process.is_some() {
            self.complain(target, "target.root and target.process are both set: the root is the process's");
        }
        if let Some(At { value, place }) = process {
            let name = Path::new(&value);
            // A name alone, or a path without anything that could be spelled in two ways.
            let plain = !value.is_empty() && name.components().collect::<PathBuf>().as_os_str() == name.as_os_str();
            let dots = name.components().any(|part| matches!(part, Component::ParentDir | Component::CurDir));
            if !plain || dots || value == "/" || (value.contains('/') && !name.is_absolute()) {
                let what =
                    "target.process is the name of an executable or its absolute path: \"nginx\", \"/usr/sbin/nginx\"";
                self.complain(&place, what);
            }
            return Some(Location::Process(Selector::Executable(value)));
        }
        let root = root?;
        if let Some(selector) = Selector::of_root(&root.value) {
            return Some(Location::Process(selector));
        }
        if root.value == Path::new("/proc/self/root") {
            self.complain(&root.place, "target.root: /proc/self/root is the agent's own root: write \"/\"");
        }
        Some(Location::Directory(self.absolute("target.root", root)))
    }

    fn sinks(&mut self, raw: Vec<RawSink>) -> BTreeSet<Sink> {
        let mut sinks = BTreeSet::new();
        for one in raw {
            let place = one.kind.as_ref().map_or_else(|| one.place.clone(), |at| at.place.clone());
            let Some(sink) = self.sink(one) else { continue };
            // Two lines of the same event in one place tell nobody more.
            let same = sinks.iter().any(|other| match (other, &sink) {
                (Sink::Syslog(a), Sink::Syslog(b)) => a.to == b.to,
                (a, b) => a == b,
            });
            if same {
                self.complain(&place, "a sink of this type is there already, which goes to the same place");
            }
            sinks.insert(sink);
        }
        sinks
    }

    fn sink(&mut self, raw: RawSink) -> Option<Sink> {
        let RawSink { place, kind, path, socket, to, facility, enterprise } = raw;
        let Some(kind) = kind else {
            // One of another type than text was said already.
            if !self.problems.iter().any(|problem| problem.what.starts_with("sink.type")) {
                self.complain(&place, "sink.type is missing");
            }
            return None;
        };
        for (key, of, written) in [
            ("path", "file", path.as_ref().map(|at| &at.place)),
            ("socket", "journald", socket.as_ref().map(|at| &at.place)),
            ("to", "syslog", to.as_ref().map(|at| &at.place)),
            ("facility", "syslog", facility.as_ref().map(|at| &at.place)),
            ("enterprise", "syslog", enterprise.as_ref().map(|at| &at.place)),
        ] {
            if let Some(written) = written.filter(|_| kind.value != of) {
                self.complain(written, format!("sink.{key} is for type = \"{of}\""));
            }
        }
        match kind.value.as_str() {
            "stdout" => Some(Sink::Stdout),
            "file" => match path {
                Some(path) => Some(Sink::File(self.absolute("sink.path", path))),
                None => {
                    self.complain(&kind.place, "sink.path is missing: where the file is");
                    None
                }
            },
            "journald" => {
                let socket = socket.map(|socket| self.absolute("sink.socket", socket));
                Some(Sink::Journald(socket.unwrap_or_else(|| JOURNAL_SOCKET.into())))
            }
            "syslog" => Some(Sink::Syslog(Syslog {
                to: to.map_or_else(|| Some(SyslogTo::Unix(SYSLOG_SOCKET.into())), |at| at.value)?,
                facility: facility.map(|at| at.value).unwrap_or_default(),
                enterprise: enterprise.and_then(|at| self.enterprise(&at)),
            })),
            _ => {
                self.complain(&kind.place, "sink.type is one of stdout, file, journald, syslog");
                None
            }
        }
    }

    fn enterprise(&mut self, At { value, place }: &At<u64>) -> Option<u32> {
        let number = u32::try_from(*value).ok().filter(|number| *number != 0);
        if number.is_none() {
            self.complain(place, "sink.enterprise is the number that IANA gave your organisation, not 0");
        }
        number
    }

    fn tree_paths(&mut self, key: &str, At { value, place }: At<Vec<String>>) -> BTreeSet<TreePath> {
        let mut paths = BTreeSet::new();
        for text in value {
            match TreePath::new(text.as_str()) {
                Ok(path) if !path.is_root() => {
                    paths.insert(path);
                }
                Ok(_) => self.complain(&place, format!("{key}: a path inside the root is not empty")),
                Err(error) => self.complain(&place, format!("{key} is relative to the root: {error}")),
            }
        }
        paths
    }

    fn period(&mut self, key: &str, At { value, place }: At<Duration>, min: Duration) -> Duration {
        if value < min || value > MAX_PERIOD {
            self.complain(&place, format!("{key} is between {}s and 30d", min.as_secs()));
        }
        value
    }

    fn threads(&mut self, At { value, place }: &At<u64>) -> Option<NonZeroUsize> {
        let threads =
            if *value > MAX_THREADS { None } else { usize::try_from(*value).ok().and_then(NonZeroUsize::new) };
        if threads.is_none() {
            self.complain(place, format!("limits.threads is between 1 and {MAX_THREADS}"));
        }
        threads
    }

    fn cpu(&mut self, At { value, place }: &At<Option<u64>>) -> Option<NonZeroU32> {
        let percent = (*value)?;
        let share = if percent > MAX_CPU { None } else { u32::try_from(percent).ok().and_then(NonZeroU32::new) };
        if share.is_none() {
            self.complain(place, format!("limits.cpu is between 1% and {MAX_CPU}%"));
        }
        share
    }

    fn read(&mut self, At { value, place }: &At<Option<u64>>) -> Option<NonZeroU64> {
        let rate = (*value)?;
        if rate < MIN_READ {
            self.complain(place, format!("limits.read is at least {}kB/s", MIN_READ / 1000));
        }
        NonZeroU64::new(rate)
    }

    fn spool(&mut self, At { value, place }: &At<u64>) -> u64 {
        if *value < MIN_SPOOL {
            self.complain(place, "report.spool is at least 4MB");
        }
        *value
    }
}

/// Whether two are spelled differently at most.
fn same_location(a: &Location, b: &Location) -> bool {
    match (a, b) {
        (Location::Directory(a), Location::Directory(b)) => a.components().eq(b.components()),
        (a, b) => a == b,
    }
}
