//! The static binaries: nothing of the host is needed to run them, and they are as small as promised.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::packages::{Package, Revision, Step, built};
use driftlock_tests::require::{Requirement, trial};
use driftlock_tests::sandbox::Sandbox;
use driftlock_tests::tree::Tree;
use libtest_mimic::Trial;

/// Program headers of ELF (elf.h) that name a loader and shared libraries.
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const PT_LOAD: u32 = 1;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("binaries_name_no_loader_and_no_library", &[], no_loader),
        trial("binaries_run_where_there_is_nothing_else", &[Requirement::Root], nothing_else),
    ]
}

fn no_loader() -> Result<()> {
    let own = segments(&std::env::current_exe()?)?;
    ensure!(
        own.contains(&PT_INTERP) && own.contains(&PT_DYNAMIC),
        "this test has a loader, and it is not seen: {own:?}"
    );
    for package in [Package::Agent, Package::Collector] {
        let binary = built(Step::Binaries, Revision::First)?.binary(package);
        let segments = segments(&binary)?;
        ensure!(segments.contains(&PT_LOAD), "{}: {segments:?}", binary.display());
        ensure!(!segments.contains(&PT_INTERP), "{} needs a loader", binary.display());
        // A static PIE has a dynamic section for its own relocations; no library is named in it.
        let said = Sandbox::new()?.command(Path::new("ldd"), [&binary]).run()?;
        let text = format!("{}{}", said.text()?, said.stderr);
        ensure!(text.contains("statically linked") || text.contains("not a dynamic executable"), "{text}");
    }
    Ok(())
}

fn nothing_else() -> Result<()> {
    for package in [Package::Agent, Package::Collector] {
        let sandbox = Sandbox::new()?;
        let root = root_of(package, &sandbox)?;
        let said = sandbox.command(Path::new("chroot"), [root.root(), Path::new("/program"), Path::new("--version")]);
        let said = said.run()?.expect(0)?;
        let expected = format!("{} {}\n", package.name(), env!("CARGO_PKG_VERSION"));
        ensure!(said.text()? == expected, "{said:?}");
    }
    // Not just what prints a constant: threads, files, hashing.
    let sandbox = Sandbox::new()?;
    let root = root_of(Package::Agent, &sandbox)?;
    root.file("srv/file", "content\n")?.dir("tmp")?;
    let chroot = |arguments: &[&str]| {
        let all = [&[root.root().to_str().context("a path")?, "/program"], arguments].concat();
        sandbox.command(Path::new("chroot"), all).run()
    };
    chroot(&["seal", "dir:/srv", "-o", "/tmp/manifest"])?.expect(0)?;
    chroot(&["scan", "--manifest", "/tmp/manifest", "/srv"])?.expect(0)?;
    root.file("srv/file", "contend\n")?;
    chroot(&["scan", "--manifest", "/tmp/manifest", "/srv"])?.expect(4)?;
    Ok(())
}

/// A root with a static binary, `/program`, and nothing else.
fn root_of(package: Package, sandbox: &Sandbox) -> Result<Tree> {
    let root = sandbox.tree("empty")?;
    let binary = built(Step::Binaries, Revision::First)?.binary(package);
    // By another process: see `Sandbox::driftlock_for_everyone`.
    let arguments = ["-m755".into(), binary.into_os_string(), root.path("program").into_os_string()];
    sandbox.command(Path::new("install"), arguments).run()?.expect(0)?;
    Ok(root)
}

/// The types of a 64-bit little-endian ELF file's program headers.
fn segments(file: &Path) -> Result<Vec<u32>> {
    let bytes = fs::read(file).with_context(|| file.display().to_string())?;
    let number = |at: usize, size: usize| -> Result<usize> {
        let part = bytes.get(at..at + size).context("the file ends within its headers")?;
        Ok(part.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    };
    ensure!(bytes.starts_with(b"\x7fELF\x02\x01"), "{}: not such a file", file.display());
    let (offset, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
    (0..count).map(|index| Ok(u32::try_from(number(offset + index * size, 4)?)?)).collect()
}
