//! What the conditions of a policy are tried with.

use cordium_egress::{Moment, Subject};
use jiff::Timestamp;

#[derive(clap::Args, Debug, Default)]
#[group(id = "context")]
pub struct Args {
    /// What conditions find in ctx: workspace.name, workspace.uid, workspace.space, workspace.template, user.name
    #[arg(long = "ctx", value_name = "FIELD=TEXT", value_parser = field)]
    pub fields: Vec<(Field, String)>,
    /// When the connection is made, for ctx.time, such as 2026-11-21T08:00:00Z [default: now]
    #[arg(long, value_name = "TIME")]
    pub at: Option<Timestamp>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    Name,
    Uid,
    Space,
    Template,
    User,
}

const FIELDS: [(&str, Field); 5] = [
    ("workspace.name", Field::Name),
    ("workspace.uid", Field::Uid),
    ("workspace.space", Field::Space),
    ("workspace.template", Field::Template),
    ("user.name", Field::User),
];

fn field(text: &str) -> Result<(Field, String), String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    let name = name.strip_prefix("ctx.").unwrap_or(name);
    match FIELDS.iter().find(|(known, _)| *known == name) {
        Some((_, field)) if text.contains('=') => Ok((*field, value.to_owned())),
        _ => {
            let known: Vec<&str> = FIELDS.iter().map(|(name, _)| *name).collect();
            Err(format!("was {text:?}; expected FIELD=TEXT with one of {}", known.join(", ")))
        }
    }
}

impl Args {
    pub fn subject(&self) -> Subject {
        let mut subject = Subject::default();
        for (field, text) in &self.fields {
            let text = text.clone();
            match field {
                Field::Name => subject.workspace = text,
                Field::Uid => subject.uid = text,
                Field::Space => subject.space = text,
                Field::Template => subject.template = Some(text),
                Field::User => subject.user = Some(text),
            }
        }
        subject
    }

    pub fn moment(&self) -> Moment {
        Moment::at(self.at.unwrap_or_else(Timestamp::now).as_second())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn fields_are_named_with_or_without_ctx() {
        assert_eq!(field("user.name=uid 1=2"), Ok((Field::User, "uid 1=2".to_owned())));
        assert_eq!(field("ctx.workspace.space=lab"), Ok((Field::Space, "lab".to_owned())));
        for bad in ["user.name", "request.port=1", "=x", ""] {
            assert!(field(bad).unwrap_err().contains("workspace.template"), "{bad}");
        }
        let fields = vec![(Field::Name, "dev".into()), (Field::Template, "python".into())];
        let args = Args { fields, at: Some("2026-11-21T21:56:33Z".parse().unwrap()) };
        let subject = args.subject();
        assert_eq!((subject.workspace.as_str(), subject.template.as_deref()), ("dev", Some("python")));
        assert_eq!(args.moment(), Moment::at(1_795_298_193));
    }
}
