//! A table of numbers by row and column. Outside of it everything is zero, so nothing here can panic.

/// `rows` times `columns` cells.
#[derive(Clone, Debug)]
pub(super) struct Grid<T> {
    columns: usize,
    cells: Vec<T>,
}

impl<T: Copy + Default> Grid<T> {
    pub(super) fn new(rows: usize, columns: usize) -> Self {
        Self { columns, cells: vec![T::default(); rows * columns] }
    }

    pub(super) fn at(&self, row: usize, column: usize) -> T {
        debug_assert!(column < self.columns);
        self.cells.get(row * self.columns + column).copied().unwrap_or_default()
    }

    pub(super) fn change(&mut self, row: usize, column: usize, change: impl FnOnce(&mut T)) {
        debug_assert!(column < self.columns);
        if let Some(cell) = self.cells.get_mut(row * self.columns + column) {
            change(cell);
        }
    }

    pub(super) fn row(&self, row: usize) -> &[T] {
        self.cells.get(row * self.columns..(row + 1) * self.columns).unwrap_or_default()
    }
}
