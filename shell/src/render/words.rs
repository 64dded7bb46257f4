//! Cells as people read them, and colours.

use std::time::{Duration, UNIX_EPOCH};

use crate::outcome::{Cell, Tone};
use crate::statement::{bare_or_quoted, harmless};

/// A cell in a table or a line.
pub(super) fn cell(cell: &Cell) -> String {
    match cell {
        Cell::Null => "-".to_owned(),
        Cell::Bool(true) => "yes".to_owned(),
        Cell::Bool(false) => "no".to_owned(),
        Cell::Count(count) => count.to_string(),
        Cell::Signed(count) => count.to_string(),
        Cell::Number(number) => format!("{number:.1}"),
        Cell::Text(text) => harmless(text).replace('\n', " "),
        Cell::Bytes(bytes) => bare_or_quoted(bytes),
        Cell::Names(names) if names.is_empty() => "-".to_owned(),
        Cell::Names(names) => harmless(&names.join(", ")),
        Cell::Counts(counts) if counts.is_empty() => "-".to_owned(),
        Cell::Counts(counts) => {
            let each: Vec<String> = counts.iter().map(|(name, count)| format!("{name}: {count}")).collect();
            harmless(&each.join(", "))
        }
        Cell::Moment(ms) => moment(*ms),
        Cell::Version(version) => moment(version.millis()),
    }
}

/// A moment in UTC, to the second.
pub(crate) fn moment(ms: u64) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(ms));
    // The library refuses years past 9999.
    let is_told = ms < 253_402_300_800_000;
    match time.filter(|_| is_told) {
        Some(time) => humantime::format_rfc3339_seconds(time).to_string().replace('T', " "),
        None => format!("{ms} ms"),
    }
}

/// `inFlight` as `in flight`, and shorter where a table would be wide.
pub(super) fn heading(name: &str) -> String {
    match name {
        "dataCenter" => return "dc".to_owned(),
        "loadPercent" => return "load %".to_owned(),
        "clockOffsetMs" => return "clock ms".to_owned(),
        "expiresAtMs" => return "ends".to_owned(),
        "inSyncAsOfMs" => return "in sync as of".to_owned(),
        "purgeFloorMs" => return "purged up to".to_owned(),
        _ => {}
    }
    let mut heading = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            heading.push(' ');
        }
        heading.push(letter.to_ascii_lowercase());
    }
    heading
}

/// Text in the colour of its tone.
pub(crate) fn paint(tone: Tone, text: &str, colour: bool) -> String {
    let code = match tone {
        Tone::Plain => return text.to_owned(),
        Tone::Good => "32",
        Tone::Warn => "33",
        Tone::Bad => "31",
        Tone::Aside => "2",
        Tone::Strong => "1",
    };
    if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}
