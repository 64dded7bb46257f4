//! A scan on its way to a client, page after page, until it has as many rows as it asked for.
//!
//! Invariant: a page is asked for when the client takes it, and never one ahead; dropped, a scan lets go of the page that is
//! being read. What a page leaves out because the client wants no more is found behind the token that it ends with.

use std::sync::Arc;

use cube_replication::coordinator::{PrefixPage, PrefixRequest};

use super::access::Caller;
use super::error::EdgeError;
use super::{Edge, refuse};

/// Rows of a page that does not say.
pub(crate) const PAGE_ROWS: usize = 1_000;
/// Bytes of a page that does not say: enough to make a round trip worth while, little enough to hold many.
pub(crate) const PAGE_BYTES: usize = 1 << 20;
/// After a page on which rows are missing because they are deleted, so many times more rows are looked at.
const LOOK_FURTHER: usize = 4;

/// A scan that a client takes page by page.
pub(crate) struct Scan {
    edge: Arc<Edge>,
    caller: Caller,
    request: PrefixRequest,
    page_rows: usize,
    /// Rows that the client still wants.
    left: Option<u64>,
    /// Rows that are looked at for the next page.
    look: usize,
    is_over: bool,
}

impl Scan {
    /// A scan of `request`, whose pages may have as many rows as it says, up to `limit` rows in all.
    pub(crate) fn new(
        edge: Arc<Edge>,
        caller: Caller,
        request: PrefixRequest,
        limit: Option<u64>,
    ) -> Result<Self, EdgeError> {
        let limits = edge.limits();
        limits.check_page(request.rows_max, request.bytes_max.unwrap_or(limits.page_bytes_max)).map_err(refuse)?;
        let page_rows = request.rows_max;
        let look = at_most(page_rows, limit);
        Ok(Self { edge, caller, request, page_rows, left: limit, look, is_over: limit == Some(0) })
    }

    /// What the page that is asked for next begins behind.
    pub(crate) fn resume(&self) -> Option<&bytes::Bytes> {
        self.request.resume.as_ref()
    }

    /// Whether there is no further page.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// There is no further page: one could not be read, and the client was told.
    pub(crate) fn end(&mut self) {
        self.is_over = true;
    }

    /// The next page; none after the last one. After an error it may be asked for again.
    pub(crate) async fn next_page(&mut self) -> Option<Result<PrefixPage, EdgeError>> {
        if self.is_over {
            return None;
        }
        Some(self.read_page().await)
    }

    async fn read_page(&mut self) -> Result<PrefixPage, EdgeError> {
        self.request.rows_max = self.look;
        let page = loop {
            let page = self.edge.scan(self.caller, self.request.clone()).await?;
            match self.too_many(&page) {
                // Only whoever reads a page can tell where the next one begins: it is read again up to there.
                Some(rows_max) => self.request.rows_max = rows_max,
                None => break page,
            }
        };
        let rows = page.live().count();
        self.left = self.left.map(|left| left.saturating_sub(u64::try_from(rows).unwrap_or(u64::MAX)));
        self.look = if rows.saturating_mul(LOOK_FURTHER) < self.look {
            self.look.saturating_mul(LOOK_FURTHER).min(self.page_rows)
        } else {
            at_most(self.page_rows, self.left).max(1)
        };
        self.is_over = page.next.is_none() || self.left == Some(0);
        self.request.resume.clone_from(&page.next);
        Ok(page)
    }

    /// How many rows the page may have so that it is no more than the client wants, if it has more.
    fn too_many(&self, page: &PrefixPage) -> Option<usize> {
        let left = usize::try_from(self.left?).ok()?;
        let is_live = |row: &cube_storage::scan::Row| row.record.live_value(page.as_of).is_some();
        let mut live = page.rows.iter().enumerate().filter(|(_, row)| is_live(row)).map(|(place, _)| place);
        let last = live.by_ref().take(left).last()?;
        live.next().map(|_| last + 1)
    }
}

fn at_most(rows: usize, limit: Option<u64>) -> usize {
    limit.and_then(|limit| usize::try_from(limit).ok()).map_or(rows, |limit| rows.min(limit))
}
