//! Owns attacks with certificates and tokens that do not count. Must not own what is said with those that do.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use driftlock_common::enrolment::{EnrolmentToken, RENEW_PATH, SECRET_BYTES};
use driftlock_tests::fleet::agent::post;
use driftlock_tests::fleet::identity::{Keys, enroll};
use driftlock_tests::fleet::wire::{Wire, request};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

use super::{Attack, HANDSHAKES, NOT_JOINED, REFUSED, Stage, expect};

/// Whom attackers claim to be.
const VICTIM: &str = "spiffe://driftlock/host/host-00001";

pub(super) fn attacks(stage: &Stage) -> Vec<Attack<'_>> {
    vec![
        Attack::new("certificates that lead nowhere, or are of another time", HANDSHAKES, no_handshake(stage)),
        Attack::new("certificates that name nobody", REFUSED, names(stage)),
        Attack::new("a certificate that was revoked", REFUSED, revoked(stage)),
        Attack::new("a host without a credential", REFUSED, nobody(stage)),
        Attack::new("tokens that do not count", NOT_JOINED, tokens(stage)),
        Attack::new("a token used by many at once", NOT_JOINED, at_once(stage)),
    ]
}

/// What a certificate of a host says, for these names.
fn certificate(names: &[SanType]) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.subject_alt_names = names.to_vec();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = OffsetDateTime::now_utc() - Duration::hours(1);
    params.not_after = OffsetDateTime::now_utc() + Duration::hours(1);
    Ok(params)
}

fn uri(text: &str) -> Result<SanType> {
    Ok(SanType::URI(text.try_into()?))
}

/// The collector's own CA, as who has its directory has it: to make what it would never issue.
fn stolen_ca(stage: &Stage) -> Result<Issuer<'static, KeyPair>> {
    let directory = stage.endpoint.data().join("ca");
    let file = fs::read_dir(&directory)?.next().context("a CA")??.path();
    let text = fs::read_to_string(file)?;
    // The key comes first.
    let at = text.find("-----BEGIN CERTIFICATE").context("a certificate")?;
    Ok(Issuer::from_ca_cert_pem(&text[at..], KeyPair::from_pem(&text[..at])?)?)
}

fn other_ca() -> Result<Issuer<'static, KeyPair>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "driftlock-collector CA");
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    Ok(Issuer::new(params, KeyPair::generate()?))
}

async fn no_handshake(stage: &Stage) -> Result<u64> {
    let (own, other) = (stolen_ca(stage)?, other_ca()?);
    let key = KeyPair::generate()?;
    let good = certificate(&[uri(VICTIM)?])?;
    let now = OffsetDateTime::now_utc();
    let mut expired = good.clone();
    expired.not_after = now - Duration::seconds(1);
    let mut not_yet = good.clone();
    not_yet.not_before = now + Duration::minutes(10);
    let mut of_a_server = good.clone();
    of_a_server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let evil = stage.evil("evil-receipt").await?;
    let keys = &evil.identity.keys;
    let cases = [
        ("signed by itself", good.self_signed(&key)?.pem(), &key),
        ("of another CA", good.signed_by(&key, &other)?.pem(), &key),
        ("expired", expired.signed_by(&key, &own)?.pem(), &key),
        ("not valid yet", not_yet.signed_by(&key, &own)?.pem(), &key),
        ("of a server", of_a_server.signed_by(&key, &own)?.pem(), &key),
        ("of a receipt key", evil.identity.issued.receipt_certificate.clone(), &keys.receipt),
    ];
    let number = cases.len() as u64;
    for (what, pem, key) in cases {
        let config = stage.endpoint.trust().host(&pem, key)?;
        // Under TLS 1.3 it is the first answer that does not come.
        let answer = stage.ask(&config, &post(b"[]")).await;
        ensure!(answer.is_err(), "a certificate {what}: {answer:?}");
    }
    Ok(number)
}

async fn names(stage: &Stage) -> Result<u64> {
    let own = stolen_ca(stage)?;
    let key = KeyPair::generate()?;
    let dns = SanType::DnsName("host-00001".try_into()?);
    let cases = [
        ("no name", vec![]),
        ("a DNS name", vec![dns.clone()]),
        ("another trust domain", vec![uri("spiffe://elsewhere/host/host-00001")?]),
        ("a receipt key's name", vec![uri("spiffe://driftlock/receipt/host-00001")?]),
        ("more of a path", vec![uri("spiffe://driftlock/host/host-00001/more")?]),
        ("a path that goes up", vec![uri("spiffe://driftlock/host/x/../host-00001")?]),
        ("a query", vec![uri("spiffe://driftlock/host/host-00001?x")?]),
        ("an escape", vec![uri("spiffe://driftlock/host/host%2d00001")?]),
        ("another scheme", vec![uri("https://driftlock/host/host-00001")?]),
        ("two names", vec![uri("spiffe://driftlock/host/evil-name")?, uri(VICTIM)?]),
    ];
    let number = cases.len() as u64;
    for (what, names) in cases {
        let pem = certificate(&names)?.signed_by(&key, &own)?.pem();
        let config = stage.endpoint.trust().host(&pem, &key)?;
        expect(what, &stage.ask(&config, &post(b"[]")).await?, 403, "certificate_name")?;
    }
    Ok(number)
}

async fn revoked(stage: &Stage) -> Result<u64> {
    let mut evil = stage.evil("evil-revoked").await?;
    evil.says().await?;
    stage.endpoint.verb(&["revoke", "evil-revoked"])?;
    // On the connection that is open, and on another.
    expect("a kept connection", &evil.posts(b"[]").await?, 403, "revoked")?;
    expect("another connection", &stage.ask(&evil.identity.config, &post(b"[]")).await?, 403, "revoked")?;
    let csr = CertificateParams::default().serialize_request(&evil.identity.keys.key)?.pem()?;
    let renews = request(
        "POST",
        RENEW_PATH,
        &[("content-type", "application/json")],
        json!({"csr": csr}).to_string().as_bytes(),
    );
    expect("renewing", &evil.asks(&renews).await?, 403, "revoked")?;
    Ok(2)
}

async fn nobody(stage: &Stage) -> Result<u64> {
    let stranger = stage.endpoint.stranger();
    let batch = [("content-type", "application/cloudevents-batch+json")];
    expect(
        "no credential",
        &stage.ask(stranger, &request("POST", "/v1/events", &batch, b"[]")).await?,
        401,
        "unauthorized",
    )?;
    for token in
        ["Bearer dlt_0000000000000000000000000000000000000000000", "Bearer ' OR 1=1 --", "Basic eDp5", "Bearer"]
    {
        let headers = [batch[0], ("authorization", token), ("driftlock-host", "host-00001")];
        let answer = stage.ask(stranger, &request("POST", "/v1/events", &headers, b"[]")).await?;
        expect(token, &answer, 401, "unauthorized")?;
    }
    Ok(5)
}

async fn tokens(stage: &Stage) -> Result<u64> {
    let mut wire = stage.endpoint.connect().await?;
    let used = stage.endpoint.token("evil-used", 3600).await?;
    let (first, second) = (Keys::new()?, Keys::new()?);
    let joined = enroll(&mut wire, &first.asks("evil-used", &used)?).await?;
    ensure!(joined.status == 200, "{}", joined.text());
    expect("used by another key", &enroll(&mut wire, &second.asks("evil-used", &used)?).await?, 403, "token_used")?;

    let named = stage.endpoint.token("evil-named", 3600).await?;
    expect(
        "for another host",
        &enroll(&mut wire, &second.asks("host-00001", &named)?).await?,
        403,
        "token_for_other_host",
    )?;
    let any = stage.endpoint.token("*", 3600).await?;
    expect(
        "for a host that is known",
        &enroll(&mut wire, &second.asks("host-00001", &any)?).await?,
        409,
        "host_known",
    )?;

    let made_up = EnrolmentToken::new(&[7; SECRET_BYTES], named.authority());
    expect("made up", &enroll(&mut wire, &second.asks("evil-named", &made_up)?).await?, 403, "token_unknown")?;
    let mut tampered = second.asks("evil-named", &named)?;
    let last = if tampered.token.ends_with('A') { 'E' } else { 'A' };
    tampered.token.pop();
    tampered.token.push(last);
    expect("with another last letter", &enroll(&mut wire, &tampered).await?, 403, "token_unknown")?;

    // A proof of another request, as who listened would have it.
    let mut mixed = second.asks("evil-named", &named)?;
    mixed.csr = first.asks("evil-named", &named)?.csr;
    expect("with another's request", &enroll(&mut wire, &mixed).await?, 400, "receipt_key")?;

    let soon_over = stage.endpoint.token("evil-late", 1).await?;
    let is_over = async || {
        let listed = stage.endpoint.verb(&["token", "list"])?;
        Ok(listed.lines().any(|line| line.contains("evil-late") && line.contains("expired")))
    };
    stage.until(|over| *over, is_over).await?;
    expect("expired", &enroll(&mut wire, &second.asks("evil-late", &soon_over)?).await?, 403, "token_expired")?;
    // What was refused used nothing up.
    let joined = enroll(&mut wire, &second.asks("evil-named", &named)?).await?;
    ensure!(joined.status == 200, "{}", joined.text());
    Ok(7)
}

async fn at_once(stage: &Stage) -> Result<u64> {
    const MANY: usize = 12;
    let token = stage.endpoint.token("evil-*", 3600).await?;
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..MANY {
        let asked = Keys::new()?.asks(&format!("evil-{number}"), &token)?;
        let mut wire: Wire = stage.endpoint.connect().await?;
        asking.spawn(async move { enroll(&mut wire, &asked).await });
    }
    let mut joined = 0;
    while let Some(answer) = asking.join_next().await {
        let answer = answer??;
        if answer.status == 200 {
            let issued: Value = answer.json()?;
            ensure!(issued["host"].as_str().is_some_and(|host| host.starts_with("evil-")), "{issued}");
            joined += 1;
        } else {
            expect("one of many", &answer, 403, "token_used")?;
        }
    }
    ensure!(joined == 1, "{joined} of {MANY} joined");
    Ok(MANY as u64 - 1)
}
