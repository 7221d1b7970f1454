//! Manual pages and completions: what is in the command line is in them, and their readers accept them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::{Command, CommandFactory as _};
use driftlock_tests::packages::{Package, Revision, Step, built};
use driftlock_tests::require::{Requirement, trial};
use driftlock_tests::sandbox::Sandbox;
use libtest_mimic::Trial;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("every_verb_and_flag_is_in_its_manual_page", &[], manual_pages),
        trial("every_verb_and_flag_is_in_the_completions", &[], completions),
        trial("manual_pages_are_without_error", &[Requirement::Mandoc], no_errors),
        trial("bash_completes_verbs_and_flags", &[], bash),
    ]
}

const PACKAGES: [Package; 2] = [Package::Agent, Package::Collector];

fn command(package: Package) -> Command {
    match package {
        Package::Agent => driftlock_agent::cli::Cli::command(),
        Package::Collector => driftlock_collector::cli::Cli::command(),
    }
}

fn flags(command: &Command) -> Vec<String> {
    let flags: Vec<_> = command.get_arguments().filter(|argument| !argument.is_hide_set()).collect();
    flags.iter().filter_map(|argument| argument.get_long()).map(|flag| format!("--{flag}")).collect()
}

fn documents(package: Package, folder: &str) -> Result<PathBuf> {
    Ok(built(Step::Binaries, Revision::First)?.documents(package).join(folder))
}

fn read(file: &Path) -> Result<String> {
    fs::read_to_string(file).with_context(|| file.display().to_string())
}

fn manual_pages() -> Result<()> {
    let mut seen = 0;
    for package in PACKAGES {
        let (command, man) = (command(package), documents(package, "man")?);
        let overview = read(&man.join(format!("{}.1", package.name())))?;
        for verb in command.get_subcommands() {
            let name = format!("{}-{}", package.name(), verb.get_name());
            let page = read(&man.join(format!("{name}.1")))?;
            ensure!(overview.contains(&name.replace('-', "\\-")), "{name} is not in the overview");
            for flag in flags(verb) {
                ensure!(page.contains(&flag.replace('-', "\\-")), "{name} says nothing of {flag}");
                seen += 1;
            }
        }
    }
    ensure!(seen > 20, "only {seen} flags");
    Ok(())
}

fn completions() -> Result<()> {
    for package in PACKAGES {
        let (command, folder) = (command(package), documents(package, "completions")?);
        let name = package.name();
        for file in [format!("{name}.bash"), format!("_{name}"), format!("{name}.fish")] {
            let text = read(&folder.join(&file))?;
            for verb in command.get_subcommands() {
                ensure!(text.contains(verb.get_name()), "{file} lacks {}", verb.get_name());
                for flag in flags(verb) {
                    // fish has flags without their hyphens: -l exclude.
                    let flag = if file.ends_with(".fish") { flag.replacen("--", "-l ", 1) } else { flag };
                    ensure!(text.contains(&flag), "{file} lacks {flag} of {}", verb.get_name());
                }
            }
        }
    }
    Ok(())
}

fn no_errors() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let lint = |page: &Path| {
        let arguments = ["-Tlint".as_ref(), "-Werror".as_ref(), page.as_os_str()];
        sandbox.command(Path::new("mandoc"), arguments).run()
    };
    let mut pages = 0;
    for package in PACKAGES {
        for page in fs::read_dir(documents(package, "man")?)? {
            lint(&page?.path())?.expect(0)?;
            pages += 1;
        }
    }
    ensure!(pages > 8, "only {pages} pages");
    let broken =
        sandbox.write("broken.1", ".TH broken 1\n.so ../../../etc/passwd\n.SH NAME\n.RE 5\n.fi\n.TS\n.TE\n")?;
    ensure!(lint(&broken)?.code != Some(0), "a broken page is not refused");
    Ok(())
}

/// Asks bash itself what it would offer.
fn bash() -> Result<()> {
    let file = documents(Package::Agent, "completions")?.join("driftlock.bash");
    let ask = |words: &str| -> Result<Vec<String>> {
        let script = format!(
            "source {}; COMP_WORDS=({words} ''); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _driftlock driftlock '' ''; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            file.display()
        );
        let sandbox = Sandbox::new()?;
        let said = sandbox.command(Path::new("bash"), ["-c", &script]).run()?.expect(0)?;
        Ok(said.text()?.lines().map(str::to_owned).collect())
    };
    let offered = ask("driftlock")?;
    for verb in command(Package::Agent).get_subcommands() {
        ensure!(offered.iter().any(|word| word == verb.get_name()), "{} is not in {offered:?}", verb.get_name());
    }
    let offered = ask("driftlock scan")?;
    ensure!(offered.iter().any(|word| word == "--manifest"), "{offered:?}");
    ensure!(!offered.iter().any(|word| word == "--output"), "a flag of another verb: {offered:?}");
    Ok(())
}
