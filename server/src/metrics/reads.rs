//! What reads came upon, by table, as this node coordinated them.

use cube_replication::coordinator::{ReadFigures, Repairs};

use super::page::{Family, Labels, Page, Written, family};

type Table = (String, String, ReadFigures);

pub(super) fn write(page: &mut Page<'_>, tables: &[Table]) -> Written {
    let mut each = |family: Family<'_>, figure: fn(&ReadFigures) -> u64| {
        page.counter(family, tables.iter().map(|table| (labels(table), figure(&table.2))))
    };
    each(
        family("cube_read_digest_mismatches", "Rows of which the replicas that were asked told different versions"),
        |figures| figures.digest_mismatches,
    )?;
    each(
        family(
            "cube_read_stale_answers",
            "Answers of replicas that told of an older version than the newest, or of none",
        ),
        |figures| figures.stale_reads,
    )?;
    each(family("cube_read_chance_rows", "Rows that were asked of all replicas by read_repair_chance"), |figures| {
        figures.chance_reads
    })?;
    each(family("cube_read_hedges", "Rows that were asked of another replica because one was slow"), |figures| {
        figures.hedges_sent
    })?;
    each(
        family("cube_read_hedges_helped", "Hedged rows that were decided before the slow replica answered"),
        |figures| figures.hedges_helped,
    )?;
    each(
        family("cube_scan_partial_pages", "Pages of scans that did not reach their level in every partition"),
        |figures| figures.partial_pages,
    )?;
    let repairs = tables.iter().flat_map(|table| {
        let ReadFigures { blocking_repairs, chance_repairs, .. } = &table.2;
        [("blocking", blocking_repairs), ("chance", chance_repairs)].into_iter().flat_map(move |(cause, repairs)| {
            outcomes(repairs).map(|(outcome, count)| {
                let told = [("cause", cause.to_owned()), ("outcome", outcome.to_owned())];
                (labels(table).into_iter().chain(told).collect::<Labels>(), count)
            })
        })
    });
    page.counter(
        family(
            "cube_read_repairs",
            "Rows brought up to date on a replica because a read found it behind, by what came of it",
        ),
        repairs,
    )
}

fn outcomes(&Repairs { repaired, unneeded, failed, skipped }: &Repairs) -> [(&'static str, u64); 4] {
    [("repaired", repaired), ("unneeded", unneeded), ("failed", failed), ("skipped", skipped)]
}

fn labels((keyspace, table, _): &Table) -> Labels {
    vec![("keyspace", keyspace.clone()), ("table", table.clone())]
}
