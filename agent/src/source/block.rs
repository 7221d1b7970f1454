//! Owns the checks on raw tar headers that keep every tool reading the same: a manifest must describe what the engine
//! unpacks, so whatever Go's `archive/tar` (all container engines), GNU tar and our parser read differently is refused.
//! Must not own parsing.

use tar_core::Header;

use super::entries::Readers;
use super::problem::Fault;

/// Bytes of a header and unit of padding.
pub(super) const BLOCK: usize = 512;

/// Keys and values of an extended header, in order.
pub(super) type Records<'a> = Vec<(&'a [u8], &'a [u8])>;

/// The most digits of a record's length: leading zeros are read by all, but by Python's tarfile only some.
const MAX_DIGITS: usize = 10;

const USTAR: &[u8] = b"ustar\x0000";
const GNU: &[u8] = b"ustar  \0";

/// The number fields of every format: name, start, end.
const NUMBERS: &[(&str, usize, usize)] =
    &[("mode", 100, 108), ("uid", 108, 116), ("gid", 116, 124), ("size", 124, 136), ("mtime", 136, 148)];
/// Those that old headers do not have.
const DEVICE_NUMBERS: &[(&str, usize, usize)] = &[("devmajor", 329, 337), ("devminor", 337, 345)];

/// Keys that libarchive alone applies.
const PARTIAL: &[&[u8]] = &[b"SCHILY.devmajor", b"SCHILY.devminor", b"SCHILY.realsize", b"SUN.holesdata"];
/// Keys whose values are text in which Go refuses a NUL, where others take it for the end.
const TEXTS: &[&[u8]] = &[b"path", b"linkpath", b"uname", b"gname", b"GNU.sparse.name"];

/// The headers of one entry.
#[derive(Debug)]
pub(super) struct Chain<'a> {
    /// The records of the PAX header, if there is one.
    pub(super) records: Records<'a>,
    /// The entry's own header and what stands between it and the content.
    pub(super) own: &'a [u8],
}

/// Checks the headers that led to one entry: any extension headers with their content, then the entry's own.
pub(super) fn check_chain(mut chain: &[u8], readers: Readers) -> Result<Chain<'_>, Fault> {
    let (mut long_name, mut long_link, mut records) = (false, false, None);
    while let Some((header, after)) = chain.split_first_chunk::<BLOCK>() {
        check_header(header, readers)?;
        let size = Header::from_bytes(header).entry_size().map_err(|_| Fault::Number("size"))?;
        match header[156] {
            b'L' => long_name = true,
            b'K' => long_link = true,
            b'x' => {
                let size = usize::try_from(size).map_err(|_| Fault::Number("size"))?;
                records = Some(pax_records(after.get(..size).ok_or(Fault::Extended)?)?);
            }
            _ => break,
        }
        let padded = usize::try_from(size.next_multiple_of(BLOCK as u64)).map_err(|_| Fault::Number("size"))?;
        check_padding(after, size)?;
        chain = after.get(padded..).ok_or(Fault::Extended)?;
    }
    let long = long_name || long_link;
    // To Go it is an entry with both, and of two names the GNU one wins; others let the PAX path win, or forget one header
    // over the other. To which header a size of the PAX header belongs is another thing that tools see differently.
    if readers == Readers::Any && long && records.is_some() {
        return Err(Fault::Mixed);
    }
    let records = records.unwrap_or_default();
    let has = |wanted: &[u8]| records.iter().any(|(key, _)| *key == wanted);
    if (long_name && has(b"path")) || (long_link && has(b"linkpath")) || (long && has(b"size")) {
        return Err(Fault::Mixed);
    }
    records.iter().try_for_each(|(key, value)| check_value(key, value))?;
    Ok(Chain { records, own: chain })
}

/// Nothing behind the content of an extension header: Python's tarfile reads on to the end of the block.
fn check_padding(content: &[u8], size: u64) -> Result<(), Fault> {
    let size = usize::try_from(size).map_err(|_| Fault::Number("size"))?;
    let padding = content.get(size..size.next_multiple_of(BLOCK)).ok_or(Fault::Extended)?;
    if padding.iter().all(|b| *b == 0) { Ok(()) } else { Err(Fault::Extended) }
}

/// What every tool reads the same in the values that change an entry.
fn check_value(key: &[u8], value: &[u8]) -> Result<(), Fault> {
    let digits = |text: &[u8]| !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    match key {
        b"size" | b"uid" | b"gid" if !digits(value) => Err(Fault::Extended),
        b"mtime" if value.starts_with(b"-") => Err(Fault::NegativeTime),
        b"mtime" | b"atime" | b"ctime" => {
            let positive = value.strip_prefix(b"-").unwrap_or(value);
            let mut parts = positive.splitn(2, |b| *b == b'.');
            let whole = parts.next().is_some_and(digits);
            let fraction = parts.next().is_none_or(|fraction| fraction.iter().all(u8::is_ascii_digit));
            if whole && fraction { Ok(()) } else { Err(Fault::Extended) }
        }
        b"hdrcharset" if value != b"BINARY" => Err(Fault::Partial("hdrcharset".into())),
        key if PARTIAL.contains(&key) => Err(Fault::Partial(String::from_utf8_lossy(key).into_owned())),
        key if TEXTS.contains(&key) && value.contains(&0) => Err(Fault::Nul),
        _ => Ok(()),
    }
}

/// The records of an extended header (POSIX pax, "Extended Header"): `length key=value\n`, to the last byte.
pub(super) fn pax_records(mut data: &[u8]) -> Result<Records<'_>, Fault> {
    let mut records = Vec::new();
    while !data.is_empty() {
        let digits = data.iter().position(|b| *b == b' ').ok_or(Fault::Extended)?;
        let length = std::str::from_utf8(&data[..digits])
            .ok()
            .filter(|text| text.len() <= MAX_DIGITS && text.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|text| text.parse::<usize>().ok())
            .filter(|length| *length > digits && *length <= data.len())
            .ok_or(Fault::Extended)?;
        let (record, rest) = data.split_at(length);
        let record = record.get(digits + 1..).and_then(|r| r.strip_suffix(b"\n")).ok_or(Fault::Extended)?;
        let equals = record.iter().position(|b| *b == b'=').filter(|at| *at > 0).ok_or(Fault::Extended)?;
        if record[..equals].contains(&0) {
            return Err(Fault::Nul);
        }
        records.push((&record[..equals], &record[equals + 1..]));
        data = rest;
    }
    Ok(records)
}

/// A global header and its content: its keys must not be such that change entries where a tool applies them.
pub(super) fn check_global(chain: &[u8], data: &[u8], readers: Readers) -> Result<(), Fault> {
    const CHANGING: &[&[u8]] = &[b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime", b"hdrcharset"];
    const PREFIXES: &[&[u8]] = &[b"SCHILY.", b"LIBARCHIVE.", b"GNU.", b"SUN."];
    let header = chain.first_chunk::<BLOCK>().ok_or(Fault::Extended)?;
    // Our parser forgets the extension headers before it, others keep them.
    if header[156] != b'g' {
        return Err(Fault::GlobalBetween);
    }
    check_header(header, readers)?;
    check_padding(&chain[BLOCK..], data.len() as u64)?;
    for (key, _) in pax_records(data)? {
        if CHANGING.contains(&key) || PREFIXES.iter().any(|prefix| key.starts_with(prefix)) {
            return Err(Fault::Global(String::from_utf8_lossy(key).into_owned()));
        }
    }
    Ok(())
}

fn check_header(header: &[u8; BLOCK], readers: Readers) -> Result<(), Fault> {
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
    if !is_octal(&header[148..156]) {
        return Err(Fault::Number("checksum"));
    }
    // Python's tarfile takes a prefix out of every header, also where GNU has times (of incremental archives alone)
    // and where old headers have nothing; libarchive a map of holes out of every GNU one.
    let unnamed = match header[156] {
        b'S' if gnu => &header[345..386],
        _ if gnu => &header[345..],
        _ => &header[257..],
    };
    if readers == Readers::Any && !ustar && unnamed.iter().any(|b| *b != 0) {
        return Err(Fault::Prefix);
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

pub(super) fn check_number(name: &'static str, field: &[u8]) -> Result<(), Fault> {
    match field[0] {
        // Base-256: the bits above 64 must be empty, and of those 64 the sign.
        0xff if name == "mtime" => Err(Fault::NegativeTime),
        0x80 => {
            let (above, value) = field[1..].split_at(field.len().saturating_sub(9));
            let negative = value.len() == 8 && value[0] & 0x80 != 0;
            if negative || above.iter().any(|b| *b != 0) { Err(Fault::Number(name)) } else { Ok(()) }
        }
        _ if is_octal(field) => Ok(()),
        _ => Err(Fault::Number(name)),
    }
}

/// Spaces, digits, then spaces and NULs to the end. With anything behind the digits, or NULs before them, some tools
/// find another number, others none.
fn is_octal(field: &[u8]) -> bool {
    let rest = field.trim_ascii_start();
    let leading = &field[..field.len() - rest.len()];
    let digits = rest.iter().take_while(|b| matches!(b, b'0'..=b'7')).count();
    leading.iter().all(|b| *b == b' ') && rest[digits..].iter().all(|b| matches!(b, b' ' | 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_to_the_last_byte_or_refused() {
        let two: &[(&[u8], &[u8])] = &[(b"path", b"a"), (b"SCHILY.xattr.user.x", b"1\n2=3")];
        assert_eq!(pax_records(b"9 path=a\n31 SCHILY.xattr.user.x=1\n2=3\n").unwrap_err(), Fault::Extended);
        assert_eq!(pax_records(b"9 path=a\n29 SCHILY.xattr.user.x=1\n2=3\n").unwrap(), two);
        for bad in [
            &b"x path=a\n"[..],
            b"9 path=a",
            b"9 path=ax",
            b"+9 path=\n",
            b"9  path=\n ",
            b"7 patha",
            b"2 ",
            b"\0",
            b"5 =a\n",
            b"00000000009 path=a\n",
        ] {
            assert_eq!(pax_records(bad).unwrap_err(), Fault::Extended, "{bad:?}");
        }
        assert_eq!(pax_records(b"").unwrap(), []);
        assert_eq!(pax_records(b"11 path\0=a\n").unwrap_err(), Fault::Nul);
    }

    #[test]
    fn numbers_that_tools_read_differently_are_refused() {
        for (field, fault) in [
            (&b"0000644\0"[..], None),
            (b"\0\0\0\0\0\0\0\0", None),
            (b"\x000644\0\0\0", Some(Fault::Number("size"))),
            (b"   644 \0", None),
            (b"        ", None),
            (b"644\0\0\0 \0", None),
            (b"0644\x00001\0", Some(Fault::Number("size"))),
            (b"0644x\0\0\0", Some(Fault::Number("size"))),
            (b"06 44\0\0\0", Some(Fault::Number("size"))),
            (b"0000689\0", Some(Fault::Number("size"))),
            (b"\t000644\0", Some(Fault::Number("size"))),
            (b"-000644\0", Some(Fault::Number("size"))),
            (b"\x80\0\0\0\0\0\0\0\0\0\x02\0", None),
            (b"\x80\0\0\x01\0\0\0\0\0\0\x02\0", Some(Fault::Number("size"))),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Some(Fault::Number("size"))),
            (b"\x80\0\0\0\0\0\x02\0", None),
            (b"\x81\0\0\0\0\0\x02\0", Some(Fault::Number("size"))),
            (b"\x80\0\0\0\x80\0\0\0\0\0\x02\0", Some(Fault::Number("size"))),
        ] {
            assert_eq!(check_number("size", field).err(), fault, "{field:?}");
        }
        assert_eq!(check_number("mtime", &[0xff; 12]), Err(Fault::NegativeTime));
    }
}
