//! Programs that nobody prepared trust what the broker signs: the certificate authority of a run is in the image's stores.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use cordium_proto::v1::{EnvVar, PrepareRequest};
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair};

use crate::harness::{Image, Sandbox, is_root, request};

const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";
const RECORD: &str = "/var/lib/cordium/certificate-authority.pem";

/// As the broker makes them.
fn authority() -> (String, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "cordium workspace demo");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), Issuer::new(params, key))
}

/// Answers any GET of HTTPS on loopback, until it is dropped.
struct Server(Child, u16);

impl Server {
    fn start(dir: &Path, issuer: &Issuer<'static, KeyPair>) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        std::fs::write(dir.join("cert.pem"), params.signed_by(&key, issuer).unwrap().pem()).unwrap();
        std::fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
        let mut child = Command::new("openssl")
            .args(["s_server", "-www", "-accept", "127.0.0.1:0", "-cert", "cert.pem", "-key", "key.pem"])
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let accepting = lines.map_while(Result::ok).find(|line| line.starts_with("ACCEPT")).unwrap();
        let port = accepting.rsplit(':').next().unwrap().trim().parse().unwrap();
        Self(child, port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const JAVA: &str = r#"cat > /tmp/T.java <<'END'
class T { public static void main(String[] a) throws Exception { new java.net.URL(a[0]).openStream().read(); } }
END
java /tmp/T.java"#;

/// What a program is called, and how it fetches from an address that follows.
const PROGRAMS: [(&str, &str); 8] = [
    ("curl", "curl -sS -o /dev/null"),
    ("wget", "wget -q --tries=1 -O /dev/null"),
    ("python3", "python3 -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1])'"),
    (
        "node",
        r#"node -e 'require("https").get(process.argv[1], r => process.exit(0)).on("error", e => { console.error(e); process.exit(1) })'"#,
    ),
    // There is no repository: it must get as far as to say that.
    ("git", "g() { git ls-remote $1 2>&1 | tee /dev/stderr | grep -q 'not valid\\|not found'; }; g"),
    (
        "openssl",
        "o() { h=${1#https://}; openssl s_client -verify_return_error -verify_hostname localhost -connect ${h%/} </dev/null; }; o",
    ),
    (
        "perl",
        "perl -MIO::Socket::SSL -e '$ARGV[0] =~ m,//(.*)/,; IO::Socket::SSL->new(PeerAddr => $1, SSL_verify_mode => 1) or die $SSL_ERROR'",
    ),
    ("javac", JAVA),
];

#[tokio::test(flavor = "multi_thread")]
async fn programs_of_this_machine_trust_it() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (pem, issuer) = authority();
    let server = Server::start(dir.path(), &issuer);
    let address = format!("https://localhost:{}/", server.1);
    let mut tried = Vec::new();
    for (trusted, pem) in [(false, String::new()), (true, pem)] {
        let sandbox = Sandbox::new(Image::Host).await;
        sandbox.prepare(PrepareRequest { trust_anchor_pem: pem, ..request() }).await;
        let warnings = sandbox.warnings().await;
        assert!(!warnings.iter().any(|w| w.contains("authority")), "{warnings:?}");
        for (program, fetch) in PROGRAMS {
            let there = match program {
                "perl" => "perl -MIO::Socket::SSL -e 1".to_owned(),
                _ => format!("command -v {program}"),
            };
            if sandbox.root_sh(&there).await.code != 0 {
                continue;
            }
            // By the image's stores alone, where the program asks them.
            let done = sandbox.root_sh(&format!("unset SSL_CERT_FILE; {fetch} {address}")).await;
            let said = String::from_utf8_lossy(&done.stderr);
            assert_eq!(done.code == 0, trusted, "{program}, trusted: {trusted}: {said}");
            tried.push(program);
        }
        let update = "command -v update-ca-certificates || exit 0; update-ca-certificates --fresh";
        let updated = sandbox.root_sh(update).await;
        assert_eq!(updated.code, 0, "{}", String::from_utf8_lossy(&updated.stderr));
        let (_, fetch) = PROGRAMS.into_iter().find(|(program, _)| *program == "openssl").unwrap();
        let done = sandbox.root_sh(&format!("unset SSL_CERT_FILE; {fetch} {address}")).await;
        assert_eq!(done.code == 0, trusted, "after the image's own tool: {}", updated.out());
    }
    assert!(tried.contains(&"openssl"), "{tried:?}");
    eprintln!("tried, each without and with it: {tried:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_there_for_one_run_and_variables_of_the_spec_stay() {
    if !is_root() {
        return;
    }
    let (first, (second, _)) = (authority().0, authority());
    let sandbox = Sandbox::new(Image::Busybox).await;
    let root = sandbox.root.clone();
    let bundle = root.join(BUNDLE);
    std::fs::create_dir_all(bundle.parent().unwrap()).unwrap();
    let public = format!("# A public root\n{}", authority().0);
    std::fs::write(&bundle, &public).unwrap();
    let set = EnvVar { key: "SSL_CERT_FILE".into(), value: "/mine.pem".into() };
    let with = |pem: &str| PrepareRequest {
        trust_anchor_pem: pem.to_owned(),
        env: vec![set.clone()],
        read_only_root: true,
        ..request()
    };
    sandbox.prepare(with(&first)).await;
    assert_eq!(sandbox.warnings().await, [""; 0]);
    let said = sandbox
        .sh("echo $SSL_CERT_FILE $REQUESTS_CA_BUNDLE $NODE_EXTRA_CA_CERTS; cat $NODE_EXTRA_CA_CERTS")
        .await;
    assert_eq!(said.out(), format!("/mine.pem /{BUNDLE} {RECORD}\n{}", first.trim_end()));
    assert!(std::fs::read_to_string(&bundle).unwrap().contains(&first));

    let sandbox = sandbox.again().await;
    sandbox.prepare(with(&second)).await;
    assert_eq!(sandbox.warnings().await, [""; 0]);
    let text = std::fs::read_to_string(&bundle).unwrap();
    assert!(text.contains(&second) && !text.contains(&first), "{text}");

    let sandbox = sandbox.again().await;
    sandbox.prepare(with("")).await;
    assert_eq!(sandbox.warnings().await, [""; 0]);
    assert_eq!(std::fs::read_to_string(&bundle).unwrap(), public);
    let said = sandbox.sh(&format!("env | grep -c CA_; ls {RECORD}")).await;
    assert_eq!(said.out(), "0");
}

/// As root of a user namespace, whose files of /proc belong to somebody else while it is undumpable.
#[tokio::test(flavor = "multi_thread")]
async fn in_a_user_namespace_and_in_an_image_without_a_store() {
    if !is_root() {
        return;
    }
    for image in [Image::UserNamespace, Image::Scratch] {
        let sandbox = Sandbox::new(image).await;
        let pem = authority().0;
        sandbox.prepare(PrepareRequest { trust_anchor_pem: pem.clone(), ..request() }).await;
        let warnings = sandbox.warnings().await;
        assert!(!warnings.iter().any(|w| w.contains("authority")), "{warnings:?}");
        assert!(std::fs::read_to_string(sandbox.root.join(BUNDLE)).unwrap().contains(&pem));
    }
}
