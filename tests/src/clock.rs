//! Owns a clock that is set under one process: the real clock belongs to the whole machine, and there is no namespace for
//! it. A library that is loaded before the C library adds what a file says. Must not own what a process should make of it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::sandbox::Sandbox;

/// In C, because it stands between a program and its C library. What asks the kernel itself sees the true time.
const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
static volatile long *seconds;
__attribute__((constructor)) static void begin(void) {
    const char *file = getenv("CLOCK_STEP_FILE");
    int fd = file ? open(file, O_RDONLY | O_CLOEXEC) : -1;
    void *at = mmap(0, sizeof *seconds, PROT_READ, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) abort();
    seconds = at;
}
int clock_gettime(clockid_t clock, struct timespec *time) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(clock, time);
    if (result == 0 && clock == CLOCK_REALTIME && seconds) time->tv_sec += *seconds;
    return result;
}
"#;

/// A clock that can be set, of the processes that are started with it.
#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    path: PathBuf,
    file: File,
}

impl Clock {
    /// Compiles the library. Needs a C compiler, which building this needs too.
    ///
    /// # Errors
    /// If it cannot be compiled.
    pub fn new(sandbox: &Sandbox) -> Result<Self> {
        let source = sandbox.write("clock.c", LIBRARY)?;
        let library = sandbox.path("clock.so");
        let compiled =
            Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).status().context("cc")?;
        ensure!(compiled.success(), "cc: {compiled}");
        let path = sandbox.write("clock", 0_i64.to_ne_bytes())?;
        let file = fs::OpenOptions::new().write(true).open(&path)?;
        Ok(Self { library, path, file })
    }

    /// Gives a command this clock. It must be linked dynamically.
    pub fn give(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library).env("CLOCK_STEP_FILE", &self.path);
    }

    /// Sets it to so many seconds after the true time, before it if negative.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn set(&self, seconds: i64) -> Result<()> {
        Ok(self.file.write_all_at(&seconds.to_ne_bytes(), 0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_sees_the_clock_that_it_was_given() {
        let sandbox = Sandbox::new().unwrap();
        let clock = Clock::new(&sandbox).unwrap();
        let year = || {
            let mut command = Command::new("date");
            clock.give(command.arg("+%Y"));
            let output = command.output().unwrap();
            assert!(output.status.success(), "{output:?}");
            String::from_utf8(output.stdout).unwrap().trim().parse::<i64>().unwrap()
        };
        let now = year();
        clock.set(10 * 366 * 86_400).unwrap();
        assert!((now + 10..=now + 11).contains(&year()));
        clock.set(-10 * 366 * 86_400).unwrap();
        assert!((now - 11..=now - 10).contains(&year()));
    }
}
