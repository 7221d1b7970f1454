//! What an agent tells besides a collector: standard output, files, the journal of a systemd, rsyslogd by each way that it
//! listens; hostile names in all of them, a full disk, receivers that are not there. Belongs here: what needs the real agent
//! and readers that others wrote.

mod rsyslog;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufReader, Read as _};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail, ensure};
use driftlock_common::path::Escaped;
use driftlock_tests::agent::{Agent, AgentHome};
use driftlock_tests::drift::Drift;
use driftlock_tests::fake::{FakeCollector, Then};
use driftlock_tests::machine::Root;
use driftlock_tests::namespace;
use driftlock_tests::process::Stream;
use driftlock_tests::require::Requirement::{self, DebianMirror, Debootstrap, MountNamespace, SystemdNspawn};
use driftlock_tests::require::{run, trial};
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::tree::Tree;
use driftlock_tests::wait::eventually;
use rsyslog::Rsyslog;
use rustix::fs::{Mode, OFlags};
use serde_json::Value;

fn main() -> ExitCode {
    run(vec![
        trial(
            "hostile_names_are_names_in_files_and_to_rsyslogd_by_each_way_it_listens",
            &[Requirement::Rsyslogd],
            files,
        ),
        trial(
            "hostile_names_are_names_to_the_journal_of_systemd",
            &[Requirement::Root, SystemdNspawn, Debootstrap, DebianMirror],
            journal,
        ),
        trial("a_full_disk_is_said_and_no_line_is_torn", &[Requirement::Root, MountNamespace], full_disk),
        trial("a_receiver_that_is_not_there_is_said_and_told_later_what_it_missed", &[], absent_receiver),
        trial("where_no_receiver_ever_comes_the_agent_reports_and_stops_as_ever", &[], nobody),
    ])
}

/// An agent that watches a tree, as sealed so far.
struct Stage {
    // In the order in which they are to end: the sandbox last.
    agent: Option<Agent>,
    wire: FakeCollector,
    home: AgentHome,
    tree: Tree,
    sandbox: Sandbox,
}

impl Stage {
    fn new() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let tree = sandbox.tree("tree")?;
        tree.file("etc/app.toml", "level = 1\n")?;
        let wire = FakeCollector::start([], Then::Accept)?;
        let home = AgentHome::new(&sandbox, "web-1")?.reports_to(wire.address());
        Ok(Self { agent: None, wire, home, tree, sandbox })
    }

    /// Seals the tree as it is, and starts an agent with these sinks.
    fn start(&mut self, sinks: String) -> Result<()> {
        let manifest = self.sandbox.seal(format!("dir:{}", self.tree.root().display()), "tree.manifest")?;
        self.home = self.home.clone().target("app", self.tree.root(), &manifest);
        self.home.sinks = sinks;
        self.agent = Some(self.home.start(&self.sandbox)?);
        eventually("a first look at everything", || {
            let looked = self.wire.events().iter().any(|event| event["type"] == "dev.driftlock.target.verified.v1");
            ensure!(looked, "{:?}", self.agent);
            Ok::<_, anyhow::Error>(())
        })
    }

    fn stop(&mut self) -> Result<()> {
        let code = self.agent.take().context("an agent")?.stop()?;
        ensure!(code == 0, "exit {code}");
        Ok(())
    }

    /// What the agent says of a condition, in order: whether it opened, and its line.
    fn conditions(&self, reason: &str) -> Vec<(bool, String)> {
        let of = |event: Value| {
            let is_open = event["type"] == "dev.driftlock.condition.opened.v1";
            let is_one = is_open || event["type"] == "dev.driftlock.condition.resolved.v1";
            let line = event["data"]["detail"].as_str().unwrap_or_default().to_owned();
            (is_one && event["data"]["reason"] == reason).then_some((is_open, line))
        };
        self.wire.events().into_iter().filter_map(of).collect()
    }

    /// Waits for the condition to open, or to be over.
    fn eventually(&self, is_open: bool) -> Result<String> {
        eventually(&format!("sink_failed {is_open}"), || match self.conditions("sink_failed").pop() {
            Some((found, line)) if found == is_open => Ok(line),
            said => bail!("{said:?}"),
        })
    }

    fn opened(&self) -> Result<BTreeSet<Vec<u8>>> {
        paths(&self.wire.events())
    }
}

/// The paths of the findings that opened.
fn paths(events: &[Value]) -> Result<BTreeSet<Vec<u8>>> {
    let opened = events.iter().filter(|event| event["type"] == "dev.driftlock.finding.opened.v1");
    opened.map(|event| Drift::path_of(&event["data"]["finding"])).collect()
}

/// File names that are made to be more than names to who reads them. No directories: what is within one would be told too.
fn hostile() -> Vec<Vec<u8>> {
    let names = [
        &b"plain"[..],
        b"line\nbreak",
        b"carriage\rreturn",
        b"\x1b[2J\x1b]0;owned\x07",
        b"\xff\xfe not UTF-8",
        b"%s%n%x {} $(id) `id`",
        b"] [x y=\"z\"] \\] \"",
        b"back\\slash \\x0a",
        b"nul-like \\0 \\x00 %00 ^@",
        b"\nPRIORITY=0\nMESSAGE=forged",
        b"\n<0>1 - - - - - - forged",
        b"5 <0>1 - #012 #011",
        b"{\"type\":\"forged\"}\n{\"type\":\"forged\"}",
        b"\xc2\x9b31m",
        "\u{202e}gpj.exe".as_bytes(),
        "\u{feff}\u{e9}\u{4e2d}\u{1f980}".as_bytes(),
    ];
    let mut names: Vec<Vec<u8>> = names.map(<[u8]>::to_vec).into();
    names.extend([vec![b'\n'; 255], vec![0xff; 255], vec![b'"'; 255], vec![b']'; 255]]);
    names
}

/// What stands for a path in text, back to its bytes.
fn unescape(text: &str) -> Result<Vec<u8>> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((byte, after)) = rest.split_first() {
        rest = match (byte, after) {
            (b'\\', [b'\\', after @ ..]) => {
                bytes.push(b'\\');
                after
            }
            (b'\\', [b'x', a, b, after @ ..]) => {
                bytes.push(u8::from_str_radix(std::str::from_utf8(&[*a, *b])?, 16)?);
                after
            }
            (b'\\', _) => bail!("an escape that is none: {text}"),
            (byte, after) => {
                bytes.push(*byte);
                after
            }
        };
    }
    Ok(bytes)
}

/// The events of a file of lines, none of which could do anything to a terminal.
fn events(path: &std::path::Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path)?;
    ensure!(text.is_empty() || text.ends_with('\n'), "a torn line");
    ensure!(!text.chars().any(|ch| ch.is_control() && ch != '\n'), "{}", text.escape_debug());
    ensure!(!text.contains(['\u{202e}', '\u{feff}']), "{}", text.escape_debug());
    text.lines().map(|line| serde_json::from_str(line).context(line.to_owned())).collect()
}

fn add(tree: &Tree, names: &[Vec<u8>]) -> Result<BTreeSet<Vec<u8>>> {
    for name in names {
        fs::write(tree.root().join(OsStr::from_bytes(name)), "x")?;
    }
    Ok(names.iter().cloned().collect())
}

fn files() -> Result<()> {
    let mut stage = Stage::new()?;
    let rsyslog = Rsyslog::start(&stage.sandbox)?;
    let file = stage.sandbox.path("events.json");
    let sinks = format!("[[sink]]\ntype = \"stdout\"\n[[sink]]\ntype = \"file\"\npath = {file:?}\n{}", rsyslog.sinks());
    stage.start(sinks)?;
    let names = add(&stage.tree, &hostile())?;
    eventually("every name at the collector", || {
        ensure!(stage.opened()? == names, "{:?}", stage.opened()?);
        Ok::<_, anyhow::Error>(())
    })?;
    eventually("every name in the file", || {
        ensure!(paths(&events(&file)?)? == names, "{:?}", paths(&events(&file)?)?);
        Ok::<_, anyhow::Error>(())
    })?;
    let stdout =
        stage.sandbox.write("stdout", stage.agent.as_mut().context("an agent")?.process().text(Stream::Stdout))?;
    fs::write(&stdout, fs::read_to_string(&stdout)? + "\n")?;
    ensure!(paths(&events(&stdout)?)? == names, "{:?}", paths(&events(&stdout)?)?);
    let host = fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned();
    // Each by each way exactly once, and nothing else.
    for way in rsyslog::WAYS {
        let found = eventually(&format!("every name by {way}"), || {
            let messages = rsyslog.messages(way)?;
            let opened: Vec<_> = messages.iter().filter(|message| message["msgid"] == "finding.opened").collect();
            ensure!(opened.len() == names.len(), "{} of {}: {opened:#?}", opened.len(), names.len());
            Ok::<_, anyhow::Error>(messages.clone())
        })?;
        let mut told = BTreeSet::new();
        for message in &found {
            let text = |key: &str| message[key].as_str().with_context(|| format!("no {key}: {message}"));
            ensure!(text("app")? == "driftlock" && text("host")? == host, "{message}");
            ensure!(text("process")?.parse::<u32>().is_ok(), "{message}");
            let said = text("text")?.trim_start_matches('\u{feff}');
            ensure!(!said.chars().any(char::is_control) && !said.contains('\u{202e}'), "{message}");
            if text("msgid")? == "finding.opened" {
                ensure!(text("priority")? == "28", "daemon, warning: {message}");
                let path = said.split(" path=\"").nth(1).and_then(|rest| rest.split('"').next()).context("a path")?;
                // A datagram has no room for the longest, and says so.
                told.insert(match path.split_once("...(") {
                    Some((head, _)) if way == "imudp" => {
                        let begins =
                            |name: &&Vec<u8>| Escaped(name).to_string().replace('"', "\\x22").starts_with(head);
                        names.iter().find(begins).with_context(|| head.to_owned())?.clone()
                    }
                    _ => unescape(path)?,
                });
                let data = text("data")?;
                ensure!(data.starts_with("[origin software=\"driftlock\" "), "{message}");
                ensure!(data.contains("[driftlock@32473 change=\"added\" target=\"app\" path=\""), "{message}");
            }
        }
        ensure!(told == names, "{way}: {told:?}");
    }
    stage.stop()?;
    let stopped = |event: &Value| event["type"] == "dev.driftlock.agent.stopped.v1";
    ensure!(events(&file)?.last().is_some_and(stopped), "what was said last is there");
    ensure!(stage.conditions("sink_failed").is_empty(), "{:?}", stage.conditions("sink_failed"));
    Ok(())
}

fn journal() -> Result<()> {
    let machine = Root::new()?.boot()?;
    let mut stage = Stage::new()?;
    // So deep that an event of something below is more than a datagram can be.
    let mut at = File::open(stage.tree.root())?;
    let part = OsStr::from_bytes(&[b'\r'; 255]);
    let mut deep = Vec::new();
    for _ in 0..240 {
        rustix::fs::mkdirat(&at, part, Mode::from_raw_mode(0o755))?;
        at = rustix::fs::openat(&at, part, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?.into();
        deep.extend_from_slice(part.as_bytes());
        deep.push(b'/');
    }
    deep.extend_from_slice(b"implant");
    let socket = machine.inside("/run/systemd/journal/socket");
    stage.start(format!("[[sink]]\ntype = \"journald\"\nsocket = {socket:?}\n"))?;
    let mut names = add(&stage.tree, &hostile())?;
    rustix::fs::openat(&at, "implant", OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o644))?;
    names.insert(deep);
    let entries = eventually("every name in the journal", || {
        let said =
            machine.run(["journalctl", "--no-pager", "--all", "--output=json", "SYSLOG_IDENTIFIER=driftlock"])?;
        let entries = said.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
        let opened = entries.iter().filter(|entry| entry["DRIFTLOCK_TYPE"] == "finding.opened").count();
        ensure!(opened == names.len(), "{opened} of {}; {:?}", names.len(), stage.conditions("sink_failed"));
        Ok::<_, anyhow::Error>(entries)
    })?;
    let mut told = BTreeSet::new();
    for entry in &entries {
        let text = |key: &str| entry[key].as_str().with_context(|| format!("{key} is no text: {}", entry[key]));
        let event: Value = serde_json::from_str(text("DRIFTLOCK_EVENT")?)?;
        ensure!(text("MESSAGE")?.starts_with(&text("DRIFTLOCK_TYPE")?.replace('.', " ")), "{}", text("MESSAGE")?);
        if entry["DRIFTLOCK_TYPE"] == "finding.opened" {
            let path = unescape(text("DRIFTLOCK_PATH")?)?;
            ensure!(path == Drift::path_of(&event["data"]["finding"])?, "two paths in one entry");
            ensure!(text("PRIORITY")? == "4" && text("DRIFTLOCK_CHANGE")? == "added", "{entry}");
            told.insert(path);
        }
        let fields = entry.as_object().context("an object")?;
        let forged = fields.keys().find(|key| key.as_str() != "MESSAGE" && key.contains("forged"));
        ensure!(forged.is_none(), "{forged:?}");
    }
    ensure!(told == names, "{told:?}");
    // As somebody looks at it: what could act on the terminal is not there.
    let shown = machine.run(["journalctl", "--no-pager", "--output=cat", "SYSLOG_IDENTIFIER=driftlock"])?;
    ensure!(shown.lines().count() == entries.len(), "{shown}");
    ensure!(!shown.chars().any(|ch| ch != '\n' && ch.is_control()), "{}", shown.escape_debug());
    ensure!(stage.conditions("sink_failed").is_empty(), "{:?}", stage.conditions("sink_failed"));
    stage.stop()
}

fn full_disk() -> Result<()> {
    namespace::within(|| {
        let mut stage = Stage::new()?;
        let disk = stage.sandbox.path("disk");
        fs::create_dir(&disk)?;
        namespace::tmpfs_of(&disk, "size=64k")?;
        let (file, ballast) = (disk.join("events.json"), disk.join("ballast"));
        stage.start(format!("[[sink]]\ntype = \"file\"\npath = {file:?}\n"))?;
        // A page is left, in which a line may begin.
        let written = fs::write(&ballast, vec![0; 60 * 1024]).is_ok();
        let names: Vec<Vec<u8>> = (0..40).map(|number| format!("{}-{number}", "n".repeat(150)).into_bytes()).collect();
        let names = add(&stage.tree, &names)?;
        let line = stage.eventually(true)?;
        ensure!(
            line.starts_with(&format!("{}: ", file.display())) && line.contains("No space left"),
            "{line} {written}"
        );
        eventually("every name at the collector", || {
            ensure!(stage.opened()? == names, "{:?}", stage.opened()?);
            Ok::<_, anyhow::Error>(())
        })?;
        ensure!(paths(&events(&file)?)?.len() < names.len(), "the disk was never full");
        // There is room again: what waited comes, each whole and once.
        fs::remove_file(&ballast)?;
        eventually("every name in the file", || {
            let all = events(&file)?;
            let opened = all.iter().filter(|event| event["type"] == "dev.driftlock.finding.opened.v1").count();
            ensure!(paths(&all)? == names && opened == names.len(), "{opened}");
            Ok::<_, anyhow::Error>(())
        })?;
        stage.eventually(false)?;
        stage.stop()
    })
}

fn absent_receiver() -> Result<()> {
    let mut stage = Stage::new()?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    stage.start(format!("[[sink]]\ntype = \"syslog\"\nto = \"tcp://127.0.0.1:{port}\"\n"))?;
    let line = stage.eventually(true)?;
    ensure!(line.starts_with(&format!("syslog at tcp://127.0.0.1:{port}: Connection refused")), "{line}");
    stage.tree.file("added", "x")?;
    eventually("the finding at the collector", || {
        ensure!(stage.opened()?.len() == 1);
        Ok::<_, anyhow::Error>(())
    })?;
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let (stream, _) = listener.accept()?;
    let mut stream = BufReader::new(stream);
    let mut kinds = Vec::new();
    // In order, from the beginning: nothing was lost.
    while !kinds.iter().any(|kind: &String| kind == "finding.opened") {
        let mut length = Vec::new();
        std::io::BufRead::read_until(&mut stream, b' ', &mut length)?;
        let length: usize = std::str::from_utf8(&length)?.trim_end().parse()?;
        let mut message = vec![0; length];
        stream.read_exact(&mut message)?;
        let message = String::from_utf8(message)?;
        kinds.push(message.split(' ').nth(5).context("a message")?.to_owned());
    }
    ensure!(
        kinds.contains(&"target.verified".to_owned()) && kinds.contains(&"condition.opened".to_owned()),
        "{kinds:?}"
    );
    stage.eventually(false)?;
    stage.stop()
}

fn nobody() -> Result<()> {
    let mut stage = Stage::new()?;
    let [file, socket] = ["no/such/directory/events.json", "no/such/socket"].map(|name| stage.sandbox.path(name));
    let target = stage.sandbox.write("target", "kept")?;
    let link: PathBuf = stage.sandbox.path("link");
    std::os::unix::fs::symlink(&target, &link)?;
    stage.start(format!(
        "[[sink]]\ntype = \"file\"\npath = {file:?}\n[[sink]]\ntype = \"file\"\npath = {link:?}\n[[sink]]\n\
         type = \"journald\"\nsocket = {socket:?}\n[[sink]]\ntype = \"syslog\"\nto = {socket:?}\n"
    ))?;
    for path in [&file, &link, &socket] {
        let path = path.display().to_string();
        eventually("it to be named", || {
            let said = stage.conditions("sink_failed");
            ensure!(said.iter().any(|(_, line)| line.contains(&path)), "{path}: {said:?}");
            Ok::<_, anyhow::Error>(())
        })?;
    }
    stage.tree.file("added", "x")?;
    eventually("the finding at the collector", || {
        ensure!(stage.opened()?.len() == 1);
        Ok::<_, anyhow::Error>(())
    })?;
    ensure!(fs::read(&target)? == b"kept", "a link was followed");
    stage.stop()
}
