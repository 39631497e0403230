//! What an attack's steps did, and the verdict on them.

use std::{
    fmt::{self, Display},
    io::{self, Read, Write},
};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::{Facts, sys};

/// What stops an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    UserNamespace,
    MountNamespace,
    PidNamespace,
    NetworkNamespace,
    CgroupNamespace,
    Seccomp,
    SeccompFamilies,
    ReadOnlyBind,
    LockedMount,
    OuterMount,
    UndumpableInit,
    InitSignals,
    Ownership,
    Bounding,
    NoSuchThing,
    Gateway,
    Broker,
    NamespaceScope,
    Kernel,
}

impl Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Layer::UserNamespace => "no capability outside the sandbox's user namespace",
            Layer::MountNamespace => "own mount namespace",
            Layer::PidNamespace => "own pid namespace",
            Layer::NetworkNamespace => "own network namespace",
            Layer::CgroupNamespace => "own cgroup namespace",
            Layer::Seccomp => "seccomp allow-list",
            Layer::SeccompFamilies => "seccomp filter of socket families",
            Layer::ReadOnlyBind => "read-only bind of a file whose owner is not mapped inside",
            Layer::LockedMount => "mount flags locked by the outer namespace",
            Layer::OuterMount => "mounted by the outer user namespace",
            Layer::UndumpableInit => "PID 1 is not dumpable",
            Layer::InitSignals => "PID 1 of a pid namespace",
            Layer::Ownership => "owned by an id that is not mapped inside",
            Layer::Bounding => "capability bounding set",
            Layer::NoSuchThing => "nothing is there to be attacked",
            Layer::Gateway => "rules of the gateway",
            Layer::Broker => "egress broker",
            Layer::NamespaceScope => "the effect stays in a namespace of the sandbox",
            Layer::Kernel => "kernel, for everybody",
        })
    }
}

/// How a step, or a whole case, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// This machine cannot run it.
    Unsupported,
    /// It was refused, by the defence that was expected.
    Refused,
    /// It was let through, and its effect stayed inside.
    Confined,
    /// It failed, but not as the defence would have made it.
    Unexpected,
    /// It worked.
    Escaped,
}

/// One try.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Step {
    pub attack: String,
    pub verdict: Verdict,
    /// The error, or what was seen.
    pub outcome: String,
    pub layer: Layer,
}

impl Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?} ({}) by: {}", self.attack, self.verdict, self.outcome, self.layer)
    }
}

/// All steps of a case.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub steps: Vec<Step>,
}

impl Report {
    /// The worst of the steps; a case that tried nothing proves nothing.
    pub fn verdict(&self) -> Verdict {
        self.steps.iter().map(|step| step.verdict).max().unwrap_or(Verdict::Unexpected)
    }
}

/// Collects the steps of one case.
pub struct Probe {
    pub facts: Facts,
    place: String,
    report: Report,
}

impl Probe {
    pub fn new(facts: Facts) -> Self {
        Self { facts, place: String::new(), report: Report::default() }
    }

    pub fn into_report(self) -> Report {
        self.report
    }

    fn step(&mut self, attack: impl Display, layer: Layer, verdict: Verdict, outcome: impl Display) {
        let attack = format!("{}{attack}", self.place);
        self.report.steps.push(Step { attack, verdict, outcome: outcome.to_string(), layer });
    }

    /// A step that must fail with one of these errors, by which `layer` shows.
    pub fn refused<T, E: Into<io::Error>>(
        &mut self,
        attack: impl Display,
        layer: Layer,
        expected: &[Errno],
        result: Result<T, E>,
    ) {
        match result.map_err(Into::into) {
            Ok(_) => self.step(attack, layer, Verdict::Escaped, "it worked"),
            Err(error) => {
                let errno = error.raw_os_error().map(Errno::from_raw);
                let verdict = match errno {
                    Some(errno) if expected.contains(&errno) => Verdict::Refused,
                    _ => Verdict::Unexpected,
                };
                let name = errno.map_or_else(|| error.to_string(), |errno| format!("{errno:?}"));
                self.step(attack, layer, verdict, name);
            }
        }
    }

    /// A step that may work as long as its effect stays inside: `Ok` says what was seen, `Err` what got out.
    pub fn confined(&mut self, attack: impl Display, layer: Layer, seen: Result<String, String>) {
        match seen {
            Ok(seen) => self.step(attack, layer, Verdict::Confined, seen),
            Err(out) => self.step(attack, layer, Verdict::Escaped, out),
        }
    }

    /// A step that could not be prepared as it should have been.
    pub fn broken(&mut self, attack: impl Display, why: impl Display) {
        self.step(attack, Layer::NoSuchThing, Verdict::Unexpected, why);
    }

    pub fn unsupported(&mut self, attack: impl Display, reason: impl Display) {
        self.step(attack, Layer::NoSuchThing, Verdict::Unsupported, reason);
    }

    /// A fact without which a case cannot be tried; the driver gives all of them.
    pub fn fact(&mut self, key: &str) -> Option<String> {
        let found = self.facts.get(key).map(str::to_owned);
        if found.is_none() {
            self.unsupported(format!("fact {key}"), "the driver did not say");
        }
        found
    }

    /// Runs steps in a child, so that what they do to their process ends with it. `enter` puts the child in place.
    pub fn child(
        &mut self,
        place: &str,
        enter: impl FnOnce() -> io::Result<()>,
        attack: impl FnOnce(&mut Probe),
    ) {
        let facts = self.facts.clone();
        let outcome = in_child(move || {
            let mut probe = Probe::new(facts);
            match enter() {
                Ok(()) => attack(&mut probe),
                Err(error) => probe.broken("going there", error),
            }
            serde_json::to_vec(&probe.report).unwrap_or_default()
        });
        let (bytes, end) = match outcome {
            Ok(outcome) => outcome,
            Err(error) => return self.broken(format!("{place}: starting a child"), error),
        };
        match serde_json::from_slice::<Report>(&bytes) {
            Ok(report) => {
                let placed = |step: Step| Step { attack: format!("{place}: {}", step.attack), ..step };
                self.report.steps.extend(report.steps.into_iter().map(placed));
            }
            Err(_) => self.broken(format!("{place}: its report"), format!("the child ended with {end}")),
        }
    }
}

/// Runs `work` in a child and returns what it returned, and how the child ended.
pub fn in_child(work: impl FnOnce() -> Vec<u8>) -> io::Result<(Vec<u8>, String)> {
    let (mut reader, mut writer) = io::pipe()?;
    let child = sys::fork_child(|| {
        let written = writer.write_all(&work());
        i32::from(written.is_err())
    })?;
    drop(writer);
    let mut bytes = Vec::new();
    let read = reader.read_to_end(&mut bytes);
    let end = nix::sys::wait::waitpid(child, None)?;
    read?;
    Ok((bytes, format!("{end:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(steps: impl FnOnce(&mut Probe)) -> Verdict {
        let mut probe = Probe::new(Facts::default());
        steps(&mut probe);
        probe.into_report().verdict()
    }

    fn fails(errno: Errno) -> Result<(), Errno> {
        Err(errno)
    }

    #[test]
    fn only_the_expected_error_is_a_defence() {
        let expected = [Errno::EPERM, Errno::EACCES];
        let tried = |result| verdict(|p| p.refused("x", Layer::Seccomp, &expected, result));
        assert_eq!(tried(fails(Errno::EPERM)), Verdict::Refused);
        assert_eq!(tried(fails(Errno::EINVAL)), Verdict::Unexpected);
        assert_eq!(tried(Ok(())), Verdict::Escaped);
    }

    #[test]
    fn the_worst_step_counts_and_no_step_is_no_proof() {
        assert_eq!(verdict(|_| ()), Verdict::Unexpected);
        assert_eq!(verdict(|p| p.unsupported("x", "no")), Verdict::Unsupported);
        let mixed = verdict(|p| {
            p.unsupported("x", "no");
            p.refused("y", Layer::Seccomp, &[Errno::EPERM], fails(Errno::EPERM));
            p.confined("z", Layer::NamespaceScope, Err("seen on the node".into()));
            p.refused("y", Layer::Seccomp, &[Errno::EPERM], fails(Errno::EPERM));
        });
        assert_eq!(mixed, Verdict::Escaped);
    }

    #[test]
    fn a_child_reports_its_steps_with_their_place() {
        let mut probe = Probe::new(Facts::default());
        probe.child("there", || Ok(()), |p| p.confined("x", Layer::NamespaceScope, Ok("seen".into())));
        probe.child("nowhere", || Err(Errno::ENOSPC.into()), |p| p.unsupported("x", "never"));
        let steps = probe.into_report().steps;
        assert_eq!((steps[0].attack.as_str(), steps[0].verdict), ("there: x", Verdict::Confined));
        assert_eq!(steps[1].verdict, Verdict::Unexpected);
    }
}
