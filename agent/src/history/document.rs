//! Owns reading answers and results that are one JSON object, `{"findings":[…],…}`, a finding at a time: they may be larger
//! than memory. Must not own what a finding is.

use std::cell::Cell;
use std::fmt;
use std::io::{self, BufReader, Read};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::{Each, Gone, MAX_FINDING, record};

/// Reads an answer of a collector.
///
/// # Errors
/// If it is none.
pub fn page(answer: &[u8], each: &mut Each<'_>) -> Result<Gone, String> {
    let mut gone = Gone::default();
    if !super::is_document(answer) {
        return Err("it has no findings".to_owned());
    }
    // Bytes in memory can be read.
    read(&mut { answer }, &mut gone, each).map_err(|error| error.to_string())?;
    Ok(gone)
}

/// Reads objects, one behind the other, to their end. Behind what is no JSON nothing can be found again: that is said.
pub(super) fn read(source: &mut dyn Read, gone: &mut Gone, each: &mut Each<'_>) -> io::Result<()> {
    let left = Cell::new(MAX_FINDING);
    let failed = Cell::new(None);
    let metered = Metered { source, left: &left, failed: &failed };
    let mut json = serde_json::Deserializer::from_reader(BufReader::with_capacity(64 * 1024, metered));
    let mut number = 0;
    while json.end().is_err() {
        gone.next = None;
        let object = Object { number: &mut number, gone, left: &left, each };
        if let Err(error) = object.deserialize(&mut json) {
            if let Some(error) = failed.take() {
                return Err(error);
            }
            let why = if left.get() == 0 {
                format!("it holds something longer than {MAX_FINDING} bytes")
            } else {
                error.to_string()
            };
            gone.complain(&format!("behind finding {number}"), &format!("the rest was not read: {why}"));
            return Ok(());
        }
        gone.known += 1;
    }
    match failed.take() {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// A source of which so much is read until somebody says that more may be.
struct Metered<'a> {
    source: &'a mut dyn Read,
    left: &'a Cell<usize>,
    /// Why the source could not be read.
    failed: &'a Cell<Option<io::Error>>,
}

impl Read for Metered<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(self.left.get());
        if most == 0 {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        match self.source.read(&mut buffer[..most]) {
            Ok(count) => {
                self.left.set(self.left.get() - count);
                Ok(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                self.failed.set(Some(error));
                Err(io::ErrorKind::Other.into())
            }
        }
    }
}

/// One object, and the list of findings in it.
struct Object<'a, 'e> {
    number: &'a mut u64,
    gone: &'a mut Gone,
    left: &'a Cell<usize>,
    each: &'a mut Each<'e>,
}

impl<'de> DeserializeSeed<'de> for Object<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with findings")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut listed = false;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "findings" if !listed => {
                    listed = true;
                    map.next_value_seed(List(&mut self))?;
                }
                "findings" => return Err(serde::de::Error::custom("there are findings twice")),
                "next" => self.gone.next = map.next_value()?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
            self.left.set(MAX_FINDING);
        }
        if listed { Ok(()) } else { Err(serde::de::Error::custom("there are no findings in it")) }
    }
}

struct List<'a, 'b, 'e>(&'a mut Object<'b, 'e>);

impl<'de> DeserializeSeed<'de> for List<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for List<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of findings")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Object { number, gone, left, each } = self.0;
        // Raw, so that one that is none does not hide those behind it.
        while let Some(finding) = list.next_element::<Box<RawValue>>()? {
            **number += 1;
            let none = Err("it is no finding".to_owned());
            if let Err(why) =
                record(finding.get().as_bytes(), *each).and_then(|holds| if holds { Ok(()) } else { none })
            {
                gone.complain(&format!("finding {number}"), &why);
            }
            left.set(MAX_FINDING);
        }
        Ok(())
    }
}
