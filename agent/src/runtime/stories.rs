//! The whole agent in one process: a tree that is tampered with, and a collector that keeps what it is sent and misbehaves
//! when it is told to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use driftlock_common::condition::ConditionReason;
use driftlock_common::digest::{Algorithm, OciDigest};
use driftlock_common::event::{Answer, Body, Event};
use driftlock_common::finding::open_digest;
use driftlock_common::manifest::{Header, Manifest};
use driftlock_common::pattern::Excludes;
use driftlock_common::profile::Profile;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::{News, RunError, StopReason, run_with_news};
use crate::config::{Config, MIN_SPOOL, Target};
use crate::pool::Pool;
use crate::scan::{ObserveTerms, Root, observe};

/// How the collector behaves at its next requests, one word each; then it behaves.
#[derive(Clone, Debug, PartialEq)]
enum Mood {
    Status(&'static str),
    Hangup,
    /// Stores half of the batch, and says so.
    Half,
    /// Stores, and does not answer.
    Swallow,
    Resync,
    /// Says it knows events far beyond.
    Beyond,
}

/// What a collector has stored.
#[derive(Debug, Default)]
struct Stored {
    moods: VecDeque<Mood>,
    acks: BTreeMap<String, u64>,
    events: Vec<Event>,
    open: BTreeMap<(String, String), driftlock_common::finding::Finding>,
    conditions: BTreeSet<(Option<String>, ConditionReason)>,
    in_snapshot: BTreeSet<String>,
    snapshots: usize,
    /// Asks for everything in every answer until it was told.
    forgot: bool,
    beat: Option<driftlock_common::event::Heartbeat>,
    stopped: bool,
}

impl Stored {
    fn store(&mut self, event: Event) {
        let Some(sequence) = event.sequence_number().unwrap() else {
            if let Body::Heartbeat(beat) = event.body {
                self.beat = Some(beat);
            }
            return;
        };
        let ack = self.acks.entry(event.epoch.clone()).or_default();
        if sequence <= *ack {
            return;
        }
        assert_eq!(sequence, *ack + 1, "no gap in what is sent");
        *ack = sequence;
        self.stopped = matches!(event.body, Body::Stopped(_));
        match event.body.clone() {
            Body::FindingOpened(body) | Body::FindingUpdated(body) => {
                self.open.insert((body.target, body.finding.path.clone()), body.finding);
            }
            Body::FindingResolved(body) => {
                self.open.remove(&(body.target, body.path));
            }
            Body::ConditionOpened(body) => {
                self.conditions.insert((body.target, body.reason));
            }
            Body::ConditionResolved(body) => {
                self.conditions.remove(&(body.target, body.reason));
            }
            Body::TargetSnapshot(part) => {
                if part.part == 0 {
                    self.in_snapshot.clear();
                }
                for body in part.findings {
                    self.in_snapshot.insert(body.finding.path.clone());
                    self.open.insert((body.target, body.finding.path.clone()), body.finding);
                }
                if part.last {
                    let told = std::mem::take(&mut self.in_snapshot);
                    self.open.retain(|(target, path), _| *target != part.target || told.contains(path));
                    self.snapshots += 1;
                    self.forgot = false;
                }
            }
            Body::TargetVerified(_) | Body::Heartbeat(_) | Body::Stopped(_) => {}
        }
        self.events.push(event);
    }

    /// Takes a batch as the mood is; without an answer the connection ends.
    fn answer(&mut self, events: Vec<Event>) -> Option<String> {
        let mood = self.moods.pop_front();
        let take = match mood {
            Some(Mood::Status(_) | Mood::Hangup) => 0,
            Some(Mood::Half) => events.len() / 2,
            Some(Mood::Swallow | Mood::Resync | Mood::Beyond) | None => events.len(),
        };
        let epoch = events.first().map(|event| event.epoch.clone());
        let mut answer = Answer { accepted: take as u64, ..Answer::default() };
        events.into_iter().take(take).for_each(|event| self.store(event));
        answer.resync = self.forgot;
        answer.ack = epoch.and_then(|epoch| self.acks.get(&epoch).copied()).unwrap_or(0);
        match mood {
            Some(Mood::Hangup | Mood::Swallow) => return None,
            Some(Mood::Status(status)) => return Some(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n")),
            Some(Mood::Resync) => answer.resync = true,
            Some(Mood::Beyond) => answer.ack = 1_000_000,
            Some(Mood::Half) | None => {}
        }
        let body = serde_json::to_string(&answer).unwrap();
        Some(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
    }

    fn open_paths(&self) -> Vec<&str> {
        self.open.keys().map(|(_, path)| path.as_str()).collect()
    }

    fn opened(&self, at: &str) -> usize {
        let opened = |event: &&Event| matches!(&event.body, Body::FindingOpened(body) if body.finding.path == at);
        self.events.iter().filter(opened).count()
    }
}

struct World {
    dir: tempfile::TempDir,
    config: Config,
    stored: Arc<Mutex<Stored>>,
    changed: watch::Receiver<()>,
    agent: Option<Agent>,
}

struct Agent {
    stop: oneshot::Sender<StopReason>,
    news: mpsc::Sender<News>,
    task: JoinHandle<Result<(), RunError>>,
}

fn seal(root: &Path, to: &Path) {
    let pool = Pool::new(std::num::NonZeroUsize::new(1)).unwrap();
    let terms = ObserveTerms {
        profile: Profile::Portable,
        content: Algorithm::Blake3,
        excludes: Excludes::none(),
        sha256: false,
    };
    let seen = observe(&Root::open(root).unwrap(), &terms, &pool);
    assert_eq!(seen.gaps, []);
    let header = Header::new(terms.profile, terms.content, terms.excludes);
    fs::write(to, Manifest { header, tree: seen.tree }.encode()).unwrap();
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("d")).unwrap();
        for name in ["a", "b", "d/x", "d/y"] {
            fs::write(root.join(name), name).unwrap();
        }
        let manifest = dir.path().join("manifest");
        seal(&root, &manifest);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = Config::new(dir.path().join("state"));
        config.report.endpoint = Some(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
        config.report.heartbeat = Duration::from_millis(100);
        config.targets = vec![Target { allow_unsigned: true, ..Target::new("app", root, manifest) }];
        let stored = Arc::new(Mutex::new(Stored::default()));
        let (news, changed) = watch::channel(());
        tokio::spawn(collect(listener, stored.clone(), news));
        Self { dir, config, stored, changed, agent: None }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn moods(&self, moods: impl IntoIterator<Item = Mood>) {
        self.stored.lock().unwrap().moods.extend(moods);
    }

    fn start(&mut self) {
        let (stop, stopped) = oneshot::channel();
        let (news, receiver) = mpsc::channel(1);
        let config = self.config.clone();
        let task = tokio::spawn(run_with_news(config, async { stopped.await.unwrap_or(StopReason::Asked) }, receiver));
        self.agent = Some(Agent { stop, news, task });
    }

    async fn stop(&mut self) {
        let agent = self.agent.take().unwrap();
        agent.stop.send(StopReason::Asked).unwrap();
        agent.task.await.unwrap().unwrap();
    }

    /// The process is gone without a word. The journal is let go with it.
    async fn kill(&mut self) {
        let agent = self.agent.take().unwrap();
        agent.task.abort();
        assert!(agent.task.await.unwrap_err().is_cancelled());
        // A thread that was writing just then still holds the directory for a moment, as no process would.
        let lock = fs::File::open(self.dir.path().join("state/lock")).unwrap();
        let wait = move || rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive);
        tokio::task::spawn_blocking(wait).await.unwrap().unwrap();
    }

    /// Waits until what is stored is as wanted.
    async fn until(&mut self, what: &str, wanted: impl Fn(&Stored) -> bool) {
        let wait = async {
            while !wanted(&self.stored.lock().unwrap()) {
                self.changed.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(Duration::from_secs(60), wait).await.is_err() {
            panic!("never {what}: {:#?}", self.stored.lock().unwrap());
        }
    }

    async fn until_open(&mut self, paths: &[&str]) {
        self.until(&format!("open {paths:?}"), |stored| stored.open_paths() == paths).await;
    }
}

async fn collect(listener: TcpListener, stored: Arc<Mutex<Stored>>, news: watch::Sender<()>) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let (stored, news) = (stored.clone(), news.clone());
        let mut socket = BufStream::new(socket);
        tokio::spawn(async move { while serve(&mut socket, &stored, &news).await.is_some() {} });
    }
}

/// One request; `None` ends the connection.
async fn serve(socket: &mut BufStream<TcpStream>, stored: &Mutex<Stored>, news: &watch::Sender<()>) -> Option<()> {
    let events = request(socket).await?;
    let response = stored.lock().unwrap().answer(events);
    news.send_replace(());
    socket.write_all(response?.as_bytes()).await.ok()?;
    socket.flush().await.ok()
}

async fn request(socket: &mut BufStream<TcpStream>) -> Option<Vec<Event>> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if socket.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        if let Some(text) = line.strip_prefix("content-length: ") {
            length = text.trim().parse().unwrap();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.ok()?;
    Some(serde_json::from_slice(&zstd::decode_all(&body[..]).unwrap()).unwrap())
}

#[tokio::test]
async fn drift_is_reported_and_resolved_and_a_stop_is_said() {
    let mut world = World::new().await;
    world.start();
    world.until("verified", |stored| stored.snapshots == 1).await;
    let root = world.root();
    fs::write(root.join("a"), "other").unwrap();
    fs::remove_file(root.join("d/x")).unwrap();
    fs::create_dir_all(root.join("new/deep")).unwrap();
    fs::write(root.join("new/deep/f"), "1").unwrap();
    world.until_open(&["a", "d/x", "new", "new/deep", "new/deep/f"]).await;
    // The sign of life agrees with what is stored.
    world
        .until("agreed", |stored| {
            let digest = OciDigest::blake3(open_digest(stored.open.values()));
            stored.beat.as_ref().is_some_and(|beat| beat.targets[0].open_digest == digest)
        })
        .await;
    fs::write(root.join("a"), "a").unwrap();
    fs::write(root.join("d/x"), "d/x").unwrap();
    fs::remove_dir_all(root.join("new")).unwrap();
    world.until_open(&[]).await;
    world.stop().await;
    let stored = world.stored.lock().unwrap();
    assert!(stored.stopped);
    assert_eq!(stored.conditions, BTreeSet::new());
    assert_eq!(stored.snapshots, 1);
}

#[tokio::test]
async fn what_changed_while_the_agent_was_down_is_reported_once() {
    let mut world = World::new().await;
    world.start();
    fs::write(world.root().join("a"), "other").unwrap();
    world.until_open(&["a"]).await;
    world.stop().await;
    fs::write(world.root().join("b"), "other").unwrap();
    world.start();
    world.until_open(&["a", "b"]).await;
    world.kill().await;
    fs::write(world.root().join("a"), "a").unwrap();
    world.start();
    world.until_open(&["b"]).await;
    world.stop().await;
    let stored = world.stored.lock().unwrap();
    assert_eq!((stored.opened("a"), stored.opened("b")), (1, 1));
    assert_eq!(stored.acks.len(), 1, "one epoch");
}

#[tokio::test]
async fn a_collector_that_misbehaves_loses_nothing_and_doubles_nothing() {
    let mut world = World::new().await;
    world.moods([
        Mood::Status("500 Internal Server Error"),
        Mood::Hangup,
        Mood::Status("302 Found"),
        Mood::Half,
        Mood::Swallow,
    ]);
    for n in 0..30 {
        fs::write(world.root().join(format!("new{n:02}")), "1").unwrap();
    }
    world.start();
    let names: Vec<String> = (0..30).map(|n| format!("new{n:02}")).collect();
    world.until_open(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    world.stop().await;
    let stored = world.stored.lock().unwrap();
    assert!(names.iter().all(|name| stored.opened(name) == 1));
    assert_eq!(stored.moods, []);
}

#[tokio::test]
async fn a_refused_agent_keeps_everything_and_says_so_later() {
    let mut world = World::new().await;
    fs::write(world.root().join("a"), "other").unwrap();
    world.moods([Mood::Status("401 Unauthorized"), Mood::Status("403 Forbidden")]);
    world.start();
    world.until_open(&["a"]).await;
    world.until("right again", |stored| stored.moods.is_empty() && stored.conditions.is_empty()).await;
    world.stop().await;
    let stored = world.stored.lock().unwrap();
    let refused = |event: &&Event| matches!(&event.body, Body::ConditionOpened(body) if body.reason == ConditionReason::CollectorRefused);
    assert_eq!(stored.events.iter().filter(refused).count(), 1);
}

#[tokio::test]
async fn a_collector_that_forgot_is_told_everything() {
    let mut world = World::new().await;
    fs::write(world.root().join("a"), "other").unwrap();
    world.start();
    world.until_open(&["a"]).await;
    {
        let mut stored = world.stored.lock().unwrap();
        stored.open.clear();
        stored.moods.push_back(Mood::Resync);
    }
    world.until_open(&["a"]).await;
    world.stop().await;
}

/// More than the spool may hold is told, and once: not again for each answer that comes before its end.
#[tokio::test]
async fn much_is_told_anew_once_and_pushes_nothing_out() {
    const LINKS: usize = 1500;
    let mut world = World::new().await;
    world.config.report.spool = MIN_SPOOL;
    let long = "long/".repeat(600);
    world.start();
    for n in 1..=LINKS {
        std::os::unix::fs::symlink(&long, world.root().join(format!("link-{n}"))).unwrap();
        // As much as there is room for.
        if n % 250 == 0 {
            world.until("all is known", |stored| stored.open.len() == n && stored.conditions.is_empty()).await;
        }
    }
    let overflows = |stored: &Stored| {
        let overflow = |event: &&Event| matches!(&event.body, Body::ConditionOpened(body) if body.reason == ConditionReason::SpoolOverflow);
        stored.events.iter().filter(overflow).count()
    };
    let before = {
        let mut stored = world.stored.lock().unwrap();
        let told: usize = stored.open.values().map(|finding| serde_json::to_vec(finding).unwrap().len()).sum();
        assert!(told as u64 > MIN_SPOOL, "{told} bytes fit into the spool");
        stored.open.clear();
        stored.forgot = true;
        (stored.snapshots, overflows(&stored))
    };
    world.until("all is told anew", |stored| stored.open.len() == LINKS && !stored.forgot).await;
    world.stop().await;
    let stored = world.stored.lock().unwrap();
    assert_eq!((stored.snapshots, overflows(&stored)), (before.0 + 1, before.1));
    assert_eq!(stored.open.len(), LINKS);
}

#[tokio::test]
async fn a_restored_state_directory_begins_a_new_epoch() {
    let mut world = World::new().await;
    fs::write(world.root().join("a"), "other").unwrap();
    world.start();
    world.until_open(&["a"]).await;
    world.until("told", |stored| stored.snapshots == 1).await;
    world.moods([Mood::Beyond]);
    world.until("a second epoch", |stored| stored.acks.len() == 2 && stored.snapshots >= 2).await;
    world.until_open(&["a"]).await;
    world.stop().await;
}

/// What was given up when there was nobody to tell is no loss to who comes later: the collector here takes no gap.
#[tokio::test]
async fn a_collector_that_comes_later_misses_nothing() {
    let mut world = World::new().await;
    let endpoint = world.config.report.endpoint.take();
    fs::write(world.root().join("a"), "other").unwrap();
    world.start();
    let given_up = world.dir.path().join("state/untold");
    let noted = async {
        while !given_up.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), noted).await.unwrap();
    world.stop().await;
    world.config.report.endpoint = endpoint;
    world.start();
    world.until_open(&["a"]).await;
    fs::remove_file(world.root().join("b")).unwrap();
    world.until_open(&["a", "b"]).await;
    world.stop().await;
    let stored = world.stored.lock().unwrap();
    assert_eq!((stored.acks.len(), stored.opened("b")), (1, 1));
}

#[tokio::test]
async fn a_lost_state_directory_is_rebuilt() {
    let mut world = World::new().await;
    fs::write(world.root().join("a"), "other").unwrap();
    fs::write(world.root().join("b"), "other").unwrap();
    world.start();
    world.until_open(&["a", "b"]).await;
    world.kill().await;
    fs::remove_dir_all(world.dir.path().join("state")).unwrap();
    fs::write(world.root().join("b"), "b").unwrap();
    // The identity is lost with it, unless it was configured.
    world.start();
    world.until_open(&["a"]).await;
    world.stop().await;
}

#[tokio::test]
async fn a_reload_takes_another_manifest_and_a_bad_one_is_refused() {
    let mut world = World::new().await;
    fs::write(world.root().join("a"), "other").unwrap();
    world.start();
    world.until_open(&["a"]).await;
    let news = world.agent.as_ref().unwrap().news.clone();
    news.send(News::Reload(Err("agent.toml:1: nonsense".to_owned()))).await.unwrap();
    let refused = (None, ConditionReason::ConfigRefused);
    world.until("refused", |stored| stored.conditions.contains(&refused)).await;
    seal(&world.root(), &world.config.targets[0].manifests.files()[0]);
    news.send(News::Reload(Ok(Box::new(world.config.clone())))).await.unwrap();
    world.until_open(&[]).await;
    world.until("right again", |stored| !stored.conditions.contains(&refused)).await;
    fs::write(&world.config.targets[0].manifests.files()[0], "garbage").unwrap();
    news.send(News::Reload(Ok(Box::new(world.config.clone())))).await.unwrap();
    let refused = (Some("app".to_owned()), ConditionReason::ManifestRefused);
    world.until("manifest refused", |stored| stored.conditions.contains(&refused)).await;
    // The last accepted one stays in force.
    fs::write(world.root().join("a"), "a").unwrap();
    world.until_open(&["a"]).await;
    world.stop().await;
}
