//! `cordium-escape`: what the driver runs inside a sandbox.

use std::{
    io::{self, Read, Write},
    process::ExitCode,
};

use anyhow::{Context, Result, bail};
use cordium_escape::{CASES, Facts, Probe, exhaust, find};

fn main() -> ExitCode {
    match run(std::env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cordium-escape: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(mut args: impl Iterator<Item = String>) -> Result<()> {
    let command = args.next().context("run|hold|need|list|listen|dig|confinement|clear-death-signal")?;
    match command.as_str() {
        "list" => {
            for case in CASES {
                println!("{}", case.name);
            }
            Ok(())
        }
        "run" => {
            let name = args.next().context("run which case?")?;
            let case = find(&name).with_context(|| format!("there is no case {name:?}"))?;
            let mut probe = Probe::new(Facts::parse(args)?);
            (case.run)(&mut probe);
            say(&serde_json::to_string(&probe.into_report())?)
        }
        "hold" => {
            let kind = exhaust::find(&args.next().context("hold what?")?)?;
            let held = (kind.hold)();
            say(&format!("held {} of {}, then {}", held.count, kind.name, held.end))?;
            wait_for_end();
            Ok(())
        }
        "need" => {
            let kind = exhaust::find(&args.next().context("need what?")?)?;
            (kind.need)().with_context(|| format!("using {}", kind.name))?;
            say("ok")
        }
        // An abstract socket, held until standard input ends.
        "listen" => {
            let _listener = cordium_escape::listen_abstract(&args.next().context("listen where?")?)?;
            say("listening")?;
            wait_for_end();
            Ok(())
        }
        // Directories within directories, until the kernel refuses or there are enough.
        "dig" => {
            let base = args.next().context("dig where?")?;
            let most = args.next().context("dig how deep?")?.parse()?;
            say(&cordium_escape::dig(base.as_ref(), most))
        }
        // What a program that was executed in an unusual way still is confined by.
        "confinement" => say(&cordium_escape::confinement()?),
        "clear-death-signal" => {
            cordium_escape::clear_parent_death_signal(1).context("rewriting PID 1")?;
            say("cleared")
        }
        other => bail!("unknown command {other:?}"),
    }
}

fn say(line: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

fn wait_for_end() {
    // An error ends the wait as well.
    let _ = io::stdin().read_to_end(&mut Vec::new());
}
