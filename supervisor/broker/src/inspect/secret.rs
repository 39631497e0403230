//! A text that nobody may see: zeroed when it is dropped, and printed as dots.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

/// Holds the bytes of a credential or a key. Written as Base64, so that reading it needs no unescaped copy.
#[derive(Clone)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(STANDARD.encode(&*self.0)))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("Base64")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Secret, E> {
                // Room for all: a vector that grows leaves copies behind.
                let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
                STANDARD.decode_vec(text, &mut bytes).map_err(|_| E::custom("a secret is not Base64"))?;
                Ok(Secret(bytes))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn it_survives_the_wire_and_is_not_printed() {
        let secret = Secret::new(b"hunter2\n\xff".to_vec());
        assert!(!format!("{secret:?} {secret:#?}").contains("hunter"));
        let text = serde_json::to_string(&secret).unwrap();
        assert!(!text.contains("hunter"));
        assert_eq!(serde_json::from_str::<Secret>(&text).unwrap().expose(), b"hunter2\n\xff");
        let error = serde_json::from_str::<Secret>("\"hunter2!\"").unwrap_err().to_string();
        assert!(!error.contains("hunter"), "{error}");
    }
}
