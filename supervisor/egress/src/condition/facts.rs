//! What conditions are asked about.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use cel::common::types::{CelBool, CelInt, CelString};
use cel::common::value::CowVal;
use cel::context::VariableResolver;
use serde::{Deserialize, Serialize};

use super::field::HAS;
use crate::{Host, PolicyError, Request};

/// The longest text of a subject, in bytes.
const MAX_TEXT: usize = 256;

/// Whose flows a policy decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Subject {
    /// The workspace's name, uid and space.
    pub workspace: String,
    pub uid: String,
    pub space: String,
    /// The template that it was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Who started it, as far as that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

impl Subject {
    pub(crate) fn check(&self) -> Result<(), PolicyError> {
        let always = [("workspace", &self.workspace), ("uid", &self.uid), ("space", &self.space)];
        let sometimes = [("template", &self.template), ("user", &self.user)];
        let sometimes = sometimes.iter().filter_map(|(field, text)| Some((*field, text.as_ref()?)));
        for (field, text) in always.into_iter().chain(sometimes) {
            if text.len() > MAX_TEXT || text.chars().any(char::is_control) {
                let allowed = format!("at most {MAX_TEXT} bytes, all printable");
                return Err(PolicyError::new(format!("context.{field}"), "another text", allowed));
            }
        }
        Ok(())
    }
}

/// When something is decided: whole seconds, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(i64);

const DAY: i64 = 24 * 60 * 60;

impl From<SystemTime> for Moment {
    fn from(time: SystemTime) -> Self {
        let seconds = match time.duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX),
        };
        Self::at(seconds)
    }
}

impl Moment {
    /// Seconds since 1970; cut to the years 0 to 9999.
    pub fn at(seconds: i64) -> Self {
        Self(seconds.clamp(-62_167_219_200, 253_402_300_799))
    }

    #[cfg(test)]
    pub(crate) fn seconds(self) -> i64 {
        self.0
    }

    fn hour(self) -> i64 {
        self.0.rem_euclid(DAY) / 3600
    }

    fn minute(self) -> i64 {
        self.0.rem_euclid(3600) / 60
    }

    /// Sunday is 0.
    fn weekday(self) -> i64 {
        (self.0.div_euclid(DAY) + 4).rem_euclid(7)
    }

    /// Such as `2026-11-21`: compared as text, earlier is less.
    pub(crate) fn date(self) -> String {
        // Days since 0000-03-01, so that a leap day ends its year.
        let days = self.0.div_euclid(DAY) + 719_468;
        let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let (month, late) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        format!("{:04}-{month:02}-{day:02}", era * 400 + year + late)
    }
}

/// Where a flow goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub address: IpAddr,
    pub port: u16,
    pub protocol: &'a str,
}

/// All that is known when a condition is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    pub subject: &'a Subject,
    pub at: Moment,
    pub host: Option<&'a Host>,
    /// Unknown while a name is resolved.
    pub place: Option<Place<'a>>,
    /// Unknown until one has come.
    pub request: Option<&'a Request<'a>>,
}

impl VariableResolver for Facts<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        let text = |text: &'b str| Some(CowVal::owned(CelString::from(text)));
        let int = |value: i64| Some(CowVal::owned(CelInt::from(value)));
        if let Some(optional) = variable.strip_prefix(HAS) {
            return Some(CowVal::owned(CelBool::from(self.resolve(optional).is_some())));
        }
        match variable {
            "ctx.workspace.name" => text(&self.subject.workspace),
            "ctx.workspace.uid" => text(&self.subject.uid),
            "ctx.workspace.space" => text(&self.subject.space),
            "ctx.workspace.template" => text(self.subject.template.as_deref()?),
            "ctx.user.name" => text(self.subject.user.as_deref()?),
            "ctx.request.host" => text(self.host?.as_str()),
            "ctx.request.address" => Some(CowVal::owned(CelString::from(self.place?.address.to_string()))),
            "ctx.request.port" => int(self.place?.port.into()),
            "ctx.request.protocol" => text(self.place?.protocol),
            "ctx.request.method" => text(self.request?.method()),
            "ctx.request.path" => text(self.request?.path().ok()?),
            "ctx.time.hour" => int(self.at.hour()),
            "ctx.time.minute" => int(self.at.minute()),
            "ctx.time.weekday" => int(self.at.weekday()),
            "ctx.time.date" => Some(CowVal::owned(CelString::from(self.at.date()))),
            "ctx.time.timestamp" => int(self.at.0),
            _ => None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_hours_are_those_of_utc() {
        for (seconds, date, hour, minute, weekday) in [
            (0, "1970-01-01", 0, 0, 4),
            (-1, "1969-12-31", 23, 59, 3),
            (951_825_599, "2000-02-29", 11, 59, 2),
            (951_868_800, "2000-03-01", 0, 0, 3),
            (1_795_298_193, "2026-11-21", 21, 56, 6),
            (4_107_542_400, "2100-03-01", 0, 0, 1),
            (i64::MAX, "9999-12-31", 23, 59, 5),
            (i64::MIN, "0000-01-01", 0, 0, 6),
        ] {
            let moment = Moment::at(seconds);
            assert_eq!(moment.date(), date);
            assert_eq!((moment.hour(), moment.minute(), moment.weekday()), (hour, minute, weekday), "{date}");
        }
    }

    #[test]
    fn texts_of_a_subject_are_bounded() {
        assert!(Subject { user: Some("x".repeat(256)), ..Default::default() }.check().is_ok());
        for bad in ["x".repeat(257), "a\nb".into()] {
            let error = Subject { user: Some(bad), ..Default::default() }.check().unwrap_err();
            assert_eq!(error.path, "context.user");
        }
    }
}
