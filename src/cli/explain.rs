//! `explain CODE`: what the word in brackets at the end of an error means, and what to do. Out of the program itself: it is there
//! when nothing else is.

use clap::Args;
use serde_json::json;

use super::output::Format;
use super::{CliError, Output};

/// The document with a paragraph for each code.
const ERRORS: &str = include_str!("../../docs/errors.md");

/// `explain`
#[derive(Debug, Clone, Args)]
pub struct ExplainArgs {
    /// The word in brackets, such as no_leader, or an exit code; without it, all of them
    #[arg(value_name = "CODE")]
    pub code: Option<String>,
}

/// Prints it.
pub fn run(args: &ExplainArgs, output: &mut Output) -> Result<(), CliError> {
    let Some(code) = &args.code else {
        return if output.format() == Format::Json {
            let all: Vec<_> = codes().map(|(code, text)| json!({ "code": code, "text": text })).collect();
            Ok(output.json(&all.into())?)
        } else {
            Ok(output.line(plain(ERRORS).trim_end())?)
        };
    };
    let wanted = code.trim_matches(['[', ']']);
    let Some((code, text)) = codes().find(|(known, _)| *known == wanted) else {
        let known: Vec<&str> = codes().map(|(code, _)| code).collect();
        return Err(CliError::usage(
            format!("no error has the code '{wanted}'"),
            format!("known are {}", known.join(", ")),
        ));
    };
    if output.format() == Format::Json {
        Ok(output.json(&json!({ "code": code, "text": text }))?)
    } else {
        Ok(output.line(&text)?)
    }
}

/// The codes in the order of the document, each with its text.
fn codes() -> impl Iterator<Item = (&'static str, String)> {
    let begins = |paragraph: &&str| paragraph.starts_with("**");
    let paragraphs: Vec<&str> = ERRORS.split("\n\n").collect();
    let places: Vec<usize> =
        paragraphs.iter().enumerate().filter(|(_, p)| begins(p)).map(|(place, _)| place).collect();
    places.into_iter().filter_map(move |place| {
        let (head, _) = paragraphs[place][2..].split_once("**")?;
        // `**8, outcome unknown.**` has the number first.
        let code = head.split(',').next()?;
        let more = paragraphs[place + 1..].iter().take_while(|p| !begins(p) && !p.starts_with('#'));
        let text: Vec<String> =
            [&paragraphs[place]].into_iter().chain(more).map(|paragraph| plain(paragraph)).collect();
        Some((code, text.join("\n\n")))
    })
}

/// Markdown as people read it in a terminal: without marks, with the places of links behind them.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('[') {
        plain.push_str(before);
        let link = after.split_once("](").and_then(|(words, after)| Some((words, after.split_once(')')?)));
        match link.filter(|(words, _)| !words.contains([']', '\n'])) {
            Some((words, (place, after))) => {
                plain.push_str(words);
                if words != place {
                    plain.push_str(&format!(" ({place})"));
                }
                rest = after;
            }
            None => {
                plain.push('[');
                rest = after;
            }
        }
    }
    plain.push_str(rest);
    plain.replace("**", "").replace('`', "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_found_with_all_that_is_said_of_it() {
        let all: Vec<(&str, String)> = codes().collect();
        let find = |code: &str| &all.iter().find(|(known, _)| *known == code).expect("it is there").1;
        assert!(all.len() >= 30, "{all:?}");
        assert!(find("8").starts_with("8, outcome unknown. The answer to a write was lost"), "{}", find("8"));
        assert!(find("conflict").contains("With outcome: unknown:"), "its second paragraph");
        assert!(find("damaged").ends_with("see operations.md."), "{}", find("damaged"));
        assert!(!find("130").contains('#'), "the next heading is not part of it");
        for (code, text) in &all {
            assert!(text.len() > 30 && !text.contains(['`', '*']), "{code}: {text}");
        }
        let mut unique: Vec<&str> = all.iter().map(|(code, _)| *code).collect();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), all.len());
    }

    #[test]
    fn links_and_marks_are_read_as_words() {
        assert_eq!(
            plain("see [the book](https://a.b/c), **now** `x`"),
            "see the book (https://a.b/c), now x"
        );
        assert_eq!(plain("[a.md](a.md), in [brackets] and [open"), "a.md, in [brackets] and [open");
    }
}
