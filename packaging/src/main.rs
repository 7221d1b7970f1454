//! Owns the documents of the packages: manual pages and completions, written from the command lines and from the default
//! configuration, so that no page says what no program does. Must not own words: those stand where the thing is.

mod configuration;
mod policies;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Command, CommandFactory as _};
use clap_complete::Shell;

/// The shells that read the completions.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(out), None) = (arguments.next(), arguments.next()) else { bail!("usage: documents DIRECTORY") };
    write(&PathBuf::from(out))
}

/// Writes for each program `out/PROGRAM/man/` and `out/PROGRAM/completions/`.
fn write(out: &Path) -> Result<()> {
    for command in commands() {
        let place = out.join(command.get_name());
        let (man, completions) = (place.join("man"), place.join("completions"));
        for directory in [&man, &completions] {
            fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        }
        for shell in SHELLS {
            let name = command.get_name().to_owned();
            clap_complete::generate_to(shell, &mut command.clone(), name, &completions)?;
        }
        clap_mangen::generate_to(command, &man)?;
    }
    let pages =
        [(configuration::NAME, configuration::page(configuration::DEFAULT)), (policies::NAME, policies::page()?)];
    for (name, text) in pages {
        let page = out.join("driftlock/man").join(name);
        fs::write(&page, text).with_context(|| page.display().to_string())?;
    }
    Ok(())
}

fn commands() -> [Command; 2] {
    let shown = |command: Command| command.disable_help_subcommand(true);
    [shown(driftlock_agent::cli::Cli::command()), shown(driftlock_collector::cli::Cli::command())]
}
