//! Paths and query parameters, byte by byte: keys hold any bytes, percent-encoded, which the usual extractors, made for
//! text, would refuse. Unknown parameters and parameters named twice are refused by name.

use bytes::Bytes;
use cube_replication::consistency::Level;
use cube_storage::model::Hlc;

use crate::edge::{EdgeError, parse_level};

/// The parts of a path behind `/api/v1/`, as they came.
pub(crate) struct PathParts<'a> {
    rest: &'a str,
}

impl<'a> PathParts<'a> {
    /// The parts of a path that one of the routes matched.
    pub(crate) fn of(path: &'a str) -> Self {
        Self { rest: path.strip_prefix("/api/v1/").unwrap_or_default() }
    }

    /// The part at a place, as a name.
    pub(crate) fn name(&self, place: usize) -> Result<String, EdgeError> {
        let part = decode("the path", self.rest.split('/').nth(place).unwrap_or_default())?;
        text("a name in the path", part)
    }

    /// Everything from a place on, slashes included.
    pub(crate) fn everything_from(&self, place: usize) -> Result<Bytes, EdgeError> {
        decode("the key", self.tail(place))
    }

    /// A partition key at a place, and the sort key behind it if there is one.
    pub(crate) fn row_from(&self, place: usize) -> Result<(Bytes, Bytes), EdgeError> {
        let tail = self.tail(place);
        let (key, sort) = tail.split_once('/').unwrap_or((tail, ""));
        if sort.contains('/') {
            let message = "a row is .../rows/{key} or .../rows/{key}/{sort}: a slash within a key is written %2F";
            return Err(EdgeError::invalid(message));
        }
        Ok((decode("the key", key)?, decode("the sort key", sort)?))
    }

    fn tail(&self, place: usize) -> &'a str {
        match place {
            0 => self.rest,
            _ => self.rest.splitn(place + 1, '/').nth(place).unwrap_or_default(),
        }
    }
}

/// Query parameters, each known and given once.
pub(crate) struct Parameters {
    given: Vec<(&'static str, Bytes)>,
}

impl Parameters {
    /// Reads a query. Whatever is not in `known` is refused.
    pub(crate) fn parse(query: Option<&str>, known: &[&'static str]) -> Result<Self, EdgeError> {
        let mut given: Vec<(&'static str, Bytes)> = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = text("a query parameter", decode_form("a query parameter", name)?)?;
            let Some(name) = known.iter().copied().find(|known| *known == name) else {
                return Err(unknown_parameter(&name, known));
            };
            if given.iter().any(|(before, _)| *before == name) {
                return Err(EdgeError::invalid(format!("the query parameter {name} is given twice")));
            }
            given.push((name, decode_form(name, value)?));
        }
        Ok(Self { given })
    }

    /// A parameter's bytes.
    pub(crate) fn bytes(&self, name: &str) -> Option<Bytes> {
        self.given.iter().find(|(given, _)| *given == name).map(|(_, value)| value.clone())
    }

    /// A parameter's text.
    pub(crate) fn text(&self, name: &'static str) -> Result<Option<String>, EdgeError> {
        self.bytes(name).map(|value| text(name, value)).transpose()
    }

    /// The parameter `cl`.
    pub(crate) fn level(&self) -> Result<Option<Level>, EdgeError> {
        self.text("cl")?.map(|word| parse_level(&word)).transpose()
    }

    /// The parameter `timestamp`.
    pub(crate) fn timestamp(&self) -> Result<Option<Hlc>, EdgeError> {
        let Some(given) = self.text("timestamp")? else { return Ok(None) };
        let millis: u64 = given.parse().map_err(|_| {
            EdgeError::invalid(format!("timestamp is a number of milliseconds since 1970, not {given:?}"))
        })?;
        Ok(Some(Hlc::new(millis, 0)))
    }

    /// A parameter that counts rows.
    pub(crate) fn rows(&self, name: &'static str) -> Result<Option<usize>, EdgeError> {
        let Some(given) = self.text(name)? else { return Ok(None) };
        let digits = !given.is_empty() && given.bytes().all(|digit| digit.is_ascii_digit());
        if !digits {
            return Err(EdgeError::invalid(format!("{name} is a number of rows, not {given:?}")));
        }
        // What is no number of this machine is beyond every limit, and is refused as that.
        Ok(Some(given.parse().unwrap_or(usize::MAX)))
    }

    /// A parameter that is on or off; named without a value it is on.
    pub(crate) fn flag(&self, name: &'static str) -> Result<bool, EdgeError> {
        match self.text(name)?.as_deref() {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(other) => Err(EdgeError::invalid(format!("{name} is true or false, not {other:?}"))),
        }
    }
}

fn unknown_parameter(name: &str, known: &[&str]) -> EdgeError {
    let known = match known {
        [] => "there is none here".to_owned(),
        known => format!("those here are {}", known.join(", ")),
    };
    EdgeError::invalid(format!("unknown query parameter {name:?}: {known}"))
}

fn text(what: &str, bytes: Bytes) -> Result<String, EdgeError> {
    String::from_utf8(bytes.into()).map_err(|_| EdgeError::invalid(format!("{what} is not valid UTF-8")))
}

/// In a query, `+` is a space.
fn decode_form(what: &str, written: &str) -> Result<Bytes, EdgeError> {
    if written.contains('+') { decode(what, &written.replace('+', "%20")) } else { decode(what, written) }
}

/// Undoes percent-encoding. A `%` that begins none is refused: guessing would name another key.
fn decode(what: &str, written: &str) -> Result<Bytes, EdgeError> {
    if !written.contains('%') {
        return Ok(Bytes::copy_from_slice(written.as_bytes()));
    }
    let mut bytes = Vec::with_capacity(written.len());
    let mut rest = written.as_bytes().iter().copied();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let decoded = rest.next().and_then(hex).zip(rest.next().and_then(hex)).map(|(high, low)| high << 4 | low);
        bytes.push(decoded.ok_or_else(|| {
            EdgeError::invalid(format!("{what} holds a % that is not followed by two hex digits: write a % as %25"))
        })?);
    }
    Ok(bytes.into())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cases::cases;

    fn encode(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("%{byte:02x}")).collect()
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn any_bytes_make_the_way_through_a_path_and_a_query(
            key in prop::collection::vec(any::<u8>(), 1..20),
            sort in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let path = format!("/api/v1/keyspaces/a/tables/b/rows/{}/{}", encode(&key), encode(&sort));
            prop_assert_eq!(PathParts::of(&path).row_from(5).unwrap(), (key.into(), sort.clone().into()));
            let query = format!("sort={}", encode(&sort));
            let parameters = Parameters::parse(Some(&query), &["cl", "sort"]).unwrap();
            prop_assert_eq!(parameters.bytes("sort").unwrap(), sort);
        }

        #[test]
        fn no_path_or_query_is_a_panic(text in "\\PC{0,60}") {
            let _read = PathParts::of(&text).row_from(5);
            let _read = PathParts::of(&text).everything_from(1);
            let _read = Parameters::parse(Some(&text), &["cl"]);
        }
    }

    #[test]
    fn the_places_of_a_path_are_counted_behind_the_version() {
        let path = PathParts::of("/api/v1/keyspaces/a%20b/tables/c/rows/k%2F1/s");
        assert_eq!(path.name(1).unwrap(), "a b");
        assert_eq!(path.name(3).unwrap(), "c");
        assert_eq!(path.row_from(5).unwrap(), ("k/1".into(), "s".into()));
        assert_eq!(PathParts::of("/api/v1/get/a/b%2Fc").everything_from(1).unwrap(), "a/b/c");
        assert_eq!(PathParts::of("/api/v1/get/").everything_from(1).unwrap(), "");
        assert_eq!(PathParts::of("/api/v1/get").everything_from(1).unwrap(), "");
    }

    #[test]
    fn a_row_of_three_parts_is_refused_with_the_way_out() {
        let error = PathParts::of("/api/v1/keyspaces/a/tables/b/rows/k/s/t").row_from(5).unwrap_err();
        assert!(error.message.contains("%2F"), "{error}");
    }

    #[test]
    fn unknown_and_double_parameters_are_refused_by_name() {
        let refused = |query| Parameters::parse(Some(query), &["cl", "table"]).err().unwrap().message;
        assert_eq!(refused("level=ONE"), "unknown query parameter \"level\": those here are cl, table");
        assert_eq!(refused("cl=ONE&cl=ALL"), "the query parameter cl is given twice");
        assert!(refused("cl=%G1").starts_with("cl holds a %"));
        assert!(Parameters::parse(Some("a=1"), &[]).err().unwrap().message.ends_with("there is none here"));
    }

    #[test]
    fn parameters_are_read_as_what_they_are() {
        let query = "cl=local_quorum&timestamp=1700000000000&explain&table=a+b%2B";
        let parameters = Parameters::parse(Some(query), &["cl", "timestamp", "explain", "table"]).unwrap();
        assert_eq!(parameters.level().unwrap(), Some(Level::LocalQuorum));
        assert_eq!(parameters.timestamp().unwrap(), Some(Hlc::new(1_700_000_000_000, 0)));
        assert!(parameters.flag("explain").unwrap());
        assert_eq!(parameters.text("table").unwrap().as_deref(), Some("a b+"));
        for query in ["timestamp=-1", "timestamp=soon", "timestamp=1.5"] {
            assert!(Parameters::parse(Some(query), &["timestamp"]).unwrap().timestamp().is_err(), "{query}");
        }
    }
}
