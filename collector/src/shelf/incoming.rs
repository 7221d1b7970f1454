//! Owns taking a body in: its digest while it streams, its limits, its file. Must not own the list of what is kept.

use std::io::{self, Read as _, Write};
use std::path::Path;

use bytes::Bytes;
use driftlock_common::digest::Digest;
use driftlock_common::shelf::{self, Kind, MANIFEST_HEAD, MAX_BODY, MAX_PLAIN, MAX_WINDOW_LOG, NotKept};
use driftlock_common::trust::MAX_ENVELOPE;
use sha2::Digest as _;
use tempfile::NamedTempFile;
use tokio::sync::mpsc;

/// What names of unfinished files begin with.
pub(super) const PREFIX: &str = ".incoming-";
/// More takes many times as long.
const LEVEL: i32 = 3;

/// Why a body is not kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    /// It is larger than allowed.
    #[error("larger than {0} bytes {1}")]
    TooLarge(u64, &'static str),
    /// It is something else than its address says.
    #[error("the SHA-256 of what came is {0}: it was cut off, or is another file")]
    Other(Digest),
    /// It is not compressed as it says.
    #[error("not zstd with a window of at most 128 MiB")]
    Compression,
    /// It is nothing that is kept here.
    #[error(transparent)]
    NotKept(#[from] NotKept),
    /// The disk.
    #[error("the disk")]
    Io(#[source] io::Error),
}

/// What came in, in a file that has no name yet.
pub(super) struct Whole {
    file: NamedTempFile,
    pub(super) kind: Kind,
    pub(super) bytes: u64,
    pub(super) manifest: Option<Digest>,
}

impl Whole {
    /// Gives the file its name; it is on disk when this returns.
    pub(super) fn name(self, path: &Path) -> io::Result<()> {
        self.file.as_file().sync_all()?;
        self.file.persist(path).map_err(|error| error.error)?;
        std::fs::File::open(path.parent().unwrap_or_else(|| Path::new(".")))?.sync_all()
    }
}

/// Takes what `body` brings, up to its end, into a file in `directory`. Blocks.
pub(super) fn take(
    directory: &Path,
    sha256: Digest,
    is_compressed: bool,
    body: &mut mpsc::Receiver<Bytes>,
) -> Result<Whole, Unfit> {
    let mut file = tempfile::Builder::new().prefix(PREFIX).tempfile_in(directory).map_err(Unfit::Io)?;
    let mut measure = Measure::default();
    let mut received = 0;
    {
        let mut incoming: Box<dyn Incoming + '_> = if is_compressed {
            let mut decoder = zstd::stream::write::Decoder::new(&mut measure).map_err(Unfit::Io)?;
            decoder.window_log_max(MAX_WINDOW_LOG).map_err(Unfit::Io)?;
            Box::new(Compressed { decoder, file: &mut file })
        } else {
            let encoder = zstd::stream::write::Encoder::new(&mut file, LEVEL).map_err(Unfit::Io)?;
            Box::new(Plain { encoder: Some(encoder), measure: &mut measure })
        };
        while let Some(block) = body.blocking_recv() {
            received += block.len() as u64;
            if received > MAX_BODY {
                return Err(Unfit::TooLarge(MAX_BODY, "as it comes"));
            }
            incoming.take(&block)?;
        }
        incoming.end()?;
    }
    file.flush().map_err(Unfit::Io)?;
    let found = Digest::from_bytes(measure.sha256.finalize().into());
    if found != sha256 {
        return Err(Unfit::Other(found));
    }
    let (kind, manifest) = if measure.head.starts_with(MANIFEST_HEAD) {
        (Kind::Manifest, None)
    } else {
        let (kind, manifest) = shelf::look(&measure.head)?;
        (kind, Some(manifest))
    };
    Ok(Whole { file, kind, bytes: measure.bytes, manifest })
}

trait Incoming {
    fn take(&mut self, block: &[u8]) -> Result<(), Unfit>;
    fn end(&mut self) -> Result<(), Unfit>;
}

/// What is kept as it comes.
struct Compressed<'a> {
    decoder: zstd::stream::write::Decoder<'static, &'a mut Measure>,
    file: &'a mut NamedTempFile,
}

/// What is compressed here.
struct Plain<'a> {
    encoder: Option<zstd::stream::write::Encoder<'static, &'a mut NamedTempFile>>,
    measure: &'a mut Measure,
}

impl Incoming for Compressed<'_> {
    fn take(&mut self, block: &[u8]) -> Result<(), Unfit> {
        self.decoder.write_all(block).map_err(unfit)?;
        self.file.write_all(block).map_err(Unfit::Io)
    }

    fn end(&mut self) -> Result<(), Unfit> {
        self.decoder.flush().map_err(unfit)
    }
}

impl Incoming for Plain<'_> {
    fn take(&mut self, block: &[u8]) -> Result<(), Unfit> {
        self.measure.write_all(block).map_err(unfit)?;
        self.encoder.as_mut().map_or(Ok(()), |encoder| encoder.write_all(block)).map_err(Unfit::Io)
    }

    fn end(&mut self) -> Result<(), Unfit> {
        self.encoder.take().map_or(Ok(()), |encoder| encoder.finish().map(|_| ())).map_err(Unfit::Io)
    }
}

/// What a [`Measure`] says of too much.
#[derive(Debug, thiserror::Error)]
#[error("too large")]
struct TooLarge;

fn unfit(error: io::Error) -> Unfit {
    match error.get_ref() {
        Some(inner) if inner.is::<TooLarge>() => Unfit::TooLarge(MAX_PLAIN, "uncompressed"),
        _ => Unfit::Compression,
    }
}

/// The digest of what is written to it, how much it was, and its beginning: of what is no manifest, all that an envelope may
/// have and a byte.
#[derive(Default)]
struct Measure {
    sha256: sha2::Sha256,
    bytes: u64,
    head: Vec<u8>,
}

impl Write for Measure {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes += bytes.len() as u64;
        if self.bytes > MAX_PLAIN {
            return Err(io::Error::other(TooLarge));
        }
        let is_manifest = self.head.starts_with(MANIFEST_HEAD);
        let most = if is_manifest { MANIFEST_HEAD.len() } else { MAX_ENVELOPE + 1 };
        let room = most.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..room]);
        if !self.head.starts_with(MANIFEST_HEAD) && self.bytes > MAX_ENVELOPE as u64 {
            // Nothing else is as large.
            return Err(io::Error::other(TooLarge));
        }
        self.sha256.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The next part of what a reader has, and the reader again; `None` at its end. Blocks.
pub(super) fn next_block(
    mut reader: Box<dyn io::Read + Send>,
) -> io::Result<Option<(Bytes, Box<dyn io::Read + Send>)>> {
    const BLOCK: u64 = 256 * 1024;
    let mut block = Vec::new();
    reader.by_ref().take(BLOCK).read_to_end(&mut block)?;
    Ok((!block.is_empty()).then(|| (Bytes::from(block), reader)))
}
