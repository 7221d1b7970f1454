//! Owns finding addresses: as `/etc/resolv.conf` and `/etc/hosts` say, and not at all if they cannot be
//! read. Never a public resolver that nobody chose.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use hickory_resolver::TokioResolver;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::OnceCell;

/// Reads the host's configuration at the first name it has to resolve.
#[derive(Clone, Default)]
pub(super) struct HostResolver(Arc<OnceCell<TokioResolver>>);

impl Resolve for HostResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let cell = self.0.clone();
        Box::pin(async move {
            // RFC 6761 section 6.3: this name never leaves the host.
            if name.as_str() == "localhost" {
                return Ok(addresses(vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]));
            }
            let resolver = cell.get_or_try_init(|| async { TokioResolver::builder_tokio()?.build() }).await?;
            let found = resolver.lookup_ip(name.as_str()).await?;
            Ok(addresses(found.iter().collect()))
        })
    }
}

/// The port is the URL's.
fn addresses(ips: Vec<IpAddr>) -> Addrs {
    Box::new(ips.into_iter().map(|ip| SocketAddr::new(ip, 0)))
}
