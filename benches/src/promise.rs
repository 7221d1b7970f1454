//! Owns which promised numbers hold: each is printed beside what was measured, and one that is broken is an error in the
//! end. Must not own measuring.

use anyhow::{Result, ensure};

/// Promises of a bench, as they are looked at.
#[derive(Debug)]
pub struct Promises {
    held: bool,
    broken: Vec<String>,
}

impl Promises {
    /// If `held` is false nothing is promised: on small input no number says anything.
    pub const fn new(held: bool) -> Self {
        Self { held, broken: Vec::new() }
    }

    /// Whether anything is promised.
    pub const fn are_held(&self) -> bool {
        self.held
    }

    /// That `measured` is at most `most`.
    pub fn at_most(&mut self, what: &str, measured: f64, most: f64) {
        self.check(what, measured, &format!("at most {most}"), measured <= most);
    }

    /// That `measured` is at least `least`.
    pub fn at_least(&mut self, what: &str, measured: f64, least: f64) {
        self.check(what, measured, &format!("at least {least}"), measured >= least);
    }

    fn check(&mut self, what: &str, measured: f64, bound: &str, holds: bool) {
        let digits = if measured.abs() < 10.0 { 3 } else { 0 };
        let line = format!("- {what}: {measured:.digits$}, promised {bound}");
        // A number that is none breaks every promise.
        let broken = self.held && !holds;
        println!("{line}{}", if broken { ": BROKEN" } else { "" });
        if broken {
            self.broken.push(line);
        }
    }

    /// Ends the bench.
    ///
    /// # Errors
    /// If a promise is broken.
    pub fn end(self) -> Result<()> {
        ensure!(self.broken.is_empty(), "broken promises:\n{}", self.broken.join("\n"));
        if !self.held {
            println!("- nothing is promised on so little");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_promise_is_an_error_unless_nothing_is_promised() {
        for (held, measured, good) in
            [(true, 0.5, true), (true, 0.7, false), (false, 0.7, true), (true, f64::NAN, false)]
        {
            let mut promises = Promises::new(held);
            promises.at_most("ratio", measured, 0.6);
            assert_eq!(promises.end().is_ok(), good, "{held} {measured}");
        }
        let mut promises = Promises::new(true);
        promises.at_least("rate", 3.0, 2.0);
        promises.at_least("rate", 1.0, 2.0);
        let error = promises.end().unwrap_err().to_string();
        assert!(error.contains("rate: 1.000, promised at least 2") && !error.contains("3.000"), "{error}");
    }
}
