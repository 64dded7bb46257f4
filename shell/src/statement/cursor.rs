//! Walking over the tokens of one statement: what is expected next, and what to say when something else stands there.

use bytes::Bytes;

use super::ast::TableName;
use super::lexer::{Kind, Token};
use super::suggest::nearest;
use super::syntax::{Span, SyntaxError};

/// Said wherever something is left over or cannot stand.
const NEEDS_QUOTES: &str = "keys and values with spaces or any of \" ' ; = , ( ) { } need quotes, as in 'a \"b\"'";

pub(super) struct Cursor<'a> {
    tokens: &'a [Token],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(tokens: &'a [Token]) -> Self {
        Self { tokens, at: 0 }
    }

    pub(super) fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at)
    }

    pub(super) fn next(&mut self) -> Option<&'a Token> {
        let token = self.peek()?;
        self.at += 1;
        Some(token)
    }

    /// What is left.
    pub(super) fn rest(&self) -> &'a [Token] {
        self.tokens.get(self.at..).unwrap_or_default()
    }

    pub(super) fn is_over(&self) -> bool {
        self.peek().is_none()
    }

    /// Where the next token stands, or the end of the last one.
    pub(super) fn here(&self) -> Span {
        match (self.peek(), self.tokens.last()) {
            (Some(token), _) => token.span,
            (None, Some(last)) => Span { start: last.span.end, end: last.span.end },
            (None, None) => Span::default(),
        }
    }

    /// Where the token before stands.
    pub(super) fn last_span(&self) -> Span {
        self.at.checked_sub(1).and_then(|last| self.tokens.get(last)).map_or_else(Span::default, |token| token.span)
    }

    pub(super) fn error(&self, message: impl Into<String>) -> SyntaxError {
        SyntaxError::new(self.here(), message)
    }

    /// A bare word, if one stands here.
    pub(super) fn peek_word(&self) -> Option<&'a str> {
        match self.peek()? {
            Token { kind: Kind::Word(word), .. } => Some(word),
            _ => None,
        }
    }

    /// Whether a symbol stands behind the next token.
    pub(super) fn is_followed_by(&self, symbol: char) -> bool {
        self.tokens.get(self.at + 1).is_some_and(|token| token.kind == Kind::Symbol(symbol))
    }

    pub(super) fn take_symbol(&mut self, symbol: char) -> bool {
        let is_it = self.peek().is_some_and(|token| token.kind == Kind::Symbol(symbol));
        self.at += usize::from(is_it);
        is_it
    }

    pub(super) fn take_word(&mut self, word: &str) -> bool {
        let is_it = self.peek_word().is_some_and(|given| given.eq_ignore_ascii_case(word));
        self.at += usize::from(is_it);
        is_it
    }

    pub(super) fn symbol(&mut self, symbol: char, example: &str) -> Result<(), SyntaxError> {
        if self.take_symbol(symbol) {
            return Ok(());
        }
        Err(self.error(format!("here belongs {symbol}, as in {example}")))
    }

    /// A key or a value: a bare word or something in quotes.
    pub(super) fn bytes(&mut self, what: &str) -> Result<Bytes, SyntaxError> {
        let Some(token) = self.peek() else { return Err(self.error(format!("{what} is missing"))) };
        let bytes = match &token.kind {
            Kind::Word(word) => Bytes::copy_from_slice(word.as_bytes()),
            Kind::Quoted(bytes) => bytes.clone(),
            Kind::Symbol(_) => return Err(self.error(format!("{what} is expected here: {NEEDS_QUOTES}"))),
        };
        self.at += 1;
        Ok(bytes)
    }

    /// Text: a bare word or something in quotes that is text.
    pub(super) fn text(&mut self, what: &str) -> Result<String, SyntaxError> {
        let span = self.here();
        let bytes = self.bytes(what)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| SyntaxError::new(span, format!("{what} must be text")))
    }

    /// The name of a keyspace or a table.
    fn name(&mut self, what: &str) -> Result<String, SyntaxError> {
        let Some(word) = self.peek_word() else { return Err(self.error(format!("{what} is expected here"))) };
        self.at += 1;
        Ok(word.to_owned())
    }

    /// `keyspace`, or `keyspace.table`.
    pub(super) fn place(&mut self) -> Result<(String, Option<String>), SyntaxError> {
        let span = self.here();
        let word = self.name("the name of a keyspace")?;
        match word.split_once('.') {
            None => Ok((word, None)),
            Some((keyspace, table)) if !keyspace.is_empty() && !table.is_empty() && !table.contains('.') => {
                Ok((keyspace.to_owned(), Some(table.to_owned())))
            }
            Some(_) => Err(SyntaxError::new(span, "a table is named as in keyspace.table")),
        }
    }

    /// `table`, or `keyspace.table`.
    pub(super) fn table(&mut self) -> Result<TableName, SyntaxError> {
        if self.is_over() {
            return Err(self.error("the name of a table is missing"));
        }
        Ok(match self.place()? {
            (keyspace, Some(table)) => TableName { keyspace: Some(keyspace), table },
            (table, None) => TableName { keyspace: None, table },
        })
    }

    /// The name of a keyspace alone.
    pub(super) fn keyspace(&mut self) -> Result<String, SyntaxError> {
        let span = self.here();
        if self.is_over() {
            return Err(self.error("the name of a keyspace is missing"));
        }
        match self.place()? {
            (keyspace, None) => Ok(keyspace),
            _ => Err(SyntaxError::new(span, "a keyspace has no dot in its name")),
        }
    }

    /// Nothing may follow.
    pub(super) fn end(
        &self,
        command: &str,
        allowed: impl IntoIterator<Item = &'static str>,
    ) -> Result<(), SyntaxError> {
        let Some(token) = self.peek() else { return Ok(()) };
        let (given, meant) = match &token.kind {
            // A word that stands there is not the one that was meant: it was said before.
            Kind::Word(word) => (format!("{word:?}"), nearest(word, allowed).filter(|meant| *meant != word.as_str())),
            Kind::Quoted(_) => ("this".to_owned(), None),
            Kind::Symbol(symbol) => (format!("{symbol}"), None),
        };
        let hint = if meant.is_some() { String::new() } else { format!("; {NEEDS_QUOTES}") };
        Err(self.error(format!("{command} does not end with {given}{hint}")).suggest(meant))
    }
}
