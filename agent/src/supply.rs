//! Owns what a target has from the collector: asking for it (`fetch`) and keeping it ([`kept`]). Must not own whether any of
//! it is accepted: that is the one door's ([`admit`](crate::admit)).

pub(crate) mod fetch;
pub mod kept;
