//! Where traces go, and how many: the types of the settings in `telemetry.traces`.

use std::fmt;
use std::str::FromStr;

use super::address::HostPort;
use super::value::{Raw, Value, parse, quoted};

/// Where OpenTelemetry's collectors listen for HTTP.
const PORT: u16 = 4318;
/// Where they take traces.
const PATH: &str = "/v1/traces";
const SCHEME: &str = "http://";

/// A collector of traces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    at: HostPort,
    path: String,
}

impl Endpoint {
    /// The host; an IPv6 address stands without brackets.
    pub fn host(&self) -> &str {
        &self.at.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.at.port
    }

    /// Host and port as a request names them.
    pub fn authority(&self) -> String {
        self.at.to_string()
    }

    /// What is asked for there.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl FromStr for Endpoint {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let rest = text.strip_prefix(SCHEME).ok_or(())?;
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let at = HostPort::parse(authority).or_else(|| HostPort::parse(&format!("{authority}:{PORT}"))).ok_or(())?;
        let is_plain = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        let path = if path.trim_end_matches('/').is_empty() { PATH } else { path };
        if is_plain { Ok(Self { at, path: path.to_owned() }) } else { Err(()) }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}{}", self.at, self.path)
    }
}

impl Value for Option<Endpoint> {
    fn read(raw: &Raw<'_>) -> Result<Self, String> {
        let parser = |text: &str| if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) };
        parse(raw, "a plain HTTP address such as \"http://127.0.0.1:4318\", or \"\" for none", parser)
    }

    fn write(&self) -> String {
        quoted(&self.as_ref().map(ToString::to_string).unwrap_or_default())
    }
}

/// A part of a whole, to a millionth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ratio(u32);

impl Ratio {
    /// All, in millionths.
    pub const ALL: u32 = 1_000_000;

    /// In millionths.
    pub const fn per_million(self) -> u32 {
        self.0
    }
}

impl FromStr for Ratio {
    type Err = ();

    /// Reads `0`, `1` or a fraction with up to six digits.
    fn from_str(text: &str) -> Result<Self, ()> {
        const DIGITS: usize = 6;
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let is_number = |part: &str| part.bytes().all(|digit| digit.is_ascii_digit());
        let fraction = fraction.trim_end_matches('0');
        if whole.is_empty() || !is_number(whole) || !is_number(fraction) || fraction.len() > DIGITS {
            return Err(());
        }
        let millionths: u32 = format!("{fraction:0<DIGITS$}").parse().map_err(|_| ())?;
        let whole: u32 = whole.parse().map_err(|_| ())?;
        let all = whole.checked_mul(Self::ALL).and_then(|whole| whole.checked_add(millionths)).ok_or(())?;
        if all <= Self::ALL { Ok(Self(all)) } else { Err(()) }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:06}", self.0 / Self::ALL, self.0 % Self::ALL);
        let text = text.trim_end_matches('0');
        // TOML has no fraction without a digit.
        if text.ends_with('.') { write!(f, "{text}0") } else { f.write_str(text) }
    }
}

impl Value for Ratio {
    fn read(raw: &Raw<'_>) -> Result<Self, String> {
        const EXPECTED: &str = "a number from 0 to 1 with up to six digits, such as 0.01";
        let by_number = |text: &str| text.parse().map_err(|()| format!("expects {EXPECTED}, and {text} is not one"));
        match raw {
            Raw::Integer(number) => by_number(&number.to_string()),
            Raw::Float(text) => by_number(text),
            other => parse(other, EXPECTED, |text| text.parse().ok()),
        }
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_a_plain_http_address_with_the_usual_port_and_path() {
        let told = |text: &str| text.parse::<Endpoint>().map(|endpoint| endpoint.to_string());
        assert_eq!(told("http://collector").unwrap(), "http://collector:4318/v1/traces");
        assert_eq!(told("http://10.0.0.1:9999/").unwrap(), "http://10.0.0.1:9999/v1/traces");
        assert_eq!(told("http://[::1]:4318/otlp/v1/traces").unwrap(), "http://[::1]:4318/otlp/v1/traces");
        for wrong in
            ["", "collector:4318", "https://collector:4318", "http://", "http://a b", "http://a/b c", "http://a:x"]
        {
            assert_eq!(told(wrong), Err(()), "{wrong}");
        }
    }

    #[test]
    fn a_part_of_a_whole_is_read_to_a_millionth() {
        let millionths = |text: &str| text.parse::<Ratio>().map(Ratio::per_million);
        assert_eq!(
            ["0", "1", "0.01", "0.000001", "1.0", "0.250"].map(millionths),
            [0, 1_000_000, 10_000, 1, 1_000_000, 250_000].map(Ok)
        );
        for wrong in ["", ".5", "1.000001", "2", "-0", "0.0000001", "1e-3", "a", "0.+1", "99999999999"] {
            assert_eq!(millionths(wrong), Err(()), "{wrong}");
        }
        let written = |text: &str| text.parse::<Ratio>().unwrap().to_string();
        assert_eq!(["0", "1", "0.010"].map(written), ["0.0", "1.0", "0.01"]);
    }
}
