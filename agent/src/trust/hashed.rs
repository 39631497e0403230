//! Directories in which OpenSSL finds a certificate by a link that is named after its subject: `5ed36f99.0`.

use super::authority::Authority;
use super::disk::{Directory, DiskError};

const FILE: &str = "cordium-workspace.pem";
/// What Alpine's `update-ca-certificates` calls it.
const ALPINE_LINK: &str = "ca-cert-cordium-workspace.pem";
/// Of one subject.
const MAX_NUMBER: usize = 100;

/// What is to be done to a directory, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    unlink: Vec<String>,
    link: Option<String>,
}

/// Makes `new` the only certificate of ours. Nothing is done to a directory without such links.
pub fn edit(directory: &Directory, new: Option<&Authority>) -> Result<(), DiskError> {
    let names = directory.names()?;
    let links: Vec<_> = names
        .into_iter()
        .filter(|name| hash_of(name).is_some())
        .map(|name| (directory.target(&name), name))
        .collect();
    if links.is_empty() {
        return Ok(());
    }
    let changes = plan(&links, new.map(|authority| authority.subject_hash));
    if let Some(new) = new {
        write(directory, new)?;
    }
    changes.unlink.iter().try_for_each(|name| directory.remove(name))?;
    if let Some(name) = &changes.link {
        directory.link(name, FILE)?;
    }
    if new.is_none() {
        directory.remove(FILE)?;
        directory.remove(ALPINE_LINK)?;
    }
    Ok(())
}

fn write(directory: &Directory, new: &Authority) -> Result<(), DiskError> {
    let there = directory.read(FILE.as_ref()).ok().flatten();
    if there.as_deref() == Some(new.pem.as_bytes()) {
        return Ok(());
    }
    directory.replace(FILE.as_ref(), new.pem.as_bytes())
}

/// From the links' targets and names.
fn plan(links: &[(Option<String>, String)], hash: Option<u32>) -> Changes {
    let is_ours = |target: &str| target == FILE || target == ALPINE_LINK;
    let ours = |(target, name): &(Option<String>, String)| {
        target.as_deref().is_some_and(is_ours).then(|| name.clone())
    };
    let mut unlink: Vec<_> = links.iter().filter_map(ours).collect();
    let Some(hash) = hash else { return Changes { unlink, link: None } };
    if let Some(right) = unlink.iter().position(|name| hash_of(name) == Some(hash)) {
        unlink.remove(right);
        return Changes { unlink, link: None };
    }
    let name = |number| format!("{hash:08x}.{number}");
    let taken = |candidate: &String| links.iter().any(|(_, name)| name == candidate);
    Changes { unlink, link: (0..MAX_NUMBER).map(name).find(|candidate| !taken(candidate)) }
}

fn hash_of(name: &str) -> Option<u32> {
    let (hash, number) = name.split_once('.')?;
    let plain = hash.len() == 8 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let numbered = (1..=3).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
    if plain && numbered { u32::from_str_radix(hash, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn links(all: &[(&str, &str)]) -> Vec<(Option<String>, String)> {
        all.iter().map(|(name, target)| (Some((*target).to_owned()), (*name).to_owned())).collect()
    }

    #[test]
    fn the_first_free_number_is_taken() {
        let other = links(&[("000000ff.0", "A.pem"), ("000000ff.1", "B.pem"), ("00000001.0", "C.pem")]);
        assert_eq!(plan(&other, Some(0xff)).link.as_deref(), Some("000000ff.2"));
        assert_eq!(plan(&other, Some(2)).link.as_deref(), Some("00000002.0"));
        assert_eq!(plan(&other, None), Changes::default());
    }

    #[test]
    fn a_right_link_stays_and_former_ones_go() {
        let all = links(&[("000000ff.0", "A.pem"), ("000000ff.1", FILE), ("00000001.0", FILE)]);
        let changes = plan(&all, Some(0xff));
        assert_eq!(changes, Changes { unlink: vec!["00000001.0".into()], link: None });
        let changes = plan(&all, None);
        assert_eq!(changes.unlink, ["000000ff.1", "00000001.0"]);
        assert_eq!(plan(&all, Some(3)).link.as_deref(), Some("00000003.0"));
        let alpine = links(&[("000000ff.0", ALPINE_LINK)]);
        assert_eq!(plan(&alpine, None).unlink, ["000000ff.0"]);
    }

    #[test]
    fn names_that_are_no_hash() {
        assert_eq!(hash_of("5ed36f99.0"), Some(0x5ed3_6f99));
        for name in
            ["5ed36f99", "5ed36f99.", "5ED36F99.0", "5ed36f9.0", "5ed36f99.r0", "5ed36f99.1234", "+ed36f99.0"]
        {
            assert_eq!(hash_of(name), None, "{name}");
        }
    }
}
