//! Owns reading `Content-Range` (RFC 9110 section 14.4). Must not own asking for a range.

/// Which bytes of what an answer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentRange {
    /// First and last byte, both included; `None` if the range that was asked for is not there.
    pub range: Option<(u64, u64)>,
    /// Of the whole, if it is known.
    pub length: Option<u64>,
}

/// Reads `bytes FIRST-LAST/LENGTH`, with `*` for what is not known; `None` if it is malformed or contradicts itself.
pub fn parse(field: &str) -> Option<ContentRange> {
    let rest = field.trim().strip_prefix("bytes ")?;
    let (range, length) = rest.split_once('/')?;
    let length = if length == "*" { None } else { Some(number(length)?) };
    let range = match range {
        "*" => None,
        range => {
            let (first, last) = range.split_once('-')?;
            Some((number(first)?, number(last)?))
        }
    };
    match (range, length) {
        (None, None) => None,
        (Some((first, last)), _) if first > last => None,
        (Some((_, last)), Some(length)) if last >= length => None,
        _ => Some(ContentRange { range, length }),
    }
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_as_servers_write_them() {
        let some = |range, length| Some(ContentRange { range, length });
        for (field, means) in [
            ("bytes 0-0/1", some(Some((0, 0)), Some(1))),
            ("bytes 42-1233/1234", some(Some((42, 1233)), Some(1234))),
            (" bytes 42-1233/* ", some(Some((42, 1233)), None)),
            ("bytes */1234", some(None, Some(1234))),
            ("bytes */*", None),
            ("bytes 5-4/10", None),
            ("bytes 5-10/10", None),
            ("bytes 5-9", None),
            ("bytes 5-/10", None),
            ("bytes -5/10", None),
            ("bytes=5-9/10", None),
            ("items 5-9/10", None),
            ("bytes +5-9/10", None),
            ("bytes 5 - 9/10", None),
            ("bytes 0-18446744073709551616/*", None),
            ("", None),
        ] {
            assert_eq!(parse(field), means, "{field}");
        }
    }
}
