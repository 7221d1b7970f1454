//! Whatever tar archive we accept, Python's tarfile and libarchive accept too, and see the same paths, types, sizes,
//! link targets, devices and content. We may refuse more.

use std::collections::BTreeMap;
use std::env;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use driftlock_agent::source::budget::Budget;
use driftlock_agent::source::layer::{Dialect, Options, What, index};
use driftlock_common::node::Kind;
use driftlock_common::path::TreePath;
use driftlock_common::profile::Profile;
use driftlock_common::tree::archive_path;
use driftlock_tests::random::Random;
use driftlock_tests::require::{self, Requirement};
use driftlock_tests::schema::PYTHON;
use libtest_mimic::Trial;
use serde_json::Value;

use super::odd_tar;

/// How many archives, if not [`SEEDS`].
const SEEDS_VARIABLE: &str = "DRIFTLOCK_TEST_SEEDS";
const SEEDS: u64 = 2000;
const SCRIPT: &str = include_str!("readers.py");

/// What a reader sees of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    path: TreePath,
    kind: char,
    size: Option<u64>,
    link: Option<Vec<u8>>,
    device: Option<(u32, u32)>,
    sha256: Option<String>,
}

/// The process with the other readers.
struct Others {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

pub(crate) fn trials() -> Vec<Trial> {
    vec![require::trial("readers::whoever_reads_a_tar_sees_what_we_see", &[Requirement::Readers], compare)]
}

fn compare() -> Result<()> {
    let wished = env::var(SEEDS_VARIABLE).ok().map(|number| number.parse()).transpose();
    let seeds: u64 = wished.with_context(|| format!("{SEEDS_VARIABLE} is a number"))?.unwrap_or(SEEDS);
    let mut others = Others::start()?;
    let mut accepted: BTreeMap<char, u64> = BTreeMap::new();
    for seed in 0..seeds {
        let archive = odd_tar::archive(&mut Random::new(seed));
        let Some(ours) = ours(&archive) else { continue };
        for (reader, theirs) in others.read(&archive)? {
            let theirs = theirs.with_context(|| format!("seed {seed}: {reader} refuses what we read as {ours:#?}"))?;
            if let Some((one, other)) = ours.iter().zip(&theirs).find(|(one, other)| !one.agrees(other)) {
                bail!("seed {seed}: we see {one:?}, {reader} sees {other:?}");
            }
            ensure!(ours.len() == theirs.len(), "seed {seed}: we see {ours:#?}, {reader} sees {theirs:#?}");
        }
        for seen in ours {
            *accepted.entry(seen.kind).or_default() += 1;
        }
    }
    others.finish()?;
    // Readers that refuse everything never disagree.
    for kind in ['f', 'd', 'l', 'h', 'c', 'b', 'p'] {
        let count = accepted.get(&kind).copied().unwrap_or_default();
        ensure!(count * 200 >= seeds, "{seeds} archives, but only {count} entries of type {kind} were accepted");
    }
    Ok(())
}

/// `None` if we refuse it.
fn ours(archive: &[u8]) -> Option<Vec<Seen>> {
    let budget = Budget::default();
    let options = Options { dialect: Dialect::Release, profile: Profile::Full, sha256: true, budget };
    let layer = index(archive, &options).ok()?;
    let seen = layer.items.into_iter().map(|item| {
        let mut seen = Seen { path: item.path, kind: 'f', size: None, link: None, device: None, sha256: None };
        match item.what {
            What::Link { target, .. } => {
                seen.kind = 'h';
                seen.link = Some(target.as_bytes().to_vec());
            }
            What::Node { node, sha256 } => {
                seen.sha256 = sha256.map(|digest| digest.to_hex());
                match node.kind {
                    Kind::File { size, .. } => seen.size = size,
                    Kind::Directory => seen.kind = 'd',
                    Kind::Symlink { target } => {
                        seen.kind = 'l';
                        seen.link = Some(target.to_vec());
                    }
                    Kind::Char(device) => (seen.kind, seen.device) = ('c', device.map(|d| (d.major, d.minor))),
                    Kind::Block(device) => (seen.kind, seen.device) = ('b', device.map(|d| (d.major, d.minor))),
                    Kind::Fifo => seen.kind = 'p',
                    Kind::Socket => seen.kind = 's',
                }
            }
        }
        seen
    });
    Some(seen.collect())
}

// === impl Seen ===

impl Seen {
    /// `None` for the root, of which an archive says nothing that we keep.
    fn from_json(entry: &Value) -> Result<Option<Self>> {
        let text = |at: usize| entry[at].as_str().map(hex::decode).transpose();
        let path = archive_path(&text(0)?.context("a path")?)?;
        if path.is_root() {
            return Ok(None);
        }
        let kind = entry[1].as_str().and_then(|kind| kind.chars().next()).context("a type")?;
        let link = text(3)?;
        let link = if kind == 'h' {
            link.map(|to| archive_path(&to)).transpose()?.map(|to| to.as_bytes().to_vec())
        } else {
            link
        };
        let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
        let device =
            entry[4].as_array().map(|both| number(&both[0]).zip(number(&both[1])).context("a device")).transpose()?;
        let sha256 = entry[5].as_str().map(str::to_owned);
        Ok(Some(Self { path, kind, size: entry[2].as_u64(), link, device, sha256 }))
    }

    /// The others do not hash what is long.
    fn agrees(&self, other: &Self) -> bool {
        let sha256 = if other.sha256.is_none() { None } else { self.sha256.clone() };
        Self { sha256, ..self.clone() } == *other
    }
}

// === impl Others ===

impl Others {
    fn start() -> Result<Self> {
        let mut command = Command::new(PYTHON);
        command.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context(PYTHON)?;
        let input = child.stdin.take().context("its input")?;
        let output = BufReader::new(child.stdout.take().context("its output")?);
        Ok(Self { child, input, output })
    }

    /// What each sees; an error is one of a reader that refuses the archive, or names what we could not have accepted.
    fn read(&mut self, archive: &[u8]) -> Result<Vec<(String, Result<Vec<Seen>>)>> {
        let length = u32::try_from(archive.len())?;
        self.input.write_all(&length.to_be_bytes())?;
        self.input.write_all(archive)?;
        self.input.flush()?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let answer: BTreeMap<String, Value> = serde_json::from_str(&line).context("the other readers")?;
        ensure!(answer.len() == 2, "two readers, not {answer:?}");
        Ok(answer.into_iter().map(|(reader, entries)| (reader, seen(&entries))).collect())
    }

    fn finish(self) -> Result<()> {
        let Self { mut child, input, .. } = self;
        drop(input);
        ensure!(child.wait()?.success(), "the other readers failed");
        Ok(())
    }
}

fn seen(entries: &Value) -> Result<Vec<Seen>> {
    let entries = entries.as_array().context("it gives an error")?;
    entries.iter().map(Seen::from_json).filter_map(Result::transpose).collect()
}
