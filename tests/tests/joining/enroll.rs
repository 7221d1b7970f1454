//! `driftlock enroll`.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::authority::Authority;
use driftlock_tests::binaries::binaries;
use driftlock_tests::fake::{Act, FakeCollector};
use driftlock_tests::process::Process;
use driftlock_tests::random::Random;
use driftlock_tests::require::{Requirement, trial};
use driftlock_tests::sandbox::{Finished, NOBODY, Sandbox};
use driftlock_tests::wait::pass;
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("one_command_lets_a_host_join", &[Requirement::Openssl], one_command),
        trial("what_goes_wrong_is_one_line_and_changes_nothing", &[], what_goes_wrong),
        trial("nobody_but_who_has_the_ca_of_the_token_is_told_it", &[], nobody_else_is_told),
        trial("an_answer_that_is_lost_is_asked_for_again_with_the_same_token", &[], a_lost_answer),
        trial("killed_at_any_time_it_comes_to_its_end_with_the_same_token", &[], killed_at_any_time),
        trial("root_lets_the_agents_own_user_join", &[Requirement::Root], root_for_another_user),
    ]
}

/// A CA, its collector, and a place for the state of hosts.
pub(crate) struct Stage {
    pub(crate) collector: FakeCollector,
    pub(crate) authority: Arc<Authority>,
    pub(crate) sandbox: Sandbox,
}

impl Stage {
    pub(crate) fn new() -> Result<Self> {
        let authority = Authority::new()?;
        let collector = FakeCollector::encrypted(&authority, [])?;
        Ok(Self { collector, authority, sandbox: Sandbox::new()? })
    }

    pub(crate) fn server(&self) -> String {
        format!("https://{}", self.collector.address())
    }

    pub(crate) fn arguments(&self, token: &str, state_dir: &Path) -> Vec<String> {
        let state_dir = state_dir.display().to_string();
        let words = ["enroll", "--server", &self.server(), "--token", token, "--name", "web-1", "--state-dir"];
        words.iter().map(|word| (*word).to_owned()).chain([state_dir]).collect()
    }

    pub(crate) fn enroll(&self, token: &str, state_dir: &Path) -> Result<Finished> {
        self.sandbox.driftlock(self.arguments(token, state_dir)).run()
    }

    fn state_dir(&self) -> PathBuf {
        self.sandbox.path("state")
    }
}

fn one_line(finished: &Finished) -> Result<&str> {
    let line = finished.stderr.strip_suffix('\n').with_context(|| format!("{finished:?}"))?;
    ensure!(!line.contains('\n') && line.starts_with("driftlock: "), "{finished:?}");
    Ok(line)
}

fn one_command() -> Result<()> {
    let stage = Stage::new()?;
    let finished = stage.enroll(&stage.authority.token(), &stage.state_dir())?.expect(0)?;
    ensure!(finished.text()? == "web-1\n", "{finished:?}");
    let line = one_line(&finished)?;
    ensure!(line.contains(&format!("web-1 reports to {}", stage.server())), "{line}");
    ensure!(stage.collector.requests() == [("/v1/enroll".to_owned(), None)], "{:?}", stage.collector.requests());
    let at = |name: &str| stage.state_dir().join("identity").join(name).display().to_string();
    ensure!(fs::read_to_string(at("ca.pem"))? == stage.authority.pem(), "the CA");
    ensure!(fs::read_to_string(at("endpoint"))?.trim_end() == stage.server(), "the endpoint");
    // What OpenSSL says of what was made.
    let openssl = |words: &[&str]| -> Result<String> {
        let finished = stage.sandbox.command(Path::new("openssl"), words).run()?.expect(0)?;
        Ok(finished.text()?.to_owned())
    };
    let pairs = [("key.pem", "certificate.pem"), ("receipt.key", "receipt.pem")];
    for (key, certificate) in pairs {
        let public = openssl(&["pkey", "-in", &at(key), "-pubout"])?;
        ensure!(public == openssl(&["x509", "-in", &at(certificate), "-noout", "-pubkey"])?, "{key}");
        let verified = openssl(&["verify", "-CAfile", &at("ca.pem"), &at(certificate)])?;
        ensure!(verified.ends_with(": OK\n"), "{verified}");
    }
    ensure!(openssl(&["pkey", "-in", &at("key.pem"), "-noout", "-text"])?.contains("P-256"), "the key's kind");
    ensure!(openssl(&["pkey", "-in", &at("receipt.key"), "-noout", "-text"])?.contains("ED25519"), "the receipt key's");
    // Nothing that it sent let anybody see the key.
    Ok(())
}

fn what_goes_wrong() -> Result<()> {
    let stage = Stage::new()?;
    let (state, good) = (stage.state_dir(), stage.authority.token());
    let secret = good.split('.').next().unwrap_or_default().to_owned();
    let with = |change: &dyn Fn(&mut Vec<String>)| -> Result<Finished> {
        let mut arguments = stage.arguments(&good, &state);
        change(&mut arguments);
        stage.sandbox.driftlock(arguments).run()
    };
    let set = |index: usize, value: &str| {
        let value = value.to_owned();
        move |arguments: &mut Vec<String>| arguments[index].clone_from(&value)
    };
    let (junk, nowhere) = (stage.sandbox.write("junk", "no token\n")?, stage.sandbox.path("nowhere"));
    let file = |path: &Path| {
        let path = path.display().to_string();
        move |arguments: &mut Vec<String>| {
            "--token-file".clone_into(&mut arguments[3]);
            arguments[4].clone_from(&path);
        }
    };
    // Nothing of these reaches the collector.
    let unknown = format!("{}.{}", "A".repeat(43), "0".repeat(64));
    for (code, says, finished) in [
        (64, "a host joins over https:// alone", with(&set(2, "http://127.0.0.1:1"))?),
        (64, "a host joins over https:// alone", with(&set(2, "unix:///run/x.sock"))?),
        (64, "not an enrolment token", with(&set(4, &good[1..]))?),
        (64, "not an enrolment token", with(&set(4, &secret))?),
        (64, "a host's name is", with(&set(6, "web/1"))?),
        (65, "not an enrolment token", with(&file(&junk))?),
        (66, "nowhere", with(&file(&nowhere))?),
        (73, "junk", with(&set(8, &junk.join("x").display().to_string()))?),
        (77, "that of the CA 0000", with(&set(4, &unknown))?),
    ] {
        let finished = finished.expect(code)?;
        let line = one_line(&finished)?;
        ensure!(line.contains(says) && !line.contains(&secret), "{says}: {line}");
        ensure!(finished.stdout.is_empty(), "{finished:?}");
    }
    let is_empty = stage.collector.requests().is_empty();
    ensure!(is_empty, "{:?}", stage.collector.requests());
    // These do.
    for (act, code, says) in [
        (Act::Status(404), 69, "gives no certificates to hosts: 404"),
        (Act::Status(503), 69, "503"),
        (Act::Status(500), 69, "500"),
        (Act::TooMany(1000), 69, "429"),
        (Act::Status(400), 77, "the collector refuses: 400"),
        (Act::Status(403), 77, "the collector refuses: 403"),
        (Act::Redirect("https://127.0.0.1:1/".to_owned()), 69, "307"),
        (Act::Page, 69, "cannot be understood"),
        (Act::Garbage, 69, "error"),
        (Act::HalfAnswer, 69, "error"),
        (Act::HangUp, 69, "error"),
    ] {
        stage.collector.act([act.clone()]);
        let finished = with(&|_| ())?.expect(code)?;
        let line = one_line(&finished)?;
        ensure!(line.contains(says) && line.contains(&stage.server()), "{act:?}: {line}");
        ensure!(!line.contains(&secret), "{line}");
        ensure!(!state.join("identity").exists(), "{act:?} left an identity");
    }
    let strange = format!("{}.{}", "A".repeat(43), good.split('.').nth(1).unwrap_or_default());
    let finished = with(&set(4, &strange))?.expect(77)?;
    ensure!(one_line(&finished)?.ends_with("this token is not known"), "{finished:?}");
    // In the end it joins, and with the same token nobody else does.
    with(&|_| ())?.expect(0)?;
    let finished = with(&set(8, &stage.sandbox.path("other").display().to_string()))?.expect(77)?;
    ensure!(one_line(&finished)?.ends_with("this token was used"), "{finished:?}");
    drop(stage.collector);
    let asked = ["enroll", "--server", "https://127.0.0.1:9", "--token", &good, "--name", "a", "--state-dir"];
    let finished = stage.sandbox.driftlock(asked.iter().map(Path::new).chain([nowhere.as_path()])).run()?.expect(69)?;
    one_line(&finished)?;
    Ok(())
}

fn nobody_else_is_told() -> Result<()> {
    let stage = Stage::new()?;
    let token = stage.authority.token();
    let refused = |says: &str| -> Result<()> {
        let finished = stage.enroll(&token, &stage.state_dir())?.expect(77)?;
        ensure!(one_line(&finished)?.contains(says), "{says}: {finished:?}");
        let is_empty = stage.collector.requests().is_empty();
        ensure!(is_empty, "somebody was told the token");
        Ok(())
    };
    // Of the same make, and another CA.
    let other = Authority::new()?;
    stage.collector.speak(other.server(&["127.0.0.1"])?);
    refused("none of the certificates that it shows is that of the CA")?;
    // Of the CA, for another name.
    stage.collector.speak(stage.authority.server(&["collector.example", "127.0.0.2"])?);
    refused("invalid peer certificate")?;
    // Whoever stole the key of a host is no collector.
    let stolen = stage.sandbox.path("stolen");
    stage.collector.speak(stage.authority.server(&["127.0.0.1"])?);
    stage.enroll(&stage.authority.token(), &stolen)?.expect(0)?;
    let read = |name: &str| fs::read_to_string(stolen.join("identity").join(name));
    let thief = FakeCollector::encrypted(&stage.authority, [])?;
    for (certificate, key) in [("certificate.pem", "key.pem"), ("receipt.pem", "receipt.key")] {
        thief.speak(stage.authority.server_of_a_host(&read(certificate)?, &read(key)?)?);
        let mut arguments = stage.arguments(&token, &stage.state_dir());
        arguments[2] = format!("https://{}", thief.address());
        let finished = stage.sandbox.driftlock(arguments).run()?.expect(77)?;
        ensure!(one_line(&finished)?.contains("invalid peer certificate"), "{finished:?}");
        ensure!(thief.requests().is_empty(), "a thief was told the token");
    }
    stage.enroll(&token, &stage.state_dir())?.expect(0)?;
    Ok(())
}

fn a_lost_answer() -> Result<()> {
    let stage = Stage::new()?;
    let (state, token) = (stage.state_dir(), stage.authority.token());
    stage.collector.act([Act::LoseAnswer, Act::HalfAnswer]);
    stage.enroll(&token, &state)?.expect(69)?;
    stage.enroll(&token, &state)?.expect(69)?;
    ensure!(stage.collector.requests().len() == 1, "the first was heard");
    stage.enroll(&token, &state)?.expect(0)?;
    let key = fs::read(state.join("identity/key.pem"))?;
    // Said again, as by whoever sets hosts up: nothing is asked, nothing changes.
    let again = stage.enroll(&token, &state)?.expect(0)?;
    ensure!(one_line(&again)?.contains("as with this token before"), "{again:?}");
    ensure!(stage.collector.requests().len() == 2 && fs::read(state.join("identity/key.pem"))? == key, "{again:?}");
    // With another token it joins anew, with another key, and the receipt key stays.
    let receipt = fs::read(state.join("identity/receipt.key"))?;
    stage.enroll(&stage.authority.token(), &state)?.expect(0)?;
    ensure!(fs::read(state.join("identity/key.pem"))? != key, "the same key");
    ensure!(fs::read(state.join("identity/receipt.key"))? == receipt, "another receipt key");
    Ok(())
}

fn killed_at_any_time() -> Result<()> {
    let stage = Stage::new()?;
    let state = stage.state_dir();
    let mut random = Random::new(7);
    let mut identities = BTreeSet::new();
    for round in 0..4 {
        let token = stage.authority.token();
        for _ in 0..8 {
            let mut command = stage.sandbox.bare_command(&binaries().driftlock);
            let process = Process::spawn("enroll", command.args(stage.arguments(&token, &state)))?;
            pass(Duration::from_millis(random.below(60)));
            process.kill()?;
            // What is there is whole: the one before, or the next.
            if state.join("identity").exists() {
                let config = format!(
                    "state_dir = {state:?}\n[[target]]\nname = 'a'\nroot = '/nowhere'\nmanifest = '/m'\nallow_unsigned = true\n"
                );
                let config = stage.sandbox.write("agent.toml", config)?;
                let arguments = [Path::new("check-config"), Path::new("--config"), &config];
                let checked = stage.sandbox.driftlock(arguments).run()?;
                ensure!(checked.text()?.contains("web-1 at https://"), "round {round}: {checked:?}");
            }
        }
        stage.enroll(&token, &state)?.expect(0)?;
        identities.insert(fs::read(state.join("identity/key.pem"))?);
    }
    ensure!(identities.len() == 4, "each token gives a key of its own");
    let mut left: Vec<_> =
        fs::read_dir(&state)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>()?;
    left.sort();
    ensure!(left == ["identity", "identity.lock"], "{left:?}");
    Ok(())
}

fn root_for_another_user() -> Result<()> {
    let stage = Stage::new()?;
    let state = stage.state_dir();
    fs::create_dir(&state)?;
    chown(&state, Some(NOBODY), Some(NOBODY))?;
    stage.enroll(&stage.authority.token(), &state)?.expect(0)?;
    for entry in walk(&state)? {
        let found = fs::metadata(&entry)?;
        ensure!((found.uid(), found.gid()) == (NOBODY, NOBODY), "{} is root's", entry.display());
    }
    Ok(())
}

fn walk(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = walkdir::WalkDir::new(directory).into_iter();
    let paths: Vec<PathBuf> = entries.map(|entry| entry.map(walkdir::DirEntry::into_path)).collect::<Result<_, _>>()?;
    ensure!(paths.len() > 8, "{paths:?}");
    Ok(paths)
}
