//! Which node a run goes to. Pure: what the nodes have and what is promised of them, in; a name or a reason, out.
//!
//! Best fit: among the nodes that have room, the one that would be left with the least free memory, then the
//! least free CPU, so that large holes stay for large workspaces. Storage is not promised: volumes are sparse.

use cordium_proto::v1::Limit;

use crate::error::ApiError;

/// How much more than a node has may be promised of it. CPU is shared fairly when it is short, so it may be
/// promised many times over; memory that is short kills.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Overcommit {
    pub cpu: f64,
    pub memory: f64,
}

/// One node as placement sees it.
#[derive(Debug, Clone)]
pub struct Candidate {
    pub name: String,
    /// Why nothing can be placed there now.
    pub unreachable: Option<String>,
    /// Zero in a dimension means that the node did not say, and is not held against it.
    pub capacity: Limit,
    pub promised: Limit,
}

impl Candidate {
    /// What is left in (memory, CPU).
    fn room(&self, over: Overcommit) -> (u64, u64) {
        (
            left(self.capacity.memory_mib, over.memory, self.promised.memory_mib),
            left(self.capacity.cpu_millicores, over.cpu, self.promised.cpu_millicores),
        )
    }

    /// What is missing for `need`, in words; `None` when it fits.
    fn lacks(&self, need: &Limit, over: Overcommit) -> Option<String> {
        let (memory, cpu) = self.room(over);
        if memory < need.memory_mib {
            return Some(format!(
                "{}: {} MiB of memory asked, {memory} MiB free",
                self.name, need.memory_mib
            ));
        }
        if cpu < need.cpu_millicores {
            return Some(format!("{}: {} m of cpu asked, {cpu} m free", self.name, need.cpu_millicores));
        }
        None
    }
}

/// Chooses among `candidates`; with `tied` only that node will do.
pub fn choose(
    candidates: &[Candidate],
    need: &Limit,
    over: Overcommit,
    tied: Option<&str>,
) -> Result<String, ApiError> {
    let considered: Vec<_> = candidates.iter().filter(|c| tied.is_none_or(|t| t == c.name)).collect();
    if let (Some(name), []) = (tied, considered.as_slice()) {
        return Err(ApiError::NodeGone {
            node: name.to_owned(),
            message: "it is not among this scheduler's nodes".into(),
        });
    }
    let (there, gone): (Vec<&Candidate>, Vec<&Candidate>) =
        considered.into_iter().partition(|c| c.unreachable.is_none());
    if there.is_empty() {
        return Err(match gone.first() {
            Some(node) => ApiError::NodeGone {
                node: node.name.clone(),
                message: node.unreachable.clone().unwrap_or_default(),
            },
            None => ApiError::state("there is no node to run on", "give the scheduler one with --node"),
        });
    }
    let fitting = there.iter().filter(|c| c.lacks(need, over).is_none());
    if let Some(best) = fitting.min_by_key(|c| (c.room(over), &c.name)) {
        return Ok(best.name.clone());
    }
    let lacking: Vec<_> = there.iter().filter_map(|c| c.lacks(need, over)).collect();
    Err(ApiError::exhausted(
        format!("no node has room: {}", lacking.join("; ")),
        "stop a workspace, or lower spec.limit",
    ))
}

fn left(capacity: u64, factor: f64, promised: u64) -> u64 {
    if capacity == 0 || factor.is_infinite() {
        return u64::MAX;
    }
    // Saturating: a float cast of too large a value gives the maximum.
    let offered = (capacity as f64 * factor.max(0.0)) as u64;
    offered.saturating_sub(promised)
}

/// Adds up two promises.
pub fn add(a: &Limit, b: &Limit) -> Limit {
    Limit {
        cpu_millicores: a.cpu_millicores.saturating_add(b.cpu_millicores),
        memory_mib: a.memory_mib.saturating_add(b.memory_mib),
        storage_mib: a.storage_mib.saturating_add(b.storage_mib),
        pids: a.pids.saturating_add(b.pids),
        // The rest is not promised of a node.
        ..Limit::default()
    }
}

/// What `a` has beyond `b`, per dimension.
pub fn beyond(a: &Limit, b: &Limit) -> Limit {
    Limit {
        cpu_millicores: a.cpu_millicores.saturating_sub(b.cpu_millicores),
        memory_mib: a.memory_mib.saturating_sub(b.memory_mib),
        storage_mib: a.storage_mib.saturating_sub(b.storage_mib),
        pids: a.pids.saturating_sub(b.pids),
        ..Limit::default()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const EVEN: Overcommit = Overcommit { cpu: 1.0, memory: 1.0 };

    fn limit(memory_mib: u64, cpu_millicores: u64) -> Limit {
        Limit { memory_mib, cpu_millicores, ..Default::default() }
    }

    fn node(name: &str, capacity: Limit, promised: Limit) -> Candidate {
        Candidate { name: name.into(), unreachable: None, capacity, promised }
    }

    fn two() -> Vec<Candidate> {
        vec![node("a", limit(8000, 4000), limit(1000, 1000)), node("b", limit(8000, 4000), limit(5000, 1000))]
    }

    #[test]
    fn best_fit_keeps_large_holes() {
        assert_eq!(choose(&two(), &limit(2000, 1000), EVEN, None).unwrap(), "b");
        assert_eq!(choose(&two(), &limit(4000, 1000), EVEN, None).unwrap(), "a");
    }

    #[test]
    fn equal_memory_falls_to_cpu_then_name() {
        let mut nodes = two();
        nodes[0].promised = limit(5000, 500);
        assert_eq!(choose(&nodes, &limit(100, 100), EVEN, None).unwrap(), "b");
        nodes[0].promised = limit(5000, 1000);
        assert_eq!(choose(&nodes, &limit(100, 100), EVEN, None).unwrap(), "a");
    }

    #[test]
    fn a_refusal_names_what_lacks() {
        let error = choose(&two(), &limit(7500, 100), EVEN, None).unwrap_err();
        assert!(matches!(error, ApiError::Exhausted { .. }));
        let text = error.to_string();
        assert!(text.contains("a: 7500 MiB of memory asked, 7000 MiB free"), "{text}");
        assert!(text.contains("b: 7500 MiB of memory asked, 3000 MiB free"), "{text}");
        let text = choose(&two(), &limit(100, 3500), EVEN, None).unwrap_err().to_string();
        assert!(text.contains("a: 3500 m of cpu asked, 3000 m free"), "{text}");
    }

    #[test]
    fn overcommit_makes_room() {
        let over = Overcommit { cpu: f64::INFINITY, memory: 2.0 };
        assert_eq!(choose(&two(), &limit(12_000, 900_000), over, None).unwrap(), "a");
    }

    #[test]
    fn storage_ties() {
        assert_eq!(choose(&two(), &limit(100, 100), EVEN, Some("a")).unwrap(), "a");
        assert!(matches!(
            choose(&two(), &limit(4000, 100), EVEN, Some("b")),
            Err(ApiError::Exhausted { .. })
        ));
        assert!(matches!(choose(&two(), &limit(1, 1), EVEN, Some("c")), Err(ApiError::NodeGone { .. })));
    }

    #[test]
    fn the_unreachable_are_left_out() {
        let mut nodes = two();
        nodes[1].unreachable = Some("connection refused".into());
        assert_eq!(choose(&nodes, &limit(2000, 1000), EVEN, None).unwrap(), "a");
        assert!(matches!(
            choose(&nodes, &limit(1, 1), EVEN, Some("b")),
            Err(ApiError::NodeGone { node, .. }) if node == "b"
        ));
        assert!(choose(&[], &limit(1, 1), EVEN, None).is_err());
    }

    #[test]
    fn an_untold_capacity_does_not_refuse() {
        let nodes = [node("a", Limit::default(), limit(5, 5))];
        assert_eq!(choose(&nodes, &limit(1 << 40, 1 << 40), EVEN, None).unwrap(), "a");
    }
}
