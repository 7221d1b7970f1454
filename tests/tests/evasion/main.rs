//! Changes that are made so that a watching agent does not see them. Each is found within the bound that README states for
//! it, or README says that it is not: the table there and the one here are the same. One module for each kind of evasion.

mod device;
mod mapping;
mod mount;
mod name;
mod readme;
mod time;
mod write;

use std::process::ExitCode;

use anyhow::Result;
use driftlock_tests::namespace;
use driftlock_tests::require::{self, Requirement, trial, trial_needing, trial_with};
use driftlock_tests::watched::{Bound, Mode};

/// Each test has mounts of its own.
const NAMESPACE: &[Requirement] = &[Requirement::Root, Requirement::MountNamespace];

/// An evasion.
#[derive(Clone, Copy)]
struct Evasion {
    /// Of its tests, and of its row in README.
    name: &'static str,
    needs: &'static [Requirement],
    bounds: Bounds,
    /// Does it, and expects that it is found. In a mount namespace of its own.
    test: fn(Mode, Bound) -> Result<()>,
}

/// By when it is found.
#[derive(Clone, Copy)]
struct Bounds {
    /// `None` where it cannot be had.
    fanotify: Option<Bound>,
    inotify: Bound,
    sweep: Bound,
}

impl Bounds {
    /// There is an event for it.
    const HINTED: Self = Self { fanotify: Some(Bound::Event), inotify: Bound::Event, sweep: Bound::Sweep };
    /// There is an event for it, but not before the file is closed.
    const HELD: Self = Self { fanotify: Some(Bound::Sweep), ..Self::HINTED };
    /// There is an event for it, but only to who watches all of a file system.
    const FOREIGN: Self = Self { inotify: Bound::Sweep, ..Self::HINTED };
    /// The mount table tells of it.
    const MOUNTED: Self = Self::always(Bound::Event);
    /// Stat shows it.
    const SHOWN: Self = Self::always(Bound::Sweep);
    /// Only reading shows it.
    const READ: Self = Self::always(Bound::Full);
    const NEVER: Self = Self::always(Bound::Never);

    const fn always(bound: Bound) -> Self {
        Self { fanotify: Some(bound), inotify: bound, sweep: bound }
    }

    /// On an overlay without lasting names of directories, as that of a container.
    const fn on_an_overlay(self) -> Self {
        Self { fanotify: None, ..self }
    }

    const fn of(self, mode: Mode) -> Option<Bound> {
        match mode {
            Mode::Fanotify => self.fanotify,
            Mode::Inotify => Some(self.inotify),
            Mode::Sweep => Some(self.sweep),
        }
    }
}

fn main() -> ExitCode {
    let lists: [&[Evasion]; 6] =
        [device::EVASIONS, mapping::EVASIONS, mount::EVASIONS, name::EVASIONS, time::EVASIONS, write::EVASIONS];
    let evasions: Vec<Evasion> = lists.concat();
    let mut trials = Vec::new();
    for evasion in &evasions {
        for mode in Mode::ALL {
            let Evasion { name, needs, test, .. } = *evasion;
            let Some(bound) = evasion.bounds.of(mode) else { continue };
            let test = move || namespace::within(|| test(mode, bound));
            trials.push(trial_needing(format!("{name}_by_{}", mode.name()), mode.needs(needs), test));
        }
    }
    trials.push(trial_with("readme_names_each_evasion_and_its_bounds", &[], move || readme::holds(&evasions)));
    trials.push(trial("readme_that_lacks_a_row_is_noticed", &[], readme::notices));
    require::run_at_once(16, trials)
}
