//! The real logrotate, each way of it, under a process that writes, between scans that remember nothing but what was sealed.

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::require::{trial, trial_with};
use libtest_mimic::Trial;

use crate::log::{KEEP, LOG, Logged, NEEDS, SEALED, STYLES, Style, cut, without_line};

pub(super) fn trials() -> Vec<Trial> {
    let quiet = STYLES.map(|style| {
        trial_with(format!("logrotate_by_{}_is_quiet_and_a_line_less_is_not", style.name), NEEDS, move || {
            rotated(style)
        })
    });
    let mut trials = Vec::from(quiet);
    trials.push(trial("a_line_less_in_a_log_that_goes_on_is_an_alert", &[], goes_on));
    trials.push(trial("what_was_sealed_and_is_rotated_away_is_not_known_to_be", NEEDS, rotated_away));
    trials
}

fn rotated(style: Style) -> Result<()> {
    let logged = Logged::new(SEALED)?;
    let writer = logged.writer()?;
    for round in 0..KEEP {
        logged.eventually_grown()?;
        let grown = logged.judged()?;
        grown.expect([])?;
        ensure!(grown.tolerated.values().any(|rule| rule == "logs"), "{:?}", grown.report.drifts);
        logged.rotate(style, &writer)?;
        logged.judged()?.expect([]).with_context(|| format!("after rotation {round}: {:?}", logged.rotated()))?;
    }
    logged.expect_rotated(style)?;
    logged.eventually_grown()?;
    logged.judged()?.expect([])?;
    // What was sealed is in the oldest one now.
    let oldest = logged.tree.path(logged.rotated()?.last().context("a rotated file")?);
    without_line(&oldest, SEALED / 2)?;
    logged.judged()?.expect([cut(LOG)])
}

fn goes_on() -> Result<()> {
    let logged = Logged::new(SEALED)?;
    let _writer = logged.writer()?;
    logged.eventually_grown()?;
    without_line(&logged.log(), SEALED / 2)?;
    logged.judged()?.expect([cut(LOG)])?;
    logged.eventually_grown()?;
    logged.judged()?.expect([cut(LOG)])
}

/// Whoever only knows what was sealed cannot tell a log that was rotated often from one that was emptied. Who seals an
/// empty log has nothing to lose.
fn rotated_away() -> Result<()> {
    for (lines, expected) in [(SEALED, vec![cut(LOG)]), (0, vec![])] {
        let logged = Logged::new(lines)?;
        let writer = logged.writer()?;
        for _ in 0..=KEEP {
            logged.eventually_grown()?;
            logged.rotate(STYLES[0], &writer)?;
        }
        logged.eventually_grown()?;
        logged.judged()?.expect(expected).with_context(|| format!("{lines} lines sealed"))?;
    }
    Ok(())
}
