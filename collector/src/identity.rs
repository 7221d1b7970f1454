//! Owns who is who at present: which host a certificate or a token speaks for, what is revoked, who may read; and what an
//! operator or a joining host changes about it. What is asked with each request is in memory, beside the store: it is
//! changed before the answer to whoever changed it. Must not own HTTP's words, or SQL.

pub mod authority;
pub mod certificate;
pub mod request;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use driftlock_common::digest::Digest;
use driftlock_common::enrolment::{EnrollRequest, EnrolmentToken as PrintedToken, Issued, SECRET_BYTES};
use driftlock_common::host_name::{HostName, HostPattern};
use driftlock_common::path::from_base64;
use driftlock_common::trust::{PublicKey, Scheme};

use self::authority::{Authority, AuthorityError, Order};
use self::certificate::{ClientCertificate, NameError, Naming};
use self::request::{CertificateRequest, RequestError, SubjectKey};
use crate::clock::{Clock, Timestamp};
use crate::store::identity::{
    AccessToken, EnrolmentToken, IdentityQuery, Issue, Join, JoinRefused, Joined, Renewal, Renewed, Scope,
};
use crate::store::{Store, StoreError};

/// How long a host's certificate is valid where nothing else is said.
pub const LIFETIME: Duration = Duration::from_hours(24 * 30);
/// The most time between two certificates of one host that it has to wait.
const PAUSE: Duration = Duration::from_mins(1);
/// Before a token for reporting, reading or pushing, so that who finds one knows what it is.
const TOKEN_PREFIX: &str = "dlt_";
/// Hosts read at a time.
const PAGE: usize = 1000;

/// Who is who.
#[derive(Debug)]
pub struct Identities {
    store: Arc<dyn Store>,
    clock: Clock,
    naming: Naming,
    issuing: Issuing,
    known: RwLock<Known>,
    /// Held while the store is read for `known`, so that what was read earlier is not written later.
    refreshing: tokio::sync::Mutex<()>,
}

/// Who issues the certificates of hosts.
#[derive(Debug)]
pub enum Issuing {
    /// The collector's own CAs.
    Own {
        /// Those.
        authority: Authority,
        /// How long a host's certificate is valid.
        lifetime: Duration,
    },
    /// Somebody else: what is valid and names a host speaks for it.
    External,
    /// Nobody: hosts report by tokens.
    Nobody,
}

#[derive(Debug, Default)]
struct Known {
    tokens: HashMap<Digest, AccessToken>,
    revoked: HashMap<HostName, Timestamp>,
    /// When the newest certificate of a host was issued.
    issued: HashMap<HostName, Timestamp>,
    /// Tokens for joining that were made, used or not: whoever has none of them costs nothing more.
    joining: HashSet<Digest>,
}

/// Why a credential does not count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No credential.
    #[error("a client certificate or a bearer token is needed")]
    Missing,
    /// Nobody's token.
    #[error("this token is not known, or its time is over")]
    Token,
    /// A token for something else.
    #[error("this token has the scope {0} alone")]
    Scope(&'static str),
    /// A token for several hosts, and none was named.
    #[error("this token speaks for several hosts: name yours in the header driftlock-host")]
    Unnamed,
    /// A token for other hosts.
    #[error("this token does not speak for this host")]
    OtherHost,
    /// The host's own certificate is what speaks for it.
    #[error("this host has enrolled: its certificate alone speaks for it")]
    Enrolled,
    /// Revoked.
    #[error("this host was revoked: enroll it again")]
    Revoked,
    /// Of another time.
    #[error("the client certificate is not valid at this time")]
    Time,
    /// It names nobody.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// Why a host gets no certificate.
#[derive(Debug, thiserror::Error)]
pub enum NotIssued {
    /// This collector issues none.
    #[error("this collector issues no certificates: hosts have those of another CA, or tokens")]
    Nobody,
    /// The token does not allow it.
    #[error("{}", join_refused(*.0))]
    Join(JoinRefused),
    /// The request is not usable.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The key for receipts is not usable.
    #[error("the receipt key is not an Ed25519 key in PEM that signed the request")]
    ReceiptKey,
    /// It had one just now.
    #[error("this host got a certificate just now")]
    TooSoon {
        /// Seconds until it may come again.
        wait: u64,
    },
    /// Not known here.
    #[error("this host has not enrolled with this collector, or its store was restored from before: enroll it again")]
    NotEnrolled,
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The CA.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

const fn join_refused(why: JoinRefused) -> &'static str {
    match why {
        JoinRefused::Unknown => "this enrolment token is not known",
        JoinRefused::Expired => "the time of this enrolment token is over: make another",
        JoinRefused::Used => "this enrolment token was used: make another",
        JoinRefused::Name => "this enrolment token is not for a host of this name",
        JoinRefused::Taken => {
            "a host of this name is known already: choose another name, or make a token with --replace if it is this one"
        }
    }
}

/// A secret, shown once.
pub struct Secret(String);

impl Secret {
    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("secret")
    }
}

impl Identities {
    /// Knows nobody but who is in the store from now on; for a collector without certificates.
    pub fn empty(store: Arc<dyn Store>, clock: Clock) -> Self {
        Self::new(store, clock, Naming::default(), Issuing::Nobody)
    }

    /// Knows who the store knows.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn load(
        store: Arc<dyn Store>,
        clock: Clock,
        naming: Naming,
        issuing: Issuing,
    ) -> Result<Self, StoreError> {
        let identities = Self::new(store, clock, naming, issuing);
        let mut after = None;
        loop {
            let page =
                identities.store.identities(IdentityQuery { after, limit: PAGE, ..IdentityQuery::default() }).await?;
            let issued = page.items.into_iter().map(|identity| (identity.host, identity.issued_at));
            identities.change(|known| known.issued.extend(issued));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let joining = identities.store.enrolment_tokens().await?;
        identities.change(|known| known.joining.extend(joining.iter().map(|token| token.digest)));
        identities.refresh().await?;
        Ok(identities)
    }

    fn new(store: Arc<dyn Store>, clock: Clock, naming: Naming, issuing: Issuing) -> Self {
        Self { store, clock, naming, issuing, known: RwLock::default(), refreshing: tokio::sync::Mutex::default() }
    }

    /// Reads tokens and revocations again, after one was changed.
    async fn refresh(&self) -> Result<(), StoreError> {
        let _alone = self.refreshing.lock().await;
        let tokens = self.store.access_tokens().await?;
        let revoked = self.store.revocations().await?;
        self.change(|known| {
            known.tokens = tokens.into_iter().map(|token| (token.digest, token)).collect();
            known.revoked = revoked.into_iter().collect();
        });
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut Known)) {
        change(&mut self.known.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn look<T>(&self, look: impl FnOnce(&Known) -> T) -> T {
        look(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The collector's clock.
    pub const fn clock(&self) -> &Clock {
        &self.clock
    }

    /// How certificates name hosts.
    pub const fn naming(&self) -> &Naming {
        &self.naming
    }

    /// The collector's own CAs, if it has any.
    pub const fn authority(&self) -> Option<&Authority> {
        match &self.issuing {
            Issuing::Own { authority, .. } => Some(authority),
            Issuing::External | Issuing::Nobody => None,
        }
    }

    /// How long certificates of its own CAs are valid.
    pub const fn lifetime(&self) -> Duration {
        match &self.issuing {
            Issuing::Own { lifetime, .. } => *lifetime,
            Issuing::External | Issuing::Nobody => LIFETIME,
        }
    }

    // === asked with each request ===

    /// The host that a certificate speaks for now. The handshake verified it, perhaps long ago.
    ///
    /// # Errors
    /// If it names none, its time is over, or the host was revoked after it was issued.
    pub fn host_of_certificate(&self, certificate: &ClientCertificate) -> Result<HostName, Refused> {
        let host = certificate.host.clone()?;
        let now = self.clock.now();
        if now < certificate.not_before || now > certificate.not_after {
            return Err(Refused::Time);
        }
        let is_revoked = self.look(|known| {
            known.revoked.get(&host).is_some_and(|revoked_at| match (&self.issuing, certificate.issued_at) {
                (Issuing::Own { .. }, Some(issued_at)) => issued_at <= *revoked_at,
                // When others issued it says nothing: it may be the thief who asked for another.
                _ => true,
            })
        });
        if is_revoked { Err(Refused::Revoked) } else { Ok(host) }
    }

    /// The host that a token for reporting speaks for now; `named` is the one that the request names.
    ///
    /// # Errors
    /// If it speaks for none, or not for that one.
    pub fn host_of_token(&self, token: &str, named: Option<HostName>) -> Result<HostName, Refused> {
        let pattern = match self.scope(token).ok_or(Refused::Token)? {
            Scope::Report(pattern) => pattern,
            scope @ (Scope::Read | Scope::Push) => return Err(Refused::Scope(scope.name())),
        };
        let host = named.or_else(|| pattern.one_name()).ok_or(Refused::Unnamed)?;
        if !pattern.matches(&host) {
            return Err(Refused::OtherHost);
        }
        self.may_use_token(&host)?;
        // A token for many must not write into the reports of who proves that it is itself.
        if self.has_enrolled(&host) && pattern.one_name().is_none() { Err(Refused::Enrolled) } else { Ok(host) }
    }

    /// Whether a token of the host counts, of whatever kind: not if it was revoked, and has not enrolled since.
    ///
    /// # Errors
    /// If it was.
    pub fn may_use_token(&self, host: &HostName) -> Result<(), Refused> {
        let is_revoked = self.look(|known| {
            let issued_at = known.issued.get(host);
            known.revoked.get(host).is_some_and(|revoked_at| issued_at.is_none_or(|issued_at| issued_at <= revoked_at))
        });
        if is_revoked { Err(Refused::Revoked) } else { Ok(()) }
    }

    /// Whether a token is one for reading.
    pub fn may_read(&self, token: &str) -> bool {
        self.scope(token) == Some(Scope::Read)
    }

    /// Whether a token is one for pushing.
    pub fn may_push(&self, token: &str) -> bool {
        self.scope(token) == Some(Scope::Push)
    }

    /// Whether the host has joined.
    pub fn has_enrolled(&self, host: &HostName) -> bool {
        self.look(|known| known.issued.contains_key(host))
    }

    fn scope(&self, token: &str) -> Option<Scope> {
        let now = self.clock.now();
        // What is looked up is a digest, which who asks cannot choose: how long that takes says nothing of a token.
        let digest = Digest::sha256(token.as_bytes());
        self.look(|known| {
            let token = known.tokens.get(&digest)?;
            (token.ended_at.is_none() && token.expires_at > now).then(|| token.scope.clone())
        })
    }

    // === what changes it ===

    /// Makes a token by which a host may join, valid for `time`.
    ///
    /// # Errors
    /// If the collector issues no certificates, or the store refuses.
    pub async fn make_enrolment_token(
        &self,
        pattern: HostPattern,
        labels: BTreeMap<String, String>,
        replace: bool,
        time: Duration,
    ) -> Result<(Secret, EnrolmentToken), NotIssued> {
        let authority = self.authority().ok_or(NotIssued::Nobody)?;
        let now = self.clock.now();
        let printed = PrintedToken::new(&random()?, authority.pin(now)?);
        let token = EnrolmentToken {
            digest: Digest::sha256(printed.secret().as_bytes()),
            pattern,
            labels,
            replace,
            created_at: now,
            expires_at: now.plus(time),
            used: None,
        };
        self.store.add_enrolment_token(token.clone()).await?;
        self.change(|known| {
            known.joining.insert(token.digest);
        });
        Ok((Secret(printed.to_string()), token))
    }

    /// Makes a token for reporting, reading or pushing, valid for `time`.
    ///
    /// # Errors
    /// If the store refuses.
    pub async fn make_access_token(&self, scope: Scope, time: Duration) -> Result<(Secret, AccessToken), NotIssued> {
        let now = self.clock.now();
        let secret = format!("{TOKEN_PREFIX}{}", hex::encode(random()?));
        let digest = Digest::sha256(secret.as_bytes());
        let token = AccessToken { digest, scope, created_at: now, expires_at: now.plus(time), ended_at: None };
        self.store.add_access_token(token.clone()).await?;
        self.refresh().await?;
        Ok((Secret(secret), token))
    }

    /// Ends the one token whose digest begins with `id`. Gives how many do.
    ///
    /// # Errors
    /// If the store refuses.
    pub async fn end_token(&self, id: &str) -> Result<usize, StoreError> {
        let found = self.store.end_token(id.to_owned(), self.clock.now()).await?;
        self.refresh().await?;
        Ok(found)
    }

    /// Refuses what was issued to a host so far. Gives whether it had enrolled.
    ///
    /// # Errors
    /// If the store refuses.
    pub async fn revoke(&self, host: &HostName) -> Result<bool, StoreError> {
        let had_enrolled = self.store.revoke(host.clone(), self.clock.now()).await?;
        self.refresh().await?;
        Ok(had_enrolled)
    }

    /// Takes that back. Gives whether there was something to take back.
    ///
    /// # Errors
    /// If the store refuses.
    pub async fn lift(&self, host: &HostName) -> Result<bool, StoreError> {
        let lifted = self.store.lift(host.clone()).await?;
        self.refresh().await?;
        Ok(lifted)
    }

    /// Takes a host in.
    ///
    /// # Errors
    /// If it has no right to it, or its keys are not usable.
    pub async fn enroll(&self, request: EnrollRequest) -> Result<Issued, NotIssued> {
        let Issuing::Own { authority, lifetime } = &self.issuing else { return Err(NotIssued::Nobody) };
        let secret = Digest::sha256(request.token.as_bytes());
        if !self.look(|known| known.joining.contains(&secret)) {
            return Err(NotIssued::Join(JoinRefused::Unknown));
        }
        let asked = CertificateRequest::read(&request.csr)?;
        let receipt_key = PublicKey::from_pem(&request.receipt_key).map_err(|_| NotIssued::ReceiptKey)?;
        let proof = from_base64(&request.receipt_proof).ok_or(NotIssued::ReceiptKey)?;
        if receipt_key.scheme() != Scheme::Ed25519 || !receipt_key.verifies(asked.der(), &proof) {
            return Err(NotIssued::ReceiptKey);
        }
        let key = rcgen::PublicKeyData::subject_public_key_info(asked.key());
        let join = Join {
            secret,
            host: request.host,
            keys: Digest::sha256(&[&key[..], receipt_key.id().digest().as_bytes()].concat()),
            receipt_key: receipt_key.to_pem(),
            at: self.clock.now(),
            lifetime: *lifetime,
        };
        let issue = match self.store.join(join).await? {
            Joined::Issue(issue) => issue,
            Joined::Refused(why) => return Err(NotIssued::Join(why)),
        };
        // It may have replaced another, whose certificates are revoked.
        self.refresh().await?;
        self.issue(authority, asked.key(), &issue)
    }

    /// Gives an enrolled host another certificate.
    ///
    /// # Errors
    /// If it had one just now, or its key is not usable.
    pub async fn renew(&self, host: &HostName, csr: &str) -> Result<Issued, NotIssued> {
        let Issuing::Own { authority, lifetime } = &self.issuing else { return Err(NotIssued::Nobody) };
        let asked = CertificateRequest::read(csr)?;
        let at = self.clock.now();
        let pause = PAUSE.min(*lifetime / 10);
        let issue = match self.store.renew(Renewal { host: host.clone(), at, lifetime: *lifetime, pause }).await? {
            Renewed::Issue(issue) => issue,
            Renewed::TooSoon(until) => return Err(NotIssued::TooSoon { wait: until.seconds_since(at) + 1 }),
            Renewed::Unknown => return Err(NotIssued::NotEnrolled),
        };
        self.issue(authority, asked.key(), &issue)
    }

    fn issue(&self, authority: &Authority, key: &SubjectKey, issue: &Issue) -> Result<Issued, NotIssued> {
        let Issue { host, issued_at, expires_at, receipt_key } = issue;
        let (issued_at, expires_at) = (*issued_at, *expires_at);
        let order = Order { key, uri: &self.naming.host_uri(host), issued_at, expires_at };
        let certificate = authority.issue_client(&order)?;
        let receipt_key = PublicKey::from_pem(receipt_key).ok().as_ref().and_then(SubjectKey::of);
        let receipt_key = &receipt_key.ok_or(NotIssued::ReceiptKey)?;
        let order = Order { key: receipt_key, uri: &self.naming.receipt_uri(host), issued_at, expires_at };
        let receipt_certificate = authority.issue_receipt(&order)?;
        self.change(|known| {
            let newest = known.issued.entry(host.clone()).or_insert(issued_at);
            *newest = issued_at.max(*newest);
        });
        Ok(Issued { host: host.clone(), certificate, ca: authority.bundle(), receipt_certificate })
    }
}

fn random() -> Result<[u8; SECRET_BYTES], AuthorityError> {
    let mut bytes = [0; SECRET_BYTES];
    getrandom::fill(&mut bytes).map_err(AuthorityError::Random)?;
    Ok(bytes)
}
