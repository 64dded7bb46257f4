//! `cube import`: rows of a file into a table, many at the same time.
//!
//! Rows are answered for in the order of the file, so the state that is kept says that everything before a place is
//! written. After an error, or when it is cut off, the same command goes on from there; what is written twice is the same.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cube_client::{Level, Table};
use futures::StreamExt;
use indicatif::ProgressBar;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::rows::{FileRow, Mark, RowFile};
use super::state::State;
use super::{place, progress};
use crate::args::{ImportArguments, RowFormat};
use crate::error::ShellError;
use crate::outcome::{Cell, Outcome, Tone};
use crate::render::Form;
use crate::script::note;
use crate::session::Session;

/// How often the state is kept.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// A write of an import may take this long, retries included: nobody waits for the single row.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Time whose rows may follow each other at once, where a rate is kept.
const BURST_MAX: Duration = Duration::from_millis(50);

/// Does an import.
pub(crate) async fn import(
    session: &mut Session,
    arguments: &ImportArguments,
    form: Form,
) -> Result<Outcome, ShellError> {
    let format = format_of(&arguments.file, arguments.format)?;
    let (keyspace, table) = place::find(session, &arguments.table).await?;
    let state = state_of(arguments, &format!("{keyspace}.{table}"))?;
    let (from, rows_before) = match &state {
        Some(state) => state.load().map_err(ShellError::File)?,
        None => (Mark::default(), 0),
    };
    let client = session.client().await?;
    let said = |error: std::io::Error| ShellError::File(format!("{}: {error}", arguments.file.display()));
    let file = RowFile::open(&arguments.file, format, from).map_err(said)?;
    let length = (arguments.file != Path::new("-")).then(|| std::fs::metadata(&arguments.file)).transpose();
    let bar = progress::bar(length.map_err(said)?.map(|metadata| metadata.len()), form);
    if from.bytes > 0 && matches!(form, Form::People { .. }) {
        note(&format!("going on behind line {}, {rows_before} rows are written already", from.lines));
    }
    let started = Instant::now();
    let target = client.session().table(keyspace, table);
    let work = Work {
        target,
        level: arguments.cl,
        timeout: session.timeout.max(WRITE_TIMEOUT),
        keeps_timestamps: arguments.keep_timestamps,
        state,
        bar,
    };
    let rows = work.run(file, arguments, rows_before).await?;
    Ok(told(rows, rows_before, started.elapsed()))
}

fn told(rows: u64, rows_before: u64, time: Duration) -> Outcome {
    let now = rows - rows_before;
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = now.saturating_mul(1_000) / millis;
    Outcome::of("IMPORT")
        .fact("success", Cell::Bool(true))
        .fact("rows", Cell::Count(now))
        .fact("rowsBefore", Cell::Count(rows_before))
        .fact("millis", Cell::Count(millis))
        .fact("rowsPerSecond", Cell::Count(rate))
        .line(Tone::Good, format!("{now} rows written in {:.1} s, {rate} rows/s", time.as_secs_f64()))
}

pub(super) fn format_of(file: &Path, said: Option<RowFormat>) -> Result<RowFormat, ShellError> {
    let end = file.extension().and_then(|end| end.to_str()).unwrap_or_default().to_ascii_lowercase();
    match (said, end.as_str()) {
        (Some(format), _) => Ok(format),
        (None, "jsonl" | "ndjson" | "json") => Ok(RowFormat::Jsonl),
        (None, "csv") => Ok(RowFormat::Csv),
        _ => Err(ShellError::File(format!("say --format jsonl or --format csv: {} does not tell", file.display()))),
    }
}

/// Where progress is kept: beside the file, or where it was said. Standard input cannot be read again.
fn state_of(arguments: &ImportArguments, table: &str) -> Result<Option<State>, ShellError> {
    if arguments.file == Path::new("-") {
        return Ok(None);
    }
    let said = |error: std::io::Error| ShellError::File(format!("{}: {error}", arguments.file.display()));
    let metadata = std::fs::metadata(&arguments.file).map_err(said)?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let beside = || {
        let mut path = arguments.file.clone().into_os_string();
        path.push(".import-state");
        PathBuf::from(path)
    };
    let path = arguments.state.clone().unwrap_or_else(beside);
    Ok(Some(State::new(path, table.to_owned(), metadata.len())))
}

struct Work {
    target: Table,
    level: Level,
    timeout: Duration,
    keeps_timestamps: bool,
    state: Option<State>,
    bar: ProgressBar,
}

impl Work {
    /// Writes all rows; how many there are, with those written before.
    async fn run(&self, file: RowFile, arguments: &ImportArguments, rows_before: u64) -> Result<u64, ShellError> {
        let parallel = usize::from(arguments.parallel);
        let read = read_ahead(file, parallel);
        let paced = paced(read, arguments.rate);
        let writes = paced.map(|row| async {
            let (row, mark) = row.map_err(ShellError::File)?;
            self.write(row).await.map(|()| mark)
        });
        let mut writes = std::pin::pin!(writes.buffered(parallel));
        let (mut rows, mut done) = (rows_before, None);
        let mut save_at = Instant::now() + SAVE_EVERY;
        while let Some(written) = writes.next().await {
            let mark = match written {
                Ok(mark) => mark,
                Err(error) => return Err(self.stop(error, done, rows)),
            };
            rows += 1;
            done = Some(mark);
            self.bar.set_position(mark.bytes);
            self.bar.set_message(format!("{rows} rows"));
            if Instant::now() >= save_at {
                self.save(mark, rows)?;
                save_at = Instant::now() + SAVE_EVERY;
            }
        }
        self.bar.finish_and_clear();
        if let Some(state) = &self.state {
            state.remove().map_err(|error| ShellError::File(format!("{}: {error}", state.path().display())))?;
        }
        Ok(rows)
    }

    async fn write(&self, row: FileRow) -> Result<(), ShellError> {
        let mut put = self.target.put(row.key, row.value).level(self.level).timeout(self.timeout);
        if let Some(ttl) = row.ttl {
            put = put.ttl(ttl);
        }
        let kept = row.version_ms.filter(|_| self.keeps_timestamps);
        let put = match row.timestamp_ms.or(kept) {
            Some(at) => put.at(at),
            None => put.repeatable(),
        };
        put.send().await?;
        Ok(())
    }

    fn save(&self, mark: Mark, rows: u64) -> Result<(), ShellError> {
        let Some(state) = &self.state else { return Ok(()) };
        state.save(mark, rows).map_err(|error| ShellError::File(format!("{}: {error}", state.path().display())))
    }

    /// Keeps how far it came, and tells how to go on.
    fn stop(&self, error: ShellError, done: Option<Mark>, rows: u64) -> ShellError {
        self.bar.finish_and_clear();
        if let Some(mark) = done
            && let Err(error) = self.save(mark, rows)
        {
            return error;
        }
        if self.state.is_some() {
            note(&format!("{rows} rows are written; the same command goes on behind them"));
        }
        error
    }
}

/// Reads on a thread of its own, a little ahead of the writes.
fn read_ahead(mut file: RowFile, rows_max: usize) -> mpsc::Receiver<Result<(FileRow, Mark), String>> {
    let (sender, receiver) = mpsc::channel(rows_max);
    tokio::task::spawn_blocking(move || {
        while let Some(row) = file.next().transpose() {
            let is_last = row.is_err();
            // Nobody takes rows any more: the import has failed.
            if sender.blocking_send(row).is_err() || is_last {
                return;
            }
        }
    });
    receiver
}

/// Gives out rows, so many in a second at the most.
fn paced<T>(receiver: mpsc::Receiver<T>, rate: Option<u32>) -> impl futures::Stream<Item = T> {
    let gap = rate.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate);
    futures::stream::unfold((receiver, Instant::now()), move |(mut receiver, due)| async move {
        let item = receiver.recv().await?;
        if !gap.is_zero() {
            sleep_until(due).await;
        }
        // A timer is late by a little each time, which is made up for; a long wait for rows is not.
        let now = Instant::now();
        let due = (due + gap).max(now.checked_sub(BURST_MAX).unwrap_or(now));
        Some((item, (receiver, due)))
    })
}
