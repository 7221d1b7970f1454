//! Owns the names of the kernel's capabilities (linux/capability.h) and reading which ones a process has from
//! `/proc/PID/status`. Must not own what each is good for.

use std::fmt;

/// One capability, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Capability(u8);

/// Names in the order of their numbers, up to Linux 6.18.
const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// Some capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Set(u64);

/// The sets of a process that decide what it may do, and could do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// What counts now.
    pub effective: Set,
    /// What it can make effective itself.
    pub permitted: Set,
    /// What it can get at most, by running a program.
    pub bounding: Set,
}

/// A status file without the sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no {0} in the process's status")]
pub struct CapabilityError(&'static str);

// === impl Capability ===

impl Capability {
    /// Ignores permissions of files and directories for everything.
    pub const DAC_OVERRIDE: Self = Self(1);
    /// Ignores permissions of files and directories for reading.
    pub const DAC_READ_SEARCH: Self = Self(2);
    /// Sees into other users' processes.
    pub const SYS_PTRACE: Self = Self(19);
    /// A great deal, such as marking a whole file system.
    pub const SYS_ADMIN: Self = Self(21);
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.get(usize::from(self.0)) {
            Some(name) => f.write_str(name),
            None => write!(f, "CAP_{}", self.0),
        }
    }
}

// === impl Set ===

impl Set {
    /// Exactly these.
    pub fn of(capabilities: impl IntoIterator<Item = Capability>) -> Self {
        Self(capabilities.into_iter().fold(0, |bits, capability| bits | 1 << capability.0))
    }

    /// Whether `capability` is one of them.
    pub const fn has(self, capability: Capability) -> bool {
        self.0 >> capability.0 & 1 == 1
    }

    /// In the order of their numbers.
    pub fn iter(self) -> impl Iterator<Item = Capability> {
        (0..64).map(Capability).filter(move |capability| self.has(*capability))
    }
}

// === impl Capabilities ===

impl Capabilities {
    /// Reads the text of `/proc/PID/status`.
    ///
    /// # Errors
    /// If a set is not there or is no number.
    pub fn parse(status: &[u8]) -> Result<Self, CapabilityError> {
        let set = |key: &'static str| {
            let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(key.as_bytes()));
            let text = line.and_then(|line| std::str::from_utf8(line).ok());
            let bits = text.and_then(|text| u64::from_str_radix(text.strip_prefix(':')?.trim(), 16).ok());
            bits.map(Set).ok_or(CapabilityError(key))
        };
        Ok(Self { effective: set("CapEff")?, permitted: set("CapPrm")?, bounding: set("CapBnd")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sets_of_a_process_are_read() {
        let status = b"Name:\tx\nCapInh:\t0000000000000000\nCapPrm:\t0000000000280004\nCapEff:\t0000000000000004\n\
            CapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000000\n";
        let found = Capabilities::parse(status).unwrap();
        assert_eq!(found.effective, Set::of([Capability::DAC_READ_SEARCH]));
        let permitted = [Capability::DAC_READ_SEARCH, Capability::SYS_PTRACE, Capability::SYS_ADMIN];
        assert_eq!(found.permitted, Set::of(permitted));
        assert_eq!(found.permitted.iter().collect::<Vec<_>>(), permitted);
        assert_eq!(found.bounding.iter().count(), NAMES.len());
        assert!(!found.effective.has(Capability::SYS_ADMIN));
    }

    #[test]
    fn a_status_without_sets_is_refused_not_taken_for_none() {
        for (status, missing) in [
            (&b"Name:\tx\n"[..], "CapEff"),
            (b"CapEff:\tx\n", "CapEff"),
            (b"CapEff:\t0\nCapBnd:\t0\n", "CapPrm"),
            (b"CapEff:\t0\nCapPrm:\t0\nXCapBnd:\t0\n", "CapBnd"),
        ] {
            assert_eq!(Capabilities::parse(status), Err(CapabilityError(missing)));
        }
    }

    #[test]
    fn names_are_those_of_the_kernel() {
        for (capability, name) in [
            (Capability::DAC_OVERRIDE, "CAP_DAC_OVERRIDE"),
            (Capability::DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH"),
            (Capability::SYS_PTRACE, "CAP_SYS_PTRACE"),
            (Capability::SYS_ADMIN, "CAP_SYS_ADMIN"),
            (Capability(40), "CAP_CHECKPOINT_RESTORE"),
            (Capability(41), "CAP_41"),
        ] {
            assert_eq!(capability.to_string(), name);
        }
    }
}
