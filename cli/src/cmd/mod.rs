//! One file per command.

pub mod apply;
pub mod audit;
pub mod completion;
pub mod create;
pub mod delete;
pub mod doctor;
pub mod egress;
pub mod exec;
pub mod get;
pub mod image;
pub mod logs;
pub mod open;
pub mod policy;
pub mod port_forward;
pub mod ports;
pub mod resource;
pub mod run;
pub mod schema;
pub mod secret_input;
pub mod setup;
pub mod start;
pub mod status;
pub mod stop;
pub mod terminal;
pub mod version;
pub mod volume;
pub mod watch;
mod workspace_status;

use crate::{
    args::{Cli, Command},
    error::{CliResult, Doing as _},
};

/// The exit code of a command.
pub type Outcome = CliResult<u8>;

pub fn dispatch(cli: Cli) -> Outcome {
    let global = &cli.global;
    match cli.command {
        Command::Completion(args) => completion::run(&args),
        Command::Schema(args) => schema::run(&args),
        Command::Policy(args) => block_on(policy::run(global, args)),
        Command::Setup(args) => setup::run(&args),
        Command::Run(args) => block_on(run::run(global, args)),
        Command::Create(args) => block_on(create::run(global, args)),
        Command::Apply(args) => block_on(apply::run(global, args)),
        Command::Start(args) => block_on(start::run(global, args)),
        Command::Stop(args) => block_on(stop::run(global, args)),
        Command::Delete(args) => block_on(delete::run(global, args)),
        Command::Get(args) => block_on(get::run(global, args)),
        Command::Exec(args) => block_on(exec::run(global, args)),
        Command::Terminal(args) => block_on(terminal::run(global, args)),
        Command::Open(args) => block_on(open::run(global, args)),
        Command::Ports(args) => block_on(ports::run(global, args)),
        Command::PortForward(args) => block_on(port_forward::run(global, args)),
        Command::Logs(args) => block_on(logs::run(global, args)),
        Command::Watch(args) => block_on(watch::run(global, args)),
        Command::Egress(args) => block_on(egress::run(global, args)),
        Command::Volume(args) => block_on(volume::run(global, args)),
        Command::Image(args) => block_on(image::run(global, args)),
        Command::Audit(args) => block_on(audit::run(global, args)),
        Command::Doctor(args) => block_on(doctor::run(global, args)),
        Command::Status(args) => block_on(status::run(global, args)),
        Command::Version(args) => block_on(version::run(global, args)),
    }
}

fn block_on(work: impl Future<Output = Outcome>) -> Outcome {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().doing("start the runtime")?;
    let outcome = runtime.block_on(work);
    // A thread may be blocked on reading the terminal.
    runtime.shutdown_background();
    outcome
}
