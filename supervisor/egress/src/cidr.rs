//! Networks of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(crate) const ALLOWED: &str = "a network such as 10.0.0.0/8, 192.0.2.1/32 or 2001:db8::/32";

/// A network, without bits beyond its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    network: IpAddr,
    length: u8,
}

impl Cidr {
    /// The error says what is allowed.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(address, length)| {
            let plain = !length.is_empty() && length.len() <= 3 && length.bytes().all(|b| b.is_ascii_digit());
            let plain = plain && (length == "0" || !length.starts_with('0'));
            let address: IpAddr = address.parse().ok()?;
            let length: u8 = length.parse().ok().filter(|_| plain)?;
            (length <= width(address)).then_some((address, length))
        });
        let Some((address, length)) = parsed else { return Err(ALLOWED.to_owned()) };
        if let IpAddr::V6(v6) = address
            && let Some(v4) = v6.to_ipv4_mapped()
            && length >= 96
        {
            return Err(format!(
                "{} (an IPv4 address is written as one)",
                Self::around(v4.into(), length - 96)
            ));
        }
        let cidr = Self::around(address, length);
        if cidr.network != address {
            return Err(format!(
                "{cidr} for the network, or {address}/{} for the one address",
                width(address)
            ));
        }
        Ok(cidr)
    }

    /// The network of `length` bits that `address` is in.
    pub(crate) fn around(address: IpAddr, length: u8) -> Self {
        let network = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32_u32.saturating_sub(length.into())).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128_u32.saturating_sub(length.into())).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
        };
        Self { network, length }
    }

    pub(crate) const fn new(network: IpAddr, length: u8) -> Self {
        Self { network, length }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.network.is_ipv4() == address.is_ipv4()
            && Self::around(address, self.length).network == self.network
    }

    /// Whether it is all of IPv4 or all of IPv6.
    pub fn is_everything(&self) -> bool {
        self.length == 0
    }

    pub(crate) fn length(&self) -> u8 {
        self.length
    }

    pub(crate) fn is_ipv4(&self) -> bool {
        self.network.is_ipv4()
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn networks_are_read() {
        for text in ["0.0.0.0/0", "10.0.0.0/8", "192.0.2.1/32", "::/0", "2001:db8::/32", "::1/128"] {
            assert_eq!(Cidr::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "",
            "/",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "10.0.0.0/-1",
            "10/8",
            "::/129",
            "::/999",
            "a/8",
            "10.0.0.0/8/8",
            " 10.0.0.0/8",
            "010.0.0.0/8",
            "10.0.0.0/256",
        ] {
            assert_eq!(Cidr::parse(text).unwrap_err(), ALLOWED, "{text}");
        }
        assert!(
            Cidr::parse("10.1.2.3/8").unwrap_err().starts_with("10.0.0.0/8 for the network, or 10.1.2.3/32")
        );
        assert!(Cidr::parse("::ffff:10.0.0.0/104").unwrap_err().starts_with("10.0.0.0/8 (an IPv4"));
    }

    #[test]
    fn a_network_holds_its_own_family_only() {
        let holds = |cidr: &str, address: &str| Cidr::parse(cidr).unwrap().contains(address.parse().unwrap());
        assert!(holds("0.0.0.0/0", "255.255.255.255") && holds("::/0", "ffff::1"));
        assert!(!holds("0.0.0.0/0", "::1") && !holds("::/0", "1.1.1.1"));
        assert!(holds("10.0.0.0/8", "10.255.0.1") && !holds("10.0.0.0/8", "11.0.0.0"));
        assert!(holds("192.0.2.1/32", "192.0.2.1") && !holds("192.0.2.1/32", "192.0.2.0"));
        assert!(holds("::1/128", "::1") && !holds("::1/128", "::2"));
    }

    proptest! {
        #[test]
        fn any_text_is_a_network_or_refused(text in ".{0,60}|[0-9a-f:./]{0,60}") {
            if let Ok(cidr) = Cidr::parse(&text) {
                prop_assert_eq!(Cidr::parse(&cidr.to_string()), Ok(cidr));
            }
        }

        #[test]
        fn the_network_around_an_address_holds_it(bits: u128, four: bool, length: u8) {
            let address = if four { IpAddr::V4((bits as u32).into()) } else { IpAddr::V6(bits.into()) };
            let cidr = Cidr::around(address, length % (width(address) + 1));
            prop_assert!(cidr.contains(address));
            if let Ok(read) = Cidr::parse(&cidr.to_string()) {
                prop_assert_eq!(read, cidr);
            }
        }
    }
}
