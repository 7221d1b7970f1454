//! Owns where the path of an event lies in a target. Must not own what the event means.

use driftlock_common::path::TreePath;

use super::Watched;

/// Where something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// At a path of the tree; the root is one.
    At(TreePath),
    /// Below a path of the tree, deeper or longer than a path can be.
    Below(TreePath),
    /// Where nothing counts: excluded, or the agent's own.
    Ignored,
}

impl Watched {
    /// Where `path`, relative to the root, lies.
    pub fn place(&self, path: &[u8]) -> Place {
        let mut bytes = path;
        let mut cut = false;
        let at = loop {
            match TreePath::new(bytes) {
                Ok(at) => break at,
                Err(_) => {
                    cut = true;
                    bytes = &bytes[..bytes.iter().rposition(|byte| *byte == b'/').unwrap_or(0)];
                }
            }
        };
        let own = self.own_state.as_ref().is_some_and(|own| at.is_within(own));
        match () {
            () if own || self.left_out.has(&at) => Place::Ignored,
            () if cut => Place::Below(at),
            () => Place::At(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::baseline::LeftOut;
    use crate::baseline::kit::{load, manifest};
    use crate::scan::Mounts;
    use driftlock_common::pattern::Excludes;
    use driftlock_common::profile::Profile;

    #[test]
    fn places() {
        let path = |text: &str| TreePath::new(text).unwrap();
        let base = manifest(Profile::Content, &["run", "var/log/**"], &["tmp/", "tmp/sealed", "var/", "var/log/"]);
        let configuration = manifest(Profile::Content, &[], &["run/", "run/app/", "run/app/conf"]);
        let baseline = load(&[base, configuration]).unwrap();
        let watched = Watched {
            left_out: LeftOut::new(Some(Arc::new(baseline)), Excludes::new(["tmp"], []).unwrap()),
            own_state: Some(path("state")),
            mounts: Mounts::Report,
            sealed: None,
        };
        let deep = vec!["d"; 3000].join("/");
        for (relative, place) in [
            ("", Place::At(path(""))),
            ("a/b", Place::At(path("a/b"))),
            ("var/log", Place::At(path("var/log"))),
            ("var/log/x/y", Place::Ignored),
            ("tmp/x", Place::Ignored),
            ("tmp/sealed", Place::Ignored),
            // One manifest seals what the other leaves out.
            ("run", Place::At(path("run"))),
            ("run/app/conf", Place::At(path("run/app/conf"))),
            ("run/app/pid", Place::Ignored),
            ("run/lock", Place::Ignored),
            ("state/journal", Place::Ignored),
            (deep.as_str(), Place::Below(path(&vec!["d"; 2048].join("/")))),
        ] {
            assert_eq!(watched.place(relative.as_bytes()), place, "{relative}");
        }
    }
}
