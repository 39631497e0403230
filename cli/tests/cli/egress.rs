use cordium_proto::v1::Denial;
use prost_types::Timestamp;

use crate::fake::stage;

fn denial(number: u64, address: &str) -> Denial {
    Denial {
        number,
        at: Some(Timestamp { seconds: 0, nanos: 0 }),
        names: vec!["a.example".into()],
        address: address.into(),
        port: 443,
        protocol: "tcp".into(),
        rule: "default".into(),
        reason: "because".into(),
        next: "do this".into(),
        ..Denial::default()
    }
}

#[tokio::test]
async fn denials_are_lines_or_objects_and_a_broken_watch_goes_on_after_the_last() {
    let (_dir, fake, cordium) = stage().await;
    *fake.0.denials.lock().unwrap() = vec![denial(3, "192.0.2.1"), denial(9, "2001:db8::1")];
    let lines = "1970-01-01T00:00:00.000Z tcp a.example (192.0.2.1:443) denied by default: because; do this\n\
                 1970-01-01T00:00:00.000Z tcp a.example ([2001:db8::1]:443) denied by default: because; do this\n";
    let o = cordium.run(&["egress", "log", "dev"]).await;
    assert_eq!((o.code, o.out.as_str(), o.err.as_str()), (0, lines, ""));
    let o = cordium.run(&["egress", "log", "dev", "-f"]).await;
    assert_eq!((o.code, o.out.as_str()), (0, lines), "none twice, none missing");
    let o = cordium.run(&["egress", "log", "dev", "--after", "3", "-o", "json"]).await;
    let object: serde_json::Value = serde_json::from_str(&o.out).unwrap();
    assert_eq!((&object["number"], &object["address"]), (&9.into(), &"2001:db8::1".into()));
}
