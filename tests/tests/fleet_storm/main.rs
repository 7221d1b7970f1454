//! A fleet reports to the real collector, over TLS with certificates of its own CA, while everything goes wrong that can: at
//! the end every acknowledged event is kept once and as it was said, every other one was still with its host and is delivered,
//! and what is shown of each host is what that host knows. Beside another fleet, attackers do what they can, and it changes
//! nothing.
//!
//! `DRIFTLOCK_TEST_SEED=N` says which seed the choices are made from; it is printed. `DRIFTLOCK_TEST_FLEET=HOSTS` runs a storm
//! with so many hosts instead, for `DRIFTLOCK_TEST_STORM=MINUTES`, 10 without it.

mod attack;
mod fault;
mod fleet;
mod outage;
mod storm;

use std::env;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use driftlock_tests::binaries::copy_binaries;
use driftlock_tests::require::Requirement::{MountNamespace, Root};
use driftlock_tests::require::{run_at_once, trial_with};

use storm::Storm;

fn main() -> ExitCode {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs() % 1_000_000);
    let seed = number("DRIFTLOCK_TEST_SEED").unwrap_or(since);
    let (hosts, lasts) = match number("DRIFTLOCK_TEST_FLEET") {
        Some(hosts) => (hosts, Duration::from_mins(number("DRIFTLOCK_TEST_STORM").unwrap_or(10))),
        None => (120, Duration::from_secs(9)),
    };
    // A long one stays with the binaries that it began with, whatever is built meanwhile.
    let copies = tempfile::tempdir().expect("a temporary directory");
    if number("DRIFTLOCK_TEST_FLEET").is_some() {
        copy_binaries(copies.path()).expect("the binaries under test must build");
    }
    let storm = Storm { hosts: usize::try_from(hosts).expect("a number of hosts"), seed, lasts };
    let silent = if number("DRIFTLOCK_TEST_FLEET").is_some() { 10_000 } else { 2_000 };
    run_at_once(
        1,
        vec![
            trial_with("nothing_acknowledged_is_lost_and_every_state_is_right", &[Root, MountNamespace], move || {
                storm.run()
            }),
            trial_with("no_attack_changes_anything_for_a_fleet_beside_it", &[], move || attack::run(seed, silent)),
        ],
    )
}
