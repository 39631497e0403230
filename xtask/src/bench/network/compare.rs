//! The same measured on every way, in turns, so that the machine's mood is the same for all.

use anyhow::{Result, anyhow};

use super::ways::{Named, Way};
use crate::bench::{
    peers::one_line,
    samples::median,
    table::{Row, Value},
};

/// What each way gave, ours first, the veth pair second.
pub struct Compared {
    unit: &'static str,
    ways: Vec<(&'static str, Result<Vec<f64>, String>)>,
}

/// Calls `once` for each way in each round; the first round warms up.
pub async fn compare(
    ways: &[Named],
    rounds: usize,
    unit: &'static str,
    once: impl AsyncFn(&Way) -> Result<Vec<f64>>,
) -> Compared {
    let begun = |named: &Named| (named.name, named.way.as_ref().map(|_| Vec::new()).map_err(Clone::clone));
    let mut compared = Compared { unit, ways: ways.iter().map(begun).collect() };
    for round in 0..=rounds {
        for (named, (_, numbers)) in ways.iter().zip(&mut compared.ways) {
            let (Ok(way), Ok(so_far)) = (&named.way, numbers.as_mut()) else { continue };
            match once(way).await {
                Ok(more) if round > 0 => so_far.extend(more),
                Ok(_) => {}
                Err(error) => *numbers = Err(one_line(&format!("{error:#}"))),
            }
        }
    }
    compared
}

impl Compared {
    fn value(&self, way: usize) -> Result<Value, String> {
        let (_, numbers) = &self.ways[way];
        let numbers = numbers.clone()?;
        Ok(Value { rounds: numbers.len(), number: median(numbers), unit: self.unit })
    }

    pub fn ours(&self) -> Result<Value> {
        self.value(0).map_err(|reason| anyhow!("measuring our gateway: {reason}"))
    }

    pub fn veth(&self) -> Result<Value> {
        self.value(1).map_err(|reason| anyhow!("measuring the veth pair: {reason}"))
    }

    /// A row with the ratios that are promised against the veth pair and against the greatest of the others.
    pub fn row(&self, what: String, of_veth: Option<f64>, of_others: Option<f64>) -> Result<Row> {
        let others = (2..self.ways.len()).filter_map(|way| Some((way, self.value(way).ok()?.number)));
        let greatest = others.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(way, _)| way);
        let limit = |way| match way {
            1 => of_veth,
            way if Some(way) == greatest => of_others,
            _ => None,
        };
        let peer = |way: usize| (self.ways[way].0.to_owned(), self.value(way), limit(way));
        Ok(Row { what, ours: self.ours()?, peers: (1..self.ways.len()).map(peer).collect(), target: None })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_faster_of_the_others_has_the_target() {
        let ways = vec![
            ("cordium", Ok(vec![8.0, 9.0, 10.0])),
            ("a veth pair", Ok(vec![12.0])),
            ("slow", Ok(vec![1.0])),
            ("fast", Ok(vec![2.0])),
            ("absent", Err("not installed".to_owned())),
        ];
        let row = Compared { unit: "Gbit/s", ways }.row("tcp".into(), Some(0.5), Some(4.0)).unwrap();
        assert_eq!((row.ours.number, row.ours.rounds), (9.0, 3));
        let limits: Vec<Option<f64>> = row.peers.iter().map(|(_, _, limit)| *limit).collect();
        assert_eq!(limits, [Some(0.5), None, Some(4.0), None]);
        assert_eq!(row.peers[3].1.as_ref().err().map(String::as_str), Some("not installed"));
    }
}
