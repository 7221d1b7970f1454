//! Owns how many threads of the pool work at a time: as many as there are cores while files are cached, more while they come
//! from a disk, because a thread that waits for a disk leaves its core to another. Must not own the work.
//!
//! Which of both it is, is measured while it is so: by how busy the cores are, and whether anything is read from a device.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

use crate::pool::Pool;

/// Between two measurements.
const WINDOW: Duration = Duration::from_millis(20);
/// Below this part of the cores being busy, more readers are of use if files come from a device; above the other, fewer do.
const IDLE: f64 = 0.75;
const BUSY: f64 = 0.95;

thread_local! {
    /// Whether this thread does a step, or waits in one for others, which it does itself meanwhile.
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}
const WORKING: usize = 1;
const WAITING: usize = 2;

/// Lets steps be done by as many threads as are of use.
#[derive(Debug)]
pub(super) struct Readers<S> {
    least: usize,
    most: usize,
    inner: Mutex<Inner<S>>,
    changed: Condvar,
}

#[derive(Debug)]
struct Inner<S> {
    limit: usize,
    working: usize,
    /// Waits inside of what somebody else waits for. Each lets one thread more work: all that work may be waiting for what
    /// lies below such a wait, and what it waits for may be held.
    nested: usize,
    /// Steps of threads that were too many, for whoever has time first.
    held: Vec<(S, Arc<Group>)>,
    last: Measure,
    /// Windows in a row in which the cores were busy.
    busy: u32,
}

/// Steps that somebody waits for together: how many were announced and are not done. Threads that are too many wait no
/// longer than there are any, or who waits for the group would wait for them.
#[derive(Debug, Default)]
pub(super) struct Group(AtomicUsize);

/// What was used up to a moment.
#[derive(Clone, Copy, Debug)]
struct Measure {
    at: Instant,
    cpu: Duration,
    /// Blocks read from devices.
    blocks: i64,
}

impl Group {
    /// Says that there will be a step more. It must be, before those that are under way are done.
    pub(super) fn announce(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Runs what another thread waits for in the middle of a step, and which may itself wait: it does not wait to be of use.
pub(super) fn within<T>(job: impl FnOnce() -> T) -> T {
    let before = DEPTH.get();
    DEPTH.set(before.max(WAITING));
    let answer = job();
    DEPTH.set(before);
    answer
}

impl<S> Inner<S> {
    /// How many may work.
    const fn allowed(&self) -> usize {
        self.limit + self.nested
    }
}

impl<S> Readers<S> {
    /// Of the threads of `pool`.
    pub(super) fn of(pool: &Pool) -> Self {
        let (least, most) = (pool.cores(), pool.threads());
        Self {
            least,
            most,
            inner: Mutex::new(Inner {
                limit: least,
                working: 0,
                nested: 0,
                held: Vec::new(),
                last: Measure::now(),
                busy: 0,
            }),
            changed: Condvar::new(),
        }
    }

    /// Has a step of a group done, and says so: by this thread, and others after it; or, if enough threads work, by
    /// another, and this one waits until there is use for it.
    pub(super) fn work(&self, step: S, group: &Arc<Group>, mut each: impl FnMut(S)) {
        if self.least == self.most || DEPTH.get() != 0 {
            each(step);
            return self.done(group);
        }
        let mut inner = self.lock();
        let mut next = Some((step, Arc::clone(group)));
        if inner.working >= inner.allowed() {
            inner.held.extend(next.take());
            while inner.working >= inner.allowed() && group.0.load(Ordering::Acquire) > 0 {
                inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
            }
            next = inner.held.pop();
        }
        // Without a step there may be more in the queues of the pool.
        if next.is_none() {
            return;
        }
        inner.working += 1;
        drop(inner);
        DEPTH.set(WORKING);
        while let Some((step, group)) = next {
            each(step);
            self.done(&group);
            let mut inner = self.lock();
            self.measure(&mut inner);
            // One too many, after there were fewer: others do what is held.
            next = if inner.working > inner.allowed() { None } else { inner.held.pop() };
            if next.is_none() {
                self.leave(&mut inner);
            }
        }
        DEPTH.set(0);
    }

    /// Runs `wait`, in which this thread waits for a group: others may work in its place.
    pub(super) fn wait<T>(&self, wait: impl FnOnce() -> T) -> T {
        if self.least == self.most || DEPTH.get() == 0 {
            return within(wait);
        }
        if DEPTH.get() == WAITING {
            self.lock().nested += 1;
            self.changed.notify_all();
            let answer = wait();
            self.lock().nested -= 1;
            return answer;
        }
        self.leave(&mut self.lock());
        DEPTH.set(WAITING);
        let answer = wait();
        DEPTH.set(WORKING);
        self.lock().working += 1;
        answer
    }

    fn leave(&self, inner: &mut Inner<S>) {
        inner.working = inner.working.saturating_sub(1);
        if !inner.held.is_empty() {
            self.changed.notify_one();
        }
    }

    fn done(&self, group: &Group) {
        if group.0.fetch_sub(1, Ordering::AcqRel) == 1 {
            // Under the lock, or who is about to wait would not hear it.
            let _inner = self.lock();
            self.changed.notify_all();
        }
    }

    fn measure(&self, inner: &mut Inner<S>) {
        if inner.last.at.elapsed() < WINDOW {
            return;
        }
        let now = Measure::now();
        let busy = now.busy_since(&inner.last) / f64::from(u32::try_from(self.least).unwrap_or(u32::MAX));
        let from_device = now.blocks > inner.last.blocks;
        inner.last = now;
        let limit = next_limit(inner.limit, self.least, self.most, busy, from_device, &mut inner.busy);
        self.set_limit(inner, limit);
    }

    fn set_limit(&self, inner: &mut Inner<S>, limit: usize) {
        if limit > inner.limit {
            self.changed.notify_all();
        }
        inner.limit = limit;
    }

    fn lock(&self) -> MutexGuard<'_, Inner<S>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many readers there may be after a window in which `busy` of the cores' time was used.
fn next_limit(limit: usize, least: usize, most: usize, busy: f64, from_device: bool, in_a_row: &mut u32) -> usize {
    /// Between two reads from a device there may be a stretch that is cached.
    const PATIENCE: u32 = 5;
    *in_a_row = if busy > BUSY { *in_a_row + 1 } else { 0 };
    if from_device && busy < IDLE {
        (limit * 2).min(most)
    } else if *in_a_row >= PATIENCE {
        *in_a_row = 0;
        (limit / 2).max(least)
    } else {
        limit
    }
}

impl Measure {
    fn now() -> Self {
        let usage = getrusage(UsageWho::RUSAGE_SELF);
        let time = |time: nix::sys::time::TimeVal| {
            let micros = time.tv_sec() * 1_000_000 + time.tv_usec();
            Duration::from_micros(u64::try_from(micros).unwrap_or(0))
        };
        let (cpu, blocks) = usage.map_or((Duration::ZERO, 0), |usage| {
            (time(usage.user_time()) + time(usage.system_time()), usage.block_reads())
        });
        Self { at: Instant::now(), cpu, blocks }
    }

    /// In cores.
    fn busy_since(&self, earlier: &Self) -> f64 {
        let wall = self.at.saturating_duration_since(earlier.at).as_secs_f64();
        self.cpu.saturating_sub(earlier.cpu).as_secs_f64() / wall.max(1e-6)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use proptest::prelude::*;
    use rayon::Scope;

    use super::*;

    #[test]
    fn more_readers_while_cores_wait_for_a_device_and_fewer_when_they_do_not() {
        let after = |limit, windows: &[(f64, bool)]| {
            let mut in_a_row = 0;
            windows.iter().fold(limit, |limit, (busy, device)| next_limit(limit, 2, 16, *busy, *device, &mut in_a_row))
        };
        assert_eq!(after(2, &[(0.2, true)]), 4);
        assert_eq!(after(2, &[(0.2, true); 3]), 16);
        assert_eq!(after(2, &[(0.2, true); 9]), 16, "no more than there are");
        assert_eq!(after(2, &[(0.2, false)]), 2, "something else keeps the cores from us");
        assert_eq!(after(4, &[(0.8, true)]), 4, "enough");
        assert_eq!(after(8, &[(0.99, false); 4]), 8);
        assert_eq!(after(8, &[(0.99, false); 5]), 4);
        assert_eq!(after(8, &[(0.99, true); 50]), 2, "never fewer than there are cores");
        assert_eq!(after(8, &[(0.99, true), (0.99, true), (0.8, true), (0.99, true), (0.99, true), (0.99, true)]), 8);
    }

    /// Work that makes more of it, some of it waited for.
    #[derive(Clone, Debug)]
    struct Work {
        below: Vec<Self>,
        how: How,
        limit: usize,
    }

    /// How the work that is made is waited for.
    #[derive(Clone, Copy, Debug)]
    enum How {
        /// Not at all.
        Spawned,
        /// All of it, as the parts of a large directory are.
        Waited,
        /// Two halves, as those of a large file are.
        Joined,
    }

    fn work() -> impl Strategy<Value = Work> {
        let how = || prop::sample::select(vec![How::Spawned, How::Waited, How::Joined]);
        let leaf = (how(), 1_usize..9).prop_map(|(how, limit)| Work { below: Vec::new(), how, limit });
        leaf.prop_recursive(5, 120, 6, move |below| {
            let below = prop::collection::vec(below, 0..6);
            (below, how(), 1_usize..9).prop_map(|(below, how, limit)| Work { below, how, limit })
        })
    }

    impl Work {
        fn count(&self) -> usize {
            1 + self.below.iter().map(Self::count).sum::<usize>()
        }
    }

    struct Run<'a> {
        readers: Readers<&'a Work>,
        done: AtomicUsize,
    }

    impl<'a> Run<'a> {
        fn spawn(&'a self, tasks: &Scope<'a>, group: &Arc<Group>, work: &'a Work) {
            group.announce();
            let group = Arc::clone(group);
            tasks.spawn(move |tasks| self.readers.work(work, &group, |work| self.step(tasks, &group, work)));
        }

        fn step(&'a self, tasks: &Scope<'a>, group: &Arc<Group>, work: &'a Work) {
            // As a measurement would.
            self.readers.set_limit(&mut self.readers.lock(), work.limit);
            match work.how {
                How::Spawned => work.below.iter().for_each(|below| self.spawn(tasks, group, below)),
                How::Waited => {
                    let group = Arc::default();
                    let all = |tasks: &Scope<'a>| work.below.iter().for_each(|below| self.spawn(tasks, &group, below));
                    self.readers.wait(|| rayon::scope(all));
                }
                How::Joined => {
                    work.below.iter().for_each(|below| self.spawn(tasks, group, below));
                    halves(8);
                }
            }
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn halves(parts: usize) {
        if parts > 1 {
            rayon::join(|| within(|| halves(parts / 2)), || within(|| halves(parts / 2)));
        } else {
            std::thread::yield_now();
        }
    }

    /// The one that works waits for its half; the half lies, on another's stack, below a wait for a step; and the thread that
    /// has this step is one too many.
    #[test]
    fn what_lies_below_a_wait_does_not_hold_up_the_wait() {
        const FIRST: char = 'f';
        const HELD: char = 'h';
        let pool = Pool::with(1, 3).unwrap();
        let readers = &Readers::of(&pool);
        let groups: [Arc<Group>; 3] = Default::default();
        groups.iter().for_each(|group| group.announce());
        let [first, nested, held] = &groups;
        let (half_is_done, half) = mpsc::channel();
        let (step_is_done, step) = mpsc::channel();
        let half = Mutex::new(half);
        // Whoever takes a step does what the step is.
        let each = &|step| match step {
            FIRST => half.lock().unwrap().recv().unwrap(),
            _ => step_is_done.send(()).unwrap(),
        };
        let until = |condition: fn(&Inner<char>) -> bool| {
            while !condition(&readers.lock()) {
                thread::yield_now();
            }
        };
        let came = thread::scope(|scope| {
            scope.spawn(|| readers.work(FIRST, first, each));
            until(|inner| inner.working == 1);
            scope.spawn(|| readers.work(HELD, held, each));
            until(|inner| inner.held.len() == 1);
            let came = within(|| {
                let mut came = None;
                // So long only where it would be for ever.
                let mut wait = || came = Some(readers.wait(|| step.recv_timeout(Duration::from_secs(20))));
                readers.work(HELD, nested, |_| wait());
                came
            });
            half_is_done.send(()).unwrap();
            came
        });
        assert_eq!(came, Some(Ok(())), "the step was not done while the wait for it lasted");
        let inner = readers.lock();
        assert_eq!((inner.working, inner.nested, inner.held.len()), (0, 0, 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        /// Whatever the limit does meanwhile, every step is done once, and it comes to an end.
        #[test]
        fn every_step_is_done_once(work in work()) {
            let pool = Pool::with(2, 8).unwrap();
            let run = Run { readers: Readers::of(&pool), done: AtomicUsize::new(0) };
            let group = Arc::default();
            pool.run(|| rayon::scope(|tasks| run.spawn(tasks, &group, &work)));
            prop_assert_eq!(run.done.load(Ordering::Relaxed), work.count());
            prop_assert_eq!(group.0.load(Ordering::Relaxed), 0);
            let inner = run.readers.lock();
            prop_assert_eq!((inner.working, inner.nested, inner.held.len()), (0, 0, 0));
        }
    }
}
