//! `cordium-oci`: the OCI command line over `cordium-runtime`, so that engines and conformance suites can drive the code
//! that the keeper uses. Workspaces do not need it.

mod args;
mod commands;
mod failure_log;
mod resources;
mod sealed;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = args::Args::parse();
    let warnings = tracing_subscriber::fmt().with_writer(std::io::stderr).without_time().with_target(false);
    // libcontainer tells of its errors twice.
    warnings.with_env_filter("error,cordium_runtime=warn,libcontainer=off,libcgroups=off").init();
    let log = args.log.clone().map(|path| failure_log::FailureLog::new(path, args.log_format));
    let sealed = if args.command.enters_a_container() { sealed::ensure() } else { Ok(()) };
    match sealed.and_then(|()| commands::run(args)) {
        Ok(code) => code,
        Err(error) => {
            if let Some(log) = log {
                log.write(&error);
            }
            eprintln!("cordium-oci: {error:#}");
            ExitCode::FAILURE
        }
    }
}
