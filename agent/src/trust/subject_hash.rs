//! The name that OpenSSL looks a certificate up by in a directory: SHA-1 over its subject in a canonical form.

use sha1::{Digest as _, Sha1};

use super::der::{self, Malformed};

const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const T61_STRING: u8 = 0x14;
const IA5_STRING: u8 = 0x16;
const VISIBLE_STRING: u8 = 0x1a;
const UNIVERSAL_STRING: u8 = 0x1c;

/// Of the content of a Name, that is of its relative distinguished names.
pub fn of(mut name: &[u8]) -> Result<u32, Malformed> {
    let mut hash = Sha1::new();
    while !name.is_empty() {
        let mut relative = der::take_a(&mut name, der::SET)?;
        let mut attributes = Vec::new();
        while !relative.is_empty() {
            let mut attribute = der::take_a(&mut relative, der::SEQUENCE)?;
            let kind = der::encode(der::OID, der::take_a(&mut attribute, der::OID)?);
            let value = der::take(&mut attribute)?;
            let value = match text(value.tag, value.content)? {
                Some(text) => der::encode(UTF8_STRING, canonical(&text).as_bytes()),
                None => value.whole.to_vec(),
            };
            attributes.push(der::encode(der::SEQUENCE, &[kind, value].concat()));
        }
        attributes.sort();
        hash.update(der::encode(der::SET, &attributes.concat()));
    }
    let hash = hash.finalize();
    Ok(u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]]))
}

/// Of the types that are compared as text.
fn text(tag: u8, content: &[u8]) -> Result<Option<String>, Malformed> {
    let chars = |units: Vec<u32>| units.into_iter().map(char::from_u32).collect::<Option<String>>();
    let text = match tag {
        UTF8_STRING => String::from_utf8(content.to_vec()).ok(),
        PRINTABLE_STRING | T61_STRING | IA5_STRING | VISIBLE_STRING => {
            Some(content.iter().copied().map(char::from).collect())
        }
        der::BMP_STRING if content.len().is_multiple_of(2) => {
            chars(content.chunks_exact(2).map(|b| u32::from(b[0]) << 8 | u32::from(b[1])).collect())
        }
        UNIVERSAL_STRING if content.len().is_multiple_of(4) => {
            chars(content.chunks_exact(4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]])).collect())
        }
        der::BMP_STRING | UNIVERSAL_STRING => None,
        _ => return Ok(None),
    };
    text.map(Some).ok_or(Malformed)
}

/// In lower case (of ASCII), without white space at the ends, with one space for what is between.
fn canonical(text: &str) -> String {
    let white = |c: char| matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r');
    let words: Vec<_> = text.split(white).filter(|word| !word.is_empty()).collect();
    words.join(" ").to_ascii_lowercase()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::trust::authority::Authority;
    use std::process::Command;

    fn openssl(arguments: &[&str]) -> String {
        let output = Command::new("openssl").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn it_is_what_openssl_computes() {
        let dir = tempfile::tempdir().unwrap();
        let (key, file) = (dir.path().join("key"), dir.path().join("ca.pem"));
        let (key, file) = (key.to_str().unwrap(), file.to_str().unwrap());
        openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", key]);
        for subject in [
            "/CN=cordium workspace demo",
            "/CN=  Spaces   and\ttabs  /O=UPPER lower",
            "/C=DE/ST=Bayern/O=Müller & Söhne ÄÖÜ/OU=Ⅷ/CN=ж",
            "/emailAddress=Root@Example.COM/DC=Example/DC=com/CN=x",
            "/CN=zz+O=two in one+OU=A",
            "/serialNumber=123/CN=1",
            "/",
        ] {
            for mask in ["utf8only", "default", "pkix", "MASK:0x0800", "MASK:0x0004", "MASK:0x0100"] {
                let configuration = format!(
                    "[req]\ndistinguished_name=dn\nstring_mask={mask}\nx509_extensions=e\nutf8=yes\n[dn]\n[e]\nbasicConstraints=critical,CA:TRUE\n"
                );
                let config = dir.path().join("c.cnf");
                std::fs::write(&config, configuration).unwrap();
                let made = Command::new("openssl")
                    .args(["req", "-x509", "-new", "-key", key, "-out", file, "-subj", subject])
                    .args(["-utf8", "-multivalue-rdn", "-config"])
                    .arg(&config)
                    .output()
                    .unwrap();
                // Not every text can be written in every type.
                if !made.status.success() {
                    assert!(
                        mask.starts_with("MASK") || mask == "pkix" || mask == "default",
                        "{subject}: {made:?}"
                    );
                    continue;
                }
                let expected = openssl(&["x509", "-noout", "-subject_hash", "-in", file]);
                let authority = Authority::parse(&std::fs::read_to_string(file).unwrap()).unwrap();
                assert_eq!(format!("{:08x}", authority.subject_hash), expected.trim(), "{subject} as {mask}");
            }
        }
    }

    #[test]
    fn it_is_what_openssl_computes_of_this_projects_own() {
        let dir = tempfile::tempdir().unwrap();
        let authority = crate::trust::authority::tests::authority("cordium workspace demo");
        let file = dir.path().join("ca.pem");
        std::fs::write(&file, &authority.pem).unwrap();
        let expected = openssl(&["x509", "-noout", "-subject_hash", "-in", file.to_str().unwrap()]);
        assert_eq!(format!("{:08x}", authority.subject_hash), expected.trim());
    }
}
