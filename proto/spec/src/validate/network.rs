//! Egress rules.

use std::net::IpAddr;

use super::At;
use crate::error::SpecError;
use crate::model::Egress;

const CIDR: &str = "a network such as 10.0.0.0/8, 192.0.2.1/32 or 2001:db8::/32";

pub(super) fn egress(at: At<'_>, egress: &Egress) -> Result<(), SpecError> {
    let at = at.field("rules");
    at.count(egress.rules.len(), 128)?;
    for (index, rule) in egress.rules.iter().enumerate() {
        let at = at.index(index);
        let cidrs = at.field("cidrs");
        if rule.cidrs.is_empty() {
            return Err(cidrs.error(format!("was an empty list; allowed: at least one of {CIDR}")));
        }
        if rule.cidrs.len() > 128 {
            return Err(cidrs.error(format!("was a list of {}; allowed: at most 128", rule.cidrs.len())));
        }
        for (index, text) in rule.cidrs.iter().enumerate() {
            cidr(cidrs.index(index), text)?;
        }
        let ports = at.field("ports");
        if rule.ports.len() > 128 {
            return Err(ports.error(format!("was a list of {}; allowed: at most 128", rule.ports.len())));
        }
        if let Some(index) = rule.ports.iter().position(|port| *port == 0) {
            return Err(ports.index(index).error("was 0; allowed: a whole number from 1 to 65535"));
        }
    }
    Ok(())
}

fn cidr(at: At<'_>, text: &str) -> Result<(), SpecError> {
    let parsed = text.split_once('/').and_then(|(address, length)| {
        let plain = !length.is_empty() && length.len() <= 3 && length.chars().all(|c| c.is_ascii_digit());
        let plain = plain && (length == "0" || !length.starts_with('0'));
        let address: IpAddr = address.parse().ok()?;
        let length: u32 = length.parse().ok().filter(|_| plain)?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        (length <= width).then_some((address, length, width))
    });
    let Some((address, length, width)) = parsed else { return Err(at.was(text, CIDR)) };
    let network = network(address, length);
    if network != address {
        let allowed = format!("{network}/{length} for the network, or {address}/{width} for the one address");
        return Err(at.was(text, allowed));
    }
    Ok(())
}

fn network(address: IpAddr, length: u32) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4((v4.to_bits() & u32::MAX.checked_shl(32 - length).unwrap_or(0)).into()),
        IpAddr::V6(v6) => {
            IpAddr::V6((v6.to_bits() & u128::MAX.checked_shl(128 - length).unwrap_or(0)).into())
        }
    }
}
