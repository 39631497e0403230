//! What tells programs with certificates of their own about the image's. Only variables that take the place of a default; not
//! those that beat what a person has configured (`GIT_SSL_CAINFO`, `PIP_CERT`, `CARGO_HTTP_CAINFO`, `AWS_CA_BUNDLE`), of
//! programs that ask the image's store or one of these anyway.

/// The bundle instead of what is compiled in or shipped with a library: httpx, uv, OpenSSL and its users from elsewhere; requests,
/// pip, botocore; gRPC.
const INSTEAD: [&str; 3] = ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"];
/// One more certificate beside those that are compiled in.
const BESIDE: [&str; 2] = ["NODE_EXTRA_CA_CERTS", "DENO_CERT"];

/// All that may name a bundle in the image or the spec.
pub const NAMING_BUNDLES: [&str; 11] = [
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "NODE_EXTRA_CA_CERTS",
    "DENO_CERT",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "PIP_CERT",
    "CARGO_HTTP_CAINFO",
    "AWS_CA_BUNDLE",
    "NIX_SSL_CERT_FILE",
];

pub type Variables = Vec<(&'static str, String)>;

/// `bundle` has public authorities and ours, `alone` ours only.
pub fn of(bundle: Option<&str>, alone: Option<&str>) -> Variables {
    let instead = bundle.into_iter().flat_map(|path| INSTEAD.map(|name| (name, path.to_owned())));
    let beside = alone.into_iter().flat_map(|path| BESIDE.map(|name| (name, path.to_owned())));
    instead.chain(beside).collect()
}
