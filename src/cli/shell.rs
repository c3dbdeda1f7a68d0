//! `tinkex completions` and `tinkex man`: made from the definition of the command line when they are asked for, so that
//! users of `cargo install` have them too.

use std::path::{Path, PathBuf};

use clap_complete::Shell;

use super::connection::App;
use super::failure::Failure;
use super::shell_word::quoted;
use super::{known_words, manual};

#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ManArgs {
    /// Command whose page is printed, such as `train` or `checkpoint delete`; or a folder, which gets the pages of all
    /// commands: one that exists, or a path with a slash, such as ./pages. Without both, the page of the program is
    /// printed
    #[arg(value_name = "COMMAND|DIR")]
    words: Vec<String>,
}

pub(crate) fn completions(args: CompletionsArgs, app: &App) -> Result<(), Failure> {
    app.out.needs_text("completions")?;
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut manual::command(), "tinkex", &mut text);
    app.out.bytes(&text)
}

pub(crate) fn man(args: ManArgs, app: &App) -> Result<(), Failure> {
    app.out.needs_text("man")?;
    let mut root = manual::command().disable_help_subcommand(true);
    root.build();
    let failed = |error: std::io::Error| Failure::text(format!("cannot make the page: {error}"));
    match wanted(&args.words, &root, |folder| folder.is_dir())? {
        Wanted::Page(command) => app.out.bytes(&manual::page(command, &root).map_err(failed)?),
        Wanted::Folder(folder) => {
            let file = |error| Failure::text(format!("cannot write to {}: {error}", folder.display()));
            std::fs::create_dir_all(&folder).map_err(file)?;
            write_all(&root, &root, &folder).map_err(file)
        }
    }
}

/// What is asked for.
#[derive(Debug)]
enum Wanted<'a> {
    Page(&'a clap::Command),
    Folder(PathBuf),
}

/// The words of a command mean its page. Another word is a folder if there is one of this name, or if it has a slash:
/// otherwise it is probably the name of a command.
fn wanted<'a>(
    words: &[String],
    root: &'a clap::Command,
    is_folder: impl Fn(&Path) -> bool,
) -> Result<Wanted<'a>, Failure> {
    let mut path = vec![root];
    for (i, word) in words.iter().enumerate() {
        let command = path.last().copied().unwrap_or(root);
        if let Some(found) = command.find_subcommand(word) {
            path.push(found);
            continue;
        }
        if words.len() == 1 && (word.contains('/') || is_folder(Path::new(word))) {
            return Ok(Wanted::Folder(word.into()));
        }
        let meant = known_words::command(root, &path, word);
        let mut remedy = match meant {
            Some(meant) => format!("did you mean {meant}?"),
            None => "`tinkex --help` lists the commands.".to_owned(),
        };
        if words.len() == 1 {
            remedy += &format!(" A folder for the pages is written {}", quoted(&format!("./{word}")));
        }
        let problem = format!("`{}` is not a command", words[..=i].join(" "));
        return Err(Failure::usage(problem).with_remedy(remedy));
    }
    Ok(Wanted::Page(path.last().copied().unwrap_or(root)))
}

fn write_all(command: &clap::Command, root: &clap::Command, folder: &Path) -> std::io::Result<()> {
    let file = folder.join(format!("{}.1", manual::page_name(command)));
    std::fs::write(file, manual::page(command, root)?)?;
    command.get_subcommands().try_for_each(|command| write_all(command, root, folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_a_command_unless_it_is_a_path_or_a_folder_that_is_there() {
        let root = manual::command();
        for (words, folder_is_there, expected) in [
            (&[][..], false, Some("page tinkex")),
            (&["train"], true, Some("page train")),
            (&["checkpoint"], false, Some("page checkpoint")),
            (&["checkpoint", "delete"], false, Some("page delete")),
            (&["./train"], false, Some("folder ./train")),
            (&["pages"], false, None),
            (&["pages"], true, Some("folder pages")),
            (&["finetune"], false, None),
            (&["trian"], false, None),
            (&["trian"], true, Some("folder trian")),
            (&["checkpoint", "delte"], false, None),
            (&["pages", "more"], false, None),
        ] {
            let words: Vec<String> = words.iter().map(|it| (*it).to_owned()).collect();
            let found = wanted(&words, &root, |_| folder_is_there).ok().map(|it| match it {
                Wanted::Page(command) => format!("page {}", command.get_name()),
                Wanted::Folder(folder) => format!("folder {}", folder.display()),
            });
            assert_eq!(found.as_deref(), expected, "{words:?}");
        }
    }
}
