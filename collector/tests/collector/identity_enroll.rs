//! Joining: tokens, requests for certificates, names that are known.

use std::time::Duration;

use axum::http::StatusCode;
use driftlock_collector::identity::request::MAX_REQUEST;
use driftlock_common::enrolment::EnrolmentToken;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SanType,
};
use x509_cert::der::Decode as _;
use x509_cert::ext::pkix::{
    BasicConstraints as FoundConstraints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectAltName,
};

use crate::identity_kit::{Client, Credentials, DAY, Keys, Server, Settings, code, der};
use crate::kit::FakeAgent;

#[tokio::test]
async fn who_has_a_token_joins_and_reports_under_its_name_alone() {
    let server = Server::start().await;
    let host = server.join("web-1").await;
    let mut agent = FakeAgent::new(1);
    let mut connection = server.connect(Some(&host)).await.unwrap();
    let snapshot = agent.snapshot(0, true, &["etc/passwd"]);
    // The body claims to be another.
    assert!(snapshot.source.ends_with(":claimed"));
    assert_eq!(connection.report(&[snapshot, agent.heartbeat(&[])], &[]).await.unwrap().0, 200);
    // Labels are the token's, not the agent's.
    let hosts = server.state.store.hosts(driftlock_collector::store::HostQuery { limit: 9, ..Default::default() });
    let hosts = hosts.await.unwrap().items;
    assert_eq!(hosts.iter().map(|host| host.host.as_str()).collect::<Vec<_>>(), ["web-1"]);
    assert_eq!(hosts[0].labels["role"], "from-the-token");
}

#[tokio::test]
async fn a_token_is_good_for_one_host() {
    let server = Server::start().await;
    let token = server.token("web-*", false).await;
    let first = Keys::new();
    let request = first.request("web-1", &token);
    let mut connection = server.connect(None).await.unwrap();
    let issued = connection.enroll(&request).await.unwrap();
    // Its answer was lost: the same keys may ask again.
    let again = connection.enroll(&request).await.unwrap();
    assert_eq!(again.host, issued.host);
    assert_ne!(again.certificate, issued.certificate);
    for name in ["web-1", "web-2"] {
        let thief = connection.enroll(&Keys::new().request(name, &token)).await;
        assert_eq!(code(thief), (403, "token_used".to_owned()), "{name}");
    }
    // One of its two keys is not enough.
    let mut half = Keys::new();
    half.key = first.key;
    assert_eq!(code(connection.enroll(&half.request("web-1", &token)).await), (403, "token_used".to_owned()));
    // Nor are both, once it was revoked.
    server.state.identities.revoke(&"web-1".parse().unwrap()).await.unwrap();
    assert_eq!(code(connection.enroll(&request).await), (403, "token_used".to_owned()));
}

#[tokio::test]
async fn of_many_that_use_a_token_at_once_one_joins() {
    let server = Server::start().await;
    let token = server.token("web-*", false).await;
    let tries = (0..16).map(|n| {
        let (server, token) = (&server, &token);
        async move { code(Keys::new().enroll(server, &format!("web-{n}"), token).await) }
    });
    let mut answers = futures_util::future::join_all(tries).await;
    answers.sort();
    assert_eq!(answers[0].0, 200);
    assert!(answers[1..].iter().all(|(status, code)| (*status, code.as_str()) == (403, "token_used")), "{answers:?}");
}

#[tokio::test]
async fn tokens_that_do_not_count() {
    let server = Server::start().await;
    let token = server.token("web-*", false).await;
    let mut connection = server.connect(None).await.unwrap();
    let mut refused =
        async |name: &str, token: &EnrolmentToken| code(connection.enroll(&Keys::new().request(name, token)).await);
    assert_eq!(refused("db-1", &token).await, (403, "token_for_other_host".to_owned()));
    let other = EnrolmentToken::new(&[7; 32], token.authority());
    assert_eq!(refused("web-1", &other).await, (403, "token_unknown".to_owned()));
    server.pass(Duration::from_mins(61));
    assert_eq!(refused("web-1", &token).await, (403, "token_expired".to_owned()));
    let ended = server.token("web-*", false).await;
    let id = driftlock_common::digest::Digest::sha256(ended.secret().as_bytes()).to_hex();
    assert_eq!(server.state.identities.end_token(&id[..12]).await.unwrap(), 1);
    assert_eq!(refused("web-1", &ended).await, (403, "token_expired".to_owned()));
    let metrics = server.state.store.identities(Default::default());
    assert_eq!(metrics.await.unwrap().items, []);
}

#[tokio::test]
async fn a_name_that_is_known_is_taken_only_as_was_meant() {
    let server = Server::start().await;
    let old = server.join("web-1").await;
    for pattern in ["web-1", "*"] {
        let token = server.token(pattern, false).await;
        assert_eq!(code(Keys::new().enroll(&server, "web-1", &token).await), (409, "host_known".to_owned()));
    }
    let mut kept = server.connect(Some(&old)).await.unwrap();
    let event = FakeAgent::new(1).snapshot(0, true, &[]);
    assert_eq!(kept.report(std::slice::from_ref(&event), &[]).await.unwrap().0, 200);

    let token = server.token("web-1", true).await;
    let new = Keys::new().enroll(&server, "web-1", &token).await.unwrap_or_else(|error| panic!("{error:?}"));
    assert_eq!(kept.report(std::slice::from_ref(&event), &[]).await.unwrap(), (403, "revoked".to_owned()));
    let mut connection = server.connect(Some(&new)).await.unwrap();
    assert_eq!(connection.report(std::slice::from_ref(&event), &[]).await.unwrap().0, 200);

    // Revoked, its name is free for a token that says it, and for no pattern that happens to cover it.
    server.state.identities.revoke(&"web-1".parse().unwrap()).await.unwrap();
    assert_eq!(connection.report(std::slice::from_ref(&event), &[]).await.unwrap(), (403, "revoked".to_owned()));
    let token = server.token("web-*", false).await;
    assert_eq!(code(Keys::new().enroll(&server, "web-1", &token).await), (409, "host_known".to_owned()));
    let token = server.token("web-1", false).await;
    let newest = Keys::new().enroll(&server, "web-1", &token).await.unwrap_or_else(|error| panic!("{error:?}"));
    let mut connection = server.connect(Some(&newest)).await.unwrap();
    assert_eq!(connection.report(&[event], &[]).await.unwrap().0, 200);
}

/// A request that is signed, but not by its key.
fn forged(keys: &Keys) -> String {
    let mut bytes = der(&keys.csr());
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    pem(&bytes)
}

fn pem(bytes: &[u8]) -> String {
    let text = driftlock_common::path::to_base64(bytes);
    format!("-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n", wrapped(&text))
}

fn wrapped(text: &str) -> String {
    text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn requests_that_are_not_usable_use_no_token() {
    let server = Server::start().await;
    let token = server.token("web-1", false).await;
    let mut connection = server.connect(None).await.unwrap();
    let keys = Keys::new();
    let with_key = |key: KeyPair| Keys { key, receipt: Keys::new().receipt };
    let of = |algorithm| with_key(KeyPair::generate_for(algorithm).unwrap()).csr();
    let (mine, others) = (keys.csr(), Keys::new().csr());
    // The key of one request in another that somebody else signed.
    let swapped = {
        let (mut mine, others) = (der(&mine), der(&others));
        let at = |bytes: &[u8]| bytes.windows(2).position(|pair| pair == [0x00, 0x04]).unwrap();
        let (to, from) = (at(&mine), at(&others));
        mine[to..to + 66].copy_from_slice(&others[from..from + 66]);
        pem(&mine)
    };
    let huge = {
        let mut params = CertificateParams::default();
        let bytes = vec![4; MAX_REQUEST];
        params.custom_extensions = vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 32473], bytes)];
        keys.csr_of(&params)
    };
    for (what, csr) in [
        ("signed by nobody", forged(&keys)),
        ("another's key", swapped),
        ("Ed25519", of(&PKCS_ED25519)),
        ("P-384", of(&PKCS_ECDSA_P384_SHA384)),
        ("huge", huge),
        ("nothing", String::new()),
        ("no PEM", "hello".to_owned()),
        ("no DER", pem(b"hello")),
        ("cut off", pem(&der(&mine)[..100])),
        ("a certificate", server.authority().bundle()),
        ("a key", keys.key.serialize_pem()),
        ("trailing bytes", pem(&[&der(&mine)[..], b"x"].concat())),
        ("deep", pem(&[0x30, 0x80].repeat(2000))),
    ] {
        let request = keys.request_with("web-1", &token, csr);
        assert_eq!(code(connection.enroll(&request).await), (400, "csr".to_owned()), "{what}");
    }
    let good = keys.request("web-1", &token);
    for (what, change) in [
        (
            "another's proof",
            (|request| {
                request.receipt_proof = Keys::new()
                    .request("a", &EnrolmentToken::new(&[0; 32], driftlock_common::digest::Digest::sha256(b"")))
                    .receipt_proof
            }) as fn(&mut driftlock_common::enrolment::EnrollRequest),
        ),
        ("no proof", |request| request.receipt_proof = String::new()),
        ("P-256", |request| request.receipt_key = Keys::new().key.public_key_pem()),
        ("the same key for both", |request| request.receipt_key.clone_from(&request.csr)),
    ] {
        let mut request = good.clone();
        change(&mut request);
        assert_eq!(code(connection.enroll(&request).await), (400, "receipt_key".to_owned()), "{what}");
    }
    connection.enroll(&good).await.unwrap();
}

#[tokio::test]
async fn what_a_request_asks_for_beside_its_key_is_ignored() {
    let server = Server::start().await;
    let token = server.token("web-1", false).await;
    let keys = Keys::new();
    let mut params = CertificateParams::new(["db-1".to_owned(), "10.0.0.1".to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::URI("spiffe://driftlock/host/db-1".try_into().unwrap()));
    params.distinguished_name.push(DnType::CommonName, "db-1");
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // rcgen writes no constraints into requests.
    let ca = CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 0x03, 0x01, 0x01, 0xff]);
    params.custom_extensions = vec![ca];
    let csr = keys.csr_of(&params);
    let issued = server.connect(None).await.unwrap().enroll(&keys.request_with("web-1", &token, csr)).await.unwrap();

    let certificate = x509_cert::Certificate::from_der(&der(&issued.certificate)).unwrap();
    let fields = certificate.tbs_certificate();
    let (_, SubjectAltName(names)) = fields.get_extension().unwrap().unwrap();
    let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    assert!(names.len() == 1 && names[0].contains("spiffe://driftlock/host/web-1"), "{names:?}");
    assert!(!fields.get_extension::<FoundConstraints>().unwrap().is_some_and(|(_, constraints)| constraints.ca));
    let (_, KeyUsage(usage)) = fields.get_extension().unwrap().unwrap();
    assert_eq!(usage, KeyUsages::DigitalSignature);
    let (_, ExtendedKeyUsage(usage)) = fields.get_extension().unwrap().unwrap();
    assert_eq!(usage.iter().map(ToString::to_string).collect::<Vec<_>>(), ["1.3.6.1.5.5.7.3.2"]);
    assert!(!fields.subject().to_string().contains("db-1"));

    // So it issues nothing that anybody believes.
    let mut forged = CertificateParams::default();
    forged.subject_alt_names = vec![SanType::URI("spiffe://driftlock/host/db-1".try_into().unwrap())];
    forged.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let thief = KeyPair::generate().unwrap();
    let mut issuer = CertificateParams::default();
    issuer.distinguished_name = rcgen::DistinguishedName::new();
    issuer.distinguished_name.push(DnType::OrganizationName, "driftlock");
    let issuer = rcgen::Issuer::new(issuer, &keys.key);
    let leaf = forged.signed_by(&thief, &issuer).unwrap().pem();
    let credentials = Credentials::new(&format!("{leaf}{}", issued.certificate), &thief);
    assert!(refused_at_once(&server, credentials).await);
}

/// Whether a handshake with this certificate ends the connection. The client learns of it when it first reads.
pub(crate) async fn refused_at_once(server: &Server, credentials: Credentials) -> bool {
    let Ok(stream) = server.handshake(Some(credentials)).await else { return true };
    match Client::over(stream).await {
        Ok(mut client) => client.get("/healthz").await.is_err(),
        Err(_) => true,
    }
}

#[tokio::test]
async fn bodies_that_are_no_requests() {
    let server = Server::start().await;
    let mut connection = server.connect(None).await.unwrap();
    let secret = "a-secret-that-is-not-repeated";
    for (body, status, code) in [
        (b"{}".to_vec(), 400, "json"),
        (b"[".to_vec(), 400, "json"),
        (format!("{{\"token\":\"{secret}\",\"host\":\"../../etc\"}}").into_bytes(), 400, "json"),
        (format!("{{\"token\":\"{secret}\",\"host\":{secret}}}").into_bytes(), 400, "json"),
        (br#"{"token":"#.repeat(3000), 400, "json"),
        (vec![b' '; 40_000], 413, "too_large"),
    ] {
        let (found, _, problem) = connection.post_json("/v1/enroll", body).await.unwrap();
        assert_eq!((found.as_u16(), problem["code"].as_str().unwrap()), (status, code));
        assert!(!problem.to_string().contains(secret), "{problem}");
    }
}

#[tokio::test]
async fn nobody_joins_where_it_can_be_read_or_where_others_issue() {
    let server = Server::start_with(Settings { plain: true, ..Settings::default() }).await;
    let token = server.token("web-1", false).await;
    let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let mut connection = Client::over(stream).await.unwrap();
    let request = Keys::new().request("web-1", &token);
    assert_eq!(code(connection.enroll(&request).await), (403, "tls_needed".to_owned()));
    let (status, _, problem) = connection.renew(&request.csr).await.unwrap();
    assert_eq!((status, &problem["code"]), (StatusCode::UNAUTHORIZED, &"unauthorized".into()));
}

#[tokio::test]
async fn no_secret_is_kept() {
    let server = Server::start().await;
    let token = server.token("web-1", false).await;
    let scope = driftlock_collector::store::identity::Scope::Read;
    let (reading, _) = server.state.identities.make_access_token(scope, DAY).await.unwrap();
    let files = walk(server.directory.path());
    assert!(files.iter().any(|(name, _)| name.ends_with("sqlite3")));
    let digest = driftlock_common::digest::Digest::sha256(token.secret().as_bytes()).to_hex();
    let holds =
        |text: &str| files.iter().any(|(_, bytes)| bytes.windows(text.len()).any(|part| part == text.as_bytes()));
    assert!(holds(&digest), "the search finds nothing");
    assert!(!holds(token.secret()) && !holds(reading.reveal()));
    for (name, _) in &files {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = std::fs::metadata(name).unwrap().permissions().mode();
        let is_public = name.contains("-wal") || name.contains("-shm");
        assert!(mode & 0o077 == 0 || is_public, "{name} {mode:o}");
    }
}

fn walk(directory: &std::path::Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(walk(&path));
        } else {
            found.push((path.display().to_string(), std::fs::read(&path).unwrap_or_default()));
        }
    }
    found
}
