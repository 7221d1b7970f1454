//! Owns the JSON shape of entry lines and of the trailer: keys, their JSON types, none twice, none critical. Must not own
//! what the values mean.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use crate::digest::OciDigest;
use crate::json::{Text, UnknownKeys};

/// The trailer as written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trailer {
    pub(super) entries: u64,
    pub(super) bytes: u64,
    pub(super) tree: OciDigest,
}

/// The keys of entry lines, in the order in which they are written.
const ENTRY_KEYS: [&str; 16] =
    ["p", "p64", "t", "m", "u", "g", "mt", "s", "b3", "s2", "to", "to64", "dev", "x", "L", "M"];

/// An entry line or the trailer.
pub(super) enum Line<'a> {
    Entry(Box<RawEntry<'a>>),
    End(Trailer),
}

/// An entry as written.
#[derive(Default)]
pub(super) struct RawEntry<'a> {
    pub(super) p: Option<Text<'a>>,
    pub(super) p64: Option<Text<'a>>,
    pub(super) t: Option<Text<'a>>,
    pub(super) m: Option<Text<'a>>,
    pub(super) u: Option<u32>,
    pub(super) g: Option<u32>,
    pub(super) mt: Option<i64>,
    pub(super) s: Option<u64>,
    pub(super) b3: Option<Text<'a>>,
    pub(super) s2: Option<Text<'a>>,
    pub(super) to: Option<Text<'a>>,
    pub(super) to64: Option<Text<'a>>,
    pub(super) dev: Option<[u32; 2]>,
    pub(super) x: Option<Vec<RawXattr<'a>>>,
    pub(super) layer: Option<u16>,
    pub(super) meta_layer: Option<u16>,
}

/// An extended attribute as written.
pub(super) struct RawXattr<'a> {
    pub(super) n: Option<Text<'a>>,
    pub(super) n64: Option<Text<'a>>,
    pub(super) v: Text<'a>,
}

impl<'de> Deserialize<'de> for Line<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Line<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an entry or the trailer")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Line<'de>, A::Error> {
                let mut raw = RawEntry::default();
                let mut end = None;
                let mut unknown = UnknownKeys::default();
                let mut any_entry_key = false;
                while let Some(Text(key)) = map.next_key()? {
                    any_entry_key |= ENTRY_KEYS.contains(&&*key);
                    match &*key {
                        "p" => once(&mut raw.p, "p", &mut map)?,
                        "p64" => once(&mut raw.p64, "p64", &mut map)?,
                        "t" => once(&mut raw.t, "t", &mut map)?,
                        "m" => once(&mut raw.m, "m", &mut map)?,
                        "u" => once(&mut raw.u, "u", &mut map)?,
                        "g" => once(&mut raw.g, "g", &mut map)?,
                        "mt" => once(&mut raw.mt, "mt", &mut map)?,
                        "s" => once(&mut raw.s, "s", &mut map)?,
                        "b3" => once(&mut raw.b3, "b3", &mut map)?,
                        "s2" => once(&mut raw.s2, "s2", &mut map)?,
                        "to" => once(&mut raw.to, "to", &mut map)?,
                        "to64" => once(&mut raw.to64, "to64", &mut map)?,
                        "dev" => once(&mut raw.dev, "dev", &mut map)?,
                        "x" => once(&mut raw.x, "x", &mut map)?,
                        "L" => once(&mut raw.layer, "L", &mut map)?,
                        "M" => once(&mut raw.meta_layer, "M", &mut map)?,
                        "end" => once(&mut end, "end", &mut map)?,
                        other => unknown.pass(other, &mut map)?,
                    }
                }
                match end {
                    Some(_) if any_entry_key => Err(A::Error::custom("a trailer has no keys of an entry")),
                    Some(trailer) => Ok(Line::End(trailer)),
                    None => Ok(Line::Entry(Box::new(raw))),
                }
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

/// Takes the value of a key that may stand once.
fn once<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    slot: &mut Option<T>,
    key: &'static str,
    map: &mut A,
) -> Result<(), A::Error> {
    if slot.is_some() {
        return Err(A::Error::custom(format_args!("duplicate key {key:?}")));
    }
    // The type is never an Option: null is a value that no key has.
    *slot = Some(map.next_value()?);
    Ok(())
}

impl<'de> Deserialize<'de> for Trailer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Trailer;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the trailer's counts")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Trailer, A::Error> {
                let (mut entries, mut bytes, mut tree) = (None, None, None);
                let mut unknown = UnknownKeys::default();
                while let Some(Text(key)) = map.next_key()? {
                    match &*key {
                        "entries" => once(&mut entries, "entries", &mut map)?,
                        "bytes" => once(&mut bytes, "bytes", &mut map)?,
                        "tree" => once(&mut tree, "tree", &mut map)?,
                        other => unknown.pass(other, &mut map)?,
                    }
                }
                match (entries, bytes, tree) {
                    (Some(entries), Some(bytes), Some(tree)) => Ok(Trailer { entries, bytes, tree }),
                    _ => Err(A::Error::custom("a trailer has entries, bytes and tree")),
                }
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

impl<'de> Deserialize<'de> for RawXattr<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = RawXattr<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an extended attribute")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawXattr<'de>, A::Error> {
                let (mut n, mut n64, mut v) = (None, None, None);
                let mut unknown = UnknownKeys::default();
                while let Some(Text(key)) = map.next_key()? {
                    match &*key {
                        "n" => once(&mut n, "n", &mut map)?,
                        "n64" => once(&mut n64, "n64", &mut map)?,
                        "v" => once(&mut v, "v", &mut map)?,
                        other => unknown.pass(other, &mut map)?,
                    }
                }
                let v = v.ok_or_else(|| A::Error::missing_field("v"))?;
                Ok(RawXattr { n, n64, v })
            }
        }
        deserializer.deserialize_map(Keys)
    }
}
