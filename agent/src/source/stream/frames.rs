//! Owns reading a zstd stream frame by frame (RFC 8878): skippable frames are passed over, and what is no frame is
//! refused wherever it stands. Must not own finding out that a stream is zstd.

use std::io::{self, BufRead, Read};
use std::sync::{Arc, Mutex, PoisonError};

use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, get_error_name};

use super::super::problem::{Format, Problem};

/// The largest window, as a power of two: 128 MiB, what `zstd` itself allows when it is not told otherwise. More is
/// refused before it is allocated.
pub(super) const MAX_WINDOW_LOG: u32 = 27;

/// The content of all frames of a stream, one behind the other.
pub(in super::super) struct Frames<R> {
    input: R,
    context: DCtx<'static>,
    /// Whether a frame has begun and not ended.
    within: bool,
    /// The beginning of this frame, all of it while it may be one that is skipped; `None` if it is not.
    frame: Option<Vec<u8>>,
    /// Offset of the frame in the stream, and of the next byte.
    begin: u64,
    at: u64,
    skipped: Arc<Mutex<Skipped>>,
}

/// The skippable frames of a stream: what it carries for readers that know more of it than its content.
#[derive(Debug, Default)]
pub(in super::super) struct Skipped {
    /// Offset of each and its content, in order; an oversized one is left out.
    pub(in super::super) frames: Vec<(u64, Vec<u8>)>,
    bytes: usize,
}

/// The most bytes of skippable frames that are kept.
const MAX_SKIPPED: usize = 16 * 1024 * 1024;
/// Magic number and length.
const SKIPPABLE_HEADER: usize = 8;

/// Codes of libzstd (`zstd_errors.h`, "pinned down" since 1.3.1).
const UNKNOWN_PREFIX: usize = 10;
const WINDOW_TOO_LARGE: usize = 16;
const WRONG_DICTIONARY: usize = 32;

// === impl Skipped ===

impl Skipped {
    fn add(&mut self, begin: u64, content: &[u8]) {
        if self.bytes + content.len() <= MAX_SKIPPED {
            self.bytes += content.len();
            self.frames.push((begin, content.to_vec()));
        }
    }
}

// === impl Frames ===

impl<R: BufRead> Frames<R> {
    pub(super) fn new(input: R) -> Result<Self, Problem> {
        let memory = || Problem::Device(io::ErrorKind::OutOfMemory.into());
        let mut context = DCtx::try_create().ok_or_else(memory)?;
        context.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG)).map_err(problem)?;
        let skipped = Arc::default();
        Ok(Self { input, context, within: false, frame: Some(Vec::new()), begin: 0, at: 0, skipped })
    }

    pub(super) fn skipped(&self) -> Arc<Mutex<Skipped>> {
        Arc::clone(&self.skipped)
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while !buffer.is_empty() {
            let available = self.input.fill_buf()?;
            let ended = available.is_empty();
            if ended && !self.within {
                break;
            }
            let mut from = InBuffer::around(available);
            let mut to = OutBuffer::around(buffer);
            // Stops behind each frame, with 0.
            let more = self.context.decompress_stream(&mut to, &mut from).map_err(|code| problem(code).into_io())?;
            let (used, written) = (from.pos(), to.pos());
            self.within = more != 0;
            self.frame = self.frame.take().and_then(|frame| keep(frame, &available[..used]));
            self.at += used as u64;
            if !self.within && used > 0 {
                let frame = self.frame.replace(Vec::new()).unwrap_or_default();
                let begin = std::mem::replace(&mut self.begin, self.at);
                if let Some(content) = frame.get(SKIPPABLE_HEADER..) {
                    self.skipped.lock().unwrap_or_else(PoisonError::into_inner).add(begin, content);
                }
            }
            self.input.consume(used);
            if written > 0 {
                return Ok(written);
            }
            if ended && self.within {
                return Err(Problem::Truncated(Format::Zstd).into_io());
            }
        }
        Ok(0)
    }
}

/// Adds to a frame that may be a skippable one; `None` if it is none, or too large.
fn keep(mut frame: Vec<u8>, more: &[u8]) -> Option<Vec<u8>> {
    let skippable = |bytes: &[u8]| matches!(bytes, [0x50..=0x5f, 0x2a, 0x4d, 0x18]);
    if frame.len() < 4 {
        let (magic, _) = more.split_at(more.len().min(4 - frame.len()));
        let magic = [&frame[..], magic].concat();
        if magic.len() == 4 && !skippable(&magic) {
            return None;
        }
    }
    if frame.len() + more.len() > MAX_SKIPPED {
        return None;
    }
    frame.extend_from_slice(more);
    Some(frame)
}

fn problem(code: usize) -> Problem {
    let reason = match 0_usize.wrapping_sub(code) {
        UNKNOWN_PREFIX => "what stands behind its last frame is no frame",
        WINDOW_TOO_LARGE => "it needs a window of more than 128 MiB; compress it without --long",
        WRONG_DICTIONARY => "it was compressed with a dictionary",
        _ => get_error_name(code),
    };
    Problem::Damaged(Format::Zstd, reason.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::{Decoded, drain};
    use super::*;

    fn frame(content: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
        encoder.include_checksum(true).unwrap();
        std::io::Write::write_all(&mut encoder, content).unwrap();
        encoder.finish().unwrap()
    }

    fn skippable(kind: u8, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_le_bytes();
        [&[0x50 | kind, 0x2a, 0x4d, 0x18][..], &length, content].concat()
    }

    fn read(stream: &[u8]) -> Result<Vec<u8>, String> {
        let mut out = Vec::new();
        let mut decoded = Decoded::new(stream).map_err(|problem| problem.to_string())?;
        decoded.read_to_end(&mut out).map_err(|error| Problem::of_stream(error).to_string())?;
        Ok(out)
    }

    #[test]
    fn frames_are_read_one_behind_the_other_and_skippable_ones_passed_over() {
        let (a, b) = (vec![b'a'; 300_000], b"b".to_vec());
        let both = [a.as_slice(), &b].concat();
        for parts in [
            vec![frame(&both)],
            vec![frame(&a), frame(&b)],
            vec![
                skippable(0, b"first"),
                frame(&a),
                skippable(15, &[7; 70_000]),
                frame(&[]),
                frame(&b),
                skippable(1, b""),
            ],
        ] {
            let stream = parts.concat();
            assert!(read(&stream).unwrap() == both);
            let mut slow = Frames::new(io::BufReader::with_capacity(1, stream.as_slice())).unwrap();
            assert_eq!(drain(&mut slow).unwrap(), both.len() as u64);
        }
    }

    #[test]
    fn a_truncated_stream_is_told_at_every_length() {
        let content: Vec<u8> = (0..5000_u32).flat_map(u32::to_le_bytes).collect();
        let first = frame(&content);
        let whole = [first.as_slice(), &skippable(3, b"table"), &frame(b"more")].concat();
        let ends = [first.len(), first.len() + 8 + 5, whole.len()];
        for length in 4..=whole.len() {
            let result = read(&whole[..length]);
            if ends.contains(&length) {
                assert!(result.unwrap().starts_with(&content), "{length}");
            } else {
                assert_eq!(result.unwrap_err(), "the zstd stream is truncated", "{length}");
            }
        }
    }

    #[test]
    fn what_is_damaged_or_no_frame_is_told() {
        let good = frame(b"content");
        let mut checksum = good.clone();
        *checksum.last_mut().unwrap() ^= 1;
        let magic = &[0x28, 0xb5, 0x2f, 0xfd][..];
        for (stream, reason) in [
            (checksum, "Restored data doesn't match checksum"),
            ([&good, &b"more"[..]].concat(), "what stands behind its last frame is no frame"),
            ([&good, &[0; 512][..]].concat(), "what stands behind its last frame is no frame"),
            // A window of 2 GiB; one of the legacy formats; a dictionary.
            (
                [magic, &[0, 0xa8, 1, 0, 0]].concat(),
                "it needs a window of more than 128 MiB; compress it without --long",
            ),
            ([&good, &[0x27, 0xb5, 0x2f, 0xfd, 0, 0, 0][..]].concat(), "what stands behind its last frame is no frame"),
            ([magic, &[0x21, 9, 1, 9, 0, 0]].concat(), "it was compressed with a dictionary"),
            // A reserved bit.
            ([magic, &[0x28, 9, 9, 0, 0]].concat(), "Unsupported frame parameter"),
        ] {
            assert_eq!(read(&stream).unwrap_err(), format!("the zstd stream is damaged: {reason}"));
        }
    }

    #[test]
    fn the_largest_window_is_the_limit() {
        let window = |log: u32| {
            let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(log).unwrap();
            std::io::Write::write_all(&mut encoder, b"x").unwrap();
            std::io::Write::flush(&mut encoder).unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(read(&window(MAX_WINDOW_LOG)).unwrap(), b"x");
        assert!(read(&window(MAX_WINDOW_LOG + 1)).unwrap_err().contains("a window of more than 128 MiB"));
    }
}
