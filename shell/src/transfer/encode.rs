//! Rows as `cube export` writes them: what `cube import` reads, and SCAN prints.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cube_client::Row;
use serde::Serialize;

use crate::args::RowFormat;

/// The columns of CSV.
const HEADER: [&str; 6] = ["key", "sort", "value", "encoding", "expiresAtMs", "version"];

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Exported {
    key: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    sort: String,
    value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at_ms: Option<u64>,
    version: String,
}

impl Exported {
    /// Text as it is if all of it is text, else all of it as base64.
    fn of(row: &Row) -> Self {
        let texts = [&row.key.partition, &row.key.sort, &row.value].map(|bytes| std::str::from_utf8(bytes).ok());
        let (version, expires_at_ms) = (row.version.to_string(), row.expires_at_ms);
        if let [Some(key), Some(sort), Some(value)] = texts.map(|text| text.map(str::to_owned)) {
            return Self { key, sort, value, encoding: None, expires_at_ms, version };
        }
        Self {
            key: STANDARD.encode(&row.key.partition),
            sort: STANDARD.encode(&row.key.sort),
            value: STANDARD.encode(&row.value),
            encoding: Some("base64"),
            expires_at_ms,
            version,
        }
    }
}

/// What stands before the first row.
pub(super) fn header(format: RowFormat) -> Vec<u8> {
    match format {
        RowFormat::Jsonl => Vec::new(),
        RowFormat::Csv => (HEADER.join(",") + "\n").into_bytes(),
    }
}

/// Rows, each with the end of its line.
pub(super) fn rows(rows: &[Row], format: RowFormat) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match format {
        RowFormat::Jsonl => {
            for row in rows {
                serde_json::to_writer(&mut bytes, &Exported::of(row))?;
                bytes.push(b'\n');
            }
        }
        RowFormat::Csv => {
            let mut writer = csv::Writer::from_writer(&mut bytes);
            for row in rows {
                let Exported { key, sort, value, encoding, expires_at_ms, version } = Exported::of(row);
                let ends = expires_at_ms.map(|ms| ms.to_string()).unwrap_or_default();
                writer.write_record([&*key, &*sort, &*value, encoding.unwrap_or_default(), &*ends, &*version])?;
            }
            writer.flush()?;
            drop(writer);
        }
    }
    Ok(bytes)
}
