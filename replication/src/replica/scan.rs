//! A page of a table: the rows of many partitions in the order of their keys, of which only those are told that may be
//! counted here.

use std::collections::BTreeMap;

use cube_storage::model::{Epoch, PartitionId, PlacementId};
use cube_storage::scan::{PageToken, ScanRequest, Scope};

use super::Replica;
use crate::messages::{Refusal, ScanTable, TablePage};

impl Replica {
    /// Every partition is checked before and after the rows are read, from one snapshot: see [`Replica::read`].
    pub(super) fn scan_table(&self, scan: ScanTable) -> Result<TablePage, Refusal> {
        let placement = self.store.table(scan.table)?.placement;
        let claims = self.claims(&scan)?;
        let whole = ScanRequest {
            table: scan.table,
            scope: Scope::Prefix(scan.prefix),
            backward: scan.backward,
            rows_max: scan.rows_max,
            bytes_max: scan.bytes_max,
            resume: None,
        };
        let resume = scan.position.map(|position| PageToken::at(&whole, &position));
        let mut refused = self.unreadable(placement, &claims);
        let page = self.store.scan(&ScanRequest { resume, ..whole })?;
        refused.extend(self.unreadable(placement, &claims));
        if let Some(damaged) = page.damaged.first() {
            return Err(Refusal::Damaged(damaged.to_string()));
        }
        let mut rows = page.rows;
        rows.retain(|row| {
            let partition = self.partition_of(row.key.token());
            claims.contains_key(&partition) && !refused.contains_key(&partition)
        });
        let stopped = page.next.map(|next| next.position());
        Ok(TablePage { rows, stopped, refused: refused.into_iter().collect() })
    }

    fn claims(&self, scan: &ScanTable) -> Result<BTreeMap<PartitionId, Epoch>, Refusal> {
        let partitions = self.store.bits().partitions();
        let mut claims = BTreeMap::new();
        for run in &scan.partitions {
            if run.first > run.last || run.last.0 >= partitions {
                return Err(Refusal::Invalid(format!("there are no partitions {} to {}", run.first.0, run.last.0)));
            }
            claims.extend((run.first.0..=run.last.0).map(|partition| (PartitionId(partition), run.epoch)));
        }
        Ok(claims)
    }

    fn unreadable(
        &self,
        placement: PlacementId,
        claims: &BTreeMap<PartitionId, Epoch>,
    ) -> BTreeMap<PartitionId, Refusal> {
        let check = |(partition, epoch): (&PartitionId, &Epoch)| {
            let refusal = self.check_readable(placement, *partition, Some(*epoch)).err()?;
            Some((*partition, refusal))
        };
        claims.iter().filter_map(check).collect()
    }
}
