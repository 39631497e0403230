//! The field that is being checked. Its path is written out only when there is an error to tell.

use std::fmt::Display;

use crate::error::SpecError;
use crate::vars;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Draft,
    Resolved,
}

#[derive(Clone, Copy)]
enum Segment<'a> {
    Field(&'a str),
    Index(usize),
}

#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    parent: Option<&'a At<'a>>,
    segment: Segment<'a>,
    pub(crate) stage: Stage,
}

impl<'a> At<'a> {
    pub(crate) fn root(name: &'a str, stage: Stage) -> Self {
        Self { parent: None, segment: Segment::Field(name), stage }
    }

    pub(crate) fn field(&'a self, name: &'a str) -> At<'a> {
        At { parent: Some(self), segment: Segment::Field(name), stage: self.stage }
    }

    pub(crate) fn index(&'a self, index: usize) -> At<'a> {
        At { parent: Some(self), segment: Segment::Index(index), stage: self.stage }
    }

    pub(crate) fn path(&self) -> String {
        let parent = self.parent.map(At::path).unwrap_or_default();
        match self.segment {
            Segment::Field(name) if parent.is_empty() => name.to_string(),
            Segment::Field(name) => format!("{parent}.{name}"),
            Segment::Index(index) => format!("{parent}[{index}]"),
        }
    }

    /// True when the text holds a variable that is still to be replaced.
    pub(crate) fn is_open(&self, text: &str) -> bool {
        self.stage == Stage::Draft && vars::has_placeholder(text)
    }

    pub(crate) fn error(&self, message: impl Into<String>) -> SpecError {
        SpecError::new(self.path(), message)
    }

    pub(crate) fn was(&self, value: &str, allowed: impl Display) -> SpecError {
        SpecError::was(self.path(), value, allowed)
    }

    pub(crate) fn missing(&self, allowed: impl Display) -> SpecError {
        self.error(format!("missing; allowed: {allowed}"))
    }

    /// At most `max` entries as written; three times as many once Template, Workspace and Space are one.
    pub(crate) fn count(&self, length: usize, max: usize) -> Result<(), SpecError> {
        let max = if self.stage == Stage::Resolved { 3 * max } else { max };
        if length > max {
            return Err(self.error(format!("was a list of {length}; allowed: at most {max}")));
        }
        Ok(())
    }
}
