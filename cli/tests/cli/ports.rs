use cordium_proto::v1::{ListeningPort, ListeningPorts};
use prost_types::Timestamp;
use serde_json::{Value, json};

use crate::fake::stage;

fn list(ports: &[u32]) -> ListeningPorts {
    let port = |port: &u32| ListeningPort {
        port: *port,
        protocol: "tcp".into(),
        address: "127.0.0.1".into(),
        program: "node".into(),
        pid: 12,
        since: Some(Timestamp { seconds: 1, nanos: 0 }),
        application: "web".into(),
    };
    ListeningPorts { items: ports.iter().map(port).collect(), left_out: 0 }
}

#[tokio::test]
async fn ports_are_a_table_or_an_object_once() {
    let (_dir, fake, cordium) = stage().await;
    *fake.0.ports.lock().unwrap() = vec![list(&[80, 3000])];
    let o = cordium.run(&["ports", "dev"]).await;
    assert_eq!(o.code, 0, "{}", o.err);
    let rows: Vec<Vec<&str>> = o.out.lines().map(|line| line.split_whitespace().take(6).collect()).collect();
    assert_eq!(rows[2], ["3000", "tcp", "127.0.0.1", "web", "node", "12"]);
    let o = cordium.run(&["ports", "dev", "-o", "json"]).await;
    let object: Value = serde_json::from_str(&o.out).unwrap();
    assert_eq!((&object["ports"][1]["port"], &object["leftOut"]), (&json!(3000), &json!(0)));
    *fake.0.ports.lock().unwrap() = vec![ListeningPorts { left_out: 7, ..list(&[80]) }];
    let o = cordium.run(&["ports", "dev"]).await;
    assert!(o.err.contains("7 more listen"), "{}", o.err);
}

#[tokio::test]
async fn changes_are_told_one_by_one_and_none_twice_after_a_break() {
    let (_dir, fake, cordium) = stage().await;
    let lists = || vec![list(&[]), list(&[80]), list(&[80, 81]), list(&[81])];
    *fake.0.ports.lock().unwrap() = lists();
    let o = cordium.run(&["ports", "dev", "-f"]).await;
    let lines = "open 127.0.0.1:80/tcp web (node, pid 12)\nopen 127.0.0.1:81/tcp web (node, pid 12)\n\
                 closed 127.0.0.1:80/tcp web (node, pid 12)\n";
    assert_eq!((o.code, o.out.as_str()), (0, lines), "{}", o.err);
    *fake.0.ports.lock().unwrap() = lists();
    let o = cordium.run(&["ports", "dev", "-f", "-o", "json"]).await;
    let events: Vec<Value> = o.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> =
        events.iter().map(|e| (e["event"].as_str().unwrap(), e["port"].as_u64().unwrap())).collect();
    assert_eq!(told, [("open", 80), ("open", 81), ("closed", 80)]);
}
