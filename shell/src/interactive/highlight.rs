//! Colours of a statement while it is typed: commands, quotes, options, comments.

use reedline::{Color, Highlighter, StyledText};

use crate::statement::commands;

pub(super) struct Colours;

/// What a part of the line is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Command,
    Quoted,
    Option,
    Comment,
    Other,
}

impl Highlighter for Colours {
    fn highlight(&self, line: &str, _: usize) -> StyledText {
        let mut styled = StyledText::new();
        for (part, text) in parts(line) {
            let style = match part {
                Part::Command => Color::Cyan.bold(),
                Part::Quoted => Color::Green.normal(),
                Part::Option => Color::Yellow.normal(),
                Part::Comment => Color::DarkGray.normal(),
                Part::Other => Color::Default.normal(),
            };
            styled.push((style, text.to_owned()));
        }
        styled
    }
}

/// The line in parts, nothing left out.
fn parts(line: &str) -> Vec<(Part, &str)> {
    let mut parts = Vec::new();
    let mut rest = line;
    let mut begins_statement = true;
    while let Some(first) = rest.chars().next() {
        let (part, length) = match first {
            '"' | '\'' => (Part::Quoted, quoted(rest, first)),
            '/' if rest.starts_with("//") => (Part::Comment, rest.find('\n').unwrap_or(rest.len())),
            _ if is_symbol(first) => (Part::Other, first.len_utf8()),
            _ => {
                let length =
                    rest.find(|letter: char| is_symbol(letter) || matches!(letter, '"' | '\'')).unwrap_or(rest.len());
                let word = rest.get(..length).unwrap_or_default();
                let is_option = rest.get(length..).is_some_and(|behind| behind.starts_with('='));
                let is_command =
                    begins_statement && commands::first_words().any(|known| known.eq_ignore_ascii_case(word));
                (
                    if is_command {
                        Part::Command
                    } else if is_option {
                        Part::Option
                    } else {
                        Part::Other
                    },
                    length,
                )
            }
        };
        begins_statement = matches!(first, ';' | '\n') || (begins_statement && first.is_whitespace());
        let (text, behind) = rest.split_at(length);
        parts.push((part, text));
        rest = behind;
    }
    parts
}

fn is_symbol(letter: char) -> bool {
    letter.is_whitespace() || matches!(letter, ';' | '=' | ',' | '(' | ')' | '{' | '}')
}

/// How long the quoted text is, with its quotes.
fn quoted(rest: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if letter == quote => return at + letter.len_utf8(),
            _ => {}
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_statement_has_its_colour_and_nothing_is_left_out() {
        let line = "PUT k \"a ; b\" CL=ONE; get k // why";
        let told = parts(line);
        assert_eq!(told.iter().map(|(_, text)| *text).collect::<String>(), line);
        for (part, text) in [
            (Part::Command, "PUT"),
            (Part::Quoted, "\"a ; b\""),
            (Part::Option, "CL"),
            (Part::Command, "get"),
            (Part::Comment, "// why"),
        ] {
            assert!(told.contains(&(part, text)), "{text}: {told:?}");
        }
    }

    #[test]
    fn an_open_quote_colours_the_rest() {
        assert_eq!(parts("PUT k 'é\\'").last(), Some(&(Part::Quoted, "'é\\'")));
    }
}
