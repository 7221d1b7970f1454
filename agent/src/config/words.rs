//! Owns which keys there are, which come in a later version, and which known key an unknown one was meant to be.

/// The keys of one table.
#[derive(Debug)]
pub(super) struct Words {
    /// With the dot at its end; empty for the top.
    pub(super) prefix: &'static str,
    /// Keys that are read.
    pub(super) known: &'static [&'static str],
    /// Keys of a later version: refused, so that nobody believes they act.
    pub(super) later: &'static [&'static str],
}

pub(super) const TOP: Words = Words {
    prefix: "",
    known: &["state_dir", "host", "target", "watch", "limits", "report", "sink", "control"],
    later: &[],
};
pub(super) const HOST: Words = Words { prefix: "host.", known: &["id", "name", "labels", "ephemeral"], later: &[] };
pub(super) const TARGET: Words = Words {
    prefix: "target.",
    known: &[
        "name",
        "root",
        "process",
        "manifest",
        "policy",
        "trust",
        "assignment",
        "switch_window",
        "allow_unsigned",
        "exclude",
        "mounts",
        "mounts_allowed",
        "id_map",
    ],
    later: &[],
};
pub(super) const WATCH: Words = Words { prefix: "watch.", known: &["mode", "sweep", "full"], later: &[] };
pub(super) const LIMITS: Words =
    Words { prefix: "limits.", known: &["threads", "cpu", "read", "hash_limit"], later: &[] };
pub(super) const REPORT: Words = Words {
    prefix: "report.",
    known: &["endpoint", "token_file", "ca_file", "proxy", "heartbeat", "spool"],
    later: &[],
};

pub(super) const CONTROL: Words = Words { prefix: "control.", known: &["socket"], later: &[] };
pub(super) const SINK: Words =
    Words { prefix: "sink.", known: &["type", "path", "socket", "to", "facility", "enterprise"], later: &[] };

impl Words {
    /// What is wrong with a key; `None` if it is known.
    pub(super) fn problem(&self, key: &str) -> Option<String> {
        let prefix = self.prefix;
        if self.known.contains(&key) {
            return None;
        }
        if self.later.contains(&key) {
            return Some(not_available(&format!("{prefix}{key}")));
        }
        let key: String = key.escape_default().take(64).collect();
        let nearest = self
            .known
            .iter()
            .map(|known| (strsim::damerau_levenshtein(known, &key), known))
            .min()
            .filter(|(distance, known)| *distance <= 1 + known.len() / 3);
        Some(match nearest {
            Some((_, known)) => format!("unknown key {prefix}{key}; did you mean {prefix}{known}?"),
            None => format!("unknown key {prefix}{key}; known here: {}", self.known.join(", ")),
        })
    }
}

/// The sentence for everything that a later version brings.
pub(super) fn not_available(what: &str) -> String {
    format!("{what} is not available in this version: take it out")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_named() {
        assert_eq!(TARGET.problem("root"), None);
        assert_eq!(TARGET.problem("roto").unwrap(), "unknown key target.roto; did you mean target.root?");
        assert!(TARGET.problem("zzzzzz").unwrap().ends_with("mounts_allowed, id_map"));
    }
}
