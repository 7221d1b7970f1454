//! Owns containers under test: a podman with a store of its own, which goes with everything in it when it is dropped. Must
//! not own which images and what of them is right.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::sandbox::{Finished, Sandbox};
use crate::wait::eventually;

/// No more than what a machine that runs tests in a container of its own allows.
const LIMITS: [&str; 2] = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000"];

/// A podman. Its containers are removed when it is dropped.
#[derive(Debug)]
pub struct Podman {
    sandbox: Sandbox,
    driver: Driver,
}

/// How roots of containers are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// Whole copies: works anywhere.
    Copies,
    /// overlayfs, as on real hosts.
    Overlay,
}

/// A container that was started.
#[derive(Debug)]
pub struct Container<'a> {
    podman: &'a Podman,
    name: String,
}

impl Podman {
    /// One with an empty store.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(driver: Driver) -> Result<Self> {
        let sandbox = Sandbox::new()?;
        // Locks in shared memory are one set for all podmans of a user, whatever their stores.
        sandbox.write("containers.conf", "[engine]\nlock_type = \"file\"\n")?;
        Ok(Self { sandbox, driver })
    }

    /// Its place, for what is mounted into containers.
    pub const fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// Runs podman to its end.
    ///
    /// # Errors
    /// If it cannot be started or does not end.
    pub fn run(&self, arguments: &[&str]) -> Result<Finished> {
        let path = |name: &str| self.sandbox.path(name).display().to_string();
        let store = ["--root", "store", "--runroot", "run", "--tmpdir", "libpod"];
        let store = store.map(|word| if word.starts_with('-') { word.to_owned() } else { path(word) });
        let driver = match self.driver {
            Driver::Copies => "--storage-driver=vfs",
            Driver::Overlay => "--storage-driver=overlay",
        };
        let ways = [driver, "--runtime=runc", "--cgroup-manager=cgroupfs"].map(str::to_owned);
        let arguments = arguments.iter().map(|argument| (*argument).to_owned());
        let command = self.sandbox.command(Path::new("podman"), store.into_iter().chain(ways).chain(arguments));
        command.env("CONTAINERS_CONF", path("containers.conf")).run()
    }

    /// Takes the image of an OCI archive and names it.
    ///
    /// # Errors
    /// If podman refuses it.
    pub fn load(&self, archive: &Path, name: &str) -> Result<()> {
        let id = self.run(&["pull", "--quiet", &format!("oci-archive:{}", archive.display())])?.expect(0)?;
        self.run(&["tag", id.text()?.trim(), name])?.expect(0)?;
        Ok(())
    }

    /// Runs a container to its end and removes it. What podman itself refuses has its exit code.
    ///
    /// Not with `podman run --rm`: podman 4.3 at times does not find the exit code of a container that ended at once.
    ///
    /// # Errors
    /// If podman cannot be run, or the container does not end.
    pub fn once(&self, options: &[&str], image: &str, arguments: &[&str]) -> Result<Finished> {
        let name = "once";
        let options = [&["--network=none"][..], options].concat();
        let started = self.detach(name, &options, image, arguments)?;
        let finished = if started.code == Some(0) {
            let code = eventually("the container to end", || {
                let form = "{{.State.Status}} {{.State.ExitCode}}";
                let said = self.run(&["inspect", "--format", form, name])?.expect(0)?;
                let code = said.text()?.trim().strip_prefix("exited ").context(said.text()?.to_owned())?;
                Ok::<_, anyhow::Error>(code.parse()?)
            })?;
            Finished { code: Some(code), ..self.run(&["logs", name])?.expect(0)? }
        } else {
            started
        };
        self.run(&["rm", "--force", "--ignore", "--time=0", name])?.expect(0)?;
        Ok(finished)
    }

    fn detach(&self, name: &str, options: &[&str], image: &str, arguments: &[&str]) -> Result<Finished> {
        let named = ["run", "--detach", "--log-driver=k8s-file", "--name", name];
        self.run(&[&named[..], &LIMITS, options, &[image], arguments].concat())
    }

    /// Starts a container that goes on.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(&self, name: &str, options: &[&str], image: &str, arguments: &[&str]) -> Result<Container<'_>> {
        self.detach(name, options, image, arguments)?.expect(0)?;
        Ok(Container { podman: self, name: name.to_owned() })
    }
}

impl Container<'_> {
    /// Runs a command in it, and expects that it succeeds.
    ///
    /// # Errors
    /// If it does not.
    pub fn exec(&self, command: &[&str]) -> Result<Finished> {
        self.podman.run(&[&["exec", &self.name][..], command].concat())?.expect(0)
    }

    /// Stops it as asked and starts it again, with the same root.
    ///
    /// # Errors
    /// If podman cannot.
    pub fn restart(&self) -> Result<()> {
        self.podman.run(&["restart", "--time=10", &self.name])?.expect(0).map(drop)
    }

    /// Stops it as asked.
    ///
    /// # Errors
    /// If podman cannot.
    pub fn stop(&self) -> Result<()> {
        self.podman.run(&["stop", "--time=10", &self.name])?.expect(0).map(drop)
    }

    /// Kills it and removes it with its root, as an orchestrator does that makes another in its place.
    ///
    /// # Errors
    /// If podman cannot.
    pub fn remove(self) -> Result<()> {
        self.podman.run(&["rm", "--force", "--time=0", &self.name])?.expect(0).map(drop)
    }

    /// What it wrote so far: standard output and standard error.
    ///
    /// # Errors
    /// If podman cannot tell.
    pub fn logs(&self) -> Result<Finished> {
        self.podman.run(&["logs", &self.name])?.expect(0)
    }

    /// The number of its first process, as this machine counts.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pid(&self) -> Result<u32> {
        let said = self.podman.run(&["inspect", "--format", "{{.State.Pid}}", &self.name])?.expect(0)?;
        let pid: u32 = said.text()?.trim().parse().context("a process id")?;
        ensure!(pid > 0, "{} does not run", self.name);
        Ok(pid)
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // Containers and mounts would outlive the directory.
        let _pods = self.run(&["pod", "rm", "--all", "--force"]);
        // The second time those whose namespaces others had.
        for _ in 0..2 {
            let _containers = self.run(&["rm", "--all", "--force", "--time=0"]);
        }
        // The driver keeps its own place mounted.
        let overlay = self.sandbox.path("store/overlay");
        let _absent = self.sandbox.command(Path::new("umount"), [overlay]).run();
    }
}
