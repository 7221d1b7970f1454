//! Owns tar archives written header by header, so that they may be what no library would write. Must not own what is to
//! be said about them. Formats: POSIX.1-2001 pax, ustar, GNU tar's long names and base-256 numbers.

/// The size of a header, and what content is padded to.
const BLOCK: usize = 512;

/// An entry, field by field: what a field has no room for stands in headers before it.
#[derive(Clone, Debug)]
pub struct Entry {
    name: Vec<u8>,
    flag: u8,
    mode: u32,
    owner: (u64, u64),
    mtime: u64,
    target: Vec<u8>,
    device: (u32, u32),
    content: Vec<u8>,
    size: Option<u64>,
    records: Vec<(Vec<u8>, Vec<u8>)>,
    format: Format,
}

/// How an entry says what its header has no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Records before it (POSIX.1-2001); names are split into two fields where that is enough.
    Pax,
    /// Long names before it, and numbers in base 256 (GNU tar).
    Gnu,
}

impl Entry {
    /// An entry of the type `flag`, mode 0644 (a directory's is 0755), owner root. The name is written as it is.
    pub fn new(flag: u8, name: impl AsRef<[u8]>) -> Self {
        Self {
            name: name.as_ref().to_vec(),
            flag,
            mode: if flag == b'5' { 0o755 } else { 0o644 },
            owner: (0, 0),
            mtime: 1_600_000_000,
            target: Vec::new(),
            device: (0, 0),
            content: Vec::new(),
            size: None,
            records: Vec::new(),
            format: Format::Pax,
        }
    }

    /// A regular file.
    pub fn file(name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        Self { content: content.as_ref().to_vec(), ..Self::new(b'0', name) }
    }

    /// A directory.
    pub fn dir(name: impl AsRef<[u8]>) -> Self {
        Self::new(b'5', name)
    }

    /// A symlink.
    pub fn symlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self { target: target.as_ref().to_vec(), ..Self::new(b'2', name) }
    }

    /// A hard link.
    pub fn hardlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self { target: target.as_ref().to_vec(), ..Self::new(b'1', name) }
    }

    /// Another mode.
    #[must_use]
    pub const fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Another owner and group.
    #[must_use]
    pub const fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.owner = (uid, gid);
        self
    }

    /// Another time, in seconds since 1970.
    #[must_use]
    pub const fn mtime(mut self, mtime: u64) -> Self {
        self.mtime = mtime;
        self
    }

    /// Device numbers.
    #[must_use]
    pub const fn device(mut self, major: u32, minor: u32) -> Self {
        self.device = (major, minor);
        self
    }

    /// Content, whatever the type.
    #[must_use]
    pub fn content(mut self, content: impl AsRef<[u8]>) -> Self {
        self.content = content.as_ref().to_vec();
        self
    }

    /// Another size than that of the content.
    #[must_use]
    pub const fn size(mut self, size: u64) -> Self {
        self.size = Some(size);
        self
    }

    /// A record of the extended header before it.
    #[must_use]
    pub fn record(mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        self.records.push((key.as_ref().to_vec(), value.as_ref().to_vec()));
        self
    }

    /// In another format.
    #[must_use]
    pub const fn format(mut self, format: Format) -> Self {
        self.format = format;
        self
    }

    /// Its headers and its padded content.
    pub fn bytes(&self) -> Vec<u8> {
        let mut records = self.records.clone();
        let mut before = Vec::new();
        let (prefix, name) = split(&self.name).unwrap_or((&[], &self.name));
        match self.format {
            Format::Gnu => {
                for (flag, long) in [(b'L', &self.name), (b'K', &self.target)] {
                    if long.len() > 100 {
                        let content = [long, &b"\0"[..]].concat();
                        before
                            .extend(Self { content, format: Format::Gnu, ..Self::new(flag, "././@LongLink") }.bytes());
                    }
                }
            }
            Format::Pax => {
                let long = |key: &str, value: &[u8]| (key.as_bytes().to_vec(), value.to_vec());
                records.extend((name.len() > 100).then(|| long("path", &self.name)));
                records.extend((self.target.len() > 100).then(|| long("linkpath", &self.target)));
                for (key, number) in [("uid", self.owner.0), ("gid", self.owner.1)] {
                    records.extend((number > 0o7_777_777).then(|| long(key, number.to_string().as_bytes())));
                }
            }
        }
        if !records.is_empty() {
            let content: Vec<u8> = records.iter().flat_map(|(key, value)| record(key, value)).collect();
            before.extend(Self { content, ..Self::new(b'x', "PaxHeaders/entry") }.bytes());
        }
        let gnu = self.format == Format::Gnu;
        before.extend(if gnu { self.header(&[], &self.name) } else { self.header(prefix, name) });
        before.extend_from_slice(&self.content);
        before.resize(before.len().next_multiple_of(BLOCK), 0);
        before
    }

    fn header(&self, prefix: &[u8], name: &[u8]) -> [u8; BLOCK] {
        let mut block = [0_u8; BLOCK];
        let mut put = |at: usize, most: usize, bytes: &[u8]| {
            let bytes = &bytes[..bytes.len().min(most)];
            block[at..at + bytes.len()].copy_from_slice(bytes);
        };
        let size = self.size.unwrap_or(self.content.len() as u64);
        put(0, 100, name);
        put(100, 8, &self.number(self.mode.into(), 8));
        put(108, 8, &self.number(self.owner.0, 8));
        put(116, 8, &self.number(self.owner.1, 8));
        put(124, 12, &self.number(size, 12));
        put(136, 12, &self.number(self.mtime, 12));
        put(148, 8, b"        ");
        put(156, 1, &[self.flag]);
        put(157, 100, &self.target);
        put(257, 8, if self.format == Format::Gnu { b"ustar  \0" } else { b"ustar\x0000" });
        put(329, 8, &self.number(self.device.0.into(), 8));
        put(337, 8, &self.number(self.device.1.into(), 8));
        put(345, 155, prefix);
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }

    /// Octal digits and a NUL, if there is room for them.
    fn number(&self, number: u64, width: usize) -> Vec<u8> {
        let octal = format!("{number:0digits$o}\0", digits = width - 1).into_bytes();
        if octal.len() <= width {
            return octal;
        }
        if self.format == Format::Pax {
            // A record says it.
            return format!("{:0digits$o}\0", 0, digits = width - 1).into_bytes();
        }
        let mut binary = vec![0; width];
        binary[width - 8..].copy_from_slice(&number.to_be_bytes());
        binary[0] |= 0x80;
        binary
    }
}

/// A name in the two fields that ustar has for it, if it does not fit into one and there is a slash at the right place.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if name.len() <= 100 {
        return None;
    }
    let fits = |at: &usize| name[*at] == b'/' && (1..=155).contains(at) && (2..=101).contains(&(name.len() - at));
    let at = (0..name.len()).find(fits)?;
    Some((&name[..at], &name[at + 1..]))
}

/// `length key=value`, where the length counts its own digits.
pub fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key, b"=", value, b"\n"].concat();
    let mut length = rest.len() + 1;
    while length.to_string().len() + rest.len() != length {
        length += 1;
    }
    [length.to_string().as_bytes(), &rest].concat()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    /// By the library that the product does not read with.
    fn read(entry: &Entry) -> (Vec<u8>, Vec<u8>, u64, Vec<u8>) {
        let archive = [entry.bytes(), vec![0; 2 * BLOCK]].concat();
        let mut archive = tar::Archive::new(archive.as_slice());
        let mut entry = archive.entries().unwrap().next().unwrap().unwrap();
        let target = entry.link_name_bytes().map(|target| target.to_vec()).unwrap_or_default();
        let uid = entry.header().uid().unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (entry.path_bytes().to_vec(), target, uid, content)
    }

    #[test]
    fn names_and_numbers_of_any_length_are_read_as_they_were_meant() {
        let split = [vec![b'd'; 120], b"/".to_vec(), vec![b'n'; 90]].concat();
        for name in [b"a".to_vec(), vec![b'n'; 100], vec![b'n'; 101], split, vec![b'n'; 300]] {
            for format in [Format::Pax, Format::Gnu] {
                let entry = Entry::symlink(&name, &name).format(format);
                assert_eq!(read(&entry), (name.clone(), name.clone(), 0, Vec::new()));
            }
        }
        let entry = Entry::file("a", "content").format(Format::Gnu).owner(4_000_000_000, 0);
        assert_eq!(read(&entry), (b"a".to_vec(), Vec::new(), 4_000_000_000, b"content".to_vec()));
        assert_eq!(record(b"k", b"v"), b"6 k=v\n");
        // No record of 100 bytes ends with itself: one digit more makes it 101.
        for (value, length) in [(93, 99), (94, 101)] {
            let record = record(b"k", &vec![b'v'; value]);
            assert!(record.len() == length && record.starts_with(format!("{length} k=").as_bytes()));
        }
    }
}
