//! Users by name, from /etc/passwd alone: a static binary has no name service.

use std::fs;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

pub fn by_name(name: &str) -> Option<User> {
    all().into_iter().find(|u| u.name == name)
}

pub fn by_uid(uid: u32) -> Option<User> {
    all().into_iter().find(|u| u.uid == uid)
}

/// The user that we run as; one without an entry is known by its number.
pub fn current() -> User {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    by_uid(uid).unwrap_or(User { name: uid.to_string(), uid, gid })
}

fn all() -> Vec<User> {
    parse(&fs::read_to_string("/etc/passwd").unwrap_or_default())
}

fn parse(passwd: &str) -> Vec<User> {
    passwd
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?.to_owned();
            let uid = fields.nth(1)?.parse().ok()?;
            let gid = fields.next()?.parse().ok()?;
            Some(User { name, uid, gid })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_passwd() {
        let users = parse("root:x:0:0:root:/root:/bin/sh\nbroken\nann:x:1000:100::/home/ann:/bin/bash\n");
        assert_eq!(
            users,
            [User { name: "root".into(), uid: 0, gid: 0 }, User { name: "ann".into(), uid: 1000, gid: 100 }]
        );
    }
}
