//! `driftlock doctor` under real kernels' terms: mount tables of its own, capabilities taken away, limits, no `/proc`.
//! Every case names the rows that must take the verdict away; a row more is a failure too.

use std::ffi::OsString;
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::require::{self, Requirement, trial};
use driftlock_tests::sandbox::{Finished, NOBODY, Sandbox};
use serde_json::Value;

/// To make mount tables, and to compare them with that of the host's PID 1.
const ROOT: &[Requirement] = &[Requirement::Root, Requirement::HostPids];

fn main() -> ExitCode {
    require::run(vec![
        trial("with the view and the rights of PID 1 nothing would be missed", ROOT, nothing_missed),
        trial("a file system over a part of the root is said to hide it", ROOT, hidden_part),
        trial("without a configuration a private directory of the host is missed", ROOT, hidden_host),
        trial("a private directory outside of every target costs nothing", ROOT, hidden_elsewhere),
        trial("a root that is mounted read-only again is seen as it is", ROOT, read_only),
        trial("without capabilities what others own is named", ROOT, no_capabilities),
        trial("an unprivileged user is told what it cannot read", ROOT, unprivileged),
        trial("a root behind a closed directory is said to be out of reach", ROOT, closed_root),
        trial("few open files are too few", &[], few_files),
        trial("a doctor of few open files still answers", ROOT, hardly_any_files),
        trial("without /proc nothing is said to be fine that is not known", ROOT, no_proc),
        trial("what lies in the place of /proc is not believed", ROOT, false_proc),
        trial("where PID 1 is hidden its view is not known", ROOT, hidden_pid_1),
        trial("in a name space of process ids PID 1 is another", ROOT, own_pids),
        trial("in a user name space capabilities are not taken for the host's", ROOT, own_users),
        trial("a way of watching that was named and cannot be had is missed", ROOT, no_rung),
        trial("more directories than watches are missed", ROOT, few_watches),
        trial("what the configuration says is not used is not missed", &[], sweep_alone),
        trial("a configuration that cannot be used ends it", &[], bad_configuration),
        trial("a manifest that cannot be used is something missed", &[], bad_manifest),
        trial("hostile names are escaped in both forms", &[], hostile_names),
    ])
}

/// A sealed root with a configuration that names it.
struct World {
    sandbox: Sandbox,
    program: PathBuf,
}

impl World {
    fn new() -> Result<Self> {
        Self::with("")
    }

    /// `more` ends the configuration: further keys of the target, further tables.
    fn with(more: &str) -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let program = sandbox.driftlock_for_everyone()?;
        for name in ["root/usr/bin/shop", "root/etc/ssl/key", "root/var/log/log"] {
            sandbox.write(name, name)?;
        }
        let root = sandbox.path("root");
        let manifest = sandbox.seal(root.as_os_str(), "manifest")?;
        let config = format!(
            "state_dir = {:?}\n[[target]]\nname = \"shop\"\nroot = {root:?}\nmanifest = {manifest:?}\n\
             allow_unsigned = true\n{more}",
            sandbox.path("state")
        );
        sandbox.write("agent.toml", config)?;
        Ok(Self { sandbox, program })
    }

    fn root(&self) -> PathBuf {
        self.sandbox.path("root")
    }

    /// Takes a path of the root away from everybody but root.
    fn close(&self, name: &str, mode: u32) -> Result<()> {
        let path = self.root().join(name);
        chown(&path, Some(0), Some(0))?;
        Ok(std::fs::set_permissions(path, Permissions::from_mode(mode))?)
    }

    /// The shell's command that runs doctor on the configuration.
    fn doctor(&self) -> String {
        format!(
            "'{}' doctor --format json --config '{}'",
            self.program.display(),
            self.sandbox.path("agent.toml").display()
        )
    }

    /// Runs a shell that has the commands `before` done and then becomes doctor, by way of `wrapper`.
    fn run(&self, wrapper: &[&str], before: &str) -> Result<Answer> {
        self.shell(wrapper, &format!("{before}\nexec {}", self.doctor()))
    }

    fn shell(&self, wrapper: &[&str], script: &str) -> Result<Answer> {
        let mut words: Vec<OsString> = wrapper.iter().map(OsString::from).collect();
        words.extend(["sh", "-euc", script].map(OsString::from));
        let program = PathBuf::from(words.remove(0));
        Answer::of(self.sandbox.command(&program, words).run()?)
    }
}

/// What doctor said.
struct Answer {
    json: Value,
    finished: Finished,
}

impl Answer {
    fn of(finished: Finished) -> Result<Self> {
        let json = serde_json::from_slice(&finished.stdout).with_context(|| format!("{finished:?}"))?;
        Ok(Self { json, finished })
    }

    fn rows(&self) -> Result<&Vec<Value>> {
        self.json["rows"].as_array().context("rows")
    }

    /// The rows that count, as `topic missed` or `shop: topic unknown`.
    fn counted(&self) -> Result<Vec<String>> {
        let counts = |row: &&Value| row["state"] == "missed" || row["state"] == "unknown";
        let shown = |row: &Value| {
            let text = format!("{} {}", row["topic"].as_str()?, row["state"].as_str()?);
            Some(row["target"].as_str().map_or_else(|| text.clone(), |target| format!("{target}: {text}")))
        };
        self.rows()?.iter().filter(counts).map(|row| shown(row).context("a row")).collect()
    }

    /// That exactly these rows count, and that the exit code and the sums follow from them.
    fn expect(self, rows: &[&str]) -> Result<Self> {
        let counted = self.counted()?;
        ensure!(counted == rows, "counted {counted:?}\nexpected {rows:?}\n{:?}", self.finished);
        let code = if rows.is_empty() { 0 } else { 8 };
        ensure!(self.finished.code == Some(code), "{:?}", self.finished);
        let sum =
            self.json["missed"].as_u64().zip(self.json["unknown"].as_u64()).map(|(missed, unknown)| missed + unknown);
        ensure!(sum == Some(rows.len() as u64), "{:?}", self.finished);
        Ok(self)
    }

    /// That the row of `target` and `topic` holds every one of `words`, in its text or its remedy.
    fn says(self, target: Option<&str>, topic: &str, words: &[&str]) -> Result<Self> {
        let text = {
            let row = self.rows()?.iter().find(|row| row["target"].as_str() == target && row["topic"] == topic);
            let row = row.with_context(|| format!("no row {topic}\n{:?}", self.finished))?;
            format!("{} → {}", row["text"].as_str().unwrap_or_default(), row["remedy"].as_str().unwrap_or_default())
        };
        for word in words {
            ensure!(text.contains(word), "{topic}: {text:?} does not say {word:?}");
        }
        Ok(self)
    }
}

const SHOP: Option<&str> = Some("shop");
const AS_IS: &[&str] = &["env"];
const OWN_MOUNTS: &[&str] = &["unshare", "--mount"];

fn nothing_missed() -> Result<()> {
    let world = World::new()?;
    let answer = world.run(AS_IS, "")?.expect(&[])?;
    ensure!(
        answer.json["capabilities"]["effective"].as_array().is_some_and(|names| names.contains(&"CAP_CHOWN".into()))
    );
    let answer = answer.says(SHOP, "directories", &["7, under one mark"])?.says(SHOP, "manifest", &["10 entries"])?;
    answer.says(SHOP, "mounts", &["the same files as PID 1"])?;
    // A mount table of its own that is like PID 1's is as good.
    world.run(OWN_MOUNTS, "")?.expect(&[])?;
    Ok(())
}

fn hidden_part() -> Result<()> {
    let world = World::new()?;
    let over = world.root().join("var");
    let answer = world.run(OWN_MOUNTS, &format!("mount -t tmpfs none '{}'", over.display()))?;
    let answer = answer.expect(&["shop: mounts inside missed", "shop: mounts missed"])?;
    let hidden = format!("{} is tmpfs (none) here", over.display());
    answer.says(SHOP, "mounts", &[&hidden, "TemporaryFileSystem="])?.says(SHOP, "mounts inside", &["var (tmpfs)"])?;
    // Wanted by the configuration it is no mount to be reported, but the files of PID 1 are hidden all the same.
    let world = World::with("mounts_allowed = [\"var\"]\n")?;
    let over = world.root().join("var");
    let answer = world.run(OWN_MOUNTS, &format!("mount -t tmpfs none '{}'", over.display()))?;
    answer.expect(&["shop: mounts missed"])?;
    Ok(())
}

fn hidden_host() -> Result<()> {
    let world = World::new()?;
    let command = format!("mount -t tmpfs none /srv\nexec '{}' doctor --format json", world.program.display());
    let answer = world.shell(OWN_MOUNTS, &command)?.expect(&["mounts missed"])?;
    answer.says(None, "mounts", &["/srv is tmpfs (none) here", "TemporaryFileSystem="])?;
    Ok(())
}

fn hidden_elsewhere() -> Result<()> {
    let answer = World::new()?.run(OWN_MOUNTS, "mount -t tmpfs none /srv")?.expect(&[])?;
    answer.says(None, "mounts", &["other files than PID 1 sees at /srv"])?;
    Ok(())
}

fn read_only() -> Result<()> {
    let world = World::new()?;
    let root = world.root().display().to_string();
    world.run(OWN_MOUNTS, &format!("mount --bind '{root}' '{root}'\nmount -o remount,bind,ro '{root}'"))?.expect(&[])?;
    Ok(())
}

fn no_capabilities() -> Result<()> {
    let world = World::new()?;
    let key = world.root().join("etc/ssl/key");
    chown(&key, Some(NOBODY), Some(NOBODY))?;
    std::fs::set_permissions(&key, Permissions::from_mode(0o600))?;
    let wrapper = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    let answer = world.run(&wrapper, "")?.expect(&["shop: reading missed"])?;
    let answer = answer.says(SHOP, "reading", &["1 of its paths", "etc/ssl/key", "CAP_DAC_READ_SEARCH"])?;
    ensure!(answer.json["capabilities"]["bounding"] == Value::Array(Vec::new()), "{:?}", answer.finished);
    // The one capability that it takes is enough, for any user.
    let ids = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let caps =
        ["--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search", "--bounding-set=-all,+dac_read_search"];
    let wrapper: Vec<&str> = ["setpriv"].into_iter().chain(ids).chain(caps).collect();
    world.close("etc/ssl/key", 0o600)?;
    world.run(&wrapper, "")?.expect(&[])?.says(None, "reading", &["CAP_DAC_READ_SEARCH"])?;
    Ok(())
}

const AS_NOBODY: &[&str] = &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

fn unprivileged() -> Result<()> {
    let world = World::new()?;
    world.close("etc/ssl", 0o700)?;
    world.close("var/log/log", 0o640)?;
    let answer = world.run(AS_NOBODY, "")?.expect(&["shop: reading missed"])?;
    answer.says(SHOP, "reading", &["2 of its paths", "etc/ssl", "var/log/log"])?;
    // What is left out need not be readable.
    let world = World::with("exclude = [\"etc/ssl\", \"var/log/*\"]\n")?;
    world.close("etc/ssl", 0o700)?;
    world.close("var/log/log", 0o640)?;
    world.run(AS_NOBODY, "")?.expect(&[])?;
    Ok(())
}

fn closed_root() -> Result<()> {
    let world = World::new()?;
    std::fs::create_dir(world.sandbox.path("closed"))?;
    std::fs::set_permissions(world.sandbox.path("closed"), Permissions::from_mode(0o700))?;
    let moved = world.sandbox.path("closed/root");
    std::fs::rename(world.root(), &moved)?;
    let config = std::fs::read_to_string(world.sandbox.path("agent.toml"))?;
    let root = world.root().display().to_string();
    world.sandbox.write("agent.toml", config.replace(&root, &moved.display().to_string()))?;
    let answer = world.run(AS_NOBODY, "")?.expect(&["shop: root missed"])?;
    answer.says(SHOP, "root", &["cannot be opened", "Permission denied", "CAP_DAC_READ_SEARCH"])?;
    Ok(())
}

fn few_files() -> Result<()> {
    let world = World::new()?;
    let answer = world.run(&["prlimit", "--nofile=20"], "")?;
    let counted = answer.counted()?;
    ensure!(counted.contains(&"open files missed".to_owned()), "{counted:?}");
    answer.says(None, "open files", &["20 are allowed", "LimitNOFILE="])?;
    Ok(())
}

fn hardly_any_files() -> Result<()> {
    World::new()?.run(&["prlimit", "--nofile=8"], "")?.expect(&["open files missed"])?;
    Ok(())
}

/// What cannot be known without a `/proc`.
const WITHOUT_PROC: &[&str] = &[
    "inotify unknown",
    "mounts unknown",
    "shop: root unknown",
    "shop: directories unknown",
    "shop: mounts inside unknown",
    "shop: mounts unknown",
];

/// One watch for each directory, whatever else could be had.
const INOTIFY: &str = "[watch]\nmode = \"inotify\"\n";

fn no_proc() -> Result<()> {
    let answer = World::with(INOTIFY)?.run(OWN_MOUNTS, "umount --lazy /proc")?.expect(WITHOUT_PROC)?;
    answer.says(None, "mounts", &["cannot be known", "/proc is not mounted"])?;
    Ok(())
}

fn false_proc() -> Result<()> {
    let before = "mount -t tmpfs none /proc\nmkdir -p /proc/self /proc/1\n\
        echo '1 1 0:1 / / rw - tmpfs none rw' >/proc/self/mountinfo\ncp /proc/self/mountinfo /proc/1/mountinfo\n\
        echo 'CapEff: 1ffffffffff' >/proc/self/status";
    let answer = World::with(INOTIFY)?.run(OWN_MOUNTS, before)?.expect(WITHOUT_PROC)?;
    ensure!(answer.json["capabilities"].is_null(), "{:?}", answer.finished);
    Ok(())
}

fn hidden_pid_1() -> Result<()> {
    let world = World::new()?;
    let script = format!(
        "mount -t proc -o hidepid=2 proc /proc\nexec setpriv --reuid=65534 --regid=65534 --clear-groups {}",
        world.doctor()
    );
    let answer = world.shell(OWN_MOUNTS, &script)?.expect(&["mounts unknown", "shop: mounts unknown"])?;
    answer.says(None, "mounts", &["cannot be known", "/proc/1/mountinfo", "hidepid"])?;
    Ok(())
}

fn own_pids() -> Result<()> {
    let answer = World::new()?.run(&["unshare", "--pid", "--fork", "--mount-proc"], "")?;
    let answer = answer.expect(&["mounts unknown", "shop: mounts unknown"])?;
    answer.says(None, "mounts", &["cannot be known", "PID 1 there is not the host's"])?;
    Ok(())
}

fn own_users() -> Result<()> {
    let world = World::new()?;
    // Nobody is not among the users of that name space: as root of it, only others' rights count.
    let key = world.root().join("etc/ssl/key");
    chown(&key, Some(NOBODY), Some(NOBODY))?;
    std::fs::set_permissions(&key, Permissions::from_mode(0o600))?;
    let answer = world.run(&["unshare", "--user", "--map-root-user"], "")?.expect(&["shop: reading missed"])?;
    let answer = answer.says(None, "reading", &["user name space"])?.says(SHOP, "reading", &["etc/ssl/key"])?;
    // The next rung is taken, nothing is missed for that, and it is said what would make more possible.
    let words = ["by inotify", "not by fanotify (Operation not permitted)", "outside of a user name space"];
    let answer =
        answer.says(SHOP, "watching", &words)?.says(SHOP, "bounds", &["event within 1s", "sweep every 1m", "24h"])?;
    let target = &answer.json["targets"][0];
    ensure!(target["name"] == "shop" && target["watch_mode"] == "inotify", "{target}");
    let bounds = (&target["event_ms"], &target["sweep_ms"], &target["full_ms"]);
    ensure!(bounds == (&1000.into(), &60_000.into(), &86_400_000.into()), "{target}");
    ensure!(target["refused"][0]["watch_mode"] == "fanotify", "{target}");
    ensure!(target["blind"].as_array().is_some_and(|spots| spots.contains(&"foreign_link".into())), "{target}");
    Ok(())
}

fn no_rung() -> Result<()> {
    let world = World::with("[watch]\nmode = \"fanotify\"\n")?;
    let answer = world.run(&["unshare", "--user", "--map-root-user"], "")?;
    let answer = answer.expect(&["fanotify missed", "shop: watching missed"])?;
    answer.says(SHOP, "watching", &["the agent ends at its start with 78"])?;
    Ok(())
}

/// The limit is that of a user name space of its own: the machine's stays as it is.
fn few_watches() -> Result<()> {
    let world = World::new()?;
    let answer = world.run(&["unshare", "--user", "--map-root-user"], "echo 5 >/proc/sys/user/max_inotify_watches")?;
    let answer = answer.expect(&["shop: directories missed"])?;
    answer.says(SHOP, "directories", &["7, but 5 watches", "user.max_inotify_watches", "to 16"])?;
    Ok(())
}

fn sweep_alone() -> Result<()> {
    let answer = World::with("[watch]\nmode = \"sweep\"\nsweep = \"5m\"\n")?.run(AS_IS, "")?;
    let answer = answer.says(None, "inotify", &["as configured"])?.says(None, "sweep", &["every 5m"])?;
    let answer = answer.says(SHOP, "bounds", &["event none", "sweep every 5m"])?;
    ensure!(answer.json["targets"][0].get("event_ms").is_none(), "{:?}", answer.finished);
    answer.says(SHOP, "directories", &["none watched, as configured"])?;
    Ok(())
}

fn bad_configuration() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let config = sandbox.write("agent.toml", "targets = 1\n")?;
    for path in [config.as_path(), Path::new("/nonexistent/agent.toml")] {
        let finished = sandbox.driftlock([Path::new("doctor"), Path::new("--config"), path]).run()?.expect(78)?;
        ensure!(finished.stdout.is_empty() && finished.stderr.lines().count() >= 1, "{finished:?}");
    }
    sandbox.driftlock(["doctor", "--format", "ndjson"]).run()?.expect(64)?;
    Ok(())
}

fn bad_manifest() -> Result<()> {
    let world = World::new()?;
    world.sandbox.write("manifest", "{}\n")?;
    let answer = world.run(AS_IS, "")?;
    ensure!(answer.counted()?.contains(&"shop: manifest missed".to_owned()), "{:?}", answer.finished);
    answer.says(SHOP, "manifest", &["nothing is compared", "check-config"])?;
    Ok(())
}

fn hostile_names() -> Result<()> {
    let world = World::new()?;
    let config = std::fs::read_to_string(world.sandbox.path("agent.toml"))?;
    let root = world.root();
    let hostile = world.sandbox.path("ro\u{1b}[31mot\n");
    std::fs::rename(&root, &hostile)?;
    let escaped = format!("{:?}", root).replace("/root\"", "/ro\\u001b[31mot\\n\"");
    world.sandbox.write("agent.toml", config.replace(&format!("{root:?}"), &escaped))?;
    let config = world.sandbox.path("agent.toml");
    for format in ["text", "json"] {
        let arguments = ["doctor", "--format", format, "--config"].map(OsString::from);
        let finished = world.sandbox.driftlock(arguments.into_iter().chain([config.clone().into()])).run()?;
        let text = finished.text()?;
        ensure!(text.contains("ro\\x1b[31mot") || text.contains("ro\\\\x1b[31mot"), "{finished:?}");
        ensure!(!text.contains('\u{1b}'), "{finished:?}");
    }
    Ok(())
}
