//! Owns finding addresses: as `/etc/resolv.conf` and `/etc/hosts` say, and not at all if they cannot be
//! read. Never a public resolver that nobody chose.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use hickory_resolver::TokioResolver;
use hickory_resolver::net::NetError;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::OnceCell;

/// Reads the host's configuration at the first name it has to resolve.
#[derive(Clone, Default)]
pub(super) struct HostResolver(Arc<OnceCell<TokioResolver>>);

impl HostResolver {
    /// The addresses of a name.
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, NetError> {
        // RFC 6761 section 6.3: this name never leaves the host.
        if name == "localhost" {
            return Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]);
        }
        let resolver = self.0.get_or_try_init(|| async { TokioResolver::builder_tokio()?.build() }).await?;
        Ok(resolver.lookup_ip(name).await?.iter().collect())
    }
}

impl Resolve for HostResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let found = resolver.addresses(name.as_str()).await?;
            // The port is the URL's.
            let addresses: Addrs = Box::new(found.into_iter().map(|ip| SocketAddr::new(ip, 0)));
            Ok(addresses)
        })
    }
}
