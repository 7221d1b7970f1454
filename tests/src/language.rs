//! Owns the large image of the tests: what images of applications in Python, Perl, Ruby and JavaScript look like, made of
//! Debian's packages on top of the Debian of [`crate::debian`]. Made once for a machine and kept outside the checkout. Must
//! not own what sealing it has to give.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::debian::{self, SUITE, fixtures, mirror, pack, run, tagged};
use crate::image::sha256;

/// Changes whenever this file makes another image.
const RECIPE: &str = "1";
/// The image's tag in the layout.
pub const TAG: &str = "language";
/// At least so many regular files are in it.
pub const FILES: usize = 50_000;

/// A layer for the languages, a layer for what an application brings along. Chosen for many small files.
const LAYERS: [&[&str]; 2] = [
    &[
        "libpython3.11-minimal",
        "libpython3.11-stdlib",
        "libpython3.11-testsuite",
        "libruby3.1",
        "nodejs",
        "perl-modules-5.36",
        "python3.11-minimal",
        "ruby3.1-doc",
    ],
    &[
        "node-babel7",
        "node-caniuse-lite",
        "node-core-js",
        "node-es-abstract",
        "node-lodash",
        "npm",
        "python3-django",
        "python3-plotly",
        "python3-twisted",
        "webpack",
    ],
];

/// The OCI layout; made if this machine has not made it yet, which takes a minute and the network.
///
/// # Errors
/// If it cannot be made; what the tools said is in the error.
pub fn layout() -> Result<PathBuf> {
    let below = debian::image()?;
    let mirror = mirror().context("no Debian mirror in /etc/apt")?;
    let fixtures = fixtures()?;
    let key = sha256(format!("{RECIPE} {}", below.layout.display()).as_bytes());
    let place = fixtures.join(format!("language-{SUITE}-{}", &key[..16]));
    if !place.exists() {
        let work = tempfile::Builder::new().prefix("making-").tempdir_in(&fixtures)?;
        let made = work.path().join("oci");
        run(Command::new("cp").arg("-a").arg(&below.layout).arg(&made))?;
        let apt = Apt::new(&work.path().join("apt"), &mirror)?;
        let mut tag = debian::TAG;
        for (index, packages) in LAYERS.iter().enumerate() {
            let layer = work.path().join(index.to_string());
            let archive = layer.with_extension("tar");
            apt.unpack(packages, &layer)?;
            pack(&layer, &archive)?;
            let add = ["raw", "add-layer", "--tag", TAG, "--image"];
            run(Command::new("umoci").args(add).arg(tagged(&made, tag)).arg(&archive))?;
            tag = TAG;
        }
        run(Command::new("umoci").args(["rm", "--image"]).arg(tagged(&made, debian::TAG)))?;
        run(Command::new("umoci").args(["gc", "--layout"]).arg(&made))?;
        // Whole or not at all. If another test was faster, its image serves as well.
        if let Err(error) = fs::rename(&made, &place) {
            ensure!(place.exists(), "{}: {error}", place.display());
        }
    }
    Ok(place)
}

/// An apt that knows the suite alone, whatever the machine's own is told.
struct Apt {
    place: PathBuf,
}

impl Apt {
    fn new(place: &Path, mirror: &str) -> Result<Self> {
        for directory in ["state/lists/partial", "cache/archives/partial", "packages"] {
            fs::create_dir_all(place.join(directory))?;
        }
        fs::write(place.join("sources.list"), format!("deb {mirror} {SUITE} main\n"))?;
        fs::write(place.join("status"), "")?;
        let apt = Self { place: place.to_owned() };
        run(apt.command().arg("update"))?;
        Ok(apt)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("apt-get");
        let place = self.place.display();
        command.arg("-q").current_dir(self.place.join("packages"));
        for option in [
            format!("Dir::Etc::sourcelist={place}/sources.list"),
            "Dir::Etc::sourceparts=-".to_owned(),
            format!("Dir::State={place}/state"),
            format!("Dir::State::status={place}/status"),
            format!("Dir::Cache={place}/cache"),
            // It would not come into a directory of root's.
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        command
    }

    fn unpack(&self, packages: &[&str], root: &Path) -> Result<()> {
        run(self.command().arg("download").args(packages))?;
        for package in packages {
            let files: Vec<PathBuf> = fs::read_dir(self.place.join("packages"))?
                .map(|entry| Ok(entry?.path()))
                .collect::<Result<Vec<_>>>()?
                .into_iter()
                .filter(|file| file.file_name().is_some_and(|name| starts(&name.to_string_lossy(), package)))
                .collect();
            ensure!(files.len() == 1, "{package}: {files:?}");
            run(Command::new("dpkg-deb").arg("-x").arg(&files[0]).arg(root))?;
        }
        Ok(())
    }
}

/// Whether a file is that of a package: `NAME_VERSION_ARCHITECTURE.deb`.
fn starts(file: &str, package: &str) -> bool {
    file.strip_prefix(package).is_some_and(|rest| rest.starts_with('_'))
}
