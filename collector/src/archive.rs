//! Owns `backup` and `restore`: arguments to a copy, and what is said of it. Must not own what is in a copy.

use std::io::Write as _;
use std::path::Path;

use crate::cli::{BackupArgs, RestoreArgs};
use crate::clock::Timestamp;
use crate::failure::Failure;
use crate::store::copy::{self, Copied};

/// Copies a collector's directory into a file, while it runs or not.
///
/// # Errors
/// If there is nothing to copy, the file is there, or it cannot be written.
pub fn backup(args: &BackupArgs) -> Result<(), Failure> {
    let copied = copy::backup(&args.data, &args.file)?;
    tell(&args.file, copied, "");
    Ok(())
}

/// Makes a collector's directory of such a file.
///
/// # Errors
/// If the file cannot be used, or the directory has a store already.
pub fn restore(args: &RestoreArgs) -> Result<(), Failure> {
    let copied = copy::restore(&args.file, &args.data, Timestamp::now())?;
    tell(&args.data, copied, "; every host is going to be asked for everything");
    Ok(())
}

fn tell(place: &Path, copied: Copied, more: &str) {
    let Copied { hosts, open, files, left_out } = copied;
    let path = driftlock_common::path::Escaped(place.as_os_str().as_encoded_bytes()).to_string();
    let left_out = if left_out > 0 { format!(", left out (no files): {left_out}") } else { String::new() };
    // Nothing can be said on a closed stream.
    let _closed =
        writeln!(std::io::stdout(), "{path}: hosts {hosts}, open findings {open}, other files {files}{left_out}{more}");
}
