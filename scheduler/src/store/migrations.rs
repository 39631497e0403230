//! The schema, one step per version. Steps are never changed once released, only added to.

use std::path::Path;

use rusqlite::Connection;

use crate::error::SchedulerError;

const STEPS: [&str; 6] = [
    include_str!("schema_1.sql"),
    include_str!("schema_2.sql"),
    include_str!("schema_3.sql"),
    include_str!("schema_4.sql"),
    include_str!("schema_5.sql"),
    include_str!("schema_6.sql"),
];

/// Brings the store to the newest schema; each step is one transaction.
pub fn run(conn: &mut Connection, path: &Path) -> Result<(), SchedulerError> {
    let known = STEPS.len();
    let fail = |from, source| SchedulerError::Migrate { path: path.to_owned(), from, to: known, source };
    let found: usize = conn
        .pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))
        .map(|v| usize::try_from(v).unwrap_or(usize::MAX))
        .map_err(|e| fail(0, e))?;
    if found > known {
        return Err(SchedulerError::NewerStore { path: path.to_owned(), found, known });
    }
    for (version, step) in STEPS.iter().enumerate().skip(found) {
        let mut apply = || {
            let tx = conn.transaction()?;
            tx.execute_batch(step)?;
            tx.pragma_update(None, "user_version", i64::try_from(version + 1).unwrap_or(i64::MAX))?;
            tx.commit()
        };
        apply().map_err(|e| fail(version, e))?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_store_from_before_volumes_keeps_what_it_has() {
        let mut conn = Connection::open_in_memory().unwrap();
        for step in &STEPS[..2] {
            conn.execute_batch(step).unwrap();
        }
        conn.pragma_update(None, "user_version", 2).unwrap();
        conn.execute_batch(
            "INSERT INTO resources VALUES ('w', 3, 'default', 'web', '', '{}', '{}', 1, 1);
             INSERT INTO workspaces (uid, template, state, node, status) VALUES ('w', 'default', 11, 'n1', x'');
             INSERT INTO left_behind VALUES ('n1', 'old');",
        )
        .unwrap();
        run(&mut conn, Path::new("control.db")).unwrap();
        let version: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        let count = |table: &str| -> i64 {
            conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
        };
        assert_eq!((version, count("workspaces"), count("left_behind")), (STEPS.len() as i64, 1, 1));
        assert_eq!((count("volumes"), count("mounts"), count("volumes_left_behind")), (0, 0, 0));
    }

    #[test]
    fn twice_is_once_and_newer_is_refused() {
        let mut conn = Connection::open_in_memory().unwrap();
        let path = Path::new("control.db");
        run(&mut conn, path).unwrap();
        run(&mut conn, path).unwrap();
        conn.pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(run(&mut conn, path), Err(SchedulerError::NewerStore { found: 99, .. })));
    }
}
