//! Owns reading what follows the `?` of a request: each key once, none that is not known. Must not own what it means.

use percent_encoding::percent_decode_str;

/// The values of `keys` in `query`, in their order.
///
/// # Errors
/// What is wrong with it, in one line.
pub(super) fn read<const N: usize>(query: Option<&str>, keys: [&str; N]) -> Result<[Option<String>; N], String> {
    let mut values = [const { None }; N];
    for pair in query.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some(index) = keys.iter().position(|known| *known == key) else {
            let key = key.escape_default();
            return Err(if keys.is_empty() {
                format!("nothing can be said here after the ?, as {key}")
            } else {
                format!("unknown parameter {key}; known here: {}", keys.join(", "))
            });
        };
        let value = percent_decode_str(value).decode_utf8().map_err(|_| format!("{key} is not UTF-8"))?;
        if values[index].replace(value.into_owned()).is_some() {
            return Err(format!("{key} is there twice"));
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_key_may_be_there_once_and_no_other() {
        let some = |text: &str| Some(text.to_owned());
        for (query, expected) in [
            (None, Ok([None, None])),
            (Some(""), Ok([None, None])),
            (Some("b=1"), Ok([None, some("1")])),
            (Some("b=a%20b&a=%c3%a4"), Ok([some("ä"), some("a b")])),
            (Some("a"), Ok([some(""), None])),
            (Some("a=1&a=1"), Err("a is there twice")),
            (Some("c=1"), Err("unknown parameter c; known here: a, b")),
            (Some("a=%ff"), Err("a is not UTF-8")),
        ] {
            assert_eq!(read(query, ["a", "b"]), expected.map_err(str::to_owned), "{query:?}");
        }
        assert!(read(Some("x"), []).is_err());
    }
}
