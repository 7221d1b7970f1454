//! What is shipped, as it is shipped: static binaries, documents, packages, units, the image and the manifests for
//! orchestrators. Packages are installed by the package managers on machines with a systemd of their own.

mod binary;
mod document;
mod host;
mod image;
mod life;
mod notify;
mod orchestrator;
mod rpm;
mod sight;
mod unit;

use std::process::ExitCode;

use driftlock_tests::require::run;

fn main() -> ExitCode {
    let mut trials = Vec::new();
    trials.extend(binary::trials());
    trials.extend(document::trials());
    trials.extend(notify::trials());
    trials.extend(unit::trials());
    trials.extend(life::trials());
    trials.extend(sight::trials());
    trials.extend(rpm::trials());
    trials.extend(image::trials());
    trials.extend(orchestrator::trials());
    run(trials)
}
