//! Owns a process that has a file mapped and stores bytes through the mapping. Must not own what that is good for.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

/// In C, because a mapping that is written through is never safe.
const PROGRAM: &str = r#"
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
int main(int argc, char **argv) {
    int fd = argc == 2 ? open(argv[1], O_RDWR) : -1;
    volatile char *at = mmap(0, 1, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) { perror("mapped"); return 1; }
    for (int byte = getchar(); byte != EOF; byte = getchar()) {
        *at = byte;
        puts("stored");
        fflush(stdout);
    }
    return 0;
}
"#;

/// A mapping of a file's first byte, held by a process of its own.
#[derive(Debug)]
pub struct Mapped {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    _program: TempDir,
}

impl Mapped {
    /// Maps `file`. Needs a C compiler, which building this needs too.
    ///
    /// # Errors
    /// If it cannot be compiled or started.
    pub fn open(file: &Path) -> Result<Self> {
        let program = tempfile::tempdir()?;
        let (source, binary) = (program.path().join("mapped.c"), program.path().join("mapped"));
        fs::write(&source, PROGRAM)?;
        let compiled = Command::new("cc").arg("-o").arg(&binary).arg(&source).status().context("cc")?;
        ensure!(compiled.success(), "cc: {compiled}");
        let mut child =
            Command::new(binary).arg(file).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("mapped")?;
        let stdin = child.stdin.take().context("stdin is piped")?;
        let stdout = BufReader::new(child.stdout.take().context("stdout is piped")?);
        Ok(Self { child, stdin, stdout, _program: program })
    }

    /// Stores `byte` through the mapping.
    ///
    /// # Errors
    /// If the process ended.
    pub fn store(&mut self, byte: u8) -> Result<()> {
        self.stdin.write_all(&[byte])?;
        self.stdin.flush()?;
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        ensure!(line == "stored\n", "{line:?}");
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
