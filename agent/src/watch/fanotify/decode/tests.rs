//! The bytes are those that Linux 6.18 wrote about an ext4 file system, on a little-endian machine.
#![cfg(target_endian = "little")]

use proptest::prelude::*;

use super::*;

const FSID: u64 = 0x515b_d5f3_d659_69fb;
const TOP: Object<'_> = Object { fsid: FSID, kind: 1, handle: &[2, 0, 0, 0, 0, 0, 0, 0] };
const DIRECTORY_D: Object<'_> = Object { fsid: FSID, kind: 1, handle: &[1, 8, 0, 0, 0xe3, 0x3a, 0x60, 0x52] };
const FILE: Object<'_> = Object { fsid: FSID, kind: 1, handle: &[12, 0, 0, 0, 0x14, 0x77, 0x5e, 0x33] };
const PID: i32 = 0x4ac9;

const CREATE: &str = "58000000030018000801000000000000ffffffffc94a000002002400fb6959d6f3d55b510800000001000000020000000000000066696c650000000001001c00fb6959d6f3d55b5108000000010000000c00000014775e33";
const MKDIR: &str = "54000000030018000001004000000000ffffffffc94a000002002000fb6959d6f3d55b51080000000100000002000000000000006400000001001c00fb6959d6f3d55b51080000000100000001080000e33a6052";
const RENAME: &str = "7c000000030018000000001000000000ffffffffc94a00000a002400fb6959d6f3d55b510800000001000000020000000000000066696c65000000000c002400fb6959d6f3d55b51080000000100000001080000e33a60526f7468657200000001001c00fb6959d6f3d55b5108000000010000000c00000014775e33";
const CHMOD: &str =
    "38000000030018000400004000000000ffffffffc94a000002002000fb6959d6f3d55b51080000000100000001080000e33a60522e000000";
const LINK: &str = "34000000030018000400000000000000ffffffffc94a000001001c00fb6959d6f3d55b5108000000010000000c00000014775e3354000000030018000001000000000000ffffffffc94a000002002000fb6959d6f3d55b51080000000100000002000000000000006c00000001001c00fb6959d6f3d55b5108000000010000000c00000014775e33";
/// Before Linux 5.17, or asked for so: each end on its own, without the object.
const MOVED: &str = "3c000000030018004000000000000000ffffffffc94a000002002400fb6959d6f3d55b51080000000100000001080000e33a60526f74686572000000";
/// With a descriptor of the process, which is a record of a type that is not read here.
const PROCESS: &str = "5c000000030018000400000000000000ffffffffc94a000002002000fb6959d6f3d55b51080000000100000002000000000000006f00000001001c00fb6959d6f3d55b5108000000010000000c00000014775e330400080004000000";
const OVERFLOW: &str = "18000000030018000040000000000000ffffffff00000000";
const ALL: [&str; 8] = [CREATE, MKDIR, RENAME, CHMOD, LINK, MOVED, PROCESS, OVERFLOW];

fn bytes(hex: &str) -> Vec<u8> {
    hex::decode(hex).unwrap()
}

fn at<'a>(directory: Object<'a>, name: &'a [u8]) -> Option<Entry<'a>> {
    Some(Entry { directory, name })
}

#[test]
fn what_the_kernel_wrote_is_read() {
    let event = |mask| Event { mask, pid: PID, ..Event::default() };
    let file = Some(FILE);
    for (hex, expected) in [
        (CREATE, vec![Event { entry: at(TOP, b"file"), object: file, ..event(0x108) }]),
        (MKDIR, vec![Event { entry: at(TOP, b"d"), object: Some(DIRECTORY_D), ..event(0x4000_0100) }]),
        (
            RENAME,
            vec![Event { old: at(TOP, b"file"), new: at(DIRECTORY_D, b"other"), object: file, ..event(0x1000_0000) }],
        ),
        (CHMOD, vec![Event { entry: at(DIRECTORY_D, b"."), ..event(0x4000_0004) }]),
        (LINK, vec![Event { object: file, ..event(4) }, Event { entry: at(TOP, b"l"), object: file, ..event(0x100) }]),
        (MOVED, vec![Event { entry: at(DIRECTORY_D, b"other"), ..event(0x40) }]),
        (PROCESS, vec![Event { entry: at(TOP, b"o"), object: file, ..event(4) }]),
        (OVERFLOW, vec![Event { mask: 0x4000, ..Event::default() }]),
    ] {
        let bytes = bytes(hex);
        assert_eq!(Events::new(&bytes).collect::<Result<Vec<_>, _>>(), Ok(expected), "{hex}");
    }
    let all = bytes(&ALL.concat());
    assert_eq!(Events::new(&all).filter(Result::is_ok).count(), 9);
}

#[test]
fn a_directory_without_a_name_is_the_place_itself() {
    let mut bytes = bytes(CHMOD);
    // The form without a name ends where the handle ends.
    bytes.truncate(24 + 28);
    (bytes[0], bytes[24], bytes[26]) = (52, DIRECTORY, 28);
    let expected = Event { mask: 0x4000_0004, pid: PID, entry: at(DIRECTORY_D, b""), ..Event::default() };
    assert_eq!(Events::new(&bytes).collect::<Vec<_>>(), [Ok(expected)]);
}

#[test]
fn what_the_kernel_does_not_write_ends_the_reading() {
    let change = |at: usize, to: u8| {
        let mut bytes = bytes(&[CREATE, OVERFLOW].concat());
        bytes[at] = to;
        bytes
    };
    for (what, bytes) in [
        ("an event of no length", change(0, 0)),
        ("an event longer than there is", change(1, 1)),
        ("an event shorter than its metadata", change(0, 23)),
        ("another version", change(4, 4)),
        ("metadata shorter than they are", change(6, 23)),
        ("metadata longer than the event", change(7, 1)),
        ("a record of no length", change(26, 0)),
        ("a record longer than the event", change(27, 1)),
        ("a handle longer than its record", change(36, 0xff)),
        ("a name without an end", change(26, 32)),
    ] {
        assert_eq!(Events::new(&bytes).collect::<Vec<_>>(), [Err(Malformed)], "{what}");
    }
}

proptest! {
    #[test]
    fn any_bytes_come_to_an_end(
        which in proptest::sample::subsequence(ALL.to_vec(), 1..4),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
        len in any::<proptest::sample::Index>(),
    ) {
        let mut bytes = bytes(&which.concat());
        for (at, to) in changes {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        bytes.truncate(len.index(bytes.len()) + 1);
        let events: Vec<_> = Events::new(&bytes).collect();
        prop_assert!(events.len() <= bytes.len() / METADATA + 1);
        let malformed = events.iter().position(Result::is_err);
        prop_assert!(malformed.is_none_or(|at| at == events.len() - 1));
    }
}
