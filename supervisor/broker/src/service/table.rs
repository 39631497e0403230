//! A workspace's services, checked and ready: which name has which address inside, and what is behind it.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use cordium_egress::Host;
use cordium_egress::service::{Upstream, addresses};
use rustls::ClientConfig;

use super::terms::{Protocol, Service, Services};
use crate::inspect::{CredentialsError, Roots, Secret, provider};

/// As PostgreSQL's own clients say it since version 17.
const ALPN: &[u8] = b"postgresql";

pub(crate) struct Table {
    by_place: HashMap<(Ipv4Addr, u16), Arc<Ready>>,
    by_name: HashMap<Host, Ipv4Addr>,
}

/// A service whose texts have been read.
pub(crate) struct Ready {
    pub name: String,
    /// Inside.
    pub host: Host,
    pub upstream: Upstream,
    pub upstream_port: u16,
    pub protocol: Protocol,
    pub secret: Option<Secret>,
    pub tls: Arc<ClientConfig>,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").finish_non_exhaustive()
    }
}

impl Table {
    pub(crate) fn new(services: Services, roots: &Roots) -> Result<Self, CredentialsError> {
        services.check_texts()?;
        let roots = roots.with(&services.extra_roots)?;
        let mut tls = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| CredentialsError::new("extraRoots", error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        let tls = Arc::new(tls);
        let read = services.services.into_iter().enumerate();
        let ready: Vec<(Ready, u16)> =
            read.map(|(index, service)| Ready::new(index, service, &tls)).collect::<Result<_, _>>()?;
        let addresses = addresses(ready.iter().map(|(ready, _)| &ready.host));
        let (mut by_place, mut by_name) = (HashMap::new(), HashMap::new());
        for ((ready, port), address) in ready.into_iter().zip(addresses) {
            by_name.insert(ready.host.clone(), address);
            by_place.insert((address, port), Arc::new(ready));
        }
        Ok(Self { by_place, by_name })
    }

    /// Where a name of a service leads inside.
    pub(crate) fn address(&self, name: &Host) -> Option<Ipv4Addr> {
        self.by_name.get(name).copied()
    }

    /// Whether a service of this name still has its credential.
    pub(crate) fn serves(&self, name: &str) -> bool {
        self.by_place.values().any(|ready| ready.name == name && ready.secret.is_some())
    }

    /// The service at this place; `Err` if one has the address and none the port.
    pub(crate) fn at(&self, destination: SocketAddr) -> Option<Result<Arc<Ready>, Host>> {
        let IpAddr::V4(address) = destination.ip().to_canonical() else { return None };
        if let Some(ready) = self.by_place.get(&(address, destination.port())) {
            return Some(Ok(Arc::clone(ready)));
        }
        self.by_name.iter().find(|(_, of)| **of == address).map(|(host, _)| Err(host.clone()))
    }
}

impl Ready {
    fn new(index: usize, service: Service, tls: &Arc<ClientConfig>) -> Result<(Self, u16), CredentialsError> {
        let wrong = |field: &str, problem: String| {
            CredentialsError::new(format!("services[{index}].{field}"), problem)
        };
        let host =
            Host::parse(&service.local.host).map_err(|error| wrong("local.host", error.to_string()))?;
        let upstream =
            Upstream::parse(&service.upstream.host).map_err(|error| wrong("upstream.host", error))?;
        let Service { name, protocol, secret, .. } = service;
        let upstream_port = service.upstream.port;
        let ready = Self { name, host, upstream, upstream_port, protocol, secret, tls: Arc::clone(tls) };
        Ok((ready, service.local.port))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::super::terms::Place;
    use super::*;

    pub(in crate::service) fn service(name: &str, port: u16) -> Service {
        Service {
            name: name.into(),
            upstream: Place { host: "db.example".into(), port: 5432 },
            local: Place { host: format!("{name}.cordium.internal"), port },
            protocol: Protocol::Postgresql { user: "app".into(), database: None, tls: true },
            secret: Some(Secret::new(b"hunter2".to_vec())),
        }
    }

    fn table(services: Vec<Service>) -> Result<Table, CredentialsError> {
        Table::new(Services { extra_roots: vec![], services }, &Roots::none())
    }

    #[test]
    fn a_name_has_an_address_and_a_service_at_each_of_its_ports() {
        let mut second = service("other", 5433);
        second.local.host = "db.cordium.internal".into();
        let table = table(vec![service("db", 5432), second, service("third", 5432)]).unwrap();
        let [db, third] = ["db.cordium.internal", "third.cordium.internal"]
            .map(|name| table.address(&Host::parse(name).unwrap()).unwrap());
        assert_ne!(db, third);
        let at = |address: Ipv4Addr, port| match table.at((address, port).into()) {
            Some(Ok(ready)) => ready.name.clone(),
            Some(Err(host)) => format!("no port of {host}"),
            None => "none".into(),
        };
        assert_eq!(at(db, 5432), "db");
        assert_eq!(at(db, 5433), "other");
        assert_eq!(at(third, 5432), "third");
        assert_eq!(at(third, 5433), "no port of third.cordium.internal");
        assert_eq!(at(Ipv4Addr::new(100, 127, 255, 80), 5432), "none");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place_and_without_the_value() {
        let mut bad = service("db", 5432);
        bad.secret = Some(Secret::new(b"hunter2\0".to_vec()));
        let error = table(vec![service("a", 1), bad]).unwrap_err();
        assert_eq!(error.path, "services[1].fromSecret");
        assert!(!error.to_string().contains("hunter"), "{error}");
        assert_eq!(table(vec![]).unwrap_err().path, "services");
        assert_eq!(table(vec![service("a", 1), service("a", 2)]).unwrap_err().path, "services[1].name");
    }
}
