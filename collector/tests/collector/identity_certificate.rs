//! Certificates of clients and of the collector: which count, until when, and that they change while everything runs.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use driftlock_collector::identity::authority::{Authority, Order};
use driftlock_collector::identity::certificate::NameRule;
use driftlock_collector::identity::request::CertificateRequest;
use driftlock_collector::tls::ServerFiles;
use driftlock_common::event::Event;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use tokio::sync::watch;

use crate::identity_enroll::refused_at_once;
use crate::identity_kit::{Client, Credentials, DAY, Host, Keys, Server, Settings};
use crate::kit::FakeAgent;

fn events() -> [Event; 1] {
    [FakeAgent::new(1).snapshot(0, true, &[])]
}

async fn reports(client: &mut Client) -> (u16, String) {
    client.report(&events(), &[]).await.unwrap()
}

/// A certificate of the collector's own CA with whatever name.
fn issued(server: &Server, keys: &Keys, uri: &str) -> Credentials {
    let request = CertificateRequest::read(&keys.csr()).unwrap();
    let now = server.now();
    let order = Order { key: request.key(), uri, issued_at: now, expires_at: now.plus(DAY) };
    Credentials::new(&server.authority().issue_client(&order).unwrap(), &keys.key)
}

#[tokio::test]
async fn an_expired_certificate_ends_the_handshake_and_counts_on_no_kept_connection() {
    let server = Server::start().await;
    let host = server.join("web-1").await;
    let mut kept = server.connect(Some(&host)).await.unwrap();
    assert_eq!(reports(&mut kept).await.0, 200);
    server.pass(DAY * 30 - Duration::from_mins(1));
    assert_eq!(reports(&mut kept).await.0, 200);
    assert_eq!(reports(&mut server.connect(Some(&host)).await.unwrap()).await.0, 200);
    server.pass(Duration::from_mins(2));
    assert_eq!(reports(&mut kept).await, (403, "certificate_time".to_owned()));
    assert!(refused_at_once(&server, host.credentials()).await);
    // A clock that is behind finds it not yet valid.
    server.pass(Duration::ZERO);
}

#[tokio::test]
async fn what_is_revoked_is_refused_on_the_next_request_of_a_kept_connection() {
    let server = Server::start().await;
    let (host, other) = (server.join("web-1").await, server.join("web-2").await);
    let (mut kept, mut neighbour) =
        (server.connect(Some(&host)).await.unwrap(), server.connect(Some(&other)).await.unwrap());
    assert_eq!(reports(&mut kept).await.0, 200);
    let name = "web-1".parse().unwrap();
    assert!(server.state.identities.revoke(&name).await.unwrap());
    assert_eq!(reports(&mut kept).await, (403, "revoked".to_owned()));
    assert_eq!(reports(&mut server.connect(Some(&host)).await.unwrap()).await, (403, "revoked".to_owned()));
    let (status, _, problem) = kept.renew(&Keys::new().csr()).await.unwrap();
    assert_eq!((status, &problem["code"]), (StatusCode::FORBIDDEN, &"revoked".into()));
    assert_eq!(reports(&mut neighbour).await.0, 200);
    assert!(server.state.identities.lift(&name).await.unwrap());
    assert_eq!(reports(&mut kept).await.0, 200);
    assert!(!server.state.identities.lift(&name).await.unwrap());
}

#[tokio::test]
async fn what_was_revoked_stays_so_after_a_restart() {
    let server = Server::start().await;
    let host = server.join("web-1").await;
    server.state.identities.revoke(&"web-1".parse().unwrap()).await.unwrap();
    let (mut ended, data) = (server, tempfile::tempdir().unwrap());
    let directory = std::mem::replace(&mut ended.directory, data);
    drop(ended);
    let server = reopened(directory).await;
    assert_eq!(reports(&mut server.connect(Some(&host)).await.unwrap()).await, (403, "revoked".to_owned()));
}

/// Starts again where another was, once that has let go of the store.
async fn reopened(directory: tempfile::TempDir) -> Server {
    use driftlock_collector::store::StoreError;
    use driftlock_collector::store::sqlite::{Limits, SqliteStore};
    let data = directory.path().join("data");
    while let Err(error) = SqliteStore::open(&data, Limits::default()) {
        assert!(matches!(error, StoreError::InUse(_)), "{error}");
        tokio::task::yield_now().await;
    }
    Server::start_in(directory, Settings::default()).await
}

#[tokio::test]
async fn certificates_of_other_cas_end_the_handshake() {
    let server = Server::start().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let foreign = Authority::open(elsewhere.path(), server.now()).unwrap();
    let keys = Keys::new();
    let request = CertificateRequest::read(&keys.csr()).unwrap();
    let now = server.now();
    let uri = "spiffe://driftlock/host/web-1";
    let order = Order { key: request.key(), uri, issued_at: now, expires_at: now.plus(DAY) };
    let pem = foreign.issue_client(&order).unwrap();
    assert!(refused_at_once(&server, Credentials::new(&pem, &keys.key)).await);
    assert!(refused_at_once(&server, Credentials::new(&format!("{pem}{}", foreign.bundle()), &keys.key)).await);

    // One that calls itself as the real one does.
    let real = server.authority().bundle();
    let name = x509_cert::der::DecodePem::from_pem(real.as_bytes());
    let name: x509_cert::Certificate = name.unwrap();
    let name = name.tbs_certificate().subject().common_name().unwrap().unwrap().value().to_string();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let impostor = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut leaf = CertificateParams::default();
    leaf.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let pem = leaf.signed_by(&keys.key, &impostor).unwrap().pem();
    assert!(refused_at_once(&server, Credentials::new(&pem, &keys.key)).await);
    let host = server.join("web-1").await;
    assert!(!refused_at_once(&server, host.credentials()).await);
}

#[tokio::test]
async fn a_certificate_that_names_no_host_speaks_for_none() {
    let server = Server::start().await;
    for uri in [
        "spiffe://driftlock/receipt/web-1",
        "spiffe://elsewhere/host/web-1",
        "spiffe://driftlock/host/web-1/x",
        "spiffe://driftlock/host/",
        "https://driftlock/host/web-1",
    ] {
        let credentials = issued(&server, &Keys::new(), uri);
        let mut client = Client::over(server.handshake(Some(credentials)).await.unwrap()).await.unwrap();
        assert_eq!(reports(&mut client).await, (403, "certificate_name".to_owned()), "{uri}");
        // A token beside it does not help: the certificate wins.
        let token = [("authorization", "Bearer something-of-sixteen-or-more")];
        assert_eq!(client.report(&events(), &token).await.unwrap().1, "certificate_name");
    }
    let good = issued(&server, &Keys::new(), "spiffe://driftlock/host/web-1");
    let mut client = Client::over(server.handshake(Some(good)).await.unwrap()).await.unwrap();
    assert_eq!(reports(&mut client).await.0, 200);
}

#[tokio::test]
async fn certificates_for_something_else_are_no_clients() {
    let server = Server::start().await;
    let host = server.join("web-1").await;
    let receipt = Credentials::new(&host.issued.receipt_certificate, &host.receipt);
    assert!(refused_at_once(&server, receipt).await);
    let own = server.authority().issue_server(&["localhost".to_owned()], server.now()).unwrap();
    let own = Credentials { chain: own.chain, key: own.key };
    assert!(refused_at_once(&server, own).await);
}

#[tokio::test]
async fn renewal_gives_the_host_of_the_certificate_another_one() {
    let server = Server::start().await;
    let host = server.join("web-1").await;
    let mut connection = server.connect(Some(&host)).await.unwrap();
    let keys = Keys::new();
    let (status, headers, problem) = connection.renew(&keys.csr()).await.unwrap();
    assert_eq!((status, &problem["code"]), (StatusCode::TOO_MANY_REQUESTS, &"too_soon".into()));
    let wait: u64 = headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=61).contains(&wait), "{wait}");
    server.pass(DAY * 20);
    let (status, _, body) = connection.renew("no request").await.unwrap();
    assert_eq!((status, &body["code"]), (StatusCode::BAD_REQUEST, &"csr".into()));
    let (status, _, body) = connection.renew(&keys.csr()).await.unwrap();
    assert_eq!(status, StatusCode::OK, "{body}");
    let issued: driftlock_common::enrolment::Issued = serde_json::from_value(body).unwrap();
    assert_eq!(issued.host.as_str(), "web-1");
    assert_ne!(issued.receipt_certificate, host.issued.receipt_certificate);
    let renewed = Host { key: keys.key, receipt: keys.receipt, issued };
    // Both count for as long as they are valid.
    assert_eq!(reports(&mut server.connect(Some(&renewed)).await.unwrap()).await.0, 200);
    assert_eq!(reports(&mut server.connect(Some(&host)).await.unwrap()).await.0, 200);
    server.pass(DAY * 11);
    assert!(refused_at_once(&server, host.credentials()).await);
    assert_eq!(reports(&mut server.connect(Some(&renewed)).await.unwrap()).await.0, 200);
    // Nobody renews without one.
    let (status, ..) = server.connect(None).await.unwrap().renew(&Keys::new().csr()).await.unwrap();
    assert_eq!(status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_certificate_that_is_issued_while_the_clock_is_behind_outlives_a_revocation() {
    let server = Server::start().await;
    server.join("web-1").await;
    server.state.identities.revoke(&"web-1".parse().unwrap()).await.unwrap();
    // As if the clock had been an hour ahead until now.
    let token = server.token("web-1", false).await;
    server.state.store.revoke("web-1".parse().unwrap(), server.now().plus(Duration::from_mins(30))).await.unwrap();
    let host = Keys::new().enroll(&server, "web-1", &token).await.unwrap_or_else(|error| panic!("{error:?}"));
    let client = server.connect(Some(&host)).await;
    // Valid some minutes early is what certificates are; half an hour is not. That it is not revoked is what counts.
    match client {
        Ok(mut client) => {
            assert_ne!(client.report(&events(), &[]).await.map(|(_, code)| code).unwrap_or_default(), "revoked")
        }
        Err(_not_valid_yet) => {}
    }
    server.pass(Duration::from_mins(40));
    assert_eq!(reports(&mut server.connect(Some(&host)).await.unwrap()).await.0, 200);
}

#[tokio::test]
async fn cas_change_without_a_refused_request() {
    let server = Arc::new(Server::start().await);
    let host = Arc::new(server.join("web-1").await);
    let ended = Arc::new(AtomicBool::new(false));
    // One that keeps its connection, and one that comes anew each time; how often they were answered.
    let busy = |kept: bool| {
        let (server, host, ended) = (Arc::clone(&server), Arc::clone(&host), Arc::clone(&ended));
        let (answered, seen) = watch::channel(0_u64);
        let task = tokio::spawn(async move {
            let mut connection = server.connect(Some(&host)).await.unwrap();
            while !ended.load(Ordering::Relaxed) {
                assert_eq!(reports(&mut connection).await.0, 200);
                answered.send_modify(|answered| *answered += 1);
                if !kept {
                    connection = server.connect(Some(&host)).await.unwrap();
                }
            }
        });
        (task, seen)
    };
    let mut busy = [busy(true), busy(false)];
    let old = server.authority().in_force()[0].digest();
    for _ in 0..3 {
        server.authority().rotate(server.now()).unwrap();
        server.tls().refresh().unwrap();
        for (_, seen) in &mut busy {
            // What was under way may be from before.
            let before = *seen.borrow();
            seen.wait_for(|answered| *answered > before + 1).await.unwrap();
        }
    }
    ended.store(true, Ordering::Relaxed);
    for (task, _) in busy {
        task.await.unwrap();
    }
    // Who joins or renews now learns of every one, and what the collector shows is still what is known to all.
    assert_eq!(server.authority().pin(server.now()).unwrap(), old);
    let new = server.join("web-2").await;
    assert_eq!(new.issued.ca.matches("BEGIN CERTIFICATE").count(), 4);
    assert!(server.handshake_believing(&host.issued.ca, None).await.is_ok());

    // The old one goes: with it the connections that it vouched for, and nobody else.
    let mut kept = server.connect(Some(&host)).await.unwrap();
    assert_eq!(reports(&mut kept).await.0, 200);
    server.authority().retire(&old.to_hex()[..12]).unwrap();
    server.tls().refresh().unwrap();
    while kept.get("/healthz").await.is_ok() {}
    assert!(refused_at_once(&server, host.credentials()).await);
    assert!(server.handshake_believing(&host.issued.ca, None).await.is_err());
    assert_eq!(reports(&mut server.connect(Some(&new)).await.unwrap()).await.0, 200);
    let newest = server.authority().in_force().last().unwrap().digest().to_hex();
    assert!(server.authority().retire(&newest).is_err(), "none would be left");
}

#[tokio::test]
async fn the_collectors_own_certificate_and_ca_are_made_anew_in_time() {
    let server = Server::start().await;
    let shown = async || {
        let stream = server.handshake(None).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    let first = shown().await;
    let mut kept = server.connect(None).await.unwrap();
    assert!(!server.tls().keep_up().unwrap());
    assert_eq!(shown().await, first);
    server.pass(DAY * 31);
    assert!(server.tls().keep_up().unwrap());
    assert_ne!(shown().await, first);
    assert_eq!(kept.get("/healthz").await.unwrap(), StatusCode::OK);
    // In the last year of a CA there is another, and before its end the collector shows a certificate of that.
    server.pass(DAY * 365 * 9);
    assert!(server.tls().keep_up().unwrap());
    let both = server.authority().in_force();
    assert_eq!(both.len(), 2);
    assert_eq!(server.authority().pin(server.now()).unwrap(), both[0].digest());
    server.pass(DAY * 280);
    assert!(server.tls().keep_up().unwrap());
    assert_eq!(server.authority().pin(server.now()).unwrap(), both[1].digest());
    server.pass(DAY * 60);
    assert!(server.tls().keep_up().unwrap());
    assert!(server.handshake(None).await.is_ok());
}

/// A CA of somebody else's.
struct Foreign(CertifiedIssuer<'static, KeyPair>);

impl Foreign {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, names: &[SanType]) -> (String, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        (params.signed_by(&key, &self.0).unwrap().pem(), key)
    }

    fn server_files(&self, directory: &Path, name: &str) -> ServerFiles {
        let (pem, key) = self.issue(&[SanType::DnsName("collector.example".try_into().unwrap())]);
        let files = ServerFiles {
            certificate: directory.join(format!("{name}.pem")),
            key: directory.join(format!("{name}.key")),
        };
        std::fs::write(&files.certificate, pem).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&files.key, Permissions::from_mode(0o600)).unwrap();
        files
    }
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

#[tokio::test]
async fn an_external_ca_names_hosts_by_uri_or_by_dns_name() {
    for (rule, good, bad) in [
        (NameRule::Spiffe, vec![uri("spiffe://driftlock/host/web-1"), dns("x")], vec![dns("web-1")]),
        (NameRule::Dns, vec![dns("web-1")], vec![dns("web-1"), dns("web-2")]),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let (ca, servers) = (Foreign::new("clients"), Foreign::new("servers"));
        let file = directory.path().join("clients.pem");
        std::fs::write(&file, ca.0.pem()).unwrap();
        std::fs::write(directory.path().join("server-ca.pem"), servers.0.pem()).unwrap();
        let files = servers.server_files(directory.path(), "server");
        let settings = Settings { client_ca: Some((file.clone(), rule)), server: Some(files), ..Settings::default() };
        let server = Server::start_in(directory, settings).await;
        let client = async |names: &[SanType]| {
            let (pem, key) = ca.issue(names);
            let stream = server.handshake(Some(Credentials::new(&pem, &key))).await.unwrap();
            Client::over(stream).await.unwrap()
        };
        let mut kept = client(&good).await;
        assert_eq!(reports(&mut kept).await.0, 200);
        assert_eq!(reports(&mut client(&bad).await).await, (403, "certificate_name".to_owned()));
        let (pem, key) = servers.issue(&good);
        assert!(refused_at_once(&server, Credentials::new(&pem, &key)).await, "a CA of servers is none of clients");
        // Whatever the other CA issues later: revoked is the name.
        server.state.identities.revoke(&"web-1".parse().unwrap()).await.unwrap();
        assert_eq!(reports(&mut kept).await, (403, "revoked".to_owned()));
        assert_eq!(reports(&mut client(&good).await).await, (403, "revoked".to_owned()));
        server.state.identities.lift(&"web-1".parse().unwrap()).await.unwrap();
        assert_eq!(reports(&mut kept).await.0, 200);
        // It issues nothing itself.
        let (status, _, problem) = kept.renew(&Keys::new().csr()).await.unwrap();
        assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &"no_enrolment".into()));
        // Another CA instead: whoever came by the old one is gone.
        std::fs::write(&file, Foreign::new("others").0.pem()).unwrap();
        server.tls().refresh().unwrap();
        while kept.get("/healthz").await.is_ok() {}
        let (pem, key) = ca.issue(&good);
        assert!(refused_at_once(&server, Credentials::new(&pem, &key)).await);
    }
}

#[tokio::test]
async fn given_certificates_are_read_again_and_bad_ones_change_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let ca = Foreign::new("servers");
    std::fs::write(directory.path().join("server-ca.pem"), ca.0.pem()).unwrap();
    let files = ca.server_files(directory.path(), "server");
    let other = ca.server_files(directory.path(), "other");
    let settings = Settings { server: Some(files.clone()), ..Settings::default() };
    let server = Server::start_in(directory, settings).await;
    let shown = async || {
        let stream = server.handshake_believing(&ca.0.pem(), None).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    let first = shown().await;
    let mut kept = Client::over(server.handshake_believing(&ca.0.pem(), None).await.unwrap()).await.unwrap();
    let replace = |from: &Path, to: &Path| std::fs::write(to, std::fs::read(from).unwrap()).unwrap();
    let original = std::fs::read(&files.key).unwrap();
    for (what, break_it) in [
        ("the key of another", (&|| replace(&other.key, &files.key)) as &dyn Fn()),
        ("no key", &|| std::fs::write(&files.key, "x").unwrap()),
        ("none", &|| std::fs::remove_file(&files.key).unwrap()),
    ] {
        break_it();
        let error = server.tls().refresh().unwrap_err().to_string();
        assert!(error.contains("server."), "{what}: {error}");
        assert_eq!(shown().await, first, "{what}");
        std::fs::write(&files.key, &original).unwrap();
    }
    std::fs::set_permissions(&files.key, Permissions::from_mode(0o644)).unwrap();
    assert!(server.tls().refresh().unwrap_err().to_string().contains("everyone"));
    std::fs::set_permissions(&files.key, Permissions::from_mode(0o600)).unwrap();
    replace(&other.certificate, &files.certificate);
    replace(&other.key, &files.key);
    server.tls().refresh().unwrap();
    assert_ne!(shown().await, first);
    assert_eq!(kept.get("/healthz").await.unwrap(), StatusCode::OK, "connections go on");
}
