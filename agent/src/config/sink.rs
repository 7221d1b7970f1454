//! Owns what a sink may be, and how it is written. Must not own writing to one.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where the journal listens unless set.
pub const JOURNAL_SOCKET: &str = "/run/systemd/journal/socket";
/// Where syslog messages go unless set.
pub const SYSLOG_SOCKET: &str = "/dev/log";

/// Where events go besides the collector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sink {
    /// Standard output, a line of JSON each.
    Stdout,
    /// The end of a file, absolute, a line of JSON each.
    File(PathBuf),
    /// The journal, which listens at this socket, absolute.
    Journald(PathBuf),
    /// A receiver of syslog messages.
    Syslog(Syslog),
}

/// A receiver of syslog messages, and what it is to be told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Syslog {
    /// Where it is.
    pub to: SyslogTo,
    /// As what.
    pub facility: Facility,
    /// Under whose number the fields are structured data; `None`: they stand in the text alone.
    pub enterprise: Option<u32>,
}

/// Where a receiver of syslog messages is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SyslogTo {
    /// A datagram socket on this host, absolute.
    Unix(PathBuf),
    /// A host and its port, by datagrams.
    Udp(String, u16),
    /// A host and its port, by a connection.
    Tcp(String, u16),
}

/// A facility of syslog (RFC 5424 section 6.2.1), of those that are for programs like this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Facility(u8);

/// Why a text is not the place of a receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not like \"/dev/log\", \"udp://log.example:514\" or \"tcp://log.example:601\"")]
pub struct SyslogToError;

impl Facility {
    /// Their words, as syslog.conf(5) has them, and their numbers.
    pub const TABLE: [(&'static str, u8); 13] = [
        ("user", 1),
        ("daemon", 3),
        ("auth", 4),
        ("syslog", 5),
        ("authpriv", 10),
        ("local0", 16),
        ("local1", 17),
        ("local2", 18),
        ("local3", 19),
        ("local4", 20),
        ("local5", 21),
        ("local6", 22),
        ("local7", 23),
    ];

    /// The facility of that word.
    pub fn named(word: &str) -> Option<Self> {
        Self::TABLE.iter().find(|(name, _)| *name == word).map(|(_, number)| Self(*number))
    }

    /// The number of the RFC.
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl Default for Facility {
    /// `daemon`.
    fn default() -> Self {
        Self(3)
    }
}

impl FromStr for SyslogTo {
    type Err = SyslogToError;

    fn from_str(text: &str) -> Result<Self, SyslogToError> {
        if Path::new(text).is_absolute() {
            return Ok(Self::Unix(text.into()));
        }
        let (scheme, rest) = text.split_once("://").ok_or(SyslogToError)?;
        let (host, port) = rest.rsplit_once(':').ok_or(SyslogToError)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(SyslogToError)?;
        let bare = match host.strip_prefix('[') {
            Some(address) => address.strip_suffix(']').filter(|address| address.contains(':')).ok_or(SyslogToError)?,
            None => host,
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:%".contains(&byte);
        if bare.is_empty() || !bare.bytes().all(plain) || (bare == host && host.contains(':')) {
            return Err(SyslogToError);
        }
        match scheme {
            "udp" => Ok(Self::Udp(bare.to_owned(), port)),
            "tcp" => Ok(Self::Tcp(bare.to_owned(), port)),
            _ => Err(SyslogToError),
        }
    }
}

impl fmt::Display for SyslogTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host, port) = match self {
            Self::Unix(path) => return write!(f, "{}", path.display()),
            Self::Udp(host, port) => ("udp", host, port),
            Self::Tcp(host, port) => ("tcp", host, port),
        };
        if host.contains(':') { write!(f, "{scheme}://[{host}]:{port}") } else { write!(f, "{scheme}://{host}:{port}") }
    }
}

impl fmt::Display for Sink {
    /// As a condition names it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdout => f.write_str("standard output"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Journald(path) => write!(f, "journald at {}", path.display()),
            Self::Syslog(settings) => write!(f, "syslog at {}", settings.to),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_receiver_of_syslog_messages_may_be() {
        for (text, to) in [
            ("/dev/log", SyslogTo::Unix("/dev/log".into())),
            ("udp://log.example:514", SyslogTo::Udp("log.example".into(), 514)),
            ("tcp://10.0.0.1:601", SyslogTo::Tcp("10.0.0.1".into(), 601)),
            ("tcp://[fe80::1%eth0]:601", SyslogTo::Tcp("fe80::1%eth0".into(), 601)),
        ] {
            assert_eq!(text.parse::<SyslogTo>().as_ref(), Ok(&to));
            assert_eq!(to.to_string(), text);
        }
        for text in [
            "",
            "dev/log",
            "log.example:514",
            "udp://log.example",
            "udp://:514",
            "udp://log.example:0",
            "udp://log.example:65536",
            "tls://log.example:6514",
            "tcp://::1:601",
            "tcp://[::1:601",
            "tcp://[log]:601",
            "tcp://a/b:601",
            "tcp://a b:601",
            "tcp://u@a:601",
        ] {
            assert_eq!(text.parse::<SyslogTo>(), Err(SyslogToError), "{text}");
        }
    }
}
