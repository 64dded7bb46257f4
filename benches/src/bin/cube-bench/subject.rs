//! What a request is to the system under test.

use std::sync::Arc;

use cube_client::{Client, Error, Key, Level, Table};

use super::etcd::Etcd;
use super::keys::{Draw, key};
use super::options::{Shape, Workload};

/// Rows of one partition key in the scan workload.
pub(crate) const ROWS_PER_PARTITION: u64 = 100;

/// What is asked.
#[derive(Clone)]
pub(crate) enum Subject {
    Cube { table: Table, level: Level },
    Etcd(Arc<Etcd>),
}

/// Rows written or found by a request, or the kind of its error.
pub(crate) type Outcome = Result<u64, String>;

impl Subject {
    pub(crate) fn cube(client: &Client, shape: &Shape) -> Self {
        let table = match shape.workload {
            Workload::Session => client.session().default_table(),
            _ => client.default_table(),
        };
        Self::Cube { table, level: shape.level }
    }

    /// Does the next request of a workload.
    pub(crate) async fn ask(&self, shape: &Shape, draw: &mut Draw) -> Outcome {
        match (self, shape.workload) {
            (Self::Cube { table, level }, Workload::Batch) => batch(table, *level, shape, draw).await,
            (Self::Cube { table, level }, Workload::Scan) => {
                let partition = key(draw.row() / ROWS_PER_PARTITION);
                let rows = u32::try_from(shape.batch).unwrap_or(u32::MAX);
                let page = table.range(partition).level(*level).page_rows(rows).next_page().await;
                page.map(|rows| rows.map_or(0, |rows| rows.len() as u64)).map_err(kind)
            }
            (Self::Cube { table, level }, _) => {
                let key = key(draw.row());
                if draw.reads() {
                    let found = table.get(key).level(*level).send().await.map_err(kind)?;
                    Ok(u64::from(found.value.is_some()))
                } else {
                    table.put(key, draw.value()).level(*level).send().await.map(|_| 1).map_err(kind)
                }
            }
            (Self::Etcd(etcd), _) => {
                let key = key(draw.row());
                let answer =
                    if draw.reads() { etcd.get(key).await } else { etcd.put(key, draw.value()).await.map(|()| 1) };
                answer.map_err(|status| status.code().to_string())
            }
        }
    }

    /// Writes the rows of these numbers.
    pub(crate) async fn preload(&self, shape: &Shape, rows: std::ops::Range<u64>, draw: &mut Draw) -> Outcome {
        let key_of = |row: u64| match shape.workload {
            Workload::Scan => Key::sorted(key(row / ROWS_PER_PARTITION), format!("{:04}", row % ROWS_PER_PARTITION)),
            _ => Key::from(key(row)),
        };
        match self {
            Self::Cube { table, .. } => {
                let rows: Vec<_> = rows.map(|row| (key_of(row), draw.value())).collect();
                all_written(table.put_all(rows).send().await)
            }
            Self::Etcd(etcd) => {
                let mut written = 0;
                for row in rows {
                    etcd.put(key(row), draw.value()).await.map_err(|status| status.code().to_string())?;
                    written += 1;
                }
                Ok(written)
            }
        }
    }
}

fn kind(error: Error) -> String {
    error.code().to_owned()
}

type Parts = Vec<(bytes::Bytes, Result<cube_client::Written, Box<cube_client::Refusal>>)>;

fn all_written(answer: Result<Parts, Error>) -> Outcome {
    let parts = answer.map_err(kind)?;
    match parts.iter().find_map(|(_, part)| part.as_ref().err()) {
        Some(refusal) => Err(refusal.code.clone()),
        None => Ok(parts.len() as u64),
    }
}

async fn batch(table: &Table, level: Level, shape: &Shape, draw: &mut Draw) -> Outcome {
    if draw.reads() {
        let keys: Vec<_> = (0..shape.batch).map(|_| key(draw.row())).collect();
        let rows = table.get_all(keys).level(level).send().await.map_err(kind)?;
        let mut found = 0;
        for row in rows {
            found += u64::from(row.map_err(|refusal| refusal.code)?.value.is_some());
        }
        return Ok(found);
    }
    let rows: Vec<_> = (0..shape.batch).map(|_| (key(draw.row()), draw.value())).collect();
    all_written(table.put_all(rows).level(level).send().await)
}
