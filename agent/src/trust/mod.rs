//! The certificate authority that signs for hosts with bound credentials, in the trust stores of the image.
//!
//! ```text
//! stores   which there are: bundles, directories of links, anchors, Java's     bundle, hashed, java   what one looks like with it
//! disk     finds, reads and replaces files of a hostile image                 variables              who must be told
//! ```
//!
//! It is another in each run, and the root file system may be the last run's: what was put there is replaced, or removed if
//! there is no authority now. No program of the image is run. A store that cannot be changed is a warning.

mod authority;
mod bundle;
mod der;
mod disk;
mod hashed;
mod java;
mod stores;
mod subject_hash;
#[cfg(test)]
mod tests;
mod variables;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use self::authority::Authority;
use self::disk::{Directory, DiskError, Root};
use self::java::StoreError;
use self::stores::{ANCHORS, Anchors, BUNDLES, DEFAULT_BUNDLE, HASHED, RECORD, RECORD_DIR};
pub use self::variables::Variables;
use crate::environment::Environment;

#[derive(Debug, thiserror::Error)]
enum TrustError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Java(#[from] StoreError),
}

#[derive(Debug, Default)]
pub struct Outcome {
    /// For every process, below what the image and the spec say.
    pub variables: Variables,
    pub warnings: Vec<String>,
}

/// Puts `pem` into the stores below `root`, or takes out what an earlier run put there if it is empty. `environment` is what the
/// image and the spec set.
pub fn apply(root: &Path, pem: &str, environment: &Environment) -> Outcome {
    let mut warnings = Vec::new();
    let new = Some(pem).filter(|pem| !pem.is_empty()).and_then(|pem| match Authority::parse(pem) {
        Ok(authority) => Some(authority),
        Err(error) => {
            warnings.push(format!("no program here trusts the broker for hosts with bound credentials: of the certificate authority that signs for them, {error}"));
            None
        }
    });
    let root = match Root::open(root) {
        Ok(root) => root,
        Err(error) => {
            warnings.push(format!("the trust stores were not changed: opening the root: {error}"));
            return Outcome { variables: Variables::new(), warnings };
        }
    };
    let mut change = Change { root, former: None, new, changed: BTreeSet::new(), warnings };
    let variables = change.run(environment);
    Outcome { variables, warnings: change.warnings }
}

struct Change {
    root: Root,
    former: Option<Authority>,
    new: Option<Authority>,
    /// Each by its real path, once.
    changed: BTreeSet<PathBuf>,
    warnings: Vec<String>,
}

impl Change {
    fn run(&mut self, environment: &Environment) -> Variables {
        let record = Path::new(RECORD_DIR).join(RECORD);
        let recorded = match self.read_record() {
            Ok(recorded) => recorded,
            // Not what was put there: it is replaced, or removed.
            Err(_) => Some(Vec::new()),
        };
        if recorded.is_none() && self.new.is_none() {
            return Variables::new();
        }
        // The first record comes before what it tells of, a later one after the former is gone.
        let first = recorded.is_none().then(|| self.write_record(&record));
        self.former = recorded.and_then(|text| Authority::parse(&String::from_utf8(text).ok()?).ok());

        for anchors in &ANCHORS {
            let result = self.anchor(anchors);
            self.note(&Path::new(anchors.directory).join(anchors.file), result);
        }
        let bundle = self.bundles();
        for path in stores::named_bundles(environment) {
            let result = self.bundle(&path, true);
            self.note(&path, result);
        }
        for path in HASHED.map(Path::new) {
            let result = self.hashed(path);
            self.note(path, result);
        }
        for path in stores::java(&self.root, environment) {
            let result = self.java(&path);
            self.note(&path, result);
        }
        let alone = first.unwrap_or_else(|| self.write_record(&record));
        if self.new.is_none() {
            return Variables::new();
        }
        variables::of(bundle, record.to_str().filter(|_| alone))
    }

    fn note<T>(&mut self, path: &Path, result: Result<T, TrustError>) -> Option<T> {
        let doing = if self.new.is_some() { "putting" } else { "removing" };
        let told = |error| {
            self.warnings.push(format!(
                "{doing} the certificate authority of bound hosts: {}: {error}",
                path.display()
            ));
        };
        result.map_err(told).ok()
    }

    /// Of a run that put something there; it need not be well-formed.
    fn read_record(&self) -> Result<Option<Vec<u8>>, DiskError> {
        let directory = self.root.directory(Path::new(RECORD_DIR))?;
        directory.map_or(Ok(None), |directory| directory.read(RECORD.as_ref()))
    }

    /// True if it is there now.
    fn write_record(&mut self, path: &Path) -> bool {
        let written = match &self.new {
            Some(new) => self
                .root
                .make_directory(Path::new(RECORD_DIR))
                .and_then(|directory| put(&directory, RECORD.as_ref(), new.pem.as_bytes())),
            None => self.root.directory(Path::new(RECORD_DIR)).and_then(|found| remove(found, RECORD)),
        };
        self.note(path, written.map_err(TrustError::from)).is_some()
    }

    fn anchor(&self, anchors: &Anchors) -> Result<(), TrustError> {
        let path = Path::new(anchors.directory);
        let mut directory = self.root.directory(path)?;
        let Some(new) = &self.new else { return Ok(remove(directory, anchors.file)?) };
        if directory.is_none() && anchors.made_for.iter().any(|mark| self.root.exists(mark)) {
            directory = Some(self.root.make_directory(path)?);
        }
        directory.map_or(Ok(()), |directory| Ok(put(&directory, anchors.file.as_ref(), new.pem.as_bytes())?))
    }

    /// The one that variables may point to: with public authorities in it, and ours.
    fn bundles(&mut self) -> Option<&'static str> {
        let mut good = None;
        let mut any = false;
        for path in BUNDLES {
            let result = self.bundle(Path::new(path), false);
            any |= !matches!(result, Ok(Found::Missing));
            if let Some(Found::WithPublic) = self.note(Path::new(path), result) {
                good = good.or(Some(path));
            }
        }
        if let (false, Some(new)) = (any, &self.new) {
            let content = bundle::with(Vec::new(), new);
            let path = Path::new(DEFAULT_BUNDLE);
            let made = self.make_bundle(path, &content);
            self.note(path, made.map_err(TrustError::from));
        }
        good
    }

    fn make_bundle(&self, path: &Path, content: &[u8]) -> Result<(), DiskError> {
        let directory = self.root.make_directory(path.parent().unwrap_or(Path::new("/")))?;
        directory.replace(path.file_name().unwrap_or_default(), content)
    }

    /// `named`: only if it looks like one.
    fn bundle(&mut self, path: &Path, named: bool) -> Result<Found, TrustError> {
        let Some((directory, name)) = self.root.find(path)? else { return Ok(Found::Missing) };
        let real = directory.join(&name);
        // The record is what a variable of an earlier run may have been copied from.
        if real == Path::new(RECORD_DIR).join(RECORD) || !self.changed.insert(real) {
            return Ok(Found::Same);
        }
        let Some(current) = directory.read(&name)? else { return Ok(Found::Missing) };
        if named && !bundle::has_certificates(&current) {
            return Ok(Found::Missing);
        }
        let rest = bundle::without(&current, self.former.as_ref());
        let found = if bundle::has_certificates(&rest) { Found::WithPublic } else { Found::Alone };
        let edited = match &self.new {
            Some(new) => bundle::with(rest, new),
            None => rest,
        };
        if edited.is_empty() && !current.is_empty() {
            // It was made for ours.
            name.to_str().map_or(Ok(()), |name| directory.remove(name))?;
        } else if edited != current {
            directory.replace(&name, &edited)?;
        }
        Ok(found)
    }

    fn hashed(&mut self, path: &Path) -> Result<(), TrustError> {
        let Some(directory) = self.root.directory(path)? else { return Ok(()) };
        if self.changed.insert(directory.path.clone()) {
            hashed::edit(&directory, self.new.as_ref())?;
        }
        Ok(())
    }

    fn java(&mut self, path: &Path) -> Result<(), TrustError> {
        let Some((directory, name)) = self.root.find(path)? else { return Ok(()) };
        if !self.changed.insert(directory.join(&name)) {
            return Ok(());
        }
        let Some(current) = directory.read(&name)? else { return Ok(()) };
        let der = |authority: &Option<Authority>| authority.as_ref().map(|it| it.der.clone());
        let edited = java::edit(&current, der(&self.former).as_deref(), der(&self.new).as_deref())?;
        if edited != current {
            directory.replace(&name, &edited)?;
        }
        Ok(())
    }
}

enum Found {
    Missing,
    /// Under another name already.
    Same,
    Alone,
    WithPublic,
}

/// Writes a file of our own, whatever stands in its place.
fn put(directory: &Directory, name: &OsStr, content: &[u8]) -> Result<(), DiskError> {
    let current = directory.read(name).ok().flatten();
    if current.as_deref() == Some(content) { Ok(()) } else { directory.replace(name, content) }
}

fn remove(directory: Option<Directory>, name: &str) -> Result<(), DiskError> {
    directory.map_or(Ok(()), |directory| directory.remove(name))
}
