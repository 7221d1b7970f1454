//! A toy world for the monitor: files that change, hints that come late, scans that take time. At rest, what is open
//! must be what differs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use driftlock_common::coverage::WatchMode;
use driftlock_common::event::Body;
use driftlock_common::path::TreePath;
use proptest::prelude::*;

use super::cases::{finding, plan, whole};
use super::{Action, Ending, Event, Monitor, Now, ScanId};
use crate::config::Sweeps;
use crate::scan::Scope;
use crate::watch::{Armed, Hint, Why};

const SEALED: &[&str] = &["a", "d/x", "d/y", "e/x", "e/y", "e/z"];

#[derive(Clone, Debug)]
enum Step {
    /// Writes a file: with its sealed content if 0.
    Write(usize, u64),
    /// Removes a file.
    Remove(usize),
    /// All of a directory changes; one hint for it.
    Directory(bool, u64),
    /// Hints that wait are lost; the kernel says so.
    Overflow,
    /// A hint that waits arrives.
    Deliver,
    /// The scan goes on by one path.
    Look,
    /// Time passes.
    Pass(u64),
    /// A file that is as sealed no longer is, or the other way round, and all that follows from it.
    Toggle(usize),
}

struct World {
    monitor: Monitor,
    now: u64,
    disk: BTreeMap<String, u64>,
    waiting: VecDeque<Hint>,
    scan: Option<(ScanId, bool, VecDeque<String>)>,
    /// Folded from what was recorded, as a collector would.
    open: BTreeMap<String, u64>,
    /// When each path was said to open.
    opened: BTreeMap<String, Vec<u64>>,
}

fn sealed() -> BTreeMap<String, u64> {
    SEALED.iter().map(|path| ((*path).to_owned(), 0)).collect()
}

/// `None` if as sealed, else a value that says how it differs.
fn difference(path: &str, disk: &BTreeMap<String, u64>) -> Option<(&'static str, u64)> {
    match (SEALED.contains(&path), disk.get(path)) {
        (true, Some(0)) | (false, None) => None,
        (true, Some(content)) => Some(("changed", *content)),
        (false, Some(content)) => Some(("added", *content)),
        (true, None) => Some(("removed", 0)),
    }
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            monitor: Monitor::new(Vec::new(), Vec::new(), 3),
            now: 0,
            disk: sealed(),
            waiting: VecDeque::new(),
            scan: None,
            open: BTreeMap::new(),
            opened: BTreeMap::new(),
        };
        let mut plan = plan(&["app"]);
        // Nothing is to be found by a sweep.
        plan.targets[0].sweeps = Sweeps::every(Duration::from_hours(3));
        world.on(Event::Configured(plan));
        world
    }

    fn on(&mut self, event: Event) {
        let now = Now { elapsed: Duration::from_millis(self.now), unix_ms: i64::try_from(self.now).unwrap() };
        for action in self.monitor.on(event, now) {
            match action {
                Action::Arm { target } => {
                    let armed = Armed { mode: WatchMode::Inotify, ..Armed::nothing() };
                    self.on(Event::Armed { target, armed, mounts: Vec::new() });
                }
                Action::Scan { scan, scopes, .. } => {
                    let paths: BTreeSet<String> =
                        self.disk.keys().cloned().chain(SEALED.iter().map(|path| (*path).to_owned())).collect();
                    let inside = |path: &String| {
                        let path = TreePath::new(path.as_str()).unwrap();
                        scopes.iter().any(|scope| match scope {
                            Scope::All => true,
                            Scope::Subtree(top) => path.is_within(top),
                            Scope::Entry(entry) => path == *entry,
                        })
                    };
                    assert!(self.scan.is_none(), "two scans of one target");
                    let full = scopes.contains(&Scope::All);
                    self.scan = Some((scan, full, paths.into_iter().filter(inside).collect()));
                }
                Action::Record(body) => self.record(*body),
                Action::Disarm { .. }
                | Action::Cancel { .. }
                | Action::Hurry { .. }
                | Action::Beat(_)
                | Action::Stop => {}
            }
        }
    }

    fn record(&mut self, body: Body) {
        match body {
            Body::FindingOpened(body) => {
                let old = self.open.insert(body.finding.path.clone(), 0);
                assert_eq!(old, None, "{} opened twice", body.finding.path);
                let opened = self.opened.entry(body.finding.path.clone()).or_default();
                opened.push(self.now);
                let lately = opened.iter().filter(|at| **at + 600_000 > self.now).count();
                assert!(lately <= 5, "{} opened {lately} times in ten minutes", body.finding.path);
            }
            Body::FindingUpdated(body) => assert!(self.open.contains_key(&body.finding.path)),
            Body::FindingResolved(body) => {
                assert!(self.open.remove(&body.path).is_some(), "{} never opened", body.path)
            }
            Body::TargetSnapshot(snapshot) => {
                let told: BTreeSet<_> = snapshot.findings.iter().map(|body| body.finding.path.clone()).collect();
                assert_eq!(told, self.open.keys().cloned().collect());
            }
            Body::ConditionOpened(_)
            | Body::ConditionResolved(_)
            | Body::TargetVerified(_)
            | Body::Heartbeat(_)
            | Body::Stopped(_) => {}
        }
    }

    fn look(&mut self) {
        let Some((scan, full, mut paths)) = self.scan.take() else { return };
        match paths.pop_front() {
            Some(path) => {
                self.scan = Some((scan, full, paths));
                if let Some((word, variant)) = difference(&path, &self.disk) {
                    let finding = Box::new(finding(&path, word, variant));
                    self.on(Event::Found { scan, path: TreePath::new(path).unwrap(), finding, settled: true });
                }
            }
            None => {
                let summary = full.then(|| Box::new(whole()));
                self.on(Event::Scanned { scan, ending: Ending::Finished(summary) });
            }
        }
    }

    fn deliver(&mut self) {
        if let Some(hint) = self.waiting.pop_front() {
            self.on(Event::Hint { target: "app".to_owned(), hint });
        }
    }

    fn step(&mut self, step: Step) {
        let names = ["a", "d/x", "d/y", "d/new", "e/x", "e/y", "e/z", "new"];
        let touched = |path: &str| Hint::Touched(TreePath::new(path).unwrap());
        match step {
            Step::Write(file, content) => {
                self.disk.insert(names[file % names.len()].to_owned(), content);
                self.waiting.push_back(touched(names[file % names.len()]));
            }
            Step::Remove(file) => {
                self.disk.remove(names[file % names.len()]);
                self.waiting.push_back(touched(names[file % names.len()]));
            }
            Step::Directory(first, content) => {
                let top = if first { "d" } else { "e" };
                for path in names.iter().filter(|path| path.starts_with(&format!("{top}/"))) {
                    if content == 0 {
                        self.disk.remove(*path)
                    } else {
                        self.disk.insert((*path).to_owned(), content - 1)
                    };
                }
                self.waiting.push_back(Hint::Subtree(TreePath::new(top).unwrap()));
            }
            Step::Overflow => {
                self.waiting.clear();
                self.waiting.push_back(Hint::Everything(Why::Overflow));
            }
            Step::Deliver => self.deliver(),
            Step::Look => self.look(),
            Step::Pass(ms) => {
                self.now += ms;
                self.on(Event::Tick);
            }
            Step::Toggle(file) => {
                let name = names[file % names.len()];
                if difference(name, &self.disk).is_some() == SEALED.contains(&name) {
                    self.disk.insert(name.to_owned(), 0);
                } else {
                    self.disk.remove(name);
                }
                self.waiting.push_back(touched(name));
                while !self.waiting.is_empty() {
                    self.deliver();
                }
                // Longer than a path rests.
                for _ in 0..2 {
                    while self.scan.is_some() {
                        self.look();
                    }
                    self.now += 6000;
                    self.on(Event::Tick);
                }
            }
        }
    }

    /// Lets everything come to an end without the help of a sweep, what flaps too.
    fn rest(&mut self) {
        const LONG: u64 = 1_000_000;
        let begun = self.now;
        while self.now < begun + LONG {
            while !self.waiting.is_empty() {
                self.deliver();
            }
            while self.scan.is_some() {
                self.look();
            }
            let Some(deadline) = self.monitor.deadline() else { break };
            self.now = self.now.max(u64::try_from(deadline.as_millis()).unwrap()).min(begun + LONG);
            self.on(Event::Tick);
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0usize..8, 0u64..4).prop_map(|(file, content)| Step::Write(file, content)),
        2 => (0usize..8).prop_map(Step::Remove),
        1 => (any::<bool>(), 0u64..3).prop_map(|(first, content)| Step::Directory(first, content)),
        1 => Just(Step::Overflow),
        6 => Just(Step::Deliver),
        10 => Just(Step::Look),
        3 => (0u64..400).prop_map(Step::Pass),
        6 => Just(Step::Toggle(0)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn at_rest_what_is_open_is_what_differs(steps in prop::collection::vec(step(), 0..150)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.rest();
        let differs: BTreeSet<String> = world
            .disk
            .keys()
            .cloned()
            .chain(SEALED.iter().map(|path| (*path).to_owned()))
            .filter(|path| difference(path, &world.disk).is_some())
            .collect();
        prop_assert_eq!(world.open.keys().cloned().collect::<BTreeSet<_>>(), differs);
    }
}
