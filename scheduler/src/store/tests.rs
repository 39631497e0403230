//! The journal's pages and the bounds of what is kept.
#![allow(clippy::unwrap_used)]

use cordium_proto::v1::{Kind, PhaseEvent, Run};
use rusqlite::Connection;

use super::{
    journal::{self, Filter, Page},
    migrations,
    records::Record,
    workspaces::{self, Workspace},
};
use crate::{names::Target, status};

fn store() -> Connection {
    let mut conn = Connection::open_in_memory().unwrap();
    migrations::run(&mut conn, std::path::Path::new("test.db")).unwrap();
    conn
}

fn workspace(conn: &Connection, name: &str, space: &str) -> Workspace {
    let record = Record {
        uid: format!("uid-{name}"),
        kind: Kind::Workspace,
        space: space.into(),
        name: name.into(),
        display_name: String::new(),
        labels: Default::default(),
        spec: "{}".into(),
        created_at: 0,
        updated_at: 0,
    };
    let ws = Workspace {
        status: status::initial(space, "default", Default::default()),
        template: "default".into(),
        record,
        run_spec: String::new(),
        accepted: true,
        last_node: String::new(),
        revision: 0,
    };
    workspaces::insert(conn, &ws).unwrap();
    ws
}

fn revisions(conn: &Connection, after: u64, filter: &Filter, max: usize) -> Option<(Vec<u64>, u64)> {
    match journal::page(conn, after, filter, max).unwrap() {
        Page::Gone => None,
        Page::Events { events, upto } => Some((events.iter().map(|e| e.revision).collect(), upto)),
    }
}

#[test]
fn pages_are_dense_filtered_and_know_what_is_gone() {
    let conn = store();
    let all = Filter::default();
    assert_eq!(revisions(&conn, 0, &all, 10), Some((vec![], 0)));
    assert_eq!(revisions(&conn, 1, &all, 10), None, "from the future");
    let (a, b) = (workspace(&conn, "a", "default"), workspace(&conn, "b", "team"));
    for (expected, ws) in (1..).zip([&a, &b, &a, &b, &a]) {
        let revision = journal::append(&conn, ws, Some(&PhaseEvent::default()), false).unwrap();
        assert_eq!(revision, expected);
    }
    assert_eq!(revisions(&conn, 0, &all, 2), Some((vec![1, 2], 2)));
    let only_a = Filter { uid: a.record.uid.clone(), ..Default::default() };
    assert_eq!(revisions(&conn, 1, &only_a, 10), Some((vec![3, 5], 5)));
    let only_team = Filter { space: "team".into(), ..Default::default() };
    assert_eq!(
        revisions(&conn, 0, &only_team, 10),
        Some((vec![2, 4], 5)),
        "what is filtered out is seen too"
    );

    journal::drop_older(&conn, 2).unwrap();
    assert_eq!(revisions(&conn, 1, &all, 10), None);
    assert_eq!(revisions(&conn, 2, &all, 10), Some((vec![3, 4, 5], 5)));
    journal::drop_older(&conn, 5).unwrap();
    assert_eq!(revisions(&conn, 5, &all, 10), Some((vec![], 5)));
    assert_eq!(revisions(&conn, 4, &all, 10), None);
    assert_eq!(journal::append(&conn, &a, None, false).unwrap(), 6, "revisions are never used again");
}

#[test]
fn the_journal_is_bounded() {
    let conn = store();
    let ws = workspace(&conn, "a", "default");
    let tx = conn.unchecked_transaction().unwrap();
    for _ in 0..journal::KEPT + 1000 {
        journal::append(&tx, &ws, None, false).unwrap();
    }
    let rows: i64 = tx.query_row("SELECT count(*) FROM journal", [], |row| row.get(0)).unwrap();
    assert_eq!(rows.unsigned_abs(), journal::KEPT);
}

#[test]
fn old_runs_are_dropped_and_the_rest_comes_newest_first() {
    let conn = store();
    let mut ws = workspace(&conn, "a", "default");
    let tx = conn.unchecked_transaction().unwrap();
    for i in 0..status::MAX_LAST_RUNS + 5 {
        ws.status.last_runs = vec![Run { id: format!("r{i}"), ..Default::default() }];
        workspaces::save(&tx, &mut ws).unwrap();
    }
    let runs = workspaces::last_runs(&tx, &ws.record.uid, usize::MAX).unwrap();
    assert_eq!(runs.len(), status::MAX_LAST_RUNS);
    assert_eq!(runs[0].id, format!("r{}", status::MAX_LAST_RUNS + 4));
    let stored = workspaces::get(&tx, &Target::Uid(ws.record.uid)).unwrap();
    assert!(stored.status.last_runs.is_empty(), "not in the status itself");
}

#[test]
fn a_workspace_remembers_its_newest_start_keys() {
    let conn = store();
    let ws = workspace(&conn, "a", "default");
    for i in 0..150 {
        workspaces::put_key(&conn, &ws.record.uid, &format!("k{i}"), "run", i).unwrap();
    }
    let known = |key: &str| workspaces::run_of_key(&conn, &ws.record.uid, key).unwrap().is_some();
    assert!(known("k149") && known("k50") && !known("k49"));
}
