//! Owns the form of what the kernel writes to a fanotify group (fanotify(7), linux/fanotify.h), as values that borrow from the
//! bytes. Pure: whatever the bytes are, it ends, within them. Must not own what an event means.

/// `FANOTIFY_METADATA_VERSION`.
const VERSION: u8 = 3;
/// `struct fanotify_event_metadata`: its length, a version, a reserved byte, the length of all before the records, the mask, a
/// descriptor, a process.
const METADATA: usize = 24;
/// `struct fanotify_event_info_header`: the type of a record, a pad, the length of the record with this.
const HEADER: usize = 4;

/// `FAN_EVENT_INFO_TYPE_*`: which object an event is about.
const OBJECT: u8 = 1;
/// The directory of the object, and its name there.
const ENTRY: u8 = 2;
/// The directory of the object, or the object if it is one.
const DIRECTORY: u8 = 3;
/// The directory and the name that a rename took the object from.
const OLD_ENTRY: u8 = 10;
/// The directory and the name that a rename gave to the object.
const NEW_ENTRY: u8 = 12;

/// What an object is called: its file system, and there its handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Object<'a> {
    /// `f_fsid` of statfs(2), the first number in the lower half.
    pub fsid: u64,
    /// The form of the handle.
    pub kind: i32,
    /// The handle.
    pub handle: &'a [u8],
}

/// A name in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The directory.
    pub directory: Object<'a>,
    /// Without the NUL. `.` or nothing is the directory itself.
    pub name: &'a [u8],
}

/// One event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event<'a> {
    /// `FAN_*`: what happened; several things that are told as one.
    pub mask: u64,
    /// Who did it: a process in the reader's namespace, 0 for one outside of it or one that is not told.
    pub pid: i32,
    /// The object itself.
    pub object: Option<Object<'a>>,
    /// Where it is, or was when it was removed.
    pub entry: Option<Entry<'a>>,
    /// Where a rename took it from.
    pub old: Option<Entry<'a>>,
    /// Where a rename put it.
    pub new: Option<Entry<'a>>,
}

/// The events in some bytes.
#[derive(Clone, Debug)]
pub struct Events<'a> {
    rest: &'a [u8],
}

/// What the kernel does not write. Nothing behind it can be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event that is malformed")]
pub struct Malformed;

impl<'a> Events<'a> {
    /// Of what one call of read(2) gave.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }
}

impl<'a> Iterator for Events<'a> {
    type Item = Result<Event<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let event = event(&mut self.rest).ok_or(Malformed);
        if event.is_err() {
            self.rest = &[];
        }
        Some(event)
    }
}

fn event<'a>(rest: &mut &'a [u8]) -> Option<Event<'a>> {
    let mut fields = *rest;
    let len = usize::try_from(u32::from_ne_bytes(take(&mut fields)?)).ok()?;
    let [version, _reserved] = take(&mut fields)?;
    let metadata = usize::from(u16::from_ne_bytes(take(&mut fields)?));
    let mask = u64::from_ne_bytes(take(&mut fields)?);
    // Groups that report handles have no descriptors of objects.
    let _no_fd: [u8; 4] = take(&mut fields)?;
    let pid = i32::from_ne_bytes(take(&mut fields)?);
    if version != VERSION || metadata < METADATA {
        return None;
    }
    let whole = rest.split_off(..len)?;
    let mut records = whole.get(metadata..)?;
    let mut event = Event { mask, pid, ..Event::default() };
    while !records.is_empty() {
        let [kind, _pad, low, high] = take(&mut { records })?;
        let len = usize::from(u16::from_ne_bytes([low, high]));
        let record = records.split_off(..len)?.get(HEADER..)?;
        match kind {
            OBJECT => event.object = Some(object(&mut { record })?),
            DIRECTORY => event.entry = Some(Entry { directory: object(&mut { record })?, name: b"" }),
            ENTRY => event.entry = Some(entry(record)?),
            OLD_ENTRY => event.old = Some(entry(record)?),
            NEW_ENTRY => event.new = Some(entry(record)?),
            // What is not asked for, and what later kernels add.
            _ => {}
        }
    }
    Some(event)
}

/// `struct fanotify_event_info_fid` from its `fsid` on, with `struct file_handle`.
fn object<'a>(record: &mut &'a [u8]) -> Option<Object<'a>> {
    let low = u64::from(u32::from_ne_bytes(take(record)?));
    let high = u64::from(u32::from_ne_bytes(take(record)?));
    let len = usize::try_from(u32::from_ne_bytes(take(record)?)).ok()?;
    let kind = i32::from_ne_bytes(take(record)?);
    Some(Object { fsid: low | high << 32, kind, handle: record.split_off(..len)? })
}

/// The same with a name behind it, which a NUL ends.
fn entry(mut record: &[u8]) -> Option<Entry<'_>> {
    let directory = object(&mut record)?;
    let end = record.iter().position(|byte| *byte == 0)?;
    Some(Entry { directory, name: &record[..end] })
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    bytes.split_off(..N)?.try_into().ok()
}

#[cfg(test)]
mod tests;
