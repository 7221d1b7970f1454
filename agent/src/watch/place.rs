//! Owns where an absolute path of an event lies in a target. Must not own what the event means.

use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

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
    /// Outside the root.
    Outside,
}

impl Watched {
    /// Where `path` lies.
    pub fn place(&self, path: &Path) -> Place {
        let Ok(relative) = path.strip_prefix(&self.root) else { return Place::Outside };
        let mut bytes = relative.as_os_str().as_bytes();
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
            () if own || self.excludes.iter().any(|excludes| excludes.excludes(&at)) => Place::Ignored,
            () if cut => Place::Below(at),
            () => Place::At(at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use driftlock_common::pattern::Excludes;

    #[test]
    fn places() {
        let path = |text: &str| TreePath::new(text).unwrap();
        let watched = Watched {
            root: "/srv/app".into(),
            excludes: [Excludes::new(["var/log/**"], []).unwrap(), Excludes::new(["tmp"], []).unwrap()],
            own_state: Some(path("state")),
        };
        let deep = format!("/srv/app/{}", vec!["d"; 3000].join("/"));
        for (absolute, place) in [
            ("/srv/app", Place::At(path(""))),
            ("/srv/app/a/b", Place::At(path("a/b"))),
            ("/srv/app2/a", Place::Outside),
            ("/srv", Place::Outside),
            ("/srv/app/var/log", Place::At(path("var/log"))),
            ("/srv/app/var/log/x/y", Place::Ignored),
            ("/srv/app/tmp/x", Place::Ignored),
            ("/srv/app/state/journal", Place::Ignored),
            (deep.as_str(), Place::Below(path(&vec!["d"; 2048].join("/")))),
        ] {
            assert_eq!(watched.place(Path::new(absolute)), place, "{absolute}");
        }
    }
}
