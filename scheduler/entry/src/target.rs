//! Which port of which workspace a Host means. Anything but our own names is refused, so that no name that somebody else
//! lets point at loopback leads here.

use http::{HeaderMap, Uri, header::HOST};

const DOMAIN: &str = ".localhost";

/// Of a name in the DNS.
const MAX_LABEL: usize = 63;

/// `PORT-WORKSPACE.localhost:ENTRY`. One label below `localhost`, for browsers take names with the same last two labels for one
/// site, and let its pages send each other's cookies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub port: u16,
    /// A name in the default space, or a uid.
    pub workspace: String,
    /// In lower case.
    pub host: String,
}

impl Target {
    /// From the one Host of a request, to which an absolute target must agree.
    pub fn of(headers: &HeaderMap, uri: &Uri, entry: u16) -> Option<Self> {
        let mut hosts = headers.get_all(HOST).iter();
        let host = hosts.next()?.to_str().ok()?;
        let agrees = uri.authority().is_none_or(|authority| authority.as_str() == host);
        if hosts.next().is_some() || !agrees || uri.scheme_str().is_some_and(|scheme| scheme != "http") {
            return None;
        }
        Self::parse(host, entry)
    }

    fn parse(host: &str, entry: u16) -> Option<Self> {
        let lower = host.to_ascii_lowercase();
        let (name, port) = lower.rsplit_once(':')?;
        if port != entry.to_string() {
            return None;
        }
        let (port, workspace) = name.strip_suffix(DOMAIN)?.split_once('-')?;
        let inside = port.parse().ok().filter(|inside: &u16| *inside > 0 && inside.to_string() == port)?;
        let plain = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        let fits = !workspace.is_empty() && name.len() <= MAX_LABEL + DOMAIN.len();
        if !fits || !workspace.bytes().all(plain) {
            return None;
        }
        Some(Self { port: inside, workspace: workspace.to_owned(), host: lower })
    }

    /// The host of a port's address: by the workspace's name where that is short and of the default space, else by its uid.
    pub fn host(port: u16, name: Option<&str>, uid: &str, entry: u16) -> String {
        let label = |workspace: &str| format!("{port}-{workspace}");
        let named = name.map(label).filter(|label| label.len() <= MAX_LABEL);
        format!("{}{DOMAIN}:{entry}", named.unwrap_or_else(|| label(uid)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_own_names_are_taken() {
        let parsed = |host| Target::parse(host, 7300).map(|target| (target.port, target.workspace));
        assert_eq!(parsed("3000-a-b.localhost:7300"), Some((3000, "a-b".into())));
        assert_eq!(parsed("80-DEV.LocalHost:7300"), Some((80, "dev".into())));
        for bad in [
            "",
            "localhost:7300",
            "127.0.0.1:7300",
            "[::1]:7300",
            "evil.example:7300",
            "3000-dev.localhost",
            "3000-dev.localhost:7301",
            "3000-dev.localhost:07300",
            "3000-dev.localhost.:7300",
            "3000-dev.localhost.evil.example:7300",
            "3000-dev.evillocalhost:7300",
            "0-dev.localhost:7300",
            "03000-dev.localhost:7300",
            "+80-dev.localhost:7300",
            "70000-dev.localhost:7300",
            "-dev.localhost:7300",
            "3000-.localhost:7300",
            "3000-a.team.localhost:7300",
            "3000-.a.localhost:7300",
            &format!("3000-{}.localhost:7300", "a".repeat(59)),
            "3000-a_b.localhost:7300",
            "x@3000-dev.localhost:7300",
        ] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_handed_out_is_taken() {
        let uid = "0193523c-1b2a-7000-8000-0123456789ab";
        let long = "a".repeat(60);
        for (name, meant) in [(Some("dev"), "dev"), (None, uid), (Some(long.as_str()), uid)] {
            let host = Target::host(65_535, name, uid, 7300);
            let taken = Target::parse(&host, 7300).unwrap();
            assert_eq!((taken.port, taken.workspace.as_str(), taken.host), (65_535, meant, host));
        }
    }

    #[test]
    fn there_is_one_host_and_the_target_agrees() {
        let of = |hosts: &[&str], uri: &str| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, host.parse().unwrap());
            }
            Target::of(&headers, &uri.parse().unwrap(), 7300).is_some()
        };
        let host = "3000-dev.localhost:7300";
        assert!(of(&[host], "/x"));
        assert!(!of(&["3000-dev.localhost:7300, evil.example"], "/x"));
        assert!(of(&[host], &format!("http://{host}/x")));
        assert!(!of(&[], "/x"));
        assert!(!of(&[host, host], "/x"));
        assert!(!of(&[host], "http://3000-other.localhost:7300/x"));
        assert!(!of(&[host], &format!("https://{host}/x")));
    }
}
