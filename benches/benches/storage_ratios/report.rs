//! Tables of figures, and the folders the databases live in while they are measured.

use cube_benches::Result;
use tempfile::TempDir;

use crate::Arguments;

/// Figures under their names.
pub(crate) struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(title: &str, columns: &[&str]) -> Self {
        Self { title: title.to_owned(), rows: vec![columns.iter().map(|&name| name.to_owned()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

/// Writes a table as Markdown, so that it can stand in a page as it is.
pub(crate) fn print(table: &Table) {
    println!("\n{}\n", table.title);
    let columns = table.rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column| table.rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for (place, row) in table.rows.iter().enumerate() {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:>width$}")).collect();
        println!("| {} |", cells.join(" | "));
        if place == 0 {
            let rule: Vec<String> =
                widths.iter().map(|&width| format!("{}:", "-".repeat(width.saturating_sub(1)))).collect();
            println!("| {} |", rule.join(" | "));
        }
    }
}

/// A folder for one database; gone when it is dropped.
pub(crate) fn scratch(arguments: &Arguments) -> Result<TempDir> {
    let builder = || {
        let mut builder = tempfile::Builder::new();
        builder.prefix("cube-bench-");
        builder
    };
    Ok(match &arguments.dir {
        Some(dir) => builder().tempdir_in(dir)?,
        None => builder().tempdir()?,
    })
}
