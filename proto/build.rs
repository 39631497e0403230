//! Compiles the .proto files with a compiler written in Rust, so that no `protoc` need be installed.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 7] = [
    "cordium/v1/types.proto",
    "cordium/v1/session.proto",
    "cordium/v1/agent.proto",
    "cordium/v1/node.proto",
    "cordium/v1/control.proto",
    "cordium/v1/audit.proto",
    "cordium/v1/entry.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".cordium.v1").compile_fds(descriptors)?;
    Ok(())
}
