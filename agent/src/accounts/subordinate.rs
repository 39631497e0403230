//! Subordinate ids of the workspace user, for containers without root.
//!
//! A sandbox has the ids 0…65535. What `useradd` gives out begins at 100000, which it does not have: such ranges are
//! replaced by all ids but root's and the user's own. 65534 of them are what images need (`nogroup` included).

const LAST: u64 = 65_535;

/// `file` (`/etc/subuid` or `/etc/subgid`) with ranges that the user can use, or `None` if it has such already.
pub fn with_ranges(file: &[u8], user: &str, id: u32) -> Option<Vec<u8>> {
    let is_own = |line: &&[u8]| {
        let owner = line.split(|byte| *byte == b':').next().unwrap_or_default();
        owner == user.as_bytes() || owner == id.to_string().as_bytes()
    };
    let lines = || file.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let own: Vec<_> = lines().filter(is_own).collect();
    if !own.is_empty() && own.iter().all(|line| is_usable(line)) {
        return None;
    }
    let mut text: Vec<u8> =
        lines().filter(|line| !is_own(line)).flat_map(|line| [line, b"\n"].concat()).collect();
    for (start, count) in ranges(id) {
        text.extend_from_slice(format!("{user}:{start}:{count}\n").as_bytes());
    }
    Some(text)
}

fn ranges(id: u32) -> impl Iterator<Item = (u64, u64)> {
    let id = u64::from(id);
    let below = (1, id.saturating_sub(1).min(LAST));
    let above = (id + 1, LAST.saturating_sub(id));
    [below, above].into_iter().filter(|(_, count)| *count > 0)
}

fn is_usable(line: &[u8]) -> bool {
    let text = String::from_utf8_lossy(line);
    let mut numbers = text.split(':').skip(1).map(|field| field.trim().parse::<u64>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(start), Some(count)) => start > 0 && count > 0 && start.saturating_add(count) <= LAST + 1,
        _ => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_range_that_the_sandbox_lacks_is_replaced() {
        let text = with_ranges(b"other:5:1\nme:100000:65536\n", "me", 1000).unwrap();
        assert_eq!(text, b"other:5:1\nme:1:999\nme:1001:64535\n");
        assert_eq!(with_ranges(&text, "me", 1000), None);
    }

    #[test]
    fn ranges_of_ones_own_choice_stay() {
        assert_eq!(with_ranges(b"me:2000:500\n", "me", 1000), None);
        assert_eq!(with_ranges(b"1000:2000:500\n", "me", 1000), None);
    }

    #[test]
    fn the_users_own_id_and_roots_are_left_out() {
        let all = |id| ranges(id).collect::<Vec<_>>();
        assert_eq!(all(1), [(2, 65_534)]);
        assert_eq!(all(65_535), [(1, 65_534)]);
        assert_eq!(all(70_000), [(1, 65_535)]);
    }
}
