//! Owns the spelling of mtree(5): lines and their continuations, comments, words, escapes. Must not own their meaning.

use std::io::{BufRead, Read as _};

use super::LineFault;
use crate::source::problem::Problem;

/// The longest line in bytes, its continuations included. A path and a link target of the format's length fit, each
/// byte escaped.
pub(super) const MAX_LINE: usize = 1024 * 1024;

/// An input as lines; continuations are joined.
#[derive(Debug)]
pub(super) struct Lines<R> {
    input: R,
    line: Vec<u8>,
    number: u64,
}

// === impl Lines ===

impl<R: BufRead> Lines<R> {
    pub(super) const fn new(input: R) -> Self {
        Self { input, line: Vec::new(), number: 0 }
    }

    /// Goes to the next line that has words, and gives the number at which it begins, counted from 1.
    ///
    /// # Errors
    /// If reading fails, or the line is not one.
    pub(super) fn next(&mut self) -> Result<Option<u64>, Problem> {
        loop {
            self.line.clear();
            let first = self.number + 1;
            let at = |fault| Problem::Line { line: first, fault };
            loop {
                let begin = self.line.len();
                if !self.physical(first)? {
                    // A backslash at the very end promised more.
                    return if begin > 0 { Err(at(LineFault::Unfinished)) } else { Ok(None) };
                }
                // Comments hold names as they are.
                cut_comment(&mut self.line, begin);
                if self.line[begin..].iter().any(|b| b.is_ascii_control() && *b != b'\t') {
                    return Err(at(LineFault::Control));
                }
                let backslashes = self.line[begin..].iter().rev().take_while(|b| **b == b'\\').count();
                if backslashes % 2 == 0 {
                    break;
                }
                // A space holds the place, so that a line which is only a backslash is not mistaken for the end.
                self.line.pop();
                self.line.push(b' ');
            }
            if !self.words().is_empty() {
                return Ok(Some(first));
            }
        }
    }

    /// Appends one line of the input without its line feed; false at the end.
    fn physical(&mut self, first: u64) -> Result<bool, Problem> {
        let room = MAX_LINE.saturating_sub(self.line.len()) as u64 + 2;
        let read = self.input.by_ref().take(room).read_until(b'\n', &mut self.line).map_err(Problem::of_stream)?;
        self.number += u64::from(read > 0);
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
        }
        if self.line.len() > MAX_LINE {
            return Err(Problem::Line { line: first, fault: LineFault::TooLong });
        }
        Ok(read > 0)
    }

    /// The words of the line.
    pub(super) fn words(&self) -> Vec<&[u8]> {
        self.line.split(|b| is_space(*b)).filter(|word| !word.is_empty()).collect()
    }
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// A `#` at the beginning of a word begins a comment, which never goes on in the next line.
fn cut_comment(line: &mut Vec<u8>, begin: usize) {
    let starts = |at: usize| line[at] == b'#' && (at == 0 || is_space(line[at - 1]));
    if let Some(at) = (begin..line.len()).find(|at| starts(*at)) {
        line.truncate(at);
    }
}

/// The bytes that a word stands for: what vis(3) writes in C style (NetBSD), octal (libarchive, FreeBSD, Go), or as it
/// is. Sets `pattern` if a character stands there unescaped that NetBSD's mtree takes for a wildcard.
///
/// # Errors
/// If a backslash is followed by something else, or a `#` stands there as it is.
pub(super) fn unescape(word: &[u8], pattern: &mut bool) -> Result<Vec<u8>, LineFault> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        match first {
            b'\\' => {
                let (byte, left) = escape(more).ok_or_else(|| LineFault::Escape(excerpt(more)))?;
                bytes.push(byte);
                rest = left;
            }
            b'#' => return Err(LineFault::Hash(word.to_vec())),
            byte => {
                *pattern |= matches!(byte, b'*' | b'?' | b'[');
                bytes.push(*byte);
            }
        }
    }
    Ok(bytes)
}

/// The byte of an escape behind its backslash, and what follows.
fn escape(text: &[u8]) -> Option<(u8, &[u8])> {
    match text {
        [b'0'..=b'7', ..] => {
            let digits = text.iter().take(3).take_while(|b| matches!(b, b'0'..=b'7')).count();
            let value = text[..digits].iter().fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'));
            Some((u8::try_from(value).ok()?, &text[digits..]))
        }
        [b'M', b'-', byte, rest @ ..] => Some((byte | 0x80, rest)),
        [b'M', b'^', byte, rest @ ..] => Some((control(*byte)? | 0x80, rest)),
        [b'^', byte, rest @ ..] => Some((control(*byte)?, rest)),
        [byte, rest @ ..] => {
            let byte = match byte {
                b'\\' | b'#' => *byte,
                b's' => b' ',
                b't' => b'\t',
                b'n' => b'\n',
                b'r' => b'\r',
                b'a' => 0x07,
                b'b' => 0x08,
                b'v' => 0x0b,
                b'f' => 0x0c,
                b'E' => 0x1b,
                _ => return None,
            };
            Some((byte, rest))
        }
        [] => None,
    }
}

/// The control character that is written `^` and this.
const fn control(byte: u8) -> Option<u8> {
    match byte {
        b'?' => Some(0x7f),
        b'@'..=b'_' => Some(byte & 0x1f),
        _ => None,
    }
}

/// An escape that is none, as much as is needed to find it.
fn excerpt(behind: &[u8]) -> Vec<u8> {
    [b"\\", &behind[..behind.len().min(4)]].concat()
}
