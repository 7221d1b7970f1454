//! Owns the agent's configuration: what a validated one holds, and the way from files to it. Must not own defaults that
//! need the host, or the checks that need a target's files (those are made where the files are used).
//!
//! What was written (`read`) and what it means (`check`) are two steps, so that everything that is wrong is said at
//! once, each with its file and line.

mod check;
mod endpoint;
mod load;
mod read;
mod sink;
mod sweeps;
pub(crate) mod units;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

use driftlock_common::digest::OciDigest;
use driftlock_common::path::TreePath;
use driftlock_common::pattern::Excludes;

use crate::process::Selector;
use crate::scan::{FULL, IdView, Mounts};

pub(crate) use check::is_name;
pub use endpoint::{Endpoint, EndpointError};
pub use load::{Origin, VARIABLE, asked, load};
pub use sink::{Facility, JOURNAL_SOCKET, SYSLOG_SOCKET, Sink, Syslog, SyslogTo};
pub use sweeps::Sweeps;

/// The shipped file: the documentation of every key, and the defaults.
pub const SHIPPED: &str = include_str!("../../packaging/config/agent.toml");
/// Where the agent keeps what must survive it unless set.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/driftlock";
/// Time between heartbeats unless set.
pub const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(30);
/// Bound of the spool unless set, in bytes.
pub const DEFAULT_SPOOL: u64 = 64 * 1000 * 1000;
/// Bound of the spool when the state is in memory, unless set, in bytes.
pub const DEFAULT_MEMORY_SPOOL: u64 = 8 * 1000 * 1000;
/// The smallest bound of the spool, in bytes: some batches have to fit.
pub const MIN_SPOOL: u64 = 4 * 1000 * 1000;
/// Content of files that are not as sealed anyway is hashed up to this size unless set, in bytes.
pub const DEFAULT_HASH_LIMIT: u64 = 1024 * 1024 * 1024;
/// Processor time of sweeps unless set, in percent of one core.
pub const DEFAULT_CPU: NonZeroU32 = NonZeroU32::new(20).expect("not 0");
/// What is read in a second unless set, in bytes.
pub const DEFAULT_READ: NonZeroU64 = NonZeroU64::new(200 * 1000 * 1000).expect("not 0");
/// The smallest rate at which is read, in bytes a second: less is a mistake.
pub const MIN_READ: u64 = 100 * 1000;

/// The longest time in which a path may be as in the manifest before.
pub const MAX_SWITCH_WINDOW: Duration = Duration::from_hours(1);

/// A configuration that can be used. Every field may be set in code; [`Config::new`] has the defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the agent keeps what must survive it.
    pub state: State,
    /// Who reports.
    pub host: Host,
    /// What is watched, names unique.
    pub targets: Vec<Target>,
    /// How it is watched.
    pub watch: Watch,
    /// What the agent may use.
    pub limits: Limits,
    /// Where findings go.
    pub report: Report,
    /// Where they go besides.
    pub sinks: BTreeSet<Sink>,
    /// Where the agent can be asked on its host.
    pub socket: Socket,
    /// BLAKE3 of what it was read from, as in a heartbeat; `None` if nowhere.
    pub digest: Option<OciDigest>,
}

/// Where the agent can be asked on its host.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Socket {
    /// In the run directory that belongs to the state directory, if there is one, else in the state directory.
    #[default]
    Auto,
    /// At an absolute path.
    At(PathBuf),
    /// Nowhere.
    Off,
}

/// What tells where an agent can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Where it keeps what must survive it.
    pub state: State,
    /// What was said of the socket.
    pub socket: Socket,
}

/// Where the agent keeps what must survive it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// In a directory.
    Directory(PathBuf),
    /// Nowhere but in memory: every start is the first one, and tells the collector everything.
    Memory,
}

/// Who reports.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Host {
    /// `None`: random, made with the state directory.
    pub id: Option<String>,
    /// For people. `None`: the kernel's host name.
    pub name: Option<String>,
    /// By which hosts are grouped.
    pub labels: BTreeMap<String, String>,
    /// Whether a clean stop retires the host.
    pub ephemeral: bool,
}

/// A root, and what it must match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name in every report, unique.
    pub name: String,
    /// The tree.
    pub root: Location,
    /// What it must match.
    pub manifests: Manifests,
    /// The file that says what may change, absolute; `None`: nothing may.
    pub policy: Option<PathBuf>,
    /// Who must have signed what it is compared with.
    pub trust: Trust,
    /// The file that says which manifest it must match, absolute; `None`: the one that is there, or that the collector has.
    pub assignment: Option<PathBuf>,
    /// How long after a switch to another manifest a path may be as in the one before; zero: not at all.
    pub switch_window: Duration,
    /// Whether a manifest without a signature is accepted.
    pub allow_unsigned: bool,
    /// Local excludes.
    pub exclude: Excludes,
    /// What to do about file systems mounted inside the root.
    pub mounts: Mounts,
    /// Mount points inside the root that are as wanted.
    pub mounts_allowed: BTreeSet<TreePath>,
    /// Whose view of users and groups is compared.
    pub id_map: IdView,
}

/// Where the manifests of a target come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manifests {
    /// From these files, absolute: one, or several that are laid over each other, the last on top.
    Files(Vec<PathBuf>),
    /// From the collector, which is not trusted with what they are.
    Collector {
        /// Whether it also says which one, by an assignment.
        assigned: bool,
    },
}

/// Who must have signed a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Trust {
    /// Nobody is trusted.
    #[default]
    Nobody,
    /// Any one of the keys in these files, absolute; at least one.
    AnyOf(Vec<PathBuf>),
    /// Whom a trust file says, absolute.
    File(PathBuf),
}

/// Where a target's tree is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// At an absolute path.
    Directory(PathBuf),
    /// The root directory of a process, for as long as it lives, and then of the one in its place.
    Process(Selector),
}

/// How targets are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Where hints come from.
    pub mode: Mode,
    /// Time between sweeps; `None`: [`Sweeps::auto`].
    pub sweep: Option<Duration>,
    /// In this time everything is read once, whatever stat says.
    pub full: Duration,
}

impl Watch {
    /// Time between sweeps of a target of `entries`.
    pub fn sweeps(&self, entries: usize) -> Sweeps {
        self.sweep.map_or_else(|| Sweeps::auto(entries), Sweeps::every)
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self { mode: Mode::default(), sweep: None, full: FULL }
    }
}

/// Where hints come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Mode {
    /// The best that the host allows.
    #[default]
    Auto,
    /// fanotify, one mark for each file system.
    Fanotify,
    /// inotify, one watch for each directory.
    Inotify,
    /// Sweeps alone.
    Sweep,
}

/// What the agent may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Hashing threads.
    pub threads: NonZeroUsize,
    /// Processor time of sweeps, in percent of one core; `None` is no limit.
    pub cpu: Option<NonZeroU32>,
    /// Content that is read in a second, in bytes; `None` is no limit.
    pub read: Option<NonZeroU64>,
    /// Content of files that are not as sealed anyway is hashed up to this size, in bytes.
    pub hash_limit: u64,
}

/// Where findings go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The collector; `None`: findings are logged only.
    pub endpoint: Option<Endpoint>,
    /// The file that holds the credential, absolute.
    pub token_file: Option<PathBuf>,
    /// The only certificates that are trusted, if set, absolute.
    pub ca_file: Option<PathBuf>,
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// Bound of the spool, in bytes.
    pub spool: u64,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// At least one, in the order of files and lines.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong, where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}{what}")]
pub struct Problem {
    place: Place,
    what: String,
}

/// A line of a file; nothing for what concerns the whole.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    file: PathBuf,
    /// From 1; 0 if it concerns the whole file.
    line: usize,
}

// === impl Config ===

impl Config {
    /// The defaults, without targets or an endpoint.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        Self {
            state: State::Directory(state_dir.into()),
            host: Host::default(),
            targets: Vec::new(),
            watch: Watch::default(),
            limits: Limits {
                threads: default_threads(),
                cpu: Some(DEFAULT_CPU),
                read: Some(DEFAULT_READ),
                hash_limit: DEFAULT_HASH_LIMIT,
            },
            report: Report {
                endpoint: None,
                token_file: None,
                ca_file: None,
                heartbeat: DEFAULT_HEARTBEAT,
                spool: DEFAULT_SPOOL,
            },
            sinks: BTreeSet::new(),
            socket: Socket::Auto,
            digest: None,
        }
    }

    /// Reads one file's text. `file` is only named in problems.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let raw = read::Raw::read(file, text, &mut problems);
        check::check(raw, problems)
    }
}

impl Target {
    /// The manifests' files in one line, in order.
    pub fn manifest_names(&self) -> String {
        let names: Vec<String> = self.manifests.files().iter().map(|path| path.display().to_string()).collect();
        names.join(" ")
    }

    /// A target with the defaults: everything compared, a signature wanted.
    pub fn new(name: impl Into<String>, root: impl Into<PathBuf>, manifest: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            root: Location::Directory(root.into()),
            manifests: Manifests::Files(vec![manifest.into()]),
            policy: None,
            trust: Trust::default(),
            assignment: None,
            switch_window: Duration::ZERO,
            allow_unsigned: false,
            exclude: Excludes::none(),
            mounts: Mounts::default(),
            mounts_allowed: BTreeSet::new(),
            id_map: IdView::default(),
        }
    }
}

/// Two: hashing must not be all that a host does.
pub(crate) const fn default_threads() -> NonZeroUsize {
    NonZeroUsize::MIN.saturating_add(1)
}

// === impl Manifests ===

impl Manifests {
    /// The files that are named.
    pub fn files(&self) -> &[PathBuf] {
        match self {
            Self::Files(files) => files,
            Self::Collector { .. } => &[],
        }
    }
}

// === impl Trust ===

impl Trust {
    /// The files that it names.
    pub fn files(&self) -> &[PathBuf] {
        match self {
            Self::Nobody => &[],
            Self::AnyOf(keys) => keys,
            Self::File(file) => std::slice::from_ref(file),
        }
    }
}

// === impl Location ===

impl fmt::Display for Location {
    /// As written in a configuration, which is text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::Process(Selector::Pid(pid)) => write!(f, "/proc/{pid}/root"),
            Self::Process(selector @ Selector::Executable(_)) => write!(f, "{selector}"),
        }
    }
}

// === impl State ===

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "{}", path.display()),
            Self::Memory => f.write_str("memory"),
        }
    }
}

// === impl Socket ===

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::At(path) => write!(f, "{}", path.display()),
            Self::Off => f.write_str("off"),
        }
    }
}

// === impl ConfigError ===

impl ConfigError {
    fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort_by(|a, b| a.place.cmp(&b.place));
        Self { problems }
    }
}

impl fmt::Display for ConfigError {
    /// One line for each problem.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fmt::Display::fmt(problem, f)?;
        }
        Ok(())
    }
}

// === impl Problem ===

impl Problem {
    fn new(place: Place, what: impl Into<String>) -> Self {
        Self { place, what: what.into() }
    }

    /// Something about the whole of `file`.
    fn about(file: &Path, what: impl Into<String>) -> Self {
        Self::new(Place { file: file.to_owned(), line: 0 }, what)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.file.as_os_str().is_empty(), self.line) {
            (true, _) => Ok(()),
            (false, 0) => write!(f, "{}: ", self.file.display()),
            (false, line) => write!(f, "{}:{line}: ", self.file.display()),
        }
    }
}

// === impl Mode ===

impl Mode {
    /// The word of the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fanotify => "fanotify",
            Self::Inotify => "inotify",
            Self::Sweep => "sweep",
        }
    }
}

#[cfg(test)]
mod tests {
    use driftlock_common::tree::MAX_PARTS;

    use super::*;

    fn problems(text: &str) -> Vec<String> {
        match Config::parse(Path::new("agent.toml"), text) {
            Ok(config) => panic!("accepted: {config:?}"),
            Err(error) => error.problems.iter().map(ToString::to_string).collect(),
        }
    }

    const TARGET: &str = "[[target]]\nname = 'app'\nroot = '/srv/app'\nmanifest = '/m'\nallow_unsigned = true\n";

    #[test]
    fn the_shipped_file_says_the_defaults() {
        // As shipped it has no target, which is the one thing that an operator must add.
        let text = format!("{SHIPPED}\n{TARGET}");
        let config = Config::parse(Path::new("agent.toml"), &text).unwrap();
        let mut expected = Config::new("/var/lib/driftlock");
        expected.targets = config.targets.clone();
        assert_eq!(config, expected);
    }

    #[test]
    fn a_target_may_be_the_root_of_a_process() {
        let target = |line: &str| {
            let text = TARGET.replace("root = '/srv/app'", line);
            Config::parse(Path::new("agent.toml"), &text).unwrap().targets.remove(0).root
        };
        let executable = |name: &str| Location::Process(Selector::Executable(name.to_owned()));
        assert_eq!(target("process = 'nginx'"), executable("nginx"));
        assert_eq!(target("process = '/usr/sbin/nginx'"), executable("/usr/sbin/nginx"));
        assert_eq!(target("root = '/proc/7/root'"), Location::Process(Selector::Pid(7)));
        assert_eq!(target("root = '/srv/proc'"), Location::Directory("/srv/proc".into()));
    }

    #[test]
    fn a_target_may_have_several_manifests_in_an_order() {
        let target = |list: &str| {
            let text = TARGET.replace("'/m'", list);
            Config::parse(Path::new("agent.toml"), &text).map(|config| config.targets[0].manifests.files().to_vec())
        };
        assert_eq!(target("'/m'").unwrap(), [Path::new("/m")]);
        assert_eq!(target("['/m']").unwrap(), [Path::new("/m")]);
        assert_eq!(target("['/z', '/a']").unwrap(), [Path::new("/z"), Path::new("/a")]);
        let many = |count: usize| format!("{:?}", (0..count).map(|n| format!("/{n}")).collect::<Vec<_>>());
        assert_eq!(target(&many(MAX_PARTS)).unwrap().len(), MAX_PARTS);
        assert!(target(&many(MAX_PARTS + 1)).is_err());
    }

    #[test]
    fn state_in_memory_takes_less_of_it() {
        let parse = |text: &str| Config::parse(Path::new("agent.toml"), &format!("{text}\n{TARGET}")).unwrap();
        let config = parse("state_dir = 'memory'");
        assert_eq!((config.state, config.report.spool), (State::Memory, DEFAULT_MEMORY_SPOOL));
        let config = parse("state_dir = 'memory'\nreport = { spool = '5MB' }\nsink = [{ type = 'stdout' }]");
        assert_eq!((config.report.spool, config.sinks), (5_000_000, BTreeSet::from([Sink::Stdout])));
    }

    #[test]
    fn what_scans_may_use_is_a_share_and_a_rate_or_everything() {
        let limits = |text: &str| {
            let text = format!("[limits]\n{text}\n{TARGET}");
            let Limits { cpu, read, .. } = Config::parse(Path::new("agent.toml"), &text).unwrap().limits;
            (cpu.map(NonZeroU32::get), read.map(NonZeroU64::get))
        };
        assert_eq!(limits(""), (Some(20), Some(200_000_000)));
        assert_eq!(limits("cpu = '150%'\nread = '1 GiB/s'"), (Some(150), Some(1 << 30)));
        assert_eq!(limits("cpu = '1%'\nread = '100kB/s'"), (Some(1), Some(100_000)));
        assert_eq!(limits("cpu = 'none'\nread = 'none'"), (None, None));
    }

    #[test]
    fn every_key_of_the_shipped_file_is_accepted_uncommented() {
        let text: String =
            SHIPPED.lines().map(|line| line.strip_prefix("#: ").unwrap_or(line).to_owned() + "\n").collect();
        let config = Config::parse(Path::new("agent.toml"), &text).unwrap();
        assert_eq!((config.targets.len(), config.sinks.len()), (2, 4));
    }

    #[test]
    fn everything_wrong_is_said_at_once_with_its_line() {
        let found = problems(
            "state_dir = 'var/lib'\nstat_dir = '/x'\n[watch]\nsweep = '10ms'\nmode = 'notify'\n[limits]\nthreads = 0\n",
        );
        assert_eq!(found.len(), 6, "{found:#?}");
        assert!(found[0].contains("no [[target]]"), "{found:#?}");
        assert_eq!(found[1], "agent.toml:1: state_dir is not an absolute path, nor \"memory\"");
        assert_eq!(found[2], "agent.toml:2: unknown key stat_dir; did you mean state_dir?");
        assert!(found[3].starts_with("agent.toml:4: watch.sweep"), "{found:#?}");
        assert_eq!(found[4], "agent.toml:5: watch.mode is one of auto, fanotify, inotify, sweep");
        assert!(found[5].starts_with("agent.toml:7: limits.threads"), "{found:#?}");
    }

    #[test]
    fn what_is_refused_and_why() {
        for (text, why) in [
            ("x", "agent.toml:1: "),
            ("state_dir = 1", "state_dir is not a text"),
            ("state_dir = 'Memory'", "state_dir is not an absolute path, nor \"memory\""),
            ("target = 1", "target is written [[target]]"),
            ("[target]\nname = 'a'", "target is written [[target]]"),
            ("[[target]]\nswitch_window = '2h'", "target.switch_window is at most 1h"),
            ("[[target]]\nswitch_window = 7", "target.switch_window is not a time like"),
            ("[[target]]\ntrust = []", "target.trust is an empty list"),
            ("[[target]]\ntrust = ['k']", "target.trust is not an absolute path"),
            ("[[target]]\ntrust = 7", "target.trust is not"),
            ("[[target]]\ntrust = ['/k', '/k']", "target.trust names /k twice"),
            ("[[target]]\nallow_unsigned = true\ntrust = ['/k']", "leave allow_unsigned out"),
            ("[[target]]\nassignment = '/a'\nallow_unsigned = true", "target.assignment needs target.trust"),
            (
                "[[target]]\nassignment = '/a'\ntrust = '/t'\nmanifest = ['/a', '/b']",
                "an assignment names one manifest",
            ),
            ("[[target]]\nmanifest = 1", "target.manifest is not a text or a list of texts"),
            ("[[target]]\nmanifest = ['/a', 1]", "target.manifest is not a text or a list of texts"),
            ("[[target]]\nmanifest = []", "target.manifest is one file, or a list of at most 16"),
            ("[[target]]\nmanifest = ['/a', 'b']", "target.manifest is not an absolute path"),
            ("[[target]]\nmanifest = ['/a', '/b', '/a/']", "target.manifest names /a/ twice"),
            ("[[target]]\nmanifest = 'collector'\nallow_unsigned = true", "is not trusted with what must be there"),
            ("[[target]]\nmanifest = 'collector'", "is not trusted with what must be there"),
            ("[[target]]\nmanifest = ['/a', 'collector']", "target.manifest is not an absolute path"),
            (
                "[[target]]\nmanifest = 'collector'\ntrust = '/t'\nassignment = '/a'",
                "target.assignment is \"collector\" too, or left out",
            ),
            (
                "[[target]]\nmanifest = '/m'\ntrust = '/t'\nassignment = 'collector'",
                "target.assignment is \"collector\" only where target.manifest is",
            ),
            ("[[target]]\nid_map = 'on'", "target.id_map: \"on\" is not INSIDE:OUTSIDE:COUNT"),
            ("[[target]]\nid_map = '0:5:9,8:50:9'", "agent.toml:2: target.id_map: 0:5:9 and 8:50:9 overlap"),
            ("[[target]]\nid_map = ['0:5:9']", "target.id_map is not a text"),
            ("[[target]]\nmounts = 'ignore'", "target.mounts is one of report, skip, cross"),
            ("[[target]]\nmounts_allowed = ['/abs']", "target.mounts_allowed"),
            ("[[target]]\nname = 'a b'", "target.name"),
            ("[[target]]\nname = 'a'\nroot = 'srv'", "target.root is not an absolute path"),
            ("[[target]]\nname = 'a'\nroot = '/srv/../x'", "target.root"),
            ("[[target]]\nname = 'a'\nroot = '/srv'", "target.manifest is missing"),
            ("[[target]]\nname = 'a'\nroot = '/srv'\nmanifest = '/m'", "allow_unsigned = true"),
            ("[[target]]\nexclude = ['/abs']", "exclude \"/abs\""),
            ("[[target]]\nexclude = 'a'", "target.exclude is not a list of texts"),
            ("[[sink]]\ntype = 'x'", "sink.type is one of stdout, file, journald, syslog"),
            ("[[sink]]\ntype = 7", "sink.type is not a text"),
            ("[[sink]]\ntype = 'file'", "sink.path is missing: where the file is"),
            ("[[sink]]\ntype = 'file'\npath = 'events.json'", "sink.path is not an absolute path"),
            ("[[sink]]\ntype = 'file'\npath = '/a/../b'", "sink.path has a component \"..\""),
            ("[[sink]]\ntype = 'stdout'\npath = '/x'", "agent.toml:3: sink.path is for type = \"file\""),
            ("[[sink]]\ntype = 'stdout'\nsocket = '/x'", "sink.socket is for type = \"journald\""),
            ("[[sink]]\ntype = 'journald'\nsocket = 'x'", "sink.socket is not an absolute path"),
            ("[[sink]]\ntype = 'file'\npath = '/x'\nto = '/dev/log'", "sink.to is for type = \"syslog\""),
            ("[[sink]]\ntype = 'syslog'\nto = 'log.example:514'", "sink.to is not like \"/dev/log\""),
            ("[[sink]]\ntype = 'syslog'\nfacility = 'kern'", "sink.facility is one of user, daemon, auth"),
            ("[[sink]]\ntype = 'syslog'\nenterprise = 0", "sink.enterprise is the number that IANA gave"),
            ("[[sink]]\ntype = 'syslog'\nenterprise = 'x'", "sink.enterprise is not a whole number"),
            ("[[sink]]\ntype = 'syslog'\n[[sink]]\ntype = 'syslog'\nto = '/dev/log'", "sink of this type"),
            ("[[sink]]", "sink.type is missing"),
            ("[sink]\ntype = 'stdout'", "sink is written [[sink]]"),
            (
                "[[sink]]\ntype = 'stdout'\n[[sink]]\ntype = 'stdout'",
                "a sink of this type is there already, which goes to the same place",
            ),
            ("[[target]]\nname = 'a'\nroot = '/srv'\nprocess = 'x'", "target.root and target.process are both set"),
            ("[[target]]\nname = 'a'\nmanifest = '/m'", "target.root or target.process is missing"),
            ("[[target]]\nprocess = 'bin/x'", "target.process is the name of an executable or its absolute path"),
            ("[[target]]\nprocess = ''", "target.process is the name of an executable or its absolute path"),
            ("[[target]]\nroot = '/proc/self/root'", "target.root: /proc/self/root is the agent's own root"),
            ("[watch]\nfull = '24'", "watch.full"),
            ("[watch]\nfull = '1s'", "watch.full"),
            ("[limits]\ncpu = '20'", "limits.cpu is not a share of one core like \"20%\", or \"none\""),
            ("[limits]\ncpu = 20", "limits.cpu is not a share of one core like \"20%\", or \"none\""),
            ("[limits]\ncpu = '0%'", "limits.cpu is between 1% and 25600%"),
            ("[limits]\ncpu = '25601%'", "limits.cpu is between 1% and 25600%"),
            ("[limits]\nread = '200MB'", "limits.read is not a rate like \"200MB/s\", or \"none\""),
            ("[limits]\nread = '0MB/s'", "limits.read is at least 100kB/s"),
            ("[limits]\nread = '99kB/s'", "limits.read is at least 100kB/s"),
            ("[limits]\nhash_limit = '12 parsecs'", "limits.hash_limit"),
            ("[report]\nproxy = 'http://p:1'", "report.proxy is not available in this version"),
            ("[report]\nendpoint = 'http://collector.example'", "http:// is for loopback"),
            ("[report]\nendpoint = 'ftp://localhost'", "report.endpoint"),
            ("[report]\nendpoint = 'https://a/?q'", "report.endpoint"),
            ("[report]\nheartbeat = '0s'", "report.heartbeat"),
            ("[report]\nspool = '1kB'", "report.spool"),
            ("[report]\ntoken_file = '/t'", "report.token_file is set, but report.endpoint is not"),
            ("[control]\nsocket = 'run/x'", "control.socket is the absolute path of a socket, \"auto\" or \"off\""),
            ("[control]\nsocket = '/'", "control.socket is the absolute path of a socket"),
            ("[control]\nsocket = '/run/../x'", "control.socket has a component \"..\""),
            ("[control]\nsocket = true", "control.socket is not a text"),
            ("[control]\nsocet = 'off'", "unknown key control.socet; did you mean control.socket?"),
            ("[host]\nid = 'a/b'", "host.id"),
            ("[host]\nlabels = { a = 1 }", "host.labels.a is not a text"),
            ("[hots]\nid = 'x'", "unknown key hots; did you mean host?"),
        ] {
            let found = problems(text);
            assert!(found.iter().any(|line| line.contains(why)), "{text:?}: no {why:?} in {found:#?}");
            assert!(found.iter().all(|line| !line.contains('\n')), "{found:#?}");
        }
    }

    #[test]
    fn two_targets_of_one_name_or_root_are_refused() {
        let found = problems(&format!("{TARGET}{TARGET}"));
        assert!(found.iter().any(|line| line.contains("agent.toml:7: a target app is there already")), "{found:#?}");
        assert!(found.iter().any(|line| line.contains("another target has the root /srv/app")), "{found:#?}");
    }
}
