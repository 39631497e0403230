//! `cargo xtask test`: everything that CI runs, each step within a time limit, one line at the end.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, bail};
use cordium_tests::{leak, user::User};

use crate::{
    cargo::{self, Profile, cargo},
    guard, policy, setup,
    step::{self, Counts, Step},
    vm,
};

/// The end-to-end groups: test targets of `cordium-tests`, in the order in which they run.
const GROUPS: [&str; 32] = [
    "lifecycle",
    "runtime",
    "sandbox",
    "container",
    "filesystem",
    "tasks",
    "task_failure",
    "auto_stop",
    "image",
    "hostile_images",
    "template_merge",
    "storage",
    "limits",
    "volumes",
    "isolation",
    "ranges",
    "pod",
    "escape",
    "command_line",
    "ports",
    "api",
    "repository",
    "restart",
    "cluster",
    "oci_command",
    "nested",
    "nested_limits",
    "confinement",
    "egress",
    "credentials",
    "services",
    "http_rules",
];

#[derive(clap::Args)]
pub struct Args {
    /// Only these end-to-end groups, by name
    #[arg(long, value_name = "NAME")]
    e2e: Vec<String>,
    /// Only the escape suite: attacks of a sandbox's root, one by one; the same as --e2e escape
    #[arg(long)]
    escape: bool,
    /// Only the supervisor in a container as restricted as an ordinary Kubernetes pod; the same as --e2e pod
    #[arg(long)]
    pod: bool,
    /// Only formatting, lints, documentation, policy and unit tests
    #[arg(long, conflicts_with_all = ["e2e", "escape", "pod"])]
    unit: bool,
    /// Only the virtual machine with pure cgroup v2; with --e2e, those groups in it
    #[arg(long, conflicts_with = "unit")]
    vm: bool,
}

pub async fn run(mut args: Args) -> Result<()> {
    args.e2e.extend(args.escape.then(|| "escape".to_owned()));
    args.e2e.extend(args.pod.then(|| "pod".to_owned()));
    let known = || GROUPS.into_iter().chain(vm::groups().filter(|name| !GROUPS.contains(name)));
    if let Some(unknown) = args.e2e.iter().find(|wanted| !known().any(|name| name == *wanted)) {
        let names: Vec<&str> = known().collect();
        bail!("there is no end-to-end group \"{unknown}\"; there are: {}", names.join(", "));
    }
    let user = setup::ensure().await?;
    let mut report = Report::default();
    if args.vm {
        // Nothing of it touches this machine's cgroups, processes or directories of tests.
        report.machine(&args.e2e).await;
        return report.finish();
    }
    let _guard = guard::take(&user)?;
    // What others have running as the same user is theirs.
    let before: BTreeSet<String> = leak::anywhere(&user).into_iter().collect();
    if args.e2e.is_empty() {
        checks(&mut report).await?;
        unit(&mut report).await?;
    }
    if !args.unit {
        end_to_end(&mut report, &args.e2e).await?;
        leaks(&mut report, &user, &before);
    }
    if args.e2e.is_empty() && !args.unit {
        report.machine(&[]).await;
    }
    report.finish()
}

#[derive(Default)]
struct Report {
    counts: Counts,
    failed: Vec<String>,
    times: Vec<(String, Duration)>,
}

impl Report {
    /// Runs a step that counts as one test.
    async fn check(&mut self, name: &str, minutes: u64, command: &mut tokio::process::Command) -> Result<()> {
        let step = Step { name, limit: Duration::from_secs(minutes * 60), show: false };
        let outcome = step::run(&step, command).await?;
        self.times.push((name.to_owned(), outcome.time));
        self.count(name, outcome.success);
        Ok(())
    }

    /// Runs a step that reports tests of its own.
    async fn tests(&mut self, name: &str, minutes: u64, command: &mut tokio::process::Command) -> Result<()> {
        let step = Step { name, limit: Duration::from_secs(minutes * 60), show: true };
        let outcome = step::run(&step, command).await?;
        self.times.push((name.to_owned(), outcome.time));
        self.counts.add(outcome.counts);
        // One that ended before it could report, or reported nothing at all, has failed too.
        if !outcome.success || outcome.counts == Counts::default() {
            self.failed.push(name.to_owned());
            if outcome.counts.failed == 0 {
                self.counts.failed += 1;
            }
        }
        Ok(())
    }

    /// Runs groups in the virtual machine: these, or all that belong there. That it cannot be made is a failure, too.
    async fn machine(&mut self, only: &[String]) {
        const NAME: &str = "virtual machine";
        match vm::run(only).await {
            Ok(outcome) => {
                self.times.extend(outcome.times);
                self.counts.add(outcome.counts);
                if !outcome.success {
                    self.failed.push(NAME.to_owned());
                }
            }
            Err(error) => {
                println!("   {error:#}");
                self.count(NAME, false);
            }
        }
    }

    fn count(&mut self, name: &str, success: bool) {
        if success {
            self.counts.passed += 1;
        } else {
            self.counts.failed += 1;
            self.failed.push(name.to_owned());
        }
    }

    fn skip(&mut self, reason: &str) {
        println!("── unsupported here: {reason}");
        self.counts.skipped += 1;
    }

    fn finish(self) -> Result<()> {
        let Counts { passed, failed, skipped } = self.counts;
        println!();
        for (name, time) in &self.times {
            println!("{:>8.1} s  {name}", time.as_secs_f64());
        }
        if !self.failed.is_empty() {
            println!("\nfailed: {}", self.failed.join(", "));
        }
        println!("\n{passed} passed, {failed} failed, {skipped} skipped");
        if failed > 0 || !self.failed.is_empty() {
            bail!("there were failures");
        }
        Ok(())
    }
}

async fn checks(report: &mut Report) -> Result<()> {
    report.check("formatting", 2, &mut cargo(&["fmt", "--all", "--check"])).await?;
    let mut clippy = cargo(&["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"]);
    report.check("lints", 30, &mut clippy).await?;
    let mut doc = cargo(&["doc", "--workspace", "--no-deps", "--locked", "--document-private-items"]);
    report.check("documentation", 20, doc.env("RUSTDOCFLAGS", "-D warnings")).await?;
    println!("── dependency policy");
    let kept = policy::check().await;
    match &kept {
        Ok(count) => println!("   {count} crates keep to deny.toml"),
        Err(error) => println!("   {error:#}"),
    }
    report.count("dependency policy", kept.is_ok());
    report.skip(
        "security advisories: they need a database from the network; run `cargo deny check advisories`",
    );
    Ok(())
}

async fn unit(report: &mut Report) -> Result<()> {
    let mut others =
        cargo(&["test", "--workspace", "--exclude", "cordium-tests", "--locked", "--no-fail-fast"]);
    report.tests("unit tests", 45, &mut others).await?;
    // Its other targets are the end-to-end groups.
    let mut harness = cargo(&["test", "--package", "cordium-tests", "--lib", "--locked"]);
    report.tests("unit tests of the harness", 20, &mut harness).await
}

async fn end_to_end(report: &mut Report, only: &[String]) -> Result<()> {
    let programs = cargo::build_programs(Profile::Dev).await?;
    let wanted: BTreeSet<&str> = only.iter().map(String::as_str).collect();
    let asked = |group: &str| {
        if wanted.is_empty() { GROUPS.contains(&group) } else { wanted.contains(group) }
    };
    let others = vm::groups().filter(|group| !GROUPS.contains(group));
    for group in GROUPS.into_iter().chain(others).filter(|group| asked(group)) {
        let target = format!("e2e_{group}");
        let mut command = cargo(&["test", "--workspace", "--locked", "--test", &target]);
        command.env("CORDIUM_E2E", "1").env("CORDIUM_BIN_DIR", &programs);
        report.tests(&format!("end to end: {group}"), 15, &mut command).await?;
    }
    Ok(())
}

fn leaks(report: &mut Report, user: &User, before: &BTreeSet<String>) {
    println!("── leak check");
    let left: Vec<String> = leak::anywhere(user).into_iter().filter(|line| !before.contains(line)).collect();
    for line in &left {
        println!("   {line}");
    }
    if left.is_empty() {
        println!("   no mount, cgroup, network namespace, process, socket or directory of a test is left");
    }
    report.count("leak check", left.is_empty());
}
