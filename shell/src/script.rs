//! Statements that nobody types: of `-e`, a file or standard input. They are done one after another; the first that fails
//! ends the run, and is told with its line.

use std::io::{self, BufRead, Write};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::{EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, ShellError};
use crate::outcome::Outcome;
use crate::render::Form;
use crate::run::run;
use crate::session::Session;
use crate::statement::{Command, Statements, is_unfinished, line_of};

/// Does the statements of a text. `first_line` is the number of its first line.
pub(crate) async fn text(session: &mut Session, source: &str, first_line: usize, form: Form) -> ControlFlow<u8> {
    for statement in Statements::new(source) {
        let (name, at, done) = match statement {
            Err(error) => {
                let pointer = error.pointer(source, first_line);
                let error = ShellError::Syntax(error);
                print(form.failure("", &error).as_deref())?;
                complain(&format!("{error}\n{pointer}"));
                return ControlFlow::Break(error.exit_code());
            }
            Ok(statement) if statement.command == Command::Exit => return ControlFlow::Break(EXIT_OK),
            Ok(statement) => {
                let done = match statement.command {
                    // A node does it, and would go on after the end of this process.
                    Command::Repair { .. } => until_interrupted(session, &statement.command).await,
                    _ => run(session, &statement.command).await,
                };
                (statement.command.name(), statement.span.start, done)
            }
        };
        if matches!(form, Form::People { .. }) {
            session.take_notices().iter().for_each(|notice| note(notice));
        }
        match done {
            Ok(outcome) => print(Some(&form.outcome(&outcome)))?,
            Err(error) => {
                print(form.failure(name, &error).as_deref())?;
                complain(&format!("line {}: {name}: {error}", line_of(source, at, first_line)));
                return ControlFlow::Break(error.exit_code());
            }
        }
    }
    ControlFlow::Continue(())
}

/// Does a statement, and ends it where it is done when this process is told to end.
async fn until_interrupted(session: &mut Session, command: &Command) -> Result<Outcome, ShellError> {
    let (bell, is_there_work) = (Arc::clone(&session.interrupted), watch_interrupts(session));
    is_there_work.store(true, Ordering::Relaxed);
    let done = run(session, command).await;
    is_there_work.store(false, Ordering::Relaxed);
    // One that came too late for this statement is not for the next one.
    let _late = bell.notified().now_or_never();
    done
}

/// From now on the system does not end this process by itself when it is interrupted: this does, unless there is work for
/// a node to end first.
fn watch_interrupts(session: &mut Session) -> Arc<AtomicBool> {
    let bell = Arc::clone(&session.interrupted);
    let watch = || {
        let is_there_work = Arc::new(AtomicBool::new(false));
        let has_work = Arc::clone(&is_there_work);
        // Without it, an interruption ends the process as it always does.
        let interrupts = signal(SignalKind::interrupt());
        tokio::spawn(async move {
            let Ok(mut interrupts) = interrupts else { return };
            while interrupts.recv().await.is_some() {
                match has_work.load(Ordering::Relaxed) {
                    true => bell.notify_one(),
                    false => std::process::exit(EXIT_INTERRUPTED.into()),
                }
            }
        });
        is_there_work
    };
    Arc::clone(session.interruptible.get_or_insert_with(watch))
}

/// Does the statements of standard input as they come.
pub(crate) async fn input(session: &mut Session, mut input: impl BufRead, form: Form) -> ControlFlow<u8> {
    let mut waiting = String::new();
    let (mut first_line, mut lines) = (1, 0);
    loop {
        let before = waiting.len();
        match input.read_line(&mut waiting) {
            Err(error) => {
                complain(&format!("line {}: the input cannot be read: {error}", first_line + lines));
                return ControlFlow::Break(EXIT_FAILED);
            }
            Ok(0) => return text(session, &waiting, first_line, form).await,
            Ok(_) => lines += 1,
        }
        // What is open can only be closed by a line that has a quote or a bracket.
        let line = waiting.get(before..).unwrap_or_default();
        let may_close = before == 0 || line.contains(['"', '\'', ')', '}']) || !line.trim_end().ends_with('\\');
        if !may_close || is_unfinished(&waiting) {
            continue;
        }
        text(session, &waiting, first_line, form).await?;
        waiting.clear();
        first_line += lines;
        lines = 0;
    }
}

/// Prints results. When nobody reads them any more there is nothing left to do.
pub(crate) fn print(text: Option<&str>) -> ControlFlow<u8> {
    let Some(text) = text else { return ControlFlow::Continue(()) };
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ControlFlow::Break(EXIT_OK),
        Err(error) => {
            complain(&format!("results cannot be written: {error}"));
            ControlFlow::Break(EXIT_FAILED)
        }
    }
}

/// Tells of a failure.
pub(crate) fn complain(text: &str) {
    eprintln!("error: {text}");
}

/// Tells of something by the way.
pub(crate) fn note(text: &str) {
    eprintln!("note: {text}");
}
