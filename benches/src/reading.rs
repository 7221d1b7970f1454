//! Owns what the kernel says of a process while it runs: its memory, its processor time. Must not own which process.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

/// The kernel counts processor time for others in units of a hundredth of a second: proc(5), `sysconf(_SC_CLK_TCK)`.
const TICK: Duration = Duration::from_millis(10);

/// What is resident of a process (`VmRSS`), in bytes.
///
/// # Errors
/// If it is gone.
pub fn resident(pid: u32) -> Result<u64> {
    of_status(pid, "VmRSS:")
}

/// The most that ever was resident of a process (`VmHWM`), in bytes.
///
/// # Errors
/// If it is gone.
pub fn peak(pid: u32) -> Result<u64> {
    of_status(pid, "VmHWM:")
}

fn of_status(pid: u32, field: &'static str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib = status.lines().find_map(|line| line.strip_prefix(field)).context(field)?;
    Ok(kib.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
}

/// How many descriptors a process has.
///
/// # Errors
/// If it is gone.
pub fn descriptors(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// The processor time that a process took so far, of all its threads, those that ended too, within a hundredth of a second.
///
/// # Errors
/// If it is gone.
pub fn processor(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in brackets may hold anything; user and system time are the 14th and the 15th of all fields.
    let (_, rest) = stat.rsplit_once(')').context("no name")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let ticks = |index: usize| -> Result<u32> { Ok(fields.get(index).context("no such field")?.parse()?) };
    Ok(TICK * (ticks(11)? + ticks(12)?))
}

/// The processor time that the calling thread took so far.
///
/// # Errors
/// If the kernel does not tell.
pub fn own_processor() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_seen_by_both_and_memory_too() {
        let (own, all) = (own_processor().unwrap(), processor(std::process::id()).unwrap());
        let before = resident(std::process::id()).unwrap();
        let mut work = vec![1u8; 32 << 20];
        while own_processor().unwrap() - own < 5 * TICK {
            work.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(3));
        }
        assert!(processor(std::process::id()).unwrap() - all >= 4 * TICK);
        let during = resident(std::process::id()).unwrap();
        assert!(during > before + (16 << 20) && peak(std::process::id()).unwrap() >= during);
    }
}
