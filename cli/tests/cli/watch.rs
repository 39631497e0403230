use cordium_proto::v1::WorkspaceState;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::fake::{act, stage};

#[tokio::test]
async fn one_object_on_each_line_and_resumes_after_a_break() {
    let (_dir, fake, cordium) = stage().await;
    cordium.run(&["create", "ws", "dev"]).await;
    fake.move_to("uid-dev", &act(WorkspaceState::Initializing));
    *fake.0.break_watch_after.lock().unwrap() = Some(1);
    let mut child = cordium.command(&["watch", "dev", "-o", "json"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
    assert_eq!((&first["revision"], &first["state"]), (&1.into(), &"INITIALIZING".into()));
    // The stream has ended: this one is told by the next.
    fake.move_to("uid-dev", &act(WorkspaceState::Running));
    let second: Value = serde_json::from_str(&lines.next_line().await.unwrap().unwrap()).unwrap();
    assert_eq!((&second["revision"], &second["state"]), (&2.into(), &"RUNNING".into()));
    assert_eq!(second["workspace"]["name"], "dev");
    fake.seen(|s| assert_eq!(s.watched_after, [0, 1]));
    child.kill().await.unwrap();
}
