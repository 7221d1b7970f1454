//! What an image holds and what the next one changes: `show` and `diff` with the layers and the build steps of real layouts
//! and archives.

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::image::{Layer, Layout};
use driftlock_tests::require::trial;
use driftlock_tests::sandbox::{Finished, Sandbox};
use libtest_mimic::Trial;
use serde_json::Value;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("changes::an_image_is_compared_with_the_next_by_layer_and_directory", &[], images),
        trial("changes::directories_are_compared_without_layers", &[], directories),
        trial("changes::a_list_says_which_steps_gave_each_path", &[], list),
    ]
}

const BASE: &str = "/bin/sh -c #(nop) ADD file:0a1b in / ";
/// As BuildKit writes it; what it was given stays out of what is shown.
const BUILD: &str = "RUN |1 TOKEN=s3cret /bin/sh -c make \t&&  make install # buildkit";

fn base() -> Vec<u8> {
    let layer = Layer::new().dir("etc/").file("etc/motd", b"hello\n").dir("usr/").dir("usr/bin/");
    layer.program("usr/bin/ls", b"ls\n").file("usr/bin/shop", b"not yet\n").finish()
}

fn first(sandbox: &Sandbox) -> Result<Layout> {
    let shop = Layer::new().program("usr/bin/shop", b"one\n").file("etc/old", b"old\n").finish();
    Layout::create(sandbox.path("first"))?.layer(&base())?.made_by(BASE).layer(&shop)?.made_by(BUILD).finish()
}

/// The program is another, a file of the base is gone, and a layer on top changes a mode and adds a directory.
fn second(sandbox: &Sandbox) -> Result<Layout> {
    let shop = Layer::new().program("usr/bin/shop", b"two!!\n").finish();
    let top = Layer::new().file("etc/.wh.motd", b"").dir("etc/\x1b[31m/").file("etc/\x1b[31m/conf", b"");
    let top = top.file("usr/bin/ls", b"ls\n").finish();
    let layout = Layout::create(sandbox.path("second"))?.layer(&base())?.made_by(BASE);
    layout.layer(&shop)?.made_by(BUILD).layer(&top)?.made_by("COPY conf \u{202e}/etc/ # buildkit").finish()
}

fn diff(sandbox: &Sandbox, form: &str, a: &str, b: &str, exit: i32) -> Result<Finished> {
    sandbox.driftlock(["diff", "--format", form, a, b]).run()?.expect(exit)
}

/// Text up to what it amounts to, which holds a time.
fn changes(finished: &Finished) -> Result<&str> {
    let text = finished.text()?;
    let end =
        text.lines().position(|line| line.starts_with("drifted ") || line.starts_with("clean ")).context("no end")?;
    Ok(&text[..text.lines().take(end).map(|line| line.len() + 1).sum()])
}

const FORTH: &str = r"layer 1: RUN make && make install  (1 changed)
  usr/bin/  (1 changed)
    ~ usr/bin/shop  content 4 → 6 bytes
layer 2: COPY conf \xe2\x80\xae/etc/  (2 added, 1 changed)
  etc/  (1 added)
    + etc/\x1b[31m  directory
  etc/\x1b[31m/  (1 added)
    + etc/\x1b[31m/conf  file of 0 bytes
  usr/bin/  (1 changed)
    ~ usr/bin/ls  mode 0755 → 0644
gone from layer 0: ADD file:0a1b in /  (1 removed)
  etc/  (1 removed)
    - etc/motd  file
gone from layer 1: RUN make && make install  (1 removed)
  etc/  (1 removed)
    - etc/old  file
";

const BACK: &str = r"layer 0: ADD file:0a1b in /  (1 added, 1 changed)
  etc/  (1 added)
    + etc/motd  file of 6 bytes
  usr/bin/  (1 changed)
    ~ usr/bin/ls  mode 0644 → 0755
layer 1: RUN make && make install  (1 added, 1 changed)
  etc/  (1 added)
    + etc/old  file of 4 bytes
  usr/bin/  (1 changed)
    ~ usr/bin/shop  content 6 → 4 bytes
gone from layer 2: COPY conf \xe2\x80\xae/etc/  (2 removed)
  etc/  (1 removed)
    - etc/\x1b[31m  directory
  etc/\x1b[31m/  (1 removed)
    - etc/\x1b[31m/conf  file
";

fn images() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (first, second) = (first(&sandbox)?, second(&sandbox)?);
    // As a layout, as an archive and as a manifest it is one image.
    first.archive(&sandbox.path("first.tar"))?;
    let manifest = sandbox.seal(first.source(), "first.manifest")?;
    let manifest = manifest.to_str().context("a path")?;
    for form in [first.source(), format!("archive:{}", sandbox.path("first.tar").display()), manifest.to_owned()] {
        let forth = diff(&sandbox, "text", &form, &second.source(), 7)?;
        ensure!(changes(&forth)? == FORTH, "{form}: {forth:?}");
        let back = diff(&sandbox, "text", &second.source(), &form, 7)?;
        ensure!(changes(&back)? == BACK, "{form}: {back:?}");
        let none = diff(&sandbox, "text", &form, &first.source(), 0)?;
        ensure!(changes(&none)?.is_empty(), "{form}: {none:?}");
    }
    // For programs the form is that of a scan: what was sealed is the old side.
    let json: Value = serde_json::from_slice(&diff(&sandbox, "json", manifest, &second.source(), 7)?.stdout)?;
    let findings = json["findings"].as_array().context("findings")?;
    let shop = findings.iter().find(|finding| finding["path"] == "usr/bin/shop").context("no finding")?;
    ensure!(shop["layer"] == 1 && shop["step"] == "RUN make && make install", "{shop:#}");
    ensure!(findings.len() == 6 && !json.to_string().contains("s3cret"), "{json:#}");
    Ok(())
}

fn directories() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let (a, b) = (sandbox.tree("a")?, sandbox.tree("b")?);
    a.file("etc/gone", "x")?.file("etc/kept", "x")?.file("top", "one")?;
    b.file("etc/kept", "x")?.file("etc/new", "new")?.file("top", "four")?;
    let [a, b] = [a, b].map(|tree| format!("dir:{}", tree.root().display()));
    let finished = diff(&sandbox, "text", &a, &b, 7)?;
    let expected = "./  (1 changed)\n  ~ top  content 3 → 4 bytes\netc/  (1 added, 1 removed)\n  - etc/gone  file\n  + etc/new  file of 3 bytes\n";
    ensure!(changes(&finished)? == expected, "{finished:?}");
    Ok(())
}

fn list() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let manifest = sandbox.seal(second(&sandbox)?.source(), "second.manifest")?;
    let show = |form: &str| {
        let arguments = ["show", "--list", "--format", form].map(AsRef::as_ref).into_iter();
        sandbox.driftlock(arguments.chain([manifest.as_os_str()])).run()?.expect(0)
    };
    let text = show("text")?;
    let text = text.text()?;
    for line in [
        "- 0755     0     0            6  usr/bin/shop  (layer 1: RUN make && make install)",
        "- 0644     0     0            0  etc/\\x1b[31m/conf  (layer 2: COPY conf \\xe2\\x80\\xae/etc/)",
        "d 0755     0     0            -  usr  (layer 0: ADD file:0a1b in /)",
    ] {
        ensure!(text.lines().any(|listed| listed == line), "{line}\n{text}");
    }
    ensure!(!text.contains("s3cret") && !text.contains(['\x1b', '\u{202e}']), "{text}");
    let lines = show("ndjson")?;
    let lines = lines.text()?.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>()?;
    let shop = lines.iter().find(|line| line["path"] == "usr/bin/shop").context("no entry")?;
    ensure!(shop["layer"] == 1 && shop["step"] == "RUN make && make install", "{shop}");
    // The header keeps what the builder wrote, in one line.
    ensure!(lines[0]["history"][1] == BUILD.replace('\t', " "), "{}", lines[0]);
    Ok(())
}
