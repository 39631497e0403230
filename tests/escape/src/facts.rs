//! What the driver tells about the node: `key=value` words. A tenant would have to guess all of it.

use std::collections::BTreeMap;

#[derive(Clone, Debug, Default)]
pub struct Facts(BTreeMap<String, String>);

impl Facts {
    pub fn parse(words: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let pair = |word: String| {
            let (key, value) =
                word.split_once('=').ok_or_else(|| anyhow::anyhow!("{word:?} is not key=value"))?;
            Ok((key.to_owned(), value.to_owned()))
        };
        words.map(pair).collect::<anyhow::Result<_>>().map(Self)
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// A list, its elements divided by commas.
    pub fn list(&self, key: &str) -> Vec<&str> {
        self.get(key).unwrap_or_default().split(',').filter(|item| !item.is_empty()).collect()
    }

    /// All facts whose key begins so.
    pub fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.0
            .iter()
            .filter(move |(key, _)| key.starts_with(prefix))
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    pub fn number(&self, key: &str) -> Option<i32> {
        self.get(key)?.parse().ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn words_are_keys_with_values() {
        let words = ["a=1", "b=x=y", "list=p,q,", "pid.one=7"].map(str::to_owned);
        let facts = Facts::parse(words.into_iter()).unwrap();
        assert_eq!((facts.number("a"), facts.get("b")), (Some(1), Some("x=y")));
        assert_eq!(facts.list("list"), ["p", "q"]);
        assert_eq!(facts.list("none"), Vec::<&str>::new());
        assert_eq!(facts.with_prefix("pid.").collect::<Vec<_>>(), [("pid.one", "7")]);
        assert!(Facts::parse(["broken".to_owned()].into_iter()).is_err());
    }
}
