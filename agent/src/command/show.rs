//! `driftlock show`: what a manifest holds, for a person or as JSON. Of a bundle, nothing is verified without a
//! key, and that is said.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use driftlock_common::exit::Exit;
use driftlock_common::finding::{ManifestView, NodeView, path_fields};
use driftlock_common::manifest::{Diagnostic, Header, Manifest, Source};
use driftlock_common::node::{Kind, Node};
use driftlock_common::path::Escaped;
use driftlock_common::tree::{EntryId, Origin};
use driftlock_common::trust::{Role, Statement};
use serde::Serialize;

use super::sealed;
use crate::baseline::{Accept, Baseline, BaselineError};
use crate::bundle;
use crate::cli::{ShowArgs, ShowFormatArg};
use crate::failure::{Failure, Outcome};
use crate::output::layer_and_step;

/// Runs the verb.
///
/// # Errors
/// If the file is not a manifest or stdout cannot be written.
pub fn run(args: ShowArgs) -> Outcome {
    let accept = if args.keys.is_empty() { Accept::Unsigned } else { sealed::signed_by(&args.keys)? };
    let baseline = Baseline::load(&args.file, &accept)?;
    let shown = Shown { baseline: &baseline, bundle: bundle(&args.file, &baseline, &accept)? };
    let mut out = BufWriter::new(io::stdout().lock());
    let written = match args.format {
        ShowFormatArg::Text => text(&shown, args.list, &mut out),
        ShowFormatArg::Json => json(&shown, args.list, &mut out),
        ShowFormatArg::Ndjson => ndjson(&shown, args.list, &mut out),
    };
    match written.and_then(|()| out.flush()) {
        // `show … | head` is no failure.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Exit::Found(0)),
        Err(error) => Err(Failure::output("stdout", error)),
        Ok(()) => Ok(Exit::Found(0)),
    }
}

/// A manifest, and the bundle that it lies beside.
struct Shown<'a> {
    baseline: &'a Baseline,
    bundle: Option<Said>,
}

/// What a bundle says.
#[derive(Serialize)]
struct Said {
    /// If not, nobody verified any of it.
    verified: bool,
    /// The keys that count; not verified, who the signatures say that they are by.
    signed_by: Vec<String>,
    created_at: String,
}

fn bundle(path: &Path, baseline: &Baseline, accept: &Accept) -> Result<Option<Said>, Failure> {
    let opened = bundle::open(path)?;
    // What can be read only once was a manifest, and is read by now.
    if opened.is_manifest() {
        return Ok(None);
    }
    let envelope = opened.envelope()?;
    let (claim, verified, signed_by) = match accept {
        Accept::Signed(terms) => {
            let refused = |refusal| BaselineError::Refused(path.to_owned(), refusal);
            let trusted = terms.anchors.judge(Role::Manifest, &envelope, terms.now).map_err(refused)?;
            (trusted.claim, true, trusted.by.iter().map(ToString::to_string).collect())
        }
        Accept::Unsigned | Accept::Bare => {
            let hints = envelope.signatures().iter().map(|signature| signature.key_id.clone()).collect();
            (envelope.verify([]), false, hints)
        }
    };
    let statement =
        Statement::read(&claim).map_err(|error| Failure::from(BaselineError::Statement(path.to_owned(), error)))?;
    if statement.manifest != baseline.view().sha256 {
        return Err(BaselineError::Swapped { path: path.to_owned(), found: baseline.view().sha256 }.into());
    }
    Ok(Some(Said { verified, signed_by, created_at: statement.created_at }))
}

/// A manifest's header and trailer, as JSON.
#[derive(Serialize)]
struct Overview<'a> {
    #[serde(flatten)]
    manifest: ManifestView,
    #[serde(skip_serializing_if = "Option::is_none")]
    bundle: Option<&'a Said>,
    profile: &'static str,
    content: &'static str,
    entries: u64,
    bytes: u64,
    excludes: Vec<&'a str>,
    exclude_sets: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a Source>,
    history: &'a [String],
    diagnostics: &'a [Diagnostic],
}

/// An entry, as JSON: the forms of findings.
#[derive(Serialize)]
struct Listed {
    r#type: &'static str,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_b64: Option<String>,
    node: NodeView,
    #[serde(skip_serializing_if = "Option::is_none")]
    layer: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta_layer: Option<u16>,
    /// The build step of `layer`, and of `meta_layer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta_step: Option<String>,
}

fn overview<'a>(shown: &'a Shown<'_>) -> Overview<'a> {
    let baseline = shown.baseline;
    let manifest = baseline.manifest();
    let totals = manifest.totals();
    let header = &manifest.header;
    Overview {
        manifest: baseline.view(),
        bundle: shown.bundle.as_ref(),
        profile: header.profile.name(),
        content: header.content.name(),
        entries: totals.entries,
        bytes: totals.bytes,
        excludes: header.excludes.iter().collect(),
        exclude_sets: &header.exclude_sets,
        source: header.source.as_ref(),
        history: &header.history,
        diagnostics: &header.diagnostics,
    }
}

fn listed(baseline: &Baseline) -> impl Iterator<Item = Listed> + '_ {
    let manifest = baseline.manifest();
    entries(manifest).map(|id| {
        let (path, path_b64) = path_fields(manifest.tree.path(id).as_bytes());
        let origin = baseline.origin(id);
        let node = NodeView::new(&manifest.tree.node(id), origin.sha256, manifest.header.content);
        let Origin { layer, meta_layer, .. } = origin;
        let [step, meta_step] = [layer, meta_layer].map(|layer| layer.and_then(|layer| manifest.header.step(layer)));
        Listed { r#type: "entry", path, path_b64, node, layer, meta_layer, step, meta_step }
    })
}

/// The entries that have a line in the manifest.
fn entries(manifest: &Manifest) -> impl Iterator<Item = EntryId> + '_ {
    let root_line = usize::try_from(manifest.totals().entries).is_ok_and(|entries| entries > manifest.tree.len());
    manifest.tree.iter().skip(usize::from(!root_line))
}

fn json(all: &Shown<'_>, list: bool, out: &mut impl Write) -> io::Result<()> {
    #[derive(Serialize)]
    struct Whole<'a> {
        #[serde(flatten)]
        overview: Overview<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        list: Option<Vec<Listed>>,
    }
    let list = list.then(|| listed(all.baseline).collect());
    serde_json::to_writer(&mut *out, &Whole { overview: overview(all), list })?;
    out.write_all(b"\n")
}

fn ndjson(all: &Shown<'_>, list: bool, out: &mut impl Write) -> io::Result<()> {
    #[derive(Serialize)]
    struct First<'a> {
        r#type: &'static str,
        #[serde(flatten)]
        overview: Overview<'a>,
    }
    serde_json::to_writer(&mut *out, &First { r#type: "manifest", overview: overview(all) })?;
    out.write_all(b"\n")?;
    if list {
        for entry in listed(all.baseline) {
            serde_json::to_writer(&mut *out, &entry)?;
            out.write_all(b"\n")?;
        }
    }
    Ok(())
}

fn text(all: &Shown<'_>, list: bool, out: &mut impl Write) -> io::Result<()> {
    let baseline = all.baseline;
    let all = overview(all);
    let shown = |text: &str| Escaped(text.as_bytes()).to_string();
    writeln!(out, "tree      {}", all.manifest.tree)?;
    writeln!(out, "file      sha256:{}, {}", all.manifest.sha256, all.manifest.trust)?;
    if let Some(Said { verified, signed_by, created_at }) = all.bundle {
        let (how, by) =
            if *verified { ("verified", "") } else { ("not verified (--key FILE does that)", "says to be ") };
        writeln!(out, "bundle    {how}, stated {}", shown(created_at))?;
        for key in signed_by {
            writeln!(out, "  {by}signed by {}", if key.is_empty() { "nobody".to_owned() } else { shown(key) })?;
        }
    }
    writeln!(out, "profile   {}, content digests {}", all.profile, all.content)?;
    writeln!(out, "entries   {}, {} bytes in files", all.entries, all.bytes)?;
    if let Some(source) = all.source {
        let learned = if all.manifest.origin == "dir" { " (learned: what was there is the truth)" } else { "" };
        writeln!(out, "source    {}{learned}", all.manifest.origin)?;
        for (name, digest) in [("manifest", source.manifest), ("config", source.config)] {
            if let Some(digest) = digest {
                writeln!(out, "  {name:9} {digest}")?;
            }
        }
        if let Some(platform) = &source.platform {
            writeln!(out, "  platform  {}", shown(platform))?;
        }
        for (index, layer) in (0..).zip(&source.layers) {
            let step = baseline.manifest().header.step(index).map(|step| format!("  {step}")).unwrap_or_default();
            writeln!(out, "  layer {index:<3} {layer}{step}")?;
        }
    }
    for set in all.exclude_sets {
        writeln!(out, "excludes  the set {}", shown(set))?;
    }
    for pattern in &all.excludes {
        writeln!(out, "excludes  {}", shown(pattern))?;
    }
    for diagnostic in all.diagnostics {
        writeln!(out, "noted     {} × {}", diagnostic.count, shown(&diagnostic.code))?;
    }
    if list {
        let manifest = baseline.manifest();
        for id in entries(manifest) {
            let path = manifest.tree.path(id);
            let shown = if path.is_root() { "/".to_owned() } else { path.escaped().to_string() };
            list_line(out, &shown, &manifest.tree.node(id), &given_by(&baseline.origin(id), &manifest.header))?;
        }
    }
    Ok(())
}

/// The layers that gave an entry, for example `  (layer 0: ADD rootfs.tar /, attributes layer 3: RUN chmod +x /app)`.
fn given_by(origin: &Origin, header: &Header) -> String {
    let Some(layer) = origin.layer else { return String::new() };
    let attributes = origin.meta_layer.map(|layer| format!(", attributes {}", layer_and_step(layer, header)));
    format!("  ({}{})", layer_and_step(layer, header), attributes.unwrap_or_default())
}

/// A path as `ls -l` shows it, and what gave it; `?` is what was not specified.
fn list_line(out: &mut impl Write, path: &str, node: &Node, given_by: &str) -> io::Result<()> {
    fn or_unknown<T: ToString>(value: Option<T>) -> String {
        value.map_or_else(|| "?".to_owned(), |value| value.to_string())
    }
    let letter = match node.file_type().byte() {
        b'f' => '-',
        other => char::from(other),
    };
    let mode = node.mode.map_or_else(|| "?".to_owned(), |mode| format!("{mode:04o}"));
    let (size, tail) = match &node.kind {
        Kind::File { size, .. } => (or_unknown(*size), String::new()),
        Kind::Symlink { target } => ("-".to_owned(), format!(" -> {}", Escaped(target))),
        Kind::Char(device) | Kind::Block(device) => {
            (device.map_or_else(|| "?".to_owned(), |d| format!("{},{}", d.major, d.minor)), String::new())
        }
        Kind::Directory | Kind::Fifo | Kind::Socket => ("-".to_owned(), String::new()),
    };
    let (uid, gid) = (or_unknown(node.uid), or_unknown(node.gid));
    writeln!(out, "{letter} {mode:>4} {uid:>5} {gid:>5} {size:>12}  {path}{tail}{given_by}")
}
