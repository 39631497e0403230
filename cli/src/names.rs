//! Names for workspaces that were given none.

const ADJECTIVES: [&str; 64] = [
    "able", "amber", "ample", "brave", "bright", "brisk", "calm", "civil", "clear", "clever", "cosmic",
    "crisp", "daring", "deep", "eager", "early", "easy", "fair", "fancy", "fast", "fine", "fleet", "fond",
    "fresh", "gentle", "glad", "golden", "good", "grand", "happy", "hardy", "honest", "humble", "jolly",
    "keen", "kind", "lively", "lucid", "lucky", "merry", "mighty", "mild", "modest", "neat", "nimble",
    "noble", "patient", "plain", "polite", "proud", "quick", "quiet", "rapid", "ready", "sharp", "shiny",
    "silent", "smart", "solid", "steady", "sunny", "tidy", "warm", "wise",
];
const NOUNS: [&str; 64] = [
    "acorn", "anchor", "apple", "aspen", "badger", "beacon", "birch", "bison", "breeze", "brook", "canyon",
    "cedar", "cliff", "clover", "comet", "coral", "crane", "creek", "delta", "dune", "eagle", "ember",
    "falcon", "fern", "fjord", "forest", "garden", "glacier", "harbor", "hazel", "heron", "island",
    "juniper", "lagoon", "lake", "lantern", "larch", "lynx", "maple", "meadow", "moon", "oak", "ocean",
    "orchard", "otter", "owl", "pebble", "pine", "planet", "pond", "prairie", "quartz", "raven", "reef",
    "ridge", "river", "robin", "sparrow", "spruce", "summit", "tundra", "valley", "willow", "wren",
];

/// An adjective, a noun, and two digits: `calm-otter-42`.
pub fn generate() -> String {
    let bytes = uuid::Uuid::new_v4().into_bytes();
    let adjective = ADJECTIVES[usize::from(bytes[0]) % ADJECTIVES.len()];
    let noun = NOUNS[usize::from(bytes[1]) % NOUNS.len()];
    format!("{adjective}-{noun}-{:02}", bytes[2] % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for _ in 0..200 {
            let name = generate();
            assert!(name.len() <= 30 && name.starts_with(|c: char| c.is_ascii_lowercase()));
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'), "{name}");
        }
    }
}
