//! Attacks from inside, and the proof that they can succeed where nothing stops them.

use std::{process::Command, sync::Arc, time::Duration};

use cordium_escape::{CASES, Case, Report, Verdict};
use cordium_tests::{
    Context, Result, Workspace, bail, ensure, ensure_eq, json, paths, process, skip,
    v1::{CreateTerminalRequest, ExecStart, RemoveTerminalRequest, TerminalSize},
};

use crate::shared::{PROGRAM, Shared, equip};

/// Runs one case as root of a workspace and returns what its steps did.
pub async fn run_in(workspace: &Workspace, name: &str, facts: &[String], tty: bool) -> Result<Report> {
    let mut command = vec![PROGRAM.to_owned(), "run".to_owned(), name.to_owned()];
    command.extend(facts.iter().cloned());
    let tty = tty.then_some(TerminalSize { cols: 200, rows: 50 });
    let start = ExecStart { command, run_as_root: true, tty, ..Default::default() };
    let output = workspace.exec_with(start, None).await?;
    report_of(&output.out()).with_context(|| format!("{name} ended with {}: {}", output.code(), output.err()))
}

fn report_of(text: &str) -> Result<Report> {
    let line = text.lines().find(|line| line.trim_start().starts_with('{'));
    serde_json::from_str(line.context("no report was printed")?.trim()).context("reading the report")
}

fn show(name: &str, report: &Report) {
    println!("{name}: {:?}", report.verdict());
    for step in &report.steps {
        println!("    {step}");
    }
}

pub async fn attack(s: Arc<Shared>, case: &'static Case) -> Result<()> {
    let terminals =
        if case.name == "terminal_input" { open_terminals(&s.attacker).await? } else { Vec::new() };
    let report = run_in(&s.attacker, case.name, &s.facts()?, !terminals.is_empty()).await?;
    for id in terminals {
        let request = RemoveTerminalRequest { workspace: s.attacker.uid.clone(), id };
        s.attacker.clients.session.clone().remove_terminal(request).await?;
    }
    show(case.name, &report);
    s.unharmed().await?;
    let of = |verdict| -> Vec<String> {
        report.steps.iter().filter(|step| step.verdict == verdict).map(ToString::to_string).collect()
    };
    match report.verdict() {
        Verdict::Escaped => bail!("this got out:\n{}", of(Verdict::Escaped).join("\n")),
        Verdict::Unexpected => {
            bail!(
                "this failed, but not by the defence that is said to stop it:\n{}",
                of(Verdict::Unexpected).join("\n")
            )
        }
        Verdict::Unsupported => skip(of(Verdict::Unsupported).join("; ")),
        Verdict::Refused | Verdict::Confined => Ok(()),
    }
}

async fn open_terminals(w: &Workspace) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for run_as_root in [true, false] {
        let size = Some(TerminalSize { cols: 80, rows: 24 });
        let request = CreateTerminalRequest { workspace: w.uid.clone(), size, run_as_root };
        ids.push(w.clients.session.clone().create_terminal(request).await?.into_inner().id);
    }
    Ok(ids)
}

/// The attacks that harm nothing are run where their defence is not: outside every sandbox, and in one with a capability
/// more. Each must report that it got out.
pub async fn attacks_can_succeed(s: Arc<Shared>) -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return skip("only root of the machine is stopped by nothing");
    }
    let program = paths::built_programs()?.join("cordium-escape");
    let mut blind = Vec::new();
    for case in CASES.iter().filter(|case| case.works_for_host_root) {
        // A session and mounts of its own, so that what works spoils nothing.
        let mut command = Command::new("setsid");
        command.args(["--wait", "unshare", "--mount", "--"]).arg(&program).args(["run", case.name, "host=1"]);
        let report = report_of(&process::run(command.args(s.facts()?))?)?;
        println!("{} outside every sandbox: {:?}", case.name, report.verdict());
        // What this kernel does not have cannot be attacked.
        if !matches!(report.verdict(), Verdict::Escaped | Verdict::Unsupported) {
            show(case.name, &report);
            blind.push(case.name);
        }
    }
    s.forgive()?;
    let spec = s.f.small(json!({"runtime": {"capabilities": {"add": ["SYS_PTRACE"]}}}));
    let weak = s.f.run("weak", &spec).await?;
    equip(&s.f, &weak)?;
    for name in ["agent_memory", "namespaces_outward"] {
        let report = run_in(&weak, name, &s.facts()?, false).await?;
        println!("{name} with CAP_SYS_PTRACE: {:?}", report.verdict());
        if report.verdict() != Verdict::Escaped {
            show(name, &report);
            blind.push(name);
        }
    }
    weak.delete().await?;
    ensure!(blind.is_empty(), "these do not notice when they succeed: {}", blind.join(", "));
    s.unharmed().await
}

/// CVE-2019-5736 against the path of an exec: what is to be executed leads to the program that executes.
pub async fn exec_of_proc_self_exe(s: Arc<Shared>) -> Result<()> {
    let w = s.attacker.clone();
    w.root_ok("printf '#!/proc/self/exe idle\\n' > /workspace/trap && chmod 755 /workspace/trap").await?;
    let trapped = tokio::spawn({
        let w = w.clone();
        async move {
            w.exec_with(
                ExecStart {
                    command: vec!["/workspace/trap".into()],
                    run_as_root: true,
                    ..Default::default()
                },
                None,
            )
            .await
        }
    });
    let script = "agent=/run/cordium/bin/cordium-agent
        for try in $(seq 100); do
            for p in /proc/[0-9]*; do
                [ $p != /proc/1 ] && [ \"$(readlink $p/exe 2>/dev/null)\" = $agent ] || continue
                echo trapped
                (printf x >> $p/exe) 2>/dev/null && echo written
                (: > $p/exe) 2>/dev/null && echo truncated
                kill ${p#/proc/}
                exit 0
            done
            usleep 20000
        done";
    let seen = w.root(script).await?.out();
    let ended = tokio::time::timeout(Duration::from_secs(20), trapped).await.context("the trap holds")?;
    println!("exec_of_proc_self_exe: {seen:?}, the exec: {:?}", ended.map(|r| r.map(|output| output.code())));
    ensure!(!seen.contains("written") && !seen.contains("truncated"), "the agent's binary could be written");
    ensure_eq!(seen, "trapped");
    w.root_ok("rm /workspace/trap").await?;
    s.unharmed().await
}

/// CVE-2024-21626: a working directory by way of a descriptor that somebody left open.
pub async fn exec_in_a_stolen_directory(s: Arc<Shared>) -> Result<()> {
    let mut dirs: Vec<String> = (0..24).map(|number| format!("/proc/self/fd/{number}")).collect();
    dirs.extend(
        ["/proc/1/cwd", "/proc/1/root", "/proc/1/fd/3", "/proc/self/cwd/../../..", "/proc/self/root/.."]
            .map(str::to_owned),
    );
    let marker = s.marker().display().to_string();
    let script = format!(
        "pwd; for up in . .. ../.. ../../.. ../../../.. ../../../../../../../..; do cat $up{marker} 2>/dev/null; done; exit 0"
    );
    for working_dir in dirs {
        let command = vec!["sh".to_owned(), "-c".to_owned(), script.clone()];
        let start =
            ExecStart { command, run_as_root: true, working_dir: working_dir.clone(), ..Default::default() };
        match s.attacker.exec_with(start, None).await {
            Ok(output) => {
                ensure!(!output.out().contains("untouched"), "{working_dir} leads out: {}", output.out());
                ensure!(
                    !output.out().contains("unreachable"),
                    "{working_dir} is outside the root: {}",
                    output.out()
                );
                println!("{working_dir}: {:?} {}", output.out(), output.exit.error);
            }
            Err(error) => println!("{working_dir}: {error:#}"),
        }
    }
    s.unharmed().await
}

/// A procfs of lies in the agent's own mount namespace.
pub async fn exec_while_proc_is_covered(s: Arc<Shared>) -> Result<()> {
    let w = &s.attacker;
    let marker = s.marker();
    w.root_ok(&format!(
        "mount -t tmpfs lies /proc && mkdir -p /proc/self/attr /proc/self/fd /proc/thread-self/attr /proc/1 /proc/sys/kernel \
         && ln -s {0} /proc/self/attr/exec && ln -s {0} /proc/self/exe && ln -s {0} /proc/self/oom_score_adj && ln -s / /proc/self/root",
        marker.display()
    ))
    .await?;
    let during = w.exec(&["/workspace/cordium-escape", "list"]).await;
    println!("exec while /proc is covered: {:?}", during.map(|output| (output.code(), output.exit.error)));
    ensure_eq!(s.neighbour.ok("echo alive").await?, "alive");
    w.root_ok("umount -l /proc").await?;
    s.unharmed().await
}
