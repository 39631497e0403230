//! Services: a real server of PostgreSQL behind a real gateway, and `psql` without a password.

mod hostile;
mod postgres;

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use cordium_broker::{GATEWAY_V4, Place, Registered, Secret, Service, ServiceProtocol, Services, Terms};
use cordium_egress::{Action, DefaultAction, Policy};

use crate::egress::servers::name_server;
use crate::egress::{policy, rule};
use crate::support::{NODE, OUTSIDE, Work, World, isolated, run};
use postgres::{PASSWORD, PORT, Server};

/// The server's name outside, which leads to a private address.
const UPSTREAM: &str = "private.example";

pub fn service(name: &str, user: &str) -> Service {
    Service {
        name: name.into(),
        upstream: Place { host: UPSTREAM.into(), port: PORT },
        local: Place { host: format!("{name}.cordium.internal"), port: PORT },
        protocol: ServiceProtocol::Postgresql { user: user.into(), database: Some("shop".into()), tls: true },
        secret: Some(Secret::new(PASSWORD.as_bytes().to_vec())),
    }
}

/// As [`service`], without TLS.
fn bare(name: &str, user: &str) -> Service {
    let protocol = ServiceProtocol::Postgresql { user: user.into(), database: None, tls: false };
    Service { protocol, ..service(name, user) }
}

/// A workspace that may reach nothing, but has services.
pub struct Served {
    pub world: World,
    services: Services,
    registered: Registered,
    _resolver: tempfile::NamedTempFile,
}

impl Served {
    pub fn new(world: World, extra_roots: Vec<String>, services: Vec<Service>) -> Self {
        name_server();
        let mut resolver = tempfile::NamedTempFile::new().unwrap();
        writeln!(resolver, "nameserver {GATEWAY_V4}").unwrap();
        run("mount", &["--bind", resolver.path().to_str().unwrap(), "/etc/resolv.conf"]);
        let services = Services { extra_roots, services };
        let registered = world.register_all(closed(), None, Some(services.clone()), vec![]);
        Self { world, services, registered, _resolver: resolver }
    }

    fn set(&self, policy: &Policy, services: &Services) {
        self.registered.set_policy(Terms { policy, credentials: None, services: Some(services) }).unwrap();
    }

    /// What the program of this workspace says.
    pub fn psql(&self, arguments: &[&str]) -> (bool, String) {
        told(&self.start(arguments).join())
    }

    fn start(&self, arguments: &[&str]) -> Work<Output> {
        let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
        self.world.sandbox.spawn(move || {
            let mut command = Command::new("timeout");
            command.args([
                "--kill-after=5",
                "50",
                "psql",
                "--no-psqlrc",
                "--no-password",
                "--tuples-only",
                "--no-align",
            ]);
            command.args(arguments).env_clear().env("PATH", "/usr/bin:/bin").env("PGCONNECT_TIMEOUT", "20");
            command.stdin(Stdio::null()).output().unwrap()
        })
    }

    pub fn is_not_logged(&self) {
        let log = self.world.log();
        assert!(log.contains("workspace registered") && !log.contains(PASSWORD), "{log}");
    }
}

fn told(output: &Output) -> (bool, String) {
    let text = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    (output.status.success(), String::from_utf8_lossy(&text).trim().to_owned())
}

pub fn closed() -> Policy {
    policy(DefaultAction::Deny, vec![])
}

#[test]
fn a_session_begins_without_a_password() {
    isolated("services::a_session_begins_without_a_password", || {
        let world = World::new();
        let server = Server::start(&world, UPSTREAM);
        let served = Served::new(
            world,
            vec![server.certificate.clone()],
            vec![service("db", "app"), bare("bare", "app")],
        );
        let who =
            "select current_user, current_database(), ssl from pg_stat_ssl where pid = pg_backend_pid()";
        for user in ["app", "postgres", "admin"] {
            let told = served.psql(&[
                "--host=db.cordium.internal",
                "--username",
                user,
                "--dbname=postgres",
                "--command",
                who,
            ]);
            assert_eq!(told, (true, "app|shop|t".to_owned()), "{user}");
        }
        // Without TLS, and with the client's own choice of a database.
        let told =
            served.psql(&["--host=bare.cordium.internal", "--username=x", "--dbname=shop", "--command", who]);
        assert_eq!(told, (true, "app|shop|f".to_owned()));
        for host in ["db", "bare"] {
            let host = format!("--host={host}.cordium.internal");
            let large = "select length(repeat('x', 30000000)), md5(repeat('x', 30000000))";
            let told = served.psql(&[&host, "--dbname=shop", "--command", large]);
            assert!(told.0 && told.1.starts_with("30000000|"), "{told:?}");
            let text = served.psql(&[&host, "--dbname=shop", "--command", "select repeat('y', 5000000)"]);
            assert!(text.0 && text.1.len() == 5_000_000, "{}", text.1.len());
            // Options of the client go on, and errors come back.
            let told = served.psql(&[
                &format!("{} dbname=shop options='-c search_path=mine'", &host[2..]),
                "--command=show search_path",
            ]);
            assert_eq!(told, (true, "mine".to_owned()));
            let told = served.psql(&[&host, "--dbname=shop", "--command=select nonsense"]);
            assert!(!told.0 && told.1.contains("column \"nonsense\" does not exist"), "{told:?}");
        }
        // TLS is not needed on a link that nobody else is on; who insists on it is told no.
        let told = served.psql(&["host=db.cordium.internal sslmode=require", "--command=select 1"]);
        assert!(!told.0 && told.1.contains("server does not support SSL"), "{told:?}");
        assert!(
            server.log().contains("authenticated: identity=\"app\" method=scram-sha-256"),
            "{}",
            server.log()
        );
        served.is_not_logged();
    });
}

#[test]
fn a_query_is_cancelled_by_the_session_that_it_is_of() {
    isolated("services::a_query_is_cancelled_by_the_session_that_it_is_of", || {
        let world = World::new();
        let server = Server::start(&world, UPSTREAM);
        let served = Served::new(
            world,
            vec![server.certificate.clone()],
            vec![service("db", "app"), bare("bare", "app")],
        );
        for host in ["db", "bare"] {
            let sleeping = served.world.sandbox.spawn(move || {
                // An interrupt makes psql cancel what it waits for.
                let script = format!(
                    "timeout --signal=INT 3 psql --no-psqlrc --no-password --host={host}.cordium.internal --dbname=shop \
                     --command='select pg_sleep(50)' 2>&1"
                );
                Command::new("sh").args(["-c", &script]).output().unwrap()
            });
            let (_, text) = told(&sleeping.join());
            assert!(text.contains("canceling statement due to user request"), "{host}: {text}");
        }
        // A key that was made up, and the right process: nothing happens.
        let long = served.start(&[
            "--host=db.cordium.internal",
            "--dbname=shop",
            "--command=select pg_backend_pid()",
            "--command=select pg_sleep(4), 'slept'",
        ]);
        std::thread::sleep(Duration::from_secs(1));
        let pid = served.psql(&["--host=db.cordium.internal", "--dbname=shop", "--command=select pid from pg_stat_activity where query like '%pg_sleep(4)%' and pid <> pg_backend_pid()"]).1;
        let pid: u32 = pid.parse().unwrap_or_else(|_| panic!("{pid}"));
        hostile::cancel(&served, pid, [1, 2, 3, 4]);
        let (good, text) = told(&long.join());
        assert!(good && text.contains("slept"), "{text}");
    });
}

#[test]
fn old_ways_to_log_in_need_tls() {
    isolated("services::old_ways_to_log_in_need_tls", || {
        let world = World::new();
        let server = Server::start(&world, UPSTREAM);
        let services = vec![
            service("md5", "old"),
            service("clear", "plain"),
            bare("bare-md5", "old"),
            bare("bare-clear", "plain"),
        ];
        let served = Served::new(world, vec![server.certificate.clone()], services);
        let ask = |name: &str| {
            served.psql(&[
                &format!("--host={name}.cordium.internal"),
                "--dbname=postgres",
                "--command=select current_user",
            ])
        };
        assert_eq!(ask("md5"), (true, "old".to_owned()));
        assert_eq!(ask("clear"), (true, "plain".to_owned()));
        for name in ["bare-md5", "bare-clear"] {
            let told = ask(name);
            assert!(
                !told.0 && told.1.contains("shown to whoever listens") && told.1.contains("HINT:"),
                "{told:?}"
            );
        }
        assert!(served.world.log().contains("service bare-md5"), "{}", served.world.log());
        served.is_not_logged();
    });
}

#[test]
fn a_wrong_password_is_the_servers_to_refuse() {
    isolated("services::a_wrong_password_is_the_servers_to_refuse", || {
        let world = World::new();
        let server = Server::start(&world, UPSTREAM);
        let wrong =
            |service: Service| Service { secret: Some(Secret::new(b"hunter2hunter2".to_vec())), ..service };
        let services =
            vec![wrong(service("db", "app")), wrong(bare("bare", "app")), service("nobody", "stranger")];
        let served = Served::new(world, vec![server.certificate.clone()], services);
        for (name, user) in [("db", "app"), ("bare", "app")] {
            let told = served.psql(&[
                &format!("--host={name}.cordium.internal"),
                "--dbname=shop",
                "--command=select 1",
            ]);
            let expected = format!("password authentication failed for user \"{user}\"");
            assert!(!told.0 && told.1.contains(&expected) && !told.1.contains("hunter2"), "{told:?}");
        }
        let told = served.psql(&["--host=nobody.cordium.internal", "--command=select 1"]);
        assert!(!told.0 && told.1.contains("no pg_hba.conf entry"), "{told:?}");
        assert!(!served.world.log().contains("hunter2"));
    });
}

#[test]
fn a_server_that_cannot_be_verified_gets_no_password() {
    isolated("services::a_server_that_cannot_be_verified_gets_no_password", || {
        let world = World::new();
        let server = Server::start(&world, UPSTREAM);
        let other =
            Service { upstream: Place { host: "one.example".into(), port: PORT }, ..service("other", "app") };
        let by_address =
            Service { upstream: Place { host: OUTSIDE.into(), port: PORT }, ..service("address", "app") };
        let mut served = Served::new(
            world,
            vec![server.certificate.clone()],
            vec![service("db", "app"), other, by_address],
        );
        for name in ["other", "address"] {
            let told = served.psql(&[&format!("--host={name}.cordium.internal"), "--command=select 1"]);
            assert!(!told.0 && told.1.contains("certificate is not valid for this name"), "{told:?}");
        }
        served.services.extra_roots.clear();
        served.set(&closed(), &served.services);
        let told = served.psql(&["--host=db.cordium.internal", "--command=select 1"]);
        assert!(!told.0 && told.1.contains("or is of nobody whom the node trusts"), "{told:?}");
        assert!(!server.log().contains("authenticated"), "{}", server.log());
    });
}

#[test]
fn rotation_is_on_the_next_session_and_revocation_ends_them_all() {
    isolated("services::rotation_is_on_the_next_session_and_revocation_ends_them_all", || {
        let world = World::new();
        let server = Server::start(&world, UPSTREAM);
        let mut served = Served::new(
            world,
            vec![server.certificate.clone()],
            vec![service("db", "app"), bare("bare", "app")],
        );
        let change = "alter role app password 'another-horse'";
        assert!(served.psql(&["--host=db.cordium.internal", "--command", change]).0);
        assert!(
            !served.psql(&["--host=db.cordium.internal", "--command=select 1"]).0,
            "the old password still holds"
        );
        for service in &mut served.services.services {
            service.secret = Some(Secret::new(b"another-horse".to_vec()));
        }
        served.set(&closed(), &served.services);
        assert_eq!(
            served.psql(&["--host=db.cordium.internal", "--command=select 1"]),
            (true, "1".to_owned())
        );

        let open: Vec<_> = ["db", "bare"]
            .iter()
            .map(|name| {
                served.start(&[
                    &format!("--host={name}.cordium.internal"),
                    "--dbname=shop",
                    "--command=select pg_sleep(45)",
                ])
            })
            .collect();
        std::thread::sleep(Duration::from_secs(2));
        for service in &mut served.services.services {
            service.secret = None;
        }
        served.set(&closed(), &served.services);
        for session in open {
            let told = told(&session.join());
            assert!(
                !told.0 && told.1.contains("server closed the connection") || told.1.contains("reset"),
                "{told:?}"
            );
        }
        let told = served.psql(&["--host=db.cordium.internal", "--command=select 1"]);
        assert!(!told.0 && told.1.contains("has been taken away"), "{told:?}");
    });
}

#[test]
fn what_is_protected_or_denied_is_no_upstream() {
    isolated("services::what_is_protected_or_denied_is_no_upstream", || {
        let world = World::new();
        let server = Server::start(&world, UPSTREAM);
        let at = |name: &str, host: &str| Service {
            upstream: Place { host: host.into(), port: PORT },
            ..bare(name, "app")
        };
        let services = vec![
            bare("db", "app"),
            at("node", NODE),
            at("node-name", "node.example"),
            at("metadata", "metadata.example"),
            at("gateway", "gateway.example"),
            at("loopback", "host.cordium.internal"),
            at("nowhere", "nowhere.example"),
        ];
        let served = Served::new(world, vec![server.certificate.clone()], services);
        let ask = |name: &str| {
            served.psql(&[&format!("--host={name}.cordium.internal"), "--dbname=shop", "--command=select 1"])
        };
        assert_eq!(ask("db"), (true, "1".to_owned()));
        for (name, rule) in [
            ("node", "(node)"),
            ("node-name", "(node)"),
            ("metadata", "(link-local)"),
            ("gateway", "(gateway)"),
            ("loopback", "(host-ports)"),
            ("nowhere", "has no address"),
        ] {
            let told = ask(name);
            assert!(!told.0 && told.1.contains(rule), "{name}: {told:?}");
        }
        // A DENY beats the service, also one that is open.
        let open =
            served.start(&["--host=db.cordium.internal", "--dbname=shop", "--command=select pg_sleep(45)"]);
        std::thread::sleep(Duration::from_secs(2));
        let denied = policy(DefaultAction::AllowPublic, vec![rule(Action::Deny, UPSTREAM, "", &[])]);
        served.set(&denied, &served.services);
        assert!(!told(&open.join()).0);
        let told = ask("db");
        assert!(!told.0 && told.1.contains("a DENY rule of the workspace's policy matches"), "{told:?}");
        let denied = policy(DefaultAction::AllowPublic, vec![rule(Action::Deny, "", "10.77.0.0/16", &[])]);
        served.set(&denied, &served.services);
        assert!(!ask("db").0);
        served.set(&closed(), &served.services);
        assert!(ask("db").0);
        // Nor is the upstream reached past the service, by name or address.
        let past = served.psql(&[&format!("--host={UPSTREAM}"), "--command=select 1"]);
        assert!(!past.0 && past.1.contains("could not translate host name"), "{past:?}");
        assert!(!served.psql(&["--host", OUTSIDE, "--command=select 1"]).0);
        // An address of services with none behind it, and a port that no service has.
        for place in
            [["--host=100.127.255.120", "--port=5432"], ["--host=db.cordium.internal", "--port=5433"]]
        {
            let told = served.psql(&[place[0], place[1], "--command=select 1"]);
            assert!(!told.0, "{told:?}");
        }
    });
}
