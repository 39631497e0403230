//! Whole images, as directories: what each distribution has, and what a hostile one might.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tempfile::TempDir;

use super::authority::tests::{authority, pem_of};
use super::*;

const HOST: &str = "api.example.com";

struct Image(TempDir);

impl Image {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path.trim_start_matches('/'))
    }

    fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        let file = self.path(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
        self
    }

    fn link(self, path: &str, target: &str) -> Self {
        let link = self.path(path);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        symlink(target, link).unwrap();
        self
    }

    fn dir(self, path: &str) -> Self {
        fs::create_dir_all(self.path(path)).unwrap();
        self
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    fn apply(&self, pem: &str) -> Outcome {
        self.apply_with(pem, &Environment::default())
    }

    fn apply_with(&self, pem: &str, environment: &Environment) -> Outcome {
        apply(self.0.path(), pem, environment)
    }

    /// Without a warning.
    fn put(&self, pem: &str) -> Variables {
        let Outcome { variables, warnings } = self.apply(pem);
        assert_eq!(warnings, [""; 0]);
        variables
    }

    /// Files and links with what is in them; directories only come and stay.
    fn snapshot(&self) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        let mut all = BTreeMap::new();
        let mut directories = vec![self.0.path().to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                let found = fs::symlink_metadata(&path).unwrap();
                if found.is_dir() {
                    directories.push(path);
                } else if found.is_symlink() {
                    let target = fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes();
                    all.insert(path, (found.mode(), target));
                } else if found.is_file() {
                    let content = fs::read(&path).unwrap();
                    all.insert(path, (found.mode(), content));
                }
            }
        }
        all
    }
}

fn public() -> String {
    format!("# A public root\n{}", pem_of("public root", true))
}

fn debian() -> Image {
    let image = Image::new()
        .file("/etc/debian_version", "12.11\n")
        .dir("/usr/local/share/ca-certificates")
        .file("/usr/share/ca-certificates/mozilla/A.crt", public())
        .link("/etc/ssl/certs/A.pem", "/usr/share/ca-certificates/mozilla/A.crt")
        .link("/etc/ssl/certs/002c0b4f.0", "A.pem");
    let bundle = image.read("/usr/share/ca-certificates/mozilla/A.crt");
    image.file("/etc/ssl/certs/ca-certificates.crt", bundle)
}

fn alpine() -> Image {
    Image::new()
        .file("/etc/alpine-release", "3.22.0\n")
        .file("/etc/ssl/certs/ca-certificates.crt", public())
        .link("/etc/ssl/cert.pem", "certs/ca-certificates.crt")
        .link("/etc/ssl1.1/cert.pem", "/etc/ssl/cert.pem")
}

fn red_hat() -> Image {
    let image = Image::new()
        .dir("/etc/pki/ca-trust/source/anchors")
        .file("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", public())
        .file("/etc/pki/ca-trust/extracted/pem/directory-hash/A.pem", public())
        .link("/etc/pki/ca-trust/extracted/pem/directory-hash/002c0b4f.0", "A.pem")
        .link("/etc/pki/tls/certs/ca-bundle.crt", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem")
        .link("/etc/pki/tls/cert.pem", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem")
        .link("/etc/ssl/certs", "../pki/tls/certs");
    let bundle = image.path("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem");
    fs::set_permissions(bundle, fs::Permissions::from_mode(0o444)).unwrap();
    image
}

fn suse() -> Image {
    Image::new()
        .dir("/etc/pki/trust/anchors")
        .file("/var/lib/ca-certificates/ca-bundle.pem", public())
        .file("/var/lib/ca-certificates/pem/A.pem", public())
        .link("/var/lib/ca-certificates/pem/002c0b4f.0", "A.pem")
        .link("/etc/ssl/ca-bundle.pem", "/var/lib/ca-certificates/ca-bundle.pem")
        .link("/etc/ssl/certs", "/var/lib/ca-certificates/pem")
}

fn every_distribution() -> [(&'static str, Image, &'static str); 4] {
    [
        ("debian", debian(), "/etc/ssl/certs/ca-certificates.crt"),
        ("alpine", alpine(), "/etc/ssl/certs/ca-certificates.crt"),
        ("red hat", red_hat(), "/etc/pki/tls/certs/ca-bundle.crt"),
        ("suse", suse(), "/etc/ssl/ca-bundle.pem"),
    ]
}

/// What a program inside reads at `path`.
fn seen(image: &Image, path: &str) -> String {
    let root = Root::open(image.0.path()).unwrap();
    let (directory, name) = root.find(Path::new(path)).unwrap().unwrap();
    String::from_utf8(directory.read(&name).unwrap().unwrap()).unwrap()
}

#[test]
fn put_replaced_and_removed_in_every_distribution() {
    let (first, second) = (authority("workspace"), authority("workspace"));
    for (name, image, bundle) in every_distribution() {
        let original = image.snapshot();
        assert_eq!(image.put(""), [], "{name}");
        assert_eq!(image.snapshot(), original, "{name}: nothing was ever there");

        let variables = image.put(&first.pem);
        let text = seen(&image, bundle);
        assert!(text.contains("# A public root") && text.contains(&first.pem), "{name}: {text}");
        let of = |wanted: &str| variables.iter().find(|(key, _)| *key == wanted).unwrap().1.clone();
        assert_eq!(of("SSL_CERT_FILE"), bundle, "{name}");
        assert_eq!(of("REQUESTS_CA_BUNDLE"), bundle, "{name}");
        assert_eq!(seen(&image, &of("NODE_EXTRA_CA_CERTS")), first.pem, "{name}");
        for (path, (mode, _)) in &original {
            assert_eq!(fs::symlink_metadata(path).unwrap().mode(), *mode, "{name}: {}", path.display());
        }

        let once = image.snapshot();
        let inodes = |image: &Image| -> Vec<u64> {
            image.snapshot().keys().map(|path| fs::symlink_metadata(path).unwrap().ino()).collect()
        };
        let before = inodes(&image);
        image.put(&first.pem);
        assert_eq!(image.snapshot(), once, "{name}");
        assert_eq!(inodes(&image), before, "{name}: nothing is written if nothing changes");

        image.put(&second.pem);
        for (path, (_, content)) in image.snapshot() {
            let text = String::from_utf8(content).unwrap();
            assert!(!text.contains(&first.pem), "{name}: {}", path.display());
        }
        assert!(seen(&image, bundle).contains(&second.pem), "{name}");

        assert_eq!(image.put(""), [], "{name}");
        assert_eq!(image.snapshot(), original, "{name}: as it was");
    }
}

#[test]
fn anchors_for_the_images_own_tools() {
    let ours = authority("workspace");
    for (image, anchor) in [
        (debian(), "/usr/local/share/ca-certificates/cordium-workspace.crt"),
        (alpine(), "/usr/local/share/ca-certificates/cordium-workspace.crt"),
        (red_hat(), "/etc/pki/ca-trust/source/anchors/cordium-workspace.pem"),
        (suse(), "/etc/pki/trust/anchors/cordium-workspace.pem"),
    ] {
        image.put(&ours.pem);
        assert_eq!(image.read(anchor), ours.pem);
        assert_eq!(fs::metadata(image.path(anchor)).unwrap().mode() & 0o7777, 0o644);
    }
}

/// As Debian's tool leaves it when a person runs it in the workspace.
#[test]
fn what_update_ca_certificates_made_of_it_is_replaced() {
    let (image, first, second) = (debian(), authority("workspace"), authority("other name"));
    let original = image.snapshot();
    image.put(&first.pem);
    let bundle = image.path("/etc/ssl/certs/ca-certificates.crt");
    let public = image.read("/usr/share/ca-certificates/mozilla/A.crt");
    fs::write(&bundle, format!("{}{public}", first.pem)).unwrap();
    let pem = image.path("/etc/ssl/certs/cordium-workspace.pem");
    fs::remove_file(&pem).unwrap();
    symlink("/usr/local/share/ca-certificates/cordium-workspace.crt", &pem).unwrap();
    image.put(&second.pem);
    let text = image.read("/etc/ssl/certs/ca-certificates.crt");
    assert!(!text.contains(&first.pem) && text.contains(&second.pem));
    assert!(!fs::symlink_metadata(&pem).unwrap().is_symlink());
    image.put("");
    assert_eq!(image.snapshot(), original);
}

#[test]
fn an_image_without_a_store_gets_a_bundle_and_nothing_that_would_hide_public_roots() {
    let (image, ours) = (Image::new().file("/app", "static"), authority("workspace"));
    let original = image.snapshot();
    for _ in 0..2 {
        let variables = image.put(&ours.pem);
        assert!(image.read(DEFAULT_BUNDLE).contains(&ours.pem));
        let names: Vec<_> = variables.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["NODE_EXTRA_CA_CERTS", "DENO_CERT"]);
    }
    image.put("");
    assert_eq!(image.snapshot(), original);
}

#[test]
fn debian_without_ca_certificates_keeps_it_when_that_is_installed() {
    let image = Image::new().file("/etc/debian_version", "12\n");
    let ours = authority("workspace");
    image.put(&ours.pem);
    assert_eq!(image.read("/usr/local/share/ca-certificates/cordium-workspace.crt"), ours.pem);
}

#[test]
fn a_bundle_that_a_variable_names_has_it_too() {
    let ours = authority("workspace");
    let image = debian().file("/nix/ca.crt", public()).file("/etc/passwd", "root:x:0:0::/root:/bin/sh\n");
    let original = image.snapshot();
    let environment = Environment::default().with([
        ("SSL_CERT_FILE", "/nix/ca.crt"),
        ("PIP_CERT", "/etc/passwd"),
        ("AWS_CA_BUNDLE", "relative.pem"),
        ("CURL_CA_BUNDLE", "/none"),
    ]);
    assert_eq!(image.apply_with(&ours.pem, &environment).warnings, [""; 0]);
    assert!(image.read("/nix/ca.crt").contains(&ours.pem));
    assert!(!image.read("/etc/passwd").contains(&ours.pem), "it is no bundle");
    image.apply_with("", &environment);
    assert_eq!(image.snapshot(), original);
}

#[test]
fn what_is_no_authority_changes_nothing_and_is_told() {
    let image = debian();
    let original = image.snapshot();
    let outcome = image.apply(&pem_of("a server", false));
    assert_eq!(outcome.variables, []);
    assert!(outcome.warnings.iter().any(|w| w.contains("may not sign")), "{:?}", outcome.warnings);
    assert_eq!(image.snapshot(), original);
}

fn fifo(image: &Image, path: &str) {
    let path = image.path(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
}

/// In place of the bundle: nothing hangs, nothing outside is touched, and the rest of the image is served.
#[test]
fn hostile_images() {
    const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
    type Make = fn(&Image, &Path);
    let table: &[(&str, Make, &str)] = &[
        ("pipe", |image, _| fifo(image, BUNDLE), "not a regular file"),
        ("directory", |image, _| fs::create_dir(image.path(BUNDLE)).unwrap(), "not a regular file"),
        ("device", |image, _| symlink("/dev/zero", image.path(BUNDLE)).unwrap(), ""),
        (
            "10 GiB",
            |image, _| {
                fs::File::create(image.path(BUNDLE)).unwrap().set_len(10 << 30).unwrap();
            },
            "larger than 16 MiB",
        ),
        ("link to itself", |image, _| symlink("ca-certificates.crt", image.path(BUNDLE)).unwrap(), "links"),
        ("link outside", |image, outside| symlink(outside, image.path(BUNDLE)).unwrap(), ""),
        (
            "climbing link",
            |image, outside| {
                let up = format!("{}{}", "../".repeat(40), outside.display());
                symlink(up, image.path(BUNDLE)).unwrap();
            },
            "",
        ),
        ("descriptor of ours", |image, _| symlink("/proc/self/fd/0", image.path(BUNDLE)).unwrap(), ""),
        (
            "temporary is a directory",
            |image, _| {
                fs::write(image.path(BUNDLE), "").unwrap();
                fs::create_dir(image.path("/etc/ssl/certs/.cordium-new.ca-certificates.crt")).unwrap();
            },
            "File exists",
        ),
    ];
    let ours = authority("workspace");
    for (name, make, warned) in table {
        let outside = tempfile::tempdir().unwrap();
        let victim = outside.path().join("victim");
        fs::write(&victim, public()).unwrap();
        let before = fs::read(&victim).unwrap();
        let image = Image::new().dir("/etc/ssl/certs").file("/etc/pki/tls/certs/ca-bundle.crt", public());
        make(&image, &victim);
        let outcome = image.apply(&ours.pem);
        assert!(outcome.warnings.iter().all(|w| w.contains(warned)), "{name}: {:?}", outcome.warnings);
        assert_eq!(outcome.warnings.is_empty(), warned.is_empty(), "{name}: {:?}", outcome.warnings);
        assert_eq!(fs::read(&victim).unwrap(), before, "{name}");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1, "{name}");
        let bundle = outcome.variables.iter().find(|(key, _)| *key == "SSL_CERT_FILE").unwrap();
        assert_eq!(bundle.1, "/etc/pki/tls/certs/ca-bundle.crt", "{name}: the good one is used");
        image.apply("");
        assert_eq!(fs::read(&victim).unwrap(), before, "{name}");
    }
}

#[test]
fn a_hostile_place_of_our_own_files() {
    let ours = authority("workspace");
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    // Links and pipes are replaced, not followed.
    let image = debian().link("/var/lib/cordium/certificate-authority.pem", victim.to_str().unwrap());
    symlink(&victim, image.path("/usr/local/share/ca-certificates/cordium-workspace.crt")).unwrap();
    fifo(&image, "/etc/ssl/certs/cordium-workspace.pem");
    image.put(&ours.pem);
    assert_eq!(image.read("/usr/local/share/ca-certificates/cordium-workspace.crt"), ours.pem);
    assert_eq!(image.read("/etc/ssl/certs/cordium-workspace.pem"), ours.pem);
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
    // What cannot be replaced is told.
    let image = debian().dir("/var/lib/cordium/certificate-authority.pem/x");
    let outcome = image.apply(&ours.pem);
    assert_eq!(outcome.warnings.len(), 1, "{:?}", outcome.warnings);
    assert!(outcome.variables.iter().all(|(name, _)| *name != "NODE_EXTRA_CA_CERTS"));
    let image = Image::new().file("/etc", "a file").file("/var", "a file");
    assert!(!image.apply(&ours.pem).warnings.is_empty());
    assert!(image.apply(&ours.pem).variables.is_empty());
}

#[test]
fn another_mount_is_left_alone() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root to mount");
        return;
    }
    // In a thread of its own, whose mounts are its own.
    std::thread::spawn(|| {
        use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        mount_change("/", private).unwrap();
        let (image, ours) = (debian(), authority("workspace"));
        let certs = image.path("/etc/ssl/certs");
        mount("tmpfs", &certs, "tmpfs", MountFlags::empty(), c"").unwrap();
        let shared = certs.join("ca-certificates.crt");
        fs::write(&shared, "of others").unwrap();
        let outcome = image.apply(&ours.pem);
        assert_eq!(fs::read(&shared).unwrap(), b"of others");
        assert!(outcome.warnings.iter().all(|w| w.contains("mount of its own")), "{:?}", outcome.warnings);
        assert!(!outcome.warnings.is_empty());
        unmount(&certs, UnmountFlags::empty()).unwrap();
    })
    .join()
    .unwrap();
}

/// A certificate of `HOST` that `name` signed, and its authority.
fn signed(name: &str) -> (String, String) {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let leaf = CertificateParams::new(vec![HOST.to_owned()]).unwrap();
    (leaf.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().pem(), authority)
}

#[test]
fn openssl_verifies_by_the_bundle_and_by_the_link() {
    let image = debian();
    let (server, ours) = signed("cordium workspace demo");
    let (other_server, other) = signed("public two");
    let bundle = image.read(DEFAULT_BUNDLE) + &other;
    let image =
        image.file(DEFAULT_BUNDLE, bundle).file("/server.pem", server).file("/other.pem", other_server);
    let verify = |file: &str, arguments: &[&str]| {
        let output = Command::new("openssl")
            .args(["verify", "-no-CAstore", "-verify_hostname", HOST])
            .args(arguments)
            .arg(image.path(file))
            .output()
            .unwrap();
        output.status.success()
    };
    let (file, directory) = (image.path(DEFAULT_BUNDLE), image.path("/etc/ssl/certs"));
    let by_file = ["-no-CApath", "-CAfile", file.to_str().unwrap()];
    let by_link = ["-no-CAfile", "-CApath", directory.to_str().unwrap()];
    assert!(!verify("/server.pem", &by_file) && !verify("/server.pem", &by_link));
    image.put(&ours);
    assert!(verify("/server.pem", &by_file) && verify("/server.pem", &by_link));
    assert!(verify("/other.pem", &by_file), "public ones still verify");
    let (later, next) = signed("cordium workspace demo");
    let image_path = image.path("/later.pem");
    fs::write(image_path, later).unwrap();
    image.put(&next);
    assert!(!verify("/server.pem", &by_file) && !verify("/server.pem", &by_link), "the former is gone");
    assert!(verify("/later.pem", &by_file) && verify("/later.pem", &by_link));
    image.put("");
    assert!(!verify("/later.pem", &by_file) && !verify("/later.pem", &by_link));
}
