//! Why a run fails, as it is told: the type, and a message that is never empty or endless.

use cordium_proto::v1::{
    Failure,
    failure::{NamedFailure, Type, Unit},
};

/// The longest message that goes into a phase event.
const MESSAGE_BYTES: usize = 8 << 10;
/// The longest name of a task, repository or volume in it.
const NAME_CHARS: usize = 256;

/// A failure of one of the plain types.
pub fn failure(make: fn(Unit) -> Type, message: impl Into<String>) -> Failure {
    Failure { message: bounded(message.into()), r#type: Some(make(Unit {})) }
}

/// A failure that one volume is to blame for.
pub fn volume_failure(name: &str, message: impl Into<String>) -> Failure {
    let named = NamedFailure { name: short(name) };
    Failure { message: bounded(message.into()), r#type: Some(Type::Volume(named)) }
}

/// A failure that came from the agent, made fit to be stored.
pub fn from_agent(mut reported: Failure) -> Failure {
    reported.message = bounded(reported.message);
    if reported.message.is_empty() {
        reported.message = "the run failed and the agent gave no reason".to_owned();
    }
    match reported.r#type.get_or_insert(Type::Unknown(Unit {})) {
        Type::AdditionalRepoClone(named) | Type::Volume(named) => named.name = short(&named.name),
        Type::Task(task) => {
            task.name = short(&task.name);
            task.killed = short(&task.killed);
        }
        _ => {}
    }
    reported
}

fn short(name: &str) -> String {
    name.chars().take(NAME_CHARS).collect()
}

/// Keeps the beginning and, as the last lines of output matter most, the end.
fn bounded(message: String) -> String {
    if message.len() <= MESSAGE_BYTES {
        return message;
    }
    let mut head = 1024;
    while !message.is_char_boundary(head) {
        head -= 1;
    }
    let mut tail = message.len() - (MESSAGE_BYTES - 1100);
    while !message.is_char_boundary(tail) {
        tail += 1;
    }
    format!("{}\n[… left out …]\n{}", &message[..head], &message[tail..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_keep_both_ends() {
        let text = format!("start {} end", "ä".repeat(20_000));
        let failure = failure(Type::Unknown, text);
        assert!(failure.message.len() <= MESSAGE_BYTES);
        assert!(failure.message.starts_with("start ä") && failure.message.ends_with("ä end"));
    }

    #[test]
    fn an_agents_failure_always_has_a_type_and_words() {
        let failure = from_agent(Failure::default());
        assert!(failure.r#type.is_some() && !failure.message.is_empty());
    }

    #[test]
    fn an_agents_names_are_cut() {
        use cordium_proto::v1::failure::TaskFailure;
        let task = TaskFailure { name: "n".repeat(1 << 20), exit_code: 1, ..Default::default() };
        let failure = from_agent(Failure { message: "m".into(), r#type: Some(Type::Task(task)) });
        let Some(Type::Task(task)) = failure.r#type else { panic!("the type was lost") };
        assert_eq!((task.name.len(), task.exit_code), (NAME_CHARS, 1));
    }
}
