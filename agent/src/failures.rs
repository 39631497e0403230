//! Failures of a run, as the supervisor records them.

use std::time::Duration;

use cordium_proto::v1::Failure;
use cordium_proto::v1::failure::{NamedFailure, TaskFailure, Type, Unit};

pub fn unknown(message: String) -> Failure {
    Failure { message, r#type: Some(Type::StartupUnknown(Unit {})) }
}

/// `name` is empty for the primary repository.
pub fn clone(name: &str, message: String) -> Failure {
    let r#type = match name {
        "" => Type::RepoClone(Unit {}),
        name => Type::AdditionalRepoClone(NamedFailure { name: name.into() }),
    };
    Failure { message, r#type: Some(r#type) }
}

pub fn task(name: &str, exit_code: i32, message: String) -> Failure {
    killed_task(name, exit_code, message, String::new())
}

/// `killed` is the process that SIGKILL ended, if one did.
pub fn killed_task(name: &str, exit_code: i32, message: String, killed: String) -> Failure {
    Failure { message, r#type: Some(Type::Task(TaskFailure { name: name.into(), exit_code, killed })) }
}

pub fn too_slow(what: &str, budget: Duration) -> Failure {
    let message = format!("{what} was not done within the {} for start-up", human(budget));
    Failure { message, r#type: Some(Type::StartupTimeoutExceeded(Unit {})) }
}

/// `90s`, `5m`, `250ms`: as specs write durations.
pub fn human(duration: Duration) -> String {
    let millis = duration.as_millis();
    match millis {
        _ if !millis.is_multiple_of(1000) => format!("{millis}ms"),
        _ if millis.is_multiple_of(60_000) && millis > 0 => format!("{}m", millis / 60_000),
        _ => format!("{}s", millis / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_they_are_written() {
        let read = |millis| human(Duration::from_millis(millis));
        assert_eq!([read(90_000), read(300_000), read(250), read(0)], ["90s", "5m", "250ms", "0s"]);
    }
}
