//! The types of settings: how each is written, in a file (TOML) and as plain text (environment, `--set`, flags).

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A value as its source gives it.
pub(super) enum Raw<'a> {
    /// Plain text, whose type is the setting's.
    Text(&'a str),
    /// A TOML string.
    String(&'a str),
    /// A TOML integer.
    Integer(i64),
    /// A TOML number with a fraction, as it is written.
    Float(&'a str),
    /// A TOML boolean.
    Bool(bool),
    /// A TOML array of strings.
    List(Vec<&'a str>),
    /// What no setting takes.
    Other,
}

impl Raw<'_> {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::String(text) => Some(text),
            _ => None,
        }
    }
}

/// A type of settings.
pub(super) trait Value: Sized {
    /// Takes what a source gives, or says what is expected instead.
    fn read(raw: &Raw<'_>) -> Result<Self, String>;
    /// As TOML.
    fn write(&self) -> String;
}

pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Reads text with a parser; `expected` completes "expects ...".
pub(super) fn parse<T>(raw: &Raw<'_>, expected: &str, parser: impl FnOnce(&str) -> Option<T>) -> Result<T, String> {
    let told = match raw {
        Raw::Text(text) | Raw::String(text) => format!("{text:?}"),
        Raw::Integer(number) => number.to_string(),
        Raw::Float(number) => (*number).to_owned(),
        Raw::Bool(value) => value.to_string(),
        Raw::List(_) => "a list".to_owned(),
        Raw::Other => "this".to_owned(),
    };
    raw.text().and_then(|text| parser(text.trim())).ok_or_else(|| format!("expects {expected}, and {told} is not one"))
}

impl Value for String {
    fn read(raw: &Raw<'_>) -> Result<Self, String> {
        parse(raw, "text", |text| Some(text.to_owned()))
    }
    fn write(&self) -> String {
        quoted(self)
    }
}

impl Value for PathBuf {
    fn read(raw: &Raw<'_>) -> Result<Self, String> {
        parse(raw, "a path", |text| Some(text.into()))
    }
    fn write(&self) -> String {
        quoted(&self.to_string_lossy())
    }
}

impl Value for bool {
    fn read(raw: &Raw<'_>) -> Result<Self, String> {
        match raw {
            Raw::Bool(value) => Ok(*value),
            Raw::Text(text) => parse(raw, "true or false", |_| text.trim().parse().ok()),
            _ => parse(raw, "true or false, without quotes", |_| None),
        }
    }
    fn write(&self) -> String {
        self.to_string()
    }
}

macro_rules! integer {
    ($($kind:ty),*) => {$(
        impl Value for $kind {
            fn read(raw: &Raw<'_>) -> Result<Self, String> {
                let expected = concat!("a whole number from 0 to ", stringify!($kind));
                let expected = expected.replace(stringify!($kind), &Self::MAX.to_string());
                match raw {
                    Raw::Integer(number) => Self::try_from(*number)
                        .map_err(|_| format!("expects {expected}, and {number} is not one")),
                    Raw::Text(text) => parse(raw, &expected, |_| text.trim().parse().ok()),
                    _ => parse(raw, &format!("{expected}, without quotes"), |_| None),
                }
            }
            fn write(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

integer!(u16, u32, u64);

impl Value for SocketAddr {
    fn read(raw: &Raw<'_>) -> Result<Self, String> {
        parse(raw, "an IP address and a port, such as \"127.0.0.1:8080\" or \"[::1]:8080\"", |text| text.parse().ok())
    }
    fn write(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Value for Duration {
    fn read(raw: &Raw<'_>) -> Result<Self, String> {
        let whole_ms = |duration: &Self| duration.subsec_nanos().is_multiple_of(1_000_000);
        parse(raw, "a duration of whole milliseconds, such as \"500ms\", \"10s\" or \"1h\"", |text| {
            humantime::parse_duration(text).ok().filter(whole_ms)
        })
    }
    fn write(&self) -> String {
        quoted(&short(self.as_millis()))
    }
}

/// Milliseconds in the largest unit that holds them without a rest.
fn short(ms: u128) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")];
    let fitting = units.into_iter().find(|(unit_ms, _)| ms.is_multiple_of(*unit_ms) && (ms > 0 || *unit_ms == 1000));
    fitting.map_or_else(|| format!("{ms}ms"), |(unit_ms, unit)| format!("{}{unit}", ms / unit_ms))
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct ByteSize(pub u64);

impl ByteSize {
    const UNITS: [(&'static str, u64); 9] = [
        ("TiB", 1 << 40),
        ("GiB", 1 << 30),
        ("MiB", 1 << 20),
        ("KiB", 1 << 10),
        ("B", 1),
        ("TB", 1_000_000_000_000),
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
        ("KB", 1_000),
    ];

    fn parse(text: &str) -> Option<Self> {
        let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
        let unit = text.strip_prefix(digits)?.trim();
        let (_, bytes) = Self::UNITS.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?;
        digits.parse::<u64>().ok()?.checked_mul(bytes).map(Self)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut binary = Self::UNITS.into_iter().take(5);
        let fitting = binary.find(|(_, bytes)| self.0 > 0 && self.0.is_multiple_of(*bytes));
        let (unit, bytes) = fitting.unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / bytes)
    }
}

impl Value for ByteSize {
    fn read(raw: &Raw<'_>) -> Result<Self, String> {
        parse(raw, "a size with its unit, such as \"512B\", \"4KiB\" or \"64MiB\"", Self::parse)
    }
    fn write(&self) -> String {
        quoted(&self.to_string())
    }
}

/// How wrong a node's wall clock is set, on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ClockOffset {
    /// Milliseconds ahead; behind if negative.
    pub ms: i64,
}

impl fmt::Display for ClockOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.ms < 0 { "-" } else { "" };
        write!(f, "{sign}{}", short(self.ms.unsigned_abs().into()))
    }
}

impl Value for ClockOffset {
    fn read(raw: &Raw<'_>) -> Result<Self, String> {
        let expected = "a duration with or without a sign, such as \"0s\", \"5m\" or \"-5m\"";
        parse(raw, expected, |text| {
            let (sign, length) = text.strip_prefix('-').map_or((1, text), |length| (-1, length));
            let length = Duration::read(&Raw::Text(length.strip_prefix('+').unwrap_or(length))).ok()?;
            Some(Self { ms: i64::try_from(length.as_millis()).ok()? * sign })
        })
    }
    fn write(&self) -> String {
        quoted(&self.to_string())
    }
}

macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $text,)* })
            }
        }

        impl Value for $name {
            fn read(raw: &Raw<'_>) -> Result<Self, String> {
                let expected = [$(concat!("\"", $text, "\"")),*].join(" or ");
                parse(raw, &expected, |text| match text { $($text => Some(Self::$variant),)* _ => None })
            }
            fn write(&self) -> String {
                quoted(&self.to_string())
            }
        }
    };
}

choice! {
    /// When a write is acknowledged.
    Durability {
        /// After its fsync.
        Sync = "sync",
        /// When it is in the log, which is synced at intervals: a loss of power takes back the last moments.
        Interval = "interval",
    }
}

choice! {
    /// How lines are logged.
    LogFormat {
        /// For people.
        Text = "text",
        /// One JSON document per line.
        Json = "json",
    }
}

/// What is logged: a level, and levels of their own for parts of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLevel(String);

impl LogLevel {
    /// As the filter reads it: `info` or `info,openraft=warn`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn parse(text: &str) -> Option<Self> {
        const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
        let is_directive = |part: &str| match part.split_once('=') {
            None => LEVELS.contains(&part),
            Some((target, level)) => {
                let is_target = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
                !target.is_empty() && target.chars().all(is_target) && LEVELS.contains(&level)
            }
        };
        text.split(',').all(is_directive).then(|| Self(text.to_owned()))
    }
}

impl Default for LogLevel {
    /// What an operator wants to know, without the bookkeeping of the libraries.
    fn default() -> Self {
        // Of a member that does not answer openraft logs an error several times a second, and one for every vote that it
        // does not give; `silence.rs` of the control plane tells it once, and `membership.rs` that Raft has stopped.
        Self("info,openraft=off,chitchat=warn".to_owned())
    }
}

impl Value for LogLevel {
    fn read(raw: &Raw<'_>) -> Result<Self, String> {
        let expected = "a level (off, error, warn, info, debug, trace), alone or with levels for parts of the program, \
                        such as \"info,openraft=debug\"";
        parse(raw, expected, Self::parse)
    }
    fn write(&self) -> String {
        quoted(&self.0)
    }
}
