//! Owns hashing a file that grows: all of it once, then what was written since. Must not own what its digests mean.

use std::hash::{BuildHasher as _, RandomState};
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use driftlock_common::digest::{Algorithm, Digest};
use rustix::io::{Errno, pread};
use sha2::Digest as _;

use super::super::open::{Trouble, of_opened};
use super::super::reader::{self, Source};

/// Bytes at the beginning and at the end of what was read that are read again before more is: who truncates a file and
/// writes it anew does not write the same there.
const EDGE: usize = 4096;
/// Read at once of what was written since.
const BUFFER: usize = 64 * 1024;

/// The hashers of a file, and what tells that it still has what they have read.
#[derive(Clone, Debug)]
pub(super) struct Running {
    blake3: blake3::Hasher,
    /// Where the manifest has SHA-256.
    sha256: Option<sha2::Sha256>,
    length: u64,
    mtime: (i64, u32),
    edges: [Digest; 2],
    /// When everything is read again.
    due: Instant,
}

impl Running {
    /// Reads a file as far as it went when it was looked at, everything of it. Beside the hashers the BLAKE3 of its first
    /// bytes, for each length of `marks` that is not beyond it, and by `algorithm` too.
    pub(super) fn whole(
        source: Source<'_>,
        algorithm: Algorithm,
        marks: &[u64],
        full: Duration,
    ) -> Result<(Self, Vec<Mark>), Trouble> {
        let mut running = Self {
            blake3: blake3::Hasher::new(),
            sha256: (algorithm == Algorithm::Sha256).then(sha2::Sha256::new),
            length: 0,
            mtime: source.stat.mtime,
            edges: [Digest::blake3(b""); 2],
            due: Instant::now() + sometime(full),
        };
        let size = source.stat.size;
        let mut marks: Vec<u64> = marks.iter().copied().filter(|mark| *mark <= size).collect();
        marks.sort_unstable();
        marks.dedup();
        let mut passed = Vec::with_capacity(marks.len());
        let mut ahead = marks.into_iter().peekable();
        while ahead.next_if_eq(&0).is_some() {
            passed.push(running.mark());
        }
        let all = reader::read(source, 0..size, |mut read| {
            if running.length == size {
                // It grows as it is read.
                return Err(Trouble::Interrupted);
            }
            let left = usize::try_from(size - running.length).unwrap_or(usize::MAX);
            read = &read[..read.len().min(left)];
            while let Some(mark) =
                ahead.peek().map(|mark| usize::try_from(*mark - running.length).unwrap_or(usize::MAX))
                && mark <= read.len()
            {
                let (before, behind) = read.split_at(mark);
                running.update(before);
                passed.push(running.mark());
                ahead.next();
                read = behind;
            }
            running.update(read);
            Ok(())
        });
        match all {
            Err(Trouble::Interrupted) if running.length == size => {}
            all => all?,
        }
        running.finish(source)?;
        Ok((running, passed))
    }

    /// Whether reading what is behind is enough, as far as can be told without reading what was read before.
    pub(super) fn goes_on_in(&self, source: Source<'_>) -> bool {
        let stat = source.stat;
        let written_in_place = stat.size == self.length && stat.mtime != self.mtime;
        stat.size >= self.length
            && !written_in_place
            && Instant::now() < self.due
            && edges(source.fd, self.length).is_ok_and(|edges| edges == self.edges)
    }

    /// Reads what was written since, as far as the file went when it was looked at: how many bytes.
    pub(super) fn tail(&mut self, source: Source<'_>) -> Result<u64, Trouble> {
        let mut buffer = vec![0; BUFFER];
        let begun = self.length;
        while self.length < source.stat.size {
            let left = usize::try_from(source.stat.size - self.length).unwrap_or(BUFFER).min(BUFFER);
            let len = match pread(source.fd, &mut buffer[..left], self.length) {
                Ok(0) => return Err(Trouble::Moved),
                Ok(len) => len,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(of_opened(error).into()),
            };
            self.update(&buffer[..len]);
            if let Some(progress) = source.progress {
                progress.count_bytes(len);
            }
            if source.cancel.load(Ordering::Relaxed) {
                return Err(Trouble::Interrupted);
            }
            if let Some(pace) = source.pace {
                pace.read(len, source.cancel);
            }
        }
        self.finish(source)?;
        Ok(self.length - begun)
    }

    /// BLAKE3 of what was read.
    pub(super) fn blake3(&self) -> Digest {
        self.blake3.finalize().into()
    }

    /// The digest of what was read by the manifest's algorithm.
    pub(super) fn content(&self) -> Digest {
        match &self.sha256 {
            Some(hasher) => Digest::from_bytes(hasher.clone().finalize().into()),
            None => self.blake3(),
        }
    }

    fn mark(&self) -> Mark {
        Mark { length: self.length, blake3: self.blake3(), content: self.content() }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.blake3.update(bytes);
        if let Some(hasher) = &mut self.sha256 {
            hasher.update(bytes);
        }
        self.length += bytes.len() as u64;
    }

    /// Everything was read: notes by what it is known again.
    fn finish(&mut self, source: Source<'_>) -> Result<(), Trouble> {
        if self.length != source.stat.size {
            return Err(Trouble::Moved);
        }
        self.mtime = source.stat.mtime;
        self.edges = edges(source.fd, self.length)?;
        Ok(())
    }
}

/// The digests of the first bytes of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) length: u64,
    pub(super) blake3: Digest,
    pub(super) content: Digest,
}

fn edges(fd: BorrowedFd<'_>, length: u64) -> Result<[Digest; 2], Trouble> {
    let mut buffer = [0; EDGE];
    let most = usize::try_from(length).unwrap_or(EDGE).min(EDGE);
    let mut edge = |at| {
        let len = pread(fd, &mut buffer[..most], at).map_err(of_opened)?;
        if len == most { Ok(Digest::blake3(&buffer[..most])) } else { Err(Trouble::Moved) }
    };
    Ok([edge(0)?, edge(length - most as u64)?])
}

/// Between half of a time and all of it, so that not everything is due at once, nor when somebody could know it.
fn sometime(full: Duration) -> Duration {
    let permille = u32::try_from(RandomState::new().hash_one(0_u8) % 501).unwrap_or(0);
    full * (500 + permille) / 1000
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::FileExt as _;
    use std::sync::atomic::AtomicBool;

    use proptest::prelude::*;

    use super::super::super::open::{Stat, stat_fd};
    use super::*;

    const LONG: Duration = Duration::from_hours(24);

    fn source<'a>(file: &'a File, stat: &'a Stat, cancel: &'a AtomicBool) -> Source<'a> {
        Source { fd: file.as_fd(), stat, pace: None, progress: None, cancel }
    }

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|at| u8::try_from(at * 7 / 3 % 251).unwrap()).collect()
    }

    #[test]
    fn a_file_that_is_written_or_truncated_as_it_is_read_is_what_it_was_or_moved() {
        let (file, never) = (tempfile::tempfile().unwrap(), AtomicBool::new(false));
        let all = bytes(300_000);
        file.write_all_at(&all[..200_000], 0).unwrap();
        let stat = stat_fd(file.as_fd()).unwrap();
        // Longer than it was when it was looked at.
        file.write_all_at(&all, 0).unwrap();
        let (mut running, _) = Running::whole(source(&file, &stat, &never), Algorithm::Blake3, &[], LONG).unwrap();
        assert_eq!((running.length, running.blake3()), (200_000, Digest::blake3(&all[..200_000])));
        let stat = stat_fd(file.as_fd()).unwrap();
        file.set_len(250_000).unwrap();
        let moved = |result: Result<u64, Trouble>| assert_eq!(result, Err(Trouble::Moved));
        moved(running.clone().tail(source(&file, &stat, &never)));
        moved(Running::whole(source(&file, &stat, &never), Algorithm::Blake3, &[], LONG).map(|_| 0));
        file.write_all_at(&all, 0).unwrap();
        let stat = stat_fd(file.as_fd()).unwrap();
        assert!(running.goes_on_in(source(&file, &stat, &never)));
        assert_eq!(running.tail(source(&file, &stat, &never)), Ok(100_000));
        assert_eq!(running.blake3(), Digest::blake3(&all));
        // Another beginning, another end, or shorter: read again.
        for at in [0, 4000, 299_999] {
            let there = all[at];
            file.write_all_at(&[there ^ 1], u64::try_from(at).unwrap()).unwrap();
            assert!(!running.goes_on_in(source(&file, &stat, &never)), "{at}");
            file.write_all_at(&[there], u64::try_from(at).unwrap()).unwrap();
        }
        let mut shorter = stat;
        shorter.size = 1;
        assert!(!running.goes_on_in(source(&file, &shorter, &never)));
        let stop = AtomicBool::new(true);
        assert_eq!(
            Running::whole(source(&file, &stat, &stop), Algorithm::Blake3, &[], LONG).map(|_| ()),
            Err(Trouble::Interrupted)
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn marks_are_the_digests_of_beginnings(
            size in 0_usize..400_000,
            marks in prop::collection::vec(0_u64..500_000, 0..4),
            sha256 in any::<bool>(),
        ) {
            let (file, never) = (tempfile::tempfile().unwrap(), AtomicBool::new(false));
            let all = bytes(size);
            file.write_all_at(&all, 0).unwrap();
            let stat = stat_fd(file.as_fd()).unwrap();
            let algorithm = if sha256 { Algorithm::Sha256 } else { Algorithm::Blake3 };
            let (running, passed) = Running::whole(source(&file, &stat, &never), algorithm, &marks, LONG).unwrap();
            let by = |bytes: &[u8]| if sha256 { Digest::sha256(bytes) } else { Digest::blake3(bytes) };
            prop_assert_eq!(running.content(), by(&all));
            for length in marks {
                let mark = passed.iter().find(|mark| mark.length == length);
                let there = usize::try_from(length).unwrap();
                prop_assert_eq!(mark.is_some(), there <= size);
                if let Some(mark) = mark {
                    prop_assert_eq!((mark.blake3, mark.content), (Digest::blake3(&all[..there]), by(&all[..there])));
                }
            }
        }
    }
}
