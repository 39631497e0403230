//! Where distributions keep what they trust. Paths may be links to one another: each file is changed once.

use std::path::{Path, PathBuf};

use super::disk::Root;
use super::variables;
use crate::environment::Environment;
use crate::state_dir;

/// The certificate that was put into the stores, so that it can be found again there; and for programs that add a file's
/// certificates to their own.
pub const RECORD: &str = "certificate-authority.pem";
pub const RECORD_DIR: &str = state_dir::PATH;

/// The first that is there is also what variables point to.
pub const BUNDLES: [&str; 10] = [
    // Debian, Ubuntu, Alpine, Arch, distroless.
    DEFAULT_BUNDLE,
    // Red Hat.
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/cert.pem",
    // SUSE.
    "/etc/ssl/ca-bundle.pem",
    "/var/lib/ca-certificates/ca-bundle.pem",
    // NixOS.
    "/etc/ssl/certs/ca-bundle.crt",
    // Alpine, and OpenSSL as it comes.
    "/etc/ssl/cert.pem",
    "/usr/local/ssl/cert.pem",
    "/etc/ca-certificates/extracted/tls-ca-bundle.pem",
];

/// Made where there is none: Go, rustls and others look here without being told to.
pub const DEFAULT_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

pub const HASHED: [&str; 5] = [
    "/etc/ssl/certs",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted/pem/directory-hash",
    "/var/lib/ca-certificates/openssl",
    "/usr/local/ssl/certs",
];

/// What the image's own `update-ca-certificates` and the like make the stores from.
pub struct Anchors {
    pub directory: &'static str,
    pub file: &'static str,
    /// An image with one of these gets the directory, because the tool may be installed later.
    pub made_for: &'static [&'static str],
}

pub const ANCHORS: [Anchors; 4] = [
    Anchors {
        directory: "/usr/local/share/ca-certificates",
        file: "cordium-workspace.crt",
        made_for: &["/etc/debian_version", "/etc/alpine-release"],
    },
    Anchors { directory: "/etc/pki/ca-trust/source/anchors", file: "cordium-workspace.pem", made_for: &[] },
    Anchors { directory: "/etc/pki/trust/anchors", file: "cordium-workspace.pem", made_for: &[] },
    Anchors {
        directory: "/etc/ca-certificates/trust-source/anchors",
        file: "cordium-workspace.crt",
        made_for: &[],
    },
];

const JAVA: [&str; 3] = [
    "/etc/ssl/certs/java/cacerts",
    "/etc/pki/ca-trust/extracted/java/cacerts",
    "/opt/java/openjdk/lib/security/cacerts",
];
const JAVA_PARENTS: [&str; 4] = ["/usr/lib/jvm", "/usr/java", "/usr/local", "/opt"];
const IN_JAVA_HOME: [&str; 2] = ["lib/security/cacerts", "jre/lib/security/cacerts"];
/// Of one parent directory.
const MAX_JAVA_HOMES: usize = 32;

/// Those of the usual places that are there, and `JAVA_HOME`'s.
pub fn java(root: &Root, environment: &Environment) -> Vec<PathBuf> {
    let mut stores: Vec<PathBuf> = JAVA.map(PathBuf::from).to_vec();
    let mut homes: Vec<PathBuf> = environment.get("JAVA_HOME").map(PathBuf::from).into_iter().collect();
    for parent in JAVA_PARENTS.map(Path::new) {
        let found = root.directory(parent).ok().flatten().and_then(|directory| directory.names().ok());
        let mut names: Vec<_> = found.into_iter().flatten().filter(|name| is_java(parent, name)).collect();
        names.sort();
        homes.extend(names.into_iter().take(MAX_JAVA_HOMES).map(|name| parent.join(name)));
    }
    for home in homes.iter().filter(|home| home.is_absolute()) {
        stores.extend(IN_JAVA_HOME.map(|store| home.join(store)));
    }
    stores
}

fn is_java(parent: &Path, name: &str) -> bool {
    let named = ["jdk", "jre", "java", "openjdk", "graalvm"].iter().any(|java| name.contains(java));
    !name.starts_with('.') && (named || parent.ends_with("jvm"))
}

/// Bundles that the image or the spec names in a variable, which stays as it is.
pub fn named_bundles(environment: &Environment) -> Vec<PathBuf> {
    let named = variables::NAMING_BUNDLES.iter().filter_map(|name| environment.get(name));
    let mut paths: Vec<_> = named.map(PathBuf::from).filter(|path| path.is_absolute()).collect();
    paths.sort();
    paths.dedup();
    paths
}
