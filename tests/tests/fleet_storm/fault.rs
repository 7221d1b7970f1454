//! Owns what goes wrong between a host and the collector while a batch is delivered. Must not own what goes wrong with the
//! collector itself.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use driftlock_common::event::Answer;
use driftlock_tests::fleet::agent::{Agent, Reply, post, post_in_two, read};
use driftlock_tests::fleet::model::Batch;
use driftlock_tests::random::Random;

/// Events of a batch at most: few, so that most storms have several to deliver.
const MOST: usize = 40;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// Nothing.
    Nothing,
    /// The connection is cut in the middle of the request.
    Cut,
    /// The connection is cut when everything was sent.
    Lost,
    /// The answer comes, and the host dies before it keeps what it says.
    Unread,
    /// The same batch is sent again after it was answered.
    Twice,
    /// The same batch comes over two connections at once.
    AtOnce,
    /// Of two batches that are under way the later one comes first.
    Reordered,
    /// The body comes in drops.
    Slow,
    /// Another connection takes the place of the kept one, which stays open until then.
    Moved,
}

impl Fault {
    const ALL: [Self; 9] = [
        Self::Nothing,
        Self::Cut,
        Self::Lost,
        Self::Unread,
        Self::Twice,
        Self::AtOnce,
        Self::Reordered,
        Self::Slow,
        Self::Moved,
    ];

    /// One of them; as often nothing.
    pub(crate) fn choose(random: &mut Random) -> Self {
        if random.below(2) == 0 { Self::Nothing } else { *random.pick(&Self::ALL) }
    }
}

/// What a delivery came to.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The host knows that it was taken.
    Taken,
    /// It does not; why.
    Unknown(String),
}

/// Delivers a batch while this goes wrong.
///
/// # Errors
/// If the collector answers what it must not.
pub(crate) async fn deliver(agent: &mut Agent, fault: Fault, random: &mut Random) -> Result<Outcome> {
    let batch = agent.model.batch(MOST, true);
    let answer = match fault {
        Fault::Nothing => agent.post(&batch).await?,
        Fault::Moved => {
            let wire = agent.another_wire().await;
            let moved = match wire {
                Ok(mut wire) => read(wire.ask(&post(&batch.json)).await, &batch)?,
                Err(error) => Reply::Again(format!("{error:#}")),
            };
            agent.hang_up();
            moved
        }
        Fault::Cut => {
            let request = post(&batch.json);
            let until = usize::try_from(random.below(request.len() as u64))?;
            if let Ok(wire) = agent.wire().await {
                // It may be gone already, which is another way to be cut.
                let _cut = wire.send(&request[..until]).await;
            }
            agent.hang_up();
            Reply::Again("cut".to_owned())
        }
        Fault::Lost => {
            if let Ok(wire) = agent.wire().await {
                let _lost = wire.send(&post(&batch.json)).await;
            }
            agent.hang_up();
            Reply::Again("lost".to_owned())
        }
        Fault::Unread => {
            agent.post(&batch).await?;
            agent.hang_up();
            Reply::Again("unread".to_owned())
        }
        Fault::Twice => match agent.post(&batch).await? {
            Reply::Answered(first) => match agent.post(&batch).await? {
                Reply::Answered(second) => {
                    check_repeated(&batch, &second)?;
                    Reply::Answered(second)
                }
                Reply::Again(_) => Reply::Answered(first),
            },
            again @ Reply::Again(_) => again,
        },
        Fault::AtOnce => at_once(agent, &batch).await?,
        Fault::Slow => slowly(agent, &batch, random).await?,
        Fault::Reordered => return reordered(agent, random).await,
    };
    Ok(learn(agent, answer))
}

/// What came a second time was a duplicate, but for the heartbeat.
fn check_repeated(batch: &Batch, again: &Answer) -> Result<()> {
    let sequenced = batch.sequences.map_or(0, |(first, last)| last - first + 1);
    ensure!(again.duplicates == sequenced, "{again:?} for {sequenced} events that were taken before");
    Ok(())
}

fn learn(agent: &mut Agent, reply: Reply) -> Outcome {
    match reply {
        Reply::Answered(answer) => {
            agent.model.take(&answer);
            Outcome::Taken
        }
        Reply::Again(why) => Outcome::Unknown(why),
    }
}

async fn at_once(agent: &mut Agent, batch: &Batch) -> Result<Reply> {
    let Ok(mut other) = agent.another_wire().await else { return agent.post(batch).await };
    let request = post(&batch.json);
    let beside = async { read(other.ask(&request).await, batch) };
    let (one, two) = tokio::join!(agent.post(batch), beside);
    Ok(match (one?, two?) {
        (Reply::Answered(one), Reply::Answered(two)) => {
            let sequenced = batch.sequences.map_or(0, |(first, last)| last - first + 1);
            let duplicates = one.duplicates + two.duplicates;
            ensure!(duplicates >= sequenced, "{one:?} and {two:?} for {sequenced} events");
            Reply::Answered(if one.ack < two.ack { two } else { one })
        }
        (answered @ Reply::Answered(_), _) | (_, answered) => answered,
    })
}

async fn slowly(agent: &mut Agent, batch: &Batch, random: &mut Random) -> Result<Reply> {
    let (head, body) = post_in_two(&batch.json);
    let sending = async {
        let wire = agent.wire().await?;
        wire.send(&head).await?;
        for drop in body.chunks(1 + body.len() / 5) {
            tokio::time::sleep(Duration::from_millis(random.below(150))).await;
            wire.send(drop).await?;
        }
        wire.answer().await
    };
    let answer = sending.await;
    if answer.is_err() {
        agent.hang_up();
    }
    read(answer, batch)
}

/// Half of what waits overtakes the other half. Nothing is known of a half until that was answered itself.
async fn reordered(agent: &mut Agent, random: &mut Random) -> Result<Outcome> {
    let waiting = agent.model.waiting.len().min(MOST);
    if waiting < 2 {
        let batch = agent.model.batch(MOST, true);
        let reply = agent.post(&batch).await?;
        return Ok(learn(agent, reply));
    }
    let middle = 1 + usize::try_from(random.below(waiting as u64 - 1))?;
    let (early, late) = (agent.model.part(0, middle), agent.model.part(middle, waiting));
    let overtaking = match agent.another_wire().await {
        Ok(mut wire) => wire.ask(&post(&late.json)).await,
        Err(error) => Err(error),
    };
    let overtaking = read(overtaking, &late)?;
    let overtaken = agent.post(&early).await?;
    match (overtaking, overtaken) {
        (Reply::Answered(_), overtaken) => Ok(learn(agent, overtaken)),
        // Only the first half was taken: its answer says how far.
        (Reply::Again(_), Reply::Answered(answer)) => {
            let (_, last) = early.sequences.context("a half")?;
            // The other half may have been taken without its answer; what is known is no more than this.
            let known = Answer { ack: answer.ack.min(last), ..answer };
            Ok(learn(agent, Reply::Answered(known)))
        }
        (Reply::Again(_), overtaken) => Ok(learn(agent, overtaken)),
    }
}
