//! A scan as a stream. The stream is asked for its next page when the connection has room for it, and then the page is
//! read: so at most one page is ahead of the client, and when the client goes, the stream is dropped and the page with it.

use std::pin::Pin;
use std::sync::Arc;

use cube_proto::v1;
use cube_replication::coordinator::{PrefixPage, PrefixRequest};
use futures::Stream;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::convert::{self, Common, Time};
use super::explained::explained;
use crate::edge::scan::{PAGE_BYTES, PAGE_ROWS, Scan};
use crate::edge::{Caller, Edge, EdgeError, Names};

/// The pages of one scan.
pub(super) type ScanPages = Pin<Box<dyn Stream<Item = Result<v1::ScanPage, Status>> + Send>>;

/// Begins a scan. An error before the first page ends the call, a later one the stream.
pub(super) async fn begin(
    edge: Arc<Edge>,
    message: v1::ScanRequest,
    metadata: &MetadataMap,
) -> Result<ScanPages, EdgeError> {
    let (request, limit) = request(&edge, message, metadata)?;
    let mut scan = Scan::new(Arc::clone(&edge), Caller::Anonymous, request, limit)?;
    // A request that cannot be is refused before anything is streamed.
    let first = scan.next_page().await.transpose()?.map(|found| page(found, &edge));
    let pages = futures::stream::unfold((edge, scan, first), async |(edge, mut scan, first)| {
        if let Some(first) = first {
            return Some((Ok(first), (edge, scan, None)));
        }
        let next = match scan.next_page().await? {
            Ok(found) => Ok(page(found, &edge)),
            Err(error) => {
                scan.end();
                Err(Status::from(error))
            }
        };
        Some((next, (edge, scan, None)))
    });
    Ok(Box::pin(pages))
}

fn request(
    edge: &Edge,
    message: v1::ScanRequest,
    metadata: &MetadataMap,
) -> Result<(PrefixRequest, Option<u64>), EdgeError> {
    let v1::ScanRequest {
        keyspace,
        table,
        prefix,
        level,
        timeout_ms,
        explain,
        backward,
        limit,
        page,
        page_rows,
        page_bytes,
    } = message;
    let time = Time { timeout_ms, metadata, usual_ms: edge.settings().read_timeout_ms };
    let Common { table, terms } = Common::read(keyspace, table, level, &time, explain)?;
    let said = |number: u32, usual: usize, most: usize| match usize::try_from(number).unwrap_or(usize::MAX) {
        0 => usual.min(most),
        said => said,
    };
    let request = PrefixRequest {
        table,
        prefix,
        backward,
        rows_max: said(page_rows, PAGE_ROWS, edge.limits().page_rows_max),
        bytes_max: Some(said(page_bytes, PAGE_BYTES, edge.limits().page_bytes_max)),
        resume: (!page.is_empty()).then_some(page),
        terms,
    };
    Ok((request, (limit > 0).then_some(limit)))
}

fn page(found: PrefixPage, edge: &Edge) -> v1::ScanPage {
    let account = found.account.as_ref();
    let explained = account.and_then(|account| explained(Some(account), &Names::new(&edge.state())));
    let as_of = found.as_of;
    v1::ScanPage {
        rows: found.rows.into_iter().filter_map(|row| convert::live_row(row, as_of)).collect(),
        next: found.next.unwrap_or_default(),
        partial: found.partial.iter().map(|partition| u32::from(partition.0)).collect(),
        as_of: as_of.0,
        explained,
    }
}
