//! Owns rounds without end: one after another until the time is over or something does not hold. Must not own what a round
//! is.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use driftlock_tests::binaries::copy_binaries;

use crate::round::{CASES, Counts, Round};

/// Storms are so long, at most.
const LONGEST: u64 = 8_000;

/// Runs rounds for `time`, one at least, with seeds from `first` on. The case of a round follows from its seed.
pub(crate) fn run(time: Duration, first: Option<u64>) -> ExitCode {
    let directory = match tempfile::tempdir().map_err(Into::into).and_then(|to| copy_binaries(to.path()).map(|()| to)) {
        Ok(directory) => directory,
        Err(error) => {
            println!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    println!("with copies of the binaries in {}", directory.path().display());
    let begun = Instant::now();
    let first = first
        .unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs() % 1_000_000));
    let mut total = Counts::default();
    let mut rounds: BTreeMap<String, u32> = BTreeMap::new();
    for seed in first.. {
        let case = CASES[usize::try_from(seed % CASES.len() as u64).expect("fewer than a usize")];
        let storm = Duration::from_millis(1000 + seed.wrapping_mul(7919) % (LONGEST - 1000));
        println!("seed {seed}: {}, {} ms", case.name(), storm.as_millis());
        let round = Instant::now();
        match (Round { case, seed, storm, keep: true }).run() {
            Ok(counts) => {
                let Counts { operations, events, opened, differed, flapping } = counts;
                println!(
                    "seed {seed}: holds after {} s: {operations} operations, {events} events, {opened} findings opened, \
                     {differed} paths differed at the end, {flapping} flapped",
                    round.elapsed().as_secs()
                );
                total.operations += operations;
                total.events += events;
                total.opened += opened;
                total.differed += differed;
                total.flapping += flapping;
                *rounds.entry(case.name()).or_default() += 1;
            }
            Err(error) => {
                println!("seed {seed}: DOES NOT HOLD: {error:#}");
                println!("again: DRIFTLOCK_TEST_STORM=0 DRIFTLOCK_TEST_SEED={seed} and the same command");
                return ExitCode::FAILURE;
            }
        }
        if begun.elapsed() >= time {
            break;
        }
    }
    for (case, times) in &rounds {
        println!("{times:5} {case}");
    }
    let Counts { operations, events, opened, differed, flapping } = total;
    println!(
        "{} rounds from seed {first} in {} s: {operations} operations, {events} events, {opened} findings opened, \
         {differed} paths differed at the ends, {flapping} flapped; nothing lost, nothing false",
        rounds.values().sum::<u32>(),
        begun.elapsed().as_secs()
    );
    ExitCode::SUCCESS
}
