//! Owns the checks on raw tar headers that keep every tool reading the same: a manifest must describe what the engine
//! unpacks, so whatever Go's `archive/tar` (all container engines), GNU tar and our parser read differently is refused.
//! Must not own parsing.

use tar_core::Header;

use super::problem::Fault;

/// Bytes of a header and unit of padding.
pub(super) const BLOCK: usize = 512;

/// Keys and values of an extended header, in order.
pub(super) type Records<'a> = Vec<(&'a [u8], &'a [u8])>;

const USTAR: &[u8] = b"ustar\x0000";
const GNU: &[u8] = b"ustar  \0";

/// The number fields of every format: name, start, end.
const NUMBERS: &[(&str, usize, usize)] =
    &[("mode", 100, 108), ("uid", 108, 116), ("gid", 116, 124), ("size", 124, 136), ("mtime", 136, 148)];
/// Those that old headers do not have.
const DEVICE_NUMBERS: &[(&str, usize, usize)] = &[("devmajor", 329, 337), ("devminor", 337, 345)];

/// Checks the headers that led to one entry: any extension headers with their content, then the entry's own.
/// Gives the records of the PAX header, if there is one.
pub(super) fn check_chain(mut chain: &[u8]) -> Result<Records<'_>, Fault> {
    let (mut long_name, mut long_link, mut records) = (false, false, Vec::new());
    while let Some((header, after)) = chain.split_first_chunk::<BLOCK>() {
        check_header(header)?;
        let size = Header::from_bytes(header).entry_size().map_err(|_| Fault::Number("size"))?;
        match header[156] {
            b'L' => long_name = true,
            b'K' => long_link = true,
            b'x' => {
                let size = usize::try_from(size).map_err(|_| Fault::Number("size"))?;
                records = pax_records(after.get(..size).ok_or(Fault::Extended)?)?;
            }
            _ => break,
        }
        let padded = usize::try_from(size.next_multiple_of(BLOCK as u64)).map_err(|_| Fault::Number("size"))?;
        chain = after.get(padded..).ok_or(Fault::Extended)?;
    }
    let has = |wanted: &[u8]| records.iter().any(|(key, _)| *key == wanted);
    // Go lets the GNU name win, others the PAX path.
    if (long_name && has(b"path")) || (long_link && has(b"linkpath")) {
        return Err(Fault::NamedTwice);
    }
    Ok(records)
}

/// The records of an extended header (POSIX pax, "Extended Header"): `length key=value\n`, to the last byte.
pub(super) fn pax_records(mut data: &[u8]) -> Result<Records<'_>, Fault> {
    let mut records = Vec::new();
    while !data.is_empty() {
        let digits = data.iter().position(|b| *b == b' ').ok_or(Fault::Extended)?;
        let length = std::str::from_utf8(&data[..digits])
            .ok()
            .filter(|text| text.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|text| text.parse::<usize>().ok())
            .filter(|length| *length > digits && *length <= data.len())
            .ok_or(Fault::Extended)?;
        let (record, rest) = data.split_at(length);
        let record = record.get(digits + 1..).and_then(|r| r.strip_suffix(b"\n")).ok_or(Fault::Extended)?;
        let equals = record.iter().position(|b| *b == b'=').ok_or(Fault::Extended)?;
        records.push((&record[..equals], &record[equals + 1..]));
        data = rest;
    }
    Ok(records)
}

/// The keys of a global header that change entries where a tool applies them.
pub(super) fn check_global(data: &[u8]) -> Result<(), Fault> {
    const CHANGING: &[&[u8]] = &[b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime"];
    const PREFIXES: &[&[u8]] = &[b"SCHILY.", b"LIBARCHIVE.", b"GNU."];
    for (key, _) in pax_records(data)? {
        if CHANGING.contains(&key) || PREFIXES.iter().any(|prefix| key.starts_with(prefix)) {
            return Err(Fault::Global(String::from_utf8_lossy(key).into_owned()));
        }
    }
    Ok(())
}

fn check_header(header: &[u8; BLOCK]) -> Result<(), Fault> {
    if header.iter().all(|b| *b == 0) {
        return Err(Fault::LoneZeroBlock);
    }
    let magic = &header[257..265];
    let (ustar, gnu) = (magic == USTAR, magic == GNU);
    // Other versions of the magic are ustar to one tool and an old header to another.
    if magic.starts_with(b"ustar") && !ustar && !gnu {
        return Err(Fault::Format);
    }
    let devices = if ustar || gnu { DEVICE_NUMBERS } else { &[] };
    for (name, start, end) in NUMBERS.iter().chain(devices) {
        check_number(name, &header[*start..*end])?;
    }
    // Go takes an unreadable atime or ctime of a GNU header for the end of a path prefix.
    let is_time = |field: &[u8]| field[0] & 0x80 != 0 || field.iter().all(|b| matches!(b, b'0'..=b'7' | b' ' | 0));
    if gnu && !(is_time(&header[345..357]) && is_time(&header[357..369])) {
        return Err(Fault::Format);
    }
    // A star header has a shorter prefix; only if it is full can the two be confused.
    if ustar && &header[508..] == b"tar\0" && header[345 + 130] != 0 {
        return Err(Fault::Format);
    }
    Ok(())
}

fn check_number(name: &'static str, field: &[u8]) -> Result<(), Fault> {
    match field[0] {
        // Tools that trim leading NULs find a number here, others zero.
        0 if field.iter().any(|b| *b != 0) => Err(Fault::Number(name)),
        first if first & 0x80 == 0 => Ok(()),
        // Base-256: the bits above 64 must be empty.
        0xff if name == "mtime" => Err(Fault::NegativeTime),
        0x80 if field[1..field.len().saturating_sub(8).max(1)].iter().all(|b| *b == 0) => Ok(()),
        _ => Err(Fault::Number(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_to_the_last_byte_or_refused() {
        let two: &[(&[u8], &[u8])] = &[(b"path", b"a"), (b"SCHILY.xattr.user.x", b"1\n2=3")];
        assert_eq!(pax_records(b"9 path=a\n31 SCHILY.xattr.user.x=1\n2=3\n").unwrap_err(), Fault::Extended);
        assert_eq!(pax_records(b"9 path=a\n29 SCHILY.xattr.user.x=1\n2=3\n").unwrap(), two);
        for bad in
            [&b"x path=a\n"[..], b"9 path=a", b"9 path=ax", b"+9 path=\n", b"9  path=\n ", b"7 patha", b"2 ", b"\0"]
        {
            assert_eq!(pax_records(bad).unwrap_err(), Fault::Extended, "{bad:?}");
        }
        assert_eq!(pax_records(b"").unwrap(), []);
    }

    #[test]
    fn numbers_that_tools_read_differently_are_refused() {
        for (field, fault) in [
            (&b"0000644\0"[..], None),
            (b"\0\0\0\0\0\0\0\0", None),
            (b"\x000644\0\0\0", Some(Fault::Number("size"))),
            (b"\x80\0\0\0\0\0\0\0\0\0\x02\0", None),
            (b"\x80\0\0\x01\0\0\0\0\0\0\x02\0", Some(Fault::Number("size"))),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Some(Fault::Number("size"))),
            (b"\x80\0\0\0\0\0\x02\0", None),
            (b"\x81\0\0\0\0\0\x02\0", Some(Fault::Number("size"))),
        ] {
            assert_eq!(check_number("size", field).err(), fault, "{field:?}");
        }
        assert_eq!(check_number("mtime", &[0xff; 12]), Err(Fault::NegativeTime));
    }
}
