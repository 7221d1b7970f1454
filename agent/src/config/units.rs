//! Owns the spelling of durations and sizes, in the configuration and on the command line.

use std::time::Duration;

/// `30s`, `10m`, `24h`, `1d`, `250ms`: a whole number and one unit.
pub(super) fn duration(text: &str) -> Option<Duration> {
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
    fn sizes() {
        for (text, bytes) in [("64MB", 64_000_000), ("1GiB", 1 << 30), ("7", 7), ("1 kB", 1000), ("2KiB", 2048)] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "MB", "1TB", "-1", "1.5GB", "99999999999GiB", "1gb"] {
            assert_eq!(size(text), None, "{text}");
        }
    }
}
