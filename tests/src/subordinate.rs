//! The ids that `/etc/subuid` and `/etc/subgid` give a user.

use std::fs;

use crate::user::User;

/// A running workspace has so many of its own.
const ONE: u32 = 65_536;

/// Start and count of each line of the user's.
pub fn uids(user: &User) -> Vec<(u32, u32)> {
    of("/etc/subuid", user)
}

/// How many workspaces can have a range of their own.
pub fn ranges(user: &User) -> u32 {
    whole(&uids(user)).min(whole(&of("/etc/subgid", user)))
}

fn of(file: &str, user: &User) -> Vec<(u32, u32)> {
    parse(&fs::read_to_string(file).unwrap_or_default(), user)
}

fn whole(lines: &[(u32, u32)]) -> u32 {
    lines.iter().map(|(_, count)| count / ONE).sum()
}

fn parse(text: &str, user: &User) -> Vec<(u32, u32)> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let (start, count) = (fields.next()?.parse().ok()?, fields.next()?.trim().parse().ok()?);
            (name == user.name || name == user.uid.to_string()).then_some((start, count))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_ranges_of_one_user() {
        let user = User { name: "alice".into(), uid: 1000, gid: 1000, home: "/".into() };
        let lines = parse("bob:1:2\nalice:100000:65536\n1000:400000:140000\nbroken\n", &user);
        assert_eq!(lines, [(100_000, 65_536), (400_000, 140_000)]);
        assert_eq!(whole(&lines), 3);
    }
}
