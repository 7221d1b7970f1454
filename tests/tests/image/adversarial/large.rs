//! Owns what is large, or becomes large when it is unpacked: how it ends, and how much memory it takes.

use std::fs;
use std::io::Write as _;

use anyhow::{Result, ensure};
use driftlock_tests::archive::{Entry, Format};
use driftlock_tests::image::{Document, Layout, gzip};
use driftlock_tests::peak;
use driftlock_tests::require::trial;
use driftlock_tests::sandbox::{Finished, Sandbox};
use libtest_mimic::Trial;
use serde_json::json;

use super::{odd, of, without_digests};

const MB: u64 = 1024 * 1024;
/// What a bomb becomes, a whole number of megabytes: far more than the memory it may take.
const BOMB: u64 = 1024 * MB;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("large_a_hundred_thousand_entries", &[], a_hundred_thousand_entries),
        trial("large_a_gzip_bomb", &[], a_gzip_bomb),
        trial("large_a_zstd_bomb", &[], a_zstd_bomb),
        trial("large_a_zstd_window", &[], a_zstd_window),
        trial("large_a_bomb_behind_the_end", &[], a_bomb_behind_the_end),
        trial("large_a_sparse_file", &[], a_sparse_file),
    ]
}

/// Seals under a measure; the peak of its memory in bytes.
fn measured(sandbox: &Sandbox, source: &str, code: i32) -> Result<(Finished, u64)> {
    measured_with(sandbox, source, &[], code)
}

fn measured_with(sandbox: &Sandbox, source: &str, options: &[&str], code: i32) -> Result<(Finished, u64)> {
    let mut words = peak::words()?;
    words.push(driftlock_tests::binaries::binaries().driftlock.clone().into());
    let manifest = sandbox.path("manifest");
    words.extend(["seal".into(), source.into(), "-o".into(), manifest.into()]);
    words.extend(options.iter().map(Into::into));
    let (program, arguments) = words.split_first().expect("there are some");
    let finished = sandbox.command(program.as_ref(), arguments).run()?.expect(code)?;
    let peak = peak::of(&finished)?;
    Ok((finished, peak))
}

fn a_hundred_thousand_entries() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let directories = (0..100).map(|directory| Entry::dir(format!("d{directory}")));
    let files = (0..100_000_u64).map(|file| {
        let entry = Entry::file(format!("d{}/file-{file:06}", file % 100), file.to_string());
        if file % 7 == 0 { entry.format(Format::Gnu).owner(file, file) } else { entry }
    });
    let layout = Layout::create(sandbox.path("layout"))?.layer(&of(directories.chain(files)).finish())?.finish()?;
    let (_, peak) = measured(&sandbox, &layout.source(), 0)?;
    let text = fs::read_to_string(sandbox.path("manifest"))?;
    ensure!(text.lines().count() == 100_100 + 2, "{} lines", text.lines().count());
    ensure!(
        text.contains("\"p\":\"d99/file-099999\",\"t\":\"f\",\"m\":\"0644\",\"u\":0,\"g\":0,\"s\":5,"),
        "the last one"
    );
    ensure!(odd(&sandbox.path("manifest"))?.is_empty(), "nothing is odd");
    // 70 MB when this was written, unoptimised.
    ensure!(peak < 100 * MB, "{peak} bytes");
    Ok(())
}

/// The header of a file of so many zeros.
fn zeros(size: u64) -> Vec<u8> {
    Entry::file("zeros", "").size(size).format(Format::Gnu).bytes()
}

/// An archive of such a file, piece by piece.
fn archive_of_zeros(size: u64, mut to: impl FnMut(&[u8]) -> std::io::Result<()>) -> Result<()> {
    to(&zeros(size))?;
    let piece = vec![0; usize::try_from(MB)?];
    for _ in 0..size / MB {
        to(&piece)?;
    }
    Ok(to(&[0; 1024])?)
}

/// A layout whose only layer is packed like this.
fn bomb(sandbox: &Sandbox, packed: &[u8], zstd: bool) -> Result<String> {
    use sha2::Digest as _;
    let mut diff_id = sha2::Sha256::new();
    archive_of_zeros(BOMB, |piece| {
        diff_id.update(piece);
        Ok(())
    })?;
    let diff_id = format!("sha256:{}", hex::encode(diff_id.finalize()));
    let layout = Layout::create(sandbox.path("layout"))?.layer_as(&[], packed)?;
    let layout = layout.finish_as(|document, value| match document {
        Document::Config => value["rootfs"]["diff_ids"] = json!([diff_id]),
        Document::Manifest if zstd => {
            value["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+zstd");
        }
        _ => {}
    })?;
    Ok(layout.source())
}

fn ensure_zeros(sandbox: &Sandbox) -> Result<()> {
    let text = fs::read_to_string(sandbox.path("manifest"))?;
    ensure!(
        text.contains(&format!("\"p\":\"zeros\",\"t\":\"f\",\"m\":\"0644\",\"u\":0,\"g\":0,\"s\":{BOMB},")),
        "{text}"
    );
    Ok(())
}

fn a_gzip_bomb() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    archive_of_zeros(BOMB, |piece| encoder.write_all(piece))?;
    let packed = encoder.finish()?;
    ensure!((packed.len() as u64) < BOMB / 100, "{} bytes are no bomb", packed.len());
    let (_, peak) = measured(&sandbox, &bomb(&sandbox, &packed, false)?, 0)?;
    ensure_zeros(&sandbox)?;
    ensure!(peak < 30 * MB, "{peak} bytes");
    Ok(())
}

fn a_zstd_bomb() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let mut encoder = zstd::Encoder::new(Vec::new(), 1)?;
    archive_of_zeros(BOMB, |piece| encoder.write_all(piece))?;
    let packed = encoder.finish()?;
    ensure!((packed.len() as u64) < BOMB / 1000, "{} bytes are no bomb", packed.len());
    let (_, peak) = measured(&sandbox, &bomb(&sandbox, &packed, true)?, 0)?;
    ensure_zeros(&sandbox)?;
    ensure!(peak < 30 * MB, "{peak} bytes");
    Ok(())
}

/// A few bytes that ask for two gigabytes of memory (RFC 8878, section 3.1.1.1.2: exponent 21, mantissa 0 is 2^31).
fn a_zstd_window() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let packed = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 0x01, 0x00, 0x00];
    let (finished, peak) = measured(&sandbox, &bomb(&sandbox, &packed, true)?, 65)?;
    let said = without_digests(&finished.stderr);
    ensure!(
        said.contains("blob sha256:*: the zstd stream is damaged: it needs a window of more than 128 MiB"),
        "{said}"
    );
    ensure!(peak < 30 * MB, "{peak} bytes");
    Ok(())
}

/// What is behind the end of the archive is read for its digest, and nowhere kept.
fn a_bomb_behind_the_end() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let layer = of([Entry::file("x", "1")]).finish();
    let whole = [layer, vec![b'x'; usize::try_from(256 * MB)?]].concat();
    let layout = Layout::create(sandbox.path("layout"))?.layer_as(&whole, &gzip(&whole)?)?.finish()?;
    let (_, peak) = measured(&sandbox, &layout.source(), 0)?;
    ensure!(odd(&sandbox.path("manifest"))? == [("trailing-data".to_owned(), 1)], "not noted");
    ensure!(peak < 30 * MB, "{peak} bytes");
    Ok(())
}

/// A few hundred bytes that stand for ten gigabytes, and have a digest all the same.
fn a_sparse_file() -> Result<()> {
    const SIZE: u64 = 10_000_000_000;
    const AT: u64 = 5_000_000_000;
    let sandbox = Sandbox::new()?;
    // GNU tar's format 1.0: the map, padded to a block, before what is stored.
    let mut content = format!("2\n{AT}\n3\n{SIZE}\n0\n").into_bytes();
    content.resize(512, 0);
    content.extend(b"abc");
    let keys = [("major", "1".to_owned()), ("minor", "0".to_owned()), ("name", "disk".to_owned())];
    let entry = keys
        .into_iter()
        .chain([("realsize", SIZE.to_string())])
        .fold(Entry::file("GNUSparseFile.0/disk", content).format(Format::Pax), |entry, (key, value)| {
            entry.record(format!("GNU.sparse.{key}"), value)
        });
    let layout = Layout::create(sandbox.path("layout"))?.layer(&of([entry]).finish())?.finish()?;
    let (_, peak) = measured_with(&sandbox, &layout.source(), &["--no-sha256"], 0)?;
    ensure!(peak < 30 * MB, "{peak} bytes");

    let zeros = vec![0; usize::try_from(MB)?];
    let mut hasher = blake3::Hasher::new();
    for (length, stored) in [(AT, &b"abc"[..]), (SIZE - AT - 3, b"")] {
        for at in (0..length).step_by(zeros.len()) {
            hasher.update(&zeros[..usize::try_from(MB.min(length - at))?]);
        }
        hasher.update(stored);
    }
    let text = fs::read_to_string(sandbox.path("manifest"))?;
    let line = format!(
        "\"p\":\"disk\",\"t\":\"f\",\"m\":\"0644\",\"u\":0,\"g\":0,\"s\":{SIZE},\"b3\":\"{}\"",
        hasher.finalize()
    );
    ensure!(text.contains(&line), "{line} is not in {text}");
    ensure!(odd(&sandbox.path("manifest"))? == [("sparse".to_owned(), 1)], "not noted");
    Ok(())
}
