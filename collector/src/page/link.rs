//! Owns addresses of pages within the collector: path and pairs, which the template encodes. Must not own what the pairs
//! mean.

/// An address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) path: &'static str,
    pub(super) pairs: Vec<(&'static str, String)>,
}

impl Link {
    /// A page.
    pub(super) const fn to(path: &'static str) -> Self {
        Self { path, pairs: Vec::new() }
    }

    /// The page of a host.
    pub(super) fn host(host: &str) -> Self {
        Self::to("/host").and("name", host)
    }

    /// What is open on a host.
    pub(super) fn findings_of(host: &str) -> Self {
        Self::to("/findings").and("host", host)
    }

    /// The same, and this too.
    #[must_use]
    pub(super) fn and(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.pairs.push((key, value.into()));
        self
    }

    /// The same, and this too if it says something.
    #[must_use]
    pub(super) fn and_given(self, key: &'static str, value: &str) -> Self {
        if value.is_empty() { self } else { self.and(key, value) }
    }
}
