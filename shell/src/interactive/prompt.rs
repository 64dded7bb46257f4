//! The prompt: whom the shell talks to, and the table and level of statements that name none.

use std::borrow::Cow;

use cube_client::Level;
use reedline::{Color, Prompt, PromptEditMode, PromptHistorySearch, PromptHistorySearchStatus};

use crate::session::Session;

pub(super) struct Line {
    text: String,
    is_coloured: bool,
}

/// `node-1 default.kv`, with the level where it is not the usual one.
pub(super) fn of(session: &Session, is_coloured: bool) -> Line {
    let contact = session.contact().unwrap_or_else(|| "(not connected)".to_owned());
    let table = session.table.as_deref().unwrap_or("?");
    let level = if session.level == Level::Quorum { String::new() } else { format!(" {}", session.level) };
    Line { text: format!("{contact} {}.{table}{level}", session.keyspace), is_coloured }
}

impl Prompt for Line {
    fn render_prompt_left(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.text)
    }

    fn render_prompt_right(&self) -> Cow<'_, str> {
        Cow::Borrowed("")
    }

    fn render_prompt_indicator(&self, _: PromptEditMode) -> Cow<'_, str> {
        Cow::Borrowed("> ")
    }

    fn render_prompt_multiline_indicator(&self) -> Cow<'_, str> {
        Cow::Borrowed("... ")
    }

    fn render_prompt_history_search_indicator(&self, search: PromptHistorySearch) -> Cow<'_, str> {
        let failing = if matches!(search.status, PromptHistorySearchStatus::Failing) { "nothing like " } else { "" };
        Cow::Owned(format!("({failing}{}) ", search.term))
    }

    fn get_prompt_color(&self) -> Color {
        if self.is_coloured { Color::Cyan } else { Color::Default }
    }

    fn get_indicator_color(&self) -> Color {
        self.get_prompt_color()
    }

    fn get_prompt_multiline_color(&self) -> Color {
        self.get_prompt_color()
    }
}
