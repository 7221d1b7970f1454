//! Owns the exit codes of both binaries: one table, printed by `--help` and checked by the tests.

/// How a command ended. Scans and diffs sum bits, errors are sysexits(3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Complete; the sum of 1 (added), 2 (removed), 4 (changed), 8 (not verified). 0 is complete and clean.
    Found(u8),
    /// The command line is wrong.
    Usage,
    /// Input that is not what it claims to be.
    Malformed,
    /// Input that is not there.
    NoInput,
    /// An endpoint that does not answer.
    Unavailable,
    /// A defect of driftlock, a panic too.
    Bug,
    /// Output that cannot be created.
    CannotCreate,
    /// Reading or writing failed.
    Io,
    /// Not trusted or not permitted.
    Refused,
    /// A configuration that cannot be used.
    Configuration,
}

/// Code and meaning, in order: the table of the manual and of `--help`.
pub const TABLE: &[(u8, &str)] = &[
    (0, "complete and clean"),
    (1, "added: something is there that was not sealed"),
    (2, "removed: something sealed is not there"),
    (4, "changed: something differs from what was sealed"),
    (8, "something could not be verified, or the scan was interrupted (1, 2, 4 and 8 are summed)"),
    (64, "usage: the command line is wrong"),
    (65, "malformed input"),
    (66, "input that is not there"),
    (69, "endpoint unavailable"),
    (70, "a bug in driftlock"),
    (73, "output that cannot be created"),
    (74, "reading or writing failed, or there was no memory"),
    (77, "refused: not trusted or not permitted"),
    (78, "configuration that cannot be used"),
];

impl Exit {
    /// The process's exit code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Found(bits) => bits,
            Self::Usage => 64,
            Self::Malformed => 65,
            Self::NoInput => 66,
            Self::Unavailable => 69,
            Self::Bug => 70,
            Self::CannotCreate => 73,
            Self::Io => 74,
            Self::Refused => 77,
            Self::Configuration => 78,
        }
    }
}

/// The table as text for `--help`.
pub fn help() -> String {
    let mut text = String::from("Exit codes:\n");
    for (code, meaning) in TABLE {
        text.push_str("  ");
        let code = code.to_string();
        text.push_str(&" ".repeat(3 - code.len().min(3)));
        text.push_str(&code);
        text.push_str("  ");
        text.push_str(meaning);
        text.push('\n');
    }
    text
}
