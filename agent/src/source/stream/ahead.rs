//! Owns reading a stream in another thread than the one that uses it: what is stored is hashed, unpacked and parsed by one
//! thread each. Must not own any of that.

use std::io::{self, BufRead, Cursor, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::super::problem::Problem;

/// What is read before a thread is started: a stream that ends before does not pay for one.
const SMALL: u64 = 1024 * 1024;
/// Bytes of a buffer that goes around between the two threads.
const BUFFER: usize = 256 * 1024;
/// How many of them.
const BUFFERS: usize = 8;

/// A buffer on its way to the reader.
#[derive(Default)]
struct Filled {
    buffer: Vec<u8>,
    length: usize,
    /// What came behind these bytes, if the stream ended there.
    end: Option<io::Result<()>>,
}

/// The reader's side.
struct Ahead {
    filled: Receiver<Filled>,
    spare: SyncSender<Vec<u8>>,
    current: Filled,
    start: usize,
}

/// Lets `work` read `input`, of which all but the beginning is read by a thread of its own. Errors come at the place
/// where they occurred; a panic of either side goes on in the caller.
///
/// # Errors
/// If no thread can be started, else what `work` says.
pub(in super::super) fn read_ahead<T>(
    mut input: impl Read + Send,
    work: impl FnOnce(&mut (dyn BufRead + Send + '_)) -> Result<T, Problem>,
) -> Result<T, Problem> {
    let mut first = Vec::new();
    let outcome = input.by_ref().take(SMALL).read_to_end(&mut first);
    if first.len() as u64 != SMALL || outcome.is_err() {
        let buffer = Filled { length: first.len(), buffer: first, end: Some(outcome.map(drop)) };
        return work(&mut Cursor::new(buffer.buffer).chain(End(buffer.end)));
    }
    thread::scope(|scope| {
        let (to_reader, filled) = sync_channel(BUFFERS);
        let (spare, to_fill) = sync_channel(BUFFERS);
        for _ in 0..BUFFERS {
            // The other end is in this function.
            let _ = spare.send(vec![0; BUFFER]);
        }
        let reader = thread::Builder::new()
            .name("read-ahead".to_owned())
            .spawn_scoped(scope, move || fill(input, &to_fill, &to_reader))
            .map_err(Problem::Device)?;
        let ahead = Ahead { filled, spare, current: Filled::default(), start: 0 };
        // Dropped with the reader, the channels end the thread.
        let done = work(&mut Cursor::new(first).chain(ahead));
        match reader.join() {
            Ok(()) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Fills spare buffers until the stream or the reader ends.
fn fill(mut input: impl Read, spare: &Receiver<Vec<u8>>, to: &SyncSender<Filled>) {
    while let Ok(mut buffer) = spare.recv() {
        let mut length = 0;
        let end = loop {
            match input.read(&mut buffer[length..]) {
                Ok(0) => break (length < buffer.len()).then_some(Ok(())),
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Some(Err(error)),
            }
        };
        let ended = end.is_some();
        if to.send(Filled { buffer, length, end }).is_err() || ended {
            return;
        }
    }
}

/// The end of a stream: nothing more, or an error.
struct End(Option<io::Result<()>>);

impl Read for End {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.0.take().unwrap_or(Ok(())).map(|()| 0)
    }
}

impl BufRead for End {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.take().unwrap_or(Ok(())).map(|()| &[][..])
    }

    fn consume(&mut self, _: usize) {}
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.fill_buf()?.read(buffer)?;
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for Ahead {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.start == self.current.length {
            match self.current.end.take() {
                Some(Ok(())) => {
                    self.current.end = Some(Ok(()));
                    return Ok(&[]);
                }
                Some(Err(error)) => return Err(error),
                None => {}
            }
            // Only a thread that has ended does not take it.
            let _ = self.spare.send(std::mem::take(&mut self.current.buffer));
            let gone = |_| io::Error::other("the thread that reads ahead has ended");
            self.current = self.filled.recv().map_err(gone)?;
            self.start = 0;
        }
        Ok(&self.current.buffer[self.start..self.current.length])
    }

    fn consume(&mut self, length: usize) {
        self.start += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends in an error or a panic behind `left` bytes.
    struct Source {
        left: usize,
        end: fn() -> io::Result<usize>,
    }

    impl Read for Source {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = buffer.len().min(self.left).min(70_001);
            if length == 0 && !buffer.is_empty() {
                return (self.end)();
            }
            for (index, byte) in buffer[..length].iter_mut().enumerate() {
                *byte = (self.left - index).to_le_bytes()[0] % 251;
            }
            self.left -= length;
            Ok(length)
        }
    }

    fn lengths() -> impl Iterator<Item = usize> {
        let (small, chunk) = (usize::try_from(SMALL).unwrap(), BUFFER);
        [0, 1, small - 1, small, small + 1, small + chunk - 1, small + chunk, small + 20 * chunk + 7].into_iter()
    }

    #[test]
    fn every_byte_comes_through_in_order() {
        for left in lengths() {
            let mut expected = Vec::new();
            Source { left, end: || Ok(0) }.read_to_end(&mut expected).unwrap();
            let read = read_ahead(Source { left, end: || Ok(0) }, |input| {
                let mut bytes = Vec::new();
                input.read_to_end(&mut bytes).map_err(Problem::of_stream)?;
                assert_eq!(input.read(&mut [0; 9]).unwrap(), 0);
                Ok(bytes)
            });
            assert!(read.unwrap() == expected, "{left}");
        }
    }

    #[test]
    fn an_error_comes_behind_the_bytes_before_it() {
        for left in lengths() {
            let source = Source { left, end: || Err(Problem::Missing.into_io()) };
            let problem = read_ahead(source, |input| {
                let mut bytes = Vec::new();
                let error = input.read_to_end(&mut bytes).unwrap_err();
                assert_eq!(bytes.len(), left);
                Err::<(), _>(Problem::of_stream(error))
            });
            assert!(matches!(problem, Err(Problem::Missing)), "{left}");
        }
    }

    #[test]
    fn a_panic_goes_on_in_the_caller() {
        for left in lengths() {
            let run = || {
                read_ahead(Source { left, end: || panic!("unpacking") }, |input| {
                    let mut bytes = Vec::new();
                    input.read_to_end(&mut bytes).map(drop).map_err(Problem::of_stream)
                })
            };
            let panic = std::panic::catch_unwind(run).unwrap_err();
            assert_eq!(panic.downcast_ref::<&str>(), Some(&"unpacking"), "{left}");
        }
    }

    #[test]
    fn a_reader_that_stops_early_ends_the_thread() {
        let endless = Source { left: usize::MAX, end: || Ok(0) };
        assert!(read_ahead(endless, |input| Ok(input.read(&mut [0; 9]).unwrap())).is_ok());
    }
}
