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
use driftlock_tests::require::{self, Requirement, trial, trial_with};
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
    inotify: Bound,
    sweep: Bound,
}

impl Bounds {
    /// There is an event for it.
    const HINTED: Self = Self { inotify: Bound::Event, sweep: Bound::Sweep };
    /// The mount table tells of it.
    const MOUNTED: Self = Self::always(Bound::Event);
    /// Stat shows it.
    const SHOWN: Self = Self::always(Bound::Sweep);
    /// Only reading shows it.
    const READ: Self = Self::always(Bound::Full);
    const NEVER: Self = Self::always(Bound::Never);

    const fn always(bound: Bound) -> Self {
        Self { inotify: bound, sweep: bound }
    }

    const fn of(self, mode: Mode) -> Bound {
        match mode {
            Mode::Inotify => self.inotify,
            Mode::Sweep => self.sweep,
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
            let bound = evasion.bounds.of(mode);
            let test = move || namespace::within(|| test(mode, bound));
            trials.push(trial_with(format!("{name}_by_{}", mode.name()), needs, test));
        }
    }
    trials.push(trial_with("readme_names_each_evasion_and_its_bounds", &[], move || readme::holds(&evasions)));
    trials.push(trial("readme_that_lacks_a_row_is_noticed", &[], readme::notices));
    require::run(trials)
}
