//! Owns reading `--only`: the attributes that are compared. Must not own comparing them.

use driftlock_common::compared::Compared;
use driftlock_common::drift::{Attribute, Attributes};
use driftlock_common::path::Escaped;

/// Why a list cannot be what is compared.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum OnlyError {
    /// Not one of the words.
    #[error("--only: \"{0}\" is no attribute; write one or more of {words}, with commas between them", words = words())]
    Unknown(String),
    /// Nothing named.
    #[error("--only names no attribute; write one or more of {words}, with commas between them", words = words())]
    Empty,
    /// An attribute that is not compared here.
    #[error("--only {attribute}: the profile {profile} does not have it; what can be compared is {allowed}", attribute = .0.name(), profile = .1.profile().name(), allowed = names(.1.attributes()))]
    NotSealed(Attribute, Compared),
}

/// Reads a list such as `content,mode`. `type` may be named, and is compared whether it is or not.
pub(super) fn parse(list: &str) -> Result<Attributes, OnlyError> {
    if list.is_empty() {
        return Err(OnlyError::Empty);
    }
    let attribute =
        |word: &str| Attribute::of_name(word).ok_or_else(|| OnlyError::Unknown(Escaped(word.as_bytes()).to_string()));
    list.split(',').map(attribute).collect()
}

/// Refuses what `compared` does not have: it would never be found to differ.
pub(super) fn check(wanted: Attributes, compared: Compared) -> Result<(), OnlyError> {
    match wanted.without(compared.attributes()).iter().next() {
        Some(attribute) => Err(OnlyError::NotSealed(attribute, compared)),
        None => Ok(()),
    }
}

fn words() -> String {
    names(Attribute::ALL.into_iter().collect())
}

fn names(attributes: Attributes) -> String {
    attributes.iter().map(Attribute::name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use driftlock_common::profile::Profile;

    use super::*;

    #[test]
    fn lists_are_words_with_commas() {
        let of = |attributes: &[Attribute]| Ok(attributes.iter().copied().collect());
        assert_eq!(parse("mode"), of(&[Attribute::Mode]));
        assert_eq!(parse("uid,content,uid"), of(&[Attribute::Content, Attribute::Uid]));
        for attribute in Attribute::ALL {
            assert_eq!(parse(attribute.name()), of(&[attribute]));
        }
        for list in ["", ",", "mode,", "mode uid", "Mode", "size", "added", "\x1b[31m"] {
            let error = parse(list).unwrap_err().to_string();
            assert!(error.contains("type, content, target, mode, uid, gid, xattrs, device, mtime"), "{error}");
            assert!(!error.contains('\x1b'), "{error}");
        }
    }

    #[test]
    fn what_was_not_sealed_cannot_be_asked_for() {
        let check = |list: &str, profile| check(parse(list).unwrap(), Compared::all(profile));
        assert_eq!(check("content,mode", Profile::Portable), Ok(()));
        assert_eq!(check("mtime", Profile::Full), Ok(()));
        assert_eq!(
            check("content,mtime", Profile::Portable).unwrap_err().to_string(),
            "--only mtime: the profile portable does not have it; what can be compared is type, content, target, \
             mode, uid, gid, xattrs, device"
        );
        assert!(check("mode", Profile::Content).is_err());
    }
}
