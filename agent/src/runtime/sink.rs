//! Owns writing events to standard output, a line of JSON each, on a thread of its own: whoever does not read them holds up
//! nothing. Must not own what an event is, or its form.

use std::io::Write;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Lines that may wait for the reader. Over this they are given up, and counted.
const MAX_WAITING: usize = 4096;

/// The way to the writing thread.
#[derive(Debug)]
pub(super) struct Sink {
    /// `None` once it is closed.
    sender: Option<SyncSender<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
    lost: u64,
    failing: bool,
}

/// What became of the lines since it was last asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// Nothing that was not said before.
    Same,
    /// They go through again.
    Fine,
    /// Some were given up; why, in one line.
    Failing(String),
}

impl Sink {
    /// Begins writing to standard output.
    ///
    /// # Errors
    /// If there is no thread to be had.
    pub(super) fn stdout() -> std::io::Result<Self> {
        Self::new(std::io::stdout(), MAX_WAITING)
    }

    fn new(to: impl Write + Send + 'static, waiting: usize) -> std::io::Result<Self> {
        let (sender, lines) = sync_channel(waiting);
        let thread = thread::Builder::new().name("sink".to_owned()).spawn(move || write(to, &lines))?;
        Ok(Self { sender: Some(sender), thread: Some(thread), lost: 0, failing: false })
    }

    /// Hands over one event's JSON, without a line feed. Never waits.
    pub(super) fn offer(&mut self, json: &[u8]) {
        let Some(sender) = &self.sender else { return };
        match sender.try_send([json, b"\n"].concat()) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.lost += 1,
            Err(TrySendError::Disconnected(_)) => {
                self.lost += 1;
                self.sender = None;
            }
        }
    }

    /// What became of the lines since this was last asked.
    pub(super) fn flow(&mut self) -> Flow {
        let lost = std::mem::take(&mut self.lost);
        match (lost, &self.sender) {
            (0, Some(_)) if self.failing => {
                self.failing = false;
                Flow::Fine
            }
            (0, _) => Flow::Same,
            (_, None) => {
                self.failing = true;
                Flow::Failing("standard output is closed; nothing more is written to it".to_owned())
            }
            (lost, Some(_)) => {
                self.failing = true;
                Flow::Failing(format!("standard output is not read: {lost} events were not written to it"))
            }
        }
    }

    /// Waits until what was handed over is written, at most `limit`.
    pub(super) async fn finish(mut self, limit: Duration) {
        self.sender = None;
        let Some(thread) = self.thread.take() else { return };
        let joined = tokio::task::spawn_blocking(move || thread.join());
        if tokio::time::timeout(limit, joined).await.is_err() {
            tracing::warn!("stopped before everything was written to standard output");
        }
    }
}

fn write(mut to: impl Write, lines: &Receiver<Vec<u8>>) {
    for line in lines {
        // Whole lines, each at once: whoever reads sees no half of one.
        if to.write_all(&line).and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[tokio::test]
    async fn lines_arrive_whole_and_in_order() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut sink = Sink::new(writer, 8).unwrap();
        for json in [&b"{\"a\":1}"[..], b"{\"b\":2}"] {
            sink.offer(json);
        }
        assert_eq!(sink.flow(), Flow::Same);
        sink.finish(Duration::from_secs(20)).await;
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "{\"a\":1}\n{\"b\":2}\n");
    }

    #[tokio::test]
    async fn who_does_not_read_holds_up_nothing_and_what_is_given_up_is_counted() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut sink = Sink::new(writer, 2).unwrap();
        // More than the pipe and the channel hold.
        let line = vec![b'x'; 60_000];
        (0..20).for_each(|_| sink.offer(&line));
        let Flow::Failing(why) = sink.flow() else { panic!("a pipe of 64 KiB took 1.2 MB") };
        assert!(why.starts_with("standard output is not read: "), "{why}");
        assert_eq!(sink.flow(), Flow::Fine);
        assert_eq!(sink.flow(), Flow::Same);
        let reading = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map(|_| bytes.len())
        });
        sink.finish(Duration::from_secs(20)).await;
        assert_eq!(reading.join().unwrap().unwrap() % 60_001, 0);
    }

    #[tokio::test]
    async fn a_reader_that_is_gone_is_said_once() {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut sink = Sink::new(writer, 8).unwrap();
        // The thread ends at its first write; until then lines find room.
        let thread = sink.thread.take().unwrap();
        sink.offer(b"{}");
        thread.join().unwrap();
        sink.offer(b"{}");
        assert!(matches!(sink.flow(), Flow::Failing(why) if why.contains("closed")));
        sink.offer(b"{}");
        assert_eq!(sink.flow(), Flow::Same);
        sink.finish(Duration::from_secs(20)).await;
    }
}
