//! `man [DIR]`: the manual pages, made of the definitions that the command line is parsed by.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory as _};
use clap_mangen::Man;
use serde_json::json;

use super::{Cli, CliError, Output, examples};

/// `man`
#[derive(Debug, Clone, Args)]
pub struct ManArgs {
    /// Where the pages are written, one for each subcommand; it is made if it does not exist [default: the first page goes to stdout]
    #[arg(value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// A page, with the name of its file.
struct Page {
    file: String,
    text: String,
}

/// Prints the first page, or writes all of them.
pub fn run(args: &ManArgs, output: &mut Output) -> Result<(), CliError> {
    // Examples have a section of their own, so the definitions without those in the help.
    let mut command = Cli::command();
    command.build();
    let mut pages = Vec::new();
    collect(&command, "", &mut pages)?;
    let Some(dir) = &args.dir else {
        return Ok(output.text(pages.first().map_or("", |page| &page.text))?);
    };
    let at = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| {
            CliError::failed(format!("cannot write {path}: {error}; name a directory that you may write to"))
        }
    };
    std::fs::create_dir_all(dir).map_err(at(dir))?;
    let mut written = Vec::new();
    for page in pages {
        let path = dir.join(page.file);
        std::fs::write(&path, page.text).map_err(at(&path))?;
        written.push(path);
    }
    let rows: Vec<_> = written.iter().map(|path| vec![path.display().to_string()]).collect();
    let items: Vec<_> = written.iter().map(|path| json!({ "file": path })).collect();
    Ok(output.list(&["WRITTEN"], &rows, &items)?)
}

/// The page of a command and of all below it.
fn collect(command: &Command, path: &str, pages: &mut Vec<Page>) -> io::Result<()> {
    pages.push(page(command, path)?);
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        collect(below, format!("{path} {}", below.get_name()).trim_start(), pages)?;
    }
    Ok(())
}

fn page(command: &Command, path: &str) -> io::Result<Page> {
    let name = format!("{} {path}", super::PROGRAM).trim_end().replace(' ', "-");
    let man = Man::new(command.clone());
    // Without a date: a page is as old as its program, whose version it names.
    let title = format!(".TH {} 1 \"\" \"super-node {}\"\n", name.to_uppercase(), env!("CARGO_PKG_VERSION"));
    let mut text = title.into_bytes();
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    if command.get_arguments().any(|argument| !argument.is_hide_set()) {
        man.render_options_section(&mut text)?;
    }
    if command.get_subcommands().any(|below| !below.is_hide_set()) {
        man.render_subcommands_section(&mut text)?;
    }
    if command.get_after_long_help().is_some() {
        man.render_extra_section(&mut text)?;
    }
    let mut text = String::from_utf8_lossy(&text).replace("\n.br\n\n.br\n", "\n.sp\n");
    text.push_str(&examples_section(examples::of(path)));
    text.push_str(EXIT_STATUS);
    Ok(Page { file: format!("{name}.1"), text })
}

/// The codes of the interface.
const EXIT_STATUS: &str = ".SH \"EXIT STATUS\"
0 ok, 1 failed, 2 usage or configuration, 3 unreachable, 4 no leader or quorum, 5 conflict or precondition, 6 not found,
7 denied, 8 outcome unknown, 9 data damaged, 130 interrupted.
";

fn examples_section(examples: &[(&str, &str)]) -> String {
    let one = |(line, about): &(&str, &str)| {
        let about = if about.is_empty() { String::new() } else { format!("# {}\n", escaped(about)) };
        format!("{about}{}\n", escaped(line))
    };
    let lines: String = examples.iter().map(one).collect();
    format!(".SH EXAMPLES\n.nf\n{lines}.fi\n")
}

/// Text that roff prints as it is.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roff_prints_text_as_it_is() {
        assert_eq!(escaped(".a -b 'c' \\"), "\\&.a \\-b \\(aqc\\(aq \\e");
    }
}
