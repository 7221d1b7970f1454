//! Owns ids of users and groups as they are called inside a user namespace: ranges, their two spellings, and translating
//! an id, and what holds ids, into that view. Must not own reading a map, or whose map it is.

use std::fmt;
use std::str::FromStr;

use driftlock_common::path::Escaped;
use driftlock_common::profile::normal_capability;

/// What a user namespace calls every id that has no name in it (`/proc/sys/kernel/overflowuid`, unless changed).
pub const OVERFLOW: u32 = 65534;
/// No id: what the kernel writes where there is none.
const INVALID: u32 = u32::MAX;
/// As many ranges as the kernel takes (user_namespaces(7)).
const MAX_RANGES: usize = 340;

/// Whose view ids are compared in.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum IdView {
    /// In the root of a process, that of its user namespace; in a directory, as they are.
    #[default]
    Auto,
    /// As this process sees them.
    AsSeen,
    /// Through this map.
    Mapped(IdMap),
}

/// The way of ids from this process's view into another. The default changes none.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct IdMap(Option<Box<Maps>>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Maps {
    users: Vec<Range>,
    groups: Vec<Range>,
}

/// Ids from `outside` on are called as those from `inside` on. Neither side goes beyond the last id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    inside: u32,
    outside: u32,
    count: u32,
}

/// Why a text is no map.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdMapError {
    /// Not the words, nor ranges.
    #[error("\"{}\" is not INSIDE:OUTSIDE:COUNT, three whole numbers", Escaped(.0.as_bytes()))]
    Form(String),
    /// A range of nothing.
    #[error("{0} has no ids: COUNT is at least 1")]
    Empty(String),
    /// More ids than there are.
    #[error("{0} goes beyond the last id, 4294967294")]
    Beyond(String),
    /// One id, two names.
    #[error("{0} and {1} overlap")]
    Overlap(String, String),
    /// More than the kernel would take.
    #[error("there are more than 340 ranges")]
    Many,
    /// Not what the kernel writes.
    #[error("line {0} of the process's id map is not three numbers")]
    Kernel(usize),
}

// === impl IdView ===

impl FromStr for IdView {
    type Err = IdMapError;

    /// `auto`, `none`, or ranges as [`IdMap::parse`] reads them.
    fn from_str(text: &str) -> Result<Self, IdMapError> {
        match text {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::AsSeen),
            _ => IdMap::parse(text).map(Self::Mapped),
        }
    }
}

impl fmt::Display for IdView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::AsSeen => f.write_str("none"),
            Self::Mapped(map) => map.fmt(f),
        }
    }
}

// === impl IdMap ===

impl IdMap {
    /// Reads ranges for users and groups alike, `INSIDE:OUTSIDE:COUNT` with commas between them: the order of podman's
    /// `--uidmap`.
    ///
    /// # Errors
    /// If it is not that, if a range is empty or goes beyond the last id, or if two overlap on either side.
    pub fn parse(text: &str) -> Result<Self, IdMapError> {
        let ranges = text.split(',').map(range).collect::<Result<Vec<Range>, _>>()?;
        if ranges.len() > MAX_RANGES {
            return Err(IdMapError::Many);
        }
        for side in [|range: &Range| range.inside, |range: &Range| range.outside] {
            let mut sorted = ranges.clone();
            sorted.sort_by_key(side);
            let overlap =
                sorted.windows(2).find(|pair| u64::from(side(&pair[0])) + pair[0].len() > side(&pair[1]).into());
            if let Some(pair) = overlap {
                return Err(IdMapError::Overlap(pair[0].to_string(), pair[1].to_string()));
            }
        }
        Ok(Self(Some(Box::new(Maps { users: ranges.clone(), groups: ranges }))))
    }

    /// Reads `/proc/PID/uid_map` and `gid_map` (user_namespaces(7)), as a process of another user namespace finds them.
    ///
    /// # Errors
    /// If a line is not what the kernel writes.
    pub fn of_kernel(users: &[u8], groups: &[u8]) -> Result<Self, IdMapError> {
        let maps = Maps { users: kernel_ranges(users)?, groups: kernel_ranges(groups)? };
        let all = [Range { inside: 0, outside: 0, count: INVALID }];
        Ok(if maps.users == all && maps.groups == all { Self::default() } else { Self(Some(Box::new(maps))) })
    }

    /// What a user is called.
    pub fn user(&self, id: u32) -> u32 {
        self.0.as_ref().map_or(id, |maps| inside(&maps.users, id).unwrap_or(OVERFLOW))
    }

    /// What a group is called.
    pub fn group(&self, id: u32) -> u32 {
        self.0.as_ref().map_or(id, |maps| inside(&maps.groups, id).unwrap_or(OVERFLOW))
    }

    /// The value of `security.capability`, in the one form that a tree holds. One that is bound to a root user
    /// (revision 3: linux/capability.h, `struct vfs_ns_cap_data`) is bound to what that one is called; for the root user
    /// inside it is revision 2, which is what is read there.
    pub fn capability(&self, value: &[u8]) -> Vec<u8> {
        const REVISION_3: u8 = 3;
        let mut value = value.to_vec();
        if value.len() == 24
            && value[3] == REVISION_3
            && let Some(root) = value.last_chunk_mut::<4>()
        {
            *root = self.user(u32::from_le_bytes(*root)).to_le_bytes();
        }
        normal_capability(&value)
    }

    /// The value of `system.posix_acl_access` or `system.posix_acl_default` (linux/posix_acl_xattr.h). Who has no name
    /// inside is there as no id, which is what is read there. Other bytes stay as they are.
    pub fn acl(&self, value: &[u8]) -> Vec<u8> {
        const VERSION: [u8; 4] = 2_u32.to_le_bytes();
        const USER: u16 = 2;
        const GROUP: u16 = 8;
        let mut value = value.to_vec();
        let Some(maps) = &self.0 else { return value };
        let Some((VERSION, entries)) = value.split_first_chunk_mut::<4>().map(|(head, rest)| (*head, rest)) else {
            return value;
        };
        for entry in entries.chunks_exact_mut(8) {
            let ranges = match u16::from_le_bytes([entry[0], entry[1]]) {
                USER => &maps.users,
                GROUP => &maps.groups,
                _ => continue,
            };
            if let Some(id) = entry.last_chunk_mut::<4>() {
                *id = inside(ranges, u32::from_le_bytes(*id)).unwrap_or(INVALID).to_le_bytes();
            }
        }
        value
    }
}

impl fmt::Display for IdMap {
    /// The users' ranges, as [`IdMap::parse`] reads them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ranges = self.0.iter().flat_map(|maps| &maps.users);
        for (index, range) in ranges.enumerate() {
            write!(f, "{}{range}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

// === impl Range ===

impl Range {
    /// `None` if it is empty or goes beyond the last id on either side.
    fn new(inside: u32, outside: u32, count: u32) -> Option<Self> {
        let fits = |start: u32| start.checked_add(count).is_some();
        (count > 0 && fits(inside) && fits(outside)).then_some(Self { inside, outside, count })
    }

    const fn len(&self) -> u64 {
        self.count as u64
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.inside, self.outside, self.count)
    }
}

/// What an id is called; `None` if it has no name.
fn inside(ranges: &[Range], id: u32) -> Option<u32> {
    ranges.iter().find_map(|range| {
        let offset = id.checked_sub(range.outside).filter(|offset| *offset < range.count)?;
        Some(range.inside + offset)
    })
}

fn range(text: &str) -> Result<Range, IdMapError> {
    let form = || IdMapError::Form(text.to_owned());
    let numbers = text.split(':').map(|part| digits(part.as_bytes())).collect::<Option<Vec<u64>>>();
    let [inside, outside, count] = numbers.ok_or_else(form)?[..] else { return Err(form()) };
    if count == 0 {
        return Err(IdMapError::Empty(text.to_owned()));
    }
    let [Ok(inside), Ok(outside), Ok(count)] = [inside, outside, count].map(u32::try_from) else {
        return Err(IdMapError::Beyond(text.to_owned()));
    };
    Range::new(inside, outside, count).ok_or_else(|| IdMapError::Beyond(text.to_owned()))
}

/// A number of at most 19 digits; the parser of the language would take a sign.
fn digits(text: &[u8]) -> Option<u64> {
    let all = (1..20).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    all.then(|| text.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

fn kernel_ranges(text: &[u8]) -> Result<Vec<Range>, IdMapError> {
    let mut ranges = Vec::new();
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
        let wrong = IdMapError::Kernel(index + 1);
        let words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        let numbers: Option<Vec<u32>> = words.map(|word| digits(word).and_then(|n| u32::try_from(n).ok())).collect();
        let Some([inside, outside, count]) = numbers.as_deref() else { return Err(wrong) };
        // What has no name outside can be nobody whom this process sees.
        if *outside != INVALID {
            ranges.push(Range::new(*inside, *outside, *count).ok_or(wrong)?);
        }
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn ids_are_called_as_the_ranges_say() {
        let map = IdMap::parse("0:100000:65536,70000:5:1,1000000:4294967290:5").unwrap();
        for (seen, called) in [
            (100_000, 0),
            (100_033, 33),
            (165_535, 65_535),
            (165_536, OVERFLOW),
            (5, 70_000),
            (4, OVERFLOW),
            (6, OVERFLOW),
            (0, OVERFLOW),
            (4_294_967_290, 1_000_000),
            (4_294_967_294, 1_000_004),
            (4_294_967_295, OVERFLOW),
        ] {
            assert_eq!((map.user(seen), map.group(seen)), (called, called), "{seen}");
        }
        for id in [0, 33, OVERFLOW, u32::MAX] {
            assert_eq!((IdMap::default().user(id), IdMap::default().group(id)), (id, id));
        }
    }

    #[test]
    fn views_have_words() {
        for (text, view) in [
            ("auto", IdView::Auto),
            ("none", IdView::AsSeen),
            ("0:1000:1,1:100000:65536", IdView::Mapped(IdMap::parse("0:1000:1,1:100000:65536").unwrap())),
            ("0:0:4294967295", IdView::Mapped(IdMap::parse("0:0:4294967295").unwrap())),
        ] {
            assert_eq!(text.parse(), Ok(view.clone()));
            assert_eq!(view.to_string(), text);
        }
        assert_eq!(IdView::default(), IdView::Auto);
    }

    #[test]
    fn what_is_no_map_is_refused_in_one_line() {
        for (text, says) in [
            ("", "\"\" is not INSIDE:OUTSIDE:COUNT, three whole numbers"),
            ("Auto", "\"Auto\" is not INSIDE"),
            ("0", "\"0\" is not INSIDE"),
            ("0:1", "\"0:1\" is not INSIDE"),
            ("0:1:2:3", "\"0:1:2:3\" is not INSIDE"),
            ("0:1:2,", "\"\" is not INSIDE"),
            ("0:1:2, 5:6:7", "\" 5:6:7\" is not INSIDE"),
            ("0:-1:2", "\"0:-1:2\" is not INSIDE"),
            ("+0:1:2", "\"+0:1:2\" is not INSIDE"),
            ("0:1:0x2", "\"0:1:0x2\" is not INSIDE"),
            ("0:1:\x1b[31m\n", "\"0:1:\\x1b[31m\\x0a\" is not INSIDE"),
            ("00000000000000000000:1:2", "is not INSIDE"),
            ("0:1:0", "0:1:0 has no ids"),
            ("0:1:4294967295", "0:1:4294967295 goes beyond the last id, 4294967294"),
            ("4294967295:0:1", "4294967295:0:1 goes beyond the last id"),
            ("4294967296:0:1", "4294967296:0:1 goes beyond the last id"),
            ("0:0:9999999999999999999", "0:0:9999999999999999999 goes beyond the last id"),
            ("0:1000:10,9:2000:10", "0:1000:10 and 9:2000:10 overlap"),
            ("0:1000:10,10:1009:10", "0:1000:10 and 10:1009:10 overlap"),
            ("5:1:1,0:100000:65536", "0:100000:65536 and 5:1:1 overlap"),
            ("0:0:4294967295,0:0:4294967295", "0:0:4294967295 and 0:0:4294967295 overlap"),
            (&["0:0:1"; 341].join(","), "there are more than 340 ranges"),
        ] {
            let said = text.parse::<IdView>().unwrap_err().to_string();
            assert!(said.contains(says) && !said.contains(char::is_control), "{text:?}: {said}");
        }
    }

    #[test]
    fn what_the_kernel_writes_is_read() {
        let of = |text: &[u8]| IdMap::of_kernel(text, text);
        let whole = b"         0          0 4294967295\n";
        assert_eq!(of(whole), Ok(IdMap::default()));
        let shifted = of(b"         0     100000      65536\n     70000          5          1\n").unwrap();
        assert_eq!(shifted.to_string(), "0:100000:65536,70000:5:1");
        let users_alone = IdMap::of_kernel(b"0 100000 65536\n", whole).unwrap();
        assert_eq!((users_alone.user(100_001), users_alone.group(100_001)), (1, 100_001));
        // Of a namespace that has no map yet nobody has a name; of what this process cannot see, nobody whom it sees.
        for text in [&b""[..], b"0 4294967295 10\n"] {
            assert_eq!((of(text).unwrap().user(0), of(text).unwrap().group(4_294_967_295)), (OVERFLOW, OVERFLOW));
        }
        for (text, line) in [
            (&b"0 0\n"[..], 1),
            (b"0 0 1 1\n", 1),
            (b"0 0 1\n0 x 1\n", 2),
            (b"0 0 0\n", 1),
            (b"0 1 4294967295\n", 1),
            (b"0 0 4294967296\n", 1),
        ] {
            assert_eq!(of(text), Err(IdMapError::Kernel(line)), "{}", Escaped(text));
        }
    }

    #[test]
    fn capabilities_are_bound_to_what_their_root_is_called() {
        let map = IdMap::parse("0:100000:65536").unwrap();
        let two: Vec<u8> = [0x01, 0, 0, 2].into_iter().chain([7; 16]).collect();
        let three =
            |root: u32| -> Vec<u8> { [1, 0, 0, 3].into_iter().chain([7; 16]).chain(root.to_le_bytes()).collect() };
        for (map, value, expected) in [
            (&map, three(100_000), two.clone()),
            (&map, three(100_005), three(5)),
            (&map, three(0), three(OVERFLOW)),
            (&map, two.clone(), two.clone()),
            (&map, vec![3; 23], vec![3; 23]),
            (&map, Vec::new(), Vec::new()),
            (&IdMap::default(), three(100_000), three(100_000)),
            (&IdMap::default(), three(0), two.clone()),
            (&IdMap::default(), three(u32::MAX), three(u32::MAX)),
        ] {
            assert_eq!(map.capability(&value), expected, "{value:?}");
        }
    }

    #[test]
    fn access_lists_name_who_is_meant() {
        let list = |users: [u32; 2], group: u32| -> Vec<u8> {
            let entries = [(1, u32::MAX), (2, users[0]), (2, users[1]), (4, u32::MAX), (8, group), (0x20, u32::MAX)];
            let entries =
                entries.map(|(tag, id): (u16, u32)| [&tag.to_le_bytes()[..], &[6, 0], &id.to_le_bytes()].concat());
            [&2_u32.to_le_bytes()[..], &entries.concat()].concat()
        };
        let map = IdMap::of_kernel(b"0 100000 10\n", b"0 200000 10\n").unwrap();
        assert_eq!(map.acl(&list([100_005, 200_005], 200_006)), list([5, u32::MAX], 6));
        assert_eq!(IdMap::default().acl(&list([5, 6], 7)), list([5, 6], 7));
        let mut other = list([100_005, 100_006], 200_006);
        other[0] = 3;
        assert_eq!(map.acl(&other), other, "another version");
        other.truncate(3);
        assert_eq!(map.acl(&other), other);
    }

    /// Ranges that do not overlap, from gaps and lengths on each side.
    fn disjoint() -> impl Strategy<Value = Vec<(u32, u32, u32)>> {
        vec((0_u32..5000, 0_u32..5000, 1_u32..5000), 1..20).prop_map(|steps| {
            let (mut inside, mut outside) = (0, 0);
            let place = |(a, b, count)| {
                let range = (inside + a, outside + b, count);
                (inside, outside) = (range.0 + count, range.1 + count);
                range
            };
            steps.into_iter().map(place).collect()
        })
    }

    proptest! {
        #[test]
        fn every_id_of_a_range_has_its_name_and_no_other_has_one(
            ranges in disjoint(), shuffle in any::<u64>(), probes in vec(0_u32..150_000, 50),
        ) {
            let mut parts: Vec<String> = ranges.iter().map(|(i, o, n)| format!("{i}:{o}:{n}")).collect();
            let by = usize::try_from(shuffle % parts.len() as u64).unwrap();
            parts.rotate_left(by);
            let map = IdMap::parse(&parts.join(",")).unwrap();
            prop_assert_eq!(IdMap::parse(&map.to_string()).unwrap(), map.clone());
            for id in probes {
                // The rule itself: at most one range has it.
                let mut names = ranges.iter().filter(|(_, o, n)| (*o..o + n).contains(&id)).map(|(i, o, _)| i + (id - o));
                let expected = names.next().unwrap_or(OVERFLOW);
                prop_assert!(names.next().is_none());
                prop_assert_eq!((map.user(id), map.group(id)), (expected, expected));
            }
        }

        #[test]
        fn nothing_breaks_it(
            text in "[0-9:,]{0,40}|(0:|4294967295:|1,|:){0,12}|.{0,30}",
            bytes in vec(prop_oneof![Just(b' '), Just(b'\n'), b'0'..=b'9', any::<u8>()], 0..60),
            value in vec(prop_oneof![Just(2_u8), Just(3), Just(0), Just(8), any::<u8>()], 0..60),
            id in any::<u32>(),
        ) {
            let maps = [IdMap::parse(&text).ok(), IdMap::of_kernel(&bytes, &bytes).ok()];
            for map in maps.into_iter().flatten() {
                prop_assert!(map.user(id) == map.group(id));
                prop_assert_eq!(map.acl(&value).len(), value.len());
                prop_assert!(map.capability(&value).len() <= value.len());
            }
        }
    }
}
