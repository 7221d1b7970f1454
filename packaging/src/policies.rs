//! Owns the manual page of the shipped policies, made of the policies themselves: each rule with what it allows where, and
//! its reason. Must not own a word of them.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use driftlock_common::policy::{Allow, Policy};

use crate::configuration::escape;

/// The page's file.
pub(crate) const NAME: &str = "driftlock-policies.7";
/// The policies, as shipped.
pub(crate) const SHIPPED: [&str; 3] = [
    include_str!("../policies/debian-host.toml"),
    include_str!("../policies/rpm-host.toml"),
    include_str!("../policies/container.toml"),
];

const HEAD: &str = r#".TH driftlock-policies 7 "" driftlock
.SH NAME
driftlock\-policies \- the policies that come with driftlock, and why each rule is there
.SH DESCRIPTION
They lie in
.IR /usr/share/driftlock/policies ,
with their test cases in
.IR tests .
The first rule that covers a drift decides; what no rule covers is an alert, and what is tolerated is reported as tolerated.
"#;

/// The page in roff.
///
/// # Errors
/// If a policy is none.
pub(crate) fn page() -> Result<String> {
    let mut page = HEAD.to_owned();
    for text in SHIPPED {
        let policy = Policy::parse(text.as_bytes()).context("a shipped policy")?;
        // Writing to a string cannot fail.
        let _infallible = writeln!(page, ".SH {}", escape(&policy.name().to_uppercase()));
        // What stands above it says what the whole is for.
        for line in text.lines().map_while(|line| line.strip_prefix('#')) {
            page.push_str(&match line.trim_start() {
                "" => ".PP\n".to_owned(),
                line => escape(line) + "\n",
            });
        }
        for rule in policy.rules() {
            let paths: Vec<&str> = rule.paths.iter().map(|path| path.as_str()).collect();
            let loud = rule.severity;
            let what = match &rule.allow {
                Allow::Nothing(_) => format!("Nothing may change here ({loud}):"),
                allow => format!("Allows {} (what is more, {loud}):", allow.name()),
            };
            let (id, reason, paths) = (escape(&rule.id), escape(&rule.reason), escape(&paths.join(", ")));
            let _infallible = writeln!(page, ".TP\n.B {id}\n{what}\n{reason}.\n.br\n{paths}");
        }
    }
    page.push_str(".SH SEE ALSO\n.BR driftlock\\-policy (1)\n");
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_and_reason_is_in_the_page() {
        let page = page().unwrap();
        let mut rules = 0;
        for text in SHIPPED {
            for (key, value) in text.lines().filter_map(|line| line.split_once(" = ")) {
                let value = value.trim_matches('"');
                match key {
                    "id" => assert!(page.contains(&format!(".TP\n.B {}\n", escape(value))), "{value}"),
                    "reason" => assert!(page.contains(&format!("\n{}.\n", escape(value))), "{value}"),
                    _ => continue,
                }
                rules += 1;
            }
        }
        assert!(rules > 80, "{rules}");
    }
}
