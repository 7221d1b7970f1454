//! Owns the native protocol of the journal: a datagram with a field after the other, or, if that is too large, a sealed file
//! in memory that is handed over. Must not own what the fields are about.
//!
//! <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>. Every value is written with its length before it, never up to the next
//! line feed, so that nothing in a value can become another field.

use std::fs::File;
use std::io::{self, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use super::{Drain, Record};

/// How long a journal may take to take one event.
const PATIENCE: Duration = Duration::from_secs(5);

/// The journal behind a socket.
pub(super) struct Journal {
    path: PathBuf,
    socket: Option<UnixDatagram>,
}

impl Journal {
    pub(super) const fn at(path: PathBuf) -> Self {
        Self { path, socket: None }
    }

    fn socket(&mut self) -> io::Result<&UnixDatagram> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => {
                let socket = UnixDatagram::unbound()?;
                socket.set_write_timeout(Some(PATIENCE))?;
                socket.connect(&self.path)?;
                socket
            }
        };
        Ok(self.socket.insert(socket))
    }
}

impl Drain for Journal {
    fn take(&mut self, record: &Record) -> io::Result<()> {
        let bytes = encode(record);
        let socket = self.socket()?;
        let sent = match socket.send(&bytes) {
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::MSGSIZE | Errno::NOBUFS)) => {
                hand_over(socket, &bytes)
            }
            sent => sent.map(|_| ()),
        };
        if sent.is_err() {
            // It may be another journal's by now.
            self.socket = None;
        }
        sent
    }
}

/// Sends a file in memory that nobody can change any more: the journal believes no other.
fn hand_over(socket: &UnixDatagram, bytes: &[u8]) -> io::Result<()> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let made = match rustix::fs::memfd_create("driftlock-event", flags) {
        // Where files in memory must not be executed (vm.memfd_noexec). Not by default: the seal that comes with it is one that
        // a journal before version 254 does not expect.
        Err(Errno::ACCESS | Errno::PERM) => {
            rustix::fs::memfd_create("driftlock-event", MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL)
        }
        made => made,
    };
    let mut file = File::from(made?);
    file.write_all(bytes)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL)?;
    let file = OwnedFd::from(file);
    let descriptors = [file.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    rustix::net::sendmsg(socket, &[], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// All fields of an event. Ours begin with `DRIFTLOCK_`, and `DRIFTLOCK_EVENT` is the whole of it, as JSON.
fn encode(record: &Record) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(2 * record.weight());
    let mut put = |name: &str, value: &str| {
        bytes.extend_from_slice(name.as_bytes());
        bytes.push(b'\n');
        bytes.extend_from_slice(&(value.len() as u64).to_le_bytes());
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(b'\n');
    };
    put("MESSAGE", &record.line(usize::MAX));
    put("PRIORITY", &record.level.number().to_string());
    put("SYSLOG_IDENTIFIER", "driftlock");
    put("DRIFTLOCK_TYPE", record.kind);
    for (name, value) in &record.fields {
        put(&format!("DRIFTLOCK_{}", name.to_ascii_uppercase()), value);
    }
    put("DRIFTLOCK_EVENT", &record.json);
    bytes
}
