//! Trees that want to stop a scan, slow it down, lead it astray or fool it. Whatever they do, `driftlock scan` ends with
//! the right findings and gaps: it never crashes, hangs or says nothing. One module for each kind of tree.

mod case;
mod deep;
mod denied;
mod fault;
mod hardlink;
mod link;
mod mount;
mod moving;
mod mtree;
mod name;
mod node;
mod scarce;
mod sparse;
mod storm;
mod walker;
mod wide;

use std::process::ExitCode;

use driftlock_tests::{peak, require};

fn main() -> ExitCode {
    // A test starts this binary again where a command is to be measured.
    if let Some(code) = peak::main() {
        return code;
    }
    let lists = [
        deep::trials(),
        wide::trials(),
        name::trials(),
        node::trials(),
        link::trials(),
        moving::trials(),
        sparse::trials(),
        denied::trials(),
        fault::trials(),
        mount::trials(),
        hardlink::trials(),
        scarce::trials(),
        walker::trials(),
        storm::trials(),
        mtree::trials(),
    ];
    require::run(lists.into_iter().flatten().collect())
}
