//! What becomes of events, and what is said, while a sink does not take them.

use std::io::{self, Read as _};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use driftlock_common::event::Body;

use super::super::stdout::Lines;
use super::super::{Drain, Record, Sinks};
use super::{TIME, finding, json};

const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than it takes to look twice.
const SETTLED: Duration = Duration::from_secs(1);

/// A sink that does with each event what it is told to.
struct Told {
    next: Receiver<io::Result<()>>,
    taken: SyncSender<String>,
}

impl Drain for Told {
    fn take(&mut self, record: &Record) -> io::Result<()> {
        // Nobody tells any more at the end of a test.
        self.next.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))?;
        self.taken.send(path_of(&record.json)).map_err(io::Error::other)
    }
}

fn path_of(json: &str) -> String {
    let event: serde_json::Value = serde_json::from_str(json).unwrap();
    event["data"]["finding"]["path"].as_str().unwrap().to_owned()
}

fn offer(sinks: &Sinks, path: &str) {
    let body = Body::FindingOpened(finding(path.as_bytes()));
    sinks.offer(&body, TIME, &json(&body));
}

fn told(waiting: usize) -> (Sinks, SyncSender<io::Result<()>>, Receiver<String>) {
    let (tell, next) = sync_channel(64);
    let (taken, took) = sync_channel(64);
    let drain: Box<dyn Drain> = Box::new(Told { next, taken });
    (Sinks::of(vec![("it".to_owned(), drain)], waiting, SETTLED).unwrap(), tell, took)
}

fn lines_to(to: impl io::Write + Send + 'static, waiting: usize) -> Sinks {
    Sinks::of(vec![("standard output".to_owned(), Box::new(Lines(to)))], waiting, SETTLED).unwrap()
}

/// Waits until something is said.
async fn news(sinks: &Sinks) -> Vec<Option<String>> {
    let said = async {
        loop {
            sinks.changed().await;
            let news = sinks.news();
            if !news.is_empty() {
                return news;
            }
        }
    };
    tokio::time::timeout(PATIENCE, said).await.unwrap()
}

#[tokio::test]
async fn lines_arrive_whole_and_in_order() {
    let (mut reader, writer) = io::pipe().unwrap();
    let sinks = lines_to(writer, 8);
    ["a", "b", "c"].iter().for_each(|path| offer(&sinks, path));
    sinks.finish(PATIENCE).await;
    drop(sinks);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text.lines().map(path_of).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert!(text.ends_with('\n'));
}

#[tokio::test]
async fn who_does_not_read_holds_up_nothing_and_what_is_given_up_is_counted() {
    let (mut reader, writer) = io::pipe().unwrap();
    let sinks = lines_to(writer, 4);
    // More than the pipe and the queue hold.
    let long = "x".repeat(4000);
    (0..100).for_each(|_| offer(&sinks, &long));
    let [Some(why)] = &sinks.news()[..] else { panic!("a pipe of 64 KiB took 400 events") };
    let lost: usize = why.split(' ').find_map(|word| word.parse().ok()).unwrap();
    assert_eq!(*why, format!("standard output: did not keep up; {lost} events were given up"));
    assert!(sinks.news().is_empty(), "it was said");
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).map(|_| text.lines().count())
    });
    sinks.finish(PATIENCE).await;
    drop(sinks);
    // Every one that was not taken was counted.
    assert_eq!(reading.join().unwrap().unwrap(), 100 - lost);
}

#[tokio::test]
async fn a_reader_that_is_gone_is_said_and_nothing_waits_for_it() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let sinks = lines_to(writer, 8);
    offer(&sinks, "a");
    let said = news(&sinks).await;
    let why = said[0].as_deref().unwrap();
    assert!(why.starts_with("standard output: Broken pipe") && why.ends_with("nothing more is written to it"), "{why}");
    assert!(why.contains("1 events were given up"), "{why}");
    offer(&sinks, "b");
    // Twice as many are news, one more is not.
    let more = sinks.news();
    assert_eq!((more.len(), &more[0]), (2, &None));
    assert!(more[1].as_deref().unwrap().contains("2 events were given up"), "{more:?}");
    offer(&sinks, "c");
    assert!(sinks.news().is_empty());
    sinks.finish(PATIENCE).await;
}

#[tokio::test]
async fn what_fails_is_tried_again_until_it_is_taken_and_nothing_is_taken_twice() {
    let (sinks, tell, took) = told(8);
    ["a", "b"].iter().for_each(|path| offer(&sinks, path));
    tell.send(Err(io::Error::other("no space left"))).unwrap();
    assert_eq!(news(&sinks).await, [Some("it: no space left".to_owned())]);
    (0..2).for_each(|_| tell.send(Ok(())).unwrap());
    assert_eq!([took.recv().unwrap(), took.recv().unwrap()], ["a", "b"]);
    // Over, but not at once: what fails again in a moment was not over.
    assert!(sinks.news().is_empty());
    assert_eq!(news(&sinks).await, [None]);
    sinks.finish(PATIENCE).await;
}

#[tokio::test]
async fn a_full_queue_gives_up_what_comes_last_and_says_how_much_at_the_end() {
    let (sinks, tell, took) = told(2);
    offer(&sinks, "a");
    tell.send(Err(io::Error::other("gone"))).unwrap();
    assert_eq!(news(&sinks).await, [Some("it: gone".to_owned())]);
    ["b", "c", "d", "e"].iter().for_each(|path| offer(&sinks, path));
    assert_eq!(sinks.news(), [None, Some("it: gone; 3 events were given up".to_owned())]);
    offer(&sinks, "f");
    assert!(sinks.news().is_empty(), "one more is not news yet");
    (0..2).for_each(|_| tell.send(Ok(())).unwrap());
    assert_eq!([took.recv().unwrap(), took.recv().unwrap()], ["a", "b"]);
    // Before it is over the whole number is said.
    let settled = news(&sinks).await;
    assert_eq!(settled, [None, Some("it: did not keep up; 4 events were given up".to_owned()), None]);
    sinks.finish(PATIENCE).await;
}

#[tokio::test]
async fn one_sink_that_fails_is_nothing_to_another() {
    let (mut reader, writer) = io::pipe().unwrap();
    let (tell, next) = sync_channel(8);
    let (taken, _took) = sync_channel(8);
    let broken: Box<dyn Drain> = Box::new(Told { next, taken });
    let fine: Box<dyn Drain> = Box::new(Lines(writer));
    let sinks = Sinks::of(vec![("broken".to_owned(), broken), ("fine".to_owned(), fine)], 8, SETTLED).unwrap();
    ["a", "b"].iter().for_each(|path| offer(&sinks, path));
    tell.send(Err(io::Error::other("gone"))).unwrap();
    assert_eq!(news(&sinks).await, [Some("broken: gone".to_owned())]);
    drop(tell);
    sinks.finish(PATIENCE).await;
    drop(sinks);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text.lines().map(path_of).collect::<Vec<_>>(), ["a", "b"]);
}
