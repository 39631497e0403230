//! `cordium policy`.

use std::fs;

use cordium_proto::v1::WorkspaceState;

use crate::fake::{act, good, stage};

const POLICY: &str =
    "defaultAction: DENY\nrules: [{name: a, action: ALLOW, hosts: ['*.a.example'], ports: [443]}]\n";

#[tokio::test]
async fn a_policy_is_tested_without_a_supervisor() {
    let dir = tempfile::tempdir().unwrap();
    let cordium = crate::fake::Cordium { dir: dir.path().to_owned() };
    let file = dir.path().join("policy.yaml");
    fs::write(&file, POLICY).unwrap();
    let file = file.to_str().unwrap();
    let o = cordium.run(&["policy", "test", "-f", file, "x.a.example:443"]).await;
    assert_eq!(o.code, 0, "{}", o.err);
    assert!(o.out.contains("x.a.example:443  allow    a     -"), "{}", o.out);
    let o =
        cordium.run(&["policy", "test", "-f", file, "-o", "json", "x.a.example:443", "a.example:443"]).await;
    assert_eq!(o.code, 1, "one is denied");
    let answers: serde_json::Value = serde_json::from_str(&o.out).unwrap();
    assert_eq!((&answers[0]["allowed"], &answers[0]["rule"]), (&true.into(), &"a".into()));
    assert_eq!((&answers[1]["allowed"], &answers[1]["rule"]), (&false.into(), &"default".into()));
    assert!(answers[1]["next"].as_str().unwrap().contains("ALLOW rule"));
    let o = cordium.run(&["policy", "test", "-f", file, "-o", "json", "--udp", "x.a.example:443"]).await;
    assert_eq!(o.code, 1, "the rule is for TCP");
    let answers: serde_json::Value = serde_json::from_str(&o.out).unwrap();
    assert_eq!((&answers[0]["protocol"], &answers[0]["rule"]), (&"udp".into(), &"default".into()));
    assert!(answers[0]["next"].as_str().unwrap().contains("protocols: [UDP]"));
    fs::write(dir.path().join("bad.yaml"), "rules: [{action: ALLOW, hosts: ['*']}]").unwrap();
    let bad = dir.path().join("bad.yaml");
    let o = cordium.run(&["policy", "test", "-f", bad.to_str().unwrap(), "a.example:443"]).await;
    assert_eq!(o.code, 2);
    assert!(o.err.contains("rules[0].hosts[0]: was \"*\""), "{}", o.err);
}

#[tokio::test]
async fn a_policy_is_set_and_read_back() {
    let (dir, fake, cordium) = stage().await;
    let file = dir.path().join("policy.yaml");
    fs::write(&file, POLICY).unwrap();
    let file = file.to_str().unwrap();
    assert_eq!(cordium.run(&["policy", "set", "dev", "-f", file]).await.code, 1, "there is none yet");
    assert_eq!(cordium.run(&["create", "ws", "dev"]).await.code, 0);
    let o = cordium.run(&["policy", "set", "dev", "-f", file]).await;
    assert_eq!(o.code, 0, "{}", o.err);
    assert!(o.err.contains("from its next start"), "{}", o.err);
    let read = cordium.run(&["policy", "get", "dev"]).await;
    let again = dir.path().join("again.yaml");
    fs::write(&again, &read.out).unwrap();
    let again = again.to_str().unwrap();
    fake.script(good());
    fake.move_to("uid-dev", &act(WorkspaceState::Running));
    let o = cordium.run(&["policy", "set", "dev", "-f", again]).await;
    assert!(o.code == 0 && o.err.contains("is in force\n"), "{}", o.err);
    assert_eq!(cordium.run(&["policy", "get", "dev"]).await.out, read.out);
    assert!(cordium.run(&["policy", "get", "dev", "--merged"]).await.out.contains("DENY"));
    let o = cordium.run(&["policy", "get", "dev", "--run"]).await;
    assert!(o.code == 1 && o.err.contains("does not run"), "{}", o.err);
}
