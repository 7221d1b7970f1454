//! Others join and report: OpenSSL makes the keys and judges the certificates, curl speaks to the collector. Neither shares
//! code with the product.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use driftlock_tests::binaries::binaries;
use driftlock_tests::collector::address_in;
use driftlock_tests::process::{Process, Stream};
use driftlock_tests::require::Requirement::{Curl, Openssl, Root};
use driftlock_tests::require::{run, trial};
use driftlock_tests::sandbox::{Finished, NOBODY, Sandbox};
use serde_json::{Value, json};

const NAME: &str = "collector.example";

fn main() -> ExitCode {
    run(vec![
        trial("openssl_and_curl_join_and_report", &[Openssl, Curl], join_and_report),
        trial("openssl_finds_no_fault_in_the_certificates", &[Openssl, Curl], judged),
        trial("root_makes_nothing_in_the_data_of_another_user", &[Root], data_of_another),
    ])
}

struct Collector {
    sandbox: Sandbox,
    _process: Process,
    address: SocketAddr,
}

/// A host whose keys OpenSSL made, and what it was given.
struct Host {
    answer: Value,
}

impl Collector {
    fn start() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let mut command = sandbox.bare_command(&binaries().collector);
        command.args(["serve", "--listen", "127.0.0.1:0", "--tls", "on", "--allow-host", NAME, "--data"]);
        command.arg(sandbox.path("data"));
        let process = Process::spawn("collector", &mut command)?;
        let address = process.line(Stream::Stderr, address_in)?;
        Ok(Self { sandbox, _process: process, address })
    }

    fn verb(&self, arguments: &[&str]) -> Result<String> {
        let data = self.sandbox.path("data").display().to_string();
        let (verb, rest) = arguments.split_first().context("a verb")?;
        let arguments = [*verb, "--data", &data].into_iter().chain(rest.iter().copied());
        Ok(self.sandbox.collector(arguments).run()?.expect(0)?.text()?.to_owned())
    }

    fn openssl(&self, arguments: &str) -> Result<Finished> {
        self.sandbox.command(Path::new("openssl"), arguments.split(' ')).run()
    }

    fn openssl_says(&self, arguments: &str) -> Result<String> {
        Ok(self.openssl(arguments)?.expect(0)?.text()?.to_owned())
    }

    /// Status and JSON of an answer.
    fn curl(&self, path: &str, more: &[&str]) -> Result<(u16, Value)> {
        let port = self.address.port();
        let (url, resolve) = (format!("https://{NAME}:{port}{path}"), format!("{NAME}:{port}:127.0.0.1"));
        let common = ["-sS", "--cacert", "ca.pem", "--resolve", &resolve, "-w", "\n%{http_code}", &url];
        let said = self.sandbox.command(Path::new("curl"), common.iter().chain(more)).run()?.expect(0)?;
        let (body, status) = said.text()?.rsplit_once('\n').context("a status")?;
        Ok((status.parse()?, serde_json::from_str(body).unwrap_or_default()))
    }

    fn read(&self, name: &str) -> Result<String> {
        let path: PathBuf = self.sandbox.path(name);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    fn join(&self, host: &str) -> Result<Host> {
        self.sandbox.write("ca.pem", self.verb(&["ca", "show"])?)?;
        let token = self.verb(&["enroll-token", host])?;
        let (secret, pin) = token.trim().split_once('.').context("two parts")?;
        // What the host would look for before it says the secret.
        let shown = self.openssl_says("x509 -in ca.pem -noout -fingerprint -sha256")?;
        let shown = shown.trim().rsplit('=').next().context("a fingerprint")?.replace(':', "").to_lowercase();
        ensure!(shown == pin, "{shown} is not {pin}");

        self.openssl_says("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem")?;
        self.openssl_says("req -new -key key.pem -subj /CN=else -addext subjectAltName=DNS:else.example -out csr.pem")?;
        self.openssl_says("req -in csr.pem -outform DER -out csr.der")?;
        self.openssl_says("genpkey -algorithm ed25519 -out receipt.key")?;
        self.openssl_says("pkey -in receipt.key -pubout -out receipt.pub")?;
        self.openssl_says("pkeyutl -sign -inkey receipt.key -rawin -in csr.der -out proof")?;
        let proof = self.openssl_says("base64 -A -in proof")?;
        let body = json!({
            "token": secret, "host": host, "csr": self.read("csr.pem")?, "receipt_key": self.read("receipt.pub")?,
            "receipt_proof": proof.trim(),
        });
        self.sandbox.write("body.json", body.to_string())?;
        let (status, answer) = self.curl("/v1/enroll", &["--data-binary", "@body.json"])?;
        ensure!(status == 200, "{status} {answer}");
        for (name, key) in [("cert.pem", "certificate"), ("receipt.pem", "receipt_certificate"), ("ca.pem", "ca")] {
            self.sandbox.write(name, answer[key].as_str().context(key)?)?;
        }
        Ok(Host { answer })
    }
}

fn join_and_report() -> Result<()> {
    let collector = Collector::start()?;
    let host = collector.join("web-1")?;
    ensure!(host.answer["host"] == "web-1", "{}", host.answer);
    let batch = ["-H", "content-type: application/cloudevents-batch+json", "--data-binary", "[]"];
    let with_certificate = ["--cert", "cert.pem", "--key", "key.pem"];
    let report = |certificate: &[&str]| collector.curl("/v1/events", &[&batch[..], certificate].concat());
    let (status, answer) = report(&with_certificate)?;
    ensure!(status == 200, "{status} {answer}");
    let (status, _) = report(&[])?;
    ensure!(status == 401, "{status} without a certificate");
    // The token again, by the same keys, is an answer that was lost; the body is still there.
    let (status, _) = collector.curl("/v1/enroll", &["--data-binary", "@body.json"])?;
    ensure!(status == 200, "{status}");
    collector.verb(&["revoke", "web-1"])?;
    let (status, problem) = report(&with_certificate)?;
    ensure!((status, &problem["code"]) == (403, &"revoked".into()), "{status} {problem}");
    let (status, problem) = collector.curl("/v1/enroll", &["--data-binary", "@body.json"])?;
    ensure!((status, &problem["code"]) == (403, &"token_used".into()), "{status} {problem}");
    Ok(())
}

fn judged() -> Result<()> {
    let collector = Collector::start()?;
    collector.join("web-1")?;
    let address = collector.address;
    let shown =
        format!("s_client -connect {address} -servername {NAME} -showcerts -verify_return_error -CAfile ca.pem");
    let shown = format!("{shown} -verify_hostname {NAME}");
    let shown = collector.openssl_says(&shown)?;
    ensure!(shown.contains("Verify return code: 0 (ok)"), "{shown}");
    let (first, _) = shown.split_once("-----END CERTIFICATE-----").context("a certificate")?;
    let first = first.split_once("-----BEGIN CERTIFICATE-----").context("a certificate")?.1;
    collector.sandbox.write("server.pem", format!("-----BEGIN CERTIFICATE-----{first}-----END CERTIFICATE-----\n"))?;

    let verify = |purpose: &str, name: &str| {
        collector.openssl(&format!("verify -x509_strict -CAfile ca.pem -purpose {purpose} {name}"))
    };
    for (purpose, good) in [("sslclient", "cert.pem"), ("sslserver", "server.pem"), ("any", "receipt.pem")] {
        verify(purpose, good)?.expect(0)?;
    }
    for (purpose, bad) in [("sslserver", "cert.pem"), ("sslclient", "server.pem"), ("sslclient", "receipt.pem")] {
        ensure!(verify(purpose, bad)?.code != Some(0), "{bad} is one for {purpose}");
    }

    let text = |name: &str| collector.openssl_says(&format!("x509 -in {name} -noout -text"));
    let names = |text: &str| -> Option<String> {
        Some(text.split_once("Subject Alternative Name")?.1.lines().nth(1)?.trim().to_owned())
    };
    let client = text("cert.pem")?;
    ensure!(names(&client).as_deref() == Some("URI:spiffe://driftlock/host/web-1"), "{client}");
    ensure!(!client.contains("else"), "{client}");
    ensure!(client.contains("CA:FALSE") && client.contains("TLS Web Client Authentication"), "{client}");
    ensure!(client.contains("ASN1 OID: prime256v1"), "{client}");
    // Thirty days, to the hour.
    for (seconds, ends) in [(30 * 86_400 - 3600, 0), (30 * 86_400 + 3600, 1)] {
        collector.openssl(&format!("x509 -in cert.pem -noout -checkend {seconds}"))?.expect(ends)?;
    }
    let receipt = text("receipt.pem")?;
    ensure!(names(&receipt).as_deref() == Some("URI:spiffe://driftlock/receipt/web-1"), "{receipt}");
    ensure!(receipt.contains("ED25519"), "{receipt}");
    let server = text("server.pem")?;
    for name in [format!("DNS:{NAME}"), "DNS:localhost".to_owned(), "IP Address:127.0.0.1".to_owned()] {
        ensure!(names(&server).is_some_and(|names| names.contains(&name)), "{name}: {server}");
    }
    let ca = text("ca.pem")?;
    ensure!(ca.contains("CA:TRUE, pathlen:0") && ca.contains("Certificate Sign"), "{ca}");
    Ok(())
}

/// What root would make there the collector of that user could not read. One that runs is asked.
fn data_of_another() -> Result<()> {
    let collector = Collector::start()?;
    let data = collector.sandbox.path("data");
    std::os::unix::fs::chown(&data, Some(NOBODY), Some(NOBODY))?;
    ensure!(collector.verb(&["ca", "list"])?.lines().count() == 1);

    let sandbox = Sandbox::new()?;
    let data = sandbox.path("data");
    fs::create_dir(&data)?;
    std::os::unix::fs::chown(&data, Some(NOBODY), Some(NOBODY))?;
    let data_path = data.display().to_string();
    let refused = sandbox.collector(["enroll-token", "--data", &data_path, "web-1"]).run()?.expect(77)?;
    ensure!(refused.stderr.contains("user 65534") && refused.stderr.lines().count() == 1, "{refused:?}");
    ensure!(fs::read_dir(&data)?.count() == 0, "something was made");
    Ok(())
}
