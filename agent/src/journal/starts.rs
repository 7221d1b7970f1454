//! Owns the count of starts, and whether the last one ended as it was asked to. Must not own what else is in the
//! directory. One line, `NUMBER running` or `NUMBER stopped`; anything else counts as none.

use super::JournalError;
use super::directory::Directory;

const STARTS: &str = "starts";

/// How often an agent was started with a state directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Starts {
    /// This time included.
    pub number: u64,
    /// Whether the agent before stopped as it was asked to; `None` if there was none.
    pub stopped_before: Option<bool>,
}

impl Starts {
    /// Counts one more.
    pub(super) fn begin(directory: &Directory) -> Result<Self, JournalError> {
        let before = directory.read(STARTS)?.and_then(|bytes| parse(&bytes));
        let (number, stopped) = before.map_or((0, None), |(number, stopped)| (number, Some(stopped)));
        let starts = Self { number: number.saturating_add(1), stopped_before: stopped };
        starts.write(directory, "running")?;
        Ok(starts)
    }

    /// The agent stops as it was asked to.
    pub(super) fn end(self, directory: &Directory) -> Result<(), JournalError> {
        self.write(directory, "stopped")
    }

    fn write(self, directory: &Directory, word: &str) -> Result<(), JournalError> {
        directory.replace(STARTS, format!("{} {word}\n", self.number).as_bytes())
    }
}

fn parse(bytes: &[u8]) -> Option<(u64, bool)> {
    let (number, word) = std::str::from_utf8(bytes).ok()?.trim_end().split_once(' ')?;
    let stopped = match word {
        "stopped" => true,
        "running" => false,
        _ => return None,
    };
    Some((number.parse().ok()?, stopped))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_counted_and_an_end_without_a_word_is_known() {
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::open(temp.path()).unwrap();
        let begin = || Starts::begin(&directory).unwrap();
        assert_eq!(begin(), Starts { number: 1, stopped_before: None });
        let second = begin();
        assert_eq!(second, Starts { number: 2, stopped_before: Some(false) });
        second.end(&directory).unwrap();
        assert_eq!(begin(), Starts { number: 3, stopped_before: Some(true) });
        for nonsense in ["", "3", "x running", "3 asleep", "-1 running", "18446744073709551616 running"] {
            std::fs::write(directory.path(STARTS), nonsense).unwrap();
            assert_eq!(begin().number, 1, "{nonsense}");
        }
        std::fs::write(directory.path(STARTS), format!("{} running", u64::MAX)).unwrap();
        assert_eq!(begin().number, u64::MAX);
    }
}
