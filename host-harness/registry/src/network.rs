//! Decides which addresses a request may reach. The decision depends on the address and on who chose its host. This
//! module resolves no names. The client checks the address that it then connects to.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses that a request may reach, by who chose its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Network {
    /// The operator listed exactly this address. Every address is allowed.
    Literal,
    /// The operator allows the host by name or by pattern. Private and loopback addresses are allowed, because many
    /// registries have one. Addresses that no registry has are refused: link-local addresses, which clouds use for
    /// metadata, and unspecified, multicast and reserved addresses.
    Operators,
    /// A registry's answer chose the host, for example as a realm or a redirect. Only public addresses are allowed.
    Public,
}

/// The class of an address, with a description for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Public,
    Private(&'static str),
    Reserved(&'static str),
}

/// An address that a request may not reach. The message names the setting that would allow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedAddress {
    host: String,
    address: IpAddr,
    kind: &'static str,
    network: Network,
}

impl fmt::Display for RefusedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, address, kind, network } = self;
        if *network == Network::Public {
            write!(
                f,
                "{host} is at {address}, {kind}, and a registry's answer may not lead there: if {host} issues the \
                 registry's tokens, add <registry>={host} to host.auth_realms; if the registry redirects there, add \
                 {host} itself to allowed_hosts"
            )
        } else {
            write!(
                f,
                "{host} is at {address}, {kind}, and no registry is expected there: if a registry has this address, \
                 refer to it by the address, and add the address to allowed_hosts"
            )
        }
    }
}

impl std::error::Error for RefusedAddress {}

impl Network {
    /// Checks whether a request to `host` may reach `address`.
    ///
    /// # Errors
    /// Returns an error that names the host, the address and the setting that would allow it.
    pub fn check(self, host: &str, address: IpAddr) -> Result<(), RefusedAddress> {
        let kind = match (self, kind_of(address)) {
            (Self::Literal, _) | (_, Kind::Public) | (Self::Operators, Kind::Private(_)) => return Ok(()),
            (_, Kind::Private(kind) | Kind::Reserved(kind)) => kind,
        };
        Err(RefusedAddress { host: host.to_owned(), address, kind, network: self })
    }
}

fn kind_of(address: IpAddr) -> Kind {
    match address {
        IpAddr::V4(address) => kind_of_v4(address),
        IpAddr::V6(address) => kind_of_v6(address),
    }
}

/// Follows IANA's registry of special-purpose IPv4 addresses, and adds two metadata addresses of clouds.
fn kind_of_v4(address: Ipv4Addr) -> Kind {
    match address.octets() {
        [0, ..] => Kind::Reserved("an unspecified address"),
        [169, 254, ..] => Kind::Reserved("a link-local address"),
        [100, 100, 100, 200] | [168, 63, 129, 16] => Kind::Reserved("a cloud's metadata address"),
        [224..=239, ..] => Kind::Reserved("a multicast address"),
        [240..=255, ..] => Kind::Reserved("a reserved address"),
        [127, ..] => Kind::Private("a loopback address"),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Kind::Private("a private address"),
        [100, 64..=127, ..] => Kind::Private("an address of a carrier's network"),
        [192, 0, 0, _] | [192, 88, 99, _] | [198, 18..=19, ..] => Kind::Private("a special-purpose address"),
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Kind::Private("an address for documentation"),
        _ => Kind::Public,
    }
}

/// An address is public if it is in `2000::/3` and contains no IPv4 address. A gateway would forward to a contained
/// IPv4 address, so that address is classified too.
fn kind_of_v6(address: Ipv6Addr) -> Kind {
    let embedded = |high: u16, low: u16, kind| {
        let v4 = Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
        kind_of_v4(v4).max(Kind::Private(kind))
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Kind::Reserved("an unspecified address"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Kind::Private("a loopback address"),
        [0, 0, 0, 0, 0, 0xffff, high, low] => embedded(high, low, "an IPv4-mapped address"),
        [0, 0, 0, 0, 0, 0, high, low] => embedded(high, low, "an IPv4-compatible address"),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => embedded(high, low, "a NAT64 address"),
        [0x64, 0xff9b, 1, ..] => Kind::Private("a NAT64 address"),
        [0x2002, high, low, ..] => embedded(high, low, "a 6to4 address"),
        [0x2001, 0, ..] => Kind::Private("a Teredo address"),
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Kind::Private("an address for documentation"),
        [0xfe80..=0xfebf, ..] => Kind::Reserved("a link-local address"),
        [0xfec0..=0xfeff, ..] => Kind::Private("a site-local address"),
        [0xfd00, 0xec2, ..] => Kind::Reserved("a cloud's metadata address"),
        [0xfc00..=0xfdff, ..] => Kind::Private("a unique local address"),
        [0xff00..=0xffff, ..] => Kind::Reserved("a multicast address"),
        [0x2000..=0x3fff, ..] => Kind::Public,
        _ => Kind::Private("an address outside the public range"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    /// Whether the addresses are allowed for a host that a registry chose, and for a host that the operator allows. A
    /// literal address is always allowed.
    #[rstest]
    #[case::public(&["8.8.8.8", "140.82.121.33", "2606:4700::6810:84e5", "2a00:1450:4001::1"], true, true)]
    #[case::rfc1918(&["10.0.0.1", "172.16.3.4", "172.31.255.255", "192.168.1.1"], false, true)]
    #[case::next_to_rfc1918(&["172.15.0.1", "172.32.0.1", "192.169.0.1", "11.0.0.1"], true, true)]
    #[case::loopback(&["127.0.0.1", "127.255.0.9", "::1"], false, true)]
    #[case::carrier(&["100.64.0.1", "100.127.255.255"], false, true)]
    #[case::next_to_carrier(&["100.63.0.1", "100.128.0.1"], true, true)]
    #[case::unique_local(&["fd12::1", "fc00::1"], false, true)]
    #[case::site_local(&["fec0::1", "feff::1"], false, true)]
    #[case::six_to_four(&["2002:0808:0808::1", "2002:c0a8:0101::1"], false, true)]
    #[case::nat64(&["64:ff9b::808:808", "64:ff9b:1::808:808"], false, true)]
    #[case::mapped(&["::ffff:8.8.8.8", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::8.8.8.8"], false, true)]
    #[case::teredo(&["2001:0:4136:e378::1"], false, true)]
    #[case::documentation(&["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"], false, true)]
    #[case::special(&["192.0.0.8", "198.18.0.1", "198.19.255.255", "4000::1", "100::1"], false, true)]
    #[case::link_local(&["169.254.169.254", "169.254.170.2", "fe80::1", "febf::1"], false, false)]
    #[case::metadata(&["fd00:ec2::254", "100.100.100.200", "168.63.129.16"], false, false)]
    #[case::embedded_metadata(&["::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1"], false, false)]
    #[case::unspecified(&["0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0"], false, false)]
    #[case::multicast(&["224.0.0.1", "239.255.255.255", "ff02::1"], false, false)]
    #[case::reserved(&["240.0.0.1", "255.255.255.255"], false, false)]
    fn the_class_of_an_address_decides_who_may_reach_it(
        #[case] addresses: &[&str],
        #[case] by_a_registry: bool,
        #[case] by_the_operator: bool,
    ) {
        for text in addresses {
            let address: IpAddr = text.parse().expect("an address");
            let is_allowed = |network: Network| network.check("r.example", address).is_ok();
            assert_eq!(is_allowed(Network::Public), by_a_registry, "{text}");
            assert_eq!(is_allowed(Network::Operators), by_the_operator, "{text}");
            assert!(is_allowed(Network::Literal), "{text}");
        }
    }

    #[test]
    fn a_refusal_names_the_host_the_address_and_the_setting() {
        let address = IpAddr::from([169, 254, 169, 254]);
        for (network, key) in [
            (Network::Public, "add <registry>=r.example to host.auth_realms"),
            (Network::Public, "add r.example itself to allowed_hosts"),
            (Network::Operators, "add the address to allowed_hosts"),
        ] {
            let text = network.check("r.example", address).expect_err("refused").to_string();
            assert!(text.contains("r.example is at 169.254.169.254, a link-local address"), "{text}");
            assert!(text.contains(key), "{text}");
        }
    }

    proptest! {
        #[test]
        fn operators_may_reach_every_address_that_registries_may_reach(bytes: [u8; 16], is_v4: bool) {
            let [a, b, c, d, ..] = bytes;
            let address = if is_v4 { IpAddr::from([a, b, c, d]) } else { IpAddr::from(bytes) };
            if Network::Public.check("h", address).is_ok() {
                prop_assert!(Network::Operators.check("h", address).is_ok());
                prop_assert!(!address.is_loopback() && !address.is_multicast() && !address.is_unspecified());
            }
        }

        #[test]
        fn an_embedded_ipv4_address_is_never_public(bytes: [u8; 4]) {
            let v4 = Ipv4Addr::from(bytes);
            for address in [v4.to_ipv6_mapped(), v4.to_ipv6_compatible()] {
                prop_assert!(Network::Public.check("h", address.into()).is_err(), "{}", address);
                if Network::Operators.check("h", v4.into()).is_err() {
                    let is_loopback = address.is_loopback();
                    prop_assert!(is_loopback || Network::Operators.check("h", address.into()).is_err(), "{}", address);
                }
            }
        }
    }
}
