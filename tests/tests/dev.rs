//! `driftlock-collector dev`: the first minute of whoever tries driftlock. It starts, shows its page, shows what is
//! done to the tree, and leaves nothing behind. Belongs here: what that minute consists of.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::binaries::binaries;
use driftlock_tests::collector::{address_in, findings};
use driftlock_tests::drift::{Drift, drifts, ensure_same};
use driftlock_tests::http;
use driftlock_tests::process::{Process, Stream};
use driftlock_tests::require::Requirement::Chromium;
use driftlock_tests::require::{run, trial};
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::tamper;
use driftlock_tests::wait::eventually;
use nix::sys::signal::Signal;

fn main() -> ExitCode {
    run(vec![
        trial("a_directory_is_sealed_watched_and_left_as_it_was", &[], a_directory_is_watched),
        trial("a_sample_is_deployed_and_removed", &[], a_sample_is_deployed),
        trial("a_finding_is_on_the_page_in_a_browser", &[Chromium], a_finding_is_on_the_page),
        trial("a_hostile_name_is_text_on_the_page", &[], a_hostile_name_is_text),
        trial("a_directory_that_is_not_there_is_said_so", &[], a_directory_that_is_not_there),
    ])
}

/// `dev` with a temporary directory of its own.
struct Dev {
    process: Process,
    address: SocketAddr,
    temporary: PathBuf,
}

impl Dev {
    fn start(sandbox: &Sandbox, root: Option<&Path>) -> Result<Self> {
        let temporary = sandbox.path("dev-tmp");
        fs::create_dir(&temporary)?;
        let mut command = sandbox.bare_command(&binaries().collector);
        command.arg("dev").args(root).env("TMPDIR", &temporary);
        let process = Process::spawn("dev", &mut command)?;
        let address = process.line(Stream::Stdout, address_in)?;
        Ok(Self { process, address, temporary })
    }

    fn eventually_open(&self, expected: &BTreeSet<Drift>) -> Result<()> {
        let open = || drifts(&findings(self.address, "open")?);
        eventually("the findings to be there", || ensure_same(expected, &open()?))
    }

    fn page(&self, path: &str) -> Result<String> {
        let answer = http::get(self.address, path)?;
        ensure!(answer.status == 200, "{path}: {} {}", answer.status, answer.text());
        let policy = answer.head.header("content-security-policy").context("no content security policy")?;
        ensure!(
            policy.contains("default-src 'none'") && !policy.contains("-inline") && !policy.contains("-eval"),
            "{policy}"
        );
        Ok(answer.text())
    }

    /// Ctrl-C, and that nothing is left.
    fn interrupt(self) -> Result<()> {
        self.process.signal(Signal::SIGINT)?;
        let code = self.process.exit()?;
        ensure!(code == 0, "Ctrl-C is how it ends: {code}");
        let left: Vec<_> = fs::read_dir(&self.temporary)?.flatten().map(|entry| entry.path()).collect();
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    }
}

fn tree(sandbox: &Sandbox) -> Result<PathBuf> {
    let tree = sandbox.tree("site")?;
    tree.file("index.html", "<p>as built</p>\n")?.file("bin/serve", "#!/bin/sh\n")?.mode("bin/serve", 0o755)?;
    Ok(tree.root().to_owned())
}

fn a_directory_is_watched() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let root = tree(&sandbox)?;
    let before = driftlock_tests::naive::look(&root)?;
    let dev = Dev::start(&sandbox, Some(&root))?;
    dev.eventually_open(&BTreeSet::new())?;
    dev.page("/")?;
    let changed = tamper::append(&root, "index.html")?;
    let added = tamper::add(&root, "bin/implant")?;
    dev.eventually_open(&BTreeSet::from([changed.clone(), added]))?;
    dev.process.line(Stream::Stdout, |line| line.contains("index.html").then_some(()))?;
    fs::remove_file(root.join("bin/implant"))?;
    dev.eventually_open(&BTreeSet::from([changed]))?;
    fs::write(root.join("index.html"), "<p>as built</p>\n")?;
    dev.eventually_open(&BTreeSet::new())?;
    dev.interrupt()?;
    ensure!(driftlock_tests::naive::look(&root)? == before, "the directory is not touched");
    Ok(())
}

fn a_sample_is_deployed() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let dev = Dev::start(&sandbox, None)?;
    dev.eventually_open(&BTreeSet::new())?;
    // What to try is a command for a shell: the one that is printed must do what it promises.
    let hint = dev.process.line(Stream::Stdout, |line| {
        line.contains(&*dev.temporary.to_string_lossy()).then(|| line.trim().to_owned())
    })?;
    ensure!(!hint.is_empty(), "where the sample is");
    dev.interrupt()
}

fn a_finding_is_on_the_page() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let root = tree(&sandbox)?;
    let dev = Dev::start(&sandbox, Some(&root))?;
    dev.eventually_open(&BTreeSet::new())?;
    let expected = BTreeSet::from([tamper::append(&root, "index.html")?, tamper::setuid(&root, "bin/serve")?]);
    dev.eventually_open(&expected)?;
    for page in ["/", "/findings"] {
        let (dom, said) = browse(&sandbox, &format!("http://{}{page}", dev.address))?;
        for path in ["index.html", "bin/serve"] {
            ensure!(page == "/" || dom.contains(path), "{page} does not show {path}\n{dom}");
        }
        ensure!(page == "/" || (dom.contains("0755") && dom.contains("4755")), "sealed and observed\n{dom}");
        ensure!(!said.contains("Refused to"), "the page breaks its own security policy\n{said}");
        ensure!(!said.contains("CONSOLE") || !said.contains("rror"), "an error on the page\n{said}");
    }
    dev.interrupt()
}

fn a_hostile_name_is_text() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let root = tree(&sandbox)?;
    let dev = Dev::start(&sandbox, Some(&root))?;
    dev.eventually_open(&BTreeSet::new())?;
    let hostile: [&[u8]; 3] = [b"<script>alert(1)<", b"two\nlines\x1b[2J", b"caf\xe9\"onload=x"];
    let expected = hostile.iter().map(|name| tamper::add(&root, name)).collect::<Result<_>>()?;
    dev.eventually_open(&expected)?;
    let page = dev.page("/findings")?;
    ensure!(!page.contains("<script>alert"), "{page}");
    ensure!(!page.contains('\x1b') && page.contains("\\xe9"), "{page}");
    dev.process.line(Stream::Stdout, |line| line.contains("caf\\xe9").then_some(()))?;
    ensure!(!dev.process.text(Stream::Stdout).contains('\x1b'), "a name reached the terminal unescaped");
    dev.interrupt()
}

fn a_directory_that_is_not_there() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let finished = sandbox.collector(["dev", "/nonexistent/tree"]).run()?.expect(66)?;
    ensure!(finished.stderr.lines().count() == 1 && finished.stderr.contains("/nonexistent/tree"), "{finished:?}");
    Ok(())
}

/// The page as a browser has it after its scripts ran, and what the browser said.
fn browse(sandbox: &Sandbox, url: &str) -> Result<(String, String)> {
    let chromium = Chromium.program().context("checked before")?;
    let profile = format!("--user-data-dir={}", sandbox.path("chromium").display());
    let arguments = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--enable-logging=stderr",
        // The page keeps a stream open, so it is never idle: this is when it is read.
        "--timeout=3000",
        "--dump-dom",
        &profile,
        url,
    ];
    let finished = sandbox.command(&chromium, arguments).run()?.expect(0)?;
    Ok((finished.text()?.to_owned(), finished.stderr.clone()))
}
