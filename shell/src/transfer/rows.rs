//! Rows as they stand in files: JSON lines or CSV, any bytes as base64. Reads one after another and tells where each ends,
//! so that reading can go on there another time.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use cube_client::Key;
use serde::Deserialize;

use crate::args::RowFormat;
use crate::clock::now_ms;
use crate::statement::parse_duration;

/// The longest line of a file: a value of the greatest size, as base64, with room to spare.
const LINE_BYTES_MAX: u64 = 256 << 20;

/// A row to be written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct FileRow {
    pub(super) key: Key,
    pub(super) value: Bytes,
    pub(super) ttl: Option<Duration>,
    pub(super) timestamp_ms: Option<u64>,
    /// When the version was written that an export told of.
    pub(super) version_ms: Option<u64>,
}

/// How far a file was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Mark {
    pub(super) bytes: u64,
    pub(super) lines: u64,
}

/// Seconds or a duration.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Time {
    Seconds(u64),
    Text(String),
}

/// A row as it is written. What SCAN prints can be read.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Written {
    key: String,
    #[serde(default)]
    sort: String,
    value: String,
    encoding: Option<String>,
    ttl: Option<Time>,
    timestamp: Option<u64>,
    expires_at_ms: Option<u64>,
    version: Option<String>,
}

impl Written {
    /// None if it has ended by now.
    fn row(self, now_ms: u64) -> Result<Option<FileRow>, String> {
        let decode = |text: String, what: &str| match self.encoding.as_deref() {
            None | Some("" | "utf8") => Ok(Bytes::from(text)),
            Some("base64") => {
                STANDARD.decode(&text).map(Bytes::from).map_err(|error| format!("{what} is not base64: {error}"))
            }
            Some(other) => Err(format!("encoding is utf8 or base64, not {other:?}")),
        };
        let partition = decode(self.key, "key")?;
        if partition.is_empty() {
            return Err("key is empty".to_owned());
        }
        let ttl = match (self.ttl, self.expires_at_ms) {
            (None, None) => None,
            (None, Some(ends)) if ends <= now_ms => return Ok(None),
            (None, Some(ends)) => Some(Duration::from_millis(ends - now_ms)),
            (Some(Time::Seconds(seconds)), _) => Some(Duration::from_secs(seconds)),
            (Some(Time::Text(text)), _) => {
                Some(parse_duration(&text).ok_or_else(|| format!("ttl is seconds or a duration, not {text:?}"))?)
            }
        };
        let version_ms = match self.version.as_deref() {
            None | Some("") => None,
            Some(version) => Some(millis_of(version).ok_or_else(|| format!("{version:?} is no version"))?),
        };
        let key = Key::sorted(partition, decode(self.sort, "sort")?);
        Ok(Some(FileRow { key, value: decode(self.value, "value")?, ttl, timestamp_ms: self.timestamp, version_ms }))
    }
}

/// The milliseconds of a version, as SCAN and `cube export` write it: `1795273483794.0@n1`.
fn millis_of(version: &str) -> Option<u64> {
    version.split_once('.')?.0.parse().ok()
}

enum Reader {
    Lines(BufReader<Box<dyn Read + Send>>),
    Csv { reader: Box<csv::Reader<Box<dyn Read + Send>>>, header: Vec<String> },
}

/// A file of rows.
pub(super) struct RowFile {
    reader: Reader,
    /// Where the reader began.
    base: Mark,
    mark: Mark,
}

impl RowFile {
    /// Opens a file behind what was read of it before; `-` is standard input.
    pub(super) fn open(path: &Path, format: RowFormat, from: Mark) -> io::Result<Self> {
        if path == Path::new("-") {
            return Self::of(Box::new(io::stdin()), format, Mark::default(), None);
        }
        let mut file = File::open(path)?;
        let header = match (format, from.bytes) {
            (RowFormat::Csv, 1..) => Some(csv_header(&mut csv::Reader::from_reader(&mut file))?),
            _ => None,
        };
        file.seek(SeekFrom::Start(from.bytes))?;
        Self::of(Box::new(file), format, from, header)
    }

    fn of(input: Box<dyn Read + Send>, format: RowFormat, base: Mark, header: Option<Vec<String>>) -> io::Result<Self> {
        let reader = match format {
            RowFormat::Jsonl => Reader::Lines(BufReader::new(input)),
            RowFormat::Csv => {
                let mut builder = csv::ReaderBuilder::new();
                let mut reader = builder.has_headers(header.is_none()).from_reader(input);
                let header = match header {
                    Some(header) => header,
                    None => csv_header(&mut reader)?,
                };
                Reader::Csv { reader: Box::new(reader), header }
            }
        };
        Ok(Self { reader, base, mark: base })
    }

    /// The next row and where it ends. A row that has ended by now is passed over.
    pub(super) fn next(&mut self) -> Result<Option<(FileRow, Mark)>, String> {
        loop {
            let line = self.mark.lines + 1;
            let told = |reason: String| format!("line {line}: {reason}");
            let Some(written) = self.written().map_err(told)? else { return Ok(None) };
            if let Some(row) = written.row(now_ms()).map_err(told)? {
                return Ok(Some((row, self.mark)));
            }
        }
    }

    fn written(&mut self) -> Result<Option<Written>, String> {
        match &mut self.reader {
            Reader::Lines(reader) => loop {
                let mut line = Vec::new();
                let read =
                    reader.take(LINE_BYTES_MAX).read_until(b'\n', &mut line).map_err(|error| error.to_string())?;
                if read == 0 {
                    return Ok(None);
                }
                let read = u64::try_from(read).unwrap_or(u64::MAX);
                self.mark = Mark { bytes: self.mark.bytes + read, lines: self.mark.lines + 1 };
                if !line.iter().all(u8::is_ascii_whitespace) {
                    return serde_json::from_slice(&line).map(Some).map_err(|error| error.to_string());
                }
            },
            Reader::Csv { reader, header } => {
                let mut record = csv::StringRecord::new();
                if !reader.read_record(&mut record).map_err(|error| error.to_string())? {
                    return Ok(None);
                }
                let at = reader.position();
                self.mark =
                    Mark { bytes: self.base.bytes + at.byte(), lines: self.base.lines + at.line().saturating_sub(1) };
                of_record(header, &record).map(Some)
            }
        }
    }
}

fn csv_header<R: Read>(reader: &mut csv::Reader<R>) -> io::Result<Vec<String>> {
    let header: Vec<String> = reader.headers()?.iter().map(str::to_owned).collect();
    let known = ["key", "sort", "value", "encoding", "ttl", "timestamp", "version", "expiresAtMs"];
    let wrong = header.iter().find(|name| !known.contains(&name.as_str()));
    let reason = match wrong {
        Some(name) => format!("there is no column {name:?}: columns are {}", known.join(", ")),
        None if !header.iter().any(|name| name == "key") || !header.iter().any(|name| name == "value") => {
            "the first line names the columns: key and value must be among them".to_owned()
        }
        None => return Ok(header),
    };
    Err(io::Error::new(io::ErrorKind::InvalidData, reason))
}

fn of_record(header: &[String], record: &csv::StringRecord) -> Result<Written, String> {
    let mut written = Written::default();
    let number = |name: &str, field: &str| {
        field.parse().map_err(|_| format!("{name} is milliseconds since 1970, not {field:?}"))
    };
    for (name, field) in header.iter().zip(record) {
        let given = || (!field.is_empty()).then(|| field.to_owned());
        match name.as_str() {
            "key" => field.clone_into(&mut written.key),
            "sort" => field.clone_into(&mut written.sort),
            "value" => field.clone_into(&mut written.value),
            "encoding" => written.encoding = given(),
            "ttl" => written.ttl = given().map(Time::Text),
            "timestamp" if !field.is_empty() => written.timestamp = Some(number(name, field)?),
            "version" => written.version = given(),
            "expiresAtMs" if !field.is_empty() => written.expires_at_ms = Some(number(name, field)?),
            _ => {}
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn all(path: &Path, format: RowFormat, from: Mark) -> Vec<(FileRow, Mark)> {
        let mut rows = RowFile::open(path, format, from).unwrap();
        std::iter::from_fn(|| rows.next().unwrap()).collect()
    }

    const JSON: &str = "{\"key\":\"a b\",\"value\":\"line\\nend \\ud83d\\ude00 \\u0000\"}\n\n\
                        {\"key\":\"/wA=\",\"sort\":\"AA==\",\"value\":\"gIE=\",\"encoding\":\"base64\",\"ttl\":\"1h\",\"timestamp\":7}\n\
                        {\"key\":\"c\",\"value\":\"\",\"ttl\":60}";
    const CSV: &str = "key,sort,value,encoding,ttl\na b,,\"line\nend 😀\",,\n/wA=,AA==,gIE=,base64,1h\nc,,,utf8,60\n";

    #[test]
    fn any_bytes_are_read_from_json_lines_and_csv() {
        for (text, format) in [(JSON, RowFormat::Jsonl), (CSV, RowFormat::Csv)] {
            let file = file(text);
            let rows = all(file.path(), format, Mark::default());
            assert_eq!(rows.len(), 3);
            assert_eq!(rows[0].0.key, Key::from("a b"));
            assert!(rows[0].0.value.starts_with("line\nend 😀".as_bytes()));
            assert_eq!(rows[1].0.key, Key::sorted(vec![0xff, 0], vec![0]));
            assert_eq!(rows[1].0.value, vec![0x80, 0x81]);
            assert_eq!(rows[1].0.ttl, Some(Duration::from_secs(3_600)));
            assert_eq!((rows[2].0.value.len(), rows[2].0.ttl), (0, Some(Duration::from_secs(60))));
        }
    }

    #[test]
    fn reading_goes_on_behind_any_row() {
        for (text, format) in [(JSON, RowFormat::Jsonl), (CSV, RowFormat::Csv)] {
            let file = file(text);
            let rows = all(file.path(), format, Mark::default());
            for (read, (_, mark)) in rows.iter().enumerate() {
                assert_eq!(all(file.path(), format, *mark), rows[read + 1..], "{format:?} behind row {read}");
            }
        }
    }

    #[test]
    fn a_wrong_row_is_told_with_its_line() {
        let of = |text: &str, format| {
            let file = file(text);
            let mut rows = RowFile::open(file.path(), format, Mark::default()).unwrap();
            loop {
                match rows.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("nothing was wrong"),
                    Err(error) => return error,
                }
            }
        };
        assert!(
            of("{\"key\":\"a\",\"value\":\"b\"}\n{\"kye\":\"a\"}\n", RowFormat::Jsonl)
                .starts_with("line 2: unknown field `kye`")
        );
        assert!(of("key,value,ttl\na,b,soon\n", RowFormat::Csv).contains("ttl is seconds or a duration"));
        assert!(of("{\"key\":\"a\",\"value\":\"!\",\"encoding\":\"base64\"}", RowFormat::Jsonl).contains("line 1"));
    }
}
