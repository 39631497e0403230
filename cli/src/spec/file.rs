//! Documents from files, checked against the published schema before anything is sent.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::Path,
};

use cordium_spec::{Document, MAX_DOCUMENT_BYTES, SpecError};
use serde_json::{Value, json};

use super::Kind;
use crate::error::{CliError, CliResult, Doing as _};

const MAX_DOCUMENTS: usize = 64;

/// A resource as its author wants it, the spec in canonical JSON.
#[derive(Clone, Debug, PartialEq)]
pub struct Doc {
    pub kind: Kind,
    pub name: String,
    pub display_name: String,
    pub labels: BTreeMap<String, String>,
    pub spec: Value,
}

impl Doc {
    pub fn empty(kind: Kind, name: &str) -> Self {
        Self {
            kind,
            name: name.to_owned(),
            display_name: String::new(),
            labels: BTreeMap::new(),
            spec: json!({}),
        }
    }

    /// Checks the name and, after flags were laid over it, the spec; the spec comes back in its canonical form.
    pub fn checked(mut self) -> CliResult<Self> {
        if !self.name.is_empty() {
            let mut metadata = json!({ "name": self.name });
            if !self.display_name.is_empty() {
                metadata["displayName"] = self.display_name.clone().into();
            }
            let title = if self.kind == Kind::Secret { "Space" } else { self.kind.title() };
            let document = json!({ "apiVersion": "cordium/v1", "kind": title, "metadata": metadata });
            cordium_spec::parse_document(&document.to_string()).map_err(|e| {
                CliError::usage(e.to_string()).hint("choose a name of a-z, 0-9 and -, at most 63 long")
            })?;
        }
        if let Ok(here) = std::env::current_dir() {
            absolute_image(&mut self.spec, &here);
        }
        self.spec = canonical(self.kind, &self.spec.to_string()).map_err(|e| {
            CliError::usage(format!("{} {}: {e}", self.kind.word(), self.name)).hint(schema(self.kind))
        })?;
        Ok(self)
    }
}

pub fn canonical(kind: Kind, spec: &str) -> Result<Value, SpecError> {
    let value = match kind {
        Kind::Workspace => serde_json::to_value(cordium_spec::parse_workspace_json(spec)?),
        Kind::Template => serde_json::to_value(cordium_spec::parse_template_json(spec)?),
        Kind::Space => serde_json::to_value(cordium_spec::parse_space_json(spec)?),
        Kind::Volume => serde_json::to_value(cordium_spec::parse_volume_json(spec)?),
        Kind::Secret => Ok(json!({})),
    };
    // Types that were read from JSON can be written as JSON.
    Ok(value.unwrap_or_else(|_| json!({})))
}

fn schema(kind: Kind) -> String {
    format!("`cordium schema {}` prints the fields and values that are allowed", kind.word())
}

/// Every document of a file; `-` is standard input.
pub fn read(path: &Path) -> CliResult<Vec<Doc>> {
    let text = text(path)?;
    let mut documents = parse(&text, &path.display().to_string())?;
    let base = path.parent().and_then(|parent| std::path::absolute(parent.join(".")).ok());
    if let Some(base) = base.filter(|_| path != Path::new("-")) {
        documents.iter_mut().for_each(|document| absolute_image(&mut document.spec, &base));
    }
    Ok(documents)
}

/// A local image is meant relative to the file that names it, or to where the command was typed; a node needs it absolute.
fn absolute_image(spec: &mut Value, base: &Path) {
    let Some(image) = spec.get_mut("image") else { return };
    if let Ok(mut source) = serde_json::from_value(image.clone()) {
        cordium_spec::absolute_image(&mut source, base);
        *image = json!(source);
    }
}

/// A file's text, or that of standard input.
pub fn text(path: &Path) -> CliResult<String> {
    if path == Path::new("-") {
        return limited(io::stdin().lock(), "standard input");
    }
    let file = File::open(path).doing(format!("open {}", path.display()))?;
    limited(file, &path.display().to_string())
}

fn limited(from: impl Read, what: &str) -> CliResult<String> {
    let mut bytes = Vec::new();
    from.take(MAX_DOCUMENT_BYTES as u64 + 1).read_to_end(&mut bytes).doing(format!("read {what}"))?;
    if bytes.len() > MAX_DOCUMENT_BYTES {
        return Err(CliError::usage(format!("{what} is larger than {MAX_DOCUMENT_BYTES} bytes"))
            .hint("split it into several files"));
    }
    String::from_utf8(bytes).map_err(|_| CliError::usage(format!("{what} is not UTF-8 text")))
}

pub fn parse(text: &str, what: &str) -> CliResult<Vec<Doc>> {
    let parts = split(text);
    if parts.is_empty() {
        return Err(CliError::usage(format!("{what} holds no document")).hint(
            "it must begin with apiVersion: cordium/v1 and kind: Workspace, Template, Space or Volume",
        ));
    }
    if parts.len() > MAX_DOCUMENTS {
        return Err(CliError::usage(format!("{what} holds more than {MAX_DOCUMENTS} documents")));
    }
    let several = parts.len() > 1;
    parts
        .iter()
        .enumerate()
        .map(|(n, part)| {
            let place = if several { format!("{what}, document {}", n + 1) } else { what.to_owned() };
            let document = cordium_spec::parse_document(part)
                .map_err(|e| CliError::usage(format!("{place}: {e}")).hint(schema_of(part)))?;
            Ok(doc(&document))
        })
        .collect()
}

fn schema_of(text: &str) -> String {
    let kind = [Kind::Template, Kind::Space, Kind::Volume]
        .into_iter()
        .find(|k| text.lines().any(|l| l.trim() == format!("kind: {}", k.title())));
    schema(kind.unwrap_or(Kind::Workspace))
}

fn doc(document: &Document) -> Doc {
    let (kind, spec) = match document {
        Document::Workspace(r) => (Kind::Workspace, serde_json::to_value(&r.spec)),
        Document::Template(r) => (Kind::Template, serde_json::to_value(&r.spec)),
        Document::Space(r) => (Kind::Space, serde_json::to_value(&r.spec)),
        Document::Volume(r) => (Kind::Volume, serde_json::to_value(r.spec)),
    };
    let meta = document.metadata();
    Doc {
        kind,
        name: meta.name.clone(),
        display_name: meta.display_name.clone(),
        labels: meta.labels.clone(),
        spec: spec.unwrap_or_else(|_| json!({})),
    }
}

/// The documents of a stream: `---` at the beginning of a line separates them.
fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for line in text.lines() {
        if line == "---" || line.starts_with("--- ") && line[4..].trim_start().starts_with('#') {
            parts.push(String::new());
        } else if let Some(part) = parts.last_mut() {
            part.push_str(line);
            part.push('\n');
        }
    }
    parts.retain(|p| p.lines().any(|l| !l.trim().is_empty() && !l.trim_start().starts_with('#')));
    parts
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TWO: &str = "# first\n---\napiVersion: cordium/v1\nkind: Template\nmetadata: {name: t}\nspec: {}\n---\n\
                       apiVersion: cordium/v1\nkind: Workspace\nmetadata: {name: w}\n\
                       spec: {image: {registry: {url: 'alpine:3.21'}}}\n";

    #[test]
    fn several_documents() {
        let docs = parse(TWO, "f").unwrap();
        assert_eq!(
            docs.iter().map(|d| (d.kind, d.name.as_str())).collect::<Vec<_>>(),
            [(Kind::Template, "t"), (Kind::Workspace, "w")]
        );
        assert_eq!(docs[1].spec["image"]["registry"]["url"], "alpine:3.21");
    }

    #[test]
    fn a_local_image_is_relative_to_its_file() {
        let mut spec = json!({"image": {"registry": {"url": "oci:images/base:v1"}}});
        absolute_image(&mut spec, Path::new("/home/me/project"));
        assert_eq!(spec["image"]["registry"]["url"], "oci:/home/me/project/images/base:v1");
        absolute_image(&mut spec, Path::new("/elsewhere"));
        assert_eq!(spec["image"]["registry"]["url"], "oci:/home/me/project/images/base:v1");
    }

    #[test]
    fn a_fault_names_document_and_field() {
        let error = parse(&TWO.replace("spec: {}", "spec: {imag: 1}"), "f.yaml").unwrap_err();
        assert!(error.to_string().starts_with("f.yaml, document 1: spec"), "{error}");
        assert_eq!(error.exit_code(), 2);
        assert!(parse("# nothing\n---\n", "f").is_err());
    }

    #[test]
    fn names_and_flags_are_checked() {
        assert!(Doc::empty(Kind::Workspace, "ok-1").checked().is_ok());
        assert!(Doc::empty(Kind::Workspace, "Not/ok").checked().is_err());
        assert!(Doc::empty(Kind::Secret, "Not/ok").checked().is_err());
        let mut doc = Doc::empty(Kind::Workspace, "a");
        doc.spec = json!({ "image": { "registry": { "url": "" } } });
        assert!(doc.checked().unwrap_err().to_string().contains("spec.image"));
    }
}
