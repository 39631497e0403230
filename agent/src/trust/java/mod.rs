//! Java's stores, `cacerts`: our certificate is an entry of them. Of stores with a password, only Java's usual one is tried.

mod jks;
mod pkcs12;

use super::der::Malformed;

/// Those that the image's own tools would give it, too.
const ALIASES: [&str; 2] = ["cordium-workspace", "debian:cordium-workspace.pem"];

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("it is neither a JKS nor a PKCS#12 store")]
    Unknown,
    #[error("it is cut short or malformed")]
    Broken,
    #[error("it has a password, which is not `changeit`")]
    Password,
    #[error("it is encrypted or has a password, and is no JKS store")]
    Encrypted,
}

impl From<Malformed> for StoreError {
    fn from(_: Malformed) -> Self {
        Self::Broken
    }
}

/// The store with `new` (DER) as its only certificate of ours; one that equals `former` goes, whatever it is called.
pub fn edit(store: &[u8], former: Option<&[u8]>, new: Option<&[u8]>) -> Result<Vec<u8>, StoreError> {
    match store {
        [0xfe, 0xed, 0xfe, 0xed, ..] => jks::edit(store, former, new),
        [0x30, ..] => pkcs12::edit(store, former, new),
        _ => Err(StoreError::Unknown),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub mod tests {
    use super::*;
    use crate::trust::authority::tests::authority;
    use std::path::Path;
    use std::process::Command;

    /// Java is not on every machine; what it says is checked where it is.
    pub fn keytool(store: &Path, arguments: &[&str]) -> Option<String> {
        let output = Command::new("keytool").args(arguments).arg("-keystore").arg(store).output().ok()?;
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        Some(text)
    }

    #[test]
    fn java_reads_what_was_edited_in_either_format() {
        let dir = tempfile::tempdir().unwrap();
        let pem = dir.path().join("root.pem");
        let (root, ours, next) = (authority("root"), authority("ours"), authority("next"));
        std::fs::write(&pem, &root.pem).unwrap();
        let free =
            ["-J-Dkeystore.pkcs12.macAlgorithm=NONE", "-J-Dkeystore.pkcs12.certProtectionAlgorithm=NONE"];
        for (kind, options) in [("jks", &[][..]), ("pkcs12", &free[..])] {
            let store = dir.path().join(kind);
            let import = ["-importcert", "-noprompt", "-alias", "root", "-storepass", "changeit", "-file"];
            let arguments = [&import[..], &[pem.to_str().unwrap(), "-storetype", kind], options].concat();
            if keytool(&store, &arguments).is_none() {
                eprintln!("skipped: no keytool");
                return;
            }
            let original = std::fs::read(&store).unwrap();
            let once = edit(&original, None, Some(&ours.der)).unwrap();
            assert_eq!(edit(&once, None, Some(&ours.der)).unwrap(), once);
            assert_eq!(edit(&once, None, None).unwrap(), original);
            assert_eq!(
                edit(&once, None, Some(&next.der)).unwrap(),
                edit(&original, None, Some(&next.der)).unwrap()
            );
            let bare = edit(&original, Some(&root.der), None).unwrap();
            assert_eq!(edit(&once, Some(&root.der), None).unwrap(), bare);
            assert!(bare.len() < original.len(), "{kind}: by its bytes, whatever it is called");
            std::fs::write(&store, &once).unwrap();
            let listed = keytool(&store, &["-list", "-rfc", "-storepass", "changeit"]).unwrap();
            assert!(listed.contains("contains 2 entries"), "{listed}");
            let plain: String = listed.split_whitespace().collect();
            for certificate in [&root, &ours] {
                let pem: String = certificate.pem.split_whitespace().collect();
                assert!(plain.contains(&pem), "{kind}: {listed}");
            }
            assert!(listed.contains("Alias name: cordium-workspace"), "{listed}");
            assert_eq!(listed.matches("trustedCertEntry").count(), 2, "{listed}");
            for length in 0..once.len() {
                assert!(edit(&once[..length], None, None).is_err(), "{kind} cut at {length}");
            }
        }
    }

    #[test]
    fn stores_with_other_passwords_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        for (kind, error) in [("jks", StoreError::Password), ("pkcs12", StoreError::Encrypted)] {
            let (store, pem) = (dir.path().join(kind), dir.path().join("root.pem"));
            std::fs::write(&pem, authority("root").pem).unwrap();
            let import = ["-importcert", "-noprompt", "-alias", "root", "-storepass", "another", "-file"];
            let arguments = [&import[..], &[pem.to_str().unwrap(), "-storetype", kind]].concat();
            if keytool(&store, &arguments).is_none() {
                eprintln!("skipped: no keytool");
                return;
            }
            assert_eq!(edit(&std::fs::read(&store).unwrap(), None, None), Err(error));
        }
        assert_eq!(edit(b"", None, None), Err(StoreError::Unknown));
        assert_eq!(edit(b"-----BEGIN", None, None), Err(StoreError::Unknown));
    }
}
