//! What the program does with its command line: type statements, do those of a script, import, or print about itself.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{Arguments, Task};
use crate::error::{EXIT_FAILED, EXIT_OK, EXIT_USAGE, ShellError};
use crate::outcome::Outcome;
use crate::render::Form;
use crate::script::{self, complain};
use crate::session::{Session, address};
use crate::top::top;
use crate::{interactive, transfer};

/// Runs the shell.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match &arguments.task {
        Some(Task::Completions { shell, dir }) => return completions(*shell, dir.as_deref()),
        Some(Task::Man { dir }) => return manual(dir.as_deref()),
        _ => {}
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("this machine has no room for the shell: {error}"));
            return EXIT_FAILED.into();
        }
    };
    let form = form(&arguments);
    let mut session = Session::new(address(&arguments.host, arguments.port), arguments.timeout);
    session.is_watched = matches!(form, Form::People { .. });
    let code = match &arguments.task {
        Some(Task::Import(import)) => {
            let done = runtime.block_on(transfer::import(&mut session, import, form));
            finished("IMPORT", done.map(Some), form)
        }
        Some(Task::Export(export)) => {
            finished("EXPORT", runtime.block_on(transfer::export(&mut session, export, form)), form)
        }
        Some(Task::Top(arguments)) => finished("TOP", runtime.block_on(top(&mut session, arguments, form)), form),
        _ if is_interactive(&arguments) => interactive::shell(&runtime, session, form),
        _ => code_of(runtime.block_on(statements(&mut session, &arguments, form))),
    };
    // Nothing that is still under way is waited for.
    runtime.shutdown_background();
    code.into()
}

fn is_interactive(arguments: &Arguments) -> bool {
    arguments.execute.is_empty() && arguments.file.is_none() && io::stdin().is_terminal() && io::stdout().is_terminal()
}

fn form(arguments: &Arguments) -> Form {
    if arguments.json {
        return Form::Json;
    }
    if arguments.csv {
        return Form::Csv;
    }
    if !io::stdout().is_terminal() {
        return Form::People { width: None, colour: false };
    }
    let width = ratatui::crossterm::terminal::size().map(|(columns, _)| columns).ok().filter(|columns| *columns > 0);
    let says = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    Form::People { width: width.or(Some(80)), colour: !says("NO_COLOR") && !is_dumb }
}

fn code_of(flow: ControlFlow<u8>) -> u8 {
    flow.break_value().unwrap_or(EXIT_OK)
}

async fn statements(session: &mut Session, arguments: &Arguments, form: Form) -> ControlFlow<u8> {
    for text in &arguments.execute {
        script::text(session, text, 1, form).await?;
    }
    if !arguments.execute.is_empty() {
        return ControlFlow::Continue(());
    }
    match &arguments.file {
        Some(file) if file != Path::new("-") => match std::fs::read_to_string(file) {
            Ok(text) => script::text(session, &text, 1, form).await,
            Err(error) => {
                complain(&format!("{} cannot be read: {error}", file.display()));
                ControlFlow::Break(EXIT_USAGE)
            }
        },
        _ => script::input(session, io::stdin().lock(), form).await,
    }
}

/// Tells what came of a task.
fn finished(task: &str, done: Result<Option<Outcome>, ShellError>, form: Form) -> u8 {
    match done {
        Ok(outcome) => code_of(script::print(outcome.map(|outcome| form.outcome(&outcome)).as_deref())),
        Err(ShellError::NobodyReads) => EXIT_OK,
        Err(error) => {
            if let ControlFlow::Break(code) = script::print(form.failure(task, &error).as_deref()) {
                return code;
            }
            complain(&error.to_string());
            error.exit_code()
        }
    }
}

fn completions(shell: clap_complete::Shell, dir: Option<&Path>) -> ExitCode {
    let mut command = Arguments::command();
    if let Some(dir) = dir {
        let mut write = || clap_complete::generate_to(shell, &mut command, "cube", dir).map(drop);
        return written(dir, fs::create_dir_all(dir).and_then(|()| write()));
    }
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, "cube", &mut text);
    show(&text)
}

fn manual(dir: Option<&Path>) -> ExitCode {
    // The page of `help` would tell nothing.
    let command = Arguments::command().disable_help_subcommand(true);
    if let Some(dir) = dir {
        return written(dir, fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(command, dir)));
    }
    let mut text = Vec::new();
    match clap_mangen::Man::new(command).render(&mut text) {
        Ok(()) => show(&text),
        Err(_) => EXIT_FAILED.into(),
    }
}

fn written(dir: &Path, done: io::Result<()>) -> ExitCode {
    match done {
        Ok(()) => EXIT_OK.into(),
        Err(error) => {
            complain(&format!("{} cannot be written: {error}", dir.display()));
            EXIT_FAILED.into()
        }
    }
}

fn show(text: &[u8]) -> ExitCode {
    match io::stdout().lock().write_all(text) {
        Ok(()) => EXIT_OK.into(),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => EXIT_OK.into(),
        Err(_) => EXIT_FAILED.into(),
    }
}
