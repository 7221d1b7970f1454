//! Owns the command line: what may be typed and what `--help` teaches. Must not own reading files, or defaults that
//! need the host.

mod enroll;
mod policy;
mod push;
mod report;
mod trust;

use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use driftlock_common::profile::Profile;

use crate::config::{MIN_READ, units};
use crate::scan::IdView;

pub use enroll::EnrollArgs;
pub use policy::{
    FailOnArg, PolicyArgs, PolicyCheckArgs, PolicyExplainArgs, PolicySimulateArgs, PolicyTestArgs, PolicyVerb, TypeArg,
};
pub use push::PushArgs;
pub use report::ReportArgs;
pub use trust::{
    AssignArgs, AttachArgs, KeyArgs, KeygenArgs, SchemeArg, SealSignArgs, SignArgs, SignerArgs, VerifyArgs,
};

/// Is what is on disk exactly what was built?
#[derive(Debug, Parser)]
#[command(name = "driftlock", version, max_term_width = 100, after_help = driftlock_common::exit::help())]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one in a run")]
pub enum Verb {
    /// Seal an image or a directory: write a manifest of every path
    Seal(SealArgs),
    /// Compare a tree with a manifest, once
    Scan(ScanArgs),
    /// Compare two manifests, or anything that seal reads
    Diff(DiffArgs),
    /// Show what a manifest or a bundle holds, unverified
    Show(ShowArgs),
    /// Write what other programs check a tree with: mtree, sha256sum, b3sum
    Export(ExportArgs),
    /// Make a key that signs manifests
    Keygen(KeygenArgs),
    /// Sign a manifest, or add a signature to a bundle or an assignment
    Sign(SignArgs),
    /// Verify who signed a bundle, and show what they state
    Verify(VerifyArgs),
    /// Put a bundle beside its image in a registry
    Attach(AttachArgs),
    /// Sign which manifest a target must match
    Assign(AssignArgs),
    /// Join a collector: get a certificate with which this host reports
    Enroll(EnrollArgs),
    /// Give bundles, manifests and assignments to a collector, which keeps them for agents
    Push(PushArgs),
    /// Watch the configured targets and report every deviation
    Agent(AgentArgs),
    /// Ask the agent on this host what it watches, how well, what is open, and what it is doing
    Status(StatusArgs),
    /// Make the agent on this host look at everything now
    Rescan(RescanArgs),
    /// Wait until the agent on this host has looked at a target completely, and say what it found
    Wait(WaitArgs),
    /// Check the agent's configuration: everything that the agent would refuse
    CheckConfig(CheckConfigArgs),
    /// Say what this host allows, what would be missed, and what to do about it
    Doctor(DoctorArgs),
    /// Check, explain, test and simulate what may differ from a manifest, and how loudly to say so
    Policy(PolicyArgs),
}

/// What is read as a tree, and under which terms.
#[derive(Debug, Args)]
pub struct TermsArgs {
    /// How much of each path is sealed
    #[arg(long, value_enum, default_value_t = ProfileArg::Portable)]
    pub profile: ProfileArg,
    /// Leave out what matches, relative to the root: * within a name, ** for whole components
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// Leave out a named set: oci-runtime-1 is what container runtimes write into a root
    #[arg(long, value_name = "NAME")]
    pub exclude_set: Vec<String>,
    /// Which image of an index
    #[arg(long, value_name = "OS/ARCH", default_value = "linux/amd64")]
    pub platform: String,
    /// Keep what layers of oci: and registry: say in a directory of your own, and do not read them again
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
}

/// `driftlock seal`.
#[derive(Debug, Args)]
#[command(after_help = "\
Sources:
  dir:DIR                     a directory as it is now
  oci:LAYOUT[@sha256:DIGEST]  an OCI image layout
  registry:HOST/REPO@sha256:DIGEST
                              an image in a registry, with what docker or podman logged in with
  archive:FILE                an image as docker save or skopeo write it; - reads stdin
  tar:FILE                    a release archive, plain or gzip; - reads stdin
  mtree:FILE                  an mtree(5) file with SHA-256 digests; - reads stdin
Without a known kind it is a path: a directory, or a manifest.")]
pub struct SealArgs {
    /// What to seal
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// Where the manifest goes; - is stdout. Signed, it is where the bundle goes
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// The terms.
    #[command(flatten)]
    pub terms: TermsArgs,
    /// Signing it.
    #[command(flatten)]
    pub sign: SealSignArgs,
    /// Leave the informational SHA-256 of each file out
    #[arg(long)]
    pub no_sha256: bool,
    /// Refuse an image on which container engines disagree
    #[arg(long)]
    pub strict: bool,
    /// List what is odd about the source
    #[arg(short, long)]
    pub verbose: bool,
    /// Hashing threads [default: one for each core]
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
}

/// `driftlock scan`.
#[derive(Debug, Args)]
pub struct ScanArgs {
    /// What the tree must match: a manifest, or a bundle with its manifest beside it; given several times, all of them, each laid over those before it: base, application,
    /// configuration
    #[arg(long = "manifest", value_name = "FILE", required_unless_present = "image")]
    pub manifests: Vec<PathBuf>,
    /// An image in a registry, registry:HOST/REPO@sha256:DIGEST, whose signed manifest is found there, where driftlock attach
    /// put it, and must be signed by a --key. Several that are signed and differ are refused
    #[arg(long, value_name = "IMAGE", conflicts_with_all = ["manifests", "allow_unsigned"], requires = "keys")]
    pub image: Option<String>,
    /// Which image of an index
    #[arg(long, value_name = "OS/ARCH", default_value = "linux/amd64", requires = "image")]
    pub platform: String,
    /// A public key (PEM) that must have signed it, given several times: any one of them. A manifest without a bundle is
    /// then refused
    #[arg(long = "key", value_name = "FILE")]
    pub keys: Vec<PathBuf>,
    /// Take a bundle without a key, as if nobody had signed it
    #[arg(long, conflicts_with_all = ["keys", "require_signed"])]
    pub allow_unsigned: bool,
    /// Form of the result on stdout
    #[arg(long, value_enum, default_value_t = FormatArg::Text)]
    pub format: FormatArg,
    /// Compare less than was sealed: content for trees unpacked without privileges
    #[arg(long, value_enum)]
    pub profile: Option<ProfileArg>,
    /// Leave out what matches, on both sides; the scope becomes partial
    #[arg(long, value_name = "PATTERN")]
    pub exclude: Vec<String>,
    /// Compare only these attributes, and the type: content, target, mode, uid, gid, xattrs, device, mtime
    #[arg(long, value_name = "ATTRIBUTES")]
    pub only: Option<String>,
    /// Of added, removed, changed, what sets the exit code; what could not be verified always does
    #[arg(long, value_name = "CHANGES")]
    pub fail_on: Option<String>,
    /// What may differ, and how loudly to say what may not: only alerts set the exit code, what is tolerated is reported as
    /// such; see driftlock policy --help
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Everything is read, an alert, and listed, whatever --policy says
    #[arg(long)]
    pub no_policy: bool,
    /// List each finding in the text form, also what is tolerated, and the twenty or more of one kind below one directory
    /// that are one line else; the other forms have each in any case
    #[arg(long)]
    pub all: bool,
    /// Refuse a manifest that is not signed by a --key, also where none is given
    #[arg(long)]
    pub require_signed: bool,
    /// Remember in FILE what was found as sealed, and read the next time only what stat says has moved since, and within
    /// a day everything once; delete it to read everything
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Hash files that are not as sealed anyway (added, or of another size) only up to this size; what is larger is not
    /// verified, reason too_large. "0": only empty ones are hashed; "none": no limit
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    pub hash_limit: HashLimitArg,
    /// Compare users and groups as a user namespace calls them: "auto" is that of the process whose root is scanned;
    /// "none" leaves ids as they are seen here; or INSIDE:OUTSIDE:COUNT, with commas between several, as for podman's
    /// --uidmap. Who has no name there is 65534
    #[arg(long, value_name = "MAP", default_value = "auto")]
    pub id_map: IdView,
    /// Hashing threads [default: one for each core]
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// Read no more than this in a second, cached or not: 200MB/s for example
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub read: Option<NonZeroU64>,
    /// Show more than 10,000 added paths below one directory as one finding
    #[arg(long)]
    pub collapse: bool,
    /// Telling a collector.
    #[command(flatten)]
    pub report: ReportArgs,
    /// The tree: a directory, "/" too, or /proc/PID/root, the root of a process or a container. What is mounted in that
    /// one is left out, as is in any what the kernel makes (proc, sysfs, …); both are named in the result
    #[arg(value_name = "ROOT")]
    pub root: PathBuf,
}

/// `driftlock diff`.
#[derive(Debug, Args)]
pub struct DiffArgs {
    /// What was: a manifest, a bundle, or a source as for seal
    pub a: String,
    /// What is
    pub b: String,
    /// Who must have signed what is a manifest.
    #[command(flatten)]
    pub keys: KeyArgs,
    /// Form of the result on stdout
    #[arg(long, value_enum, default_value_t = FormatArg::Text)]
    pub format: FormatArg,
    /// The terms under which sources that are not manifests are read.
    #[command(flatten)]
    pub terms: TermsArgs,
}

/// `driftlock show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    /// The manifest, or a bundle, which without a --key is shown without verifying it
    pub file: PathBuf,
    /// A public key (PEM) that must have signed it, given several times: any one of them
    #[arg(long = "key", value_name = "FILE")]
    pub keys: Vec<PathBuf>,
    /// List every path, as ls -l does, with the layers that gave it and their build steps
    #[arg(short, long)]
    pub list: bool,
    /// Form of what is shown on stdout
    #[arg(long, value_enum, default_value_t = ShowFormatArg::Text)]
    pub format: ShowFormatArg,
}

/// `driftlock export`.
#[derive(Debug, Args)]
#[command(after_help = "\
A tree is then checked without driftlock, by what is installed:
  driftlock export --to mtree app.manifest -o app.mtree
  mtree -f app.mtree -p /srv/app

  driftlock export --to sha256sum app.manifest -o app.sha256
  cd /srv/app && sha256sum --check --quiet app.sha256

mtree is told of types, content, modes, owners, link targets and devices, and sees what was added;
under the profile full of times too, where it compares fractions of a second that a manifest does
not have. A check file holds the content of regular files alone.

What a form cannot hold is refused, and nothing is written: a name that b3sum cannot read or
that mtree takes for a pattern, or a file without the digest that is needed.")]
pub struct ExportArgs {
    /// A manifest, a bundle, or a source as for seal
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// Who must have signed what is a manifest.
    #[command(flatten)]
    pub keys: KeyArgs,
    /// Which program is to read it
    #[arg(long, value_enum, value_name = "FORM")]
    pub to: ExportFormArg,
    /// Where it goes; - is stdout
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    pub output: PathBuf,
    /// The terms under which a source that is not a manifest is read.
    #[command(flatten)]
    pub terms: TermsArgs,
}

/// `driftlock agent`.
#[derive(Debug, Args)]
pub struct AgentArgs {
    /// The configuration's file [default: the text in DRIFTLOCK_CONFIG if that is set, else /etc/driftlock/agent.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Which agent is asked.
#[derive(Debug, Args)]
pub struct AskArgs {
    /// The configuration that the agent runs with, which tells where it is asked [default: the text in DRIFTLOCK_CONFIG if
    /// that is set, else /etc/driftlock/agent.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The agent's socket, instead of the one that its configuration tells
    #[arg(long, value_name = "PATH", conflicts_with = "config")]
    pub socket: Option<PathBuf>,
}

/// `driftlock status`.
#[derive(Debug, Args)]
#[command(after_help = "\
The agent's user, its group and root may ask. Other programs ask it in the same way:
  curl --unix-socket /run/driftlock/agent.sock http://agent/v1/status
  curl --unix-socket /run/driftlock/agent.sock http://agent/metrics

Exit codes:
    0  the agent answered, whatever it said
   64  the command line is wrong
   65  what answers is no agent of this version
   69  no agent is running, or it does not answer
   77  the agent may not be asked by this user
   78  the configuration cannot be used")]
pub struct StatusArgs {
    /// Which agent.
    #[command(flatten)]
    pub ask: AskArgs,
    /// Form of the answer on stdout
    #[arg(long, value_enum, default_value_t = AnswerFormatArg::Text)]
    pub format: AnswerFormatArg,
}

/// `driftlock rescan`.
#[derive(Debug, Args)]
pub struct RescanArgs {
    /// Which agent.
    #[command(flatten)]
    pub ask: AskArgs,
    /// The target [default: all]
    pub target: Option<String>,
}

/// `driftlock wait`.
#[derive(Debug, Args)]
#[command(after_help = "\
For a pipeline, after a deployment: the agent is made to look at everything, and what it had begun before does not count.
Name the manifest of what was deployed, and the wait does not end before the agent compares with that one:
  driftlock wait --target app --manifest app.manifest --timeout 2m

An agent that is started anew meanwhile is waited for. Exit codes:
    0  everything was looked at, and all of it is as sealed
 1..7  the sum of 1 (added), 2 (removed), 4 (changed): what differs, apart from what a policy tolerates
    8  not verified: the time is up, or something cannot be established (is added to the sum)
   64  the command line is wrong, or there is no such target
   65  what answers is no agent of this version
   66  the manifest is not there
   69  no agent is running, or it does not answer
   77  the agent may not be asked by this user
   78  the configuration cannot be used")]
pub struct WaitArgs {
    /// Which agent.
    #[command(flatten)]
    pub ask: AskArgs,
    /// The target's name
    #[arg(long, value_name = "NAME")]
    pub target: String,
    /// Only a comparison with this manifest, or a bundle's, counts, alone or as one of several
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
    /// How long to wait: "30s" or "5m" for example
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = time)]
    pub timeout: Duration,
}

/// `driftlock check-config`.
#[derive(Debug, Args)]
pub struct CheckConfigArgs {
    /// The configuration's file [default: the text in DRIFTLOCK_CONFIG if that is set, else /etc/driftlock/agent.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// `driftlock doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Run it as the agent runs: same user, same unit, same container. From a shell the files of a running agent are seen by
  nsenter --mount --target PID driftlock doctor

Nothing is changed. Exit codes:
    0  nothing would be missed
    8  something would be missed, or it cannot be told whether it would
   64  the command line is wrong
   74  the answer cannot be written
   78  the configuration cannot be used")]
pub struct DoctorArgs {
    /// The agent's configuration: its targets are looked at too [default: /etc/driftlock/agent.toml if it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Form of the answer on stdout
    #[arg(long, value_enum, default_value_t = AnswerFormatArg::Text)]
    pub format: AnswerFormatArg,
}

/// How much of a file is hashed that is not as sealed anyway, in bytes; `None` is all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashLimitArg(pub Option<u64>);

/// The forms of an answer that is no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AnswerFormatArg {
    /// For people
    Text,
    /// One JSON object
    Json,
}

/// The forms of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// For people, in path order
    Text,
    /// One JSON object, in path order
    Json,
    /// A line of JSON for each finding as it is found, then a summary
    Ndjson,
    /// SARIF 2.1.0, for code scanning
    Sarif,
    /// JUnit, for the test report of a pipeline
    Junit,
}

/// The forms of a manifest that is shown: it has no findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ShowFormatArg {
    /// For people
    Text,
    /// One JSON object
    Json,
    /// A line of JSON for the manifest, and for each path
    Ndjson,
}

/// The forms of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ExportFormArg {
    /// mtree(5) with SHA-256, for the mtree of NetBSD and FreeBSD, and bsdtar
    Mtree,
    /// A check file for sha256sum
    Sha256sum,
    /// A check file for b3sum
    B3sum,
}

/// The profiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProfileArg {
    /// Type, content, link target
    Content,
    /// content, and mode, owner, group, file capabilities
    Portable,
    /// portable, and times, user attributes, ACLs
    Full,
}

fn rate(text: &str) -> Result<NonZeroU64, &'static str> {
    const SHOULD: &str = "write a rate like 200MB/s, at least 100kB/s";
    units::rate(text).filter(|rate| *rate >= MIN_READ).and_then(NonZeroU64::new).ok_or(SHOULD)
}

fn time(text: &str) -> Result<Duration, &'static str> {
    units::duration(text).ok_or("write a time like 30s or 5m")
}

impl From<ProfileArg> for Profile {
    fn from(arg: ProfileArg) -> Self {
        match arg {
            ProfileArg::Content => Self::Content,
            ProfileArg::Portable => Self::Portable,
            ProfileArg::Full => Self::Full,
        }
    }
}

impl FromStr for HashLimitArg {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "none" {
            return Ok(Self(None));
        }
        units::size(text).map(|bytes| Self(Some(bytes))).ok_or("write a size like 64MB or 1GiB, 0, or none")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DEFAULT_HASH_LIMIT;

    fn hash_limit(more: &[&str]) -> Result<HashLimitArg, String> {
        let arguments = ["driftlock", "scan", "--manifest", "m", "root"].iter().chain(more);
        match Cli::try_parse_from(arguments) {
            Ok(Cli { verb: Verb::Scan(args) }) => Ok(args.hash_limit),
            Ok(cli) => panic!("{cli:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_hash_limit_is_the_agents_unless_said() {
        assert_eq!(hash_limit(&[]), Ok(HashLimitArg(Some(DEFAULT_HASH_LIMIT))));
        for (text, limit) in
            [("0", Some(0)), ("7", Some(7)), ("64kB", Some(64_000)), ("2MiB", Some(2 << 20)), ("none", None)]
        {
            assert_eq!(hash_limit(&["--hash-limit", text]), Ok(HashLimitArg(limit)), "{text}");
        }
        for text in ["", "None", "1TB", "-1", "1.5GiB", "all"] {
            let said = hash_limit(&[&format!("--hash-limit={text}")]).unwrap_err();
            assert!(said.contains("write a size like 64MB or 1GiB, 0, or none"), "{said}");
        }
    }
}
