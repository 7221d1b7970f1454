//! FIFOs, sockets and devices: opening one could block, wake a program up or do harm, so that none is ever opened.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::canary::Canary;
use driftlock_tests::require::{self, Requirement};
use driftlock_tests::told::Told;
use libtest_mimic::Trial;
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use super::case::Case;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        require::trial(
            "node::fifos_sockets_and_devices_are_compared_and_never_opened",
            &[Requirement::Root, Requirement::Strace],
            compared,
        ),
        require::trial("node::a_fifo_and_a_socket_that_somebody_serves_stay_undisturbed", &[], served),
    ]
}

/// The types, with numbers of devices: some of a driver that is there, on which opening would do something.
const NODES: [(&str, FileType, (u32, u32)); 6] = [
    ("fifo", FileType::Fifo, (0, 0)),
    ("socket", FileType::Socket, (0, 0)),
    ("null", FileType::CharacterDevice, (1, 3)),
    ("char", FileType::CharacterDevice, (240, 70_000)),
    ("loop", FileType::BlockDevice, (7, 0)),
    ("block", FileType::BlockDevice, (240, 1)),
];

fn make(path: &Path, file_type: FileType, (major, minor): (u32, u32)) -> Result<()> {
    mknodat(CWD, path, file_type, Mode::from_raw_mode(0o600), makedev(major, minor))
        .with_context(|| path.display().to_string())
}

fn compared() -> Result<()> {
    let case = Case::new()?;
    let at = |name: String| case.tree.path(name);
    case.tree.file("steady", "sealed")?.dir("directory")?;
    // Whatever is a node while it is looked at has this in its name.
    let nodes = NODES.iter().enumerate();
    for (number, (name, file_type, device)) in nodes.clone() {
        for role in ["steady", "removed", "to-other-number"] {
            make(&at(format!("node-{name}-{role}")), *file_type, *device)?;
        }
        make(&at(format!("{name}-to-file")), *file_type, *device)?;
        make(&at(format!("{name}-to-directory")), *file_type, *device)?;
        case.tree.file(format!("node-{name}-from-file"), "sealed")?;
        case.tree.file(format!("node-{name}-from-directory/inside"), "sealed")?;
        let (_, other_type, other_device) = NODES[(number + 2) % NODES.len()];
        make(&at(format!("node-{name}-from-another")), other_type, other_device)?;
    }
    let seal = ["seal".into(), "-o".into(), case.manifest().into_os_string(), case.source()];
    let canary = Canary::new()?;
    for (name, ..) in NODES {
        canary.watch(&at(format!("node-{name}-steady")))?;
    }
    let is_opened = |trace: &Path, name: &str| -> Result<bool> {
        let trace = fs::read_to_string(trace)?;
        ensure!(trace.contains("\"steady\""), "nothing is seen of files that are opened\n{trace}");
        Ok(trace.lines().any(|line| line.contains(name)))
    };
    let trace = case.sandbox.path("trace");
    let driftlock = driftlock_tests::binaries::binaries().driftlock.clone().into_os_string();
    let strace = ["strace", "-f", "-qq", "-e", "trace=/^open,/^connect,/^io_uring,readlink,readlinkat", "-o"];
    let traced = || strace.map(Into::into).into_iter().chain([trace.clone().into_os_string()]);
    let line: Vec<std::ffi::OsString> = traced().chain([driftlock]).chain(seal).collect();
    case.sandbox.command(Path::new(&line[0]), &line[1..]).run()?.expect(0)?;
    for (name, ..) in NODES {
        ensure!(!is_opened(&trace, &format!("node-{name}-steady"))?, "sealing opened the {name}");
    }

    let mut expected = vec!["added new".to_owned()];
    for (number, (name, file_type, device)) in nodes {
        for role in ["removed", "to-other-number", "from-file", "from-another"] {
            fs::remove_file(at(format!("node-{name}-{role}")))?;
        }
        fs::remove_dir_all(at(format!("node-{name}-from-directory")))?;
        fs::remove_file(at(format!("{name}-to-file")))?;
        fs::remove_file(at(format!("{name}-to-directory")))?;
        fs::write(at(format!("{name}-to-file")), "")?;
        case.tree.dir(format!("{name}-to-directory"))?;
        let is_device = matches!(file_type, FileType::CharacterDevice | FileType::BlockDevice);
        // A FIFO and a socket have no number: theirs is not compared.
        make(&at(format!("node-{name}-to-other-number")), *file_type, (device.0, device.1 + 1))?;
        for role in ["from-file", "from-directory", "from-another"] {
            make(&at(format!("node-{name}-{role}")), *file_type, *device)?;
        }
        case.tree.dir("new")?;
        make(&at(format!("new/node-{name}")), *file_type, *device)?;

        let (_, other_type, _) = NODES[(number + 2) % NODES.len()];
        ensure!(other_type != *file_type, "a node of another type takes its place");
        expected.extend([
            format!("removed node-{name}-removed"),
            format!("changed {name}-to-file type"),
            format!("changed {name}-to-directory type"),
            format!("changed node-{name}-from-file type"),
            format!("changed node-{name}-from-directory type"),
            format!("removed node-{name}-from-directory/inside"),
            format!("changed node-{name}-from-another type"),
            format!("added new/node-{name}"),
        ]);
        expected.extend(is_device.then(|| format!("changed node-{name}-to-other-number device")));
    }
    let finished = case.behind(traced()).run()?;
    Told::of(&finished)?.expect(expected)?;
    ensure!(!is_opened(&trace, "node-")?, "a node was opened\n{}", fs::read_to_string(&trace)?);
    canary.is_untouched()
}

fn served() -> Result<()> {
    let case = Case::new()?;
    let (fifo, socket) = (case.tree.path("fifo"), case.tree.path("socket"));
    make(&fifo, FileType::Fifo, (0, 0))?;
    let listener = std::os::unix::net::UnixListener::bind(&socket)?;
    listener.set_nonblocking(true)?;
    case.seal()?;
    // Both ends are held here, so that whoever opened it would come through and could read what is in it.
    let pipe = fs::File::options().read(true).write(true).open(&fifo)?;
    rustix::io::write(&pipe, b"secret")?;
    let canary = Canary::new()?;
    canary.watch(&fifo)?;
    fs::rename(&fifo, case.tree.path("renamed"))?;
    case.scan()?.expect(["removed fifo", "added renamed"])?;
    canary.is_untouched()?;
    let nobody = listener.accept().expect_err("nobody connects");
    ensure!(nobody.kind() == std::io::ErrorKind::WouldBlock, "{nobody}");
    let mut left = [0; 16];
    ensure!(rustix::io::read(&pipe, &mut left)? == 6, "somebody has read from the FIFO");
    Ok(())
}
