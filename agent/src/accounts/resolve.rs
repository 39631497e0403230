//! From names and numbers to credentials.

use super::records::{groups, users};
use super::{AccountFiles, Credentials};

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    #[error("user `{0}` is not in the image's /etc/passwd")]
    UnknownUser(String),
    #[error("group `{0}` is not in the image's /etc/group")]
    UnknownGroup(String),
}

/// A user as an image's config names it, with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    pub credentials: Credentials,
    pub name: String,
    pub home: String,
}

/// The credentials of a user by name, as login would give them.
pub fn of_user(files: &AccountFiles, name: &str, uid: u32, gid: u32) -> Credentials {
    let mut supplementary = vec![gid];
    for group in groups(&files.group) {
        if group.members.iter().any(|member| member == name) && !supplementary.contains(&group.gid) {
            supplementary.push(group.gid);
        }
    }
    // The kernel's limit is 65536; no image needs more than these.
    supplementary.truncate(1024);
    Credentials { uid, gid, groups: supplementary }
}

/// `user`, `uid`, `user:group`, `uid:gid`, or nothing for root.
pub fn of_image_user(files: &AccountFiles, spec: &str) -> Result<Resolved, ResolveError> {
    let (user, group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (spec, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let known = users(&files.passwd);
    let number = user.parse::<u32>().ok();
    let found = known
        .iter()
        .find(|candidate| candidate.name == user)
        .or_else(|| known.iter().find(|candidate| Some(candidate.uid) == number));
    let (name, uid, primary, home) = match (found, number) {
        (Some(found), _) => (found.name.clone(), found.uid, found.gid, found.home.clone()),
        (None, Some(0)) => ("root".to_owned(), 0, 0, "/root".to_owned()),
        (None, Some(uid)) => (uid.to_string(), uid, 0, "/".to_owned()),
        (None, None) => return Err(ResolveError::UnknownUser(user.to_owned())),
    };
    let credentials = match group {
        // An explicit group replaces the supplementary ones, as in other runtimes.
        Some(group) => {
            let gid = group_id(files, group)?;
            Credentials { uid, gid, groups: vec![gid] }
        }
        None => of_user(files, &name, uid, primary),
    };
    Ok(Resolved { credentials, name, home })
}

fn group_id(files: &AccountFiles, group: &str) -> Result<u32, ResolveError> {
    groups(&files.group)
        .iter()
        .find(|candidate| candidate.name == group)
        .map(|found| found.gid)
        .or_else(|| group.parse().ok())
        .ok_or_else(|| ResolveError::UnknownGroup(group.to_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn files() -> AccountFiles {
        AccountFiles {
            passwd: b"root:x:0:0::/root:/bin/sh\nweb:x:33:34::/var/www:/bin/false\n99:x:1:1::/odd:\n"
                .to_vec(),
            group: b"root:x:0:\nweb:x:34:\nadm:x:4:web,other\ndup:x:4:web\n".to_vec(),
            shadow: Vec::new(),
        }
    }

    #[test]
    fn names_numbers_and_groups() {
        let resolve = |spec| of_image_user(&files(), spec).map(|found| found.credentials);
        assert_eq!(resolve("").unwrap(), Credentials { uid: 0, gid: 0, groups: vec![0] });
        assert_eq!(resolve("web").unwrap(), Credentials { uid: 33, gid: 34, groups: vec![34, 4] });
        assert_eq!(resolve("33").unwrap(), Credentials { uid: 33, gid: 34, groups: vec![34, 4] });
        assert_eq!(resolve("web:adm").unwrap(), Credentials { uid: 33, gid: 4, groups: vec![4] });
        assert_eq!(resolve("5000:6000").unwrap(), Credentials { uid: 5000, gid: 6000, groups: vec![6000] });
        assert_eq!(resolve("5000").unwrap(), Credentials { uid: 5000, gid: 0, groups: vec![0] });
        assert_eq!(resolve("nobody"), Err(ResolveError::UnknownUser("nobody".into())));
        assert_eq!(resolve("web:none"), Err(ResolveError::UnknownGroup("none".into())));
    }

    #[test]
    fn a_name_of_digits_is_a_name_first() {
        assert_eq!(of_image_user(&files(), "99").unwrap().credentials.uid, 1);
    }

    #[test]
    fn root_needs_no_passwd() {
        let found = of_image_user(&AccountFiles::default(), "").unwrap();
        assert_eq!((found.credentials.uid, found.home.as_str()), (0, "/root"));
    }
}
