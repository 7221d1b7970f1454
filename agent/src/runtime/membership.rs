//! Owns the host's identity while the agent runs: renewing it in time, and taking over another one when its files become
//! others. Must not own how it is renewed, or what is reported with it.

use std::time::{Duration, Instant};

use driftlock_common::condition::ConditionReason;
use driftlock_common::trust::Timestamp;
use tokio::sync::mpsc;
use tokio::task::{JoinError as TaskError, JoinHandle};

use super::spool::random;
use crate::deliver::Client;
use crate::failure::Failure;
use crate::identity::{self, Directory, ExchangeError, Identity, IdentityError, JoinError, Renewal};
use crate::known_time::now;
use crate::watch::Files;

/// The clock may be set, and a host may sleep: how long it is until something is due is asked again after this.
const LOOK: Duration = Duration::from_mins(1);

/// The identity, and what is going on with it.
#[derive(Debug)]
pub(super) struct Membership {
    /// `None` if the state is in memory: then there is none for longer than a run.
    directory: Option<Directory>,
    identity: Option<Identity>,
    /// Of the certificate that there is.
    renewal: Option<Renewal>,
    renewing: Option<JoinHandle<Result<Identity, JoinError>>>,
    /// Why the last attempt failed, and whether the collector refused it.
    failed: Option<(String, bool)>,
    reading: Option<JoinHandle<Result<Option<Identity>, IdentityError>>>,
    /// Why what is in the files by now cannot be used.
    unusable: Option<String>,
    /// Tells that the files are others.
    files: Option<mpsc::Receiver<()>>,
    client: Option<Client>,
    began: Instant,
    told: Option<Trouble>,
}

/// What is wrong, apart from its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Unusable,
    Refused,
    Late,
    Ended,
}

/// What the loop has to know after something happened here.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) troubles: Vec<(ConditionReason, Option<String>)>,
    /// There is another identity.
    pub(super) changed: bool,
}

impl Membership {
    /// Reads the identity, and goes on being told when it becomes another.
    pub(super) fn begin(directory: Option<Directory>) -> Result<Self, IdentityError> {
        let files = directory.as_ref().map(|directory| tell(directory.clone()));
        // After it is watched: what comes later is told.
        let identity = directory.as_ref().map(Directory::load).transpose()?.flatten();
        let mut membership = Self {
            directory,
            identity: None,
            renewal: None,
            renewing: None,
            failed: None,
            reading: None,
            unusable: None,
            files,
            client: None,
            began: Instant::now(),
            told: None,
        };
        identity.into_iter().for_each(|identity| membership.take(identity));
        Ok(membership)
    }

    pub(super) const fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Whom to ask from now on.
    pub(super) fn set_client(&mut self, client: Option<Client>) {
        self.client = client;
    }

    /// What was said is no longer known.
    pub(super) const fn say_again(&mut self) {
        self.told = None;
    }

    /// The identity cannot be used: why.
    pub(super) fn refuse(&mut self, why: String) {
        self.unusable = Some(why);
    }

    fn take(&mut self, identity: Identity) {
        self.renewal = Some(Renewal::new(identity.from, identity.until, random()));
        self.failed = None;
        self.unusable = None;
        self.identity = Some(identity);
    }

    /// Starts what is due, and waits for the next end of something. Dropping the future loses nothing.
    pub(super) async fn step(&mut self) -> Step {
        let mut step = Step { troubles: self.news(now()), changed: false };
        if !step.troubles.is_empty() {
            return step;
        }
        let due = self.due();
        if due.is_zero() {
            self.attempt();
        }
        let is_told = async {
            let told = match &mut self.files {
                Some(files) => files.recv().await,
                None => None,
            };
            // Without a watch nobody is told.
            if told.is_none() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            renewed = join(self.renewing.as_mut()) => step.changed = self.renewed(renewed),
            read = join(self.reading.as_mut()) => step.changed = self.read(read),
            () = is_told, if self.reading.is_none() => self.reread(),
            () = tokio::time::sleep(due.min(LOOK)), if !due.is_zero() => {}
        }
        step
    }

    /// How long it is until the certificate is to be renewed; as long as can be if it cannot be.
    fn due(&self) -> Duration {
        let asked = self.client.as_ref().is_some_and(|client| client.endpoint().is_encrypted());
        match &self.renewal {
            Some(renewal) if asked && self.renewing.is_none() => renewal.wait(now(), self.began.elapsed()),
            _ => Duration::MAX,
        }
    }

    fn attempt(&mut self) {
        if let (Some(directory), Some(client)) = (&self.directory, &self.client) {
            self.renewing = Some(tokio::spawn(identity::renew(directory.clone(), client.clone())));
        }
    }

    fn renewed(&mut self, renewed: Result<Result<Identity, JoinError>, TaskError>) -> bool {
        self.renewing = None;
        let failure = match renewed {
            Ok(Ok(identity)) => {
                tracing::info!(host = identity.name(), until = %identity.until, "the certificate is renewed");
                self.take(identity);
                return true;
            }
            Ok(Err(error)) => error,
            Err(_) => JoinError::Interrupted,
        };
        let (after, refused) = match &failure {
            JoinError::Exchange(ExchangeError::Unavailable { after, .. }) => (*after, false),
            JoinError::Exchange(ExchangeError::Refused(_)) => (None, true),
            _ => (None, false),
        };
        let why = Failure::from(failure).to_string();
        tracing::warn!(why, "the certificate is not renewed yet");
        if let Some(renewal) = &mut self.renewal {
            renewal.failed(after, self.began.elapsed(), random());
        }
        self.failed = Some((why, refused));
        false
    }

    fn reread(&mut self) {
        if let Some(directory) = self.directory.clone() {
            self.reading = Some(tokio::task::spawn_blocking(move || directory.load()));
        }
    }

    /// What was read is another identity, the same, or of no use; then that which there was stays.
    fn read(&mut self, read: Result<Result<Option<Identity>, IdentityError>, TaskError>) -> bool {
        self.reading = None;
        match read {
            Ok(Ok(Some(identity))) if self.identity.as_ref() != Some(&identity) => {
                tracing::info!(host = identity.name(), until = %identity.until, "took another identity over");
                self.take(identity);
                return true;
            }
            Ok(Ok(Some(_))) => self.unusable = None,
            Ok(Ok(None)) => self.unusable = self.identity.as_ref().map(|_| "its files are gone".to_owned()),
            Ok(Err(error)) => self.unusable = Some(Failure::from(error).to_string()),
            Err(_) => {}
        }
        false
    }

    /// What has to be said by now and was not.
    fn news(&mut self, now: Timestamp) -> Vec<(ConditionReason, Option<String>)> {
        let trouble = self.trouble(now);
        let kind = trouble.as_ref().map(|(kind, _)| *kind);
        if kind == self.told {
            return Vec::new();
        }
        // An open one would keep the words of what was wrong before.
        let over = self.told.map(|_| None);
        self.told = kind;
        let said = over.into_iter().chain(trouble.map(|(_, detail)| Some(detail)));
        said.map(|detail| (ConditionReason::IdentityExpiring, detail)).collect()
    }

    fn trouble(&self, now: Timestamp) -> Option<(Trouble, String)> {
        let Some(identity) = &self.identity else {
            return self.unusable.clone().map(|why| (Trouble::Unusable, why));
        };
        let (name, until) = (identity.name(), identity.until);
        let (why, refused) = self.failed.as_ref().map_or(("", false), |(why, refused)| (why, *refused));
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        let is_late = self.renewal.as_ref().is_some_and(|renewal| renewal.is_late(now));
        if now >= until {
            let what = format!("the certificate of {name} ended at {until}{why}; let it join again: driftlock enroll");
            Some((Trouble::Ended, what))
        } else if let Some(why) = &self.unusable {
            Some((Trouble::Unusable, format!("{why}; that of {name} which was there is used until {until}")))
        } else if refused || is_late {
            let kind = if refused { Trouble::Refused } else { Trouble::Late };
            Some((kind, format!("the certificate of {name} ends at {until} and is not renewed{why}")))
        } else {
            None
        }
    }
}

/// Tells whenever the files are others. Watched anew each time, because a directory may have taken the place of another.
fn tell(directory: Directory) -> mpsc::Receiver<()> {
    let (sender, told) = mpsc::channel(1);
    let watch = move || {
        let watched = Files::watch(directory.files());
        watched.inspect_err(|error| tracing::warn!(%error, "another identity is taken over at the next start only"))
    };
    let first = watch();
    tokio::spawn(async move {
        let mut files = first.ok();
        while let Some(watched) = &mut files {
            drop(watched.changed().await);
            files = watch().ok();
            if sender.send(()).await.is_err() {
                return;
            }
        }
    });
    told
}

async fn join<T>(task: Option<&mut JoinHandle<T>>) -> Result<T, TaskError> {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}
