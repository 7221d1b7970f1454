//! Owns the spelling of durations, sizes, rates and shares, in the configuration and on the command line.

use std::time::Duration;

/// `30s`, `10m`, `24h`, `1d`, `250ms`: a whole number and one unit.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 3600 * 1000,
        "d" => 24 * 3600 * 1000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

/// `512`, `64kB`, `64MB`, `1GB` (powers of 1000), `64KiB`, `64MiB`, `1GiB` (powers of 1024): bytes.
pub(crate) fn size(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let bytes = match unit {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1000 * 1000,
        "GB" => 1000 * 1000 * 1000,
        "KiB" => 1024,
        "MiB" => 1024 * 1024,
        "GiB" => 1024 * 1024 * 1024,
        _ => return None,
    };
    number.checked_mul(bytes)
}

/// `200MB/s`: a size as [`size`] reads it, in a second.
pub(crate) fn rate(text: &str) -> Option<u64> {
    size(text.strip_suffix("/s")?)
}

/// `20%`, `150%`: a whole number.
pub(super) fn percent(text: &str) -> Option<u64> {
    match split(text)? {
        (number, "%") => Some(number),
        _ => None,
    }
}

/// What `parse` reads, or `none`.
pub(super) fn or_none<T>(text: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<Option<T>> {
    if text == "none" { Some(None) } else { parse(text).map(Some) }
}

fn split(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|ch: char| !ch.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim_start_matches(' ')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [("30s", Some(30)), ("10m", Some(600)), ("24h", Some(86400)), ("1 d", Some(86400))] {
            assert_eq!(duration(text).map(|d| d.as_secs()), seconds, "{text}");
        }
        for text in ["", "s", "10", "-1s", "1.5h", "10 parsecs", "18446744073709551615d", "1m30s", "10S"] {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn rates_and_shares() {
        for (text, bytes) in [("200MB/s", 200_000_000), ("1GiB/s", 1 << 30), ("7/s", 7), ("1 kB/s", 1000), ("0/s", 0)] {
            assert_eq!(rate(text), Some(bytes), "{text}");
        }
        for text in ["", "/s", "200MB", "200MB/min", "200MB /s ", "-1MB/s", "none", "200Mbit/s", "99999999999GiB/s"] {
            assert_eq!(rate(text), None, "{text}");
        }
        for (text, share) in [("20%", 20), ("150%", 150), ("0%", 0), ("5 %", 5)] {
            assert_eq!(percent(text), Some(share), "{text}");
        }
        for text in ["", "%", "20", "0.5%", "-1%", "20%%", "none", "20percent"] {
            assert_eq!(percent(text), None, "{text}");
        }
        assert_eq!(or_none("none", percent), Some(None));
        assert_eq!(or_none("20%", percent), Some(Some(20)));
        assert_eq!(or_none("None", percent), None);
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("64MB", 64_000_000), ("1GiB", 1 << 30), ("7", 7), ("1 kB", 1000), ("2KiB", 2048)] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "MB", "1TB", "-1", "1.5GB", "99999999999GiB", "1gb"] {
            assert_eq!(size(text), None, "{text}");
        }
    }
}
