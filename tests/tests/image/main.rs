//! Images and the programs that others unpack, copy and run them with: what driftlock makes of an image is what they make
//! of it, and nothing that is in an archive's or a layout's power makes it say otherwise. Belongs here: what needs another
//! reader of images, and images that are wrong on purpose. Each rule of the format is tested beside its reader.

mod adversarial;
mod described;
mod odd_tar;
mod podman;
mod readers;
mod runtime;
mod skopeo;
mod umoci;

use std::process::ExitCode;

use driftlock_tests::peak;
use driftlock_tests::require::run;

fn main() -> ExitCode {
    if let Some(code) = peak::main() {
        return code;
    }
    run([
        adversarial::trials(),
        podman::trials(),
        readers::trials(),
        runtime::trials(),
        skopeo::trials(),
        umoci::trials(),
    ]
    .into_iter()
    .flatten()
    .collect())
}
