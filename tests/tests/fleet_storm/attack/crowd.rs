//! Owns crowds that say nothing. Must not own what they would say.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use super::{Attack, Stage};
use crate::fleet::Counts;

const TURNED_AWAY: &str = "connections_refused_total";
/// Strangers of one address that are let in, as it is without an option.
const OF_ONE_ADDRESS: usize = 512;
/// Descriptors for everything else.
const OTHERS: usize = 1000;

pub(super) fn attacks<'a>(stage: &'a Stage, fleet: &'a Counts) -> Vec<Attack<'a>> {
    vec![
        Attack::new("a crowd of one address", TURNED_AWAY, of_one_address(stage)),
        Attack::new("a crowd of many addresses that says nothing", TURNED_AWAY, of_many(stage, fleet)),
    ]
}

async fn from(stage: &Stage, address: Ipv4Addr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(address.into(), 0))?;
    Ok(socket.connect(stage.endpoint.address()).await?)
}

async fn of_one_address(stage: &Stage) -> Result<u64> {
    const MORE: usize = 40;
    let mut crowd = Vec::new();
    for _ in 0..OF_ONE_ADDRESS + MORE {
        crowd.push(from(stage, Ipv4Addr::new(127, 0, 9, 9)).await?);
    }
    let before = stage.endpoint.metric(TURNED_AWAY).await?;
    ensure!(before <= MORE as u64, "{before} were turned away");
    // Held until they were counted, so that nobody makes room for another.
    let wanted = MORE as u64;
    stage.until(|seen| *seen >= wanted, || stage.endpoint.metric(TURNED_AWAY)).await?;
    Ok(wanted)
}

/// Nothing, the beginning of a handshake, or a handshake and then nothing. The fleet reports meanwhile, and others can join.
async fn of_many(stage: &Stage, fleet: &Counts) -> Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    let room = limit.maximum.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
    let silent = stage.silent.min(room.saturating_sub(OTHERS));
    println!("{silent} connections");
    let (mut crowd, mut shaken) = (Vec::with_capacity(silent), Vec::new());
    for number in 0..silent {
        // None so many that it would be turned away.
        let [.., high, low] = u32::try_from(number / (OF_ONE_ADDRESS - 12))?.to_be_bytes();
        let mut stream = from(stage, Ipv4Addr::new(127, 1, high, low + 1)).await?;
        match number % 16 {
            0..8 => crowd.push(stream),
            8..15 => {
                stream.write_all(b"\x16\x03\x01\x02\x00\x01").await?;
                crowd.push(stream);
            }
            _ => {
                let connector = TlsConnector::from(Arc::clone(stage.endpoint.stranger()));
                shaken.push(connector.connect(ServerName::try_from("localhost")?, stream).await?);
            }
        }
    }
    let (before, _) = fleet.deliveries();
    stage.until(|taken| *taken > before + 50, async || Ok(fleet.deliveries().0)).await.context("beside a crowd")?;
    stage.evil("evil-late-comer").await.context("joining beside a crowd")?.says().await?;
    let mut byte = [0];
    let open = crowd.iter().filter(|stream| is_open(stream.try_read(&mut byte))).count() + shaken.len();
    // Who says nothing for long is gone by then, where many came slowly.
    ensure!(open > OF_ONE_ADDRESS, "{open} of {silent} are connected");
    Ok(0)
}

fn is_open(read: io::Result<usize>) -> bool {
    read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}
