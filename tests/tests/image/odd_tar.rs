//! Owns making up tar archives: correct ones in every format, odd ones, broken ones. Must not own who reads them.

use driftlock_tests::random::Random;

const BLOCK: usize = 512;

/// An archive; the same seed gives the same.
pub(crate) fn archive(random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    let entries = 1 + random.below(4);
    // Most archives have one thing odd about them, so that what is odd is not hidden behind something else.
    let odd = random.below(entries + 1);
    for index in 0..entries {
        entry(random, &mut bytes, index == odd);
    }
    if !one_in(random, 40) {
        bytes.resize(bytes.len() + 2 * BLOCK, 0);
    }
    if one_in(random, 12) {
        bend(random, &mut bytes);
    }
    bytes
}

/// One of some texts.
fn one_of<'a>(random: &mut Random, texts: &[&'a [u8]]) -> &'a [u8] {
    let one: &&[u8] = random.pick(texts);
    one
}

fn one_in(random: &mut Random, chance: u64) -> bool {
    random.below(chance) == 0
}

const NAMES: &[&[u8]] = &[
    b"a",
    b"b/c",
    b"./d",
    b"/e",
    b"f/",
    b"./",
    b"g//h",
    b"a/",
    b"\xc3\xa9",
    b"lat\xe9n",
    b"x y",
    b".wh.a",
    b"n\n",
    b"i/./j",
];
const TYPES: &[u8] = b"000000\x00\x0055512223467SLKxgX\x20VDA";
const MAGICS: &[&[u8]] = &[
    b"ustar\x0000",
    b"ustar\x0000",
    b"ustar\x0000",
    b"ustar  \0",
    b"ustar  \0",
    &[0; 8],
    b"ustar\x0001",
    b"ustar \0 ",
];

fn name(random: &mut Random) -> Vec<u8> {
    let mut name = random.pick(NAMES).to_vec();
    if one_in(random, 6) {
        let length = usize::try_from(90 + random.below(200)).unwrap_or_default();
        name = (0..length).map(|at| if at % 50 == 40 { b'/' } else { b'a' + (at % 26) as u8 }).collect();
        name.extend(one_in(random, 3).then_some(b'/'));
    }
    name
}

struct Header([u8; BLOCK]);

impl Header {
    fn new(kind: u8, name: &[u8], size: usize, magic: &[u8]) -> Self {
        let mut header = Self([0; BLOCK]);
        header.put(0, &name[..name.len().min(100)]);
        header.octal(100, 8, 0o644);
        header.octal(108, 8, 0);
        header.octal(116, 8, 5);
        header.octal(124, 12, size as u64);
        header.octal(136, 12, 1_600_000_000);
        header.0[156] = kind;
        header.put(257, magic);
        if magic.starts_with(b"ustar") {
            header.octal(329, 8, 8);
            header.octal(337, 8, 1);
        }
        header
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn octal(&mut self, at: usize, width: usize, value: u64) {
        self.put(at, format!("{value:0digits$o}\0", digits = width - 1).as_bytes());
    }

    fn sealed(mut self) -> [u8; BLOCK] {
        self.put(148, b"        ");
        let sum: u64 = self.0.iter().map(|byte| u64::from(*byte)).sum();
        self.put(148, format!("{sum:06o}\0 ").as_bytes());
        self.0
    }
}

fn block(bytes: &mut Vec<u8>, header: Header, body: &[u8]) {
    bytes.extend(header.sealed());
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
}

fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

fn records(random: &mut Random, body: usize, odd: bool) -> Vec<u8> {
    let mut data = Vec::new();
    for _ in 0..random.below(3) + 1 {
        let size = if odd { random.below(2 * body as u64 + 3).to_string() } else { body.to_string() };
        let (key, value): (&[u8], Vec<u8>) = match random.below(if odd { 20 } else { 9 }) {
            0 | 1 => (b"path", name(random)),
            2 => (b"linkpath", name(random)),
            3 => (b"size", size.into_bytes()),
            4 => (b"mtime", b"1600000000.25".to_vec()),
            5 => (b"uid", b"70000".to_vec()),
            6 => (b"SCHILY.xattr.user.a", b"1\n20 path=etc/shadow\n".to_vec()),
            7 => (b"comment", b"none".to_vec()),
            8 => (b"atime", b"1600000000".to_vec()),
            9 => (b"hdrcharset", one_of(random, &[&b"BINARY"[..], b"x"]).to_vec()),
            10 => (b"SCHILY.devmajor", b"77".to_vec()),
            11 => (b"pa\0th", b"z".to_vec()),
            12 => (b"path", b"y\0z".to_vec()),
            13 => (b"path", Vec::new()),
            14 => (b"GNU.sparse.name", name(random)),
            15 => (b"GNU.sparse.realsize", size.into_bytes()),
            16 => (b"SCHILY.realsize", size.into_bytes()),
            17 => (b"size", one_of(random, &[&b"+1"[..], b"-1", b" 1", b"1 ", b"01", b"0x1", b"1.0", b""]).to_vec()),
            18 => (b"linkpath", Vec::new()),
            _ => (b"LIBARCHIVE.symlinktype", b"dir".to_vec()),
        };
        data.extend(record(key, &value));
    }
    if odd && one_in(random, 4) {
        let at = usize::try_from(random.below(data.len() as u64)).unwrap_or_default();
        data[at] = *random.pick(b"\0\n =0195");
    }
    data
}

fn entry(random: &mut Random, bytes: &mut Vec<u8>, odd: bool) {
    let body = vec![b'x'; usize::try_from(*random.pick(&[0_u64, 0, 1, 511, 512, 513, 2000])).unwrap_or_default()];
    if one_in(random, 6) {
        return sparse(random, bytes, odd);
    }
    let magic = if odd { *random.pick(MAGICS) } else { *random.pick(&MAGICS[..6]) };
    let extended = random.below(if odd { 8 } else { 5 });
    let (ustar, gnu): (&[u8], &[u8]) = (b"ustar\x0000", b"ustar  \0");
    let mut extensions = Vec::new();
    match extended {
        0 => extensions.push(b'x'),
        1 => extensions.push(b'L'),
        2 => extensions.push(b'K'),
        5 => {
            extensions.extend_from_slice(one_of(random, &[&b"xL"[..], b"Lx", b"Kx", b"LK", b"KL", b"LL", b"xx", b"xK"]))
        }
        6 => extensions.extend_from_slice(one_of(random, &[&b"xg"[..], b"Lg", b"gx", b"g"])),
        _ => {}
    }
    for extension in &extensions {
        let (content, magic) = match extension {
            b'x' => (records(random, body.len(), odd), ustar),
            b'g' => (record(one_of(random, &[&b"comment"[..], b"path"]), b"global"), ustar),
            _ => {
                let mut long = name(random);
                if !one_in(random, 5) {
                    long.push(0);
                }
                if odd && one_in(random, 5) {
                    long.extend(b"more\0");
                }
                (long, gnu)
            }
        };
        let mut header = Header::new(*extension, b"././@LongLink", content.len(), magic);
        if odd && one_in(random, 6) {
            disturb(random, &mut header);
        }
        block(bytes, header, &content);
    }
    let kind = if odd { *random.pick(TYPES) } else { *random.pick(&TYPES[..18]) };
    let is_file = matches!(kind, b'0' | 0 | b'7');
    let body = if is_file || odd && one_in(random, 3) { body } else { Vec::new() };
    let own = name(random);
    let own = if !odd && is_file { own.strip_suffix(b"/").unwrap_or(&own).to_vec() } else { own };
    let mut header = Header::new(kind, &own, body.len(), magic);
    if matches!(kind, b'1' | b'2') || odd && one_in(random, 4) {
        let target = name(random);
        header.put(157, &target[..target.len().min(100)]);
    }
    if magic == ustar && one_in(random, 5) || odd && one_in(random, 8) {
        header.put(345, one_of(random, &[&b"pre"[..], b"p/q", b"13707177530\0", b"r/"]));
    }
    if odd && one_in(random, 2) {
        disturb(random, &mut header);
    }
    block(bytes, header, &body);
}

/// Changes one field, so that the checksum still fits.
fn disturb(random: &mut Random, header: &mut Header) {
    const NUMBERS: &[(usize, usize)] = &[(100, 8), (108, 8), (116, 8), (124, 12), (136, 12), (329, 8), (337, 8)];
    let (at, width) = *random.pick(NUMBERS);
    match random.below(10) {
        0 => header.put(at + width - 1, b"7"),
        1 => header.put(at + width - 2, one_of(random, &[b"\0\x31", b" \x31", b"8\0", b"x\0", b"-\0"])),
        2 => header.put(at, one_of(random, &[b" ", b"\0", b"-", b"+", b"\t"])),
        3 => header.0[at..at + width].fill(*random.pick(b"\0 ")),
        4 => {
            header.0[at..at + width].fill(0);
            header.put(at, one_of(random, &[b"\x80", b"\x81", b"\xff", b"\xc0"]));
            header.0[at + width - 1] = *random.pick(b"\0\x01\x09");
        }
        5 => header.put(at + usize::try_from(random.below(width as u64)).unwrap_or_default(), b" "),
        6 => header.put(257, one_of(random, MAGICS)),
        7 => header.put(508, b"tar\0"),
        8 => {
            let at = 257 + usize::try_from(random.below(255)).unwrap_or_default();
            header.0[at] = *random.pick(b"\0 1/a");
        }
        _ => {
            let at = usize::try_from(random.below(BLOCK as u64)).unwrap_or_default();
            header.0[at] = *random.pick(b"\0 01/a\xff");
        }
    }
}

/// A sparse file in one of the four formats.
fn sparse(random: &mut Random, bytes: &mut Vec<u8>, odd: bool) {
    let mut map: Vec<(u64, u64)> = Vec::new();
    let mut at = 0;
    for _ in 0..random.below(8) {
        let (hole, length) = (random.below(3) * 700, random.below(3) * 300);
        map.push((at + hole, length));
        at += hole + length;
    }
    let mut real = at + random.below(2) * 1000;
    map.push((real, 0));
    let stored: u64 = map.iter().map(|(_, length)| length).sum();
    if odd {
        let chunk = usize::try_from(random.below(map.len() as u64)).unwrap_or_default();
        match random.below(6) {
            0 => real = random.below(real + 2),
            1 => map[chunk].0 = random.below(real + 2),
            2 => map[chunk].1 = random.below(real + 2),
            3 => map.truncate(chunk),
            4 => map.reverse(),
            _ => {}
        }
    }
    let body: Vec<u8> = (0..stored).map(|at| b'a' + (at % 23) as u8).collect();
    let (ustar, gnu): (&[u8], &[u8]) = (b"ustar\x0000", b"ustar  \0");
    let number = |value: u64| value.to_string().into_bytes();
    let mut keys: Vec<(&[u8], Vec<u8>)> = Vec::new();
    let format = random.below(4);
    let mut content = body.clone();
    match format {
        0 => return old_sparse(random, bytes, &map, real, &body, odd, gnu),
        1 => {
            keys.extend([(&b"GNU.sparse.size"[..], number(real)), (b"GNU.sparse.numblocks", number(map.len() as u64))]);
            for (offset, length) in &map {
                keys.extend([
                    (&b"GNU.sparse.offset"[..], number(*offset)),
                    (&b"GNU.sparse.numbytes"[..], number(*length)),
                ]);
            }
        }
        2 => {
            let numbers: Vec<String> = map.iter().map(|(offset, length)| format!("{offset},{length}")).collect();
            keys.extend([
                (&b"GNU.sparse.size"[..], number(real)),
                (b"GNU.sparse.numblocks", number(map.len() as u64)),
                (b"GNU.sparse.name", b"sparse/0.1".to_vec()),
                (b"GNU.sparse.map", numbers.join(",").into_bytes()),
            ]);
        }
        _ => {
            keys.extend([
                (&b"GNU.sparse.major"[..], b"1".to_vec()),
                (b"GNU.sparse.minor", b"0".to_vec()),
                (b"GNU.sparse.name", b"sparse/1.0".to_vec()),
                (b"GNU.sparse.realsize", number(real)),
            ]);
            let mut text = format!("{}\n", map.len());
            map.iter().for_each(|(offset, length)| text.push_str(&format!("{offset}\n{length}\n")));
            content = text.into_bytes();
            content.resize(content.len().next_multiple_of(BLOCK), 0);
            content.extend(&body);
        }
    }
    if odd && one_in(random, 3) {
        let at = usize::try_from(random.below(keys.len() as u64)).unwrap_or_default();
        match random.below(4) {
            0 => drop(keys.remove(at)),
            1 => keys.push(keys[at].clone()),
            2 => keys[at].1.insert(0, *random.pick(b"+- 0,")),
            _ => keys.push((b"size", number(content.len() as u64 + random.below(2) * 512))),
        }
    }
    let records: Vec<u8> = keys.iter().flat_map(|(key, value)| record(key, value)).collect();
    block(bytes, Header::new(b'x', b"PaxHeaders/sparse", records.len(), ustar), &records);
    let mut header = Header::new(b'0', b"GNUSparseFile.1/x", content.len(), ustar);
    if odd && one_in(random, 4) {
        disturb(random, &mut header);
    }
    block(bytes, header, &content);
}

fn old_sparse(
    random: &mut Random,
    bytes: &mut Vec<u8>,
    map: &[(u64, u64)],
    real: u64,
    body: &[u8],
    odd: bool,
    gnu: &[u8],
) {
    let put = |to: &mut [u8], at: usize, (offset, length): (u64, u64)| {
        to[at..at + 24].copy_from_slice(format!("{offset:011o}\0{length:011o}\0").as_bytes());
    };
    let mut header = Header::new(b'S', b"sparse/old", body.len(), gnu);
    let (first, rest) = map.split_at(map.len().min(4));
    for (index, chunk) in first.iter().enumerate() {
        put(&mut header.0, 386 + 24 * index, *chunk);
    }
    header.0[482] = u8::from(!rest.is_empty());
    header.octal(483, 12, real);
    if odd && one_in(random, 3) {
        let at = 386 + usize::try_from(random.below(109)).unwrap_or_default();
        header.0[at] = *random.pick(b"\0 17\x01");
    }
    bytes.extend(header.sealed());
    let mut blocks = rest.chunks(21).peekable();
    while let Some(chunks) = blocks.next() {
        let mut block = [0; BLOCK];
        for (index, chunk) in chunks.iter().enumerate() {
            put(&mut block, 24 * index, *chunk);
        }
        block[504] = u8::from(blocks.peek().is_some());
        if odd && one_in(random, 3) {
            block[usize::try_from(random.below(BLOCK as u64)).unwrap_or_default()] = *random.pick(b"\0 17\x01");
        }
        bytes.extend(block);
    }
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
}

/// Damage without regard for the format.
fn bend(random: &mut Random, bytes: &mut Vec<u8>) {
    let at = usize::try_from(random.below(bytes.len() as u64)).unwrap_or_default();
    match random.below(4) {
        0 => bytes.truncate(at),
        1 => bytes[at] ^= 1 << random.below(8),
        2 => drop(bytes.splice(at / BLOCK * BLOCK..at / BLOCK * BLOCK, [0; BLOCK])),
        _ => {
            let end = (at + BLOCK).min(bytes.len());
            bytes.drain(at / BLOCK * BLOCK..end);
        }
    }
}
