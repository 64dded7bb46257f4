//! What came of a statement: one model, which every form of output is made from.
//!
//! `facts` are what programs read, `rows` a list where there is one, and `lines` are the same told to people. A renderer
//! shows `facts` and `rows` (JSON, CSV) or `lines` and `rows` (people).

use std::collections::BTreeMap;

use bytes::Bytes;
use cube_client::Version;

/// One thing that is told.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Cell {
    /// Nothing is known.
    Null,
    /// Yes or no.
    Bool(bool),
    /// How many.
    Count(u64),
    /// How many more or less.
    Signed(i64),
    /// A share or a rate.
    Number(f64),
    /// Words of this program or of a node.
    Text(String),
    /// A key or a value: any bytes.
    Bytes(Bytes),
    /// Names.
    Names(Vec<String>),
    /// A number for each name.
    Counts(BTreeMap<String, u64>),
    /// Milliseconds since 1970.
    Moment(u64),
    /// The version of a row: people read when it was written.
    Version(Version),
}

impl Cell {
    /// Nothing is known if there is none.
    pub(crate) fn maybe<T>(value: Option<T>, cell: impl FnOnce(T) -> Self) -> Self {
        value.map_or(Self::Null, cell)
    }

    /// Words.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }
}

/// A named thing that is told. Names are as in JSON: `inFlight`.
pub(crate) type Fact = (&'static str, Cell);

/// A list.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Rows {
    /// The names of the columns, as in JSON.
    pub(crate) columns: Vec<&'static str>,
    /// As many cells each.
    pub(crate) rows: Vec<Vec<Cell>>,
}

/// How a line is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tone {
    /// As it is.
    Plain,
    /// All is well.
    Good,
    /// Somebody should look.
    Warn,
    /// It failed.
    Bad,
    /// By the way.
    Aside,
    /// A heading.
    Strong,
}

/// What came of a statement.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Outcome {
    /// The statement's command.
    pub(crate) statement: &'static str,
    /// For programs.
    pub(crate) facts: Vec<Fact>,
    /// A list, if it is one.
    pub(crate) rows: Option<Rows>,
    /// Whether people have the list in the lines already.
    pub(crate) rows_are_told: bool,
    /// For people: shown before the list.
    pub(crate) lines: Vec<(Tone, String)>,
    /// For people: shown behind the list.
    pub(crate) footer: Vec<(Tone, String)>,
    /// What was done for it, where that was asked for: shown behind everything else.
    pub(crate) account: Option<Box<Account>>,
}

/// What was done for a request.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Account {
    /// All of it, for programs.
    pub(crate) document: serde_json::Value,
    /// For people: shown before the messages.
    pub(crate) lines: Vec<(Tone, String)>,
    /// What was sent to replicas. CSV has this instead of the result.
    pub(crate) messages: Rows,
    /// For people: shown behind the messages.
    pub(crate) footer: Vec<(Tone, String)>,
}

impl Outcome {
    /// Of a statement, with nothing told yet.
    pub(crate) fn of(statement: &'static str) -> Self {
        Self {
            statement,
            facts: Vec::new(),
            rows: None,
            rows_are_told: false,
            lines: Vec::new(),
            footer: Vec::new(),
            account: None,
        }
    }

    /// Tells programs.
    #[must_use]
    pub(crate) fn fact(mut self, name: &'static str, cell: Cell) -> Self {
        self.facts.push((name, cell));
        self
    }

    /// Tells people.
    #[must_use]
    pub(crate) fn line(mut self, tone: Tone, text: impl Into<String>) -> Self {
        self.lines.push((tone, text.into()));
        self
    }

    /// Tells people, behind the list.
    #[must_use]
    pub(crate) fn footer(mut self, tone: Tone, text: impl Into<String>) -> Self {
        self.footer.push((tone, text.into()));
        self
    }

    /// Tells what was done for it.
    #[must_use]
    pub(crate) fn account(mut self, account: Option<Account>) -> Self {
        self.account = account.map(Box::new);
        self
    }

    /// Lists.
    #[must_use]
    pub(crate) fn rows(mut self, rows: Rows) -> Self {
        self.rows = Some(rows);
        self
    }

    /// Lists for programs what the lines tell people.
    #[must_use]
    pub(crate) fn hidden_rows(mut self, rows: Rows) -> Self {
        self.rows_are_told = true;
        self.rows(rows)
    }
}
