//! The seeds of the fuzz targets, and what they found, with bytes changed and left out in their turn: a second of what `fuzz/run` does for
//! hours, with every change of the code.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, fs, path::PathBuf};

use cordium_parsers::ALL;

/// Of one seed: bytes that are changed.
const MOST: usize = 64;

fn seeds() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds")
}

fn holds_for(name: &str) {
    let (_, check) = ALL.into_iter().find(|(known, _)| *known == name).unwrap();
    let mut files: Vec<PathBuf> =
        fs::read_dir(seeds().join(name)).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{name} has no seeds");
    for file in files {
        let seed = fs::read(&file).unwrap();
        println!("{}", file.display());
        check(&seed);
        for at in (0..seed.len()).step_by(1 + seed.len() / MOST) {
            check(&seed[..at]);
            for new in [0, b'\n', 0xff, seed[at] ^ 1, seed[at] ^ 0x20] {
                let mut changed = seed.clone();
                changed[at] = new;
                check(&changed);
            }
            check(&[&seed[..at], &seed].concat());
        }
    }
}

#[test]
fn conditions() {
    holds_for("condition");
}

#[test]
fn dns() {
    holds_for("dns");
}

#[test]
fn documents() {
    holds_for("document");
}

#[test]
fn http() {
    holds_for("http");
}

#[test]
fn policies() {
    holds_for("policy");
}

#[test]
fn tls() {
    holds_for("tls");
}

#[test]
fn every_check_has_seeds_and_a_target() {
    let all: BTreeSet<String> = ALL.iter().map(|(name, _)| (*name).to_owned()).collect();
    let listed = |dir: PathBuf| -> BTreeSet<String> {
        let names = fs::read_dir(dir).unwrap().map(|file| file.unwrap().path());
        names.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    assert_eq!(listed(seeds()), all);
    assert_eq!(listed(seeds().join("../targets")), all);
}
