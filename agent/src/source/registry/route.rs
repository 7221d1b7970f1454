//! Owns where a request may go: which redirects are followed, which token endpoints are asked, and who may see a
//! credential. Must not own sending.

use reqwest::Url;

use super::error::RegistryError;
use crate::http::is_loopback;

/// The most redirects of one request.
pub(super) const MAX_REDIRECTS: usize = 5;

/// Where a redirect leads. The address may hold a signature, so nothing of it but the host is ever said.
pub(super) fn follow(from: &Url, location: &str) -> Result<Url, RegistryError> {
    let host = || host(from);
    let mut to = from.join(location).map_err(|_| RegistryError::RedirectAddress { host: host() })?;
    let encrypted = match to.scheme() {
        "https" => true,
        "http" => false,
        _ => return Err(RegistryError::RedirectAddress { host: host() }),
    };
    let here = to.host_str().is_some_and(is_loopback);
    if !encrypted && (from.scheme() == "https" || !here) {
        return Err(RegistryError::RedirectUnencrypted { host: host(), to: self::host(&to) });
    }
    clean(&mut to);
    Ok(to)
}

/// The token endpoint that a registry names. A registry that is asked in plain text is on loopback, and so is its own.
pub(super) fn realm(registry: &Url, realm: &str) -> Result<Url, RegistryError> {
    let refuse = || RegistryError::Realm { host: host(registry) };
    let mut url = Url::parse(realm).map_err(|_| refuse())?;
    let here = url.host_str().is_some_and(is_loopback);
    match url.scheme() {
        "https" => {}
        "http" if here && registry.scheme() == "http" => {}
        _ => return Err(refuse()),
    }
    clean(&mut url);
    Ok(url)
}

/// Whether both are one server: only it sees what was meant for it.
pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    a.origin() == b.origin()
}

/// Host and port, to be said.
pub(super) fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// The client would make a credential of what stands before the host.
fn clean(url: &mut Url) {
    // Both can fail only where there is no host, which is no address of HTTP.
    let _no_host = (url.set_username(""), url.set_password(None));
    url.set_fragment(None);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_that_are_followed() {
        let secure = "https://a.example/v2/app/blobs/x";
        let plain = "http://127.0.0.1:5000/v2/app/blobs/x";
        for (from, location, to) in [
            (secure, "https://b.example/y?sig=1", Ok("https://b.example/y?sig=1")),
            (secure, "/y", Ok("https://a.example/y")),
            (secure, "//b.example/y", Ok("https://b.example/y")),
            (secure, "y", Ok("https://a.example/v2/app/blobs/y")),
            (secure, "https://u:p@b.example/y#f", Ok("https://b.example/y")),
            (secure, "http://a.example/y", Err("a.example redirects to a.example without encryption")),
            (secure, "http://127.0.0.1/y", Err("without encryption")),
            (secure, "http://localhost:5000/y", Err("without encryption")),
            (plain, "http://127.0.0.1:5001/y", Ok("http://127.0.0.1:5001/y")),
            (plain, "http://[::1]/y", Ok("http://[::1]/y")),
            (plain, "https://b.example/y", Ok("https://b.example/y")),
            (plain, "http://b.example/y", Err("127.0.0.1:5000 redirects to b.example without encryption")),
            (plain, "http://localhost.b.example/y", Err("without encryption")),
            (plain, "http://127.0.0.1.b.example/y", Err("without encryption")),
            (secure, "file:///etc/passwd", Err("a.example redirects to something that is no address of a server")),
            (secure, "ftp://b.example/y", Err("no address of a server")),
            (secure, "https://", Err("no address of a server")),
            (secure, "https://b.example:99999/", Err("no address of a server")),
        ] {
            let found = follow(&Url::parse(from).unwrap(), location);
            match (found, to) {
                (Ok(found), Ok(to)) => assert_eq!(found.as_str(), to),
                (Err(error), Err(says)) => assert!(error.to_string().contains(says), "{location}: {error}"),
                (found, _) => panic!("{from} {location}: {found:?}"),
            }
        }
    }

    #[test]
    fn token_endpoints_that_are_asked() {
        let secure = "https://a.example/v2/";
        let plain = "http://127.0.0.1:5000/v2/";
        for (registry, text, asked) in [
            (secure, "https://a.example/token", true),
            (secure, "https://auth.example/token?x=1", true),
            (secure, "http://a.example/token", false),
            (secure, "http://127.0.0.1/token", false),
            (plain, "http://127.0.0.1:5001/token", true),
            (plain, "http://localhost:5001/token", true),
            (plain, "https://auth.example/token", true),
            (plain, "http://auth.example/token", false),
            (plain, "/token", false),
            (plain, "", false),
            (secure, "file:///etc/passwd", false),
        ] {
            assert_eq!(realm(&Url::parse(registry).unwrap(), text).is_ok(), asked, "{registry} {text}");
        }
        let clean = realm(&Url::parse(secure).unwrap(), "https://u:p@b.example/t").unwrap();
        assert_eq!(clean.as_str(), "https://b.example/t");
    }

    #[test]
    fn who_is_the_same_server() {
        for (a, b, same) in [
            ("https://a.example/x", "https://a.example:443/y", true),
            ("https://a.example/x", "https://a.example:444/x", false),
            ("https://a.example/x", "https://b.a.example/x", false),
            ("http://localhost/x", "https://localhost/x", false),
            ("http://localhost/x", "http://127.0.0.1/x", false),
            ("http://127.0.0.1:1/x", "http://127.0.0.1:2/x", false),
        ] {
            assert_eq!(same_origin(&Url::parse(a).unwrap(), &Url::parse(b).unwrap()), same, "{a} {b}");
        }
    }
}
