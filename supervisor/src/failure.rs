//! Why a run fails, as it is told: the type, and a message that is never empty or endless.

use cordium_proto::v1::{
    Failure,
    failure::{Type, Unit},
};

/// The longest message that goes into a phase event.
const MESSAGE_BYTES: usize = 8 << 10;

/// A failure of one of the plain types.
pub fn failure(make: fn(Unit) -> Type, message: impl Into<String>) -> Failure {
    Failure { message: bounded(message.into()), r#type: Some(make(Unit {})) }
}

/// A failure that came from the agent, made fit to be stored.
pub fn from_agent(mut reported: Failure) -> Failure {
    reported.message = bounded(reported.message);
    if reported.message.is_empty() {
        reported.message = "the run failed and the agent gave no reason".to_owned();
    }
    reported.r#type.get_or_insert(Type::Unknown(Unit {}));
    reported
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
}
