//! The lines of /etc/passwd and /etc/group. Lines that make no sense are skipped, and never rewritten.

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: String,
    pub shell: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub name: String,
    pub gid: u32,
    pub members: Vec<String>,
}

pub fn users(passwd: &[u8]) -> Vec<User> {
    lines(passwd).filter_map(|line| user(&line)).collect()
}

pub fn groups(group: &[u8]) -> Vec<Group> {
    lines(group).filter_map(|line| self::group(&line)).collect()
}

fn user(line: &str) -> Option<User> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, rest @ ..] = fields.as_slice() else { return None };
    let shell = rest.first().copied().unwrap_or_default();
    Some(User {
        name: plain_name(name)?,
        uid: uid.parse().ok()?,
        gid: gid.parse().ok()?,
        home: (*home).to_owned(),
        shell: shell.to_owned(),
    })
}

fn group(line: &str) -> Option<Group> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, gid, rest @ ..] = fields.as_slice() else { return None };
    let members = rest.first().copied().unwrap_or_default();
    Some(Group {
        name: plain_name(name)?,
        gid: gid.parse().ok()?,
        members: members.split(',').filter(|m| !m.is_empty()).map(str::to_owned).collect(),
    })
}

/// Not empty, no comment, no NIS inclusion.
fn plain_name(name: &str) -> Option<String> {
    let odd = name.is_empty() || name.starts_with(['#', '+', '-']);
    (!odd).then(|| name.to_owned())
}

fn lines(text: &[u8]) -> impl Iterator<Item = String> {
    text.split(|byte| *byte == b'\n')
        .map(|line| String::from_utf8_lossy(line).trim_end_matches('\r').to_owned())
        .filter(|line| !line.is_empty())
}

/// `file` with one more line, mending a missing newline at its end.
pub fn with_line(file: &[u8], line: &str) -> Vec<u8> {
    let mut out = file.to_vec();
    if out.last().is_some_and(|byte| *byte != b'\n') {
        out.push(b'\n');
    }
    out.extend_from_slice(line.as_bytes());
    out.push(b'\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_lines_are_skipped() {
        let text = b"root:x:0:0:root:/root:/bin/bash\n# comment\n+::::::\nbad\nx:y:z:0::/:\n\xff\xfe:x:5:5::/h:/s\n\nlast:x:7:8::/home/last";
        let users = users(text);
        let names: Vec<_> = users.iter().map(|user| (user.uid, user.gid, user.shell.as_str())).collect();
        assert_eq!(names, [(0, 0, "/bin/bash"), (5, 5, "/s"), (7, 8, "")]);
    }

    #[test]
    fn groups_have_members() {
        let groups = groups(b"wheel:x:10:root,me\nempty:x:11:\nshort:x:12\n");
        assert_eq!(groups[0].members, ["root", "me"]);
        assert_eq!(groups.len(), 3);
        assert!(groups[1].members.is_empty() && groups[2].members.is_empty());
    }

    #[test]
    fn a_line_is_added_after_a_missing_newline() {
        assert_eq!(with_line(b"a", "b"), b"a\nb\n");
        assert_eq!(with_line(b"a\n", "b"), b"a\nb\n");
        assert_eq!(with_line(b"", "b"), b"b\n");
    }
}
