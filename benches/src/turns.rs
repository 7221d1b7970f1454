//! Owns rounds in which everything that is compared has its turn. Must not own what a turn is.

use std::time::Duration;

use anyhow::Result;

use crate::table::Row;

/// Rounds in which the slow ones take part.
pub const SLOW_ROUNDS: usize = 3;
/// Takes part in every round.
pub const FAST: bool = false;
/// Takes part in the first rounds.
pub const SLOW: bool = true;

/// Something that takes its turn in a round: its name, whether it is slow, and what says how long it took.
pub type Turn<'a> = (&'static str, bool, Box<dyn FnMut() -> Result<Duration> + 'a>);

/// Rounds in which each has its turn, beginning with another every time; the first round is not counted.
///
/// # Errors
/// Those of a turn.
pub fn take_turns(turns: &mut [Turn<'_>], rounds: usize) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = turns.iter().map(|(name, ..)| Row::new(*name)).collect();
    let count = turns.len();
    for round in 0..=rounds {
        for index in (0..count).map(|index| (index + round) % count) {
            let (_, slow, turn) = &mut turns[index];
            if *slow && (round == 0 || round > SLOW_ROUNDS) {
                continue;
            }
            let took = turn()?;
            if round > 0 {
                rows[index].times.push(took);
            }
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_round_is_not_counted_and_the_slow_ones_end_early() {
        let (mut fast, mut slow) = (0, 0);
        let mut turns: Vec<Turn<'_>> = vec![
            (
                "fast",
                FAST,
                Box::new(|| {
                    fast += 1;
                    Ok(Duration::from_secs(fast))
                }),
            ),
            (
                "slow",
                SLOW,
                Box::new(|| {
                    slow += 1;
                    Ok(Duration::from_secs(slow))
                }),
            ),
        ];
        let rows = take_turns(&mut turns, 5).unwrap();
        drop(turns);
        assert_eq!((fast, slow), (6, 3));
        let seconds = |row: &Row| row.times.iter().map(Duration::as_secs).collect::<Vec<_>>();
        assert_eq!((seconds(&rows[0]), seconds(&rows[1])), (vec![2, 3, 4, 5, 6], vec![1, 2, 3]));
    }
}
