//! Owns the verbs of an operator: from arguments to a question to the collector, and its answer as text. Must not own
//! what they change.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::anyhow;
use axum::http::Method;
use driftlock_common::exit::Exit;
use serde_json::Value;

use super::door::Door;
use super::{MadeToken, MakeAccessToken, MakeEnrolmentToken, RetireCa, Revoke, Revoked};
use crate::cli::{CaArgs, CaVerb, EnrollTokenArgs, RevokeArgs, ScopeArgs, TokenArgs, TokenVerb};
use crate::credential::{ListedCa, ListedToken};
use crate::failure::Failure;
use crate::store::identity::Scope;

/// No body.
const NOTHING: &Value = &Value::Null;

/// `enroll-token`: the token on standard output, what it is on standard error.
///
/// # Errors
/// If it cannot be made.
pub fn enroll_token(args: EnrollTokenArgs) -> Result<(), Failure> {
    let EnrollTokenArgs { data, host, label, valid, replace } = args;
    let asked = MakeEnrolmentToken { host, labels: labels(label)?, replace, valid_s: valid.as_secs() };
    let made: MadeToken =
        asking(async { Door::open(&data.data).await?.ask(Method::POST, "/enroll-token", &asked).await })?;
    say(&format!("{}\n", made.token))?;
    tell(&format!(
        "token {} for one host named {}, until {}; on the host: driftlock enroll --server https://NAME:PORT --token TOKEN",
        made.id, asked.host, made.expires_at
    ));
    Ok(())
}

/// `token`: making, listing, ending.
///
/// # Errors
/// If it is refused.
pub fn token(args: TokenArgs) -> Result<(), Failure> {
    let TokenArgs { data, verb } = args;
    asking(async {
        let mut door = Door::open(&data.data).await?;
        match verb {
            TokenVerb::Add { scope, valid } => {
                let scope = match scope {
                    ScopeArgs { report: Some(pattern), .. } => Scope::Report(pattern),
                    ScopeArgs { push: true, .. } => Scope::Push,
                    ScopeArgs { .. } => Scope::Read,
                };
                let asked = MakeAccessToken { scope, valid_s: valid.as_secs() };
                let made: MadeToken = door.ask(Method::POST, "/tokens", &asked).await?;
                say(&format!("{}\n", made.token))?;
                tell(&format!("token {} until {}", made.id, made.expires_at));
            }
            TokenVerb::List => {
                let tokens: Vec<ListedToken> = door.ask(Method::GET, "/tokens", NOTHING).await?;
                say(&list(&tokens))?;
            }
            TokenVerb::End { id } => {
                if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return Err(Failure::new(
                        Exit::Usage,
                        anyhow!("a token's id is hexadecimal; `token list` shows it"),
                    ));
                }
                let Value::Null = door.ask(Method::DELETE, &format!("/tokens/{id}"), NOTHING).await? else {
                    return Err(Failure::new(Exit::Bug, anyhow!("an answer where none was expected")));
                };
            }
        }
        Ok(())
    })
}

/// `revoke`.
///
/// # Errors
/// If it is refused.
pub fn revoke(args: RevokeArgs) -> Result<(), Failure> {
    let RevokeArgs { data, host, lift } = args;
    let asked = Revoke { host, lift };
    let Revoked { known } = asking(async { Door::open(&data.data).await?.ask(Method::POST, "/revoke", &asked).await })?;
    let host = &asked.host;
    match (lift, known) {
        (false, true) => tell(&format!("{host}: whatever it got so far is refused; it can enroll again")),
        (false, false) => {
            tell(&format!("{host}: has not enrolled here; a certificate or token of this name is refused"))
        }
        (true, true) => tell(&format!("{host}: what it has counts again")),
        (true, false) => tell(&format!("{host}: was not revoked")),
    }
    Ok(())
}

/// `ca`.
///
/// # Errors
/// If it is refused.
pub fn ca(args: CaArgs) -> Result<(), Failure> {
    let CaArgs { data, verb } = args;
    asking(async {
        let mut door = Door::open(&data.data).await?;
        let listed: Vec<ListedCa> = match &verb {
            CaVerb::List | CaVerb::Show => door.ask(Method::GET, "/ca", NOTHING).await?,
            CaVerb::Rotate => door.ask(Method::POST, "/ca/rotate", NOTHING).await?,
            CaVerb::Retire { id, force } => {
                let asked = RetireCa { id: id.clone(), force: *force };
                door.ask(Method::POST, "/ca/retire", &asked).await?
            }
        };
        let line = |ca: &ListedCa| match verb {
            CaVerb::Show => ca.certificate.clone(),
            CaVerb::List | CaVerb::Rotate | CaVerb::Retire { .. } => {
                format!("{}  made {}  until {}\n", ca.sha256, ca.made_at, ca.expires_at)
            }
        };
        say(&listed.iter().map(line).collect::<String>())
    })
}

fn list(tokens: &[ListedToken]) -> String {
    let line = |token: &ListedToken| {
        let ListedToken { id, scope, host, state, used_by, expires_at, .. } = token;
        let host = host.as_deref().unwrap_or("-");
        let used_by = used_by.as_ref().map(|host| format!("  by {host}")).unwrap_or_default();
        format!("{id}  {scope:<6}  {state:<7}  until {expires_at}  {host}{used_by}\n")
    };
    tokens.iter().map(line).collect()
}

fn labels(given: Vec<String>) -> Result<BTreeMap<String, String>, Failure> {
    let mut labels = BTreeMap::new();
    for text in given {
        let (key, value) = text
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| Failure::new(Exit::Usage, anyhow!("a label is KEY=VALUE, not {text:?}")))?;
        if labels.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(Failure::new(Exit::Usage, anyhow!("the label {key:?} is given twice")));
        }
    }
    Ok(labels)
}

fn asking<T>(question: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::new(Exit::Io, error))?.block_on(question)
}

fn say(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| Failure::new(Exit::Io, error))
}

fn tell(text: &str) {
    // Nothing can be said on a closed stream.
    let _closed = writeln!(io::stderr(), "driftlock-collector: {text}");
}

/// `30s`, `10m`, `24h`, `30d`: a whole number and one unit.
///
/// # Errors
/// If it is none.
pub fn duration(text: &str) -> Result<Duration, &'static str> {
    let end = text.find(|ch: char| !ch.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err("a time is a whole number and s, m, h or d"),
    };
    let number: u64 = number.parse().map_err(|_| "a time is a whole number and s, m, h or d")?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or("that is too long")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, seconds) in [("30s", 30), ("10m", 600), ("24h", 86_400), ("30d", 2_592_000), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "30", "s", "-1s", "1.5h", "1 h", "99999999999999999999s", "999999999999999999d", "1w"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn labels_are_pairs() {
        let given = |texts: &[&str]| labels(texts.iter().map(|text| (*text).to_owned()).collect());
        let labels = given(&["role=web", "tier=a=b", "empty="]).unwrap();
        assert_eq!(labels["tier"], "a=b");
        assert_eq!(labels["empty"], "");
        for bad in [&["role"][..], &["=x"], &["a=1", "a=2"]] {
            assert_eq!(given(bad).unwrap_err().exit, Exit::Usage);
        }
    }
}
