//! `driftlock scan`: compares a tree with a manifest, once.

mod delivery;
mod image;
mod only;
mod progress;
mod remembered;
mod signals;

use std::io::IsTerminal as _;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::anyhow;
use driftlock_common::compared::Compared;
use driftlock_common::exit::Exit;
use driftlock_common::path::Escaped;
use driftlock_common::pattern::Excludes;
use driftlock_common::profile::Profile;

use self::delivery::Delivery;
use super::policy;
use crate::anchor_file;
use crate::baseline::{Accept, Baseline, Terms};
use crate::cli::{FormatArg, ScanArgs};
use crate::failure::{Failure, Outcome};
use crate::gate::Gate;
use crate::output::{self, Output, Reader, Whole};
use crate::pool::Pool;
use crate::process::{Process, Selector};
use crate::scan::pace::{Allowance, Limits, Occasion, Pace};
use crate::scan::{COLLAPSE, Growing, HELD, Options, Root, ScanReport, report};
use crate::watch::when_ended;

/// Runs the verb.
pub fn run(mut args: ScanArgs) -> Outcome {
    let delivery = Delivery::of(&args.report)?;
    let accept = accept(&args)?;
    // Its threads end before signals are blocked: what waits for a network is ended by them.
    let fetched = match (&args.image, &accept) {
        (Some(image), Accept::Signed(terms)) => Some(image::fetch(image, &terms.anchors, terms.now)?),
        _ => None,
    };
    args.manifests.extend(fetched.as_ref().map(|fetched| fetched.bundle.clone()));
    // Before any thread is there, so that every thread has the same signals blocked.
    let cancel = signals::cancel_on_signals()?;
    let local_excludes = Excludes::new(args.exclude.iter().map(String::as_str), []).map_err(usage)?;
    let only = args.only.as_deref().map(only::parse).transpose().map_err(usage)?;
    let gate = args.fail_on.as_deref().map(Gate::parse).transpose().map_err(usage)?.unwrap_or_default();
    let baseline = Baseline::load_all(&args.manifests, &accept).map_err(|error| match &args.image {
        Some(image) => {
            let failure = Failure::from(error);
            Failure { error: failure.error.context(Escaped(image.as_bytes()).to_string()), ..failure }
        }
        None => error.into(),
    })?;
    let sealed = baseline.manifest().header.profile;
    let profile = args.profile.map(Profile::from);
    if let Some(profile) = profile.filter(|profile| *profile > sealed) {
        let (asked, sealed) = (profile.name(), sealed.name());
        return Err(usage(anyhow!(
            "--profile {asked}: the manifest was sealed with {sealed}, so no more than that can be compared"
        )));
    }
    if let Some(wanted) = only {
        only::check(wanted, Compared::all(profile.unwrap_or(sealed))).map_err(usage)?;
    }
    let policy = args.policy.as_deref().filter(|_| !args.no_policy).map(policy::load).transpose()?;
    let root = match Selector::of_root(&args.root) {
        Some(selector) => Root::of_process(Process::find(&selector)?)?,
        None => Root::open(&args.root)?,
    };
    root.check_readable()?;
    let pool = Pool::new(args.threads).map_err(|error| Failure::new(Exit::Io, error))?;
    let end = root.process().map(|process| when_ended(process, || cancel.store(true, Ordering::Relaxed)));
    let _end = end.transpose().map_err(|error| Failure::new(Exit::Io, error))?;
    let options = Options {
        local_excludes,
        profile,
        only,
        hash_limit: args.hash_limit.0,
        // What the runtime of a container mounted is no part of the image.
        mounts_allowed: root.process().map(|process| process.mounts().iter().cloned().collect()).unwrap_or_default(),
        id_view: args.id_map,
        growing: policy.is_some().then(|| Arc::new(Growing::once())),
        policy: policy.map(Arc::new),
        collapse: args.collapse.then_some(COLLAPSE),
        // A collector is told at the end.
        held: (args.format == FormatArg::Ndjson && delivery.is_none()).then_some(HELD),
        // Findings on the same terminal are progress enough, and would be torn apart.
        progress: (args.format != FormatArg::Ndjson || !std::io::stdout().is_terminal()).then(Arc::default),
        pace: args.read.map(pace),
        ..Options::default()
    };
    let remembered = args.state.as_deref().map(|path| remembered::open(path, &baseline, &root, &options));
    let options = Options { state: remembered.as_ref().map(|(state, rely)| (Arc::clone(state), *rely)), ..options };
    let scan = || scan_and_stream(&baseline, &root, &options, &pool, cancel, gate, args.format);
    let result = progress::during(baseline.manifest(), &options, scan)?;
    let exit = gate.exit(result.found);
    if args.format != FormatArg::Ndjson {
        let whole = Whole {
            verb: "scan",
            findings: &result.findings,
            sealed_in: baseline.sealed_in(),
            summary: &result.summary,
            gate,
            exit,
            unreached: result.outcome.interrupted.then_some(result.outcome.unreached),
            root: Some(root.path()),
            all: args.all || args.no_policy,
        };
        Output::stdout().whole(args.format, &whole, output::colour())?;
    }
    if let (Some(path), Some((state, _))) = (&args.state, &remembered) {
        remembered::save(path, state)?;
    }
    hint(&result, &root);
    if let Some(delivery) = delivery {
        delivery.tell(&result, baseline.sealed_in(), &root, cancel)?;
    }
    Ok(Exit::Found(exit))
}

/// What is accepted: with a key, or the wish, only what is signed.
fn accept(args: &ScanArgs) -> Result<Accept, Failure> {
    if args.allow_unsigned {
        return Ok(Accept::Unsigned);
    }
    if args.keys.is_empty() && !args.require_signed {
        return Ok(Accept::Bare);
    }
    let anchors = Arc::new(anchor_file::any_of(&args.keys)?);
    Ok(Accept::Signed(Terms { anchors, now: anchor_file::now(), assigned: None }))
}

fn pace(read: NonZeroU64) -> Arc<Pace> {
    Pace::new(&Allowance::new(Limits { read: Some(read), ..Limits::default() }), Occasion::Whole)
}

fn usage(error: impl Into<anyhow::Error>) -> Failure {
    Failure::new(Exit::Usage, error)
}

/// Scans; the form that is in order of discovery is written meanwhile.
fn scan_and_stream<'p>(
    baseline: &Baseline,
    root: &Root,
    options: &'p Options,
    pool: &Pool,
    cancel: &AtomicBool,
    gate: Gate,
    format: FormatArg,
) -> Result<ScanReport<'p>, Failure> {
    let view = baseline.view();
    let stream = Mutex::new((Output::new(std::io::stdout()), Ok(Reader::There)));
    let write = |line: &[u8]| {
        let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(stream.1, Ok(Reader::There)) {
            stream.1 = stream.0.write(line);
        }
        // Nobody is there to read the rest.
        if !matches!(stream.1, Ok(Reader::There)) {
            cancel.store(true, Ordering::Relaxed);
        }
    };
    let streamed = format == FormatArg::Ndjson;
    let mut result = report(root, baseline, &view, options, pool, cancel, &|judged| {
        if streamed {
            write(&output::finding_line(judged, baseline.sealed_in()));
        }
    });
    result.summary.fail_on = gate.named();
    if streamed {
        write(&output::summary_line(&result.summary));
    }
    let (mut stdout, written) = stream.into_inner().unwrap_or_else(PoisonError::into_inner);
    written?;
    stdout.finish()?;
    Ok(result)
}

/// What a person may want to know beside the result.
fn hint(result: &ScanReport<'_>, root: &Root) {
    let path = driftlock_common::path::Escaped(root.path().as_os_str().as_encoded_bytes());
    if result.outcome.root_lost {
        let how = match root.process() {
            Some(process) if !process.is_alive() => "belongs to a process that ended",
            Some(_) => "is another directory than before: its process changed its root",
            None => "was removed or replaced",
        };
        output::say(&format!("{path} {how} while it was scanned: nothing can be said about it"));
    } else if result.outcome.interrupted {
        output::say("interrupted: what was not looked at yet is not verified");
    } else if result.summary.entries == 0 && result.summary.removed > 0 {
        output::say(&format!("{path} is empty: is it the right directory, and is its file system mounted?"));
    }
}
