//! Owns the guard around a running process: its lines, its signals, its end, and that it never outlives its test.
//! Must not own which process it is.

use std::fmt;
use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::PidfdFlags;

use crate::wait::PATIENCE;

/// A running process. Killed when dropped.
pub struct Process {
    name: String,
    child: Child,
    stdout: Arc<Lines>,
    stderr: Arc<Lines>,
}

/// Which output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The lines of one stream, with whoever waits for them.
#[derive(Debug, Default)]
struct Lines {
    written: Mutex<Written>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Written {
    lines: Vec<String>,
    closed: bool,
}

impl Process {
    /// Starts `command` with both outputs captured.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(name: &str, command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {name}"))?;
        let stdout = Lines::follow(child.stdout.take().context("stdout is piped")?);
        let stderr = Lines::follow(child.stderr.take().context("stderr is piped")?);
        Ok(Self { name: name.to_owned(), child, stdout, stderr })
    }

    /// Waits for the first line of `stream` that `wanted` accepts, those already written included.
    ///
    /// # Errors
    /// If the process ends or [`PATIENCE`] does, without such a line.
    pub fn line<T>(&self, stream: Stream, wanted: impl Fn(&str) -> Option<T>) -> Result<T> {
        self.line_after(stream, 0, wanted)
    }

    /// As [`Process::line`], from line number `from` on; see [`Process::written`].
    ///
    /// # Errors
    /// As [`Process::line`].
    pub fn line_after<T>(&self, stream: Stream, from: usize, wanted: impl Fn(&str) -> Option<T>) -> Result<T> {
        let lines = self.lines(stream);
        let deadline = Instant::now() + PATIENCE;
        let mut written = lines.lock();
        let mut looked = from;
        loop {
            while let Some(line) = written.lines.get(looked) {
                if let Some(found) = wanted(line) {
                    return Ok(found);
                }
                looked += 1;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if written.closed || left.is_zero() {
                drop(written);
                bail!("{} did not write the line waited for\n{self:?}", self.name);
            }
            written = lines.more.wait_timeout(written, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How many lines were written so far.
    pub fn written(&self, stream: Stream) -> usize {
        self.lines(stream).lock().lines.len()
    }

    /// All lines so far.
    pub fn text(&self, stream: Stream) -> String {
        self.lines(stream).lock().lines.join("\n")
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        nix::sys::signal::kill(self.pid()?, signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// SIGKILL, and waits for the end.
    ///
    /// # Errors
    /// If the end cannot be waited for.
    pub fn kill(mut self) -> Result<()> {
        self.end()
    }

    /// The same, where what it wrote is still wanted.
    ///
    /// # Errors
    /// If the end cannot be waited for.
    pub fn end(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits for the process to end by itself; the exit code.
    ///
    /// # Errors
    /// If it does not end within [`PATIENCE`], or ends by a signal.
    pub fn exit(mut self) -> Result<i32> {
        let status = wait_for(&mut self.child, PATIENCE).with_context(|| format!("{self:?}"))?;
        status.code().with_context(|| format!("ended by signal {:?}\n{self:?}", status.signal()))
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// If that cannot be found out.
    pub fn check_running(&mut self) -> Result<()> {
        let ended = self.child.try_wait()?;
        ensure!(ended.is_none(), "ended by itself: {ended:?}\n{self:?}");
        Ok(())
    }

    fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(i32::try_from(self.child.id()).context("a process id")?))
    }

    fn lines(&self, stream: Stream) -> &Lines {
        match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; then there is nothing to kill.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "--- {} stdout\n{}", self.name, self.text(Stream::Stdout))?;
        write!(f, "--- {} stderr\n{}", self.name, self.text(Stream::Stderr))
    }
}

impl Lines {
    fn follow(stream: impl Read + Send + 'static) -> Arc<Self> {
        let lines = Arc::new(Self::default());
        let ours = Arc::clone(&lines);
        thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while stream.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                ours.lock().lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
                ours.more.notify_all();
                line.clear();
            }
            ours.lock().closed = true;
            ours.more.notify_all();
        });
        lines
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a child to end, at most `limit`, on its pidfd; kills it when the time is over.
///
/// # Errors
/// If it does not end in time.
pub fn wait_for(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    // Its number may be another process's once its end was noticed.
    if let Some(ended) = child.try_wait()? {
        return Ok(ended);
    }
    let pid = rustix::process::Pid::from_child(child);
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).context("pidfd_open")?;
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).context("a time to wait")?;
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(0) => {
                child.kill()?;
                child.wait()?;
                bail!("still running after {limit:?}: killed");
            }
            Ok(_) => return Ok(child.wait()?),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("poll"),
        }
    }
}
