//! Secrets: data goes in, sealed, and comes out only on its way to a node.

use std::collections::{BTreeSet, HashMap};

use cordium_proto::v1::Kind;
use cordium_spec::{
    binding::{check_value, trimmed},
    service::check_secret,
};
use rusqlite::Connection;

use crate::{
    config::Config,
    crypt::{Cipher, Owner},
    error::{ApiError, SchedulerError},
    names::Target,
    specs,
    status::is_active,
    store::{
        self, Store,
        records::{self, Record},
        workspaces::{self, Workspace},
    },
};

/// The most that one secret may hold.
pub const MAX_BYTES: usize = 64 << 10;
/// The most that all secrets of one workspace may hold, so that a start fits into a message.
const MAX_TOTAL: usize = 4 << 20;

pub fn check_data(data: &[u8]) -> Result<(), ApiError> {
    match data.len() {
        0 => Err(ApiError::invalid("secret_data: was empty; give the secret's value")),
        n if n > MAX_BYTES => {
            Err(ApiError::invalid(format!("secret_data: has {n} bytes; allowed: at most {MAX_BYTES}")))
        }
        _ => Ok(()),
    }
}

pub fn put(conn: &Connection, cipher: &Cipher, record: &Record, data: &[u8]) -> Result<(), ApiError> {
    records::put_secret(conn, &record.uid, &cipher.seal(owner(record), data)?)
}

/// The values of these secrets, by name.
pub fn open(
    conn: &Connection,
    cipher: &Cipher,
    space: &str,
    names: &BTreeSet<String>,
) -> Result<HashMap<String, bytes::Bytes>, ApiError> {
    let mut values = HashMap::new();
    let mut total = 0;
    for record in specs::find_secrets(conn, space, names)? {
        let data = cipher.open_sealed(owner(&record), &records::sealed_secret(conn, &record.uid)?)?;
        total += data.len();
        if total > MAX_TOTAL {
            return Err(ApiError::invalid(format!(
                "fromSecret: the workspace's secrets have more than {MAX_TOTAL} bytes together; use fewer"
            )));
        }
        values.insert(record.name, data.into());
    }
    Ok(values)
}

/// The values that are put on the requests of a run, or used for its services, as far as there still are any.
pub fn of_run(
    conn: &Connection,
    cipher: &Cipher,
    ws: &Workspace,
) -> Result<HashMap<String, bytes::Bytes>, ApiError> {
    let mut names = credential_secrets(ws)?;
    names.retain(|name| {
        let target = Target::Named { space: ws.record.space.clone(), name: name.clone() };
        // One that cannot be read is found by `open`.
        !matches!(records::find(conn, Kind::Secret, &target), Ok(None))
    });
    open(conn, cipher, &ws.record.space, &names)
}

/// Whether a value can be what running workspaces have it for. One that cannot must not replace one that is.
pub fn check_for_runs(conn: &Connection, record: &Record, data: &[u8]) -> Result<(), ApiError> {
    let (name, data) = (&record.name, trimmed(data));
    let wrong = |used: &str, problem: &str| {
        ApiError::invalid(format!(
            "secret_data: of {name:?}, which running workspaces have {used}: {problem}"
        ))
    };
    for ws in workspaces::list(conn, &record.space, "")? {
        if !is_active(&ws.status) {
            continue;
        }
        let network = cordium_spec::parse_resolved_json(&ws.run_spec)?.runtime.network;
        if network.credentials.iter().any(|credential| credential.from_secret == *name) {
            check_value(data).map_err(|error| wrong("on their requests", &error.problem))?;
        }
        for service in network.services.iter().filter(|service| service.from_secret == *name) {
            let used = format!("for service {:?}", service.name);
            check_secret(service.kind(), data).map_err(|error| wrong(&used, &error.problem))?;
        }
    }
    Ok(())
}

/// The runs that have this secret on requests or for services, noted as still to be told of a change.
pub fn changed(conn: &Connection, record: &Record) -> Result<Vec<(String, String)>, ApiError> {
    let mut runs = Vec::new();
    for ws in workspaces::list(conn, &record.space, "")? {
        if is_active(&ws.status) && credential_secrets(&ws)?.contains(&record.name) {
            store::egress::put(conn, &ws.record.uid, ws.run_id())?;
            runs.push((ws.record.uid.clone(), ws.run_id().to_owned()));
        }
    }
    Ok(runs)
}

fn credential_secrets(ws: &Workspace) -> Result<BTreeSet<String>, ApiError> {
    let spec = cordium_spec::parse_resolved_json(&ws.run_spec)?;
    let network = spec.runtime.network;
    let credentials = network.credentials.into_iter().map(|credential| credential.from_secret);
    Ok(credentials.chain(network.services.into_iter().map(|service| service.from_secret)).collect())
}

/// Finds out at once, not at the first start, that the key is another one.
pub fn check_key(store: &Store, cipher: &Cipher, config: &Config) -> Result<(), SchedulerError> {
    let opens = store.lookup(|conn| match records::list(conn, Kind::Secret, "")?.first() {
        Some(first) => {
            cipher.open_sealed(owner(first), &records::sealed_secret(conn, &first.uid)?).map(|_| ())
        }
        None => Ok(()),
    });
    opens.map_err(|e| {
        tracing::error!(error = %e, "the first secret does not open");
        SchedulerError::WrongKey { path: config.db.clone(), key: config.key.clone() }
    })
}

fn owner(record: &Record) -> Owner<'_> {
    Owner { uid: &record.uid, name: &record.name, space: &record.space }
}
