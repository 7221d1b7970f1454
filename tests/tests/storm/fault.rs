//! Owns what goes wrong while a storm goes on. Must not own what must hold all the same.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use driftlock_tests::fake::Act;
use driftlock_tests::process::Stream;
use driftlock_tests::storm::Running;
use driftlock_tests::wait::pass;
use nix::sys::signal::Signal;

use crate::round::Stage;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    Nothing,
    /// The agent stands still for the whole storm, so that the kernel's queue overflows where it can.
    Overflow,
    /// The agent may watch 100 directories of many more.
    Limit,
    /// The agent is killed and started again, again and again.
    Killed,
    /// The agent stands still now and then.
    Stopped,
    /// The collector is killed and started again.
    CollectorKilled,
    /// The way to the collector breaks in every way.
    Wire,
    /// The disk of the agent's state is full now and then.
    DiskFull,
    /// The agent's clock is set, back and forth.
    Clock,
}

/// Files that a flood of events is about, which never differ.
pub(crate) const FLOODED: [&str; 2] = ["still/0", "still/1"];

/// What is in the way of the agent's state.
#[derive(Debug)]
struct Filler(PathBuf);

impl Fault {
    /// The reason of a condition that must have been told.
    pub(crate) const fn is_told_as(self, inotify: bool) -> Option<&'static str> {
        match self {
            Self::Overflow if inotify => Some("overflow"),
            Self::Limit => Some("watch_degraded"),
            Self::DiskFull => Some("spool_failed"),
            Self::Clock => Some("clock_step"),
            _ => None,
        }
    }

    /// Lets it go wrong until the storm has ended, and then lets it be right again.
    pub(crate) fn strike(self, stage: &mut Stage, storm: &mut Running) -> Result<()> {
        match self {
            Self::Nothing | Self::Limit => {}
            Self::Overflow => {
                stage.agent()?.signal(Signal::SIGSTOP)?;
                flood(stage)?;
                while storm.goes_on() {
                    pass(Duration::from_millis(20));
                }
                stage.agent()?.signal(Signal::SIGCONT)?;
            }
            Self::Killed => {
                while storm.goes_on() {
                    pass(stage.moment(1000));
                    stage.restart_agent()?;
                }
            }
            Self::Stopped => {
                while storm.goes_on() {
                    stage.agent()?.signal(Signal::SIGSTOP)?;
                    pass(stage.moment(900));
                    stage.agent()?.signal(Signal::SIGCONT)?;
                    pass(stage.moment(400));
                }
            }
            Self::CollectorKilled => {
                while storm.goes_on() {
                    pass(stage.moment(600));
                    stage.kill_collector()?;
                    pass(stage.moment(600));
                    stage.start_collector()?;
                }
            }
            Self::Wire => {
                while storm.goes_on() {
                    let act = match stage.random().below(9) {
                        0 => Act::Status(503),
                        1 => Act::TooMany(0),
                        2 => Act::Garbage,
                        3 => Act::HalfAnswer,
                        4 => Act::HangUp,
                        5 | 6 => Act::CutRequest,
                        7 => Act::Late(stage.moment(700)),
                        _ => Act::LoseAnswer,
                    };
                    stage.wire().act([act]);
                    pass(stage.moment(120));
                }
                stage.wire().behave();
            }
            Self::DiskFull => {
                let filler = Filler::fill(stage)?;
                // Until something was to be written, however slow the machine is.
                stage.agent()?.line(Stream::Stderr, |line| line.contains("spool_failed").then_some(()))?;
                drop(filler);
                while storm.goes_on() {
                    pass(stage.moment(1500));
                    let _filler = Filler::fill(stage)?;
                    pass(stage.moment(1000));
                }
            }
            Self::Clock => {
                while storm.goes_on() {
                    let hours = i64::try_from(stage.random().below(2000)).context("a number of hours")? - 1000;
                    stage.clock().context("a clock")?.set(hours * 3600)?;
                    pass(stage.moment(800));
                }
                // A clock that stays wrong would stay a condition at the collector.
                stage.clock().context("a clock")?.set(0)?;
            }
        }
        Ok(())
    }
}

/// More events than the kernel keeps, which make no difference: of two files in turn, because equal ones become one.
fn flood(stage: &Stage) -> Result<()> {
    let kept: u64 = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events")?.trim().parse()?;
    let open = |name: &str| File::options().write(true).open(stage.tree().join(name));
    let files = [open(FLOODED[0])?, open(FLOODED[1])?];
    for number in 0..2 * kept {
        files[usize::from(number % 2 == 0)].set_modified(SystemTime::now())?;
    }
    Ok(())
}

impl Filler {
    /// Writes until there is no room.
    fn fill(stage: &Stage) -> Result<Self> {
        let path = stage.state_dir().join("filler");
        let mut file = File::create(&path)?;
        while file.write_all(&[0; 4096]).is_ok() {}
        Ok(Self(path))
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        // It is gone with the file system otherwise.
        let _gone = std::fs::remove_file(&self.0);
    }
}
