//! Completions and manual pages.

use std::path::Path;
use std::process::Command;

use crate::util::{Folder, run};

#[test]
fn completions_of_every_shell_name_all_commands() {
    let home = Folder::new("completions");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (status, stdout, stderr) = run(&home, &["completions", shell]);
        assert_eq!((status, stderr.as_str()), (0, ""), "{shell}");
        for word in ["train", "checkpoint", "set-ttl", "keep-last"] {
            assert!(stdout.contains(word), "{shell}: {word}");
        }
    }
    let (status, stdout, stderr) = run(&home, &["completions", "tcsh"]);
    assert_eq!((status, stdout.as_str()), (2, ""));
    assert!(stderr.contains("zsh"), "{stderr}");
}

#[test]
fn manual_pages_are_printed_and_written_one_for_each_command() {
    let home = Folder::new("man");
    let (status, page, _) = run(&home, &["man"]);
    assert!(status == 0 && page.contains(".TH tinkex 1") && page.contains("tinkex\\-train"), "{page}");
    let folder = home.join("pages");
    let (status, stdout, stderr) = run(&home, &["man", &folder.display().to_string()]);
    assert_eq!((status, stdout.as_str(), stderr.as_str()), (0, "", ""));
    for page in ["tinkex.1", "tinkex-train.1", "tinkex-checkpoint-delete.1", "tinkex-data-check.1"] {
        assert!(folder.join(page).is_file(), "{page}");
    }
    let file = home.join("file");
    std::fs::write(&file, "").unwrap();
    let (status, _, stderr) = run(&home, &["man", &file.join("pages").display().to_string()]);
    assert!(status == 1 && stderr.starts_with("error: cannot write to "), "{stderr}");
}

#[test]
fn the_page_of_a_command_is_printed_and_makes_no_folder() {
    let home = Folder::new("man-page");
    for (words, expected) in [
        (&["man", "train"][..], ".TH tinkex-train 1"),
        (&["man", "checkpoint"], "tinkex\\-checkpoint\\-delete"),
        (&["man", "checkpoint", "download"], ".TH tinkex-checkpoint-download 1"),
    ] {
        let mut command = crate::util::tinkex(&home);
        let output = command.args(words).current_dir(&*home).output().unwrap();
        let page = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && page.contains(expected), "{words:?} {page}");
        for section in [".SH \"EXIT STATUS\"", ".SH ENVIRONMENT", ".SH \"SEE ALSO\"", ".SH FILES"] {
            assert!(page.contains(section), "{section} {page}");
        }
        assert_eq!(std::fs::read_dir(&*home).unwrap().count(), 0);
    }
    let (_, page, _) = run(&home, &["man", "train"]);
    assert!(page.contains("\\fBtinkex train [OPTIONS] [DATA]...\\fR"), "{page}");
    assert!(page.contains(".SH EXAMPLES") && page.contains("tinkex train \\-\\-resume my\\-run"), "{page}");
    assert!(page.contains("DIR/metrics.jsonl") && page.contains("\\fBtinkex\\-sample\\fR(1)"), "{page}");
    let (status, _, stderr) = run(&home, &["man", "trian"]);
    assert!(
        status == 2 && stderr.contains("did you mean `tinkex train`?") && stderr.contains("./trian"),
        "{stderr}"
    );
}

#[test]
fn a_word_that_is_not_a_command_has_no_page_and_makes_no_folder() {
    let home = Folder::new("man-unknown");
    for (word, expected) in [("nosuch", "./nosuch"), ("finetune", "`tinkex train`")] {
        let mut command = crate::util::tinkex(&home);
        let output = command.args(["man", word]).current_dir(&*home).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && stderr.contains("is not a command"), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
        assert_eq!(std::fs::read_dir(&*home).unwrap().count(), 0);
    }
    std::fs::create_dir(home.join("pages")).unwrap();
    let mut command = crate::util::tinkex(&home);
    assert!(command.args(["man", "pages"]).current_dir(&*home).status().unwrap().success());
    assert!(home.join("pages/tinkex-train.1").is_file());
}

#[test]
fn a_text_that_has_no_json_form_is_refused_as_json() {
    let home = Folder::new("man-json");
    for words in [&["man"][..], &["completions", "bash"]] {
        let (status, stdout, stderr) = run(&home, &[words, &["-f", "json"]].concat());
        assert_eq!((status, stdout.as_str()), (2, ""));
        assert!(stderr.contains("has no JSON form"), "{stderr}");
    }
}

/// What a shell says after it ran a script; `None` if the shell is not installed.
fn output_of(shell: &str, script: &str, folder: &Path) -> Option<String> {
    let output = Command::new(shell).args(["-c", script]).env("HOME", folder).output().ok()?;
    assert!(output.stderr.is_empty(), "{shell}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn shells_complete_commands_and_options() {
    let home = Folder::new("completing");
    let file = |shell: &str| {
        let path = home.join(format!("_tinkex.{shell}"));
        std::fs::write(&path, run(&home, &["completions", shell]).1).unwrap();
        path.display().to_string()
    };
    let bash = file("bash");
    for (words, expected) in [
        ("tinkex check", "checkpoint"),
        ("tinkex checkpoint dele", "delete"),
        ("tinkex train --resu", "--resume"),
    ] {
        let script = format!(
            "source {bash}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _tinkex tinkex \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; echo \"${{COMPREPLY[@]}}\""
        );
        let found = output_of("bash", &script, &home);
        assert!(found.as_deref().is_none_or(|it| it.trim() == expected), "{words}: {found:?}");
    }
    let fish = file("fish");
    let found = output_of("fish", &format!("source {fish}; complete -C 'tinkex check'"), &home);
    assert!(found.as_deref().is_none_or(|it| it.starts_with("checkpoint\t")), "{found:?}");
    let zsh = file("zsh");
    let script = format!(
        "autoload -U compinit; compinit -D; source {zsh}; print $_comps[tinkex]; whence -w _tinkex_commands"
    );
    let found = output_of("zsh", &script, &home);
    assert!(found.as_deref().is_none_or(|it| it == "_tinkex\n_tinkex_commands: function\n"), "{found:?}");
}
