//! The rows of one partition key, page after page.
//!
//! Each page is a request of its own, with its own deadline and retries; a range that stays open costs nothing anywhere.

use std::time::Duration;

use bytes::Bytes;
use cube_proto::v1;

use crate::error::Error;
use crate::model::{Explained, Level, Row};
use crate::table::Table;

/// A range read: adjust it, then ask for pages or rows until there are no more.
#[derive(Debug)]
#[must_use = "nothing is read before a page or a row is asked for"]
pub struct Range {
    table: Table,
    request: v1::RangeRequest,
    timeout: Option<Duration>,
    /// Rows of the last page that were not given out yet, in reverse.
    waiting: Vec<Row>,
    explained: Option<Explained>,
    is_over: bool,
}

impl Range {
    pub(crate) fn new(table: Table, request: v1::RangeRequest) -> Self {
        Self { table, request, timeout: None, waiting: Vec::new(), explained: None, is_over: false }
    }

    /// How many replicas must have answered; QUORUM if this is not said.
    pub fn level(mut self, level: Level) -> Self {
        self.request.set_level(level.wire());
        self
    }

    /// How long each page may take, retries included.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// From this sort key on; from the first row if this is not said.
    pub fn from(mut self, sort: impl Into<Bytes>) -> Self {
        self.request.from = Some(v1::RangeBound { sort: sort.into(), exclusive: false });
        self
    }

    /// From behind this sort key on.
    pub fn after(mut self, sort: impl Into<Bytes>) -> Self {
        self.request.from = Some(v1::RangeBound { sort: sort.into(), exclusive: true });
        self
    }

    /// Up to this sort key, with it; to the last row if this is not said.
    pub fn to(mut self, sort: impl Into<Bytes>) -> Self {
        self.request.to = Some(v1::RangeBound { sort: sort.into(), exclusive: false });
        self
    }

    /// Up to this sort key, without it.
    pub fn before(mut self, sort: impl Into<Bytes>) -> Self {
        self.request.to = Some(v1::RangeBound { sort: sort.into(), exclusive: true });
        self
    }

    /// The last row first.
    pub fn backward(mut self) -> Self {
        self.request.backward = true;
        self
    }

    /// How many rows are looked at for one page; 1,000 if this is not said.
    pub fn page_rows(mut self, rows: u32) -> Self {
        self.request.limit = rows;
        self
    }

    /// Has each page come with an account of what was done for it: [`Range::explained`].
    pub fn explain(mut self) -> Self {
        self.request.explain = true;
        self
    }

    /// What was done for the last page, where that was asked for.
    pub fn explained(&self) -> Option<&Explained> {
        self.explained.as_ref()
    }

    /// The next page; none after the last one. A page may be empty though more follow: deleted rows are looked at too.
    /// After an error the same page can be asked for again.
    pub async fn next_page(&mut self) -> Result<Option<Vec<Row>>, Error> {
        if self.is_over {
            return Ok(None);
        }
        let reply = self.table.run(self.request.clone(), self.timeout).await?;
        self.is_over = reply.next_page.is_empty();
        self.request.page = reply.next_page;
        self.explained = reply.explained.map(|explained| *explained);
        Ok(Some(reply.rows.into_iter().map(Row::of).collect()))
    }

    /// The next row; none after the last one.
    pub async fn next(&mut self) -> Result<Option<Row>, Error> {
        while self.waiting.is_empty() {
            let Some(mut page) = self.next_page().await? else { return Ok(None) };
            page.reverse();
            self.waiting = page;
        }
        Ok(self.waiting.pop())
    }
}
