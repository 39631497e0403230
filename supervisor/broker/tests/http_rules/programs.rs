//! Real programs: curl, Python, Node.

use std::process::Command;

use super::{Ruled, reading, uris};
use crate::support::{isolated, run};
use cordium_broker::GATEWAY_V4;

/// Name servers of programs, for this test alone: it has mounts of its own.
fn ask_the_gateway(ruled: &Ruled) {
    let file = ruled.world.socket().with_file_name("resolv.conf");
    std::fs::write(&file, format!("nameserver {GATEWAY_V4}\n")).unwrap();
    run("mount", &["--bind", file.to_str().unwrap(), "/etc/resolv.conf"]);
}

fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

#[test]
fn curl_python_and_node_are_answered_as_they_expect() {
    isolated("http_rules::programs::curl_python_and_node_are_answered_as_they_expect", || {
        let ruled = Ruled::new(reading(), vec![]);
        ask_the_gateway(&ruled);
        let trusted = ruled.world.socket().with_file_name("authority.pem");
        std::fs::write(&trusted, ruled.authority()).unwrap();
        let trusted = trusted.to_str().unwrap().to_owned();
        let server = ruled.server.clone();
        ruled.world.sandbox.run(move || {
            let output = |program: &str, args: &[&str]| {
                let output = Command::new(program).args(args).env("NODE_EXTRA_CA_CERTS", &trusted).output().unwrap();
                let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
                assert!(output.status.success(), "{program} {args:?}: {out}{err}");
                out.into_owned()
            };
            let codes = |args: &[&str]| {
                let fixed = ["-sS", "--max-time", "20", "--cacert", &trusted, "-w", "%{http_code}\\n", "-o", "/dev/null"];
                output("curl", &[&fixed[..], args].concat())
            };
            for scheme in ["http", "https"] {
                let url = |path: &str| format!("{scheme}://one.example{path}");
                // One connection for all.
                let (good, bad) = (url("/acme/x"), url("/else"));
                let again = ["-o", "/dev/null", bad.as_str(), "-o", "/dev/null", good.as_str()];
                assert_eq!(codes(&[&[good.as_str()][..], &again].concat()), "200\n403\n200\n", "{scheme}");
                assert_eq!(codes(&["-X", "DELETE", &good]), "403\n");
                assert_eq!(codes(&["--path-as-is", &url("/acme/../else")]), "403\n");
                assert_eq!(uris(&server).len(), 2);
            }
            assert_eq!(codes(&["--http1.1", "https://one.example/acme"]), "200\n");
            uris(&server);
            if has("python3") {
                let script = "import json, ssl, sys, urllib.error, urllib.request\n\
                    context = ssl.create_default_context(cafile=sys.argv[1])\n\
                    for scheme in ['http', 'https']:\n \
                        print(urllib.request.urlopen(scheme + '://one.example/acme', context=context).status)\n \
                        try: urllib.request.urlopen(scheme + '://one.example/acme', data=b'x', context=context)\n \
                        except urllib.error.HTTPError as error: print(error.code, json.load(error)['method'])\n";
                assert_eq!(output("python3", &["-c", script, &trusted]), "200\n403 POST\n200\n403 POST\n");
                assert_eq!(uris(&server).len(), 2);
            }
            if has("node") {
                let script = "const ask = (module, path) => new Promise((done, failed) => require(module)\
                    .get(module + '://one.example' + path, { agent: false }, answer => { answer.resume(); done(answer.statusCode); })\
                    .on('error', failed));\
                    (async () => { for (const module of ['http', 'https']) console.log(await ask(module, '/acme'), await ask(module, '/x')); })()";
                assert_eq!(output("node", &["-e", script]), "200 403\n200 403\n");
            }
        });
    });
}
