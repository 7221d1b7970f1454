//! Owns a sealed tree with a log, the policy that lets it grow, the process that writes it, and the real logrotate. Must not
//! own what has to come of that.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::drift::Drift;
use driftlock_tests::process::Process;
use driftlock_tests::require::Requirement;
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::tree::Tree;
use driftlock_tests::verdict::{Alert, Verdicts};
use driftlock_tests::wait::eventually;
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

pub(super) const LOG: &str = "var/log/app.log";
/// A log whose name is not UTF-8.
pub(super) const LATIN1: &[u8] = b"var/log/caf\xe9.log";
/// A rotated file of another log, from 2000.
const OTHER: &str = "var/log/other.log.1";
/// Lines of the log when it is sealed.
pub(super) const SEALED: usize = 200;
/// How many rotated files there are at most.
pub(super) const KEEP: usize = 3;

const POLICY: &str = r#"
version = 1
name = "logs"

[[rule]]
id = "logs"
path = "var/log/*.log"
allow = "append"
rotate = ["*.log.{1..4}", "*.log.{1..4}.gz", "*.log-*"]
keep = 3
reason = "logrotate keeps three, and moves the oldest on before it is deleted"
"#;

/// Appends lines to the file of its argument, and opens it again at SIGHUP, as a daemon does.
const WRITER: &str = r#"trap 'exec >>"$0"' HUP; exec >>"$0"; n=0
while :; do n=$((n+1)); echo "request $n was answered in good time"; sleep 0.02; done"#;

/// A way of logrotate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    pub(super) name: &'static str,
    directives: &'static str,
    /// How many rotated files are kept.
    pub(super) keep: usize,
    /// Which of them are packed.
    packed: Packed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packed {
    None,
    AllButTheNewest,
    All,
}

/// Each way by itself, and those that are used together. Two rotations by date are never within one second.
pub(super) const STYLES: [Style; 7] = [
    Style { name: "create", directives: "create", keep: KEEP, packed: Packed::None },
    Style { name: "copytruncate", directives: "copytruncate", keep: KEEP, packed: Packed::None },
    Style { name: "compress", directives: "create\ncompress", keep: KEEP, packed: Packed::All },
    Style {
        name: "delaycompress",
        directives: "create\ncompress\ndelaycompress",
        keep: KEEP,
        packed: Packed::AllButTheNewest,
    },
    Style { name: "dateext", directives: "create\ndateext\ndateformat -%Y%m%d-%s", keep: KEEP, packed: Packed::None },
    Style { name: "copytruncate_and_compress", directives: "copytruncate\ncompress", keep: KEEP, packed: Packed::All },
    Style {
        name: "compress_and_dateext",
        directives: "create\ncompress\ndateext\ndateformat -%Y%m%d-%s",
        keep: KEEP,
        packed: Packed::All,
    },
];

/// What most packages of Debian ask for.
pub(super) const DEBIAN: Style =
    Style { name: "debian", directives: "create\ncompress\ndelaycompress", keep: 4, packed: Packed::AllButTheNewest };

/// What the real one needs.
pub(super) const NEEDS: &[Requirement] = &[Requirement::Logrotate];

/// The tree, sealed, and its policy.
pub(super) struct Logged {
    pub(super) tree: Tree,
    pub(super) manifest: PathBuf,
    pub(super) policy: PathBuf,
    // The last to go.
    pub(super) sandbox: Sandbox,
}

impl Logged {
    /// With so many lines of a log.
    pub(super) fn new(lines: usize) -> Result<Self> {
        let logged = Self::under(PathBuf::new(), lines)?;
        let policy = logged.sandbox.write("logs.toml", POLICY)?;
        Ok(Self { policy, ..logged })
    }

    /// With so many lines of a log, under a policy whose rule for it is called `logs` too.
    pub(super) fn under(policy: PathBuf, lines: usize) -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let tree = sandbox.tree("tree")?;
        let text: String = (0..lines).map(|line| format!("line {line} from before it was sealed\n")).collect();
        tree.file(LOG, text)?.file(LATIN1, "of a program that is not English\n")?.file(OTHER, "of another log\n")?;
        File::options()
            .write(true)
            .open(tree.path(OTHER))?
            .set_modified(UNIX_EPOCH + Duration::from_secs(946_684_800))?;
        let manifest = sandbox.seal(format!("dir:{}", tree.root().display()), "tree.manifest")?;
        Ok(Self { tree, manifest, policy, sandbox })
    }

    pub(super) fn log(&self) -> PathBuf {
        self.tree.path(LOG)
    }

    /// The rotated files, the newest first.
    pub(super) fn rotated(&self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.tree.path("var/log"))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            names.extend(name.starts_with("app.log").then_some(name));
        }
        names.retain(|name| name != "app.log");
        names.sort();
        if names.iter().any(|name| name.starts_with("app.log-")) {
            names.reverse();
        }
        Ok(names.into_iter().map(|name| format!("var/log/{name}")).collect())
    }

    /// Whether there are as many rotated files as are kept, packed as the style says.
    pub(super) fn expect_rotated(&self, style: Style) -> Result<()> {
        let rotated = self.rotated()?;
        let is_packed = |at: usize| match style.packed {
            Packed::None => false,
            Packed::AllButTheNewest => at > 0,
            Packed::All => true,
        };
        let fits = rotated.iter().enumerate().all(|(at, name)| name.ends_with(".gz") == is_packed(at));
        ensure!(fits && rotated.len() == style.keep, "{rotated:?}");
        Ok(())
    }

    /// What a scan says, all in all.
    pub(super) fn judged(&self) -> Result<Verdicts> {
        Verdicts::of(&self.sandbox.driftlock(self.scan_arguments()).run()?)
    }

    /// What makes `driftlock` scan the tree.
    pub(super) fn scan_arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = ["scan", "--format", "ndjson", "--manifest"].map(OsString::from).into();
        arguments.extend([self.manifest.clone().into(), "--policy".into(), self.policy.clone().into()]);
        arguments.push(self.tree.root().into());
        arguments
    }

    /// A process that writes the log, until it is dropped.
    pub(super) fn writer(&self) -> Result<Process> {
        // What is ignored when a shell begins it cannot trap, and under nohup SIGHUP is.
        let mut shell = Command::new("env");
        Process::spawn("writer", shell.args(["--default-signal=HUP", "sh", "-c", WRITER]).arg(self.log()))
    }

    /// Waits until the log has some lines more than it has now.
    pub(super) fn eventually_grown(&self) -> Result<()> {
        let log = self.log();
        let then = fs::metadata(&log)?.len();
        eventually("the log to grow", || {
            let now = fs::metadata(&log)?.len();
            ensure!(now > then + 100, "{now} bytes, {then} before");
            Ok::<_, anyhow::Error>(())
        })
    }

    /// Rotates the log once.
    pub(super) fn rotate(&self, style: Style, writer: &Process) -> Result<()> {
        let Style { directives, keep, .. } = style;
        let (log, pid) = (self.log(), writer.id());
        let told = format!("postrotate\nkill -HUP {pid}\nendscript");
        let config = format!("{log:?} {{\nrotate {keep}\n{directives}\n{told}\n}}\n");
        let config = self.sandbox.write("logrotate.conf", config)?;
        let before = self.rotated()?;
        let state = self.sandbox.path("logrotate.state");
        let arguments = ["--force".as_ref(), "--state".as_ref(), state.as_os_str(), config.as_os_str()];
        // By date to the second: within the same one there is nothing to do.
        eventually("a rotation", || {
            self.sandbox.command(Path::new("logrotate"), arguments).run()?.expect(0)?;
            let after = self.rotated()?;
            let moved = !directives.contains("dateext") || after.first() != before.first();
            ensure!(moved && !after.is_empty(), "{after:?}");
            Ok::<_, anyhow::Error>(())
        })
    }
}

/// The alert of a log that lost something.
pub(super) fn cut(path: &str) -> Alert {
    Alert::by("logs", "high", Drift::changed(path, &["content"]))
}

/// Takes one line, counted from 0, from a log, packed or not, and writes it back where it was.
pub(super) fn without_line(log: &Path, which: usize) -> Result<()> {
    let bytes = fs::read(log)?;
    let is_packed = bytes.starts_with(&[0x1f, 0x8b]);
    let mut text = String::new();
    if is_packed {
        MultiGzDecoder::new(bytes.as_slice()).read_to_string(&mut text)?;
    } else {
        text = String::from_utf8(bytes)?;
    }
    text.lines().nth(which).with_context(|| format!("{} has no such line", log.display()))?;
    let kept: String =
        text.lines().enumerate().filter(|(at, _)| *at != which).map(|(_, line)| format!("{line}\n")).collect();
    if is_packed {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(kept.as_bytes())?;
        fs::write(log, encoder.finish()?)?;
    } else {
        fs::write(log, kept)?;
    }
    Ok(())
}
