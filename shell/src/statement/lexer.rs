//! Words, quoted bytes and symbols of a statement.
//!
//! A statement ends at `;` or at the end of its line, unless a quote or a bracket is open or the line ends with a
//! backslash. `//` begins a comment where a word could begin, so `http://x` is a word.

use bytes::Bytes;

use super::literal;
use super::syntax::{Span, SyntaxError};

/// What a token is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// Bare letters: a keyword, a name, or a key or value that needs no quotes.
    Word(String),
    /// Between quotes, or base64.
    Quoted(Bytes),
    /// One of `= , ( ) { }`.
    Symbol(char),
}

/// A token and where it stands in the source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) span: Span,
}

/// The tokens of the statement that begins at or behind `start`, and where the next one may begin. No tokens: the
/// source is over.
pub(super) fn statement(source: &str, start: usize) -> Result<(Vec<Token>, usize), SyntaxError> {
    let mut lexer = Lexer { source, at: start };
    let mut tokens: Vec<Token> = Vec::new();
    let mut open: Vec<Span> = Vec::new();
    loop {
        lexer.skip_blanks();
        let Some(next) = lexer.peek() else {
            return match open.pop() {
                Some(bracket) => Err(SyntaxError::new(bracket, "this bracket is never closed").unfinished()),
                None => Ok((tokens, lexer.at)),
            };
        };
        if next == ';' || (next == '\n' && open.is_empty()) {
            lexer.bump();
            if tokens.is_empty() {
                continue;
            }
            return Ok((tokens, lexer.at));
        }
        if next == '\n' {
            lexer.bump();
            continue;
        }
        let token = lexer.token()?;
        match token.kind {
            Kind::Symbol('(' | '{') => open.push(token.span),
            Kind::Symbol(')' | '}') => drop(open.pop()),
            _ => {}
        }
        tokens.push(token);
    }
}

/// Where reading goes on after a statement that could not be read: behind its line.
pub(super) fn behind_line(source: &str, at: usize) -> usize {
    source.get(at..).and_then(|rest| rest.find('\n')).map_or(source.len(), |line| at + line + 1)
}

/// Whether a letter ends a word.
pub(super) fn ends_word(letter: char) -> bool {
    letter.is_whitespace() || matches!(letter, '"' | '\'' | ';' | '=' | ',' | '(' | ')' | '{' | '}')
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        self.source.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.at += next.len_utf8();
        Some(next)
    }

    /// Spaces, comments, and line ends behind a backslash.
    fn skip_blanks(&mut self) {
        loop {
            let rest = self.rest();
            if rest.starts_with("//") {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if rest.starts_with("\\\n") {
                self.at += 2;
            } else if rest.starts_with("\\\r\n") {
                self.at += 3;
            } else if rest.starts_with(|next: char| next.is_whitespace() && next != '\n') {
                self.bump();
            } else {
                return;
            }
        }
    }

    fn token(&mut self) -> Result<Token, SyntaxError> {
        let start = self.at;
        let kind = match self.peek() {
            Some(quote @ ('"' | '\'')) => Kind::Quoted(self.quoted(quote)?),
            Some(symbol) if ends_word(symbol) => {
                self.bump();
                Kind::Symbol(symbol)
            }
            _ => self.word()?,
        };
        Ok(Token { kind, span: Span { start, end: self.at } })
    }

    fn word(&mut self) -> Result<Kind, SyntaxError> {
        let start = self.at;
        while self.peek().is_some_and(|next| !ends_word(next)) {
            self.bump();
        }
        let word = self.source.get(start..self.at).unwrap_or_default().to_owned();
        let Some(quote @ ('"' | '\'')) = self.peek() else { return Ok(Kind::Word(word)) };
        if !matches!(word.to_ascii_lowercase().as_str(), "b64" | "base64") {
            let span = Span { start, end: self.at + quote.len_utf8() };
            let message = "a quote inside a word: put the whole of it into quotes, or a space before the quote";
            return Err(SyntaxError::new(span, message));
        }
        let text = self.quoted(quote)?;
        let span = Span { start, end: self.at };
        literal::base64(&text).map(Kind::Quoted).map_err(|reason| SyntaxError::new(span, reason))
    }

    /// From the opening quote to behind the closing one.
    fn quoted(&mut self, quote: char) -> Result<Bytes, SyntaxError> {
        let start = self.at;
        self.bump();
        let mut bytes = Vec::new();
        loop {
            let at = self.at;
            match self.bump() {
                None => {
                    let span = Span { start, end: start + 1 };
                    return Err(SyntaxError::new(span, "this quote is never closed").unfinished());
                }
                Some(letter) if letter == quote => return Ok(bytes.into()),
                Some('\\') => {
                    let length = literal::unescape(self.rest(), &mut bytes).map_err(|(reason, length)| {
                        let span = Span { start: at, end: self.at + length };
                        let error = SyntaxError::new(span, reason);
                        if self.rest().is_empty() { error.unfinished() } else { error }
                    })?;
                    self.at += length;
                }
                Some(letter) => bytes.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }
}
