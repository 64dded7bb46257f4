//! Statements typed at a terminal: history, completion, colours, input over several lines. Ctrl-C leaves a line or cancels
//! the statement that is under way, never the shell; Ctrl-D ends it.

mod complete;
mod highlight;
mod names;
mod prompt;

use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use reedline::{
    ColumnarMenu, Emacs, FileBackedHistory, KeyCode, KeyModifiers, MenuBuilder, Reedline, ReedlineEvent, ReedlineMenu,
    Signal, ValidationResult, Validator, default_emacs_keybindings,
};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal as Interrupts, SignalKind, signal};
use tokio::sync::Notify;

use self::names::Shared;
use crate::error::{EXIT_FAILED, EXIT_OK, ShellError};
use crate::outcome::{Outcome, Tone};
use crate::render::{Form, paint};
use crate::run::{greeting, run};
use crate::script::{complain, print};
use crate::session::Session;
use crate::statement::{Command, Statements, is_unfinished};

/// Statements that are remembered.
const HISTORY_MAX: usize = 10_000;
/// The name of the menu of completions, by which keys open it.
const MENU: &str = "completions";

/// Asks for more lines while a quote or a bracket is open.
struct Unfinished;

impl Validator for Unfinished {
    fn validate(&self, line: &str) -> ValidationResult {
        if is_unfinished(line) { ValidationResult::Incomplete } else { ValidationResult::Complete }
    }
}

/// Runs until EXIT or Ctrl-D.
pub(crate) fn shell(runtime: &Runtime, mut session: Session, form: Form) -> u8 {
    let is_coloured = matches!(form, Form::People { colour: true, .. });
    let mut interrupts = {
        let _inside = runtime.enter();
        match signal(SignalKind::interrupt()) {
            Ok(interrupts) => interrupts,
            Err(error) => {
                complain(&format!("Ctrl-C cannot be listened for: {error}"));
                return EXIT_FAILED;
            }
        }
    };
    let hello = runtime.block_on(unless_interrupted(&mut interrupts, false, None, greeting(&mut session, "CONNECT")));
    match hello {
        Ok(outcome) if matches!(form, Form::People { .. }) => {
            let outcome = outcome.line(Tone::Aside, "HELP lists the commands, Tab completes them, Ctrl-D ends");
            if let ControlFlow::Break(code) = print(Some(&form.outcome(&outcome))) {
                return code;
            }
        }
        Ok(_) => {}
        Err(error) => {
            complain(&error.to_string());
            return error.exit_code();
        }
    }
    let names = Shared::default();
    let mut editor = editor(&names, is_coloured);
    loop {
        names.refresh(runtime, &session);
        match editor.read_line(&prompt::of(&session, is_coloured)) {
            Ok(Signal::Success(text)) => {
                // A shell that is killed has a history too; one that cannot be kept is no reason to stop.
                editor.sync_history().unwrap_or_default();
                names.take_contact(&mut session);
                if let ControlFlow::Break(code) = statements(runtime, &mut session, &mut interrupts, &text, form) {
                    return code;
                }
            }
            Ok(Signal::CtrlD) => return EXIT_OK,
            Ok(_) => {}
            Err(error) => {
                complain(&format!("the terminal cannot be read: {error}"));
                return EXIT_FAILED;
            }
        }
    }
}

/// Does what was typed. Only EXIT, or a terminal that is gone, ends the shell.
fn statements(
    runtime: &Runtime,
    session: &mut Session,
    interrupts: &mut Interrupts,
    text: &str,
    form: Form,
) -> ControlFlow<u8> {
    let colour = matches!(form, Form::People { colour: true, .. });
    for statement in Statements::new(text) {
        let done = match &statement {
            Err(error) => {
                let pointer = error.pointer(text, 1);
                print(form.failure("", &ShellError::Syntax(error.clone())).as_deref())?;
                fail(&format!("{error}\n{pointer}"), colour);
                return ControlFlow::Continue(());
            }
            Ok(statement) if statement.command == Command::Exit => return ControlFlow::Break(EXIT_OK),
            Ok(statement) => {
                let ended_elsewhere = matches!(statement.command, Command::Repair { .. });
                let bell = ended_elsewhere.then(|| Arc::clone(&session.interrupted));
                let doing = run(session, &statement.command);
                let doing = unless_interrupted(interrupts, writes(&statement.command), bell, doing);
                let done = runtime.block_on(doing);
                done.map_err(|error| (statement.command.name(), error))
            }
        };
        for notice in session.take_notices() {
            eprintln!("{}", paint(Tone::Warn, &format!("note: {notice}"), colour));
        }
        match done {
            Ok(outcome) => print(Some(&current(form).outcome(&outcome)))?,
            Err((name, error)) => {
                print(form.failure(name, &error).as_deref())?;
                fail(&error.to_string(), colour);
                return ControlFlow::Continue(());
            }
        }
    }
    ControlFlow::Continue(())
}

/// The form with the width that the terminal has by now.
fn current(form: Form) -> Form {
    match (form, ratatui::crossterm::terminal::size()) {
        (Form::People { colour, .. }, Ok((columns, _))) if columns > 0 => Form::People { width: Some(columns), colour },
        _ => form,
    }
}

fn fail(text: &str, colour: bool) {
    // Nothing is left to tell it to if this fails.
    writeln!(std::io::stderr(), "{}", paint(Tone::Bad, &format!("error: {text}"), colour)).unwrap_or_default();
}

fn writes(command: &Command) -> bool {
    !matches!(
        command,
        Command::Get { .. }
            | Command::Scan { .. }
            | Command::Nodes
            | Command::Ring(_)
            | Command::Stats
            | Command::Hints
            | Command::Health
            | Command::Status
            | Command::Scrub { now: false }
            | Command::Repair { plan: true, .. }
            | Command::Describe(_)
            | Command::Use(_)
            | Command::Connect { .. }
            | Command::Disconnect(_)
    )
}

/// Does it, or ends it at Ctrl-C: at once, or for what has to be ended elsewhere too by ringing its bell.
async fn unless_interrupted(
    interrupts: &mut Interrupts,
    writes: bool,
    bell: Option<Arc<Notify>>,
    doing: impl Future<Output = Result<Outcome, ShellError>>,
) -> Result<Outcome, ShellError> {
    let mut doing = std::pin::pin!(doing);
    tokio::select! {
        done = &mut doing => return done,
        _ = interrupts.recv() => {}
    }
    let Some(bell) = bell else { return Err(ShellError::Cancelled { writes }) };
    bell.notify_one();
    // A second time it is left to itself.
    tokio::select! {
        done = &mut doing => done,
        _ = interrupts.recv() => Err(ShellError::Cancelled { writes }),
    }
}

fn editor(names: &Shared, is_coloured: bool) -> Reedline {
    let menu = ColumnarMenu::default().with_name(MENU).with_columns(4).with_column_padding(2);
    let mut keys = default_emacs_keybindings();
    let complete = ReedlineEvent::UntilFound(vec![ReedlineEvent::Menu(MENU.to_owned()), ReedlineEvent::MenuNext]);
    keys.add_binding(KeyModifiers::NONE, KeyCode::Tab, complete);
    keys.add_binding(KeyModifiers::SHIFT, KeyCode::BackTab, ReedlineEvent::MenuPrevious);
    let mut editor = Reedline::create()
        .with_completer(Box::new(complete::Words::new(names.clone())))
        .with_menu(ReedlineMenu::EngineCompleter(Box::new(menu)))
        .with_edit_mode(Box::new(Emacs::new(keys)))
        .with_validator(Box::new(Unfinished))
        .with_quick_completions(true)
        .with_partial_completions(true)
        .with_ansi_colors(is_coloured)
        .use_bracketed_paste(true)
        .with_history_exclusion_prefix(Some(" ".to_owned()));
    if is_coloured {
        editor = editor.with_highlighter(Box::new(highlight::Colours));
    }
    match history() {
        Some(history) => editor.with_history(Box::new(history)),
        None => editor,
    }
}

/// The history of earlier shells, readable by its owner alone: values may be secrets. Without a place for it there is none.
fn history() -> Option<FileBackedHistory> {
    let path = std::env::var_os("CUBE_HISTORY").map(PathBuf::from).or_else(|| {
        let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let state = state.or_else(|| Some(std::env::home_dir()?.join(".local/state")))?;
        Some(state.join("cube/history"))
    })?;
    fs::create_dir_all(path.parent()?).ok()?;
    std::os::unix::fs::OpenOptionsExt::mode(fs::OpenOptions::new().create(true).append(true), 0o600)
        .open(&path)
        .ok()?;
    FileBackedHistory::with_file(HISTORY_MAX, path).ok()
}
