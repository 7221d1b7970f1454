//! Owns the real application of the tests: nginx as Debian ships it, in an image of its own. Made once for a machine and
//! kept outside the checkout. Must not own how it is run or watched.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use tempfile::Builder;

use crate::debian::{SUITE, fixtures, mirror, pack, run, tagged};
use crate::image::sha256;

/// Changes whenever this file makes another image.
const RECIPE: &str = "2";
/// The image's tag in the layout.
pub const TAG: &str = "nginx";
/// What it writes while it runs, as patterns to leave out when sealing.
pub const WRITTEN: [&str; 3] = ["run/**", "var/lib/nginx/**", "var/log/nginx/**"];
/// The image in two forms.
#[derive(Clone, Debug)]
pub struct Image {
    /// An OCI layout.
    pub layout: PathBuf,
    /// The layout in an archive, by skopeo.
    pub archive: PathBuf,
}

/// Starts it in the foreground.
pub const COMMAND: [&str; 3] = ["nginx", "-g", "daemon off;"];

/// The image; made if this machine has not made it yet, which takes a minute and the network.
///
/// # Errors
/// If it cannot be made; what the tools said is in the error.
pub fn image() -> Result<Image> {
    let mirror = mirror().context("no Debian mirror in /etc/apt")?;
    let fixtures = fixtures()?;
    let key = sha256(format!("{RECIPE} {SUITE} {mirror}").as_bytes());
    let place = fixtures.join(format!("nginx-{SUITE}-{}", &key[..16]));
    // Tests of one run wait for the first of them.
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    if !place.exists() {
        let work = Builder::new().prefix("making-").tempdir_in(&fixtures)?;
        let (root, layer, made) = (work.path().join("root"), work.path().join("layer.tar"), work.path().join("image"));
        let mut debootstrap = Command::new("debootstrap");
        debootstrap.args(["--variant=minbase", "--include=nginx-light", SUITE]);
        run(debootstrap.arg(&root).arg(&mirror))?;
        // What installing needed and running does not.
        for left in ["var/cache/apt", "var/lib/apt/lists", "var/log"] {
            fs::remove_dir_all(root.join(left))?;
        }
        fs::create_dir_all(root.join("var/log/nginx"))?;
        pack(&root, &layer)?;
        fs::create_dir(&made)?;
        let layout = made.join("oci");
        run(Command::new("umoci").args(["init", "--layout"]).arg(&layout))?;
        let image = tagged(&layout, TAG);
        run(Command::new("umoci").args(["new", "--image"]).arg(&image))?;
        run(Command::new("umoci").args(["raw", "add-layer", "--image"]).arg(&image).arg(&layer))?;
        let mut from = OsString::from("oci:");
        from.push(&image);
        let to = format!("oci-archive:{}:driftlock.test/{TAG}:latest", made.join("oci.tar").display());
        run(Command::new("skopeo").arg("--insecure-policy").arg("copy").arg(from).arg(to))?;
        // Whole or not at all. If another test was faster, its image serves as well.
        if let Err(error) = fs::rename(&made, &place) {
            ensure!(place.exists(), "{}: {error}", place.display());
        }
    }
    Ok(Image { layout: place.join("oci"), archive: place.join("oci.tar") })
}
