//! Owns the reasons why something could not be established. Must not own severity: a gap is never clean and
//! never a removal, whatever its reason.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why a path, or an attribute of it, could not be established. A closed list: the words are part of the report format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Not permitted (EACCES, EPERM).
    Denied,
    /// The file moved under every attempt to read it.
    Unstable,
    /// Reading failed (EIO and other errors of the file system).
    Io,
    /// Below a mount that is not part of the tree.
    Mount,
    /// Deeper or longer than the format allows.
    TooDeep,
    /// Content not hashed, because it is larger than the limit set for files that are not as sealed anyway.
    TooLarge,
    /// The target's root is gone or is another directory than before.
    RootLost,
    /// The scan was ended before it came here.
    Interrupted,
    /// The host ran out of descriptors or memory for this path.
    Resources,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 9] = [
        Self::Denied,
        Self::Unstable,
        Self::Io,
        Self::Mount,
        Self::TooDeep,
        Self::TooLarge,
        Self::RootLost,
        Self::Interrupted,
        Self::Resources,
    ];

    /// The word of the report format.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Unstable => "unstable",
            Self::Io => "io",
            Self::Mount => "mount",
            Self::TooDeep => "too_deep",
            Self::TooLarge => "too_large",
            Self::RootLost => "root_lost",
            Self::Interrupted => "interrupted",
            Self::Resources => "resources",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_word_in_json_is_the_name() {
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.name());
        }
    }
}
