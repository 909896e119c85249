//! Resolves host names and removes addresses that a request may not reach. The check runs for every new connection, on
//! the addresses that the connection then uses. So a name that resolved to a public address before and resolves to a
//! private one now is refused.

use std::net::SocketAddr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::network::{Network, RefusedAddress};

/// The system's resolver: `/etc/hosts`, DNS, and any other configured source.
#[derive(Debug)]
pub(super) struct SystemNames;

impl Resolve for SystemNames {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// A resolver that removes the addresses that `network` refuses from the answers of `names`.
pub(super) struct GuardedResolver {
    pub(super) names: Arc<dyn Resolve>,
    pub(super) network: Network,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (host, network) = (name.as_str().to_owned(), self.network);
        let found = self.names.resolve(name);
        Box::pin(async move {
            let mut refused: Option<RefusedAddress> = None;
            let mut allowed = Vec::new();
            for address in found.await? {
                match network.check(&host, address.ip()) {
                    Ok(()) => allowed.push(address),
                    Err(refusal) => refused = refused.or(Some(refusal)),
                }
            }
            match refused {
                Some(refusal) if allowed.is_empty() => Err(refusal.into()),
                _ => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::sync::Mutex;

    use super::*;

    /// A hostile name server that returns another answer each time.
    struct Rebinding(Mutex<Vec<Vec<&'static str>>>);

    impl Resolve for Rebinding {
        fn resolve(&self, _: Name) -> Resolving {
            let answer = self.0.lock().expect("not poisoned").remove(0);
            let found: Vec<SocketAddr> =
                answer.into_iter().map(|ip| SocketAddr::new(ip.parse().expect("an address"), 0)).collect();
            Box::pin(async move { Ok(Box::new(found.into_iter()) as Addrs) })
        }
    }

    #[tokio::test]
    async fn every_answer_is_checked_and_forbidden_addresses_are_removed() {
        for (network, answers) in [
            (
                Network::Public,
                vec![
                    (vec!["8.8.8.8"], Ok(vec!["8.8.8.8"])),
                    (vec!["127.0.0.1"], Err("evil.example is at 127.0.0.1, a loopback address")),
                    (vec!["169.254.169.254", "10.0.0.1"], Err("169.254.169.254, a link-local address")),
                    (vec!["::ffff:127.0.0.1"], Err("an IPv4-mapped address")),
                    (vec!["10.0.0.1", "8.8.8.8", "::1"], Ok(vec!["8.8.8.8"])),
                    (vec![], Ok(vec![])),
                ],
            ),
            (
                Network::Operators,
                vec![
                    (vec!["192.168.1.5", "169.254.169.254"], Ok(vec!["192.168.1.5"])),
                    (vec!["169.254.169.254"], Err("add the address to allowed_hosts")),
                ],
            ),
        ] {
            let script = answers.iter().map(|(given, _)| given.clone()).collect();
            let guarded = GuardedResolver { names: Arc::new(Rebinding(Mutex::new(script))), network };
            for (given, expected) in answers {
                let found = guarded.resolve("evil.example".parse().expect("a name")).await;
                match (found, expected) {
                    (Ok(found), Ok(expected)) => {
                        let found: Vec<IpAddr> = found.map(|address| address.ip()).collect();
                        let expected: Vec<IpAddr> = expected.iter().map(|ip| ip.parse().expect("an address")).collect();
                        assert_eq!(found, expected, "{given:?}");
                    }
                    (Err(error), Err(says)) => assert!(error.to_string().contains(says), "{given:?}: {error}"),
                    (found, _) => panic!("{given:?} under {network:?}: {:?}", found.map(Iterator::count)),
                }
            }
        }
    }
}
