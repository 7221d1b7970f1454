//! Owns what is known of the manifests that one tree was sealed in. Must not own laying them over each other.

use super::Header;
use crate::digest::Algorithm;
use crate::drift::Drift;

/// The longest name of a part, in bytes.
pub const MAX_PART_NAME: usize = 255;

/// One of several manifests that are laid over each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What findings call it: text that can be shown as it is, of at most [`MAX_PART_NAME`] bytes, another one for each part.
    pub name: String,
    /// Its terms, and what it says of itself.
    pub header: Header,
}

/// The headers that differences from a tree are shown with.
#[derive(Clone, Copy, Debug)]
pub struct SealedIn<'a> {
    /// The terms that it was compared under.
    pub whole: &'a Header,
    /// What it was laid together of, in order, the last on top; nothing if it is of one manifest.
    pub parts: &'a [Part],
}

impl<'a> SealedIn<'a> {
    /// What the content digests are made with.
    pub const fn content(self) -> Algorithm {
        self.whole.content
    }

    /// The header of the manifest that a difference is from.
    pub fn header_of(self, drift: &Drift) -> &'a Header {
        self.part_of(drift).map_or(self.whole, |part| &part.header)
    }

    /// The name of the manifest that a difference is from, if there are several. What was added is from none.
    pub fn name_of(self, drift: &Drift) -> Option<&'a str> {
        self.part_of(drift).map(|part| part.name.as_str())
    }

    fn part_of(self, drift: &Drift) -> Option<&'a Part> {
        self.parts.get(drift.expected()?.part)
    }
}

impl<'a> From<&'a Header> for SealedIn<'a> {
    /// Of one manifest.
    fn from(whole: &'a Header) -> Self {
        Self { whole, parts: &[] }
    }
}
