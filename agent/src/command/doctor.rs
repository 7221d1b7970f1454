//! `driftlock doctor`: what this host allows, what would be missed, and why.

mod form;

use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use driftlock_common::exit::Exit;
use driftlock_common::path::{Escaped, TreePath};

use super::agent;
use crate::admit;
use crate::baseline::LeftOut;
use crate::cli::{AnswerFormatArg, DoctorArgs};
use crate::config::{self, Config, Location, Origin, Watch};
use crate::failure::{Failure, Outcome};
use crate::host::Host;
use crate::host::advice::{Closed, Setting, Target, View, judge};
use crate::host::mountinfo;
use crate::host::site::{Approach, Site};
use crate::host::survey::Files;
use crate::output::{self, Output};
use crate::process::{Process, ProcessError, Selector};
use crate::scan::{Mounts, Root, RootError};

/// Runs the verb.
pub fn run(args: DoctorArgs) -> Outcome {
    let origin = Origin::of_process(args.config.clone());
    // One that was asked for, or that is there; one that cannot be looked at is there: reading it says why not.
    let there = match &origin {
        Origin::File(path) => {
            let missing = path.symlink_metadata().is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound);
            args.config.is_some() || !missing
        }
        Origin::Variable(_) => true,
    };
    let config = match there.then(|| agent::load(args.config)).transpose() {
        Ok(config) => config,
        Err(exit) => return Ok(exit),
    };
    let host = Host::read();
    let targets: Vec<Target> =
        config.iter().flat_map(|config| config.targets.iter().map(|target| look(&host, config, target))).collect();
    let setting = setting(config.as_ref());
    let rows = judge(&host, &setting, &targets);
    let name = there.then(|| origin.to_string());
    let found = form::Found { host: &host, config: name.as_deref(), setting: &setting, targets: &targets, rows: &rows };
    let text = match args.format {
        AnswerFormatArg::Text => form::text(&found, output::colour()),
        AnswerFormatArg::Json => form::json(&found),
    };
    let mut stdout = Output::stdout();
    stdout.write(text.as_bytes())?;
    stdout.finish()?;
    Ok(Exit::Found(if rows.iter().any(|row| row.counts()) { 8 } else { 0 }))
}

fn setting(config: Option<&Config>) -> Setting {
    let threads = config.map_or_else(config::default_threads, |config| config.limits.threads);
    Setting { watch: config.map_or_else(Watch::default, |config| config.watch.clone()), threads: threads.get() as u64 }
}

fn look(host: &Host, config: &Config, target: &config::Target) -> Target {
    let baseline = admit::look(target, &config.host.labels, &config.state).map(Arc::new);
    let left_out = LeftOut::new(baseline.as_ref().ok().cloned(), target.exclude.clone());
    let mut mounts_allowed = target.mounts_allowed.clone();
    let site = match &target.root {
        Location::Directory(path) => {
            Root::open(path).map_err(closed).map(|root| visit(host, &root, &left_out, target.mounts))
        }
        Location::Process(selector) => enter(host, selector, &left_out, target.mounts).map(|(site, mounted)| {
            mounts_allowed.extend(mounted);
            site
        }),
    };
    Target {
        name: target.name.clone(),
        root: Escaped(target.root.to_string().as_bytes()).to_string(),
        view: match target.root {
            Location::Directory(_) => View::Ours,
            Location::Process(_) => View::Theirs,
        },
        manifest: baseline
            // The root is an entry too.
            .map(|baseline| baseline.manifest().tree.len() + 1)
            .map_err(|error| Failure::from(error).to_string()),
        site,
        mounts: target.mounts,
        mounts_allowed,
        left_out,
    }
}

/// Looks at the root of a process, with what is mounted in it: the agent takes that as wanted.
fn enter(
    host: &Host,
    selector: &Selector,
    left_out: &LeftOut,
    inside: Mounts,
) -> Result<(Site, Vec<TreePath>), Closed> {
    let process = Process::find(selector).map_err(|error| Closed {
        denied: matches!(error, ProcessError::Denied(_)),
        why: Failure::from(error).to_string(),
    })?;
    let table = std::fs::read(format!("/proc/{}/mountinfo", process.pid()))
        .map_err(|error| error.to_string())
        .and_then(|table| mountinfo::parse(&table).map_err(|error| error.to_string()));
    let mounted = process.mounts().to_vec();
    let root = Root::of_process(process).map_err(closed)?;
    let approach = Approach { at: b"/", mounts: &table, files: files(host), left_out, inside };
    Ok((Site::visit(root.as_fd(), approach), mounted))
}

fn files(host: &Host) -> Files {
    if host.reads_everything() { Files::Trusted } else { Files::Checked }
}

fn closed(error: RootError) -> Closed {
    let denied = match &error {
        RootError::Open(_, error) => error.kind() == std::io::ErrorKind::PermissionDenied,
        RootError::NotDirectory(_) | RootError::Symlink(_) | RootError::Lost(_) => false,
    };
    Closed { why: Failure::from(error).to_string(), denied }
}

fn visit(host: &Host, root: &Root, left_out: &LeftOut, inside: Mounts) -> Site {
    let fd = root.as_fd();
    // The kernel knows where the directory lies, whatever links led to it.
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd));
    let at: PathBuf = std::fs::read_link(link).unwrap_or_else(|_| root.path().to_owned());
    let at = at.as_os_str().as_bytes();
    Site::visit(fd, Approach { at, mounts: &host.ours, files: files(host), left_out, inside })
}
