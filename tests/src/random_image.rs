//! Owns seeded layers: everything that a layer may do to those below it, on which all that unpack images agree. Must not
//! own what comes out. What is left out, because engines differ and the product says so (`--strict`) or refuses it: paths
//! below what is not a directory, whiteouts below links, hard links to what the same layer hides.

use std::collections::{BTreeMap, BTreeSet};

use crate::archive::{Entry, Format};
use crate::image::Layer;
use crate::random::Random;
use crate::random_tree::HOSTILE;
use crate::tamper::CAP_NET_RAW;

/// Layers in the making, for any number of trees side by side.
#[derive(Debug)]
pub struct RandomImage {
    layers: Vec<Layer>,
    done: BTreeSet<String>,
}

/// The most layers.
const LAYERS: u64 = 5;

/// One tree of an image.
struct Subject<'a> {
    random: Random,
    /// The directory of all of it, with a slash at its end, or nothing.
    prefix: Vec<u8>,
    /// What is there after the entries so far.
    there: BTreeMap<Path, There>,
    /// What of lower layers this layer has made links to.
    linked: Vec<Path>,
    layer: usize,
    done: &'a mut BTreeSet<String>,
}

/// Components: none for the root, none empty.
type Path = Vec<Vec<u8>>;

#[derive(Clone, Copy, Debug)]
struct There {
    kind: Kind,
    layer: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Directory,
    File,
    Symlink,
    Other,
}

// === impl RandomImage ===

impl RandomImage {
    /// A tree for each of `seeds`, at the root if it is one and else in a directory with its number.
    pub fn new(seeds: std::ops::Range<u64>) -> Self {
        let mut image = Self { layers: Vec::new(), done: BTreeSet::new() };
        let alone = seeds.end - seeds.start == 1;
        for seed in seeds {
            image.add(seed, if alone { Vec::new() } else { format!("{seed}/").into_bytes() });
        }
        image
    }

    /// The archives, lowest first.
    pub fn layers(self) -> impl Iterator<Item = Vec<u8>> {
        self.layers.into_iter().map(Layer::finish)
    }

    /// What was done anywhere, in words: whoever needs it to happen can ask.
    pub const fn done(&self) -> &BTreeSet<String> {
        &self.done
    }

    fn add(&mut self, seed: u64, prefix: Vec<u8>) {
        let mut random = Random::new(seed);
        let layers = 1 + random.below(LAYERS);
        let (there, linked, done) = (BTreeMap::new(), Vec::new(), &mut self.done);
        let mut subject = Subject { random, prefix, there, linked, layer: 0, done };
        for index in 0..usize::try_from(layers).expect("few") {
            if self.layers.len() == index {
                self.layers.push(Layer::new());
            }
            subject.layer = index;
            subject.linked.clear();
            let mut layer = std::mem::take(&mut self.layers[index]);
            for _ in 0..4 + subject.random.below(24) {
                if let Some(entry) = subject.entry() {
                    layer = layer.entry(&entry);
                }
            }
            self.layers[index] = layer;
        }
    }
}

// === impl Subject ===

impl Subject<'_> {
    fn chance(&mut self, one_in: u64) -> bool {
        self.random.below(one_in) == 0
    }

    /// The next entry; none if what was chosen cannot be.
    fn entry(&mut self) -> Option<Entry> {
        let entry = match self.random.below(10) {
            0 | 1 => self.whiteout()?,
            2 => self.opaque()?,
            3 | 4 => self.link()?,
            _ => self.node()?,
        };
        Some(if self.chance(3) { entry.format(Format::Gnu) } else { entry })
    }

    fn name(&mut self) -> Vec<u8> {
        match self.random.below(14) {
            0 => vec![b'n'; 255],
            1 => "\u{e9}".repeat(60).into_bytes(),
            // Few, so that layers meet.
            2..=4 => self.random.pick(HOSTILE).to_vec(),
            _ => self.random.pick::<&[u8]>(&[b"a", b"b", b"c", b"d"]).to_vec(),
        }
    }

    /// One that is there, or a new one in a directory that is there, or one or two below what is not there yet.
    fn path(&mut self) -> Path {
        let all: Vec<Path> = self.there.keys().cloned().collect();
        if !all.is_empty() && self.chance(2) {
            return self.random.pick(&all).clone();
        }
        let mut directories: Vec<Path> = self
            .there
            .iter()
            .filter(|(_, there)| there.kind == Kind::Directory)
            .map(|(path, _)| path.clone())
            .collect();
        directories.retain(|path| path.len() < 6);
        directories.push(Path::new());
        let mut path = self.random.pick(&directories).clone();
        for _ in 0..1 + self.random.below(3) / 2 {
            path.push(self.name());
        }
        path
    }

    /// Whether everything above `path` is a directory or can become one.
    fn is_open(&self, path: &[Vec<u8>]) -> bool {
        let mut above = (1..path.len()).filter_map(|length| self.there.get(&path[..length]));
        above.all(|there| there.kind == Kind::Directory)
    }

    /// As the archive has it: with what means nothing, at times.
    fn spelled(&mut self, path: &[Vec<u8>]) -> Vec<u8> {
        let plain = [self.prefix.as_slice(), &path.join(&b'/')].concat();
        match self.random.below(12) {
            0 => [b"./", plain.as_slice()].concat(),
            1 => [b"/", plain.as_slice()].concat(),
            2 => plain.split(|byte| *byte == b'/').collect::<Vec<_>>().join(&b"//"[..]),
            3 => plain.split(|byte| *byte == b'/').collect::<Vec<_>>().join(&b"/./"[..]),
            _ => plain,
        }
    }

    fn node(&mut self) -> Option<Entry> {
        let path = self.path();
        if !self.is_open(&path) {
            return None;
        }
        let mut name = self.spelled(&path);
        let (word, kind, entry) = match self.random.below(9) {
            0..=2 => {
                name.extend(self.chance(2).then_some(b'/'));
                ("directory", Kind::Directory, Entry::dir(name))
            }
            3..=5 => ("file", Kind::File, Entry::file(name, self.content())),
            6 => {
                let target = self.target();
                ("symlink", Kind::Symlink, Entry::symlink(name, target))
            }
            7 => ("FIFO", Kind::Other, Entry::new(b'6', name)),
            _ => {
                let flag = *self.random.pick(b"34");
                let minor = u32::try_from(self.random.below(500)).expect("few");
                ("device", Kind::Other, Entry::new(flag, name).device(240, minor))
            }
        };
        if let Some(there) = self.there.get(&path) {
            let when = if there.layer == self.layer { "of its own layer" } else { "of a lower layer" };
            self.done.insert(format!("{word} over {:?} {when}", there.kind).to_lowercase());
        }
        self.put(&path, kind);
        let entry = self.attributes(entry, kind);
        Some(entry)
    }

    fn attributes(&mut self, entry: Entry, kind: Kind) -> Entry {
        let id = |random: &mut Random| match random.below(6) {
            0 => 4_000_000_000 + random.below(100),
            1 => random.below(70_000),
            _ => 0,
        };
        let mode = u32::try_from(self.random.below(0o10_000)).expect("few");
        let (uid, gid) = (id(&mut self.random), id(&mut self.random));
        let mut entry = entry.mode(mode).owner(uid, gid).mtime(self.random.below(4_000_000_000));
        let mut note = |what: &str| self.done.insert(what.to_owned());
        if kind == Kind::File && mode & 0o6000 != 0 {
            note("set-user-id or set-group-id");
        }
        if self.random.below(4) == 0 && matches!(kind, Kind::File | Kind::Directory) {
            note("attribute");
            // What would be another record, if it were read by lines.
            let value: &[u8] = self.random.pick::<&[u8]>(&[b"plain", b"", b"\0\xff", b"x\n19 path=elsewhere\n"]);
            entry = entry.record("SCHILY.xattr.user.note", value);
        }
        if self.random.below(6) == 0 && kind == Kind::File {
            note("capability");
            let mut value = CAP_NET_RAW;
            // Any byte may be in it, a line feed too.
            value[4] = u8::try_from(self.random.below(32)).expect("a byte");
            entry = entry.record("SCHILY.xattr.security.capability", value);
        }
        if self.random.below(6) == 0 {
            note("fraction of a second");
            entry = entry.record("mtime", format!("{}.75", self.random.below(4_000_000_000)));
        }
        entry
    }

    fn content(&mut self) -> Vec<u8> {
        let length = match self.random.below(8) {
            0 => 0,
            1 => 512,
            2 => 128 * 1024 + 1,
            _ => self.random.below(300),
        };
        let seed = self.random.next().to_le_bytes();
        seed.into_iter().cycle().take(usize::try_from(length).expect("small")).collect()
    }

    fn target(&mut self) -> Vec<u8> {
        match self.random.below(5) {
            0 => b"/etc/passwd".to_vec(),
            1 => b"../../../../../../../../etc/shadow".to_vec(),
            2 => vec![b't'; 300],
            _ => self.name(),
        }
    }

    /// Another name of what is there, with attributes of its own that do not count.
    fn link(&mut self) -> Option<Entry> {
        let targets: Vec<(Path, There)> = self
            .there
            .iter()
            .filter(|(_, there)| there.kind != Kind::Directory)
            .map(|(path, there)| (path.clone(), *there))
            .collect();
        if targets.is_empty() {
            return None;
        }
        let (target, there) = self.random.pick(&targets).clone();
        let path = self.path();
        if !self.is_open(&path) || target.starts_with(&path) {
            return None;
        }
        let name = self.spelled(&path);
        let target_name = self.spelled(&target);
        let own = there.layer == self.layer;
        let which = if own { "its own" } else { "a lower" };
        self.done.insert(format!("hard link to {:?} of {which} layer", there.kind).to_lowercase());
        if !own {
            self.linked.push(target);
        }
        self.put(&path, there.kind);
        let mode = u32::try_from(self.random.below(0o10_000)).expect("few");
        Some(Entry::hardlink(name, target_name).mode(mode).owner(self.random.below(9), 0))
    }

    fn whiteout(&mut self) -> Option<Entry> {
        let path = self.path();
        let (name, above) = path.split_last()?;
        if !self.may_hide(&path) {
            return None;
        }
        let (own, lower): (Vec<_>, Vec<_>) =
            self.below(&path, true).into_iter().partition(|(_, there)| there.layer == self.layer);
        if !own.is_empty() {
            self.done.insert(format!(
                "whiteout after the entry, {} below",
                if lower.is_empty() { "nothing" } else { "lower ones" }
            ));
        }
        self.hide(lower);
        let name = [above, &[[b".wh.", name.as_slice()].concat()]].concat();
        self.done.insert("whiteout".to_owned());
        Some(Entry::file(self.spelled(&name), b""))
    }

    fn opaque(&mut self) -> Option<Entry> {
        let mut path = self.path();
        if self.chance(4) {
            path.clear();
        }
        if !self.may_hide(&path) || self.there.get(&path).is_some_and(|there| there.kind == Kind::Symlink) {
            return None;
        }
        let (own, lower): (Vec<_>, Vec<_>) =
            self.below(&path, false).into_iter().partition(|(_, there)| there.layer == self.layer);
        for (list, word) in [(own, "after an entry below it"), (lower.clone(), "over lower ones")] {
            if !list.is_empty() {
                self.done.insert(format!("opaque {word}"));
            }
        }
        self.hide(lower);
        let name = [path.as_slice(), &[b".wh..wh..opq".to_vec()]].concat();
        Some(Entry::file(self.spelled(&name), b""))
    }

    /// Whether no link is above `path`, and none was made to what it hides.
    fn may_hide(&self, path: &[Vec<u8>]) -> bool {
        let mut above = (1..path.len()).filter_map(|length| self.there.get(&path[..length]));
        above.all(|there| there.kind != Kind::Symlink) && !self.linked.iter().any(|target| target.starts_with(path))
    }

    /// What is below `path`, and at it if `with`.
    fn below(&self, path: &[Vec<u8>], with: bool) -> Vec<(Path, There)> {
        let within = self.there.range(path.to_vec()..).take_while(|(at, _)| at.starts_with(path));
        within.filter(|(at, _)| with || at.len() > path.len()).map(|(at, there)| (at.clone(), *there)).collect()
    }

    /// Takes away what is of lower layers, but for directories above what this layer has.
    fn hide(&mut self, lower: Vec<(Path, There)>) {
        for (path, _) in lower {
            let holds = self.below(&path, false).iter().any(|(_, there)| there.layer == self.layer);
            if !holds {
                self.there.remove(&path);
            }
        }
    }

    fn put(&mut self, path: &[Vec<u8>], kind: Kind) {
        for length in 1..path.len() {
            let implicit = There { kind: Kind::Directory, layer: self.layer };
            self.there.entry(path[..length].to_vec()).or_insert(implicit);
        }
        let was = self.there.get(path).map(|there| there.kind);
        if kind != Kind::Directory || was.is_some_and(|was| was != Kind::Directory) {
            for (below, _) in self.below(path, true) {
                self.there.remove(&below);
            }
        }
        self.there.insert(path.to_vec(), There { kind, layer: self.layer });
    }
}
