//! Owns how fast a scan may go: what all scans of a process may use together, and how a thread waits when it was too
//! much. Must not own what is scanned.
//!
//! What is allowed is decided by pure parts: `bucket` for bytes and processor time, `pressure` for others on the host. A
//! thread counts on its own, and looks at clocks and locks once in a millisecond of work or so: that costs nothing that
//! can be measured. Nobody waits with a lock in hand.

mod bucket;
mod pressure;

use std::cell::Cell;
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use bucket::Bucket;
use pressure::{Pressure, Reading, Waits};

/// Work between two looks at the clocks; an entry is 1, which takes some 10 microseconds.
const STINT: u32 = 100;
/// Bytes whose reading and hashing takes as long as an entry.
const BYTES_LIKE_AN_ENTRY: u64 = 64 * 1024;
/// Names whose listing takes as long as an entry.
const NAMES_LIKE_AN_ENTRY: usize = 32;
/// The most bytes that a thread counts on its own.
const PIECE: u64 = 128 * 1024;
/// While it waits a thread looks this often whether the scan is to end.
const LOOK_UP: Duration = Duration::from_millis(50);
/// Looks because of hints read as fast as they can for so long; after as long without one there is another burst.
const BURST: Duration = Duration::from_secs(5);

/// How much is allowed. Nothing is limited by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Limits {
    /// Bytes of content read in a second, whether they were cached or not.
    pub read: Option<NonZeroU64>,
    /// Processor time, in percent of one core.
    pub cpu: Option<NonZeroU32>,
    /// Whether to make room while others on the host have to wait. At least a tenth of the time is worked all the same.
    pub yields: bool,
}

/// Why a scan is made, which says what of the limits holds for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    /// The schedule wants it: all limits hold.
    Sweep,
    /// Nothing is known of the whole: it takes the processor time that it needs.
    Whole,
    /// Something may have changed: it does not make room for others either, and reads as fast as it can for the first
    /// five seconds of a burst.
    Hint,
}

/// What all scans of a process may use together, and what they used.
#[derive(Debug)]
pub struct Allowance {
    /// Unique in the process, never 0.
    id: u64,
    limits: Limits,
    /// Bytes that a thread counts on its own.
    piece: u64,
    began: Instant,
    read: Mutex<Bucket>,
    cpu: Mutex<Bucket>,
    burst: Mutex<Burst>,
    pressure: Mutex<Pressure>,
    gate: Gate,
    unmeasured: Option<String>,
}

/// The pace of one scan.
#[derive(Debug)]
pub struct Pace {
    allowance: Arc<Allowance>,
    occasion: Occasion,
    /// Until when what it reads is not counted.
    reads_freely_until: Duration,
    hurried: AtomicBool,
    /// In nanoseconds, all threads together.
    waited: AtomicU64,
    door: Mutex<()>,
    moved: Condvar,
}

/// What a thread counted since it last looked at the clocks.
#[derive(Clone, Copy, Debug)]
struct Hand {
    /// The allowance for which its processor time is counted; 0 if for none.
    account: u64,
    /// The thread's processor time when it was last looked at.
    cpu: Duration,
    work: u32,
    bytes: u64,
}

/// When pressure is to be looked at next, and whether everybody pauses until then, in one word.
#[derive(Debug)]
struct Gate(AtomicU64);

/// Looks because of hints that follow each other.
#[derive(Debug, Default)]
struct Burst {
    began: Duration,
    last: Option<Duration>,
}

thread_local! {
    static HAND: Cell<Hand> = const { Cell::new(Hand { account: 0, cpu: Duration::ZERO, work: 0, bytes: 0 }) };
}

// === impl Allowance ===

impl Allowance {
    /// Nothing is used yet.
    pub fn new(limits: Limits) -> Arc<Self> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let unmeasured = limits.yields.then(Waits::read).and_then(Result::err).map(|error| error.to_string());
        Arc::new(Self {
            id: LAST.fetch_add(1, Ordering::Relaxed) + 1,
            limits,
            // At a low rate less, or a thread alone would be ahead of everybody.
            piece: limits.read.map_or(u64::MAX, |rate| (rate.get() / 100).clamp(1, PIECE)),
            began: Instant::now(),
            read: Mutex::default(),
            cpu: Mutex::default(),
            burst: Mutex::default(),
            pressure: Mutex::default(),
            gate: Gate::new(limits.yields && unmeasured.is_none()),
            unmeasured,
        })
    }

    /// What is allowed.
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// Why room cannot be made for others: the kernel does not say whether they wait. `None` if it does, or if no room
    /// is to be made.
    pub fn unmeasured(&self) -> Option<&str> {
        self.unmeasured.as_deref()
    }

    /// How many pauses were made because others had to wait while nothing was scanned.
    pub fn given_way(&self) -> u64 {
        lock(&self.pressure).given_way()
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Counts processor time; until when to wait for it.
    fn used(&self, cpu: Duration) -> Option<Duration> {
        let percent = self.limits.cpu?.get();
        let worth = cpu.saturating_mul(100) / percent;
        lock(&self.cpu).take(worth, self.now())
    }

    /// Counts bytes; until when to wait for them.
    fn read(&self, bytes: u64) -> Option<Duration> {
        const SECOND: u128 = 1_000_000_000;
        let rate = self.limits.read?.get();
        let worth = u64::try_from(u128::from(bytes) * SECOND / u128::from(rate)).unwrap_or(u64::MAX);
        lock(&self.read).take(Duration::from_nanos(worth), self.now())
    }

    /// Until when everybody pauses; `None` if nobody does.
    fn pause(&self) -> Option<Duration> {
        loop {
            let (next, paused) = self.gate.get();
            if self.now() < next {
                return paused.then_some(next);
            }
            let mut pressure = lock(&self.pressure);
            // Another thread may have been first.
            if self.gate.get().0 == next {
                match Waits::read() {
                    Ok(waits) => {
                        pressure.step(Reading { at: self.now(), waits });
                        self.gate.set(pressure.next(), pressure.is_paused());
                    }
                    Err(_) => self.gate.open_for_good(),
                }
            }
        }
    }
}

// === impl Pace ===

impl Pace {
    /// For a scan that begins now.
    pub fn new(allowance: &Arc<Allowance>, occasion: Occasion) -> Arc<Self> {
        let reads_freely_until = match occasion {
            Occasion::Hint => lock(&allowance.burst).joined(allowance.now()),
            Occasion::Sweep | Occasion::Whole => Duration::ZERO,
        };
        Arc::new(Self {
            allowance: Arc::clone(allowance),
            occasion,
            reads_freely_until,
            hurried: AtomicBool::new(false),
            waited: AtomicU64::new(0),
            door: Mutex::default(),
            moved: Condvar::new(),
        })
    }

    /// Somebody waits for the scan: from now on neither processor time nor others on the host hold it up.
    pub fn hurry(&self) {
        let _door = lock(&self.door);
        self.hurried.store(true, Ordering::Relaxed);
        self.moved.notify_all();
    }

    /// How long threads waited since this was last asked, all together.
    pub(super) fn take_waited(&self) -> Duration {
        Duration::from_nanos(self.waited.swap(0, Ordering::Relaxed))
    }

    /// To be called for every entry before it is looked at, by the thread that does, with no lock in hand. Waits if that
    /// is needed, but not on once `cancel` is set.
    pub(super) fn entry(&self, cancel: &AtomicBool) {
        self.did(1, 0, cancel);
    }

    /// As [`Pace::entry`], for a directory that was listed.
    pub(super) fn listed(&self, names: usize, cancel: &AtomicBool) {
        self.did(u32::try_from(names / NAMES_LIKE_AN_ENTRY).unwrap_or(u32::MAX), 0, cancel);
    }

    /// As [`Pace::entry`], for content that was read.
    pub(super) fn read(&self, bytes: usize, cancel: &AtomicBool) {
        let bytes = bytes as u64;
        self.did(u32::try_from(bytes / BYTES_LIKE_AN_ENTRY).unwrap_or(u32::MAX), bytes, cancel);
    }

    fn did(&self, work: u32, bytes: u64, cancel: &AtomicBool) {
        let mut hand = HAND.get();
        hand.work = hand.work.saturating_add(work);
        hand.bytes = hand.bytes.saturating_add(bytes);
        let account = if self.saves_cpu() { self.allowance.id } else { 0 };
        if hand.account != account {
            // The thread did something else before: that belongs to the account it was done for.
            let cpu = cpu_of_thread();
            if hand.account == self.allowance.id {
                // Whoever is next waits for it.
                let _later = self.allowance.used(cpu.saturating_sub(hand.cpu));
            }
            (hand.account, hand.cpu) = (account, cpu);
        }
        HAND.set(hand);
        if hand.work >= STINT || hand.bytes >= self.allowance.piece {
            self.look_at_the_clocks(hand, cancel);
        }
    }

    fn look_at_the_clocks(&self, mut hand: Hand, cancel: &AtomicBool) {
        let bytes = std::mem::take(&mut hand.bytes);
        let whole = hand.work >= STINT;
        let mut used = None;
        if whole {
            hand.work = 0;
            if hand.account != 0 {
                let cpu = cpu_of_thread();
                used = self.allowance.used(cpu.saturating_sub(hand.cpu));
                hand.cpu = cpu;
            }
        }
        HAND.set(hand);
        if self.reads_freely_until <= self.allowance.now()
            && let Some(until) = self.allowance.read(bytes)
        {
            self.wait(until, Ends::AtItsTime, cancel);
        }
        if let Some(until) = used {
            self.wait(until, Ends::WhenHurried, cancel);
        }
        while whole
            && self.makes_room()
            && !cancel.load(Ordering::Relaxed)
            && let Some(until) = self.allowance.pause()
        {
            self.wait(until, Ends::WhenHurried, cancel);
        }
    }

    fn wait(&self, until: Duration, ends: Ends, cancel: &AtomicBool) {
        let began = self.allowance.now();
        let mut now = began;
        let mut door = lock(&self.door);
        while now < until
            && !cancel.load(Ordering::Relaxed)
            && !(ends == Ends::WhenHurried && self.hurried.load(Ordering::Relaxed))
        {
            let answer = self.moved.wait_timeout(door, (until - now).min(LOOK_UP));
            door = answer.unwrap_or_else(PoisonError::into_inner).0;
            now = self.allowance.now();
        }
        drop(door);
        let waited = u64::try_from((now - began).as_nanos()).unwrap_or(u64::MAX);
        self.waited.fetch_add(waited, Ordering::Relaxed);
    }

    fn saves_cpu(&self) -> bool {
        self.occasion == Occasion::Sweep && self.allowance.limits.cpu.is_some() && !self.is_hurried()
    }

    fn makes_room(&self) -> bool {
        self.occasion != Occasion::Hint && self.allowance.limits.yields && !self.is_hurried()
    }

    fn is_hurried(&self) -> bool {
        self.hurried.load(Ordering::Relaxed)
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        if self.occasion == Occasion::Hint {
            lock(&self.allowance.burst).last = Some(self.allowance.now());
        }
    }
}

/// What ends a wait early, beside the end of the scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    AtItsTime,
    WhenHurried,
}

// === impl Gate ===

impl Gate {
    const OPEN_FOR_GOOD: u64 = u64::MAX - 1;

    const fn new(works: bool) -> Self {
        Self(AtomicU64::new(if works { 0 } else { Self::OPEN_FOR_GOOD }))
    }

    fn get(&self) -> (Duration, bool) {
        let word = self.0.load(Ordering::Relaxed);
        (Duration::from_micros(word >> 1), word & 1 == 1)
    }

    fn set(&self, next: Duration, paused: bool) {
        // Rounded up, so that nobody comes too early. A process does not live for 290,000 years.
        let micros = u64::try_from(next.as_micros()).map_or(u64::MAX >> 1, |micros| micros + 1);
        self.0.store((micros << 1) | u64::from(paused), Ordering::Relaxed);
    }

    fn open_for_good(&self) {
        self.0.store(Self::OPEN_FOR_GOOD, Ordering::Relaxed);
    }
}

// === impl Burst ===

impl Burst {
    /// A look joins; until when the burst reads freely.
    fn joined(&mut self, now: Duration) -> Duration {
        if self.last.is_none_or(|last| now > last + BURST) {
            self.began = now;
        }
        self.last = Some(now);
        self.began + BURST
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cpu_of_thread() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn limits(read: u64, cpu: u32) -> Limits {
        Limits { read: NonZeroU64::new(read), cpu: NonZeroU32::new(cpu), yields: false }
    }

    fn never() -> AtomicBool {
        AtomicBool::new(false)
    }

    /// Uses the processor and says so, as a scan does, until `end`.
    fn work(pace: &Pace, mut end: impl FnMut() -> bool) {
        let never = never();
        while !end() {
            std::hint::black_box(blake3::hash(&[0; 16 * 1024]));
            pace.entry(&never);
        }
    }

    #[test]
    fn however_many_threads_read_it_takes_as_long_as_the_rate_says() {
        const RATE: u64 = 10_000_000;
        const THREADS: u64 = 4;
        const BUFFERS: u64 = 10;
        const BUFFER: usize = 128 * 1024;
        let allowance = Allowance::new(limits(RATE, 0));
        let began = Instant::now();
        // Of two scans: what they read together counts.
        let paces = [Occasion::Sweep, Occasion::Whole].map(|occasion| Pace::new(&allowance, occasion));
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let pace = &paces[usize::from(thread % 2 == 0)];
                scope.spawn(move || (0..BUFFERS).for_each(|_| pace.read(BUFFER, &never())));
            }
        });
        let free = Duration::from_millis(100);
        let whole = Duration::from_millis(THREADS * BUFFERS * BUFFER as u64 * 1000 / RATE);
        assert!(began.elapsed() + free >= whole, "{:?} for {whole:?}", began.elapsed());
        assert!(paces.iter().all(|pace| pace.take_waited() > Duration::ZERO));
        assert_eq!(paces[0].take_waited(), Duration::ZERO, "taken");
    }

    #[test]
    fn a_sweep_takes_no_more_than_its_share_of_a_core() {
        const PERCENT: u32 = 20;
        let allowance = Allowance::new(limits(0, PERCENT));
        let pace = Pace::new(&allowance, Occasion::Sweep);
        let began = Instant::now();
        let used: Duration = thread::scope(|scope| {
            let threads = [(); 2].map(|()| {
                scope.spawn(|| {
                    let before = cpu_of_thread();
                    work(&pace, || cpu_of_thread() - before > Duration::from_millis(60));
                    cpu_of_thread() - before
                })
            });
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        // What is free at the beginning, and what each thread does between two looks at the clocks.
        let free = Duration::from_millis(10 + 2 * 20);
        assert!(used <= began.elapsed() * PERCENT / 100 + free, "{used:?} in {:?}", began.elapsed());
        assert!(pace.take_waited() > Duration::ZERO);
    }

    #[test]
    fn only_a_sweep_saves_processor_time_and_what_others_used_is_not_its_own() {
        let allowance = Allowance::new(limits(0, 20));
        let burn = |pace: &Pace| {
            let before = cpu_of_thread();
            work(pace, || cpu_of_thread() - before > Duration::from_millis(100));
        };
        // On one thread, by turns, as tasks of two scans are.
        let sweep = Pace::new(&allowance, Occasion::Sweep);
        for occasion in [Occasion::Whole, Occasion::Hint] {
            let pace = Pace::new(&allowance, occasion);
            burn(&pace);
            sweep.entry(&never());
            assert_eq!(pace.take_waited(), Duration::ZERO);
        }
        let owed = lock(&allowance.cpu).take(Duration::ZERO, allowance.now());
        assert_eq!(owed, None, "at 20 percent, 200 ms of the sweep's own would be waited for for a second");
    }

    #[test]
    fn hurrying_ends_waits_for_all_but_what_is_read() {
        let allowance = Allowance::new(limits(1, 1));
        let pace = Pace::new(&allowance, Occasion::Sweep);
        let hours = allowance.now() + seconds(10_000);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| pace.wait(hours, Ends::WhenHurried, &never()));
            pace.hurry();
            waiting.join().unwrap();
        });
        assert!(!pace.saves_cpu() && !pace.makes_room());
        let until = allowance.now() + Duration::from_millis(60);
        pace.wait(until, Ends::AtItsTime, &never());
        assert!(allowance.now() >= until, "the read limit holds for everybody");
    }

    #[test]
    fn the_end_of_a_scan_ends_every_wait() {
        let allowance = Allowance::new(Limits { yields: true, ..limits(1, 1) });
        let pace = Pace::new(&allowance, Occasion::Sweep);
        let cancel = AtomicBool::new(true);
        // Owed for longer than any test lives.
        let _owed = allowance.used(seconds(10_000));
        let _owed = allowance.read(1_000_000);
        allowance.gate.set(seconds(10_000), true);
        (0..10 * STINT).for_each(|_| pace.entry(&cancel));
        pace.read(1 << 30, &cancel);
        pace.listed(1 << 30, &cancel);
    }

    #[test]
    fn a_burst_of_hints_is_read_freely_for_its_first_seconds() {
        let mut burst = Burst::default();
        assert_eq!(burst.joined(seconds(100)), seconds(105));
        assert_eq!(burst.joined(seconds(104)), seconds(105));
        // A long look: the next begins right after it.
        burst.last = Some(seconds(120));
        assert_eq!(burst.joined(seconds(125)), seconds(105));
        assert_eq!(burst.joined(seconds(131)), seconds(136));

        let allowance = Allowance::new(limits(1, 0));
        let pace = Pace::new(&allowance, Occasion::Hint);
        pace.read(1 << 30, &never());
        assert_eq!(pace.take_waited(), Duration::ZERO);
        drop(pace);
        assert!(lock(&allowance.burst).last.is_some());
    }

    #[test]
    fn without_limits_nobody_waits() {
        let allowance = Allowance::new(Limits::default());
        assert_eq!(allowance.unmeasured(), None);
        for occasion in [Occasion::Sweep, Occasion::Whole, Occasion::Hint] {
            let pace = Pace::new(&allowance, occasion);
            (0..10 * STINT).for_each(|_| pace.entry(&never()));
            pace.read(1 << 30, &never());
            assert_eq!(pace.take_waited(), Duration::ZERO);
        }
    }

    #[test]
    fn the_gate_holds_what_is_put_into_it() {
        let gate = Gate::new(true);
        assert_eq!(gate.get(), (Duration::ZERO, false));
        gate.set(Duration::from_nanos(1_234_567), true);
        assert_eq!(gate.get(), (Duration::from_micros(1235), true));
        gate.set(Duration::MAX, false);
        assert!(gate.get().0 > seconds(1 << 40) && !gate.get().1);
        gate.open_for_good();
        assert!(gate.get().0 > seconds(1 << 40) && !gate.get().1);
    }
}
