//! Owns putting the configuration together from its files, or from the environment where there are none, and the checks of
//! the files that it names for the agent itself: the credential and the certificates.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use driftlock_common::digest::{Digest, OciDigest};

use super::read::{At, Raw};
use super::{Asked, Config, ConfigError, Place, Problem, check};

/// A larger file of configuration is a mistake, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// The environment's variable that holds a whole configuration, for a container that has no file of its own.
pub const VARIABLE: &str = "DRIFTLOCK_CONFIG";
/// The configuration's file, unless one is named.
const DEFAULT_FILE: &str = "/etc/driftlock/agent.toml";

/// Where a configuration is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file, and what stands in `agent.d` beside it.
    File(PathBuf),
    /// The value of [`VARIABLE`].
    Variable(OsString),
}

impl Origin {
    /// A file that was named comes first, then the variable, then the usual file.
    pub fn of(named: Option<PathBuf>, variable: Option<OsString>) -> Self {
        match (named, variable) {
            (Some(file), _) => Self::File(file),
            (None, Some(text)) => Self::Variable(text),
            (None, None) => Self::File(DEFAULT_FILE.into()),
        }
    }

    /// As [`Origin::of`], with the variable of this process.
    pub fn of_process(named: Option<PathBuf>) -> Self {
        Self::of(named, std::env::var_os(VARIABLE))
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(_) => f.write_str(VARIABLE),
        }
    }
}

impl Config {
    /// The files that it was read from and those that it names for the agent itself: when one of them becomes another,
    /// the configuration may mean something else.
    pub fn files(&self, origin: &Origin) -> Vec<PathBuf> {
        let mut own = match origin {
            Origin::File(path) => files(path, &mut Vec::new()),
            Origin::Variable(_) => Vec::new(),
        };
        if let Origin::File(path) = origin {
            // A file that is added changes the directory.
            own.push(drop_ins(path));
        }
        own.extend(self.targets.iter().flat_map(|target| {
            let named = target.manifests.files().iter().chain(&target.policy).chain(&target.assignment);
            named.chain(target.trust.files()).cloned()
        }));
        own.extend(self.report.token_file.iter().chain(&self.report.ca_file).cloned());
        own
    }
}

/// Reads a configuration: a file and every `*.toml` in the directory `agent.d` beside it, in the order of their names
/// (targets and sinks add up; any other value may be set once), or the environment's text.
///
/// # Errors
/// Everything that is wrong, at once.
pub fn load(origin: &Origin) -> Result<Config, ConfigError> {
    let mut problems = Vec::new();
    let mut digests = Vec::new();
    let raw = read(origin, &mut digests, &mut problems);
    check_token_file(raw.token_file.as_ref(), &mut problems);
    check_readable(raw.ca_file.as_ref(), "report.ca_file", &mut problems);
    check::check(raw, problems).map(|config| Config { digest: Some(OciDigest::blake3(together(&digests))), ..config })
}

/// Reads of a configuration where its agent can be asked, and nothing of what only the agent may read.
///
/// # Errors
/// Everything that is wrong with what was written, at once.
pub fn asked(origin: &Origin) -> Result<Asked, ConfigError> {
    let mut problems = Vec::new();
    let raw = read(origin, &mut Vec::new(), &mut problems);
    check::asked(raw, problems)
}

/// What was written, and the digest of each text that it was written in.
fn read(origin: &Origin, digests: &mut Vec<Digest>, problems: &mut Vec<Problem>) -> Raw {
    if let Origin::Variable(text) = origin {
        digests.push(Digest::blake3(text.as_encoded_bytes()));
    }
    match origin {
        Origin::File(path) => read_files(path, digests, problems),
        Origin::Variable(text) => match text.to_str() {
            Some(text) => Raw::read(Path::new(VARIABLE), text, problems),
            None => {
                problems.push(Problem::about(Path::new(VARIABLE), "not UTF-8"));
                Raw { broken: true, ..Raw::default() }
            }
        },
    }
}

/// The digest of one file, or one over those of several.
fn together(read: &[Digest]) -> Digest {
    match read {
        [one] => *one,
        several => Digest::blake3(&several.iter().flat_map(|digest| *digest.as_bytes()).collect::<Vec<u8>>()),
    }
}

fn read_files(path: &Path, digests: &mut Vec<Digest>, problems: &mut Vec<Problem>) -> Raw {
    let mut raw = Raw { file: path.to_owned(), ..Raw::default() };
    for file in files(path, problems) {
        match read_text(&file) {
            Ok(text) => {
                digests.push(Digest::blake3(text.as_bytes()));
                let read = Raw::read(&file, &text, problems);
                raw.add(read, problems);
            }
            Err(error) => {
                raw.broken = true;
                problems.push(Problem::about(&file, error.to_string()));
            }
        }
    }
    raw
}

fn files(path: &Path, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let mut files = vec![path.to_owned()];
    let directory = drop_ins(path);
    if !directory.exists() {
        return files;
    }
    for entry in walkdir::WalkDir::new(&directory).min_depth(1).max_depth(1).sort_by_file_name() {
        match entry {
            Ok(entry) if entry.path().extension().is_some_and(|extension| extension == "toml") => {
                files.push(entry.into_path());
            }
            Ok(_) => {}
            Err(error) => problems.push(Problem::about(&directory, error.to_string())),
        }
    }
    files
}

fn drop_ins(path: &Path) -> PathBuf {
    path.parent().unwrap_or_else(|| Path::new("")).join("agent.d")
}

fn read_text(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let read = File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if read as u64 > MAX_FILE {
        return Err(std::io::Error::other("larger than 1 MiB"));
    }
    Ok(text)
}

fn check_token_file(token_file: Option<&At<PathBuf>>, problems: &mut Vec<Problem>) {
    let Some(At { value, place }) = token_file else { return };
    match std::fs::metadata(value) {
        Ok(found) if found.permissions().mode() & 0o007 != 0 => {
            let what = "report.token_file can be used by everyone on this host: chmod 0600 it";
            problems.push(Problem::new(place.clone(), what));
        }
        Ok(_) => check_readable(token_file, "report.token_file", problems),
        Err(error) => problems.push(Problem::new(place.clone(), format!("report.token_file: {error}"))),
    }
}

fn check_readable(file: Option<&At<PathBuf>>, key: &str, problems: &mut Vec<Problem>) {
    let Some(At { value, place }) = file else { return };
    if let Err(error) = read_text(value) {
        problems.push(Problem::new(place.clone(), format!("{key}: {error}")));
    }
}

impl Raw {
    /// Adds what another file says.
    fn add(&mut self, other: Self, problems: &mut Vec<Problem>) {
        // Every field by its name, so that a new one cannot be forgotten here.
        let Self {
            file: _,
            broken,
            state_dir,
            host_id,
            host_name,
            labels,
            ephemeral,
            targets,
            mode,
            sweep,
            full,
            threads,
            cpu,
            read,
            hash_limit,
            endpoint,
            token_file,
            ca_file,
            heartbeat,
            spool,
            sinks,
            socket,
        } = other;
        self.broken |= broken;
        let mut once = Once(problems);
        once.set("state_dir", &mut self.state_dir, state_dir);
        once.set("host.id", &mut self.host_id, host_id);
        once.set("host.name", &mut self.host_name, host_name);
        for (name, at) in labels {
            let mut slot = self.labels.iter().find(|(known, _)| *known == name).map(|(_, at)| at.clone());
            once.set("host.labels", &mut slot, Some(at.clone()));
            self.labels.push((name, at));
        }
        once.set("host.ephemeral", &mut self.ephemeral, ephemeral);
        self.targets.extend(targets);
        self.sinks.extend(sinks);
        once.set("control.socket", &mut self.socket, socket);
        once.set("watch.mode", &mut self.mode, mode);
        once.set("watch.sweep", &mut self.sweep, sweep);
        once.set("watch.full", &mut self.full, full);
        once.set("limits.threads", &mut self.threads, threads);
        once.set("limits.cpu", &mut self.cpu, cpu);
        once.set("limits.read", &mut self.read, read);
        once.set("limits.hash_limit", &mut self.hash_limit, hash_limit);
        once.set("report.endpoint", &mut self.endpoint, endpoint);
        once.set("report.token_file", &mut self.token_file, token_file);
        once.set("report.ca_file", &mut self.ca_file, ca_file);
        once.set("report.heartbeat", &mut self.heartbeat, heartbeat);
        once.set("report.spool", &mut self.spool, spool);
    }
}

struct Once<'a>(&'a mut Vec<Problem>);

impl Once<'_> {
    fn set<T>(&mut self, key: &str, slot: &mut Option<At<T>>, other: Option<At<T>>) {
        match (slot.as_ref(), other) {
            (Some(first), Some(second)) => {
                let Place { file, line } = &first.place;
                let what = format!("{key} is set here and in {}:{line}", file.display());
                self.0.push(Problem::new(second.place, what));
            }
            (None, Some(second)) => *slot = Some(second),
            (_, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const TARGET: &str = "[[target]]\nname = 'NAME'\nroot = '/NAME'\nmanifest = '/m'\nallow_unsigned = true\n";

    fn lines(path: &Path) -> Vec<String> {
        load(&Origin::File(path.to_owned())).unwrap_err().problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn targets_add_up_and_a_value_set_twice_names_both_files() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("agent.toml");
        fs::create_dir(dir.path().join("agent.d")).unwrap();
        fs::write(&main, format!("state_dir = '/s'\n{}", TARGET.replace("NAME", "a"))).unwrap();
        fs::write(dir.path().join("agent.d/10.toml"), TARGET.replace("NAME", "b")).unwrap();
        fs::write(dir.path().join("agent.d/ignored.txt"), "x").unwrap();
        let config = load(&Origin::File(main.clone())).unwrap();
        assert_eq!(config.targets.iter().map(|t| t.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);

        fs::write(dir.path().join("agent.d/20.toml"), "state_dir = '/t'\n").unwrap();
        let found = lines(&main);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert!(found[0].contains("20.toml:1: state_dir is set here and in "), "{found:#?}");
        assert!(found[0].ends_with("agent.toml:1"), "{found:#?}");
    }

    #[test]
    fn the_credential_must_be_there_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let (main, token) = (dir.path().join("agent.toml"), dir.path().join("token"));
        let report = format!("[report]\nendpoint = 'https://c'\ntoken_file = '{}'\n", token.display());
        fs::write(&main, format!("{}{report}", TARGET.replace("NAME", "a"))).unwrap();
        assert!(lines(&main)[0].contains("report.token_file: No such file"));
        fs::write(&token, "secret").unwrap();
        fs::set_permissions(&token, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(lines(&main)[0].contains("chmod 0600"));
        fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
        load(&Origin::File(main)).unwrap();
    }

    #[test]
    fn a_file_that_was_named_comes_before_the_variable_and_that_before_the_usual_file() {
        let (file, text) = (PathBuf::from("/f"), OsString::from("x"));
        assert_eq!(Origin::of(Some(file.clone()), Some(text.clone())), Origin::File(file));
        assert_eq!(Origin::of(None, Some(text.clone())), Origin::Variable(text));
        assert_eq!(Origin::of(None, None), Origin::File(DEFAULT_FILE.into()));
    }

    #[test]
    fn the_variable_is_a_whole_configuration_and_what_is_wrong_names_its_line() {
        let text = format!("state_dir = 'memory'\n{}", TARGET.replace("NAME", "a"));
        let config = load(&Origin::Variable(text.clone().into())).unwrap();
        assert_eq!(config.targets.len(), 1);
        let found = |text: OsString| load(&Origin::Variable(text)).unwrap_err().to_string();
        assert!(found(format!("{text}x = 1\n").into()).starts_with("DRIFTLOCK_CONFIG:7: unknown key target.x"));
        let bytes = std::os::unix::ffi::OsStringExt::from_vec(vec![0xff]);
        assert_eq!(found(bytes), "DRIFTLOCK_CONFIG: not UTF-8");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let found = lines(Path::new("/nonexistent/agent.toml"));
        assert!(found[0].starts_with("/nonexistent/agent.toml: "), "{found:#?}");
    }
}
