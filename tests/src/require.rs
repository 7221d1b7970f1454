//! Owns what a test needs from its machine, and how a test that lacks something is shown: ignored with the reason,
//! never passed. Must not own how the thing is used.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags};

use crate::control::PROMETHEUS_MODULES;
use crate::schema::{PYTHON, PYTHON_MODULES};

/// Set to `all`, a test that would be skipped fails instead: for machines that promise to have everything.
pub const REQUIRE_VARIABLE: &str = "DRIFTLOCK_TEST_REQUIRE";

/// Something that not every machine has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// User id 0, for owners, devices, capabilities.
    Root,
    /// The host's own process ids: in a container PID 1 is another.
    HostPids,
    /// Mount and user namespaces of one's own.
    Namespaces,
    /// Makes a Debian root.
    Debootstrap,
    /// A mirror in apt's own configuration: no host name is written in the project.
    DebianMirror,
    /// Makes and unpacks OCI images.
    Umoci,
    /// Copies between image formats.
    Skopeo,
    /// Runs containers.
    Podman,
    /// What podman runs them with.
    Runc,
    /// The first process of podman's pods.
    Catatonit,
    /// A browser without a window.
    Chromium,
    /// What drives it.
    Chromedriver,
    /// Validates XML.
    Xmllint,
    /// Validates JSON, from Python.
    JsonSchema,
    /// Reads metrics as Prometheus does, from Python.
    PrometheusClient,
    /// Makes Debian packages.
    CargoDeb,
    /// Makes RPM packages.
    CargoGenerateRpm,
    /// Reads Debian packages.
    DpkgDeb,
    /// Installs RPM packages.
    Rpm,
    /// Makes images.
    Buildah,
    /// Boots a Debian root.
    SystemdNspawn,
    /// Judges units.
    SystemdAnalyze,
    /// Checks manual pages.
    Mandoc,
    /// Checks objects against the schemas of Kubernetes.
    KubernetesValidate,
    /// Tells what of a file is in the page cache.
    Fincore,
    /// A place that is no file system in memory.
    Disk,
    /// Mounting an overlay there.
    Overlay,
    /// Counting the memory of a command, page cache included.
    MemoryGroup,
    /// Tells the class of I/O of a thread.
    Ionice,
    /// Runs a command under another clock.
    Faketime,
    /// The kernel's measure of who has to wait.
    Pressure,
    /// Mounting what only a test sees.
    MountNamespace,
    /// Mounting a file system of the test's own.
    Fuse,
    /// Marking whole file systems.
    Fanotify,
    /// Mounting images of ext4, and editing them.
    Ext4,
    /// Mounting images of XFS.
    Xfs,
    /// Mounting images of Btrfs.
    Btrfs,
    /// Sets limits for a command.
    Prlimit,
    /// Tells a command's system calls.
    Strace,
    /// Another program that compares a tree with a description.
    Mtree,
    /// A registry of images.
    DockerRegistry,
    /// Makes certificates.
    Openssl,
    /// Sends requests.
    Curl,
    /// Writes and reads such descriptions too.
    Bsdtar,
    /// Checks files against their BLAKE3.
    B3sum,
    /// Rotates logs.
    Logrotate,
    /// Receives syslog messages.
    Rsyslogd,
    /// Edits files.
    Vim,
    /// Copies what differs.
    Rsync,
    /// Checks files out.
    Git,
    /// Python with securesystemslib and in-toto-attestation.
    AttestationPython,
    /// Node.js with the verifier of Sigstore.
    AttestationNode,
    /// Makes up requests from the document of an API.
    Schemathesis,
    /// Other readers of tar archives: Python's tarfile, and libarchive, called from Python.
    Readers,
}

impl Requirement {
    /// Why it cannot be met here; `None` if it can.
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Root => (!nix::unistd::geteuid().is_root()).then(|| "needs root: the user id is not 0".to_owned()),
            Self::HostPids => {
                let own = std::fs::read_link("/proc/self/ns/pid").ok();
                let host = own.is_some_and(|link| link.as_os_str() == "pid:[4026531836]");
                (!host).then(|| "needs the host's process ids: this is a container".to_owned())
            }
            Self::Namespaces => {
                let both = ["--mount", "--user", "--map-root-user", "true"];
                let ran = Command::new("unshare").args(both).stderr(Stdio::null()).status();
                (!ran.is_ok_and(|status| status.success())).then(|| "needs unshare --mount --user".to_owned())
            }
            Self::DebianMirror => {
                crate::debian::mirror().is_none().then(|| "needs a Debian mirror in /etc/apt".to_owned())
            }
            Self::JsonSchema => {
                let found = Command::new(PYTHON).args(["-c", PYTHON_MODULES]).stderr(Stdio::null()).status();
                let is_there = found.is_ok_and(|status| status.success());
                (!is_there).then(|| format!("needs jsonschema and rfc3987 for {PYTHON}: not installed"))
            }
            Self::PrometheusClient => {
                let found = Command::new(PYTHON).args(["-c", PROMETHEUS_MODULES]).stderr(Stdio::null()).status();
                let is_there = found.is_ok_and(|status| status.success());
                (!is_there).then(|| format!("needs prometheus_client for {PYTHON}: not installed"))
            }
            Self::Readers => {
                let load = ["-c", "import ctypes, tarfile; ctypes.CDLL('libarchive.so.13')"];
                let loaded = Command::new(PYTHON).args(load).stderr(Stdio::null()).status();
                (!loaded.is_ok_and(|status| status.success())).then(|| format!("needs {PYTHON} and libarchive.so.13"))
            }
            Self::Disk => crate::page_cache::no_disk(),
            Self::Overlay => crate::overlay::missing(),
            Self::MemoryGroup => crate::memory_group::missing(),
            Self::Pressure => {
                let error = std::fs::read("/proc/pressure/cpu").err();
                error.map(|error| format!("needs a kernel that measures pressure (PSI): {error}"))
            }
            Self::MountNamespace => crate::namespace::missing(),
            Self::Fuse => crate::fuse::missing(),
            Self::Fanotify => {
                let group = Fanotify::init(InitFlags::FAN_UNLIMITED_QUEUE, EventFFlags::O_RDONLY);
                group.err().map(|error| format!("needs fanotify: {error}"))
            }
            Self::Ext4 => crate::disk::missing(crate::disk::Kind::Ext4),
            Self::Xfs => crate::disk::missing(crate::disk::Kind::Xfs),
            Self::Btrfs => crate::disk::missing(crate::disk::Kind::Btrfs),
            _ => self.program().is_none().then(|| format!("needs {}: not in PATH", self.names().join(" or "))),
        }
    }

    /// The program, for a requirement that is one.
    pub fn program(self) -> Option<PathBuf> {
        let path = env::var_os("PATH")?;
        let found = |name: &&str| env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
        self.names().iter().find_map(found)
    }

    const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Root
            | Self::HostPids
            | Self::Namespaces
            | Self::DebianMirror
            | Self::JsonSchema
            | Self::PrometheusClient
            | Self::Readers
            | Self::Disk
            | Self::Overlay
            | Self::MemoryGroup
            | Self::Pressure
            | Self::MountNamespace
            | Self::Fuse
            | Self::Fanotify
            | Self::Ext4
            | Self::Xfs
            | Self::Btrfs => &[],
            Self::Debootstrap => &["debootstrap"],
            Self::Umoci => &["umoci"],
            Self::Skopeo => &["skopeo"],
            Self::Podman => &["podman"],
            Self::Runc => &["runc"],
            Self::Catatonit => &["catatonit"],
            Self::Fincore => &["fincore"],
            Self::Ionice => &["ionice"],
            Self::Faketime => &["faketime"],
            Self::Chromium => &["chromium", "chromium-browser", "google-chrome"],
            Self::Chromedriver => &["chromedriver"],
            Self::Xmllint => &["xmllint"],
            Self::CargoDeb => &["cargo-deb"],
            Self::CargoGenerateRpm => &["cargo-generate-rpm"],
            Self::DpkgDeb => &["dpkg-deb"],
            Self::Rpm => &["rpm"],
            Self::Buildah => &["buildah"],
            Self::SystemdNspawn => &["systemd-nspawn"],
            Self::SystemdAnalyze => &["systemd-analyze"],
            Self::Mandoc => &["mandoc"],
            Self::Prlimit => &["prlimit"],
            Self::Strace => &["strace"],
            Self::Mtree => &["mtree"],
            Self::DockerRegistry => &["docker-registry"],
            Self::Openssl => &["openssl"],
            Self::Curl => &["curl"],
            Self::Bsdtar => &["bsdtar"],
            Self::B3sum => &["b3sum"],
            Self::Logrotate => &["logrotate"],
            Self::Rsyslogd => &["rsyslogd"],
            Self::Vim => &["vim", "vim.tiny"],
            Self::Rsync => &["rsync"],
            Self::Git => &["git"],
            Self::AttestationPython => &["attestation-python"],
            Self::AttestationNode => &["attestation-node"],
            Self::Schemathesis => &["schemathesis"],
            Self::KubernetesValidate => &["kubernetes-validate"],
        }
    }
}

/// A test that needs `needs`.
pub fn trial(name: impl Into<String>, needs: &'static [Requirement], test: fn() -> anyhow::Result<()>) -> Trial {
    trial_with(name, needs, test)
}

/// As [`trial`], for a test that is a closure: a row of a table.
pub fn trial_with(
    name: impl Into<String>,
    needs: &'static [Requirement],
    test: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
) -> Trial {
    trial_needing(name, needs.to_vec(), test)
}

/// As [`trial_with`], where it depends on the row what is needed.
pub fn trial_needing(
    name: impl Into<String>,
    needs: Vec<Requirement>,
    test: impl FnOnce() -> anyhow::Result<()> + Send + 'static,
) -> Trial {
    Trial::ignorable_test(name, move || {
        let everything = env::var_os(REQUIRE_VARIABLE).is_some_and(|value| value == "all");
        let missing: Vec<String> = needs.iter().filter_map(|need| need.missing()).collect();
        if let Some(skip) = skip(&missing, everything) {
            return skip;
        }
        test().map(|()| Completion::Completed).map_err(|error| format!("{error:#}").into())
    })
}

/// Runs the tests of a binary that has `harness = false`, more at a time than there are cores: most of the time each
/// waits for processes that wait themselves.
pub fn run(trials: Vec<Trial>) -> ExitCode {
    run_at_once(8, trials)
}

/// As [`run`], so many at a time: for tests that each need the whole machine, or do nearly nothing but wait.
pub fn run_at_once(threads: usize, trials: Vec<Trial>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(threads);
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn skip(missing: &[String], everything: bool) -> Option<Result<Completion, Failed>> {
    match (missing, everything) {
        ([], _) => None,
        (missing, false) => Some(Ok(Completion::ignored_with(missing.join("; ")))),
        (missing, true) => {
            Some(Err(format!("{}, and {REQUIRE_VARIABLE}=all allows no skip", missing.join("; ")).into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_a_visible_skip_or_a_failure_and_never_a_pass() {
        let missing = ["needs x".to_owned(), "needs y".to_owned()];
        assert!(skip(&[], false).is_none());
        assert!(skip(&[], true).is_none());
        match skip(&missing, false) {
            Some(Ok(Completion::Ignored { reason })) => assert_eq!(reason.as_deref(), Some("needs x; needs y")),
            _ => panic!("not shown as ignored"),
        }
        match skip(&missing, true) {
            Some(Err(failed)) => assert!(failed.message().is_some_and(|text| text.contains("needs x; needs y"))),
            _ => panic!("not shown as failed"),
        }
    }
}
