//! Owns a process that has a file mapped and stores bytes through the mapping. Must not own what that is good for.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

/// In C, because a mapping that is written through is never safe.
const PROGRAM: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
int main(int argc, char **argv) {
    int fd = argc == 2 ? open(argv[1], O_RDWR | O_NOFOLLOW | O_NONBLOCK) : -1;
    volatile char *at = mmap(0, 1, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) return 1;
    for (int byte = getchar(); byte != EOF; byte = getchar()) {
        *at = byte;
        puts("stored");
        fflush(stdout);
    }
    return msync((void *)at, 1, MS_SYNC) || munmap((void *)at, 1);
}
"#;

/// The compiled program. Needs a C compiler, which building this needs too.
#[derive(Debug)]
pub struct Mapper {
    binary: PathBuf,
    _directory: TempDir,
}

/// A mapping of a file's first byte, held by a process of its own.
#[derive(Debug)]
pub struct Mapped {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Mapper {
    /// Compiles it.
    ///
    /// # Errors
    /// If it cannot be compiled.
    pub fn compile() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let (source, binary) = (directory.path().join("mapped.c"), directory.path().join("mapped"));
        fs::write(&source, PROGRAM)?;
        let compiled = Command::new("cc").arg("-o").arg(&binary).arg(&source).status().context("cc")?;
        ensure!(compiled.success(), "cc: {compiled}");
        Ok(Self { binary, _directory: directory })
    }

    /// Maps `file`.
    ///
    /// # Errors
    /// If the process cannot be started. That the file cannot be mapped is told by the first store.
    pub fn open(&self, file: &Path) -> Result<Mapped> {
        let mut command = Command::new(&self.binary);
        command.arg(file).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context("mapped")?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().context("stdout is piped")?);
        Ok(Mapped { child, stdin, stdout })
    }
}

impl Mapped {
    /// Maps `file`, by a program that is compiled for it.
    ///
    /// # Errors
    /// If it cannot be compiled or started.
    pub fn open(file: &Path) -> Result<Self> {
        // The process holds the program open, so its directory may go.
        Mapper::compile()?.open(file)
    }

    /// Stores `byte` through the mapping.
    ///
    /// # Errors
    /// If the process ended.
    pub fn store(&mut self, byte: u8) -> Result<()> {
        let stdin = self.stdin.as_mut().context("stdin is piped")?;
        stdin.write_all(&[byte])?;
        stdin.flush()?;
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        ensure!(line == "stored\n", "{line:?}");
        Ok(())
    }

    /// Writes the page to the disk and gives the mapping up (`msync`, `munmap`).
    ///
    /// # Errors
    /// If that fails.
    pub fn close(mut self) -> Result<()> {
        drop(self.stdin.take());
        let status = self.child.wait()?;
        ensure!(status.success(), "mapped: {status}");
        Ok(())
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}
