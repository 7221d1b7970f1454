//! Sealing an image beside the bare decompressor, and beside unpacking it and hashing what was unpacked. Prints a table in
//! Markdown; medians of rounds in which each has its turn.
//!
//! The image is about 1 GB of the files of `/usr` in one layer, with gzip and with zstd; `--rounds N` says how many rounds
//! (unpacking takes part in three of them). The bare decompressor is the same library in this process, which reads the blob
//! and throws away what comes out: nothing is checked, and nothing hashed.
//!
//! `--dir DIR` says where everything is made (default `/var/tmp`); it is removed afterwards. `--smoke` does all of that on
//! little, and holds no promise. umoci and skopeo are needed.

use std::env;
use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use driftlock_benches::image::{self, Image, tagged};
use driftlock_benches::program::{memory, timed};
use driftlock_benches::promise::Promises;
use driftlock_benches::table::{Row, markdown};
use driftlock_benches::turns::{FAST, SLOW, Turn, take_turns};
use driftlock_benches::{driftlock, peer, trees};
use driftlock_tests::page_cache::ON_DISK;
use flate2::read::MultiGzDecoder;

/// Bytes of content.
const SIZE: u64 = 1_000_000_000;
/// The speed of sealing to that of the bare decompressor.
const TO_GZIP: f64 = 0.9;
const TO_ZSTD: f64 = 0.55;
/// Without the informational SHA-256 of each file.
const TO_ZSTD_WITHOUT: f64 = 0.7;
/// Unpacking with umoci and hashing with b3sum, to sealing.
const TO_UNPACKING: f64 = 5.0;
/// Of memory of its own.
const MEMORY: f64 = 30e6;
/// Sealing again, all layers cached, to the bare decompressor: it cannot have read any.
const CACHED: f64 = 0.25;

struct Wish {
    dir: PathBuf,
    rounds: usize,
    smoke: bool,
}

fn main() -> Result<()> {
    let wish = wish()?;
    let mut promises = Promises::new(!wish.smoke);
    let temp = tempfile::Builder::new().prefix("driftlock-bench-").tempdir_in(&wish.dir)?;
    let (root, size) = if wish.smoke { (trees::little(), 4_000_000) } else { ("/usr".into(), SIZE) };
    let image = image::make(&root, size, temp.path())?;
    measure(&wish, &image, temp.path(), &mut promises)?;
    promises.end()
}

fn wish() -> Result<Wish> {
    let mut wish = Wish { dir: ON_DISK.into(), rounds: 7, smoke: false };
    let mut args = env::args_os().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().with_context(|| format!("{} needs a value", arg.display()));
        match arg.to_str() {
            // Cargo says so to every bench.
            Some("--bench") => {}
            Some("--dir") => wish.dir = value()?.into(),
            Some("--rounds") => wish.rounds = value()?.to_string_lossy().parse()?,
            Some("--smoke") => (wish.smoke, wish.rounds) = (true, 1),
            _ => bail!("unknown argument {}", arg.display()),
        }
    }
    ensure!(wish.rounds > 0, "--rounds is at least 1");
    Ok(wish)
}

const GZIP: &str = "driftlock seal, gzip";
const BARE_GZIP: &str = "bare decompressor, gzip";
const ZSTD: &str = "driftlock seal, zstd";
const ZSTD_WITHOUT: &str = "driftlock seal --no-sha256, zstd";
const BARE_ZSTD: &str = "bare decompressor, zstd";
const CACHE: &str = "driftlock seal --cache, gzip, seen before";
const UNPACK: &str = "umoci unpack, find, xargs b3sum";

fn measure(wish: &Wish, image: &Image, place: &Path, promises: &mut Promises) -> Result<()> {
    let driftlock = driftlock()?;
    let gzip = image::layer(&image.gzip, "application/vnd.oci.image.layer.v1.tar+gzip")?;
    let zstd = image::layer(&image.zstd, "application/vnd.oci.image.layer.v1.tar+zstd")?;
    let seal = |layout: &Path, more: &[&str]| {
        let mut command = Command::new(&driftlock);
        command.arg("seal").arg(format!("oci:{}", layout.display())).arg("-o").arg(place.join("manifest")).args(more);
        command
    };
    let (mut of_gzip, mut of_zstd) = (seal(&image.gzip, &[]), seal(&image.zstd, &[]));
    let mut without = seal(&image.zstd, &["--no-sha256"]);
    let mut turns: Vec<Turn<'_>> = vec![
        (GZIP, FAST, Box::new(move || timed(&mut of_gzip))),
        (BARE_GZIP, FAST, Box::new(|| drain(MultiGzDecoder::new(open(&gzip)?)))),
        (ZSTD, FAST, Box::new(move || timed(&mut of_zstd))),
        (ZSTD_WITHOUT, FAST, Box::new(move || timed(&mut without))),
        (BARE_ZSTD, FAST, Box::new(|| drain(zstd::Decoder::with_buffer(open(&zstd)?)?))),
        (UNPACK, SLOW, Box::new(|| unpack(&image.gzip, &place.join("bundle")))),
    ];
    if keeps_layers(&driftlock)? {
        let cache = place.join("cache");
        let mut again = seal(&image.gzip, &["--cache", cache.to_str().context("a path that is text")?]);
        // The first one fills it.
        timed(&mut again)?;
        turns.push((CACHE, FAST, Box::new(move || timed(&mut again))));
    }
    let rows = take_turns(&mut turns, wish.rounds)?;
    drop(turns);
    println!("\n### an image: {} files, {:.2} GB\n", image.amount.files, image.amount.bytes as f64 / 1e9);
    print!("{}", markdown("seal of gzip", &rows, image.amount));
    println!();
    let seconds = |name: &str| rows.iter().find(|row| row.name == name).map_or(f64::NAN, Row::seconds);
    promises.at_least("gzip: bare decompressor ÷ seal", seconds(BARE_GZIP) / seconds(GZIP), TO_GZIP);
    promises.at_least("zstd: bare decompressor ÷ seal", seconds(BARE_ZSTD) / seconds(ZSTD), TO_ZSTD);
    let ratio = seconds(BARE_ZSTD) / seconds(ZSTD_WITHOUT);
    promises.at_least("zstd: bare decompressor ÷ seal --no-sha256", ratio, TO_ZSTD_WITHOUT);
    promises.at_least("umoci unpack and b3sum ÷ seal", seconds(UNPACK) / seconds(GZIP), TO_UNPACKING);
    if rows.iter().any(|row| row.name == CACHE) {
        promises.at_most("seal, all layers cached ÷ bare decompressor", seconds(CACHE) / seconds(BARE_GZIP), CACHED);
    }
    for (name, layout) in [("gzip", &image.gzip), ("zstd", &image.zstd)] {
        let peak = memory(&mut seal(layout, &[]))? as f64;
        promises.at_most(&format!("{name}: bytes of anonymous memory (RssAnon, every 2 ms)"), peak, MEMORY);
    }
    Ok(())
}

fn open(blob: &Path) -> Result<BufReader<File>> {
    let file = File::open(blob).with_context(|| blob.display().to_string())?;
    Ok(BufReader::with_capacity(128 * 1024, file))
}

/// How long it takes until nothing more comes out.
fn drain(mut bytes: impl Read) -> Result<Duration> {
    let began = Instant::now();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match bytes.read(&mut buffer) {
            Ok(0) => return Ok(began.elapsed()),
            Ok(len) => {
                std::hint::black_box(&buffer[..len]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Unpacks and hashes; taking it away again is not counted.
fn unpack(layout: &Path, bundle: &Path) -> Result<Duration> {
    const HASH: &str = "find \"$1\" -xdev -type f -print0 | xargs -0 \"$0\" > /dev/null";
    let mut unpack = Command::new(peer("umoci", "DRIFTLOCK_UMOCI")?);
    unpack.args(["unpack", "--image"]).arg(tagged(layout));
    if !nix::unistd::geteuid().is_root() {
        unpack.arg("--rootless");
    }
    unpack.arg(bundle);
    let mut hash = Command::new("sh");
    hash.args(["-c", HASH]).arg(peer("b3sum", "DRIFTLOCK_B3SUM")?).arg(bundle.join("rootfs"));
    let took = timed(&mut unpack)? + timed(&mut hash)?;
    fs::remove_dir_all(bundle)?;
    Ok(took)
}

/// Whether `seal` keeps what it knows of layers: not every version does.
fn keeps_layers(driftlock: &Path) -> Result<bool> {
    let help = Command::new(driftlock).args(["seal", "--help"]).output()?;
    Ok(String::from_utf8_lossy(&help.stdout).contains("--cache "))
}
