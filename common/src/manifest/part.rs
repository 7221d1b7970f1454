//! Owns what is known of the manifests that one tree was sealed in. Must not own laying them over each other.

use super::Header;
use crate::digest::Algorithm;

/// One of several manifests that are laid over each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What findings call it: text that can be shown as it is, another one for each part.
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

    /// The header of the manifest that an entry is from.
    pub fn header(self, part: usize) -> &'a Header {
        self.parts.get(part).map_or(self.whole, |part| &part.header)
    }

    /// The name of the manifest that an entry is from, if there are several.
    pub fn name(self, part: usize) -> Option<&'a str> {
        self.parts.get(part).map(|part| part.name.as_str())
    }
}

impl<'a> From<&'a Header> for SealedIn<'a> {
    /// Of one manifest.
    fn from(whole: &'a Header) -> Self {
        Self { whole, parts: &[] }
    }
}
