//! Durations as clients write them: `"60s"`, `"1h 30m"`, or a whole number of seconds.

use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::{Serialize, Serializer};

/// A duration as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DurationForm {
    /// A number of seconds.
    Seconds(i64),
    /// A number with its unit.
    Text(String),
}

impl DurationForm {
    /// The form that shows so many milliseconds.
    pub(crate) fn of_ms(ms: u64) -> Self {
        Self::Text(show_ms(ms))
    }

    /// In milliseconds, or what is wrong with it. It may be zero or less: whether that makes sense is not known here.
    pub(crate) fn ms(&self) -> Result<i64, String> {
        match self {
            Self::Seconds(seconds) => Ok(seconds.saturating_mul(1_000)),
            Self::Text(text) => parse_ms(text),
        }
    }
}

/// Reads `"60s"`, `"250ms"`, or `"60"`, which is seconds.
pub(crate) fn parse_ms(text: &str) -> Result<i64, String> {
    if let Ok(seconds) = text.trim().parse::<i64>() {
        return Ok(seconds.saturating_mul(1_000));
    }
    let shown: String = text.chars().take(32).collect();
    let duration = humantime::parse_duration(text.trim())
        .map_err(|_| format!("a duration like \"60s\" or \"1h\", or a number of seconds, not {shown:?}"))?;
    Ok(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX))
}

/// As people write it.
pub(crate) fn show_ms(ms: u64) -> String {
    humantime::format_duration(Duration::from_millis(ms)).to_string()
}

impl Serialize for DurationForm {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Seconds(seconds) => to.serialize_i64(*seconds),
            Self::Text(text) => to.serialize_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for DurationForm {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Form)
    }
}

struct Form;

impl Visitor<'_> for Form {
    type Value = DurationForm;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number of seconds or a duration like \"60s\"")
    }

    fn visit_i64<E: Error>(self, seconds: i64) -> Result<DurationForm, E> {
        Ok(DurationForm::Seconds(seconds))
    }

    fn visit_u64<E: Error>(self, seconds: u64) -> Result<DurationForm, E> {
        Ok(DurationForm::Seconds(i64::try_from(seconds).unwrap_or(i64::MAX)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<DurationForm, E> {
        Ok(DurationForm::Text(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_seconds_or_a_number_with_its_unit() {
        for (written, ms) in [
            ("60", 60_000),
            ("\"60\"", 60_000),
            ("\"60s\"", 60_000),
            ("\"250ms\"", 250),
            ("\"1h 30m\"", 5_400_000),
            ("0", 0),
            ("-5", -5_000),
            ("9223372036854775807", i64::MAX),
            ("18446744073709551615", i64::MAX),
        ] {
            let form: DurationForm = serde_json::from_str(written).unwrap();
            assert_eq!(form.ms(), Ok(ms), "{written}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_the_forms_it_may_have() {
        let form: DurationForm = serde_json::from_str("\"soon\"").unwrap();
        assert_eq!(form.ms().unwrap_err(), "a duration like \"60s\" or \"1h\", or a number of seconds, not \"soon\"");
        for written in ["1.5", "true", "{}", "[]"] {
            let error = serde_json::from_str::<DurationForm>(written).unwrap_err().to_string();
            assert!(error.contains("a whole number of seconds or a duration like \"60s\""), "{error}");
        }
    }

    #[test]
    fn a_duration_is_shown_as_it_can_be_read_back() {
        for ms in [1, 100, 60_000, 3_600_000, 5_400_000, 86_400_000] {
            assert_eq!(parse_ms(&show_ms(ms)), Ok(i64::try_from(ms).unwrap()));
        }
    }
}
