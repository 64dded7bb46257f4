//! `cube top`: what the nodes do, on a live screen; without a terminal, once, as a table.
//!
//! A look at the nodes never holds up the keyboard, and one that fails is told on the screen and tried again: a cluster
//! that has no node left is shown as that.

mod sample;
mod scrape;
mod screen;

use std::io::{self, IsTerminal};
use std::time::Duration;

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::args::TopArguments;
use crate::error::ShellError;
use crate::outcome::{Cell, Outcome, Rows, Tone};
use crate::render::Form;
use crate::session::Session;
use sample::{Look, Now, Pace};
use scrape::InSync;
use screen::Screen;

/// How often the thread at the keyboard looks whether the screen is still there.
const KEY_WAIT: Duration = Duration::from_millis(100);
/// Keys that wait to be seen.
const KEYS_MAX: usize = 16;

/// Shows what the nodes do. Nothing is left to tell when a live screen was quit.
pub(crate) async fn top(
    session: &mut Session,
    arguments: &TopArguments,
    form: Form,
) -> Result<Option<Outcome>, ShellError> {
    match form {
        Form::People { colour, .. } if io::stdin().is_terminal() && io::stdout().is_terminal() => {
            // Told in words while there is no screen yet.
            let first = Look::take(session).await?;
            live(session, arguments.interval, first, colour).await.map(|()| None)
        }
        _ => {
            let first = Look::take(session).await?;
            sleep_until(Instant::now() + arguments.interval).await;
            let now = Now::between(&first, &Look::take(session).await?);
            Ok(Some(snapshot(&now)))
        }
    }
}

/// What came of a key.
enum Key {
    Quit,
    /// Something is to be drawn anew.
    Draw,
}

fn keys() -> mpsc::Receiver<Key> {
    let (sender, receiver) = mpsc::channel(KEYS_MAX);
    tokio::task::spawn_blocking(move || {
        while !sender.is_closed() {
            match event::poll(KEY_WAIT) {
                Ok(false) => continue,
                Ok(true) => {}
                Err(_) => return,
            }
            let key = match event::read() {
                Ok(Event::Key(key)) if key.kind == KeyEventKind::Release => continue,
                Ok(Event::Key(key)) => match (key.code, key.modifiers) {
                    (KeyCode::Char('q' | 'Q') | KeyCode::Esc, _) => Key::Quit,
                    (KeyCode::Char('c' | 'd'), KeyModifiers::CONTROL) => Key::Quit,
                    _ => continue,
                },
                Ok(Event::Resize(..)) => Key::Draw,
                Ok(_) => continue,
                Err(_) => return,
            };
            if sender.blocking_send(key).is_err() {
                return;
            }
        }
    });
    receiver
}

fn failed(error: io::Error) -> ShellError {
    ShellError::File(format!("the terminal cannot be drawn on: {error}"))
}

async fn live(session: &mut Session, interval: Duration, first: Look, is_coloured: bool) -> Result<(), ShellError> {
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let shown = watch(session, interval, first, &mut terminal, is_coloured).await;
    ratatui::try_restore().map_err(failed)?;
    shown
}

async fn watch(
    session: &mut Session,
    interval: Duration,
    mut before: Look,
    terminal: &mut DefaultTerminal,
    is_coloured: bool,
) -> Result<(), ShellError> {
    let mut screen = Screen { is_coloured, ..Screen::default() };
    screen.show(Now::between(&before, &before));
    let mut keys = keys();
    let mut due = Instant::now() + interval;
    loop {
        terminal.draw(|frame| screen.draw(frame)).map_err(failed)?;
        let at = due;
        let look = async {
            sleep_until(at).await;
            Look::take(session).await
        };
        let mut look = std::pin::pin!(look);
        let told = loop {
            tokio::select! {
                told = &mut look => break told,
                key = keys.recv() => match key {
                    Some(Key::Quit) | None => return Ok(()),
                    Some(Key::Draw) => {
                        terminal.draw(|frame| screen.draw(frame)).map_err(failed)?;
                    }
                },
                _ = tokio::signal::ctrl_c() => return Ok(()),
            }
        };
        // What was missed while nodes did not answer is not made up for.
        due = (due + interval).max(Instant::now());
        match told {
            Ok(look) => {
                screen.show(Now::between(&before, &look));
                before = look;
            }
            Err(error) => screen.trouble = Some(error.to_string()),
        }
    }
}

/// One look, for whoever has no terminal.
fn snapshot(now: &Now) -> Outcome {
    let columns = vec![
        "name",
        "status",
        "state",
        "loadPercent",
        "inFlight",
        "readsPerSecond",
        "readP50Ms",
        "readP99Ms",
        "writesPerSecond",
        "writeP50Ms",
        "writeP99Ms",
        "pagesPerSecond",
        "errorsPerSecond",
        "hintsFor",
        "hintsKept",
        "dirtyRanges",
        "replayedPerSecond",
        "repairsPerSecond",
        "syncAgeSeconds",
        "compared",
    ];
    let number = |value: Option<f64>| Cell::maybe(value, Cell::Number);
    let rows = now.nodes.iter().map(|node| {
        let of = |pace: &Option<Pace>| {
            let pace = pace.as_ref();
            [pace.map(|pace| pace.per_second), pace.and_then(|pace| pace.p50_ms), pace.and_then(|pace| pace.p99_ms)]
        };
        let mut row = vec![
            Cell::text(&node.name),
            Cell::text(if node.alive { "ALIVE" } else { "DOWN" }),
            Cell::text(&node.state),
            number(node.load_percent),
            Cell::maybe(node.in_flight, Cell::Count),
        ];
        row.extend(of(&node.reads).into_iter().chain(of(&node.writes)).map(number));
        row.extend([
            number(node.pages_per_second),
            number(node.errors_per_second),
            Cell::Count(node.hints_for),
            Cell::maybe(node.hints_kept, Cell::Count),
            Cell::Count(node.dirty_ranges),
            number(node.replayed_per_second),
            number(node.repairs_per_second),
            match node.in_sync {
                InSync::Seconds(seconds) => Cell::Count(seconds),
                InSync::Untold | InSync::NotYet => Cell::Null,
            },
            match node.in_sync {
                InSync::Untold => Cell::Null,
                in_sync => Cell::Bool(in_sync != InSync::NotYet),
            },
        ]);
        row
    });
    let (alive, all, hints) = (now.alive(), now.nodes.len(), now.pending_hints());
    let count = |count: usize| Cell::Count(u64::try_from(count).unwrap_or(u64::MAX));
    let pace = |pace: &Pace| {
        let ms = |ms: Option<f64>| ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.1} ms"));
        format!("{:.0}/s, p50 {}, p99 {}", pace.per_second, ms(pace.p50_ms), ms(pace.p99_ms))
    };
    let mut outcome = Outcome::of("TOP")
        .fact("nodes", count(all))
        .fact("alive", count(alive))
        .fact("readsPerSecond", Cell::Number(now.reads.per_second))
        .fact("writesPerSecond", Cell::Number(now.writes.per_second))
        .fact("errorsPerSecond", Cell::Number(now.errors_per_second))
        .fact("pendingHints", Cell::Count(hints))
        .fact("noFiguresOf", Cell::Names(now.untold.clone()))
        .line(if alive == all { Tone::Good } else { Tone::Warn }, format!("Nodes: {all}, {alive} alive"))
        .line(Tone::Plain, format!("Reads: {}", pace(&now.reads)))
        .line(Tone::Plain, format!("Writes: {}", pace(&now.writes)))
        .line(if hints == 0 { Tone::Good } else { Tone::Warn }, format!("Pending Hints: {hints}"));
    if !now.untold.is_empty() {
        let told = format!("No figures of {}: they do not answer", now.untold.join(", "));
        outcome = outcome.line(Tone::Warn, told);
    }
    outcome.rows(Rows { columns, rows: rows.collect() })
}
