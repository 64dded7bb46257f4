//! What may go wrong with requests for rows, said once of what they have in common.
//!
//! Invariant: whoever asks for rows passes the same door (`edge/access.rs`), and every such route says how it may find it
//! closed.

use crate::edge::Code;
use crate::rest::openapi::Route;

/// With all of them.
const ROWS: &[Code] = &[
    Code::UnknownLevel,
    Code::UnknownKeyspace,
    Code::UnknownTable,
    Code::KeyTooLarge,
    Code::Overloaded,
    Code::Unavailable,
    Code::NoReplicas,
    Code::NotServing,
    Code::Drained,
    Code::ShuttingDown,
];
const WRITING: &[Code] = &[
    Code::EmptyKey,
    Code::InvalidTtl,
    Code::TimestampTooFarAhead,
    Code::TimestampTooOld,
    Code::ValueTooLarge,
    Code::CannotStamp,
    Code::WriteUnknown,
];
/// What came of a row of a batch is told of that row.
const WRITING_A_ROW: &[Code] = &[Code::WriteNotNoted];
const READING: &[Code] = &[Code::LevelNotForReading];
const READING_ROWS: &[Code] = &[Code::ReadFailed, Code::ReadTimeout];
const LISTING: &[Code] = &[Code::InvalidPage, Code::InvalidPageToken];

impl Route {
    /// It writes one row.
    pub(super) fn writes_a_row(self) -> Self {
        self.fails(ROWS).fails(WRITING).fails(WRITING_A_ROW)
    }

    /// It writes many rows.
    pub(super) fn writes_a_batch(self) -> Self {
        self.fails(ROWS).fails(WRITING).fails(&[Code::BatchTooLarge])
    }

    /// It reads one row.
    pub(super) fn reads_a_row(self) -> Self {
        self.fails(ROWS).fails(READING).fails(READING_ROWS).fails(&[Code::EmptyKey])
    }

    /// It reads many rows by their keys.
    pub(super) fn reads_a_batch(self) -> Self {
        self.fails(ROWS).fails(READING).fails(&[Code::EmptyKey, Code::BatchTooLarge])
    }

    /// It lists rows page by page.
    pub(super) fn lists_rows(self) -> Self {
        self.fails(ROWS).fails(READING).fails(READING_ROWS).fails(LISTING)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::rest::routes::table;

    #[test]
    fn every_request_for_rows_says_that_the_node_may_not_serve_them() {
        let routes = table();
        let of_rows: Vec<&Route> = routes.iter().filter(|route| route.tag == "Rows").collect();
        assert!(of_rows.iter().any(|route| route.path.contains("/batch/")), "batches are among them");
        for route in of_rows {
            for code in [Code::NotServing, Code::Drained, Code::ShuttingDown] {
                assert!(route.errors.contains(&code), "{} may end with {}", route.name, code.name());
            }
        }
    }

    #[test]
    fn no_route_names_an_error_twice() {
        for route in table() {
            let once: BTreeSet<Code> = route.errors.iter().copied().collect();
            assert_eq!(once.len(), route.errors.len(), "{}: {:?}", route.name, route.errors);
        }
    }
}
