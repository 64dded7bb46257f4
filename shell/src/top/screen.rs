//! The screen of `cube top`: from what the nodes do now to what is drawn. Knows no node and no keyboard.

use std::collections::VecDeque;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Sparkline, Table};

use super::sample::{NodeNow, Now, Pace};
use super::scrape::InSync;
use crate::statement::harmless;

/// Looks that the curves show: as wide as any screen.
pub(super) const HISTORY_MAX: usize = 512;
/// Lines of the curves.
const CURVE_LINES: u16 = 4;
/// Letters between columns.
const GAP_LETTERS: u16 = 2;

/// What is drawn.
#[derive(Debug, Default)]
pub(super) struct Screen {
    pub(super) now: Option<Now>,
    /// Why the last look failed.
    pub(super) trouble: Option<String>,
    pub(super) reads: VecDeque<u64>,
    pub(super) writes: VecDeque<u64>,
    pub(super) is_coloured: bool,
}

/// A column of the table of nodes. Those that say least are left out first where there is no room.
struct Column {
    title: &'static str,
    letters: u16,
    /// The greater, the sooner it is left out.
    is_spared: u8,
    cell: fn(&NodeNow) -> String,
}

const fn column(title: &'static str, letters: u16, is_spared: u8, cell: fn(&NodeNow) -> String) -> Column {
    Column { title, letters, is_spared, cell }
}

const COLUMNS: [Column; 16] = [
    column("node", 12, 0, |node| harmless(&node.name)),
    column("status", 6, 0, |node| if node.alive { "ALIVE" } else { "DOWN" }.to_owned()),
    column("state", 7, 3, |node| node.state.clone()),
    column("cpu %", 5, 2, |node| maybe(node.load_percent, 0)),
    column("busy", 4, 6, |node| node.in_flight.map_or_else(dash, |count| count.to_string())),
    column("reads/s", 7, 0, |node| maybe(node.reads.as_ref().map(|pace| pace.per_second), 0)),
    column("r p50 ms", 8, 5, |node| maybe(node.reads.as_ref().and_then(|pace| pace.p50_ms), 1)),
    column("r p99 ms", 8, 1, |node| maybe(node.reads.as_ref().and_then(|pace| pace.p99_ms), 1)),
    column("writes/s", 8, 0, |node| maybe(node.writes.as_ref().map(|pace| pace.per_second), 0)),
    column("w p50 ms", 8, 5, |node| maybe(node.writes.as_ref().and_then(|pace| pace.p50_ms), 1)),
    column("w p99 ms", 8, 1, |node| maybe(node.writes.as_ref().and_then(|pace| pace.p99_ms), 1)),
    column("errors/s", 8, 3, |node| maybe(node.errors_per_second, 0)),
    column("misses", 6, 0, |node| node.hints_for.to_string()),
    column("dirty", 5, 2, |node| node.dirty_ranges.to_string()),
    column("repairs/s", 9, 4, |node| maybe(node.repairs_per_second, 0)),
    column("synced", 8, 1, |node| synced(node.in_sync)),
];

fn dash() -> String {
    "-".to_owned()
}

fn maybe(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(dash, |value| format!("{value:.digits$}"))
}

fn synced(in_sync: InSync) -> String {
    match in_sync {
        InSync::Untold => dash(),
        InSync::Seconds(seconds) => ago(seconds),
        InSync::NotYet => "not yet".to_owned(),
    }
}

fn ago(seconds: u64) -> String {
    match seconds {
        0..100 => format!("{seconds}s ago"),
        100..6_000 => format!("{}m ago", seconds / 60),
        _ => format!("{}h ago", seconds / 3_600),
    }
}

/// The columns that there is room for, in their order.
fn fitting(letters: u16) -> Vec<&'static Column> {
    let mut columns: Vec<&Column> = COLUMNS.iter().collect();
    let width = |columns: &[&Column]| columns.iter().map(|column| column.letters + GAP_LETTERS).sum::<u16>();
    while width(&columns) > letters + GAP_LETTERS {
        let most = columns.iter().map(|column| column.is_spared).max().unwrap_or_default();
        match columns.iter().rposition(|column| column.is_spared == most && most > 0) {
            Some(place) => drop(columns.remove(place)),
            None => break,
        }
    }
    columns
}

impl Screen {
    /// Takes note of a look.
    pub(super) fn show(&mut self, now: Now) {
        for (curve, pace) in [(&mut self.reads, &now.reads), (&mut self.writes, &now.writes)] {
            if curve.len() >= HISTORY_MAX {
                curve.pop_front();
            }
            curve.push_back(whole(pace.per_second));
        }
        self.trouble = None;
        self.now = Some(now);
    }

    fn paint(&self, style: Style) -> Style {
        if self.is_coloured { style } else { Style::new() }
    }

    pub(super) fn draw(&self, frame: &mut Frame<'_>) {
        let nodes = self.now.as_ref().map_or(0, |now| now.nodes.len());
        let table = u16::try_from(nodes).unwrap_or(u16::MAX).saturating_add(1);
        let parts = [
            Constraint::Length(1),
            Constraint::Length(1),
            Constraint::Length(CURVE_LINES),
            Constraint::Length(1),
            Constraint::Min(table),
            Constraint::Length(1),
        ];
        let [title, trouble, curves, _, table, keys] = Layout::vertical(parts).areas(frame.area());
        frame.render_widget(Paragraph::new(self.title()), title);
        frame.render_widget(Paragraph::new(self.notes()), trouble);
        if let Some(now) = &self.now {
            let [left, _, right] =
                Layout::horizontal([Constraint::Fill(1), Constraint::Length(2), Constraint::Fill(1)]).areas(curves);
            self.curve(frame, left, "reads", &now.reads, &self.reads, Color::Cyan);
            self.curve(frame, right, "writes", &now.writes, &self.writes, Color::Magenta);
            self.nodes(frame, table, now);
        }
        let told = "q quits   misses: writes that others keep for it   synced: last proven equal";
        frame.render_widget(Paragraph::new(told).style(self.paint(Style::new().dim())), keys);
    }

    fn title(&self) -> Line<'_> {
        let Some(now) = &self.now else { return Line::from("cube top    looking at the nodes...") };
        let (alive, all, hints) = (now.alive(), now.nodes.len(), now.pending_hints());
        let told = |is_well: bool, text: String| {
            let colour = if is_well { Color::Green } else { Color::Red };
            Span::styled(text, self.paint(Style::new().fg(colour).bold()))
        };
        let errors = now.errors_per_second;
        Line::from(vec![
            Span::styled("cube top", self.paint(Style::new().bold())),
            Span::from("    "),
            told(alive == all, format!("{alive} of {all} nodes alive")),
            Span::from("    "),
            told(hints == 0, format!("Pending Hints: {hints}")),
            Span::from("    "),
            told(errors < 0.5, format!("{errors:.0} errors/s")),
            Span::from(format!("    {:.0} pages/s    as {} sees it", now.pages_per_second, harmless(&now.by))),
        ])
    }

    /// What is wrong with the figures, if something is.
    fn notes(&self) -> Line<'_> {
        let told = match (&self.trouble, &self.now) {
            (Some(trouble), _) => trouble.lines().next().unwrap_or_default().to_owned(),
            (None, Some(now)) if !now.untold.is_empty() => {
                format!("no figures of {}: they do not answer", now.untold.join(", "))
            }
            _ => String::new(),
        };
        Line::from(Span::styled(told, self.paint(Style::new().fg(Color::Yellow))))
    }

    fn curve(&self, frame: &mut Frame<'_>, area: Rect, name: &str, pace: &Pace, past: &VecDeque<u64>, colour: Color) {
        let [title, curve] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
        let [p50, p99] = [pace.p50_ms, pace.p99_ms].map(|ms| maybe(ms, 1));
        let told = format!("{:.0} {name}/s    p50 {p50} ms    p99 {p99} ms", pace.per_second);
        frame.render_widget(Paragraph::new(told).style(self.paint(Style::new().bold())), title);
        let letters = usize::from(curve.width);
        let shown: Vec<u64> = past.iter().copied().skip(past.len().saturating_sub(letters)).collect();
        frame.render_widget(Sparkline::default().data(shown).style(self.paint(Style::new().fg(colour))), curve);
    }

    fn nodes(&self, frame: &mut Frame<'_>, area: Rect, now: &Now) {
        let columns = fitting(area.width);
        let header = Row::new(columns.iter().map(|column| aligned(column, column.title.to_owned())));
        let rows = now.nodes.iter().map(|node| {
            let row = Row::new(columns.iter().map(|column| aligned(column, (column.cell)(node))));
            let style = match (node.alive, node.hints_for + node.dirty_ranges) {
                (false, _) => Style::new().fg(Color::Red),
                (true, 1..) => Style::new().fg(Color::Yellow),
                (true, 0) => Style::new(),
            };
            row.style(self.paint(style))
        });
        let widths = columns.iter().map(|column| Constraint::Length(column.letters));
        let table = Table::new(rows, widths).column_spacing(GAP_LETTERS);
        frame.render_widget(table.header(header.style(self.paint(Style::new().bold()))), area);
    }
}

/// Words to the left, numbers to the right.
fn aligned(column: &Column, text: String) -> Cell<'static> {
    let is_word = matches!(column.title, "node" | "status" | "state");
    let line = Line::from(text);
    Cell::from(if is_word { line } else { line.right_aligned() })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a curve of whole requests")]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn node(name: &str, alive: bool, hints_for: u64) -> NodeNow {
        let pace = Pace { per_second: 1234.0, p50_ms: Some(0.84), p99_ms: Some(3.2) };
        NodeNow {
            name: name.into(),
            alive,
            state: "READY".into(),
            load_percent: alive.then_some(42.0),
            in_flight: alive.then_some(7),
            reads: alive.then(|| pace.clone()),
            writes: alive.then_some(pace),
            pages_per_second: Some(0.0),
            errors_per_second: alive.then_some(0.0),
            repairs_per_second: alive.then_some(5.0),
            replayed_per_second: alive.then_some(0.0),
            in_sync: if alive { InSync::Seconds(12) } else { InSync::Untold },
            hints_kept: alive.then_some(hints_for),
            hints_for,
            dirty_ranges: 0,
        }
    }

    fn drawn(width: u16) -> String {
        let new = NodeNow { in_sync: InSync::NotYet, ..node("node-2", true, 0) };
        let nodes = vec![node("node-1", true, 0), new, node("node-3", false, 45)];
        let pace = Pace { per_second: 2468.0, p50_ms: Some(0.84), p99_ms: Some(3.2) };
        let (reads, writes) = (pace.clone(), pace);
        let by = "127.0.0.1:7400".into();
        let now = Now { by, nodes, reads, writes, pages_per_second: 3.0, errors_per_second: 0.0, untold: Vec::new() };
        let mut screen = Screen::default();
        screen.show(now);
        let mut terminal = Terminal::new(TestBackend::new(width, 12)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn the_screen_tells_of_the_cluster_and_of_each_node() {
        let wide = drawn(140);
        for told in [
            "2 of 3 nodes alive",
            "2468 reads/s    p50 0.8 ms    p99 3.2 ms",
            "node-3        DOWN",
            "12s ago",
            "not yet",
            "q quits",
        ] {
            assert!(wide.contains(told), "{told}: {wide}");
        }
    }

    #[test]
    fn a_narrow_screen_leaves_out_what_says_least() {
        let narrow = drawn(80);
        for told in ["node-1        ALIVE", "reads/s", "writes/s", "misses", "synced"] {
            assert!(narrow.contains(told), "{told}: {narrow}");
        }
        assert!(!narrow.contains("busy"), "{narrow}");
    }
}
