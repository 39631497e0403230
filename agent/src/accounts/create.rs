//! Chooses the workspace user, and plans its creation where the image has none.

use super::AccountFiles;
use super::records::{User, groups, users, with_line};

pub const NAME: &str = "cordium";
const UID: u32 = 1000;
const GID: u32 = 1000;

/// The workspace user, and the account files to write when it has to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserPlan {
    pub user: User,
    pub write: Option<AccountFiles>,
}

/// A user named `cordium`, else whoever has uid 1000, else a new one.
pub fn plan_user(files: &AccountFiles, shell: &str) -> UserPlan {
    let known = users(&files.passwd);
    let existing = known
        .iter()
        .find(|user| user.name == NAME && user.uid != 0)
        .or_else(|| known.iter().find(|user| user.uid == UID));
    match existing {
        Some(user) => UserPlan { user: user.clone(), write: None },
        None => create(files, shell),
    }
}

fn create(files: &AccountFiles, shell: &str) -> UserPlan {
    let known = groups(&files.group);
    let own_group =
        known.iter().find(|group| group.name == NAME).or_else(|| known.iter().find(|g| g.gid == GID));
    let gid = own_group.map_or(GID, |group| group.gid);
    let user =
        User { name: NAME.into(), uid: UID, gid, home: format!("/home/{NAME}"), shell: shell.to_owned() };
    let mut write = files.clone();
    if write.passwd.is_empty() {
        write.passwd = b"root:x:0:0:root:/root:/bin/sh\n".to_vec();
    }
    if write.group.is_empty() {
        write.group = b"root:x:0:\n".to_vec();
    }
    if own_group.is_none() {
        write.group = with_line(&write.group, &format!("{NAME}:x:{gid}:"));
    }
    let line = format!("{NAME}:x:{UID}:{gid}:{NAME}:{}:{shell}", user.home);
    write.passwd = with_line(&write.passwd, &line);
    // `*` is no password: the account is not locked, and nobody can log in with one.
    let has_shadow = write.shadow.split(|byte| *byte == b'\n').any(|line| line.starts_with(b"cordium:"));
    if !has_shadow {
        write.shadow = with_line(&write.shadow, &format!("{NAME}:*:19000:0:99999:7:::"));
    }
    UserPlan { user, write: Some(write) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn files(passwd: &str, group: &str) -> AccountFiles {
        AccountFiles { passwd: passwd.into(), group: group.into(), shadow: Vec::new() }
    }

    #[test]
    fn an_existing_cordium_wins_over_uid_1000() {
        let found = plan_user(
            &files("ubuntu:x:1000:1000::/home/ubuntu:/bin/bash\ncordium:x:1500:1500::/c:/bin/sh\n", ""),
            "/bin/sh",
        );
        assert_eq!((found.user.uid, found.write), (1500, None));
    }

    #[test]
    fn uid_1000_is_taken_as_it_is() {
        let found = plan_user(&files("ubuntu:x:1000:1001::/home/ubuntu:/bin/bash\n", ""), "/bin/sh");
        assert_eq!((found.user.name.as_str(), found.user.gid, found.write), ("ubuntu", 1001, None));
    }

    #[test]
    fn a_root_called_cordium_is_not_the_workspace_user() {
        let found = plan_user(&files("cordium:x:0:0::/root:/bin/sh\n", ""), "/bin/sh");
        assert_eq!(found.user.uid, 1000);
    }

    #[test]
    fn without_any_file_all_are_made() {
        let plan = plan_user(&AccountFiles::default(), "/sbin/nologin");
        let write = plan.write.unwrap();
        let passwd = String::from_utf8(write.passwd).unwrap();
        assert!(passwd.starts_with("root:x:0:0:"));
        assert!(passwd.ends_with("cordium:x:1000:1000:cordium:/home/cordium:/sbin/nologin\n"));
        assert_eq!(write.group, b"root:x:0:\ncordium:x:1000:\n");
        assert!(write.shadow.starts_with(b"cordium:*:"));
    }

    #[test]
    fn a_taken_group_number_is_shared_and_bytes_are_kept() {
        let given = AccountFiles {
            passwd: b"\xffodd".to_vec(),
            group: b"staff:x:1000:\n".to_vec(),
            shadow: b"root:!::".to_vec(),
        };
        let plan = plan_user(&given, "/bin/sh");
        let write = plan.write.unwrap();
        assert!(write.passwd.starts_with(b"\xffodd\ncordium:x:1000:1000:"));
        assert_eq!(write.group, b"staff:x:1000:\n");
        assert!(write.shadow.starts_with(b"root:!::\ncordium:*:"));
    }
}
