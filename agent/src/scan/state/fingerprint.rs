//! Owns what stat says of an entry as 64 bits, and when stat can be relied on at all. Must not own which entry it is.

use rustix::fs::FsWord;
use rustix::time::{ClockId, clock_gettime};

use super::super::Root;
use super::super::open::Stat;

/// The secret that fingerprints are made under. Without it nobody can look for another file with the same one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Key(pub(super) [u8; 32]);

/// Which inodes hold still long enough to be remembered: a file that is written twice within a tick of the clock has one
/// time for both. That is git's "racy" rule (git, `Documentation/technical/racy-git.txt`).
#[derive(Clone, Copy, Debug)]
pub(super) struct Settled {
    /// Changed before this, in nanoseconds since 1970; `None`: nothing on this file system is settled ever.
    before: Option<i64>,
    /// The root's mount: what is on another is not known to keep time as well.
    top: Stat,
}

const MILLISECOND: i64 = 1_000_000;

impl Key {
    pub(super) fn random() -> Self {
        Self(super::cycle::random_bytes())
    }

    /// Never 0 and never [`APART`](super::APART).
    pub(super) fn fingerprint(self, stat: &Stat) -> u64 {
        let nanoseconds = |(seconds, nanos): (i64, u32)| seconds.wrapping_mul(1_000_000_000).wrapping_add(nanos.into());
        // One block of BLAKE3.
        let mut bytes = [0; 64];
        let mut rest = &mut bytes[..];
        let mut put = |field: &[u8]| {
            let (place, behind) = std::mem::take(&mut rest).split_at_mut(field.len());
            place.copy_from_slice(field);
            rest = behind;
        };
        put(&stat.dev.to_le_bytes());
        put(&stat.ino.to_le_bytes());
        put(&stat.size.to_le_bytes());
        put(&nanoseconds(stat.mtime).to_le_bytes());
        put(&nanoseconds(stat.ctime).to_le_bytes());
        put(&stat.uid.to_le_bytes());
        put(&stat.gid.to_le_bytes());
        put(&stat.links.to_le_bytes());
        // Device numbers have 12 and 20 bits (linux/kdev_t.h); a file type is a byte.
        put(&(stat.device.major << 20 | stat.device.minor & 0xf_ffff).to_le_bytes());
        put(&stat.mode.to_le_bytes());
        put(&[stat.file_type.byte()]);
        let digest = blake3::keyed_hash(&self.0, &bytes);
        let first = digest.as_bytes().first_chunk().copied().unwrap_or_default();
        u64::from_le_bytes(first).max(super::APART + 1)
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Settled {
    /// For a comparison of `root` that begins now.
    pub(super) fn on(root: &Root) -> Self {
        let now = clock_gettime(ClockId::Realtime);
        let now = now.tv_sec.wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec);
        let (kind, _) = root.file_system();
        Self { before: kind.and_then(granularity).map(|margin| now.saturating_sub(margin)), top: *root.stat() }
    }

    /// Whether an inode that was found like this cannot change any more without its times changing too.
    pub(super) fn holds(&self, stat: &Stat) -> bool {
        let (seconds, nanos) = stat.ctime;
        let ctime = seconds.saturating_mul(1_000_000_000).saturating_add(nanos.into());
        self.before.is_some_and(|before| ctime < before) && stat.same_mount(&self.top)
    }
}

/// How far apart two changes may be and still have one time, by `statfs`'s type of file system, with reserve. `None` for
/// what keeps another machine's time, or a program's.
const fn granularity(kind: FsWord) -> Option<i64> {
    match kind.cast_unsigned() & 0xffff_ffff {
        // Those of linux/magic.h that keep nanoseconds by this kernel's clock, which moves once a tick, of which the
        // longest is 10 ms: ext, xfs, btrfs, tmpfs, overlayfs, f2fs, erofs, squashfs, bcachefs, zfs.
        0xef53 | 0x5846_5342 | 0x9123_683e | 0x0102_1994 | 0x794c_7630 | 0xf2f5_2010 | 0xe0f5_e1e2 | 0x7371_7368
        | 0xca45_1a4e | 0x2fc1_2fc1 => Some(20 * MILLISECOND),
        // FAT and exFAT keep two seconds.
        0x4d44 | 0x2011_bab0 => Some(2_000 * MILLISECOND),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use driftlock_common::node::FileType;

    use super::super::super::open::{stat_at, stat_fd};
    use super::*;

    #[test]
    fn every_field_counts() {
        let temp = tempfile::tempdir().unwrap();
        let root = Root::open(temp.path()).unwrap();
        let stat = stat_fd(root.as_fd()).unwrap();
        let key = Key([7; 32]);
        let mut seen = vec![key.fingerprint(&stat)];
        let mut changed = |change: &dyn Fn(&mut Stat)| {
            let mut other = stat;
            change(&mut other);
            assert_ne!(other, stat, "a change that is none");
            seen.push(key.fingerprint(&other));
        };
        changed(&|stat| stat.dev ^= 1 << 63);
        changed(&|stat| stat.ino ^= 1);
        changed(&|stat| stat.size ^= 1 << 40);
        changed(&|stat| stat.mtime.0 += 1);
        changed(&|stat| stat.mtime.1 ^= 1);
        changed(&|stat| stat.ctime.0 -= 1);
        changed(&|stat| stat.ctime.1 ^= 1);
        changed(&|stat| stat.mode ^= 0o4000);
        changed(&|stat| stat.uid ^= 1 << 31);
        changed(&|stat| stat.gid ^= 1);
        changed(&|stat| stat.links += 1);
        changed(&|stat| stat.device.major += 1);
        changed(&|stat| stat.device.minor += 1);
        changed(&|stat| stat.file_type = FileType::File);
        seen.push(Key([8; 32]).fingerprint(&stat));
        let all = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), all);
    }

    #[test]
    fn what_just_changed_is_not_settled_and_what_is_older_is() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("young"), "").unwrap();
        let root = Root::open(temp.path()).unwrap();
        let young = stat_at(root.as_fd(), c"young").unwrap();
        let settled = Settled::on(&root);
        assert!(!settled.holds(&young), "changed within the last 20 ms, or on a file system that is not relied on");
        let with_ctime = |ctime| {
            let mut other = young;
            other.ctime = ctime;
            other
        };
        if settled.before.is_some() {
            assert!(settled.holds(&with_ctime((young.ctime.0 - 1, 0))));
            assert!(!settled.holds(&with_ctime((young.ctime.0 + 3600, 0))), "the clock was set back since");
            assert!(!settled.holds(&with_ctime((i64::MAX, 0))));
        }
        for (kind, relied_on) in
            [(0xef53, true), (0x0102_1994, true), (0x6969, false), (0x6573_5546, false), (0, false)]
        {
            assert_eq!(granularity(kind).is_some(), relied_on, "{kind:x}");
        }
    }
}
