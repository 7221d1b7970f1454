//! `driftlock doctor`: what this host allows, what would be missed, and why.

mod form;

use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use driftlock_common::exit::Exit;
use driftlock_common::path::Escaped;
use driftlock_common::pattern::Excludes;

use super::agent;
use crate::baseline::{Accept, Baseline};
use crate::cli::{DoctorArgs, DoctorFormatArg};
use crate::config::{self, Config, DEFAULT_SWEEP, Mode};
use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::host::advice::{Closed, Events, Setting, Target, judge};
use crate::host::site::{Approach, Site};
use crate::host::survey::Files;
use crate::output::{self, Output};
use crate::scan::{Mounts, Root, RootError};

/// Looked at if no other is given and it is there.
const CONFIG: &str = "/etc/driftlock/agent.toml";

/// Runs the verb.
pub fn run(args: DoctorArgs) -> Outcome {
    let default = Path::new(CONFIG);
    // One that cannot be looked at is one that is there: reading it says why not.
    let there = default.symlink_metadata().err().is_none_or(|error| error.kind() != std::io::ErrorKind::NotFound);
    let path = args.config.or_else(|| there.then(|| default.to_owned()));
    let config = match path.as_deref().map(agent::load).transpose() {
        Ok(config) => config,
        Err(exit) => return Ok(exit),
    };
    let host = Host::read();
    let targets: Vec<Target> =
        config.iter().flat_map(|config| &config.targets).map(|target| look(&host, target)).collect();
    let rows = judge(&host, setting(config.as_ref()), &targets);
    let found = form::Found { host: &host, config: path.as_deref(), targets: &targets, rows: &rows };
    let text = match args.format {
        DoctorFormatArg::Text => form::text(&found, output::colour()),
        DoctorFormatArg::Json => form::json(&found),
    };
    let mut stdout = Output::stdout();
    stdout.write(text.as_bytes())?;
    stdout.finish()?;
    Ok(Exit::Found(if rows.iter().any(|row| row.counts()) { 8 } else { 0 }))
}

fn setting(config: Option<&Config>) -> Setting {
    let unwanted = config.is_some_and(|config| config.watch.mode == Mode::Sweep);
    let threads = config.map_or_else(config::default_threads, |config| config.limits.threads);
    Setting {
        events: if unwanted { Events::Unwanted } else { Events::Inotify },
        sweep: config.and_then(|config| config.watch.sweep).unwrap_or(DEFAULT_SWEEP),
        threads: threads.get() as u64,
    }
}

fn look(host: &Host, target: &config::Target) -> Target {
    let baseline = Baseline::load(&target.manifest, Accept::Unsigned);
    let mut left_out = vec![target.exclude.clone()];
    left_out.extend(baseline.as_ref().ok().map(|baseline| baseline.manifest().header.excludes.clone()));
    Target {
        name: target.name.clone(),
        root: Escaped(target.root.as_os_str().as_bytes()).to_string(),
        manifest: baseline
            // The root is an entry too.
            .map(|baseline| baseline.manifest().tree.len() + 1)
            .map_err(|error| Failure::from(error).to_string()),
        site: Root::open(&target.root).map_err(closed).map(|root| visit(host, &root, &left_out, target.mounts)),
        mounts: target.mounts,
        mounts_allowed: target.mounts_allowed.clone(),
        left_out,
    }
}

fn closed(error: RootError) -> Closed {
    let denied = match &error {
        RootError::Open(_, error) => error.kind() == std::io::ErrorKind::PermissionDenied,
        RootError::NotDirectory(_) | RootError::Symlink(_) | RootError::Lost(_) => false,
    };
    Closed { why: Failure::from(error).to_string(), denied }
}

fn visit(host: &Host, root: &Root, left_out: &[Excludes], inside: Mounts) -> Site {
    let fd = root.as_fd();
    // The kernel knows where the directory lies, whatever links led to it.
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    let at: PathBuf = std::fs::read_link(link).unwrap_or_else(|_| root.path().to_owned());
    let files = if host.reads_everything() { Files::Trusted } else { Files::Checked };
    Site::visit(fd, Approach { at: at.as_os_str().as_bytes(), mounts: &host.ours, files, left_out, inside })
}
